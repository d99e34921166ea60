"""Pages to look through: all rows that were prepared, and what a probe found.

Self-contained, in the looks of the report. Texts of models, documents and users reach a page through jinja2's
autoescape only; a content security policy forbids every request and every other script.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlearner.files import is_page
from unlearner.pages import script_hash, template
from unlearner.prepare.facts import Row
from unlearner.prepare.knowledge import Probe
from unlearner.version import __version__

GENERATOR = "unlearner prepare"
PROBE = Path("probe.html")
SOURCES = {
    "forget": "questions about the subject to train on",
    "unseen_wordings": "other wordings of questions about trained facts, held out",
    "unseen_facts": "other facts about the subject, held out",
    "unseen_aliases": "trained facts, asked with another name of the subject, held out",
    "passages": "passages of the documents that name the subject, for untargeted methods",
    "passages_unnamed": "passages that do not name the subject; used only if you name them yourself",
    "neighbours": "other names of the same kind, to train on and keep",
    "neighbours_held_out": "other names of the same kind, held out",
    "general": "general knowledge, to train on and keep",
    "general_held_out": "general knowledge, held out",
    "controls": "invented names with answers that are true of nobody",
}
ORIGINS = ("neighbour_from", "question_from", "answer_from", "paraphrased_from", "perturbed_from", "text_from")


def is_ours(page: Path) -> bool:
    """Whether a page may be written there: nothing is there, or one of these pages."""
    return not page.exists() or is_page(page, GENERATOR)


def rows_page(rows: Mapping[str, Sequence[Row]], dropped: set[str], made: Mapping[str, Any]) -> str:
    """All rows by source; those in `dropped` are struck through."""
    options = made["options"]
    about = {"Subject": ", ".join((options["subject"], *options["alias"])), "Model": options["model"]}
    if made["knows"]:
        about["What it knows"] = made["knows"]["evidence"]
    if options["documents"]:
        about["Documents"] = ", ".join(options["documents"])
    if options["llm"]:
        about["Endpoint"] = options["llm"]
    if made["left_out"]:
        about["Left out"] = ", ".join(f"{number} {reason}" for reason, number in made["left_out"].items())
    sections = [
        {"name": name, "what": SOURCES[name], "rows": [_shown(row, row["id"] in dropped) for row in those]}
        for name, those in rows.items()
    ]
    return _render(
        "rows.html.jinja", command="unlearner prepare", title=f"Rows about {options['subject']}", about=about,
        sections=sections,
        warnings=made["warnings"], dropped=sorted(dropped), kept=bool(made["keep"]),
    )  # fmt: skip


def probe_page(found: Probe, options: Mapping[str, Any]) -> str:
    """Every answer with its figures and samples, beside those about other names."""
    about = {"Subject": ", ".join((found.subject, *options["alias"])), "Model": options["model"]}
    groups = [
        ("The subject", "questions about the subject", found.answers),
        ("Well-known names", "the same questions about names that most models know", found.known),
        ("Invented names", "the same questions about names that nobody can know", found.invented),
    ]
    return _render(
        "probe.html.jinja", command="unlearner probe", title=f"What is known about {found.subject}?", about=about,
        verdict=found.verdict,
        evidence=found.evidence,
        groups=[(title, what, [(a, found.scale.verdict(a)) for a in answers]) for title, what, answers in groups],
    )  # fmt: skip


def _shown(row: Row, dropped: bool) -> dict[str, Any]:
    return {
        "id": row["id"], "dropped": dropped, "question": row.get("question"),
        "text": row.get("answer", row.get("text")),
        "fact": row.get("fact"), "known": row.get("known"), "paraphrase": row.get("paraphrased_answer"),
        "wrong": row.get("perturbed_answer", []),
        "origins": [(key.removesuffix("_from"), row[key]) for key in ORIGINS if key in row],
    }  # fmt: skip


def _render(name: str, **values: Any) -> str:
    here = files("unlearner")
    script = "".join(here.joinpath(name).read_text(encoding="utf-8") for name in ("report/theme.js", "prepare/page.js"))
    style = [here.joinpath(name).read_text(encoding="utf-8") for name in ("report/report.css", "prepare/page.css")]
    return template("unlearner.prepare", name).render(
        generator=f"{GENERATOR} {__version__}", style=Markup("\n".join(style)), script=Markup(script),
        script_hash=script_hash(script), **values,
    )  # fmt: skip
