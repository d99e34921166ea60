"""n answers to each prompt: one pass of ours against n calls of transformers' own generate, in batches of the same
prompts."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import paired, timed
from unlearner.models.generation import generation_pass
from unlearner.models.sampling import Sampling

PROMPTS, LENGTH, NEW_TOKENS, SAMPLES = 8, 64, 32, 8
VOCABULARY = 4_000


def benchmark(runs: int) -> tuple[dict[str, float], dict[str, Any]]:
    """n calls of generate ÷ ours, both in seconds."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8
    )
    model: Any = LlamaForCausalLM(config).eval()
    ids = torch.randint(10, VOCABULARY, (PROMPTS, LENGTH))
    how = Sampling(SAMPLES, temperature=1.0, top_p=0.9, top_k=50)
    never = [VOCABULARY - 1]  # an untrained model all but never ends an answer: both write as many tokens

    def ours() -> Any:
        return generation_pass(
            model, ids.tolist(), max_new_tokens=NEW_TOKENS, end_ids=never, pad_id=0, sampling=how, batch_tokens=10**6
        ).run()

    def theirs() -> None:
        for _ in range(SAMPLES):
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=True, temperature=1.0,
                top_p=0.9, top_k=50, eos_token_id=never, pad_token_id=0,
            )  # fmt: skip

    ours()
    pairs = paired(lambda: timed(theirs)[0], lambda: timed(ours)[0], runs)
    print(
        f"{SAMPLES} answers of {NEW_TOKENS} tokens to each of {PROMPTS} prompts: {SAMPLES} calls of transformers' "
        f"generate are the baseline, {pairs}",
        flush=True,
    )
    return {"sampling": pairs.ratio}, {"generate": pairs.baseline, "ours": pairs.ours, "samples": SAMPLES}
