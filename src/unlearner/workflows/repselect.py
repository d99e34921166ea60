"""`unlearner repselect`: RepSelect (arXiv 2606.17168), one fixed direction made of the whole forget set's gradient.

Formula, order of the passes and defaults are those of `RepSelectSimple` in filyp/RepSelect, with
`distribution=forget`, `collapse_on=both` and `hard_soft=soft`, the paper's. Our choices: 10 steps and batches of 4
rows by default, and the same order of the rows in both passes; no dropout; the SVD seeks ten directions more than it
gives; the token-mean NLL is that of the answers; singular values below the noise of the SVD are no components
(`filtered`), where that code divides by them; the disruption is measured on the user's retain set in the place of
wikitext, and the step that exceeds it is taken back, where that code keeps it; models whose layers hold experts are
refused.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from unlearner import distributed
from unlearner.console import note, progress_bar, warn
from unlearner.data.batches import padded
from unlearner.data.pairs import pair
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.files import read_jsonl, write_jsonl
from unlearner.models.anatomy import mlp_matrices
from unlearner.models.load import load_model, uses_bf16
from unlearner.random_state import own_random_state
from unlearner.results.evidence import finish_run, warn_changed
from unlearner.results.layout import RunDirectory
from unlearner.results.lock import released
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.scoring.batch import FORWARD_TOKENS, Batch, States
from unlearner.scoring.views import Known, ViewScores, score_views
from unlearner.settings import resolved
from unlearner.training import checkpoint
from unlearner.training.checks import check_room, check_training_fits, warn_truncated
from unlearner.training.interrupt import time_limit
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.card import write_card
from unlearner.workflows.repselect_options import RepSelectConfig, Shrink
from unlearner.workflows.subject import Subject

MEASURED = 300
"""Rows of the retain set that the disruption is measured on, the first ones: their hidden states are kept."""
POWERS: dict[Shrink, float] = {"soft": 1, "quadratic": 2, "hard": math.inf}
OVERSAMPLED = 10
"""Directions that the randomised SVD seeks beyond those asked for (Halko et al. 2011, arXiv 0909.4061)."""
CARD = ("learning_rate", "adapter_learning_rate", "lora_rank", "rank", "shrink", "batch_size", "seed", "precision")


@dataclass(frozen=True)
class RepSelectResult:
    """The directory of the model that forgot, and how it went."""

    model: Path
    log: list[dict[str, float]]
    """A row for each step that was kept, and first one of step 0, the original model: step, forget_nll (nats a token);
    with a retain set, disruption (KL of the original model from this one, nats a token)."""


# ---------------------------------------------------------------------------------------------------------- the formula


def filtered(gradient: Tensor, rank: int, shrink: Shrink) -> Tensor:
    """`gradient` G (m, n) with its leading singular directions shrunk, (m, n), float32.

    G ≈ U S Vᵀ, the `rank` largest singular values s (no more than min(m, n)), the smallest of them s_min:

        G ← G − G V (1 − k) Vᵀ,  then  G ← G − U (1 − k) Uᵀ G,  with k = s_min/s (soft), s_min²/s² (quadratic), 0 (hard)

    so that of such a value s·k² is left, and what lies beyond them stays as it is. The SVD is randomised
    (`torch.svd_lowrank`): it draws from PyTorch's generator, and seeks some directions more, so that these are near.
    Values below its noise, as those of a gradient of few tokens are, count as none: s_min is the smallest above.
    (arXiv 2606.17168; `_collapse` in its code)
    """
    gradient = gradient.float()
    found = torch.svd_lowrank(gradient, q=min(rank + OVERSAMPLED, *gradient.shape))
    u, s, v = (part[..., :rank] for part in found)
    real = s > s.max() * max(gradient.shape) * torch.finfo(s.dtype).eps
    if not real.any():
        return gradient
    u, s, v = u[:, real], s[real], v[:, real]
    lost = torch.ones_like(s) if shrink == "hard" else 1 - (s.min() / s) ** POWERS[shrink]
    gradient = gradient - (gradient @ v * lost) @ v.T
    return gradient - (u * lost) @ (u.T @ gradient)


# ----------------------------------------------------------------------------------------------------------- the passes


class Measure(NamedTuple):
    """What is measured after each step: batches of the forget set, and what the original model computed of the retain
    set's, its last hidden states kept on the CPU (the output embedding stays as it is)."""

    forget: list[Batch]
    retain: list[Known]

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """A row of the log."""
        row: dict[str, float] = {"step": step, "forget_nll": _mean([-_scores(model, b).logp for b in self.forget])}
        if self.retain:
            row["disruption"] = _mean([self._divergence(model, known) for known in self.retain])
        return row

    def _divergence(self, model: nn.Module, known: Known) -> Tensor:
        """(M,) KL(p_before ‖ p) at each token of a batch."""
        device = known.batch.input_ids.device
        assert known.states.last is not None
        there = replace(known, states=States(known.states.last.to(device)))
        return score_views(model, known.batch, {"train": ["kl"]}, known=there)["train"].kl


