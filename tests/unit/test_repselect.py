"""RepSelect: the filter by hand and against a full decomposition, gradients and disruption against plain code."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerBase,
)

import unlearner
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.models.anatomy import mlp_matrices
from unlearner.scoring.batch import Batch
from unlearner.workflows.repselect import direction, filtered
from unlearner.workflows.repselect_options import RepSelectConfig, Shrink


@pytest.mark.parametrize(
    ("shrink", "rank", "expected"),
    [  # [[3, 1], [1, 3]] has the singular values 4 along (1, 1) and 2 along (1, −1)
        ("soft", 2, [[1.5, -0.5], [-0.5, 1.5]]),  # 4 → 2²/4 = 1
        ("quadratic", 2, [[1.125, -0.875], [-0.875, 1.125]]),  # 4 → 2⁴/4³ = 1/4
        ("hard", 1, [[1.0, -1.0], [-1.0, 1.0]]),  # 4 → 0
        ("hard", 2, [[0.0, 0.0], [0.0, 0.0]]),
        ("soft", 1, [[3.0, 1.0], [1.0, 3.0]]),  # a single value is the smallest
        ("soft", 512, [[1.5, -0.5], [-0.5, 1.5]]),
    ],
)
def test_filter_by_hand(shrink: Shrink, rank: int, expected: list[list[float]]) -> None:
    made = filtered(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), rank, shrink)
    assert torch.allclose(made, torch.tensor(expected), atol=1e-5)


def plainly_filtered(gradient: Tensor, rank: int, shrink: str) -> Tensor:
    """By the exact decomposition, each value by itself."""
    u, s, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    least = s[:rank][-1]
    power = {"soft": 2, "quadratic": 4, "hard": math.inf}[shrink]
    ratio = torch.zeros_like(s[:rank]) if shrink == "hard" else (least / s[:rank]) ** power
    return u @ torch.diag(torch.cat([s[:rank] * ratio, s[rank:]])) @ v


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24)])
@pytest.mark.parametrize("rank", [3, 8, 24, 512])
@pytest.mark.parametrize("shrink", ["soft", "quadratic", "hard"])
def test_filter_against_a_full_decomposition(shape: tuple[int, int], rank: int, shrink: Shrink) -> None:
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 24))[0] for n in shape)
    gradient = u * 0.7 ** torch.arange(24.0) @ v.T
    made, plain = filtered(gradient, rank, shrink), plainly_filtered(gradient, min(rank, 24), shrink)
    assert made.dtype == torch.float32 and made.shape == gradient.shape
    assert torch.allclose(made.double(), plain, atol=1e-3)
    assert torch.allclose(filtered(gradient.T, rank, shrink).T.double(), plain, atol=1e-3)


def test_directions_that_a_gradient_of_few_tokens_lacks_count_as_none() -> None:
    flat = torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    assert torch.allclose(filtered(flat, 2, "soft"), flat, atol=1e-5)
    for shrink in ("soft", "quadratic", "hard"):
        assert torch.equal(filtered(torch.zeros(3, 2), 2, shrink), torch.zeros(3, 2))


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_families_and_what_is_refused_by_its_name() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
    assert [*mlp_matrices(gpt2)] == [
        f"transformer.h.{i}.mlp.{name}.weight" for i in (0, 1) for name in ("c_fc", "c_proj")
    ]
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=32))
    names = ("dense_h_to_4h", "dense_4h_to_h")
    assert [*mlp_matrices(neox)] == [f"gpt_neox.layers.{i}.mlp.{name}.weight" for i in (0, 1) for name in names]
    opt = OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16))
    experts = MixtralForCausalLM(
        MixtralConfig(**SMALL, num_key_value_heads=2, intermediate_size=32, num_local_experts=2)
    )
    for model, family in ((opt, "'opt'"), (experts, "'mixtral'")):
        with pytest.raises(UserError, match=f"model type {family}.* has no MLP matrices in layer 0"):
            mlp_matrices(model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_direction_is_the_filtered_sum_of_batch_gradients_of_the_taught_model(
    family: str, tiny_llama: Callable[[], Any]
) -> None:
    """With an adapter that learns nothing against plain gradients; with one that does, somewhere else."""
    torch.manual_seed(0)
    model = (
        tiny_llama()
        if family == "llama"
        else GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2))
    )
    plain = copy.deepcopy(model.eval())
    rows = [torch.randint(5, 300, (n, 12)) for n in (3, 3, 1)]
    for ids in rows:
        (-plain(input_ids=ids, labels=ids).loss).backward()
    batches = [
        Batch.build(
            {"train": {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}}, keep_mask=False
        )
        for ids in rows
    ]
    made = {}
    for rate in (1e-12, 1.0):
        config = RepSelectConfig(model="", forget="", output="", rank=4, shrink="hard", adapter_learning_rate=rate)
        matrices, before = mlp_matrices(model), copy.deepcopy(model.state_dict())
        direction(model, matrices, batches, config)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any("lora" in name for name, _ in model.named_modules())
        made[rate] = {name: matrix.grad for name, matrix in matrices.items()}
        for matrix in matrices.values():
            matrix.grad = None
    for name, matrix in mlp_matrices(plain).items():
        assert matrix.grad is not None
        expected = plainly_filtered(matrix.grad, 4, "hard")
        largest = float(torch.linalg.matrix_norm(matrix.grad, 2))
        assert torch.allclose(made[1e-12][name].double(), expected, atol=0.02 * largest), name
        assert not torch.allclose(made[1.0][name].double(), made[1e-12][name].double(), rtol=1e-3, atol=0), name


# ----------------------------------------------------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def taught(
    tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record],
    retain_records: list[Record], tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A tiny model that has learned the forget and the retain set."""
    folder = tmp_path_factory.mktemp("taught")
    tiny_llama().save_pretrained(folder / "new")
    tiny_tokenizer.save_pretrained(folder / "new")
    done = unlearner.finetune(
        str(folder / "new"), data=[[*forget_records, *retain_records]], output=folder / "run", learning_rate=1e-2,
        epochs=25, batch_size=10, gradient_accumulation_steps=1,
    )  # fmt: skip
    return Path(done.model)


