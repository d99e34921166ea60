"""The audit's likelihood scores, against formulas on plain logits and numbers worked out by hand."""

import copy
import math
import zlib

import numpy as np
import pytest
import torch

from unlearner.audit.likelihood import (
    TokenRow,
    extraction_probability,
    extraction_strength,
    likelihood_metrics,
    min_k,
    prior_corrected,
    samples_to_extract,
    standardised,
    token_rows,
    truth_share,
)
from unlearner.audit.membership import Membership, auc, true_positive_rate
from unlearner.evaluation.membership import privleak


@pytest.fixture(scope="module")
def view() -> dict:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 300, (3, 14), generator=generator)
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :4] = -100
    for row, length in enumerate((14, 9, 4)):  # the last row has no labelled token
        mask[row, length:] = 0
        labels[row, length:] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def test_scores_are_those_of_plain_logits(tiny_llama, tiny_tokenizer, view) -> None:
    model, reference = tiny_llama(), tiny_llama()
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1.1)
    found = likelihood_metrics(model, view, tiny_tokenizer, reference=reference)
    for i, length in enumerate((14, 9)):
        ids = view["input_ids"][i : i + 1, :length]
        logp = model(input_ids=ids).logits[0, 3:-1].double().log_softmax(-1)
        theirs = reference(input_ids=ids).logits[0, 3:-1].double().log_softmax(-1)
        target = ids[0, 4:]
        own, p = logp.gather(1, target[:, None])[:, 0], logp.exp()
        hits = logp.argmax(-1) == target
        mean = (p * logp).sum(-1)
        z = (own - mean) / ((p * logp**2).sum(-1) - mean**2).sqrt()
        k = max(1, int(0.4 * len(target)))
        size = len(zlib.compress(tiny_tokenizer.decode(target, skip_special_tokens=True).encode()))
        loss = -own.mean()
        model.zero_grad()
        loss.backward()
        norm = torch.stack([w.grad.norm() for w in model.parameters()]).norm()
        reference_loss = -theirs.gather(1, target[:, None]).mean()
        expected = {
            "exact_memorization": hits.float().mean(),
            "loss": loss,
            "zlib": -own.sum() / size,
            "reference": loss - reference_loss,
            "min_k@0.4": -own.sort().values[:k].mean(),
            "min_k_plus_plus@0.4": -z.sort().values[:k].mean(),
            "gradient_norm": norm,
        }
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(float(value.detach()), rel=1e-4), name
    assert all(math.isnan(values[2]) for values in found.values())


def test_lists_do_and_batches_do_not_matter(tiny_llama, tiny_tokenizer, view) -> None:
    model = tiny_llama()
    together = likelihood_metrics(model, {k: v.tolist() for k, v in view.items()}, tiny_tokenizer, gradients=False)
    for i in range(2):
        alone = likelihood_metrics(model, {k: v[i : i + 1] for k, v in view.items()}, tiny_tokenizer, gradients=False)
        for name, values in alone.items():
            assert together[name][i] == pytest.approx(values[0], rel=1e-4), name


