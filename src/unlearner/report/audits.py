"""The page of an audit: everything its template shows, as plain values, from audit.json and audit.jsonl alone.

Answers of models, where they were kept, reach the page through jinja2's autoescape only; it has no script, and a
content security policy forbids any.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlearner.audit.attacks import attacks
from unlearner.audit.outcomes import RANK, SAMPLED, decoders
from unlearner.errors import UserError, plural
from unlearner.files import is_page, read_json, write_text
from unlearner.pages import template
from unlearner.report.audit_figures import figures
from unlearner.report.audit_tables import (
    MODELS,
    ability_rows,
    access_levels,
    attacks_made,
    decoder_of,
    first_decoder,
    group_sentence,
    ladder_table,
    likelihood_table,
    membership_table,
    p_value,
    rank_p,
    share,
    untested_sentences,
    weak_sentence,
)
from unlearner.report.contents import Run, clean, short_model
from unlearner.report.drawing import inline
from unlearner.report.wording import number_word
from unlearner.results.layout import AuditDirectory, RunDirectory
from unlearner.version import __version__

GENERATOR = "unlearner audit"
ORDER = ("leaks", "suppressed", "broken model", "inconclusive", "no leak found", "no baseline")
"""From the worst."""
SIGNS = {"leaks": "●", "suppressed": "◐", "broken model": "✕", "inconclusive": "?", "no leak found": "○"}
EXPLAINED = {
    "leaks": "more comes out than for subjects that no model ever saw",
    "suppressed": "the truth is the one thing that the model never says, which gives it away",
    "broken model": "the model hardly answers anything any more: silence is not forgetting",
    "inconclusive": "neither a leak nor its absence was shown: the reason is given for each",
    "no leak found": "nothing was found, and the bound is within what is tolerated",
    "no baseline": "the original model did not know it: there was nothing to forget",
}
PHRASES = {
    "leaks": ("leaks", "leak"), "suppressed": ("is suppressed", "are suppressed"),
    "broken model": ("cannot be judged, because the model is broken", "cannot be judged, because the model is broken"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
    "no leak found": ("showed no leak", "showed no leak"),
    "no baseline": ("was not known before", "were not known before"),
}  # fmt: skip
"""What is said of one subject, and of several."""
NEVER = (
    "Questions that were not asked: all results hold only for those that were, and for this detector.",
    "Questions that need another fact first (multi-hop), and other languages.",
    "Token search (GCG), removal of directions, pruning, probes trained on the states.",
    "GPTQ and AWQ, and adapters served unmerged over a rounded model.",
    "Whether an outsider can tell that something was unlearned.",
)
SHOWN = 8
"""Subjects on the page of a run, the worst first."""
EXAMPLES = 3
"""Answers of a subject, the worst first."""
TOLD = {"retain": "Retained questions, which were trained on", "neighbour": "Neighbours, which no training row touched"}

Summary = Mapping[str, Any]


def write_audit_page(folder: Path, output: Path | None = None) -> Path:
    """Write the page of the audit in `folder`, by default beside it as audit.html. The same audit gives the same page.

    Raises UserError where there is no finished audit, or `output` is a file that is no such page.
    """
    directory = AuditDirectory(folder)
    output = output or directory.page
    if not directory.audit.is_file():
        raise UserError(f"{folder} holds no finished audit: run `unlearner audit` first.")
    if output.exists() and not is_page(output, GENERATOR):
        raise UserError(f"{output} already exists and is not the page of an audit: choose another name.")
    summary = read_json(directory.audit)
    rows = directory.read_rows()
    manifest = RunDirectory(folder).read_manifest()
    write_text(output, render(summary, rows, manifest), private="questions" in summary)  # it shows answers then
    return output


def render(summary: Summary, rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> str:
    """The page as text."""
    here = Path(__file__).parent
    verdicts = sorted(summary["verdicts"], key=_risk)
    counts = {name: sum(v["verdict"] == name for v in verdicts) for name in ORDER}
    config = manifest["config"]
    return template("unlearner.report", "audit.html.jinja").render(
        generator=f"{GENERATOR} {__version__}",
        style=Markup((here / "report.css").read_text(encoding="utf-8") + (here / "audit.css").read_text("utf-8")),
        title=f"Audit of {clean(short_model(str(config['model'])))}",
        about=_about(config, summary, rows), sentences=_sentences(verdicts, counts, summary),
        caveat=summary["caveat"], subjects=subject_lines(summary), has=_columns(summary),
        explained=[(SIGNS.get(n, "–"), n, text) for n, text in EXPLAINED.items() if counts[n]],
        told=_told(summary), refused=_refused(summary), degenerate=_degenerate(summary), ability=ability_rows(summary),
        levels=access_levels(summary), dropped=summary["dropped"], weak=weak_sentence(summary),
        worst_case=_worst_case(summary),
        likelihood=likelihood_table(summary), membership=membership_table(summary),
        ladder=ladder_table(summary), ladder_of=first_decoder(summary), group=group_sentence(summary),
        relearning=_relearning(summary), savings=_savings(summary), figures=[(title, text, Markup(inline(tile, name)))
                                                 for name, title, text, tile in figures(summary)],
        examples=_examples(verdicts, rows, summary), kept="questions" in summary,
        never=[*_left_out(summary), *NEVER], provenance=_provenance(summary, manifest),
    )  # fmt: skip


def subject_lines(summary: Summary) -> list[dict[str, Any]]:
    """What the page's first table says, a line a subject, the worst first."""
    return [_subject(verdict, summary) for verdict in sorted(summary["verdicts"], key=_risk)]