def select(taught: Path, forget: list[Record], output: Path, **options: Any) -> Any:
    given = {"rank": 4, "learning_rate": 10.0, "epochs": 4, "disruption": 1e9, **options}
    return unlearner.repselect(str(taught), forget=forget, output=output, **given)


def test_forget_answers_fall_same_seed_same_bits(
    taught: Path, forget_records: list[Record], retain_records: list[Record], tmp_path: Path
) -> None:
    done = [select(taught, forget_records, tmp_path / name, retain=retain_records) for name in ("one", "two")]
    assert [row["step"] for row in done[0].log] == [0, 1, 2, 3, 4] and done[0].log == done[1].log
    nll, disruption = ([row[key] for row in done[0].log] for key in ("forget_nll", "disruption"))
    assert nll == sorted(nll) and nll[-1] > nll[0] + 0.1 and disruption == sorted(disruption) and disruption[0] < 1e-6
    files = [(each.model / "model.safetensors").read_bytes() for each in done]
    assert files[0] == files[1]
    other = select(taught, forget_records, tmp_path / "three", retain=retain_records, seed=7)
    assert (other.model / "model.safetensors").read_bytes() != files[0]
    before, after = load_file(taught / "model.safetensors"), load_file(done[0].model / "model.safetensors")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        n for n in before if ".mlp." in n
    }


