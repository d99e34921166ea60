"""From a name to a folder of sources: what to forget, what to keep, and what to measure with.

Questions come from templates of the subject's kind and from the user; answers are the model's own (the protocol of the
paper for real-world data, arXiv 2410.08109); wrong answers are what it says to the same question about others, with the
name changed. Every row says where it came from.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from unlearner import distributed
from unlearner.config import PrepareConfig
from unlearner.console import note
from unlearner.data.general import general_knowledge, mentions
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.requests import Generate
from unlearner.files import atomic_directory, read_json, write_json, write_jsonl
from unlearner.prepare.asking import Asked
from unlearner.prepare.kinds import ask
from unlearner.prepare.knowledge import renamed
from unlearner.prepare.subject import About, about, read_lines
from unlearner.results.records import sha256
from unlearner.results.run import check_place, resolved

MANIFEST = "prepare.json"
TRAINED = 2
"""Wordings of a fact that are trained; the others are held out."""
WRONG = 5
"""Wrong answers of a row, at most."""
CONTROLS = 6
"""Invented names in controls.jsonl."""
SENTENCES = re.compile(r".*[.!?][\"')]?(?=\s|$)", re.DOTALL)
LIST_NUMBER = re.compile(r"\s+\d+\.$")

Row = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """The folder, and how many rows each of its sources has."""

    folder: Path
    rows: Mapping[str, int]


def prepare(config: PrepareConfig, *, tokenizer: Any = None) -> Prepared:
    """Write the folder of sources; one that is there already, from the same options, is left as it is.

    Raises UserError where the subject or its neighbours cannot be used, or the folder holds something else.
    """
    config.check()
    subject = about(config)
    neighbours = _neighbours(config, subject)
    folder = Path(config.output)
    asks = {"options": resolved(config), "facts": subject.facts, "neighbours": neighbours}
    asks = json.loads(json.dumps(asks))
    if _there(folder, asks):
        note(f"{folder} is there already")
        return Prepared(folder, read_json(folder / MANIFEST)["rows"])
    asked = Asked(config, tokenizer)
    sources, dropped = _Writer(config, subject, neighbours, asked).sources()
    if dropped:
        note(f"{dropped} questions are left out because the model gave no answer")
    counts = {name: len(rows) for name, rows in sources.items()}
    if distributed.is_main():
        with atomic_directory(folder) as temporary:
            for name, rows in sources.items():
                write_jsonl(temporary / f"{name}.jsonl", rows)
            hashes = {name: sha256(*rows) for name, rows in sources.items()}
            made = {"rows": counts, "dropped": dropped, "model": asked.subject.fingerprint(), "sha256": hashes}
            write_json(temporary / MANIFEST, asks | made)
    distributed.barrier()
    return Prepared(folder, counts)


def _there(folder: Path, asks: dict[str, Any]) -> bool:
    """Whether the folder holds this very preparation. Raises UserError where it holds anything else."""
    check_place(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    held = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    if any(held.get(key) != value for key, value in asks.items()):
        raise UserError(f"--output {folder} holds something else already: choose another directory.")
    return True


def _neighbours(config: PrepareConfig, subject: About) -> list[str]:
    """The names to be kept: the user's, or well-known ones of the same kind, drawn by the seed."""
    if config.neighbours is None:
        known = subject.others(subject.kind.known)
        return random.Random(f"neighbours {config.seed}").sample(known, min(config.neighbour_count, len(known)))
    names = list(dict.fromkeys(read_lines(Path(config.neighbours), "--neighbours")))
    for name in names:
        if mentions(name, subject.names) or mentions(subject.name, (name,)):
            raise UserError(f"--neighbours {config.neighbours} names the subject ({name}): take it out.")
    if len(names) < 2:
        raise UserError(f"--neighbours {config.neighbours} has one name: give at least two, to train and to hold out.")
    return names