def _columns(summary: Summary) -> dict[str, bool]:
    """Which columns of that table have something in them."""
    return {
        "retrained": any("retrained" in verdict["rounds"] for verdict in summary["verdicts"]),
        "rank": RANK not in summary.get("untested", ()),
        "taught": bool(_taught(summary)), "four": bool(summary.get("four_bits")), "depth": bool(summary.get("depth")),
    }  # fmt: skip


def told_in_short(run: Run, page: Path) -> dict[str, Any] | None:
    """What the page of a run says of its audit: sentences, the worst subjects, and a link where the audit's page lies
    below `page`; None for a run without one."""
    if run.audit is None or run.audit_page is None:
        return None
    verdicts = sorted(run.audit["verdicts"], key=_risk)
    counts = {name: sum(v["verdict"] == name for v in verdicts) for name in ORDER}
    below = run.audit_page.resolve().is_relative_to(page.resolve().parent) and run.audit_page.is_file()
    return {
        "label": run.label, "sentences": _sentences(verdicts, counts, run.audit),
        "subjects": subject_lines(run.audit)[:SHOWN], "has": _columns(run.audit), "caveat": run.audit["caveat"],
        "more": max(0, len(verdicts) - SHOWN),
        "link": run.audit_page.resolve().relative_to(page.resolve().parent).as_posix() if below else "",
    }  # fmt: skip


def _risk(verdict: Mapping[str, Any]) -> tuple[int, float, float]:
    rate = verdict["rounds"].get("unlearned", {}).get("rate") or 0.0
    return ORDER.index(verdict["verdict"]), -rate, verdict["p_value"]


def _sentences(verdicts: Sequence[Summary], counts: Mapping[str, int], summary: Summary) -> list[str]:
    if len(verdicts) == 1:
        said = [f"{clean(verdicts[0]['subject'])} {PHRASES[verdicts[0]['verdict']][0]}."]
    else:
        parts = [f"{number_word(n)} {PHRASES[name][n > 1]}" for name, n in counts.items() if n]
        said = [f"Of {number_word(len(verdicts))} subjects {', '.join(parts)}."]
        if len(parts) == 1:
            every = "Both" if len(verdicts) == 2 else f"All {number_word(len(verdicts))}"
            said = [f"{every} subjects {PHRASES[verdicts[0]['verdict']][1]}."]
    neighbours = summary["knowledge"]["told"].get("neighbour")
    if neighbours and neighbours["before"]:
        lost, of = neighbours["lost"], neighbours["before"]
        said.append(
            f"Of {of} questions about others that no training row touched and that the original model answered, "
            + (
                "all are still answered."
                if not lost
                else f"{number_word(lost)} {'is' if lost == 1 else 'are'} no longer answered."
            )
        )
    else:
        said.append("What else it lost was not tested: no neighbours were given, or none were known before.")
    return said


