"""From a name or documents to a folder of sources: what to forget, what to keep, and what to measure with.

Questions come from templates of the subject's kind, from the user, from documents and from an endpoint; answers are the
model's own where it knows (the protocol of the paper for real-world data, arXiv 2410.08109), those of documents
otherwise. Every row says where it came from. All rows lie in all/rows.jsonl, so that some can be left out afterwards
without asking anything again.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import binom

from unlearner import distributed
from unlearner.config import PrepareConfig
from unlearner.console import note, warn
from unlearner.errors import UserError
from unlearner.evaluation.requests import Score
from unlearner.files import atomic_directory, read_json, read_jsonl, write_json, write_jsonl, write_text
from unlearner.models.load import model_hash
from unlearner.prepare import documents as pile
from unlearner.prepare.asking import Asked
from unlearner.prepare.cloze import cloze
from unlearner.prepare.drafts import Drafts
from unlearner.prepare.endpoint import Endpoint
from unlearner.prepare.facts import Topic
from unlearner.prepare.kinds import ENGLISH
from unlearner.prepare.knowledge import Probe
from unlearner.prepare.neighbours import distinct, own_neighbours
from unlearner.prepare.page import rows_page
from unlearner.prepare.passages import Passage, cut, naming, personal_data, personal_sentence, without_duplicates
from unlearner.prepare.probe import both, examine
from unlearner.prepare.rows import ABOUT, UNTRAINED, Material, Sources, Writer, joined, untrained
from unlearner.prepare.subject import About, about, is_any, read_lines
from unlearner.results.prepared import PreparedDirectory
from unlearner.results.records import sha256
from unlearner.results.run import check_place
from unlearner.settings import resolved
from unlearner.training.interrupt import time_limit
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import weights_hash

BESIDE = ("keep", "drop", "llm_requests", "llm_retries", "llm_timeout", "llm_price")
"""Options that do not decide what rows there are."""
FACTS_ASKED = 8
"""Facts about the subject that an endpoint is asked for."""
OWN = "model, which knows it by the probe"
"""Where a neighbour comes from that the model named."""
NAMED = "model, and the list of well-known names"
"""The same of a name that needs no probe."""
CHANCE = 0.05
"""The documents' facts count as known where so many are preferred to wrong ones with at most this probability by
chance."""


class NothingToForgetError(UserError):
    """The model knows nothing of the subject."""


@dataclass(frozen=True)
class Prepared:
    """The folder, how many rows each of its sources has, and its page."""

    folder: Path
    rows: Mapping[str, int]

    @property
    def page(self) -> Path:
        return PreparedDirectory(self.folder).page


@dataclass(frozen=True)
class Read:
    """What documents gave."""

    passages: list[Passage] = field(default_factory=list)
    unnamed: list[Passage] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def prepare(config: PrepareConfig, *, tokenizer: Any = None) -> Prepared:
    """Write the folder of sources; one that is there already, from the same options, is left as it is, but for rows
    that are now kept or dropped.

    Raises UserError where subject, neighbours, documents or endpoint cannot be used, or the folder holds something
    else; NothingToForgetError where the model knows nothing of the subject.
    """
    with time_limit(config.time_limit):
        return _prepared(config, tokenizer)


def _prepared(config: PrepareConfig, tokenizer: Any) -> Prepared:
    config.check()
    subject = about(config, endpoint=config.llm is not None)
    texts, unreadable = pile.load_documents(config.documents)
    neighbours = None if config.neighbours is None else _given_neighbours(config, subject)
    folder = Path(config.output)
    options = {name: value for name, value in resolved(config).items() if name not in BESIDE}
    asks = {"options": options, "facts": subject.facts, "neighbours": neighbours, "documents": pile.sha256(texts)}
    asks = json.loads(json.dumps(asks))
    choice = {"keep": sorted(set(config.keep)), "drop": sorted(set(config.drop))}
    if _there(folder, asks, config.model):
        place = PreparedDirectory(folder)
        made = read_json(place.manifest)
        if {key: made[key] for key in choice} == choice:
            note(f"{folder} is there already")
            return Prepared(folder, made["rows"])
        rows: Sources = {}
        for row in read_jsonl(place.all_rows):
            rows.setdefault(row.pop("source"), []).append(row)
        return _write(folder, made | choice, rows)
    read = _read(config, subject, texts, unreadable)
    drafts = None if config.llm is None else Drafts(Endpoint(config), subject.names, config.kind, config.language)
    try:
        made, rows = _made(config, subject, neighbours, read, drafts, tokenizer)
    finally:
        if drafts is not None:  # what was asked is paid for, whatever came of it
            drafts.endpoint.tell()
    return _write(folder, asks | choice | made, rows)


def _made(
    config: PrepareConfig, subject: About, neighbours: list[str] | None, read: Read, drafts: Drafts | None,
    tokenizer: Any,
) -> tuple[dict[str, Any], Sources]:  # fmt: skip
    """All rows, and what is told of how they were made."""
    asked = Asked(config, tokenizer)
    subject, material, found, evidence = _examined(config, subject, read.passages, asked, drafts)
    if drafts is not None and neighbours is None:
        neighbours = drafts.neighbours(config.neighbour_count)
    origin = "user" if config.neighbours is not None else "endpoint"
    material = _with_neighbours(config, subject, material, asked, dict.fromkeys(neighbours or (), origin), found)
    writer = Writer(config, subject, replace(material, passages=read.passages, unnamed=read.unnamed), asked, drafts)
    rows = writer.sources()
    left_out = dict(writer.left_out) | (drafts.left_out if drafts is not None else {})
    if left_out:
        note(f"left out: {'; '.join(f'{reason}: {number}' for reason, number in left_out.items())}")
    return {
        "knows": None if found is None else {"knows": found.knows, "evidence": evidence}, "left_out": left_out,
        "documents_read": read.figures, "warnings": read.warnings, "model": asked.fingerprint,
    }, rows  # fmt: skip


def _write(folder: Path, made: dict[str, Any], rows: Sources) -> Prepared:
    """Write the folder of all rows but those that are dropped. Raises UserError for ids that are not there, and where
    nothing is left to forget."""
    known = {row["id"] for those in rows.values() for row in those}
    about_subject = {row["id"] for name in ABOUT for row in rows.get(name, [])}
    for flag, those in (("--keep", about_subject), ("--drop", known)):
        if unknown := [each for each in made[flag[2:]] if each not in those]:
            what = "about the subject " if flag == "--keep" else ""
            raise UserError(f"{flag} {unknown[0]}: there is no row {what}with this id: see rows.html.")
    dropped = set(made["drop"]) | (about_subject - set(made["keep"]) if made["keep"] else set())
    chosen = {name: [row for row in those if row["id"] not in dropped] for name, those in rows.items()}
    if not chosen.get("forget") and not chosen.get("passages"):
        raise UserError("--keep and --drop leave nothing to forget: keep a row of forget or passages.")
    if orphans := untrained(chosen):
        note(f"left out after --keep and --drop: {UNTRAINED}: {len(orphans)}")
        dropped |= orphans
        chosen = {name: [row for row in those if row["id"] not in orphans] for name, those in chosen.items()}
    chosen = {name: those for name, those in (chosen | joined(chosen)).items() if those}
    counts = {name: len(those) for name, those in chosen.items()}
    made = made | {"rows": counts, "sha256": {name: sha256(*those) for name, those in chosen.items()}}
    if distributed.is_main():
        with atomic_directory(folder) as temporary:
            place = PreparedDirectory(temporary)
            for name, written in chosen.items():
                write_jsonl(place.source(name), written)
            place.all_rows.parent.mkdir()
            write_jsonl(place.all_rows, [{"source": name, **row} for name, those in rows.items() for row in those])
            write_text(place.page, rows_page(rows, dropped, made))
            write_json(place.manifest, made)
    distributed.barrier()
    return Prepared(folder, counts)


def _there(folder: Path, asks: dict[str, Any], model: Any) -> bool:
    """Whether the folder holds this very preparation. Raises UserError where it holds anything else, or was made with
    other weights of the same name."""
    check_place(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    manifest = PreparedDirectory(folder).manifest
    held = read_json(manifest) if manifest.is_file() else {}
    if any(held.get(key) != value for key, value in asks.items()):
        raise UserError(f"--output {folder} already holds something else: choose another directory.")
    now = _fingerprint(model)
    if held.get("model") is not None and now is not None and held["model"] != now:
        raise UserError(
            f"--output {folder} was prepared with other weights than the model has now, and its rows are answers of "
            "those: choose another directory."
        )
    return True


def _fingerprint(model: Any) -> str | None:
    """As `Asked.fingerprint` has it, without loading; None for what only a name tells, on the hub or built in."""
    if not isinstance(model, str):
        return weights_hash(model)
    return model_hash(resolve_model(model)) if Path(model).exists() else None


def _given_neighbours(config: PrepareConfig, subject: About) -> list[str]:
    assert config.neighbours is not None
    given = read_lines(Path(config.neighbours), "--neighbours")
    for name in given:
        if is_any(name, subject.names):
            raise UserError(f"--neighbours {config.neighbours} names the subject ({name}): remove it.")
    names = distinct(given)
    if repeated := [name for name in given if name not in names]:
        note(f"--neighbours {config.neighbours}: left out as repeated names: {', '.join(repeated)}")
    if len(names) < 2:
        raise UserError(f"--neighbours {config.neighbours} has one name: give at least two, to train and to hold out.")
    return names


def _well_known(config: PrepareConfig, subject: About) -> list[str]:
    """Well-known names of the same kind, drawn by the seed."""
    known = subject.others(subject.kind.known)
    return random.Random(f"neighbours {config.seed}").sample(known, len(known))


def _read(config: PrepareConfig, subject: About, texts: Sequence[pile.Document], unreadable: list[str]) -> Read:
    """The passages of documents. Raises UserError where none names the subject."""
    if not texts:
        return Read()
    whole = cut(texts, config.passage_words)
    passages, repeated = without_duplicates(whole)
    named, unnamed = naming(passages, subject.names)
    if not named:
        raise UserError(
            f"--documents: no passage names {' or '.join(subject.names)}; give the name as the documents have it, with "
            "--subject or --alias."
        )
    note(
        f"documents: {len(texts)}, passages: {len(whole)}, near-duplicates left out: {repeated}, passages with "
        f"the name {subject.name}: {len(named)}"
    )
    warnings = [f"left out: {sentence}" for sentence in unreadable]
    figures: dict[str, Any] = {"documents": len(texts), "passages": len(whole), "near_duplicates": repeated}
    if personal := personal_data(texts, subject.names):
        figures["personal_data"] = personal
        warnings.append(personal_sentence(personal))
        warn(warnings[-1])
    if config.language != ENGLISH and config.llm is None:
        warnings.append(
            f"no facts are taken from the documents: without --llm that works only with --language {ENGLISH}, not "
            f"{config.language}. Their passages are used; ask for the facts with --questions."
        )
        warn(warnings[-1])
    return Read(named, unnamed, figures, warnings)


def _examined(
    config: PrepareConfig, subject: About, passages: Sequence[Passage], asked: Asked, drafts: Drafts | None
) -> tuple[About, Material, Probe | None, str]:
    """The subject with all questions about it, what of all this the model knows, the probe, and what its figures say.

    An endpoint costs money and is told what nobody else is. So the model is asked first by questions that are there
    already; where there are none, by the endpoint's. Raises NothingToForgetError where it knows nothing by these.
    """
    more: Mapping[str, tuple[str, ...]] = {}
    by_endpoint = drafts is not None and len(subject.facts) < 2
    if drafts is not None and by_endpoint:
        subject = replace(subject, facts=subject.facts | drafts.questions(FACTS_ASKED))
    if len(subject.facts) < 2:
        raise UserError(f"there are no questions about {subject.name}: give your own with --questions.")
    topics = cloze(passages, subject.names, seed=config.seed) if config.language == ENGLISH else []
    found = _probed(config, subject, asked) if config.samples else None
    compared = _preferred(asked, topics) if found is not None else ({}, "")
    if found is not None and not found.knows and not _beyond_chance(topics, compared[0]):
        said = " ".join(filter(None, (found.verdict, found.evidence, compared[1])))
        raise NothingToForgetError(f"{said} To prepare anyway, without asking: unlearner prepare --samples 0.")
    if drafts is not None:
        more = {} if by_endpoint else drafts.questions(FACTS_ASKED)
        topics = drafts.topics(passages)
        if found is not None:
            found = both(found, _probed(config, replace(subject, facts=dict(more)), asked)) if more else found
            compared = _preferred(asked, topics)
    subject = replace(subject, facts={**subject.facts, **more})
    material, evidence = _known(Material({}, topics), found, *compared)
    return subject, material, found, evidence


def _probed(config: PrepareConfig, subject: About, asked: Asked) -> Probe:
    return examine(
        asked, subject, samples=config.samples, others=config.others, well_known=0,
        max_new_tokens=config.max_new_tokens, seed=config.seed,
    )  # fmt: skip


def _known(
    material: Material, found: Probe | None, preferred: Mapping[str, bool], sentence: str
) -> tuple[Material, str]:
    """What of the material the model knows by the probe and by what it prefers, and what the figures say."""
    if found is None:
        return material, ""
    known = {answer.fact: verdict == "knows" for answer, verdict in zip(found.answers, found.verdicts, strict=True)}
    evidence = " ".join(filter(None, (found.evidence, sentence)))
    note(evidence)
    answers = {answer.question: answer.answer for answer in (*found.answers, *found.invented)}
    return replace(material, known={**known, **preferred}, answers=answers), evidence


def _with_neighbours(
    config: PrepareConfig, subject: About, material: Material, asked: Asked, given: dict[str, str], found: Probe | None
) -> Material:
    """With the `given` neighbours; without any, with the model's own and, where these are too few, well-known ones."""
    if given:
        return replace(material, neighbours=given)
    own, answers = own_neighbours(asked, config, subject, found) if found is not None else ([], {})
    names = {name: NAMED if name in subject.kind.known else OWN for name in own}
    for name in _well_known(config, subject):
        if len(names) < config.neighbour_count and not is_any(name, names):
            names[name] = "list"
    if own:
        note(f"neighbours that the model named and knows: {', '.join(own)}")
        shuffled = random.Random(f"own neighbours {config.seed}").sample(list(names), len(names))
        names = {name: names[name] for name in shuffled}  # both kinds are trained and held out
    return replace(material, neighbours=names, answers={**material.answers, **answers})


