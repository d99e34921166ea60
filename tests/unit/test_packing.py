"""Packed rows: the scores and gradients of padded ones, and only for models that keep rows apart."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from unlearner.models.packing import Packed, packing, shares_prefix
from unlearner.scoring.batch import Batch
from unlearner.scoring.constants import IGNORE
from unlearner.scoring.views import score_views

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
NEOX = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SMALL)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)),
}
UNFIT = {
    "attention with dropout": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "a window": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16)),
    "windows in layers": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8)),
    "positions from the mask": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4)
    ),
    "a state": lambda: MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=32, state_size=4, num_hidden_layers=2)),
    "eager attention": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation="eager")),
}


def made(make: Any) -> Any:
    torch.manual_seed(0)
    return make()


def views(prefix: int = 0) -> dict[str, dict[str, Tensor]]:
    """Two views of right-padded rows, of one to eleven tokens, behind `prefix` tokens that are the same in all."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, lengths in {"forget": [7, 1, 4], "retain": [11, 5]}.items():
        ids = torch.randint(1, 60, (len(lengths), max(lengths)), generator=generator)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        labels = torch.where(mask.bool(), ids, IGNORE)
        labels[:, :2] = IGNORE
        found[name] = {"input_ids": ids * mask, "labels": labels, "attention_mask": mask}
        if prefix:  # labelled from its third token on, as where the question is learned
            same = torch.arange(1, prefix + 1).expand(len(lengths), -1)
            known = torch.where(torch.arange(prefix) < 2, IGNORE, same)
            before = {"input_ids": same, "labels": known, "attention_mask": torch.ones_like(same)}
            found[name] = {key: torch.cat([before[key], found[name][key]], dim=1) for key in before}
    return found


def scores_and_gradients(model: Any, behind: int = 0, **build: Any) -> list[Tensor]:
    batch = Batch.build(views(behind), keep_mask=False, **build)
    scores = score_views(model, batch, {"forget": ["mean_logp", 1], "retain": ["logp"]})
    loss = scores["forget"].token_mean(scores["forget"].mean_logp) + scores["retain"].nll.mean()
    loss = loss + scores["forget"].state_mean(scores["forget"].averaged_states(1).square().mean(-1))
    model.zero_grad()
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [scores["forget"].mean_logp.detach(), scores["retain"].logp.detach(), *gradients]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_are_those_of_padded_rows(name: str, checkpointing: bool) -> None:
    model = made(MODELS[name]).double().train()
    padded = scores_and_gradients(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with packing(model) as able:
        assert able
        packed = scores_and_gradients(model, packed=True)
        beside = scores_and_gradients(model)
    assert len(padded) == len(packed) > 4
    for a, b, c in zip(padded, packed, beside, strict=True):
        torch.testing.assert_close(b, a)
        torch.testing.assert_close(c, a)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_that_all_rows_begin_with_are_computed_once(name: str) -> None:
    """In scores, states of all positions and gradients that is what each row's own tokens give."""
    model = made(MODELS[name]).double().train()
    padded = scores_and_gradients(model, 5)
    with packing(model) as able:
        assert able and shares_prefix(model) and model.training
        shared = scores_and_gradients(model, 5, packed=True, prefix=5)
        alone = scores_and_gradients(model, 5, packed=True, prefix=4)  # the last of them in each row
    for a, b, c in zip(padded, shared, alone, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)  # norms are in float32, whatever the model is in
        torch.testing.assert_close(c, a, rtol=1e-5, atol=1e-6)


def test_attention_that_overlooks_the_shared_tokens_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Packed.of
    monkeypatch.setattr(Packed, "of", lambda lengths, prefix=0: replace(of(lengths, prefix), shared=None))
    with packing(made(MODELS["llama"])) as able:
        assert able
        assert not shares_prefix(made(MODELS["llama"]))


@pytest.mark.parametrize("name", UNFIT)
def test_models_that_cannot_be_packed_are_left_as_they_are(name: str) -> None:
    model = made(UNFIT[name])
    implementation = model.config._attn_implementation
    with packing(model) as able:
        assert not able
        assert model.config._attn_implementation == implementation
    assert model.config._attn_implementation == implementation


def test_a_layer_that_mixes_neighbours_is_found_out() -> None:
    """However weakly: rows must not know of one another at all."""

    class Mixing(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            plain = super().forward(ids)
            return plain + 1e-5 * plain.roll(1, dims=1)

    model = made(MODELS["llama"])
    mixing = Mixing(60, 32)
    mixing.weight = model.model.embed_tokens.weight
    model.model.embed_tokens = mixing
    with packing(model) as able:
        assert not able


def test_padded_rows_inside_keep_their_mask_and_the_model_its_mode_and_attention() -> None:
    model = made(MODELS["llama"]).train()
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 3]])
    mask = (ids > 0).long()
    expected = model(input_ids=ids, attention_mask=mask).logits
    with packing(model):
        assert model.training
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
        generated = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False), generated)


def test_where_packed_rows_stand() -> None:
    packed = Packed.of(torch.tensor([3, 1, 2]))
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert packed.bounds.tolist() == [0, 3, 4, 6] and packed.bounds.dtype == torch.int32
    assert packed.longest == 3 and packed.shared is None


def test_where_packed_rows_stand_behind_what_they_share() -> None:
    packed = Packed.of(torch.tensor([5, 3, 4]), 2)
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 2, 2, 3]]
    assert packed.bounds.tolist() == [0, 2, 5, 6, 8] and packed.longest == 3
    assert packed.shared is not None and packed.shared.longest == 5
    assert packed.shared.keys.tolist() == [0, 1, *(0, 1, 2, 3, 4), *(0, 1, 5), *(0, 1, 6, 7)]
    assert packed.shared.bounds.tolist() == [0, 2, 7, 10, 14] and packed.shared.bounds.dtype == torch.int32
