"""The paper's way of computing, written down plainly: what every speed-up here is measured against.

Not the official code but our own few lines in its style: every row padded to `max_length` with an attention mask, one
forward for each view, full logits in float32, the reference model run in every step, plain AdamW; in evaluation one
padded forward for every answer variant, the question in each of them, and sentences embedded one at a time.
Its losses are those of `Method(official=True)`, its figures those of our official mode (tests/unit/test_benchmarks.py).

B sequences, T tokens (`max_length`), V vocabulary size.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from unlearner.data.batches import Plan
from unlearner.data.pairs import Pairing
from unlearner.data.prompts import Template
from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet

View = Mapping[str, Tensor]
"""`input_ids`, `labels`, `attention_mask`, each (B, T)."""
Views = Mapping[str, View]

VIEWS = {
    "ME+GD": ("forget", "retain"),
    "NPO+GD": ("forget", "retain"),
    "DPO+GD": ("forget", "forget_refusal", "retain"),
    "IDK+AP": ("forget_refusal", "retain", "retain_refusal"),
    "NPO+KL": ("forget", "retain"),
}
"""The views that a method's losses read."""
WITH_REFERENCE = ("NPO+GD", "DPO+GD", "NPO+KL")


# --------------------------------------------------------------------------------------------------------------- tokens


def encode_row(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    question: str,
    answer: str,
    max_length: int,
    mask_question: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels and attention mask of one row, each (T,): right-padded with EOS, the first EOS labelled."""
    asked = template.question_part(question)
    start = len(tokenizer(asked)["input_ids"])
    ids = tokenizer(asked + template.answer_part(question, answer))["input_ids"][:max_length]
    n, missing = len(ids), max_length - len(ids)
    padded = torch.tensor(ids + [tokenizer.eos_token_id] * missing)
    mask = torch.tensor([1] * n + [0] * missing)
    if not mask_question:
        return padded, padded.clone(), mask
    labels = padded.clone()
    labels[:start] = -100
    labels[n + 1 :] = -100
    return padded, labels, mask


def stack(rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
    ids, labels, masks = zip(*rows, strict=True)
    return {"input_ids": torch.stack(ids), "labels": torch.stack(labels), "attention_mask": torch.stack(masks)}


# --------------------------------------------------------------------------------------------------------------- losses


def forward(model: Any, view: View) -> Tensor:
    """Logits (B, T, V) in float32."""
    return model(input_ids=view["input_ids"], attention_mask=view["attention_mask"], use_cache=False).logits.float()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled tokens of the batch."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])


def sequence_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) sums over the labelled tokens."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none").sum(-1)


def uniform_divergence(logits: Tensor, labels: Tensor) -> Tensor:
    """KL(U ‖ p), mean over the labelled positions."""
    log_p = (torch.softmax(logits[:, :-1], dim=-1) + 1e-12).log()
    uniform = torch.full_like(log_p, 1 / logits.shape[-1])
    divergence = (uniform * (uniform.log() - log_p)).sum(-1)
    labelled = labels[:, 1:] != -100
    return (divergence * labelled).sum() / labelled.sum()


def reference_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(p_ref ‖ p), mean over every position of the padded batch."""
    log_p, log_q = torch.log_softmax(logits, dim=-1), torch.log_softmax(reference, dim=-1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean()


def losses(name: str, model: Any, views: Views, reference: Any, beta: float = 0.1) -> tuple[Tensor, Tensor]:
    """Forget and retain loss of one batch: a forward for each view, and one more of the reference where it is asked."""
    forget, _, retain = name.partition("+")

    def nll(view: str) -> Tensor:
        return sequence_nll(forward(model, views[view]), views[view]["labels"])

    def reference_nll(view: str) -> Tensor:
        with torch.no_grad():
            return sequence_nll(forward(reference, views[view]), views[view]["labels"])

    if forget == "ME":
        forget_loss = uniform_divergence(forward(model, views["forget"]), views["forget"]["labels"])
    elif forget == "NPO":
        margin = nll("forget") - reference_nll("forget")
        forget_loss = -2 / beta * F.logsigmoid(beta * margin).mean()
    elif forget == "DPO":
        margin = nll("forget") - nll("forget_refusal")
        margin = margin - (reference_nll("forget") - reference_nll("forget_refusal"))
        forget_loss = -2 / beta * F.logsigmoid(beta * margin).mean()
    else:
        assert forget == "IDK", name
        forget_loss = cross_entropy(forward(model, views["forget_refusal"]), views["forget_refusal"]["labels"])

    if retain == "GD":
        retain_loss = cross_entropy(forward(model, views["retain"]), views["retain"]["labels"])
    elif retain == "KL":
        with torch.no_grad():
            theirs = forward(reference, views["retain"])
        retain_loss = reference_divergence(forward(model, views["retain"]), theirs)
    else:
        assert retain == "AP", name
        retain_loss = -1 / beta * F.logsigmoid(beta * (nll("retain_refusal") - nll("retain"))).mean()
    return forget_loss, retain_loss


# ------------------------------------------------------------------------------------------------------------- training


def unlearn(
    name: str,
    model: Any,
    reference: Any,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    forget: Sequence[Record],
    retain: Sequence[Record],
    refusals: Sequence[str],
    pairings: Sequence[Pairing],
    plan: Plan,
    folder: Path,
    *,
    learning_rate: float,
    forget_coeff: float,
    weight_decay: float,
    max_grad_norm: float,
    warmup_steps: int,
    max_length: int = 500,
) -> list[tuple[float, float]]:
    """Train `model` and save it in `folder`; returns the forget and retain loss of every step."""

    def row(view: str, epoch: int, item: int) -> tuple[Tensor, Tensor, Tensor]:
        pairing = pairings[epoch]
        kept, refusal = retain[pairing.retain[item]], refusals[pairing.refusal[item]]
        asked = kept if view.startswith("retain") else forget[item]
        answer = refusal if view.endswith("refusal") else asked.answer
        return encode_row(tokenizer, template, asked.question or "", answer, max_length)

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup_steps, plan.steps)
    history = []
    for step in range(plan.steps):
        epochs, items = plan.step(step)
        places = list(zip(epochs.tolist(), items.tolist(), strict=True))
        batches = [places[i : i + plan.batch_size] for i in range(0, len(places), plan.batch_size)]
        total_forget = total_retain = 0.0
        for batch in batches:
            views = {view: stack([row(view, *place) for place in batch]) for view in VIEWS[name]}
            forget_loss, retain_loss = losses(name, model, views, reference)
            ((forget_coeff * forget_loss + retain_loss) / len(batches)).backward()
            total_forget += forget_loss.item() / len(batches)
            total_retain += retain_loss.item() / len(batches)
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        history.append((total_forget, total_retain))
    model.save_pretrained(folder)
    return history


# ----------------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    sets: Sequence[EvalSet],
    load_embedder: Callable[[], Any],
    *,
    max_length: int = 200,
    batch_size: int = 30,
) -> dict[str, dict[str, list[float]]]:
    """Set → metric → values of its rows. `load_embedder` is called for every set: judges are loaded anew for each."""
    model.eval()
    return {s.name: _evaluate_set(model, tokenizer, template, s, load_embedder(), max_length, batch_size) for s in sets}