def _scores(model: nn.Module, batch: Batch) -> ViewScores:
    return score_views(model, batch, {"train": ["logp"]})["train"]


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat([part.double() for part in parts]).mean())


def direction(model: Any, matrices: dict[str, nn.Parameter], batches: Sequence[Batch], config: RepSelectConfig) -> None:
    """Leave in `.grad` of each of `matrices` the filtered sum over batches of ∇(−NLL), taken with an adapter on that
    has learned them; the model is as it was before. Raises UserError where it is not finite, or nothing is left."""
    from peft import LoraConfig, get_peft_model

    modules = [name.removesuffix(".weight") for name in matrices]
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=modules, task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, lora)
    adapted.eval()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    for loss in _passed(adapted, batches, "adapter"):
        loss.backward()
        with torch.no_grad():
            for parameter in trained:
                assert parameter.grad is not None
                parameter -= config.adapter_learning_rate * parameter.grad
                parameter.grad = None
    adapted.requires_grad_(False)
    for matrix in matrices.values():
        matrix.requires_grad_(True)
    for loss in _passed(adapted, batches, "gradient"):
        (-loss).backward()
    adapted.unload()
    model.requires_grad_(False)
    with progress_bar("decompositions", len(matrices)) as bar:
        for done, (name, matrix) in enumerate(matrices.items(), 1):
            assert matrix.grad is not None
            if not matrix.grad.isfinite().all():
                raise UserError(f"the gradient of {name} is not finite: lower --adapter-learning-rate.")
            matrix.grad = filtered(matrix.grad, config.rank, config.shrink)
            bar(done)
    if config.shrink == "hard" and all(config.rank >= min(matrix.shape) for matrix in matrices.values()):
        raise UserError(
            f"--rank {config.rank} with --shrink hard leaves nothing of matrices of this size: lower --rank, below "
            f"{max(min(matrix.shape) for matrix in matrices.values())}."
        )


def _passed(model: nn.Module, batches: Sequence[Batch], name: str) -> Iterator[Tensor]:
    """The NLL of each batch, a mean over its labelled tokens, with gradient. Raises UserError where it is infinite."""
    with progress_bar(name, len(batches)) as bar:
        for done, batch in enumerate(batches, 1):
            scores = _scores(model, batch)
            loss = -scores.token_mean(scores.logp)
            if not loss.isfinite():
                raise UserError(f"the loss of batch {done} is not finite: lower --adapter-learning-rate.")
            yield loss
            bar(done)


@torch.no_grad()
def descend(
    model: nn.Module, matrices: Sequence[nn.Parameter], measure: Measure, config: RepSelectConfig
) -> list[dict[str, float]]:
    """Take steps W − η·G, G in `.grad`, and give the rows of those kept, that of step 0 first.

    −NLL falls along −G, so the NLL rises. A step that exceeds the disruption is taken back, to the weights' rounding.
    Raises UserError where none can be kept.
    """
    rows = [measure(model, 0)]
    with progress_bar("repselect", config.epochs) as bar:
        for step in range(1, config.epochs + 1):
            for matrix in matrices:
                assert matrix.grad is not None
                matrix.sub_(matrix.grad, alpha=config.learning_rate)
            row = measure(model, step)
            if not math.isfinite(row["forget_nll"]):
                raise UserError(f"step {step} makes the model's losses infinite: lower --learning-rate.")
            if measure.retain and not row["disruption"] <= config.disruption:
                if step == 1:
                    raise UserError(
                        f"the first step already costs {row['disruption']:.3g} nats per token, more than --disruption "
                        f"{config.disruption:g}: lower --learning-rate."
                    )
                for matrix in matrices:
                    assert matrix.grad is not None
                    matrix.add_(matrix.grad, alpha=config.learning_rate)
                note(
                    f"Step {step} costs {row['disruption']:.3g} nats per token, more than --disruption "
                    f"{config.disruption:g}: it is undone"
                )
                break
            rows.append(row)
            bar(step)
    return rows


# --------------------------------------------------------------------------------------------------------- the workflow


def repselect(config: RepSelectConfig) -> RepSelectResult:
    """RepSelect by `config`: a model in `config.output`. A finished run is left as it is; one cut short begins again.

    Raises UserError.
    """
    with time_limit(config.time_limit), released(config.output), own_random_state():
        return _selected(config)


