"""Every metric against numbers worked out by hand."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics import METRICS, find_metric
from unlearner.evaluation.metrics.rouge import rouge_l_recall

RECORD = Record("Where?", "The cat sat on the mat.", perturbed_answer=("A dog.", "A cow."))
FORGET = EvalSet("forget", (), generation_is_premise=True)
RETAIN = EvalSet("retain", ())
FACTS = EvalSet("world_facts", (), short_answers=True)


class FakeModels:
    """Embeds a text as the vector that `vectors` gives it, and finds entailment where the generation says yes."""

    name = "fake"

    def __init__(self, **vectors: list[float]) -> None:
        self.vectors = vectors
        self.asked: list[str] = []

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    def entailed(self, examples: list[Example], eval_set: EvalSet) -> list[bool]:
        self.asked += [example.generation for example in examples]
        return ["yes" in example.generation for example in examples]


def values(name: str, *examples: Example, eval_set: EvalSet = RETAIN, models: FakeModels | None = None) -> list[float]:
    fake = models or FakeModels()
    return find_metric(name).values(examples, eval_set, Judges(fake, fake))  # type: ignore[arg-type]


def example(**changes: object) -> Example:
    plain = Example(RECORD, answer_nll=6.0, answer_tokens=3, generation="", generation_ids=())
    return replace(plain, **changes)


def test_the_registry_names_every_metric_once_and_suggests_the_nearest():
    assert list(METRICS) == ["rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment"]
    assert all(name == metric.name and metric.formula and metric.source for name, metric in METRICS.items())
    with pytest.raises(UserError, match="unknown metric 'rogue': did you mean 'rouge'"):
        find_metric("rogue")


def test_rouge_is_the_share_of_reference_words_that_the_generation_has_in_order():
    # Reference: the cat sat on the mat (6 words). Longest common subsequence with "the mat sat on cats": "the sat on",
    # or "the mat", or "the cat": 3 of 6. Stemming makes "cats" a "cat".
    assert values("rouge", example(generation="the mat sat on cats"), example(generation="cats")) == [1 / 2, 1 / 6]
    assert values("rouge", example(generation=RECORD.answer), example(generation="")) == [1, 0]


def test_rouge_is_computed_once_for_a_pair():
    rouge_l_recall.cache_clear()
    written = example(generation="the cat, yes")
    values("rouge", written)
    values("entailment", written)
    assert rouge_l_recall.cache_info().misses == 1


def test_probability_is_length_normalised():
    assert values("probability", example(), example(answer_nll=1e6, answer_tokens=1)) == [math.exp(-2), 0]


def test_probability_of_short_answers_is_a_choice_among_the_wrong_ones():
    # p(a) = 1/2, wrong answers 1/4 (one token) and 1/8 per token (two tokens): 1/2 / (1/2 + 1/4 + 1/8) = 4/7.
    short = example(
        answer_nll=math.log(2),
        answer_tokens=1,
        perturbed_nll=(math.log(4), 2 * math.log(8)),
        perturbed_tokens=(1, 2),
    )
    assert values("probability", short, eval_set=FACTS) == [pytest.approx(4 / 7, rel=1e-12)]
    assert values("probability", short, eval_set=RETAIN) == [pytest.approx(1 / 2, rel=1e-12)]
    assert values("probability", example(), eval_set=FACTS) == [math.exp(-2)]  # no wrong answers
    # Where every probability underflows, the choice is still the right one: 1 / (1 + e^-5 + e^-5).
    tiny = example(answer_nll=5000, answer_tokens=1, perturbed_nll=(5005, 5005), perturbed_tokens=(1, 1))
    assert values("probability", tiny, eval_set=FACTS) == [pytest.approx(1 / (1 + 2 * math.exp(-5)), rel=1e-12)]


def ratio(paraphrase: float | None, *wrong: float) -> Example:
    """An example whose ρ has mean wrong loss and paraphrase loss as given, two tokens each; the answer's loss is 2."""
    return example(
        paraphrase_nll=None if paraphrase is None else 2 * paraphrase,
        paraphrase_tokens=0 if paraphrase is None else 2,
        perturbed_nll=tuple(2 * each for each in wrong),
        perturbed_tokens=(2,) * len(wrong),
    )


def test_truth_ratio():
    likelier, unlikelier = ratio(1.0, 2.0, 1 + math.log(4) * 2 - 1), ratio(math.log(2), 0.0)
    # ρ of the first: mean(2, 2 log 4) − 1 = log 4 → 4. ρ of the second: 0 − log 2 → 1/2.
    assert values("truth_ratio", likelier, unlikelier, eval_set=RETAIN) == pytest.approx([3 / 4, 0], abs=1e-12)
    assert values("truth_ratio", likelier, unlikelier, eval_set=FORGET) == pytest.approx([3 / 4, 1 / 2], abs=1e-12)


def test_truth_ratio_falls_back_on_the_answer_itself():
    # The answer's loss is 2, the paraphrase's 1, the wrong answer's 2 + log 2: ρ = 2 against the answer.
    expected = pytest.approx([1 / 2], rel=1e-12)
    assert values("truth_ratio", ratio(1.0, 2 + math.log(2)), eval_set=FACTS) == expected
    assert values("truth_ratio", ratio(None, 2 + math.log(2)), eval_set=RETAIN) == expected


def test_truth_ratio_is_undefined_without_wrong_answers_and_safe_for_huge_losses():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(values("truth_ratio", ratio(1.0))[0])
        assert values("truth_ratio", ratio(0.0, 1e9), ratio(1e9, 0.0), ratio(5.0, 5.0)) == [1, 0, 0]
        assert values("truth_ratio", ratio(0.0, 1e9), ratio(1e9, 0.0), ratio(5.0, 5.0), eval_set=FORGET) == [1, 1, 0]


def test_token_entropy():
    # Tokens a a b c: frequencies 1/2 1/4 1/4, entropy 1.5 bits of at most log2 4 = 2.
    written = [example(generation_ids=ids) for ids in [(5, 5, 7, 9), (1, 2, 3), (4, 4, 4), (6,), ()]]
    assert values("token_entropy", *written) == [0.75, 1, 0, 0, 0]


def test_cosine_similarity_is_never_negative_and_reads_the_long_answer():
    models = FakeModels(near=[0.6, 0.8], far=[-1, 0], short=[0, 1], long=[1, 0])
    long, short = Record("?", "short", original_answer="long"), Record("?", "short")
    written = [Example(record, 1, 1, text, ()) for record in (long, short) for text in ("near", "far", "short")]
    assert values("cosine_similarity", *written, models=models) == pytest.approx([0.6, 0, 0, 0.8, 0, 1], abs=1e-6)


def test_entailment_never_asks_about_generations_that_share_no_word_with_the_answer():
    models = FakeModels()
    written = [example(generation=text) for text in ["yes dogs", "yes, the cat", "no, the cat", "", "the mat: yes"]]
    assert values("entailment", *written, models=models) == [0, 1, 0, 0, 1]
    assert models.asked == ["yes, the cat", "no, the cat", "the mat: yes"]
    # One word of eleven is a recall of 0.09, one of ten exactly 0.1.
    eleven, ten = (Record("?", " ".join(f"w{i}" for i in range(n))) for n in (11, 10))
    written = [Example(record, 1, 1, "yes w0", ()) for record in (eleven, ten)]
    assert values("entailment", *written) == [0, 1]