def _evaluate_set(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    eval_set: EvalSet,
    embedder: Any,
    max_length: int,
    batch_size: int,
) -> dict[str, list[float]]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    values: dict[str, list[float]] = {
        name: [] for name in ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment")
    }

    def embed(text: str) -> Tensor:
        return torch.from_numpy(embedder.encode(text, normalize_embeddings=True)).double()

    def mean_losses(records: Sequence[Record], answers: Sequence[str]) -> list[float]:
        """Mean NLL of each answer, from a forward over the padded rows."""
        pairs = zip(records, answers, strict=True)
        view = stack([encode_row(tokenizer, template, r.question or "", a, max_length) for r, a in pairs])
        counts = (view["labels"][:, 1:] != -100).sum(-1)
        return (sequence_nll(forward(model, view), view["labels"]) / counts).tolist()

    for first in range(0, len(eval_set.records), batch_size):
        records = eval_set.records[first : first + batch_size]
        answer = mean_losses(records, [r.answer for r in records])
        truth = answer
        if not eval_set.short_answers and all(r.paraphrased_answer for r in records):
            truth = mean_losses(records, [r.paraphrased_answer or "" for r in records])
        n_wrong = len(records[0].perturbed_answer)
        wrong = [mean_losses(records, [r.perturbed_answer[j] for r in records]) for j in range(n_wrong)]
        generations = _generate(model, tokenizer, template, records, max_length)
        for i, (record, text) in enumerate(zip(records, generations, strict=True)):
            losses_of_wrong = [each[i] for each in wrong]
            probability = math.exp(-answer[i])
            if eval_set.short_answers:
                probability /= probability + sum(math.exp(-loss) for loss in losses_of_wrong)
            values["probability"].append(probability)
            ratio = math.exp(sum(losses_of_wrong) / n_wrong - truth[i])
            values["truth_ratio"].append(1 - min(ratio, 1 / ratio) if eval_set.is_forget else max(0.0, 1 - 1 / ratio))
            rouge = scorer.score(record.answer, text)["rougeL"].recall
            values["rouge"].append(rouge)
            values["token_entropy"].append(_entropy(tokenizer(text, add_special_tokens=False)["input_ids"]))
            long = record.original_answer or record.answer
            values["cosine_similarity"].append(max(0.0, float(embed(text) @ embed(long))))
            values["entailment"].append(float(rouge >= 0.1 and _entailed(record, text, embed)))
    return values


def _generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, template: Template, records: Sequence[Record], max_length: int
) -> list[str]:
    """Greedy answers from left-padded questions, to `max_length` tokens in all."""
    prompts = [tokenizer(template.question_part(record.question))["input_ids"] for record in records]
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.eos_token_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        ids,
        attention_mask=mask,
        max_length=max_length,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return [text.strip() for text in tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]


def _entropy(ids: Sequence[int]) -> float:
    if len(ids) < 2:
        return 0.0
    shares = [count / len(ids) for count in Counter(ids).values()]
    return -sum(share * math.log2(share) for share in shares) / math.log2(len(ids))


def _entailed(record: Record, text: str, embed: Callable[[str], Tensor]) -> bool:
    """The offline judge's rule for rows with wrong answers, every sentence embedded when it is met."""
    generation = embed(text)
    right = [t for t in (record.answer, record.paraphrased_answer, record.original_answer) if t]
    closest = max(float(generation @ embed(t)) for t in right)
    return closest > max(float(generation @ embed(t)) for t in record.perturbed_answer)
