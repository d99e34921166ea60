"""Subjects that a real model knows, each forgotten from its name alone: does `forget --subject --search` reach its aim?

`python -m benchmarks.subjects --budget 20m --jobs 4` probes well-known names until it has so many that the model knows
(as `unlearner probe` says it), and runs for each `unlearner forget --subject NAME --search BUDGET`. Beside it the naive
run: 12 questions, 30 retain rows, ME+GD, learning rate 3e-5, 6 epochs, steps of 4 questions, all else as it comes. Both
models, and the one before, then answer the same held-out questions:

- leak: 32 answers sampled at temperature 1, by a seed that the search did not use; of the questions whose fact came out
  in at least a quarter of other samples before, the share of samples that state it;
- kept: the same of 8 answers to questions about neighbours and of general knowledge (more where few count, at least
  64 a set), as a share of before.

Prints a table in Markdown and writes subjects.json, which from the beginning says what decides the figures. Repeated,
it goes on: finished subjects are read, a search that was cut short keeps its trials; with other settings it is refused.
A subject that cannot be measured (its sampled answers state nothing even before) stays in the table, and another one is
taken as well.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.timing import machine
from unlearner.config import ForgetConfig, ProbeConfig
from unlearner.errors import UserError
from unlearner.files import read_json, write_json
from unlearner.prepare.asking import Asked
from unlearner.prepare.probe import examine
from unlearner.prepare.subject import about
from unlearner.search.config import ForgetCommand
from unlearner.search.held_out import ANSWERS, KEPT, SEARCHED, Aim, Before, Figures, HeldOut, Rates
from unlearner.search.subject import ANSWER_TOKENS, forget_subject
from unlearner.workflows.forget import forget
from unlearner.workflows.subject import Subject

CANDIDATES = (
    ("William Shakespeare", "author"), ("Charles Darwin", "person"), ("Romeo and Juliet", "work"), ("Paris", "place"),
    ("Charles Dickens", "author"), ("Isaac Newton", "person"), ("Hamlet", "work"), ("Rome", "place"),
    ("Jane Austen", "author"), ("Albert Einstein", "person"), ("The Great Gatsby", "work"), ("Tokyo", "place"),
    ("J. R. R. Tolkien", "author"), ("Marie Curie", "person"), ("Moby-Dick", "work"), ("Egypt", "place"),
    ("Mark Twain", "author"), ("Galileo Galilei", "person"), ("The Odyssey", "work"), ("London", "place"),
    ("Agatha Christie", "author"), ("Nikola Tesla", "person"), ("Frankenstein", "work"), ("Sydney", "place"),
    ("Ernest Hemingway", "author"), ("Thomas Edison", "person"), ("Don Quixote", "work"), ("Venice", "place"),
)  # fmt: skip
"""Names by turns of four kinds; the first that the model knows are taken."""
LEAKS = {"forget": "trained", "unseen_wordings": "other wordings", "unseen_facts": "other facts"}
NAIVE = {
    "method": "ME+GD", "learning_rate": 3e-5, "epochs": 6.0, "batch_size": 4, "gradient_accumulation_steps": 1,
}  # fmt: skip
AIM = Aim(0.25, 0.9, 0.95)
SEED = 1000
"""Of the samples that are measured; those of the search have another."""
METRICS = ["rouge", "probability"]
KEPT_SAMPLES = 8
RARE = 0.1
"""Where fewer of the answers before state the facts of the questions that count, a share of them says nothing."""
UNMEASURED = "state no fact even before"
"""In what is said of a subject whose held-out questions nothing can be measured by."""


def begun(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the figures of all subjects: of the options, and of the machine, whose speed decides how much is
    tried in a budget. It is kept in the output folder; raises UserError where that was begun with anything else."""
    threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // options.jobs)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else machine()["cpu"]
    settings = {
        "model": options.model, "budget": options.budget, "samples": options.samples, "jobs": options.jobs,
        "threads": int(threads), "device": device,
    }  # fmt: skip
    file = options.output / "subjects.json"
    options.output.mkdir(parents=True, exist_ok=True)
    if not any(options.output.iterdir()):
        write_json(file, settings | {"subjects": []})
    held = read_json(file) if file.is_file() else {}
    for name, value in settings.items():
        if held.get(name) != value:
            raise UserError(
                f"--output {options.output} was begun with other settings ({name} is {held.get(name)!r} there, "
                f"{value!r} here): give those, or another --output."
            )
    return settings


