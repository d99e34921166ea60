"""Token scores against full logits: values, gradients, memory, and the heads of many model families."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import unlearner.scoring.token_scores as scores_module
from unlearner.errors import UserError
from unlearner.models.anatomy import Head, backbone, check_head
from unlearner.scoring.batch import Batch
from unlearner.scoring.constants import COMPARED, KINDS, STATISTICS
from unlearner.scoring.token_scores import token_scores
from unlearner.scoring.views import Known, score_views

N, H, V = 7, 6, 50
ROW = V * 8  # bytes of one position's logits in float64
CHUNKS = {"one row": 1, "three rows": 3 * ROW, "all in one": 100 * ROW}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def plain_scores(logits: Tensor, targets: Tensor, kind: str, reference: Tensor | None = None) -> Tensor:
    """The definitions, on full logits (N, V), with gradients by autograd."""
    p = torch.softmax(logits, dim=-1)
    if kind == "logp":
        return torch.stack([torch.log(p[n, target]) for n, target in enumerate(targets)])
    if kind == "mean_logp":
        return torch.log(p + 1e-12).sum(-1) / logits.shape[-1]
    if kind == "entropy":
        return -(p * torch.log(p)).sum(-1)
    if kind == "unlikelihood":
        return torch.stack([torch.log(torch.cat([p[n, :y], p[n, y + 1 :]]).sum()) for n, y in enumerate(targets)])
    if kind == "spread":
        return logits.amax(-1) - logits.mean(-1)
    assert reference is not None
    q = torch.softmax(reference, dim=-1)
    if kind == "distilled":
        return -(q * torch.log(p)).sum(-1)
    if kind == "reverse_kl":
        return (p * (torch.log(p) - torch.log(q))).sum(-1)
    if kind == "js":
        m = (p + q) / 2
        return ((p * torch.log(p / m)).sum(-1) + (q * torch.log(q / m)).sum(-1)) / 2
    return (q * (torch.log(q) - torch.log(p))).sum(-1)


def asked(case: "Case", kinds: Sequence[str]) -> tuple[Tensor, Head] | None:
    """The reference of a case, where one of the kinds compares with it."""
    return case.reference if set(kinds) & set(COMPARED) else None


class Case:
    """Random hidden states, an output embedding with everything, and a reference of another width."""

    def __init__(self, dtype: torch.dtype = torch.float64, *, bias: bool = True, spread: float = 1.0) -> None:
        make = torch.Generator().manual_seed(1)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make, dtype=torch.float64).to(dtype)

        self.hidden = (spread * random(N, H)).requires_grad_()
        self.weight = random(V, H).requires_grad_()
        self.bias = random(V).requires_grad_() if bias else None
        self.targets = torch.randint(0, V, (N,), generator=make)
        self.targets[1] = self.targets[0]
        self.reference_hidden, self.reference_weight = random(N, H + 2).requires_grad_(), random(V, H + 2)
        self.reference_weight.requires_grad_()
        self.upstream = {kind: random(N) for kind in KINDS}

    def head(self, **options: Any) -> Head:
        return Head(self.weight, self.bias, **options)

    @property
    def reference(self) -> tuple[Tensor, Head]:
        return self.reference_hidden, Head(self.reference_weight)

    @property
    def trained(self) -> list[Tensor]:
        return [t for t in (self.hidden, self.weight, self.bias) if t is not None]

    def gradients(self, scores: dict[str, Tensor]) -> list[Tensor]:
        total = sum((scores[kind] * self.upstream[kind]).sum() for kind in scores)
        return list(torch.autograd.grad(total, self.trained))


def check_against_plain(case: Case, kinds: Sequence[str], chunk_bytes: int | None, **head: Any) -> None:
    logits = case.hidden @ case.weight.T
    if case.bias is not None:
        logits = logits + case.bias
    logits = logits * head.get("scale", 1.0)
    if "softcap" in head:
        logits = head["softcap"] * torch.tanh(logits / head["softcap"])
    reference = (case.reference_hidden @ case.reference_weight.T).detach()
    expected = {kind: plain_scores(logits, case.targets, kind, reference) for kind in kinds}
    got = token_scores(
        case.hidden, case.head(**head), case.targets, kinds, chunk_bytes=chunk_bytes,
        reference=asked(case, kinds),
    )  # fmt: skip
    close = {"rtol": TOLERANCE[case.hidden.dtype], "atol": TOLERANCE[case.hidden.dtype]}
    assert list(got) == list(kinds)
    for kind in kinds:
        assert got[kind].dtype == case.hidden.dtype
        torch.testing.assert_close(got[kind], expected[kind], **close)
    exact = case.gradients(expected)
    for ours, theirs in zip(case.gradients(got), exact, strict=True):
        torch.testing.assert_close(ours, theirs, **close)

    frozen = Head(case.weight.detach(), None if case.bias is None else case.bias.detach(), **head)
    again = token_scores(
        case.hidden, frozen, case.targets, kinds, chunk_bytes=chunk_bytes,
        reference=asked(case, kinds),
    )  # fmt: skip
    total = sum((again[kind] * case.upstream[kind]).sum() for kind in kinds)
    assert all(torch.equal(again[kind], got[kind]) for kind in kinds)
    torch.testing.assert_close(torch.autograd.grad(total, case.hidden)[0], exact[0], **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("chunk_bytes", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_each_score_and_its_gradient_are_those_of_full_logits(kind: str, chunk_bytes: int, dtype: torch.dtype) -> None:
    check_against_plain(Case(dtype), [kind], chunk_bytes)


def plain_statistic(logits: Tensor, targets: Tensor, kind: str) -> Tensor:
    log_p = torch.log_softmax(logits, dim=-1)
    own = torch.stack([log_p[n, target] for n, target in enumerate(targets)])
    if kind == "is_argmax":
        return (logits.argmax(-1) == targets).to(logits)
    if kind == "rank":
        return torch.stack([(row > one).sum() for row, one in zip(log_p, own, strict=True)]).to(logits)
    expected = (log_p.exp() * log_p).sum(-1)
    if kind == "others_ce":
        return -(expected - own.exp() * own) / (1 - own.exp())
    if kind == "expected_logp":
        return expected
    return (log_p.exp() * log_p**2).sum(-1) - expected**2


@pytest.mark.parametrize("chunk_bytes", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained head", "frozen head"])
def test_statistics_come_in_the_same_pass_without_gradient(chunk_bytes: int, frozen: bool) -> None:
    """In any order among the scores, whose values and gradients they leave as they are."""
    case = Case(spread=2.0)
    logits = case.hidden @ case.weight.T + case.bias
    case.targets[2] = logits[2].argmax()
    weight, bias = (t.detach() if frozen else t for t in (case.weight, case.bias))
    kinds = ("rank", "logp", "variance_logp", "kl", "is_argmax", "expected_logp", "others_ce")
    got = token_scores(
        case.hidden, Head(weight, bias), case.targets, kinds, reference=case.reference, chunk_bytes=chunk_bytes
    )
    assert tuple(got) == kinds and set(STATISTICS) < set(kinds)
    for kind in STATISTICS:
        torch.testing.assert_close(got[kind], plain_statistic(logits, case.targets, kind).detach())
        assert not got[kind].requires_grad
    assert got["is_argmax"][2] == 1 and got["rank"][2] == 0 and got["rank"].max() > 0
    alone = token_scores(
        case.hidden, Head(weight, bias), case.targets, ("logp", "kl"), reference=case.reference, chunk_bytes=chunk_bytes
    )
    trained = [case.hidden] if frozen else case.trained
    both = [
        torch.autograd.grad(sum((s[kind] * case.upstream[kind]).sum() for kind in ("logp", "kl")), trained)
        for s in (got, alone)
    ]
    for a, b in zip(*both, strict=True):
        assert torch.equal(a, b)


def test_statistics_alone() -> None:
    case = Case()
    got = token_scores(case.hidden, case.head(), case.targets, STATISTICS)
    logits = case.hidden @ case.weight.T + case.bias
    for kind in STATISTICS:
        torch.testing.assert_close(got[kind], plain_statistic(logits, case.targets, kind).detach())
        assert not got[kind].requires_grad


@pytest.mark.parametrize("kind", [*KINDS, *STATISTICS])
def test_rows_that_fit_the_cache_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of a chunk at a time, and the last one by itself."""
    monkeypatch.setattr(scores_module, "CACHE_BYTES", 2 * ROW)
    if kind in KINDS:
        check_against_plain(Case(), [kind], 100 * ROW)
    else:
        case = Case()
        got = token_scores(case.hidden, case.head(), case.targets, [kind], chunk_bytes=100 * ROW)[kind]
        logits = case.hidden @ case.weight.T + case.bias
        torch.testing.assert_close(got, plain_statistic(logits, case.targets, kind).detach())