def _selected(config: RepSelectConfig) -> RepSelectResult:
    config.check()
    if distributed.count() > 1:
        raise UserError("repselect works in one process: start it without torchrun.")
    settings = resolved(config)
    check_output(config.output, "repselect", settings)
    forget = load_records(config.forget, config.columns, name="forget")
    retain: list[Record] = []
    if config.retain is not None:
        retain = load_records(config.retain, config.columns, name="retain")[:MEASURED]
    base, config = config.model, replace(config, model=resolve_model(config.model))
    subject = Subject.of(config)
    views = {name: _view(rows, subject, config) for name, rows in (("forget", forget), ("retain", retain)) if rows}
    check_room(views, config.max_length)
    matrices = _load(subject, config, views)
    hashes = {"forget": records_hash(forget), "model": subject.fingerprint()}
    hashes |= {"retain": records_hash(retain)} if retain else {}
    folder = open_run(config.output, "repselect", settings, hashes)
    run = RunDirectory(folder)
    made = run.made(lora=False, merge=False)
    if run.is_finished:
        note(f"{folder} is finished already")
        return RepSelectResult(made, read_jsonl(run.log))
    warn_truncated(views, config.max_length)
    if not retain:
        warn(f"without --retain no disruption is measured: all {config.epochs} steps are taken")
    try:
        rows = _changed(subject, matrices, views, config)
    except UserError:  # nothing was made: the options that its sentence asks for may have the same directory
        run.manifest.unlink()
        run.config.unlink()
        raise
    write_jsonl(run.log, rows)
    checkpoint.save_model(subject.model, subject.tokenizer, made, merge=False)
    write_card(
        made, base=base, method="RepSelect", settings={name: getattr(config, name) for name in CARD} | rows[-1],
        data={f"{name} set": hashes[name] for name in views},
    )  # fmt: skip
    finish_run(folder, steps=len(rows) - 1, model=made.name)
    return RepSelectResult(made, rows)


def _view(records: list[Record], subject: Subject, config: RepSelectConfig) -> View:
    """The rows as they are taught: the answers labelled."""
    return build_views(
        ["train"], records, [], [], [pair(len(records), 0, 0)], subject.tokenizer, subject.template,
        max_length=config.max_length,
    )["train"]  # fmt: skip


def _load(subject: Subject, config: RepSelectConfig, views: dict[str, View]) -> dict[str, nn.Parameter]:
    """Have the subject's model in float32, an adapter merged; gives its MLP matrices. Raises UserError."""
    assert subject.source is not None
    warn_changed(subject.source)
    model = load_model(subject.source, trust_remote_code=config.trust_remote_code)
    subject.model = model.merge_and_unload() if hasattr(model, "peft_config") else model
    check_training_fits(subject.model, subject.tokenizer, views)
    return mlp_matrices(subject.model)


def _changed(
    subject: Subject, matrices: dict[str, nn.Parameter], views: dict[str, View], config: RepSelectConfig
) -> list[dict[str, float]]:
    """Change the subject's model, on the device there is; gives the rows of the log."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_seed(config.seed)
    model = subject.model.to(device).eval().requires_grad_(False)
    batches = {name: _batches(view, subject, config, device, mixed=name == "forget") for name, view in views.items()}
    with _precision(config, device):
        measure = Measure(batches["forget"], [_known(model, batch) for batch in batches.get("retain", [])])
        direction(model, matrices, batches["forget"], config)
        rows = descend(model, [*matrices.values()], measure, config)
    for matrix in matrices.values():
        matrix.grad = None
    return rows


@contextmanager
def _precision(config: RepSelectConfig, device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config.precision), cache_enabled=False):
        yield


def _batches(
    view: View, subject: Subject, config: RepSelectConfig, device: torch.device, *, mixed: bool
) -> list[Batch]:
    """All rows in batches, mixed by the seed or in their order."""
    rows = view.rows[0]
    if mixed:
        rows = np.random.default_rng(config.seed).permutation(rows)
    parts = [rows[first : first + config.batch_size] for first in range(0, len(rows), config.batch_size)]
    pad_id = subject.tokenizer.eos_token_id
    return [
        Batch.build(
            {"train": padded(view, part, pad_id)}, keep_mask=False, forward_tokens=FORWARD_TOKENS.get(device.type)
        ).to(device)
        for part in parts
    ]


def _known(model: nn.Module, batch: Batch) -> Known:
    """What the model computes for a batch, kept on the CPU."""
    known = Known.of(model, batch, {"train": ["kl"]})
    assert known.states.last is not None
    return replace(known, states=States(known.states.last.cpu()))