def test_the_model_is_left_as_it_was(tiny_llama, tiny_tokenizer, view) -> None:
    model = tiny_llama().train()
    before = copy.deepcopy(model.state_dict())
    frozen = next(model.parameters()).requires_grad_(False)
    likelihood_metrics(model, view, tiny_tokenizer)
    assert model.training and not frozen.requires_grad and all(w.grad is None for w in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_extraction_strength_by_hand() -> None:
    for hits, ours, official in (
        ([1, 1, 1, 1], 1.0, 1.0),
        ([0, 1, 0, 1, 1], 0.4, 0.4),
        ([1, 1, 1, 1, 0], 0.0, 0.2),  # not even the last token: the official loop ends a token too early
        ([0], 0.0, 1.0),
    ):
        assert extraction_strength(np.array(hits)) == pytest.approx(ours)
        assert extraction_strength(np.array(hits), official=True) == pytest.approx(official)
    assert math.isnan(extraction_strength(np.zeros(0))) and extraction_strength(np.zeros(0), official=True) == 0


def test_min_k_by_hand() -> None:
    logp = np.array([-1.0, -4.0, -2.0, -3.0, -0.5])
    assert min_k(logp, 0.4) == 3.5  # the two least likely
    assert min_k(logp, 0.1) == 4.0  # one at least
    assert math.isnan(min_k(np.zeros(0), 0.4)) and min_k(np.zeros(0), 0.4, official=True) == 0
    row = TokenRow(logp[:2], np.zeros(2), np.array([-2.0, -4.0]), np.array([4.0, 0.0]))
    assert standardised(row).tolist() == [0.5, 0.0]
    sure = TokenRow(np.array([-1e-4]), np.ones(1), np.array([-2e-4]), np.array([1e-8]))
    assert standardised(sure)[0] == pytest.approx(1.0) and standardised(sure, official=True)[0] == pytest.approx(0.1)


def test_only_what_is_asked_for_is_computed(tiny_llama, view) -> None:
    rows = token_rows(tiny_llama(), view, kinds=("logp",))
    assert [len(row.logp) for row in rows] == [10, 5, 0] and not any(row.is_argmax.size for row in rows)


def test_extraction_by_sampling_by_hand() -> None:
    # p_z = 1/2: one sample suffices for p = 1/2; p_z = 1/10 wants ln(.5)/ln(.9) = 6.58.
    assert samples_to_extract(math.log(2)) == pytest.approx(1)
    assert samples_to_extract(math.log(10)) == pytest.approx(6.5788, rel=1e-4)
    assert samples_to_extract(math.log(10), 0.9) == pytest.approx(21.8543, rel=1e-4)
    assert samples_to_extract(0.0) == 1 and samples_to_extract(1e4) == math.inf
    assert extraction_probability(math.log(10), 2) == pytest.approx(0.19)
    assert extraction_probability(0.0, 1) == 1


def test_corrections_by_hand() -> None:
    # log .2 − log mean(.1, .3) = 0: no more likely than with other names.
    assert prior_corrected(-math.log(0.2), [-math.log(0.1), -math.log(0.3)]) == pytest.approx(0)
    assert prior_corrected(-math.log(0.8), [-math.log(0.1)]) == pytest.approx(math.log(8))
    assert truth_share(math.log(2), [math.log(6)]) == pytest.approx(0.75)  # ½ against 1/6


def test_membership_by_hand() -> None:
    forget, holdout = [1.0, 2.0, 3.0], [2.0, 4.0]
    # Pairs with holdout > forget: (1,2), (1,4), (2,4), (3,4), and the tie (2,2) half: 4.5 of 6.
    assert auc(forget, holdout) == pytest.approx(0.75)
    assert true_positive_rate(forget, holdout) == pytest.approx(1 / 3)  # below 2
    assert true_positive_rate(np.arange(100), np.arange(100)) == pytest.approx(0.05)
    assert privleak(0.5, 0.5) == 0 and privleak(0.998, 0.5228) == pytest.approx(-99.58, abs=0.01)  # 1 − .4772
    assert privleak(0.0, 0.5228) == pytest.approx(109.6, abs=0.1)


def test_membership_resamples_subjects() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 10)
    shift = rng.normal(size=30)[people]  # a subject's rows come and go together
    scores = shift + 0.1 * rng.normal(size=300)
    others = rng.normal(size=300)
    together = Membership.of(scores, others, people, np.repeat(np.arange(30), 10))
    apart = Membership.of(scores, others)
    assert together.interval is not None and apart.interval is not None
    assert together.auc == apart.auc and together.interval[0] < apart.auc < together.interval[1]
    assert together.interval[1] - together.interval[0] > 2 * (apart.interval[1] - apart.interval[0])
    assert Membership.of(scores[:50], others, people[:50]).interval is None  # five subjects
    assert Membership.of(scores - 3, others).p_value < 0.001 < 0.05 < Membership.of(scores + 1, others).p_value