def test_of_equally_likely_words_the_first_is_the_argmax() -> None:
    bias = torch.tensor([0.0, 2.0, 2.0, 1.0])
    targets = torch.tensor([1, 2])
    got = token_scores(torch.zeros(2, 3), Head(torch.zeros(4, 3), bias), targets, ["is_argmax", "rank"])
    assert got["is_argmax"].tolist() == [1, 0] and got["rank"].tolist() == [0, 0]


SEVERAL = [kinds for size in (2, 3, 4) for kinds in itertools.combinations(KINDS, size)]


@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
def test_several_scores_at_once_add_their_gradients(kinds: Sequence[str]) -> None:
    for chunk_bytes in CHUNKS.values():
        check_against_plain(Case(), kinds, chunk_bytes)


@pytest.mark.parametrize("head", [{"scale": 0.25}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 5.0}], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_scale_softcap_and_bias(head: dict[str, float], bias: bool) -> None:
    for chunk_bytes in (3 * ROW, None):
        check_against_plain(Case(bias=bias), KINDS, chunk_bytes, **head)


def test_epsilon_matters_where_the_model_is_certain() -> None:
    """Logits so far apart that p underflows: only + 1e-12 keeps the mean log-probability finite, and its gradient."""
    case = Case(spread=100.0)
    scores = token_scores(case.hidden, case.head(), case.targets, ["mean_logp"])["mean_logp"]
    p = torch.softmax(case.hidden @ case.weight.T + case.bias, dim=-1)
    assert (p == 0).any()
    assert scores.min() >= torch.tensor(1e-12).double().log()
    check_against_plain(case, ["mean_logp"], 3 * ROW)


