"""From names to one folder of sources: `prepare` for each subject, joined where they are several."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearner.config import PrepareConfig
from unlearner.console import note
from unlearner.errors import UserError
from unlearner.files import atomic_directory, read_json, read_jsonl, write_json, write_jsonl, write_text
from unlearner.prepare.facts import TRAINED, Row
from unlearner.prepare.kinds import PERSONS
from unlearner.prepare.prepare import prepare
from unlearner.prepare.rows import Sources, held_apart, joined
from unlearner.prepare.subject import about, is_any, read_lines, speaks_of
from unlearner.results.prepared import PreparedDirectory
from unlearner.results.subjects import SubjectDirectory
from unlearner.search.config import PREPARING, ForgetCommand

GENERAL = 180
"""Questions of general knowledge, a third of them held out: more than `prepare` takes, since the aim is to keep 95% of
those that were answered."""
NEEDED = ("forget", "retain", "subject", "unseen_wordings", "neighbours_held_out", "general_held_out")
"""Sources that a search needs."""

REMEDY = dict.fromkeys(NEEDED, "prepare it again, with more questions (unlearner prepare --questions)") | {
    "unseen_wordings": f"{TRAINED} wordings of a question are trained on, and any others held out, so prepare it "
    f"again with at least {TRAINED + 1} wordings of one question, separated by | on its line (unlearner prepare "
    "--questions)"
}
"""What to do where one is missing."""

Names = tuple[str, ...]
"""A subject's name, its other names after it."""


def names_of(command: ForgetCommand) -> list[Names]:
    """The subjects that the options name. Raises UserError for what is no name, and for one that is there twice."""
    if command.subjects is not None:
        lines = read_lines(Path(command.subjects), "--subjects")
        found = [tuple(part.strip() for part in line.split("|") if part.strip()) for line in lines]
    elif command.prepared:
        made = [_manifest(Path(folder)) for folder in command.prepared]
        found = [(held["options"]["subject"], *held["options"]["alias"]) for held in made]
    else:
        found = [(name.strip(), *(command.alias if len(command.subject) == 1 else ())) for name in command.subject]
    for names in filter(None, found):
        if not command.prepared:
            about(
                _preparation(command, names, ""), endpoint=command.llm is not None
            )  # too short a name, or an unknown kind
    first = [names[0].casefold() for names in found if names]
    if len(set(first)) < len(found):
        raise UserError("a subject is named twice, or a line of --subjects has no name: leave it out.")
    return found


def sources(command: ForgetCommand, subjects: list[Names], tokenizer: Any) -> Path:
    """The folder with the sources of all subjects, made where it is not there. Raises UserError, and
    NothingToForgetError for a subject that the model does not know."""
    place = SubjectDirectory(Path(command.output))
    folders = [Path(folder) for folder in command.prepared]
    if not folders:
        neighbours = command.neighbours if len(subjects) == 1 else str(_neighbours(command, subjects, place))
        for number, names in enumerate(subjects, start=1):
            folder = place.data if len(subjects) == 1 else place.prepared(number)
            config = replace(_preparation(command, names, str(folder)), neighbours=neighbours)
            folders.append(prepare(config, tokenizer=tokenizer).folder)
    if len(folders) > 1:
        _join(folders, place)
        folders = [place.data]
    missing = [name for name in NEEDED if not PreparedDirectory(folders[0]).source(name).is_file()]
    if missing:
        raise UserError(
            f"{folders[0]} has no source {missing[0]}, which --subject needs for measuring: {REMEDY[missing[0]]}."
        )
    return folders[0]


def _preparation(command: ForgetCommand, names: Names, output: str) -> PrepareConfig:
    """What is to be prepared; rows that were dropped from a folder that is there stay dropped."""
    manifest = PreparedDirectory(Path(output)).manifest
    held = read_json(manifest) if output and manifest.is_file() else {}
    return PrepareConfig(
        model=command.model, template=command.template, parallel=command.parallel, seed=command.seed,
        precision=command.precision, trust_remote_code=command.trust_remote_code, max_length=command.max_length,
        subject=names[0], alias=list(names[1:]), kind=command.kind, neighbours=command.neighbours, output=output,
        general_count=GENERAL, keep=held.get("keep", []), drop=held.get("drop", []),
        **{name: getattr(command, name) for name in PREPARING},
    )  # fmt: skip


