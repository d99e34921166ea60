"""Mixed prompts of SEPS: the texts of their views, which tokens are marked, the losses against plain formulas."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_methods import models  # noqa: F401 - a fixture
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from transformers import PreTrainedTokenizerBase

from unlearner import Method
from unlearner.data.batches import padded
from unlearner.data.pairs import Pairing
from unlearner.data.prompts import TEMPLATES, Template
from unlearner.data.records import Record
from unlearner.data.views import View, build_views

FORGET = [Record("Who wrote it?", "Ada Lom did."), Record("Where?", "In the old town of Rell.")]
RETAIN = [Record("What is rain?", "Water."), Record("And snow?", "Ice that falls."), Record("Wind?", "Air.")]
REFUSALS = ["I do not know.", "No idea."]
PAIRINGS = [
    Pairing(np.array([2, 0]), np.array([1, 0])),
    Pairing(np.array([1, 0]), np.array([1, 0])),
]  # fmt: skip


def views_of(
    method: Method,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = TEMPLATES["plain"],
    max_length: int = 200,
) -> dict[str, View]:
    return build_views(
        list(method.needs), FORGET, RETAIN, REFUSALS, PAIRINGS, tokenizer, template, max_length=max_length,
        mask_question=method.mask_question,
    )  # fmt: skip


def texts(view: View, tokenizer: PreTrainedTokenizerBase, epoch: int) -> list[str]:
    return [tokenizer.decode(view.table.row(row)) for row in view.rows[epoch]]


@pytest.mark.parametrize("name", ["plain", "llama2"])
def test_two_questions_stand_in_one_prompt_in_both_orders(name: str, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """To the letter: the official code has no space after the forget row's number."""
    template = TEMPLATES[name]
    views = views_of(Method.parse("MP-ME"), tiny_tokenizer, template=template)
    end = "</s>"

    def whole(question: str, answer: str) -> str:
        return "<s>" + template.question_part(question) + template.answer_part(question, answer) + end

    assert texts(views["forget_retain"], tiny_tokenizer, 0) == [
        whole("1.Who wrote it?\n2. Wind?", "1.Ada Lom did.\n2. Air."),
        whole("1.Where?\n2. What is rain?", "1.In the old town of Rell.\n2. Water."),
    ]
    assert texts(views["retain_forget"], tiny_tokenizer, 1) == [
        whole("1. And snow?\n2.Who wrote it?", "1. Ice that falls.\n2.Ada Lom did."),
        whole("1. What is rain?\n2.Where?", "1. Water.\n2.In the old town of Rell."),
    ]
    assert len(views["forget_retain"].table) == 3, "the second item has the same partner in both epochs"


def test_targeted_ones_refuse_the_one_and_answer_the_other(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(Method.parse("MP-IDK"), tiny_tokenizer)
    first, last = views["refusal_retain"], views["retain_then_refusal"]
    assert texts(first, tiny_tokenizer, 0)[0].endswith("2. Wind?\nAnswer: 1.No idea.\n2. Air.</s>")
    assert texts(last, tiny_tokenizer, 0)[0].endswith("2.Who wrote it?\nAnswer: 1. Air.\n2.No idea.</s>")
    for view in (first, last):
        labelled = [tiny_tokenizer.decode(view.table.row(row)[view.first_label[row] :]) for row in view.rows[0]]
        assert all(text.startswith(" 1.") and text.endswith("</s>") for text in labelled), "the answer, and no more"


def test_marked_is_what_is_to_be_forgotten_and_the_token_behind(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(Method.parse("MP-ME"), tiny_tokenizer)
    for name, ends in (("forget_retain", ("\n", "\n")), ("retain_forget", ("\n", "</s>"))):
        view = views[name]
        assert view.whole and view.marked is not None and (view.first_label == 1).all()
        row = view.rows[0][0]
        ids, start = view.table.row(row), view.table.offsets[row]
        marks = view.marked[start : start + len(ids)]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(int), [0]]))).reshape(-1, 2)
        found = [tiny_tokenizer.decode(ids[a:b]) for a, b in edges]
        expected = ["Who wrote it?", "Ada Lom did."]
        assert len(found) == 2
        for text, want, end in zip(found, expected, ends, strict=True):
            assert want in text and text.startswith(want[:1]), (name, text)
            assert text.removeprefix(want).startswith(end) and len(text) <= len(want) + 4