def test_hand_worked_numbers() -> None:
    """Three words with probabilities 1/2, 1/4, 1/4, the reference's 1/4, 1/4, 1/2."""
    bias = torch.tensor([0.5, 0.25, 0.25]).log()
    q = torch.tensor([0.25, 0.25, 0.5]).log()
    nothing = torch.zeros(1, 2)
    zero = torch.zeros(3, 2)
    scores = token_scores(nothing, Head(zero, bias), torch.tensor([1]), KINDS, reference=(nothing, Head(zero, q)))
    assert scores["logp"].item() == pytest.approx(-1.386294)
    assert scores["mean_logp"].item() == pytest.approx(-1.155245)  # −(ln 2 + 2 ln 4) / 3
    assert scores["entropy"].item() == pytest.approx(1.039721)  # 1.5 ln 2
    assert scores["kl"].item() == pytest.approx(0.1732868)  # ln(1/2)/4 + ln(2)/2 = ln(2)/4
    assert scores["unlikelihood"].item() == pytest.approx(-0.2876821)  # ln(3/4)
    assert scores["spread"].item() == pytest.approx(0.4620981)  # ln(1/2) − (ln(1/2) + 2 ln(1/4))/3 = 2/3 ln 2
    assert scores["distilled"].item() == pytest.approx(1.213008)  # ln(2)/4 + 3/4 ln 4
    # m = (3/8, 1/4, 3/8): KL(p‖m) = ln(4/3)/2 + ln(2/3)/4 = KL(q‖m)
    assert scores["js"].item() == pytest.approx(0.04247476)