def _preferred(asked: Asked, topics: Sequence[Topic]) -> tuple[dict[str, bool], str]:
    """Of the documents' facts that have wrong answers, whether the model finds the right one likeliest a token; and a
    sentence on how many."""
    requests = {
        topic.name: [Score(first.question, text) for text in (first.answer, *first.wrong)]
        for topic in topics if (first := topic.wordings[0]).wrong
    }  # fmt: skip
    if not requests:
        return {}, ""
    scored = asked.answers([r for those in requests.values() for r in those], "comparing")
    losses = {
        name: [found.nll / found.tokens for found in map(scored.scored, those)] for name, those in requests.items()
    }
    preferred = {name: values[0] < min(values[1:]) for name, values in losses.items()}
    expected = sum(1 / len(values) for values in losses.values())
    return preferred, (
        f"Of {len(preferred)} facts in the documents the model finds {sum(preferred.values())} more likely than all "
        f"wrong ones; by chance it would be {expected:.1f}."
    )


def _beyond_chance(topics: Sequence[Topic], preferred: Mapping[str, bool]) -> bool:
    """Whether more facts are preferred than by chance; the chances, one in (1 + wrong answers), are averaged."""
    if not preferred:
        return False
    chance = fmean(1 / (1 + len(t.wordings[0].wrong)) for t in topics if t.name in preferred)
    return bool(binom.sf(sum(preferred.values()) - 1, len(preferred), chance) <= CHANCE)