def test_a_cut_row_is_marked_as_far_as_it_goes(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(Method.parse("MP-ME"), tiny_tokenizer, max_length=12)
    for name in ("forget_retain", "retain_forget"):
        assert views[name].marked is not None and len(views[name].marked) == len(views[name].table.ids)


class Plain:
    def __init__(self, model: Any, reference: Any, views: dict[str, dict[str, Tensor]]) -> None:
        self.model, self.reference, self.views = model, reference, views

    def ce(self, name: str) -> Tensor:
        view = self.views[name]
        logits = self.model(input_ids=view["input_ids"], attention_mask=view["attention_mask"]).logits
        labels = view["labels"][:, 1:].masked_fill(view["attention_mask"][:, :-1] == 0, -100)
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)

    def divergence(self, name: str) -> Tensor:
        """The definition, a position at a time."""
        view = self.views[name]
        inputs = {key: view[key] for key in ("input_ids", "attention_mask")}
        log_p = log_softmax(self.model(**inputs).logits, -1)
        log_q = log_softmax(self.reference(**inputs).logits, -1).detach()
        each = []
        for row, column in (view["attention_mask"][:, 1:] == 1).nonzero().tolist():
            uniform = torch.full_like(log_p[row, column], -math.log(log_p.shape[-1]))
            target = uniform if view["marked"][row, column + 1] else log_q[row, column]
            each.append((log_p[row, column].exp() * (log_p[row, column] - target)).sum())
        return torch.stack(each).mean()

    def nll(self, name: str) -> Tensor:
        view = self.views[name]
        logits = self.model(input_ids=view["input_ids"], attention_mask=view["attention_mask"]).logits
        return cross_entropy(logits[:, :-1].transpose(1, 2), view["labels"][:, 1:], reduction="none").sum(-1)


def tensors(views: dict[str, View], tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, Tensor]]:
    return {name: padded(view, view.rows[0], tokenizer.eos_token_id) for name, view in views.items()}


@pytest.mark.parametrize("name", ["MP-ME", "MP-IDK"])
def test_losses_and_gradients_are_those_of_the_plain_formulas(
    name: str, models: tuple[Any, Any], tiny_tokenizer: PreTrainedTokenizerBase  # noqa: F811
) -> None:  # fmt: skip
    model, reference = models
    method = Method.parse(name)
    given = tensors(views_of(method, tiny_tokenizer), tiny_tokenizer)
    plain = Plain(model, reference, given)
    if name == "MP-ME":
        assert given["forget_retain"]["marked"].any() and not given["forget_retain"]["marked"].all()
        expected = plain.ce("retain") + plain.divergence("forget_retain") + plain.divergence("retain_forget")
    else:
        margin = plain.nll("retain_refusal") - plain.nll("retain")
        preferred = -10 * torch.log(torch.sigmoid(0.1 * margin)).mean()
        expected = preferred + plain.ce("refusal_retain") + plain.ce("retain_then_refusal")
    found = method.losses(model, given, reference=reference).retain
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    chosen = list(model.parameters())
    for a, b in zip(torch.autograd.grad(found, chosen), torch.autograd.grad(expected, chosen), strict=True):
        assert torch.norm(a - b) <= 2e-4 * torch.norm(b)


def test_the_forget_sides_are_me_and_idk() -> None:
    assert [Method.parse(name).forget.name for name in ("MP-ME", "mp-idk")] == ["ME", "IDK"]
    assert Method.parse("MP-ME").needs_questions and Method.parse("MP-IDK").targeted
    assert Method.parse("MP-ME").needs_retain and not Method.parse("ME").needs_questions
