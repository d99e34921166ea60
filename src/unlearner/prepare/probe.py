"""What does this model know of this subject? Nothing is trained and, without an output file, nothing written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearner import distributed
from unlearner.config import ProbeConfig
from unlearner.errors import UserError
from unlearner.files import write_json
from unlearner.prepare.asking import Asked
from unlearner.prepare.knowledge import Answered, Scale, investigate
from unlearner.prepare.subject import about
from unlearner.results.run import check_place, resolved


@dataclass(frozen=True)
class Probe:
    """What was found. `known` and `invented` are the same questions about names that most models know, and that none
    can."""

    subject: str
    answers: list[Answered]
    known: list[Answered]
    invented: list[Answered]
    scale: Scale

    @property
    def verdicts(self) -> list[str]:
        """Of every answer: knows, guesses, or makes up."""
        return [self.scale.verdict(answer) for answer in self.answers]

    @property
    def knows(self) -> bool:
        """Whether there is something to forget: more of the answers are known than such a scale lets pass by chance,
        which is one in ten."""
        return self.verdicts.count("knows") > max(1, 0.2 * len(self.answers))

    def share_known(self, answers: Sequence[Answered]) -> float:
        """How many of the answers are known by this scale, 0 to 1."""
        return fmean(self.scale.verdict(answer) == "knows" for answer in answers)


def probe(config: ProbeConfig, *, tokenizer: Any = None) -> Probe:
    """Ask the model about the subject, and the same about others. Raises UserError."""
    config.check()
    subject = about(config)
    if config.output is not None:
        check_place(Path(config.output).absolute().parent)
        if Path(config.output).is_dir():
            raise UserError(f"--output {config.output} is a directory: give the name of a JSON file.")
    invented = subject.others(subject.kind.invented)[: config.others]
    known = subject.others(subject.kind.known)[: config.others]
    names = {subject.name: subject.names[1:]} | dict.fromkeys((*known, *invented), ())
    wordings = {fact: wordings[0] for fact, wordings in subject.facts.items()}
    said = investigate(
        Asked(config, tokenizer), names, wordings, invented,
        samples=config.samples, max_new_tokens=config.max_new_tokens, seed=config.seed,
    )  # fmt: skip
    controls = [a for name in invented for a in said[name]]
    found = Probe(
        subject.name, said[subject.name], [a for name in known for a in said[name]], controls, Scale.of(controls)
    )
    if config.output is not None and distributed.is_main():
        rows = [asdict(a) | {"verdict": v} for a, v in zip(found.answers, found.verdicts, strict=True)]
        write_json(
            Path(config.output),
            {
                "options": resolved(config), "knows": found.knows, "answers": rows, "scale": asdict(found.scale),
                "known": list(map(asdict, found.known)), "invented": list(map(asdict, found.invented)),
            },
        )  # fmt: skip
    return found