def known_subjects(options: argparse.Namespace, count: int) -> list[dict[str, Any]]:
    """The first `count` candidates that the model knows; the probe's figures are kept."""
    file = options.output / "probed.json"
    probed: dict[str, Any] = read_json(file) if file.is_file() else {}
    asked: Asked | None = None
    for name, kind in CANDIDATES:
        if sum(each["knows"] for each in probed.values()) >= count:
            break
        if name in probed:
            continue
        config = ProbeConfig(model=options.model, subject=name, kind=kind, samples=4)  # as `prepare` asks
        asked = asked or Asked(config)
        found = examine(
            asked, about(config), samples=config.samples, others=config.others, well_known=0,
            max_new_tokens=config.max_new_tokens, seed=config.seed,
        )  # fmt: skip
        probed[name] = {"name": name, "kind": kind, "knows": found.knows, "known": found.verdicts.count("knows")}
        print(f"{name}: {found.evidence}", flush=True)
        write_json(file, probed)
    return [each for each in probed.values() if each["knows"]][:count]


def run_subject(options: argparse.Namespace, name: str, kind: str) -> dict[str, Any]:
    """Search, forget, forget naively, measure."""
    folder, began = options.output / slug(name), time.monotonic()
    command = ForgetCommand(
        model=options.model, subject=[name], kind=kind, search=options.budget, output=str(folder / "search"),
        metrics=METRICS,
    )  # fmt: skip
    made = forget_subject(command)
    seconds = time.monotonic() - began
    data = folder / "search" / "data"
    naive = forget(
        ForgetConfig(
            model=options.model, forget=f"{data}:forget[0:12]", retain=f"{data}:retain[0:30]", evaluate="none",
            output=str(folder / "naive"), **NAIVE,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    held_out = HeldOut.read(
        data, samples=options.samples, max_new_tokens=ANSWER_TOKENS, max_length=command.max_length, seed=SEED
    )
    models = {"before": options.model, "search": str(made.model), "naive": str(naive.model)}
    places, rates = measured(
        held_out, {label: Asked(ProbeConfig(model=model, subject=name)).subject for label, model in models.items()}
    )
    return {
        "name": name, "kind": kind, "setting": made.setting | {"epochs": made.epochs}, "trials": len(made.trials),
        "reached_by_search": made.reached, "seconds": seconds,
        "trial_seconds": sum(trial.seconds for trial in made.trials),
        "frontier": [{"setting": str(trial), "found": vars(trial.found)} for trial in made.frontier],
        "sets": {each: shares(each, len(held_out.questions[each]), rates) for each in places},
        "rates": rates,
    }  # fmt: skip


def measured(held_out: HeldOut, models: dict[str, Subject]) -> tuple[dict[str, list[int]], dict[str, Rates]]:
    """The places of the questions that count, and by model the share of answers with the fact. Of what is kept there
    are many questions: fewer samples of each do, unless few count."""
    places: dict[str, list[int]] = {}
    rates: dict[str, Rates] = {label: {} for label in models}
    fewer = min(held_out.samples, KEPT_SAMPLES)
    for names, samples, fewest in ((tuple(LEAKS), held_out.samples, 0), (KEPT, fewer, ANSWERS)):
        questions = {name: held_out.questions[name] for name in names if name in held_out.questions}
        part = replace(held_out, questions=questions, samples=samples, fewest=fewest)
        before = part.before(models["before"])
        places |= (count := counting(before))
        rates["before"] |= {name: before.rates[name] if those else [] for name, those in count.items()}
        for label, model in models.items():
            if label != "before":
                rates[label] |= part.rates(model, count)
    return places, rates


def counting(before: Before) -> dict[str, list[int]]:
    """The questions that count, by set: none where no fact came out in a quarter of the samples."""
    names = [each for each in (*LEAKS, *KEPT) if each in before.counted]
    return {each: [] if each in before.rare else before.counted[each] for each in names}


def shares(name: str, questions: int, rates: dict[str, Rates]) -> dict[str, Any]:
    """Of one set of so many questions: how many count, and of these the share of answers with the fact, by model."""
    means = {label: fmean(found[name]) if found[name] else None for label, found in rates.items()}
    return {"questions": questions, "counted": len(rates["before"][name]), **means}


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def process_of(options: argparse.Namespace, threads: int, name: str, kind: str) -> dict[str, Any]:
    """What `run_subject` found, in a process of its own, once."""
    folder = options.output / slug(name)
    file = folder / "result.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--one", name, kind]
        with (folder / "said.txt").open("a") as said:
            code = subprocess.run(command, env=environment, stdout=said, stderr=said).returncode
        if code != 0:
            last = (folder / "said.txt").read_text(errors="replace").rstrip().rpartition("\n")[2]
            print(f"{name}: ended with {code}: {last}", flush=True)
            return {"name": name, "kind": kind, "error": last}
    found: dict[str, Any] = read_json(file)
    print(f"{name}: {found['seconds'] / 60:.0f} min, {found['trials']} trials", flush=True)
    return found


def head(each: dict[str, Any]) -> str:
    """What the figures of the table were measured with, and on."""
    return (
        f"{each['model']}, {each['budget']} a search, {each['samples']} samples a question; {each['device']}, "
        f"{each['machine']['cores']} cores, processor threads of a process: {each['threads']}, processes at a time: "
        f"{each['jobs']}; {each['machine']['date']}."
    )


def table(found: list[dict[str, Any]]) -> str:
    """A row a subject. Leaks are before → after the search (after the naive run), of so many questions; what is kept is
    a share of before."""
    heads = ["subject", *(f"leak, {title}" for title in LEAKS.values()), "neighbours kept", "general kept", "aim"]
    heads += ["chosen", "trials", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for each in found:
        if "error" in each:
            lines.append(f"| {each['name']} | {each['error']} |" + " |" * (len(heads) - 2))
            continue
        sets = each["sets"]
        cells = [f"{each['name']} ({each['kind']})", *(_leak(sets.get(name)) for name in LEAKS)]
        cells += [_kept(sets[name]) for name in KEPT]
        chosen = ", ".join(str(v) if k == "method" else f"{k} {v}" for k, v in each["setting"].items())
        cells += ["reached" if reached(sets) else "missed", chosen, str(each["trials"]), f"{each['seconds'] / 60:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    done = [each for each in found if "error" not in each]
    for each in done:
        if not reached(each["sets"]):
            lines += ["", f"{each['name']}, trials that no other beats, each as a share of before:", ""]
            lines += [f"- {trial['setting']}: {_figures(trial['found'])}" for trial in each["frontier"]]
    lines += [
        "",
        f"The aim is reached for {sum(reached(each['sets']) for each in done)} of {len(done)} subjects measured.",
    ]
    return "\n".join(lines)


def _figures(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in found.items())


def _leak(of: dict[str, Any] | None) -> str:
    if of is None or not of["counted"]:
        return f"none of {of['questions'] if of else 0} counts"
    return f"{of['before']:.0%} → {of['search']:.0%} (naive {of['naive']:.0%}), {of['counted']} of {of['questions']}"


def _kept(of: dict[str, Any]) -> str:
    if not of["counted"]:
        return f"none of {of['questions']} counts"
    if of["before"] < RARE:
        return f"too rare ({of['before']:.0%} before), {of['counted']} of {of['questions']}"
    return (
        f"{of['search'] / of['before']:.0%} (naive {of['naive'] / of['before']:.0%}), {of['counted']} of "
        f"{of['questions']}"
    )


def reached(sets: dict[str, Any]) -> bool:
    """Leak on other wordings at most a quarter of before, neighbours at least 90%, general knowledge 95%; none too
    rare before."""
    judged = [sets[name] for name in SEARCHED]
    return all(each["counted"] and each["before"] >= RARE for each in judged) and AIM.reached(
        Figures(*(each["search"] / each["before"] for each in judged))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="python -m benchmarks.subjects")
    parser.add_argument("--model", default="builtin:smollm2")
    parser.add_argument(
        "--subjects", type=int, default=8, help="how many that the model knows and that can be measured"
    )
    parser.add_argument("--budget", default="20m", help="of each search")
    parser.add_argument("--samples", type=int, default=32, help="answers to each question on the subject")
    parser.add_argument("--jobs", type=int, default=1, help="subjects at a time")
    parser.add_argument("--device", help="cpu, or the number of one GPU; by default what there is")
    parser.add_argument("--output", type=Path, default=Path("runs/subjects"), help="folder of all runs and the table")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = "" if options.device == "cpu" else options.device
    if options.one:
        try:
            result = run_subject(options, *options.one)
        except UserError as error:
            sys.exit(str(error))
        write_json(options.output / slug(options.one[0]) / "result.json", result)
        return
    try:
        settings = begun(options)
    except UserError as error:
        sys.exit(str(error))
    found: list[dict[str, Any]] = []
    while missing := options.subjects - sum(UNMEASURED not in each.get("error", "") for each in found):
        chosen = known_subjects(options, len(found) + missing)[len(found) :]
        if not chosen:
            break
        with ThreadPoolExecutor(options.jobs) as pool:
            found += pool.map(lambda each: process_of(options, settings["threads"], each["name"], each["kind"]), chosen)
    about_it = {"machine": machine() | {"threads": settings["threads"]}} | settings
    write_json(options.output / "subjects.json", about_it | {"subjects": found})
    print(f"\n{head(about_it)}\n\n{table(found)}")


if __name__ == "__main__":
    main()
