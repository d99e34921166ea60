"""What the likelihoods of the true answers betray: memorisation, verbatim extraction, membership.

Costs a forward for each row of each model, and one for each name of the prior; the wrong answers are those of the rank
test, scored once for both. `gradients` add a backward pass a row. No answer leaks by it: it is told beside the verdict.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unlearner.audit.attack import ANSWERS, Cost, Finding, Question, Target, WeightAttack
from unlearner.audit.attacks.lens import answers_view
from unlearner.audit.likelihood import (
    extraction_probability,
    gradient_norms,
    likelihood_metrics,
    log10_samples,
    prior_corrected,
    truth_share,
)
from unlearner.audit.likelihood_tables import LIKELIHOOD, WITHIN
from unlearner.audit.ranks import decoy_losses, decoys, question_id
from unlearner.audit.room import with_room
from unlearner.data.batches import padded
from unlearner.data.prompts import DOCUMENT
from unlearner.data.records import Record
from unlearner.evaluation.backend import encode_scores
from unlearner.evaluation.passes import labelled_tokens
from unlearner.evaluation.requests import Score
from unlearner.models.sharding import is_sharded
from unlearner.scoring.constants import IGNORE

COMPARED = ("forget", "control")
"""Groups that membership compares."""
Asked = Sequence[tuple[str, Question]]
Figures = list[dict[str, float]]
"""Of each row its figures by name; none for a row whose answer is cut off by max_length."""


@dataclass(frozen=True)
class Likelihood(WeightAttack):
    """`likelihood_metrics` of the true answer, and with p_z = exp(−nll) its probability as a whole (nll in nats):

    - `probability`: exp(−nll/T), of the mean token
    - `log10_samples`: log₁₀ of the samples at temperature 1 that hold it word for word with probability ½
    - `extracted`: the probability that 1,024 such samples do
    - `truth_share`: of the truth against the mean wrong answer, in one wording; where the row has wrong answers
    - `prior_corrected`: how much likelier what follows the name is than where the name of a control stands in its
      place, in question and answer; mean over `names` of them, for forgotten subjects whom the question names
    - `gradient_norm`: with `gradients`, of what is forgotten and controls

    A model that is shared out over devices is not asked.
    """

    name = LIKELIHOOD
    title = "Likelihoods"
    access = "likelihoods"
    source = "Hayes et al. 2024, arXiv 2410.19482; Carlini et al. 2021, arXiv 2012.07805; arXiv 2310.16789, 2404.02936"
    of = ("unlearned", "before", "retrained")
    changes = False
    asks_of = "a model that is not sharded over devices"

    names: int = 20
    gradients: bool = False

    def cost(self, asked: Mapping[str, int]) -> Cost:
        compared, forgotten = sum(asked.get(group, 0) for group in COMPARED), asked.get("forget", 0)
        scored = compared + asked.get("retain", 0) + forgotten * self.names / ANSWERS
        return Cost(scored=scored, rows=compared * self.gradients)

    def findings(self, target: Target) -> Iterator[Finding]:
        if is_sharded(target.model):
            return
        asked = [(g, q) for g in (*COMPARED, "retain") for q in target.questions[g] if q.detector is not None]
        figures: Figures = [{} for _ in asked]
        for document in (False, True):
            places = [i for i, (_, question) in enumerate(asked) if question.document is document]
            if places:
                mine = replace(target, template=DOCUMENT) if document else target
                for i, found in zip(places, self._one_pass(mine, [asked[i] for i in places]), strict=True):
                    figures[i] = found
        shares, priors = _truth_shares(target), self._priors(target)
        for (group, question), found in zip(asked, figures, strict=True):
            if found and (key := (group, question_id(question))) in shares:
                found["truth_share"] = shares[key]
            if found and group == "forget" and question_id(question) in priors:
                found["prior_corrected"] = priors[question_id(question)]
            if found:
                rounded = {name: float(f"{value:.6g}") for name, value in found.items() if math.isfinite(value)}
                yield Finding(group, question, None, about=rounded)

    def _one_pass(self, target: Target, asked: Asked) -> Figures:
        """What a forward over question and answer tells of each row."""
        view = answers_view(target, [(question.record.question, question.record.answer) for _, question in asked])
        tensors = padded(view, view.rows[0], int(target.tokenizer.eos_token_id or 0))
        scores = likelihood_metrics(target.model, tensors, target.tokenizer, gradients=False)
        counts = (tensors["labels"] != IGNORE).sum(dim=1).tolist()
        figures: Figures = []
        for i, count in enumerate(counts):
            found = {name: values[i] for name, values in scores.items()}
            if not math.isfinite(found["loss"]):  # no token of the answer, or a broken model
                figures.append({})
                continue
            nll = found["loss"] * count
            found |= {"probability": math.exp(-found["loss"]), "log10_samples": log10_samples(nll)}
            figures.append(found | {"extracted": extraction_probability(nll, WITHIN)})
        if self.gradients:
            compared = [i for i, (group, _) in enumerate(asked) if group in COMPARED and figures[i]]
            norms = gradient_norms(target.model, {name: tensor[compared] for name, tensor in tensors.items()})
            for i, norm in zip(compared, norms, strict=True):
                figures[i]["gradient_norm"] = norm
        return figures

    def _priors(self, target: Target) -> dict[str, float]:
        """`prior_corrected` by question."""
        controls = [q.record.subject for q in target.questions["control"] if q.record.subject is not None]
        names = list(dict.fromkeys(controls))[: self.names]
        asked = [question for question in target.questions["forget"] if names and _is_named(question)]
        if not asked:
            return {}
        people = [(str(question.record.subject), *names) for question in asked]
        wanted = [[_about(q.record, name) for name in mine] for q, mine in zip(asked, people, strict=True)]
        examples = target.answer([question.record for question in asked], wanted, False)
        found = {}
        for question, mine, scores, example in zip(asked, people, wanted, examples, strict=True):
            told = [example.scored(score).logp for score in scores]
            starts = _behind_names(target, mine, scores)
            own, *others = (-sum(logp[start:]) for logp, start in zip(told, starts, strict=True))
            if len(told[0]) > starts[0]:
                found[question_id(question)] = prior_corrected(own, others)
        return found


def _truth_shares(target: Target) -> dict[tuple[str, str], float]:
    """By group and question, for what the rank test scores."""
    asked = [(group, q) for group in COMPARED for q in target.questions[group]]
    fit = with_room(LIKELIHOOD, decoys, asked, target, target.options.max_length)
    scored = decoy_losses(fit, target.answer)
    return {(group, question_id(q)): truth_share(losses[0], losses[1:]) for group, q, losses in scored}


def _is_named(question: Question) -> bool:
    name = question.name
    return not question.document and name is not None and name in str(question.record.question)


def _about(record: Record, name: str) -> Score:
    """The row as it would be about somebody else."""
    subject = str(record.subject)
    return Score(str(record.question).replace(subject, name), record.answer.replace(subject, name), open=True)


def _behind_names(target: Target, names: Sequence[str], scores: Sequence[Score]) -> list[int]:
    """Tokens of each answer up to where its name stands last: how well a model spells a name is nothing it knows."""
    ends = [score.continuation.rfind(name) for name, score in zip(names, scores, strict=True)]
    if min(ends) < 0:
        return [0] * len(scores)
    heads = [
        replace(score, continuation=score.continuation[: end + len(name)])
        for name, score, end in zip(names, scores, ends, strict=True)
    ]
    table = encode_scores(target.tokenizer, target.template, heads, target.options.max_length, official=False)
    return [int(count) for count in labelled_tokens(table)]