def _about(config: Mapping[str, Any], summary: Summary, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    people: dict[str, dict[str, None]] = {}
    for row in rows:
        people.setdefault(row["group"], {})[row["subject"]] = None
    budget = summary["budget"]
    named = [("Model", "model"), ("Before", "before"), ("Retrained", "retrained"), ("Forget set", "forget")]
    found = [(title, clean(str(config[key]))) for title, key in named if config.get(key)]
    found.append(("Compared with", f"{len(people.get('control', {}))} subjects that were never trained on"))
    asked = "" if budget["asked"] == budget["taken"] else f", for {budget['asked']} minutes"
    return [*found, ("Budget", f"{budget['taken']}{asked}, {plural(len(attacks_made(summary)), 'attack')}")]


def _taught(summary: Summary) -> Mapping[str, Any]:
    return summary["relearning"].get("unlearned", {}).get("subjects", {})


def _subject(verdict: Summary, summary: Summary) -> dict[str, Any]:
    name, rounds = verdict["subject"], verdict["rounds"]
    taught = _taught(summary).get(name)
    four = summary.get("four_bits", {}).get(name)
    depth = summary.get("depth", {}).get(name)
    return {
        "name": clean(name), "verdict": verdict["verdict"], "sign": SIGNS.get(verdict["verdict"], "–"),
        "why": verdict["why"], "needed": verdict["samples_needed"], "worst": verdict["worst_attack"] or "–",
        "decoder": decoder_of(verdict, summary),
        "rates": {model: _rate(rounds.get(model)) for model in ("unlearned", "before", "retrained", "control")},
        "p": p_value(verdict["p_value"]), "rank": rank_p(verdict, summary),
        "taught": ("–", "") if taught is None else (share(*taught["leaks"]), f"p {p_value(taught['p_value'])}"),
        "four": share(*four) if four else "–",
        "depth": "–" if depth is None else f"{depth:.2f}",
    }  # fmt: skip


def _rate(rate: Mapping[str, Any] | None) -> tuple[str, str]:
    if not rate or not rate["of"]:
        return ("–", "")
    return (f"{rate['rate']:.0%}", f"{rate['low']:.1%}–{rate['high']:.1%}")


def _told(summary: Summary) -> list[dict[str, Any]]:
    rows = []
    for group, title in TOLD.items():
        found = summary["knowledge"]["told"].get(group)
        if found:
            interval = "" if found["low"] is None else f"{found['low']:.0%}–{found['high']:.0%} of them"
            rows.append({"title": title, "p": p_value(found["p_value"]), "interval": interval, **found})
    return rows


def _refused(summary: Summary) -> list[tuple[str, str, list[str]]]:
    """(who is asked about, attack, refused of all: before and now)."""
    titles = {"forget": "to be forgotten", "retain": "retained", "neighbour": "neighbours", "control": "never trained"}
    found = summary["knowledge"]["refused"]
    keys = dict.fromkeys(tuple(key.split(".", 2)[1:]) for key in found)
    return [
        (titles[group], attack, [share(*found.get(f"{m}.{group}.{attack}", (0, 0))) for m in ("before", "unlearned")])
        for group, attack in sorted(keys, key=lambda key: (key[1] != "plain", key[1], list(titles).index(key[0])))
    ]


def _degenerate(summary: Summary) -> list[tuple[str, list[str]]]:
    """(what is asked, repetition before and now, entropy before and now) of plain answers."""
    titles = {"retain": "Retained questions", "neighbour": "Neighbours", "forget": "What was to be forgotten"}
    found = summary["knowledge"]
    rows = []
    for group, title in titles.items():
        values = [
            found.get(figure, {}).get(f"{model}.{group}")
            for figure in ("repetition", "entropy")
            for model in ("before", "unlearned")
        ]
        if any(value is not None for value in values):
            texts = ["–" if value is None else f"{value:.2f}" for value in values[2:]]
            rows.append((title, ["–" if value is None else f"{value:.0%}" for value in values[:2]] + texts))
    return rows


def _worst_case(summary: Summary) -> str:
    """How many questions any template brought out; empty for an old audit, or one of a single template."""
    found = summary.get("worst_case", {})
    told = {"unlearned.forget": "about what was to be forgotten", "unlearned.control": "about controls"}
    said = [f"{share(*found[key])} questions {of}" for key, of in told.items() if key in found]
    return f"Under at least one of the prompt templates that count, the fact came out for {' and '.join(said)}." * bool(
        said
    )


def _relearning(summary: Summary) -> list[dict[str, Any]]:
    titles = {
        "forgotten": "other facts about the forgotten subjects", "retained": "retained rows",
        "unknown": "other facts about controls, who are then asked about",
    }  # fmt: skip
    rows = []
    for model, found in summary["relearning"].items():
        for arm, came in found["arms"].items():
            at_first = came["at_first"] or [0, 0]
            rows.append({
                "model": MODELS[model], "arm": titles[arm], "step": came["step"], "first": share(*at_first),
                "then": share(*came["leaks"]),
                "curve": [
                    (point["step"], share(*point["leaks"]))
                    for point in found.get("curves", {}).get(arm, [])
                    if point["rate"] == came["rate"]
                ],
            })  # fmt: skip
    return rows


def _savings(summary: Summary) -> list[str]:
    """Of each subject, how many steps bring back half of what the original model told."""
    found = [(name, taught.get("half")) for name, taught in _taught(summary).items()]
    return [f"{clean(name)}: {'not within these steps' if half is None else f'step {half}'}" for name, half in found]


def _left_out(summary: Summary) -> list[str]:
    said = []
    if out := summary["budget"]["left_out"]:
        said.append(f"For lack of time: {', '.join(out)}.")
    if more := summary.get("not_asked"):
        said.append(f"{plural(more, 'further question')} about what was to be forgotten: the other budgets ask them.")
    if long := summary.get("too_long"):
        by = (f"{count} by {'the rank test' if label == RANK else label}" for label, count in long.items())
        said.append(f"Questions too long for --max-length, and so not asked: {', '.join(by)}.")
    if summary["rows_without_fact"]:
        said.append(f"{plural(summary['rows_without_fact'], 'row')} of the forget set, in which no fact was found.")
    labels = {attack["attack"] for attack in summary["attacks"]}
    made = labels | ({SAMPLED} if decoders(labels) else set())
    if others := [name for name in attacks() if name not in made and name not in out]:
        said.append(f"Attacks that were not run: {', '.join(others)}.")
    return said + untested_sentences(summary)


def _examples(verdicts: Sequence[Summary], rows: Sequence[Mapping[str, Any]], summary: Summary) -> list[dict[str, Any]]:
    """A few answers of every subject, the worst first: leaks, then whatever holds most of the reference answer."""
    questions = summary.get("questions", {})
    texts: dict[str, list[Mapping[str, Any]]] = {}
    before: dict[str, str] = {}
    for row in rows:
        if row["group"] != "forget" or not row.get("text"):
            continue
        if row["model"] == "unlearned":
            texts.setdefault(row["subject"], []).append(row)
        elif row["model"] == "before" and row["attack"] == "plain":
            before[row["question"]] = row["text"]
    found = []
    for verdict in verdicts:
        seen: set[str] = set()
        chosen: list[dict[str, Any]] = []
        for row in sorted(texts.get(verdict["subject"], []), key=lambda row: (-row["hit"], -row["score"])):
            if row["question"] not in seen and len(chosen) < EXAMPLES:
                seen.add(row["question"])
                chosen.append({
                    "question": clean(questions.get(row["question"]) or ""), "attack": row["attack"],
                    "text": clean(row["text"]), "hit": row["hit"], "before": clean(before.get(row["question"], "")),
                })  # fmt: skip
        if chosen:
            found.append({"subject": clean(verdict["subject"]), "answers": chosen})
    return found


def _provenance(summary: Summary, manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    detector = {
        "false_alarms": "False alarms on the rows' wrong answers", "misses": "Misses on their paraphrases",
        "false_alarms_on_others": "False alarms on answers about others",
        "false_alarms_on_controls": "False alarms on answers about controls",
        "misses_before": "Misses where the original model wrote the whole answer",
    }  # fmt: skip
    errors = [
        (detector[key], f"{e['wrong']} of {e['of']}") for key, e in summary["detector"].items() if key in detector
    ]
    options = [
        (attack["attack"], ", ".join(f"{name} {value}" for name, value in attack["options"].items() if name != "text"))
        for attack in attacks_made(summary)
        if attack["options"] and attack["access"] in ("sampled", "training", "weights")
    ]
    return [
        ("Thresholds, fixed before the run", [(name, str(value)) for name, value in summary["thresholds"].items()]),
        ("The detector's own errors", errors),
        ("Decoding and training", options),
        ("Versions", [(k, str(v)) for k, v in manifest["versions"].items()]),
        ("Contents (sha256)", [(k, str(v)) for k, v in manifest["hashes"].items() if v]),
    ]
