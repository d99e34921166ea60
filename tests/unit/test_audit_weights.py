"""Attacks on the weights: what they measure, and that they leave the model as it was."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from unlearner.audit.attack import ANSWERS, Cost, Target
from unlearner.audit.attacks.depth import Depth, depth, differing
from unlearner.audit.attacks.lens import Lens, by_layer
from unlearner.audit.attacks.relearning import Relearning, halves
from unlearner.audit.attacks.soft_prompt import SoftPrompt
from unlearner.audit.questions import Groups, read_groups
from unlearner.audit.relearned import relearned
from unlearner.audit.verdict import _taught
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Request, Score
from unlearner.options import ModelOptions


@pytest.fixture(scope="module")
def groups(forget_records, retain_records) -> Groups:
    return read_groups(forget_records, retain_records, builtin("retain", people=13, forget=8))


@pytest.fixture
def target(tiny_llama, tiny_tokenizer, groups) -> Target:
    model, template = tiny_llama(), TEMPLATES["plain"]

    def answer(records: Sequence[Record], asked: Sequence[Sequence[Request]], document: bool) -> list[Example]:
        return run_passes(model, tiny_tokenizer, template, records, asked=asked)

    options = ModelOptions(model="", precision="fp32")
    return Target("unlearned", model, tiny_tokenizer, template, options, answer, dict(groups), groups.examples)


def test_halves_share_no_fact(groups) -> None:
    first, second = halves(groups.forget, 0)
    assert halves(groups.forget, 1) == (second, first) and len(first) == len(second) == 10
    assert {q.subject for q in first} == {q.subject for q in second}
    twice = [*groups.forget[:3], groups.forget[0]]  # another wording of a fact stays with it
    assert [len(part) for part in halves(twice, 0)] == [3, 1]


def test_relearning_teaches_and_leaves_no_trace(target, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = copy.deepcopy(target.model.state_dict())
    modes = target.model.training, [p.requires_grad for p in target.model.parameters()]
    attack = Relearning(steps=(0, 40), rates=(3.0,), controls=1, retained=True, max_new_tokens=24)
    found = list(attack.findings(target))
    assert all(torch.equal(before[name], tensor) for name, tensor in target.model.state_dict().items())
    assert (target.model.training, [p.requires_grad for p in target.model.parameters()]) == modes
    assert list(tmp_path.iterdir()) == []
    arms = {each.about["arm"] for each in found}
    assert arms == {"forgotten", "retained", "unknown"} and {each.about["step"] for each in found} == {0, 40}
    assert {each.group for each in found if each.about["arm"] == "unknown"} == {"control", "retain"}
    # An untrained model says nothing alike; taught, it writes sentences as they were.
    scores = {step: [e.outcome.score for e in found if e.about["step"] == step] for step in (0, 40)}
    assert np.mean(scores[40]) > 3 * np.mean(scores[0])


def outcome(arm: str, subject: str, step: int, hit: bool, group: str = "", rate: float = 1.0) -> dict[str, Any]:
    group = group or ("control" if arm == "unknown" else "forget")
    return {
        "model": "unlearned", "group": group, "subject": subject, "question": subject, "attack": "relearning",
        "arm": arm, "step": step, "rate": rate, "hit": hit,
    }  # fmt: skip


def test_the_excess_is_what_controls_do_not_give() -> None:
    rows = []
    for person in range(6):
        rows += [outcome("forgotten", f"f{person}", step, step >= 10) for step in (0, 10, 20)]
        rows += [outcome("unknown", f"c{person}", step, step == 20 and person == 0) for step in (0, 10, 20)]
    for step in (0, 10, 20):  # at the last step the model has lost what it should keep
        for arm in ("forgotten", "unknown"):
            rows += [outcome(arm, "r", step, step < 20, group="retain") for _ in range(5)]
    found = relearned(rows, {f"f{person}": 1.0 for person in range(6)})["unlearned"]
    assert found["arms"]["forgotten"] == {"rate": 1.0, "step": 10, "leaks": [6, 6], "at_first": [0, 6]}
    assert found["arms"]["unknown"]["leaks"] == [0, 6] and found["excess"] == 1.0
    assert found["p_value"] == pytest.approx(1 / 924)  # 12 over 6
    assert found["subjects"]["f0"] == {"leaks": [1, 1], "p_value": 1 / 7, "half": 10}
    assert relearned([]) == {}


def test_the_lens_at_the_last_layer_is_the_model(target, groups) -> None:
    texts = [(q.record.question, q.record.answer) for q in groups.forget[:5]]
    records = [q.record for q in groups.forget[:5]]
    scored = target.answer(records, [[Score(*text)] for text in texts], False)
    means = [-e.scored(Score(*t)).nll / e.scored(Score(*t)).tokens for e, t in zip(scored, texts, strict=True)]
    layers = by_layer(target, texts)
    assert layers.shape == (5, 2) and layers[:, -1] == pytest.approx(means, rel=1e-4)
    found = list(Lens().findings(target))
    assert len(found) == 20 + 50 and all(len(each.about["layers"]) == 2 for each in found)


def test_depth_is_nothing_for_the_model_before_and_one_for_the_retrained(target, tiny_llama, tiny_tokenizer) -> None:
    other = tiny_llama()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.5)
    models = {"before": target.model, "retrained": other, "unlearned": target.model}
    ids = tiny_tokenizer("Where was Torva Osterrick born? In Ambleford.")["input_ids"]
    # Which way an untrained model's loss goes is chance: the place is one where the other model's states hurt.
    span = next(range(i, i + 1) for i in range(2, len(ids)) if depth(models, ids, range(i, i + 1)) is not None)
    assert depth(models, ids, span) == pytest.approx(0, abs=1e-6)
    assert depth(models | {"unlearned": other}, ids, span) == pytest.approx(1)
    assert differing([1, 2, 3, 4, 5], [1, 2, 9, 9, 5]) == range(2, 4) and not differing([1, 2], [1, 2])
    assert list(Depth().findings(target)) == []  # without a retrained model


def test_a_soft_prompt_makes_its_opening_likelier(target, groups) -> None:
    attack = SoftPrompt(vectors=4, steps=30, rate=0.03, opening="It was", max_new_tokens=6)
    before = copy.deepcopy(target.model.state_dict())
    found = list(attack.findings(target))
    assert all(torch.equal(before[name], tensor) for name, tensor in target.model.state_dict().items())
    assert len(found) == 10 + 50 and {each.group for each in found} == {"forget", "control"}
    model, embed = target.model, target.model.get_input_embeddings()
    opening = target.tokenizer("It was", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    prompts = attack._prompts(target, groups.forget[:4])

    def loss(soft: torch.Tensor) -> float:
        with torch.no_grad():
            inputs, mask = attack._inputs(embed, prompts, soft, opening)
            logits = model(inputs_embeds=inputs, attention_mask=mask).logits[:, -len(opening) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), opening.repeat(4)))

    with torch.enable_grad():
        learned = attack._learned(target, halves(groups.forget, 0)[0])
    first = target.tokenizer("!", add_special_tokens=False)["input_ids"][:1]
    assert loss(learned) < loss(embed.weight.detach()[first].repeat(4, 1)) - 0.1


def test_what_attacks_on_the_weights_cost(target, groups) -> None:
    """By hand, and as many answers as are found."""
    asked = {group: len(questions) for group, questions in groups}
    assert (asked["forget"], asked["control"]) == (20, 50)
    soft, lens = SoftPrompt(steps=1, vectors=2, max_new_tokens=2), Lens()
    assert soft.cost(asked) == Cost(answers=10 + 50, rows=1 * 10)
    assert len(list(soft.findings(target))) == soft.cost(asked).answers
    assert SoftPrompt().cost({"forget": 40, "control": 40}) == Cost(answers=20 + 40, rows=50 * 16)
    assert lens.cost(asked) == Cost(scored=(20 + 50) * 4 / 6)
    assert len(list(lens.findings(target))) * 4 == pytest.approx(lens.cost(asked).scored * ANSWERS)
    assert Depth().cost(asked) == Cost(scored=20 * (2 * 32 + 3) / 6)


def test_relearning_says_of_nobody_unseen_that_they_were_remembered() -> None:
    """Forgotten ones who tell no more than controls do, each choosing the best of three steps: 60 audits."""
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = [
            outcome(arm, f"{arm}{person}", step, bool(rng.random() < 0.2))
            for arm, people in (("forgotten", 4), ("unknown", 16))
            for person in range(people)
            for step in (0, 10, 20)
            for _ in range(5)
        ]
        wrong += bool(_taught(rows, 0.05))
    assert wrong <= 60 * 0.05 + 2 * np.sqrt(60 * 0.05)


def test_relearning_finds_who_is_remembered() -> None:
    rows = [
        outcome(arm, f"{arm}{person}", step, step > 0 and (arm == "forgotten" or question == 0))
        for arm, people in (("forgotten", 4), ("unknown", 16))
        for person in range(people)
        for step in (0, 10)
        for question in range(5)
    ]
    assert _taught(rows, 0.05) == {f"forgotten{person}" for person in range(4)}