@pytest.mark.parametrize("chunk_bytes", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained head", "frozen head"])
def test_a_demoted_target_is_demoted_in_the_references_logits(frozen: bool, chunk_bytes: int) -> None:
    case = Case()
    logits = case.hidden @ case.weight.T + case.bias
    theirs = (case.reference_hidden @ case.reference_weight.T).detach()
    theirs[torch.arange(N), case.targets] -= 3.0
    weight, bias = (t.detach() if frozen else t for t in (case.weight, case.bias))
    got = token_scores(
        case.hidden, Head(weight, bias), case.targets, ["distilled"], reference=case.reference, demote=3.0,
        chunk_bytes=chunk_bytes,
    )["distilled"]  # fmt: skip
    expected = plain_scores(logits, case.targets, "distilled", theirs)
    torch.testing.assert_close(got, expected)
    trained = [case.hidden] if frozen else case.trained
    ours, exact = (torch.autograd.grad((each * case.upstream["logp"]).sum(), trained) for each in (got, expected))
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("logit", [-30.0, 0.0, 10.0, 17.0, 25.0, 60.0])
def test_unlikelihood_is_exact_where_the_target_is_nearly_certain(logit: float) -> None:
    """In float32, where 1 − p is 0 from a logit of about 17 on: value and gradient as in float64 by the others' sum."""
    bias = torch.zeros(4)
    bias[2] = logit
    exact = bias.double().requires_grad_()
    others = exact[[0, 1, 3]].logsumexp(0) - exact.logsumexp(0)
    others.backward()
    ours = bias.clone().requires_grad_()
    head = Head(torch.zeros(4, 2, requires_grad=True), ours)
    got = token_scores(torch.zeros(1, 2), head, torch.tensor([2]), ["unlikelihood"])["unlikelihood"]
    got.sum().backward()
    assert got.item() == pytest.approx(others.item(), rel=1e-6, abs=1e-15)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-15)


def test_the_reference_gets_no_gradient() -> None:
    case = Case()
    token_scores(case.hidden, case.head(), case.targets, ["kl"], reference=case.reference)["kl"].sum().backward()
    assert case.hidden.grad is not None and case.weight.grad is not None
    assert case.reference_hidden.grad is None and case.reference_weight.grad is None


def test_only_wanted_gradients_are_made() -> None:
    """A frozen head (LoRA) gets none, and a reference pass builds no graph."""
    case = Case()
    frozen = Head(case.weight.detach(), case.bias.detach())
    token_scores(case.hidden, frozen, case.targets)["logp"].sum().backward()
    assert case.hidden.grad is not None and frozen.weight.grad is None
    with torch.no_grad():
        assert not token_scores(case.hidden, case.head(), case.targets)["logp"].requires_grad


def test_no_positions_give_no_scores() -> None:
    case = Case()
    scores = token_scores(case.hidden[:0], case.head(), case.targets[:0])["logp"]
    assert scores.shape == (0,)
    scores.sum().backward()
    assert not case.weight.grad.any()