class _Writer:
    """Asks the model and makes the rows of all sources."""

    def __init__(self, config: PrepareConfig, subject: About, neighbours: list[str], asked: Asked) -> None:
        self.config, self.subject, self.neighbours, self.asked = config, subject, neighbours, asked
        self.answers: dict[str, str] = {}
        self.dropped = 0

    def sources(self) -> tuple[dict[str, list[Row]], int]:
        """All rows by source, and how many were dropped."""
        facts, names = self.subject.facts, [*self.neighbours, *self._invented()]
        general = self._general()
        self._ask(
            [ask(w, self.subject.name) for wordings in facts.values() for w in wordings]
            + [ask(wordings[0], name) for wordings in facts.values() for name in names]
            + [record.question or "" for record in general]
        )
        unseen = self._unseen()
        kept, held = self._parts(self.neighbours)
        bank_kept, bank_held = self._parts(general)
        neighbours = {name: [self._neighbour(name, fact) for fact in facts] for name in self.neighbours}
        made: dict[str, Iterable[Row | None]] = {
            "forget": (self._forget(f, n) for f in facts if f not in unseen for n in range(len(facts[f]))[:TRAINED]),
            "unseen_wordings": (
                self._forget(f, n) for f in facts if f not in unseen for n in range(len(facts[f]))[TRAINED:]
            ),
            "unseen_facts": (self._forget(f, n) for f in unseen for n in range(len(facts[f]))),
            "neighbours": (row for name in kept for row in neighbours[name]),
            "neighbours_held_out": (row for name in held for row in neighbours[name]),
            "general": map(self._of_bank, bank_kept),
            "general_held_out": map(self._of_bank, bank_held),
            "controls": (self._row(name, fact, 0) for name in self._invented() for fact in facts),
        }
        written = {name: list(rows) for name, rows in made.items()}
        kept_rows = {name: [row for row in rows if row is not None] for name, rows in written.items()}
        dropped = sum(map(len, written.values())) - sum(map(len, kept_rows.values()))
        # All about the subject in one source, to measure with, and what is kept in another one, by turns.
        kept_rows["subject"] = [r for name in ("forget", "unseen_wordings", "unseen_facts") for r in kept_rows[name]]
        turns = zip_longest(kept_rows["neighbours"], kept_rows["general"])
        kept_rows["retain"] = [row for pair in turns for row in pair if row is not None]
        return kept_rows, dropped

    def _invented(self) -> tuple[str, ...]:
        return self.subject.others(self.subject.kind.invented)[:CONTROLS]

    def _general(self) -> list[Record]:
        """Questions of the bank that do not touch the subject, drawn by the seed."""
        free = [
            r for r in general_knowledge() if not mentions(" ".join((r.question or "", r.answer)), self.subject.names)
        ]
        return random.Random(f"general {self.config.seed}").sample(free, min(self.config.general_count, len(free)))

    def _unseen(self) -> list[str]:
        """The facts of which no wording is trained: a quarter, drawn by the seed, never the first."""
        facts = list(self.subject.facts)
        return random.Random(f"facts {self.config.seed}").sample(facts[1:], max(1, len(facts) // 4))

    def _parts(self, items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Two thirds to be trained, a third to be held out; both hold one at least."""
        cut = min(max(1, len(items) * 2 // 3), len(items) - 1)
        return list(items[:cut]), list(items[cut:])

    def _ask(self, questions: list[str]) -> None:
        """The model's likeliest answer to each, as far as its sentences are whole."""
        requests = {q: Generate(q, max_new_tokens=self.config.max_new_tokens) for q in questions}
        said = self.asked.answers(requests.values(), "asking")
        self.answers = {q: whole_sentences(said.written(request)[0].text) for q, request in requests.items()}

    def _row(self, name: str, fact: str, number: int) -> Row | None:
        question = ask(self.subject.facts[fact][number], name)
        answer = self.answers[question]
        if not answer:
            return None
        return {
            "id": f"{name}/{fact}/{number + 1}", "question": question, "answer": answer, "subject": name,
            "topic": fact, "question_from": "template" if fact in self.subject.kind.facts else "user",
            "answer_from": "model",
        }  # fmt: skip

    def _with_wrong(self, row: Row, paraphrases: Iterable[str]) -> Row:
        """The row with the answer in other words, and with what is said of others as wrong answers."""
        others = [n for n in self.neighbours if n != row["subject"]]
        names = self.subject.names if row["subject"] == self.subject.name else (row["subject"],)
        wording = self.subject.facts[row["topic"]][0]
        wrong = (renamed(self.answers[ask(wording, n)], (n,), names[0]) for n in others)
        distinct = [text for text in dict.fromkeys(wrong) if text and text != row["answer"]]
        paraphrase = next((text for text in paraphrases if text and text != row["answer"]), None)
        more: Row = {"perturbed_answer": distinct[:WRONG], "perturbed_from": "the model's answers about neighbours"}
        return row | ({"paraphrased_answer": paraphrase} if paraphrase else {}) | more

    def _forget(self, fact: str, number: int) -> Row | None:
        row = self._row(self.subject.name, fact, number)
        wordings = [w for n, w in enumerate(self.subject.facts[fact]) if n != number]
        return row and self._with_wrong(row, (self.answers[ask(w, self.subject.name)] for w in wordings))

    def _neighbour(self, name: str, fact: str) -> Row | None:
        row = self._row(name, fact, 0)
        return row and self._with_wrong(row, ())

    def _of_bank(self, record: Record) -> Row | None:
        """A question of the bank with the model's answer; the bank's own one is what a right answer must state."""
        answer = self.answers[record.question or ""]
        if not answer:
            return None
        right = re.compile(rf"(?<!\w){re.escape(record.answer)}(?!\w)", re.IGNORECASE)
        wrong = [right.sub(w, answer) if right.search(answer) else w for w in record.perturbed_answer]
        return {
            "id": f"general/{record.question}", "question": record.question, "answer": answer,
            "perturbed_answer": wrong, "fact": record.fact, "subject": record.subject, "question_from": "bank",
            "answer_from": "model", "perturbed_from": "bank",
        }  # fmt: skip


def whole_sentences(text: str) -> str:
    """`text` without the sentence that its last tokens leave unfinished; all of it where none is finished."""
    found = SENTENCES.match(text.strip())
    return LIST_NUMBER.sub("", found[0] if found else text.strip()).strip()