def _manifest(folder: Path) -> Any:
    try:
        held = read_json(PreparedDirectory(folder).manifest)
        if held["options"]["subject"] and held["rows"]:
            return held
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"--prepared {folder} was not made by unlearner prepare: check the path.")


def _neighbours(command: ForgetCommand, subjects: list[Names], place: SubjectDirectory) -> Path:
    """A file of names to be kept with several subjects: none of the others may be among them."""
    everybody = tuple(name for names in subjects for name in names)
    if command.neighbours is not None:
        given = read_lines(Path(command.neighbours), "--neighbours")
        if wrong := [name for name in given if is_any(name, everybody)]:
            raise UserError(f"--neighbours {command.neighbours} names a subject ({wrong[0]}): remove it.")
        return Path(command.neighbours)
    config = _preparation(command, subjects[0], "")
    subject = replace(about(config, endpoint=command.llm is not None), names=everybody)
    known = subject.others(subject.kind.known)
    chosen = random.Random(f"neighbours {command.seed}").sample(known, min(config.neighbour_count, len(known)))
    place.path.mkdir(parents=True, exist_ok=True)
    write_text(place.neighbours, "".join(f"{name}\n" for name in chosen))
    return place.neighbours


def begun_otherwise(place: SubjectDirectory, data: Path | str) -> UserError:
    """What is told where a search went on with something else than it began with."""
    return UserError(
        f"--output {place.path} was begun with another model, or other rows in {data}: choose another directory."
    )


def _join(folders: list[Path], place: SubjectDirectory) -> None:
    """Write the rows of all folders, where they are not what was joined before. Raises UserError where these were
    worked with already."""
    about_each = [_manifest(folder)["options"] for folder in folders]
    rows, left_out = _joined(folders, about_each)
    if place.data.is_dir() and _rows(place.data) == rows:
        return
    if place.manifest.is_file():
        raise begun_otherwise(place, " or ".join(map(str, folders)))
    if left_out:
        note(f"left out when joining: {', '.join(f'{number} {reason}' for reason, number in left_out.items())}")
    names = [name for each in about_each for name in (each["subject"], *each["alias"])]
    with atomic_directory(place.data) as temporary:
        made = PreparedDirectory(temporary)
        for name, held in rows.items():
            write_jsonl(made.source(name), held)
        counts = {name: len(held) for name, held in rows.items()}
        about_all = {"model": about_each[0].get("model"), "subject": names[0], "alias": names[1:]}
        write_json(made.manifest, {"options": about_all, "rows": counts, "left_out": left_out})


def _joined(folders: list[Path], about_each: list[Any]) -> tuple[Sources, dict[str, int]]:
    """The rows of all folders, source by source, each once: of what is kept only what speaks of no subject, of what is
    held out only what is trained for none. And how many rows about the subjects this leaves out, by reason."""
    rows: Sources = {}
    for folder in folders:
        for name, held in _rows(folder).items():
            rows.setdefault(name, []).extend(held)
    for name, held in rows.items():
        once = {row["id"]: row for row in held}.values()
        kept = name.startswith(("neighbours", "general"))
        rows[name] = [row for row in once if not (kept and _speaks_of_any(row, about_each))]
    rows, left_out = held_apart(rows)
    # What one subject is taught to keep is not held out for another.
    taught = {row["id"] for row in rows.get("general", [])}
    rows["general_held_out"] = [row for row in rows.get("general_held_out", []) if row["id"] not in taught]
    known = {row["subject"] for row in rows.get("neighbours", [])}
    rows["neighbours_held_out"] = [r for r in rows.get("neighbours_held_out", []) if not is_any(r["subject"], known)]
    return {name: held for name, held in (rows | joined(rows)).items() if held}, dict(left_out)


def _speaks_of_any(row: Row, about_each: list[Any]) -> bool:
    """Whether a row speaks of one of the subjects; those of a folder that was joined itself have no kind."""
    text = f"{row['question']} {row['answer']}"
    return any(
        speaks_of(text, (each["subject"], *each["alias"]), persons=each.get("kind") in PERSONS, own=row["subject"])
        for each in about_each
    )


def _rows(folder: Path) -> Sources:
    place = PreparedDirectory(folder)
    return {name: read_jsonl(place.source(name)) for name in read_json(place.manifest)["rows"]}