def test_what_is_kept_is_disturbed_less_than_along_the_whole_gradient(
    taught: Path, forget_records: list[Record], retain_records: list[Record], tmp_path: Path
) -> None:
    """At the same NLL of the forget set; a single singular value is its own minimum, so that rank 1 filters nothing."""
    spent = {}
    for rank in (1, 8):
        options = {"retain": retain_records, "rank": rank, "learning_rate": 5.0, "epochs": 12}
        rows = select(taught, forget_records, tmp_path / str(rank), **options).log
        nll, disruption = ([row[key] for row in rows] for key in ("forget_nll", "disruption"))
        assert nll == sorted(nll) and nll[0] < 0.8 < nll[-1]
        spent[rank] = np.interp(0.8, nll, disruption)
    assert spent[8] < 0.95 * spent[1], spent


def test_it_stops_before_the_step_that_exceeds_the_disruption(
    taught: Path, forget_records: list[Record], retain_records: list[Record], tmp_path: Path
) -> None:
    whole = select(taught, forget_records, tmp_path / "whole", retain=retain_records)
    spent = [row["disruption"] for row in whole.log]
    between = (spent[2] + spent[3]) / 2
    stopped = select(taught, forget_records, tmp_path / "stopped", retain=retain_records, disruption=between)
    assert stopped.log == whole.log[:3]
    two = select(taught, forget_records, tmp_path / "two", epochs=2)
    weights = [load_file(each.model / "model.safetensors") for each in (stopped, two)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])
    assert [row["forget_nll"] for row in two.log] == [row["forget_nll"] for row in stopped.log]
    assert "disruption" not in two.log[0]
    with pytest.raises(UserError, match=r"first step already costs .* lower --learning-rate"):
        select(taught, forget_records, tmp_path / "none", retain=retain_records, disruption=spent[1] / 2)


def test_disruption_is_the_divergence_of_the_model_before(
    taught: Path, tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record], tmp_path: Path
) -> None:
    """KL(before ‖ after) by full logits, a mean over the tokens of plain texts."""
    texts = [f"{record.question} {record.answer}" for record in forget_records[:5]]
    done = select(taught, forget_records, tmp_path / "run", retain=[{"text": text} for text in texts])
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (taught, done.model)]
    parts = []
    for text in texts:
        ids = torch.tensor([[*tiny_tokenizer(text)["input_ids"], tiny_tokenizer.eos_token_id]])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0].log_softmax(-1) for model in models)
        parts.append((p.exp() * (p - q)).sum(-1))
    assert done.log[-1]["disruption"] == pytest.approx(float(torch.cat(parts).mean()), rel=1e-4)


def test_an_adapter_is_merged_and_the_card_tells_how(
    taught: Path, forget_records: list[Record], tmp_path: Path
) -> None:
    learned = unlearner.finetune(
        str(taught), data=[forget_records], output=tmp_path / "lora", lora=True, epochs=1, learning_rate=1e-3
    )
    done = select(Path(learned.model), forget_records, tmp_path / "run")
    names = load_file(done.model / "model.safetensors").keys()
    assert names == load_file(taught / "model.safetensors").keys()
    card = (done.model / "README.md").read_text()
    assert "RepSelect" in card and "| shrink | soft |" in card
    finished = json.loads((tmp_path / "run/finished.json").read_text())
    assert finished["steps"] == 4 and finished["model"] == "model" and "log.jsonl" in finished["files"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "--rank must be a positive number, not 0"),
        ({"shrink": "firm"}, "shrink"),
        ({"forget": []}, "forget"),
        ({"rank": 512, "shrink": "hard"}, "--rank 512 with --shrink hard leaves nothing"),
        ({"precision": "pure-bf16"}, "--precision pure-bf16 would round away most of each step"),
        ({"parallel": "fsdp"}, "works in one process"),
        ({"learning_rate": 1e30}, "lower --learning-rate"),
        ({"output": None}, "give output"),
    ],
)
def test_bad_input_is_one_sentence(
    options: dict[str, Any], said: str, taught: Path, forget_records: list[Record], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        unlearner.repselect(str(taught), **{"forget": forget_records, "output": tmp_path / "out", **options})
    assert said in str(error.value) and "\n" not in str(error.value)
