"""What does this model know of this subject? Nothing is trained and, without an output file, nothing written."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unlearner import distributed
from unlearner.config import ProbeConfig
from unlearner.errors import UserError
from unlearner.files import space_errors, write_json, write_text
from unlearner.prepare.asking import Asked
from unlearner.prepare.knowledge import Answered, Probe, Scale, investigate
from unlearner.prepare.page import PROBE, is_ours, probe_page
from unlearner.prepare.subject import About, about
from unlearner.results.prepared import is_probe
from unlearner.results.run import check_place
from unlearner.settings import resolved
from unlearner.training.interrupt import time_limit


def probe(config: ProbeConfig, *, tokenizer: Any = None) -> Probe:
    """Ask the model about the subject, and the same about others. Raises UserError."""
    with time_limit(config.time_limit):
        return _probed(config, tokenizer)


def _probed(config: ProbeConfig, tokenizer: Any) -> Probe:
    config.check()
    subject = about(config)
    output = None if config.output is None else Path(config.output)
    if output is not None:
        _check_file(output)
    found = examine(
        Asked(config, tokenizer), subject, samples=config.samples, others=config.others, well_known=config.others,
        max_new_tokens=config.max_new_tokens, seed=config.seed,
    )  # fmt: skip
    if output is not None and distributed.is_main():
        rows = [asdict(a) | {"verdict": v} for a, v in zip(found.answers, found.verdicts, strict=True)]
        with space_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            output,
            {
                "options": resolved(config), "knows": found.knows, "answers": rows, "scale": asdict(found.scale),
                "known": list(map(asdict, found.known)), "invented": list(map(asdict, found.invented)),
            },
        )  # fmt: skip
        write_text(output.with_suffix(PROBE.suffix), probe_page(found, resolved(config)))
    return found


def _check_file(file: Path) -> None:
    """Raises UserError where no file can be written, or one that no probe wrote is in the place."""
    check_place(file.absolute().parent)
    page = file.with_suffix(PROBE.suffix)
    try:
        if file.is_dir() or file == page:
            raise UserError(f"--output {file} must name a JSON file, such as {file.with_suffix('.json').name}.")
        if file.is_symlink() and not file.exists():
            raise UserError(f"--output {file} is a link to nothing: choose another file.")
        if file.exists() and not is_probe(file):
            raise UserError(f"--output {file} exists and was not written by a probe: choose another file.")
        if not is_ours(page):
            raise UserError(f"{page} already exists: choose another --output.")
    except OSError as error:
        raise UserError(f"--output {file} cannot be used ({error.strerror}): choose another file.") from error


def examine(
    asked: Asked, subject: About, *, samples: int, others: int, well_known: int, max_new_tokens: int, seed: int
) -> Probe:
    """Ask about the subject, about `others` invented names, and about `well_known` ones that the model may know; about
    the last two only once, as long as the cache is there."""
    invented = subject.others(subject.kind.invented)[:others]
    known = subject.others(subject.kind.known)[:well_known]
    wordings = {fact: wordings[0] for fact, wordings in subject.facts.items()}

    def said(names: Mapping[str, tuple[str, ...]], *, keep: bool) -> list[Answered]:
        found = investigate(
            asked, names, wordings, invented, samples=samples, max_new_tokens=max_new_tokens, seed=seed, keep=keep,
            persons=subject.kind.persons,
        )  # fmt: skip
        return [answer for name in names for answer in found[name]]

    answers = said({subject.name: subject.names[1:]}, keep=False)
    controls = said(dict.fromkeys(invented, ()), keep=True)
    others_known = said(dict.fromkeys(known, ()), keep=True) if known else []
    return Probe(subject.name, answers, others_known, controls, Scale.of(controls))


def both(first: Probe, second: Probe) -> Probe:
    """Of the same subject and names by other questions, as if all had been asked at once."""
    answers, known, invented = (
        [*getattr(first, name), *getattr(second, name)] for name in ("answers", "known", "invented")
    )
    return Probe(first.subject, answers, known, invented, Scale.of(invented))
