"""Packed rows: the scores and gradients of padded ones, and only for models that keep rows apart."""

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

from unlearner.models.packing import Packed, packing
from unlearner.scoring.batch import Batch, shared_beginning
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


def views() -> dict[str, dict[str, Tensor]]:
    """Two views of right-padded rows, of one to eleven tokens."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, lengths in {"forget": [7, 1, 4], "retain": [11, 5]}.items():
        ids = torch.randint(1, 60, (len(lengths), max(lengths)), generator=generator)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        labels = torch.where(mask.bool(), ids, IGNORE)
        labels[:, :2] = IGNORE
        found[name] = {"input_ids": ids * mask, "labels": labels, "attention_mask": mask}
    return found


def scores_and_gradients(model: Any, **build: Any) -> list[Tensor]:
    batch = Batch.build(views(), keep_mask=False, **build)
    scores = score_views(model, batch, {"forget": ["mean_logp"], "retain": ["logp"]})
    loss = scores["forget"].token_mean(scores["forget"].mean_logp) + scores["retain"].nll.mean()
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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_shared_beginning_is_computed_once_with_the_same_gradients(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = torch.arange(1, 21)
    own = views()
    for view in own.values():
        rows = len(view["input_ids"])
        view["input_ids"] = torch.cat([begin.expand(rows, -1), view["input_ids"]], dim=1)
        view["attention_mask"] = torch.cat([begin.new_ones(rows, 20), view["attention_mask"]], dim=1)
        view["labels"] = torch.cat([begin.new_full((rows, 20), IGNORE), view["labels"]], dim=1)
        view["labels"][0, 20] = view["input_ids"][0, 20]  # predicted at the last shared position
        view["labels"][0, 9] = view["input_ids"][0, 9]  # and one inside, which every row has for itself
    monkeypatch.setattr(f"{__name__}.views", lambda: own)
    model = made(MODELS[name]).double().train()
    padded = scores_and_gradients(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with packing(model) as able:
        assert able
        batch = Batch.build(own, keep_mask=False, packed=True, forward_tokens=0)
        assert batch.packed is not None and batch.packed.shared == 20
        lengths = sum(int(view["attention_mask"].sum()) for view in own.values())
        assert batch.input_ids.shape == (1, lengths - 4 * 20)  # five rows, one beginning
        shared = scores_and_gradients(model, packed=True, forward_tokens=0)
    for a, b in zip(padded, shared, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-6)  # Llama's norms compute in float32


def test_hidden_states_of_a_shared_beginning_belong_to_every_row() -> None:
    own = views()
    for view in own.values():
        view["input_ids"] = torch.cat([torch.ones(len(view["input_ids"]), 16).long(), view["input_ids"]], dim=1)
        view["attention_mask"] = torch.cat([torch.ones(len(view["labels"]), 16).long(), view["attention_mask"]], dim=1)
        view["labels"] = torch.cat([torch.full((len(view["labels"]), 16), IGNORE), view["labels"]], dim=1)
    model = made(MODELS["llama"]).double().eval()
    plain = Batch.build(own, keep_mask=False)
    with packing(model):
        once = Batch.build(own, keep_mask=False, packed=True, forward_tokens=0)
        found, expected = once.states(model).last, plain.states(model).last
    for name in own:
        torch.testing.assert_close(found[once.views[name].kl_index], expected[plain.views[name].kl_index])


def test_few_shared_tokens_are_left_in_their_rows() -> None:
    ids = torch.tensor([[1] * 15 + [2, 3], [1] * 15 + [4, 5]])
    assert shared_beginning(ids, 17) == 0
    ids = torch.cat([ids[:, :1], ids], dim=1)
    assert shared_beginning(ids, 18) == 16 and shared_beginning(ids[:1], 18) == 0
    assert shared_beginning(ids[:, :16].repeat(2, 1), 16) == 0  # a row keeps one token at least


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
    assert packed.longest == 3
    shared = Packed.of(torch.tensor([5, 3, 4]), shared=2)
    assert shared.positions.tolist() == [[0, 1, 2, 3, 4, 2, 2, 3]]
    assert shared.bounds.tolist() == [0, 2, 5, 6, 8] and shared.longest == 5
