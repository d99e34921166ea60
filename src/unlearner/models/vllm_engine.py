"""Generation by vLLM (`--engine vllm`): all prompts at once, in a process of its own."""

import os
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from unlearner import distributed
from unlearner.errors import UserError, install
from unlearner.models.sampling import Sampling

Engine = Callable[[Sequence[list[int]], int, Collection[int], Sampling | None], list[list[int]]]
"""(prompts, most new tokens, tokens that end an answer, how to sample) → new tokens of every answer, without the one
that ends it, in the order of `generation_pass`. Samples are vLLM's own: other ones than ours, for the same seed."""
FREE_SHARE = 0.9
"""Of the GPU memory that the scored model leaves."""


def check_engine(model: str) -> None:
    """Raises UserError where vLLM is not installed or cannot have `model`, a directory or hub id."""
    if find_spec("vllm") is None:
        raise UserError(f"--engine vllm needs vLLM: {install('vllm')}, or leave it out.")
    if distributed.count() > 1:
        raise UserError("--engine vllm needs one process: start without torchrun, or leave it out.")
    if (Path(model) / "adapter_config.json").is_file():
        raise UserError(
            f"--engine vllm needs whole models, and {model} is an adapter: leave it out, or train with --merge."
        )


def engine(model: str, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Engine:
    """vLLM on the files of `model`, started for each call and gone after it, so that its memory is free again."""

    def generate(
        prompts: Sequence[list[int]], max_new_tokens: int, end_ids: Collection[int], sampling: Sampling | None
    ) -> list[list[int]]:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM, SamplingParams

        memory: dict[str, Any] = {}
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            memory = {"gpu_memory_utilization": FREE_SHARE * free / total}
        try:
            llm = LLM(
                model, skip_tokenizer_init=True, dtype=str(dtype).removeprefix("torch."),
                trust_remote_code=trust_remote_code, max_model_len=max(map(len, prompts)) + max_new_tokens, **memory,
            )  # fmt: skip
        except Exception as error:  # vLLM's own, of many kinds: architectures it does not know, memory
            first = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise UserError(f"vLLM does not start with {model}: {first[0]} Leave out --engine vllm.") from error
        try:
            common = {"max_tokens": max_new_tokens, "stop_token_ids": sorted(end_ids), "detokenize": False}
            params = [SamplingParams(**common, **_how(prompt, sampling)) for prompt in prompts]
            outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
        finally:
            llm.llm_engine.engine_core.shutdown()
        answers = [list(answer.token_ids) for output in outputs for answer in output.outputs]
        stops = [next((i for i, token in enumerate(tokens) if token in end_ids), None) for tokens in answers]
        return [tokens[:stop] for tokens, stop in zip(answers, stops, strict=True)]

    return generate


def _how(prompt: list[int], sampling: Sampling | None) -> dict[str, Any]:
    """vLLM's parameters; the seed goes by the prompt, so that its neighbours do not matter."""
    if sampling is None:
        return {"temperature": 0}
    return {
        "n": sampling.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "seed": sampling.key(prompt, 0) % 2**31,
    }