# ------------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("chunk_bytes", [3 * ROW, None], ids=["chunks", "one chunk"])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_weights_are_summed_in_float32(kind: str, chunk_bytes: int | None) -> None:
    """Everything but the bf16 matrix product runs in float32: as close as the logits' own rounding allows."""
    wide, half = Case(torch.float64), Case(torch.bfloat16)
    logits = nn.functional.linear(half.hidden, half.weight, half.bias).float().double()
    reference = nn.functional.linear(half.reference_hidden, half.reference_weight).float().double()
    expected = plain_scores(logits, half.targets, kind, reference)
    given = asked(half, [kind])
    got = token_scores(half.hidden, half.head(), half.targets, [kind], reference=given, chunk_bytes=chunk_bytes)[kind]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)

    given = asked(wide, [kind])
    exact = token_scores(wide.hidden, wide.head(), wide.targets, [kind], reference=given)
    for ours, theirs in zip(half.gradients({kind: got}), wide.gradients(exact), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.norm(ours.double() - theirs) < 0.02 * torch.norm(theirs)


def test_autocast_computes_logits_in_bf16_and_keeps_float32_gradients() -> None:
    case = Case(torch.float32)
    exact = token_scores(case.hidden, case.head(), case.targets, KINDS, reference=case.reference)
    with torch.autocast("cpu", torch.bfloat16):
        got = token_scores(case.hidden, case.head(), case.targets, KINDS, reference=case.reference)
    for kind in KINDS:
        assert got[kind].dtype == torch.float32
        assert not torch.equal(got[kind], exact[kind]), "no bf16 was used"
        torch.testing.assert_close(got[kind], exact[kind], rtol=0.05, atol=0.05)
    exact_gradients = case.gradients(exact)
    for ours, theirs in zip(case.gradients(got), exact_gradients, strict=True):
        assert ours.dtype == torch.float32
        assert torch.norm(ours - theirs) < 0.05 * torch.norm(theirs)
    frozen = Head(case.weight.detach(), case.bias.detach())
    with torch.autocast("cpu", torch.bfloat16):
        got = token_scores(case.hidden, frozen, case.targets, KINDS, reference=case.reference)
    (ours,) = torch.autograd.grad(sum((got[kind] * case.upstream[kind]).sum() for kind in KINDS), case.hidden)
    assert ours.dtype == torch.float32
    assert torch.norm(ours - exact_gradients[0]) < 0.05 * torch.norm(theirs)


@pytest.mark.parametrize("chunk_bytes", [3 * ROW, None], ids=["chunks", "one chunk"])
def test_under_autocast_a_model_is_no_distance_from_itself(chunk_bytes: int | None) -> None:
    """Both sides are rounded alike, in the forward and in the backward pass: KL and its gradient are 0."""
    case = Case(torch.float32)
    itself = case.hidden.detach(), Head(case.weight.detach(), case.bias.detach())
    with torch.autocast("cpu", torch.bfloat16):
        kl = token_scores(
            case.hidden, case.head(), case.targets, ["kl"], reference=itself, chunk_bytes=chunk_bytes
        )["kl"]  # fmt: skip
    kl.sum().backward()
    torch.testing.assert_close(kl, torch.zeros(N), rtol=0, atol=1e-5)
    torch.testing.assert_close(case.hidden.grad, torch.zeros(N, H), rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_logits_are_never_made(kind: str) -> None:
    """200 positions and 1000 words in chunks of 10 positions, forward and backward."""
    n, h, v, rows = 200, 8, 1000, 10
    hidden, weight = torch.randn(n, h, requires_grad=True), torch.randn(v, h, requires_grad=True)
    targets, reference = torch.randint(0, v, (n,)), (torch.randn(n, h), Head(torch.randn(v, h)))
    with Largest() as seen:
        scores = token_scores(
            hidden, Head(weight), targets, [kind], reference=reference if kind in COMPARED else None,
            chunk_bytes=rows * v * 4,
        )[kind]  # fmt: skip
        scores.sum().backward()
    assert weight.grad is not None
    assert seen.numel == rows * v, "the largest tensor should be one chunk of logits"

    with Largest() as seen:  # that the measure would notice
        plain_scores(hidden @ weight.T, targets, "entropy").sum().backward()
    assert seen.numel == n * v


# ------------------------------------------------------------------------------------------------------- model families

SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEOX = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}

FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX)),
    "phi-bias": lambda: PhiForCausalLM(PhiConfig(**SMALL)),
    "qwen2-tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)),
    "gemma2-softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0)),
    "cohere-scale": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25)),
    "granite-scale": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)),
}


def family(name: str) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    for parameter in model.parameters():  # zero biases would hide a bias that is left out
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model


