"""Twenty people whom the model knows by heart, and twenty neighbours (arXiv 2410.08109, section 5); its model:
Llama-3-8B-Instruct.

Training takes the model's own earlier replies (`answer`), evaluation the true ones (`golden_answer`) and, for cosine
similarity, again its own. No neighbour is in both: neighbor.json and neighbor_perturbed.json name different people, and
so do the two halves of the built-in retain set.
"""

from unlearner.scenarios.base import BUILTIN_LR, BUILTIN_OPTIONS, Preset, Scenario, Split

GENERAL_ABILITY = {
    "arc_challenge": "acc_norm,none",
    "mmlu": "acc,none",
    "truthfulqa_mc1": "acc,none",
    "triviaqa": "exact_match,remove_whitespace",
    "gsm8k": "exact_match,flexible-extract",
}
"""The paper's tasks of lm-evaluation-harness, and the metric of each that it prints."""

SCENARIO = Scenario(
    # The paper's baselines were tried at 1e-5, 5e-6 and 2e-6; the first of these is the default.
    preset=Preset(lr={"ME+GD": 5e-6, "": 1e-5}, forget_coeff={"ME": 0.5}),
    splits={"people20": Split("forget", "neighbor", "forget_perturbed", "neighbor_perturbed")},
    builtin={"people4": Split("forget", "retain[:100]", retain_eval="retain[100:]")},
    options={
        "max_length": 300,
        "entailment": "real-world",
        "eval_columns": {"answer": "golden_answer", "original_answer": "answer"},
        "eval_limit": None,
    },
    builtin_options={**BUILTIN_OPTIONS, "entailment": "real-world"},
    builtin_lr=BUILTIN_LR,
)