def two_rows(pad: int = 3) -> dict[str, Tensor]:
    """Two random rows of 12 tokens, the second with padding; the first four tokens are a question."""
    make = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 300, (2, 12), generator=make)
    mask = torch.ones_like(ids)
    mask[1, -pad:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores_as_its_own_logits(name: str) -> None:
    """Log-probabilities, and every parameter's gradient, against log_softmax of model(...).logits."""
    model, view = family(name), two_rows()
    check_head(model)
    scores = score_views(model, Batch.build({"view": view}), {"view": ["logp", "mean_logp"]}, chunk_bytes=5 * 300 * 4)
    (scores["view"].logp.sum() + 5 * scores["view"].mean_logp.sum()).backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    log_p = log_softmax(model(input_ids=view["input_ids"], attention_mask=view["attention_mask"]).logits, dim=-1)
    at = view["labels"][:, 1:] != -100
    targets = view["labels"][:, 1:][at]
    chosen = log_p[:, :-1][at]
    expected = chosen.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(scores["view"].logp, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores["view"].mean_logp, chosen.mean(-1), rtol=1e-5, atol=1e-5)
    (expected.sum() + 5 * chosen.mean(-1).sum()).backward()
    assert set(ours) == {n for n, p in model.named_parameters()}
    for n, parameter in model.named_parameters():
        torch.testing.assert_close(ours[n], parameter.grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=n: f"{n}: {m}")


def test_the_families_exercise_every_part_of_the_head() -> None:
    heads = {name: Head.of(family(name)) for name in FAMILIES}
    assert heads["phi-bias"].bias is not None
    assert heads["cohere-scale"].scale == 0.25 and heads["granite-scale"].scale == 0.25
    assert heads["gemma2-softcap"].softcap == 3.0
    tied = family("qwen2-tied")
    assert Head.of(tied).weight is tied.get_input_embeddings().weight
    assert (heads["llama"].scale, heads["llama"].softcap, heads["llama"].bias) == (1.0, None, None)


def test_views_are_scored_together_as_they_would_be_alone() -> None:
    """One forward over views of different widths: each keeps its own positions, sums and reference."""
    model = family("llama")
    first, second = two_rows(), {k: v[:, :9] for k, v in two_rows(pad=5).items()}
    needs = {"a": ["logp"], "b": ["logp", "entropy"]}
    together = score_views(model, Batch.build({"a": first, "b": second}), needs)
    for name, view in (("a", first), ("b", second)):
        alone = score_views(model, Batch.build({name: view}), {name: ["logp", "entropy"]})[name]
        torch.testing.assert_close(together[name].logp, alone.logp)
        torch.testing.assert_close(together[name].nll, alone.nll)
    torch.testing.assert_close(together["b"].entropy, alone.entropy)

    states = backbone(model)(**{k: second[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    at = second["attention_mask"].bool()
    for asked in ({"b": ()}, {}):  # about the one view's rows, about all
        batch = Batch.build({"a": first, "b": second}, reference=asked)
        known = Known.of(model, batch, {"b": ()})
        torch.testing.assert_close(known.states.last[known.batch.views["b"].kl_index], states[at])
        assert len(known.batch.input_ids) == (2 if asked else 4)
        kl = score_views(model, batch, {"b": ["kl"]}, known=known)["b"].kl
        assert kl.shape == (int(at.sum()),)
        torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-5)


def test_a_head_that_is_no_linear_layer_is_refused_by_name() -> None:
    model = family("llama")
    model.lm_head = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 300))
    with pytest.raises(UserError, match=r"LlamaForCausalLM's output embedding is Sequential, not a linear layer"):
        Head.of(model)


def test_a_model_without_a_body_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"LlamaModel has no body below its output embedding"):
        backbone(family("llama").model)


class LoudLlama(LlamaForCausalLM):
    """A Llama whose logits are not what its config says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out


def test_a_model_with_other_logits_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"LoudLlama \(model type 'llama'\) computes its logits in a way"):
        check_head(LoudLlama(LlamaConfig(**SMALL)))


def test_a_scale_that_the_config_hides_is_found_out() -> None:
    model = family("cohere-scale")
    model.config.logit_scale = None  # the model read it when it was made, and goes on scaling
    with pytest.raises(UserError, match=r"CohereForCausalLM .* not known here"):
        check_head(model)
