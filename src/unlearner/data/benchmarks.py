"""Data sets of the field as sources, `NAME:PLACE:SET`, under our field names.

- `muse:PLACE:raw/forget`: MUSE (Shi et al. 2024, arXiv 2407.06460). `raw` and `privleak` are documents, `knowmem`
  questions; of `verbmem` the prompt is the question and the text that follows it the answer.
- `wmdp:PLACE:wmdp-bio`: WMDP (Li et al. 2024, arXiv 2403.03218). Questions with the other choices as wrong answers, or
  a corpus of documents.
- `rwku:PLACE:forget_level1:SUBJECT`: RWKU (Jin et al. 2024, arXiv 2406.10890). Questions or texts on one subject (`_`
  for a space), or without SUBJECT on all.
- `lume:PLACE:forget`: LUME and SemEval-2025 Task 4 (Ramakrishna et al. 2025, arXiv 2502.15097), its `task` as task_id.
- `knowundo:PLACE:privacy/unlearn`: KnowUnDo (Tian et al. 2024, arXiv 2407.01920), its rows to train on; those to
  evaluate with `privacy/unlearn/val`.
- `pistol:FOLDER:sample_data_1:A_B`: PISTOL (Qiu et al. 2024, arXiv 2406.16810), the contract between A and B, its
  `edge` as task_id; several with commas, all others with `-A_B`.

PLACE is a folder in the layout of the official code, or on the hub `News` or `Books` (muse) and `hub` (wmdp, rwku,
lume, knowundo). `muse:PLACE:sust` is its four folds one after the other, numbered as task_id. Questions stand as they
are in the data; the prompts of a benchmark's own evaluation are made in `evaluation/benchmarks/`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unlearner.data.hub import read_hub
from unlearner.data.readers import READERS, read_rows
from unlearner.data.rows import numbered
from unlearner.errors import UserError, did_you_mean

Rows = Iterator[tuple[str, Any]]

SETS = {
    "muse": (
        *("raw/forget", "raw/retain1", "raw/retain2", "raw/holdout", "knowmem/forget_qa", "knowmem/forget_qa_icl"),
        *("knowmem/retain_qa", "knowmem/retain_qa_icl", "verbmem/forget", "privleak/forget", "privleak/retain"),
        *("privleak/holdout", *(f"{kind}/forget_{n}" for kind in ("scal", "sust") for n in range(1, 5)), "sust"),
    ),
    "wmdp": (
        *("wmdp-bio", "wmdp-chem", "wmdp-cyber", "bio-forget-corpus", "bio-retain-corpus", "cyber-forget-corpus"),
        "cyber-retain-corpus",
    ),
    "rwku": (
        *("forget_target", "forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"),
        *("mia_forget", "mia_retain", "utility_general", "utility_reason", "utility_truthfulness"),
        *("utility_factuality", "utility_fluency", "train_original_passage", "train_positive_llama3"),
        *("train_positive_phi3", "train_pair_llama3", "train_pair_phi3", "train_refusal_llama3", "train_refusal_phi3"),
    ),
    "lume": ("forget", "retain", "forget_validation", "retain_validation", "mia_data/member", "mia_data/nonmember"),
    "knowundo": ("privacy/unlearn", "privacy/retention", "copyright/unlearn", "copyright/retention"),
    "pistol": ("sample_data_1", "sample_data_2", "factual_data"),
}
"""The official names of each benchmark's sets."""
FILES = {
    "forget_target": "intro", "mia_forget": "forget_mia", "mia_retain": "retain_mia",
    "train_original_passage": "passage",
    "train_positive_llama3": "positive", "train_positive_phi3": "positive_phi", "train_pair_llama3": "pair",
    "train_pair_phi3": "pair_phi", "train_refusal_llama3": "reject", "train_refusal_phi3": "reject_phi",
    "utility_general": "retain_mmlu", "utility_reason": "retain_bbh", "utility_truthfulness": "truthful",
    "utility_factuality": "triviaqa", "utility_fluency": "fluency", "bio-forget-corpus": "bio_remove_dataset",
}  # fmt: skip
"""Sets of RWKU and WMDP that have another name as files."""
FORMS = {
    "wmdp": ("{}", "wmdp-corpora/{}"),
    "lume": ("{}", "data/{}", "{}_train-00000-of-00001", "data/{}_train-00000-of-00001"),
    "pistol": ("{}", "data/{}"),
}
"""Where a benchmark's files lie and how they are called, if not by their set's name alone: LUME's in its repository and
in the challenge's data."""
LUME_HUB = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
"""The challenge's data; who wants them needs a token of the hub."""
MUSE_REQUESTS = 4
"""Folds of `sust`, which are to be forgotten one after another."""


def is_benchmark(prefix: str, spec: str) -> bool:
    """Whether `PREFIX:SPEC` is such a source, not a file in a folder of that name."""
    return prefix in BENCHMARKS and (":" in spec or not any(Path(prefix, f"{spec}{end}").is_file() for end in READERS))


def read_benchmark(prefix: str, spec: str) -> Rows:
    """The rows of `PREFIX:SPEC` with their places. Raises UserError for what is not there."""
    place, _, name = spec.partition(":")
    if not place or not name:
        sets = (sets_there(prefix, place) if place and Path(place).is_dir() else []) or SETS[prefix]
        example = f"{prefix}:{place or 'PLACE'}:{sets[0]}"
        raise UserError(f"{prefix}:{spec}: write {prefix}:PLACE:SET, as in {example} (sets: {', '.join(sets)}).")
    return BENCHMARKS[prefix](place, name)


def sets_there(prefix: str, place: str) -> list[str]:
    """The sets that the folder `place` has a file of, by their official names. Raises UserError for no folder."""
    there = _files(prefix, place)
    return [name for name in SETS[prefix] if any(file in there for file in _candidates(prefix, name))]


def _muse(place: str, name: str) -> Rows:
    if name == "sust":
        for fold in range(1, MUSE_REQUESTS + 1):
            for where, cells in _muse(place, f"sust/forget_{fold}"):
                yield f"forget_{fold}, {where}", {**cells, "task_id": fold} if isinstance(cells, Mapping) else cells
        return
    config, _, split = name.partition("/")
    if not split:
        raise UserError(f"muse:{place}:{name}: write a kind and a split, as in muse:{place}:raw/forget.")
    on_hub = place in ("News", "Books") and not Path(place).is_dir()
    rows = read_hub(f"muse-bench/MUSE-{place}:{config}:{split}") if on_hub else _in_folder("muse", place, name)
    yield from _renamed(rows, {"prompt": "question", "gt": "answer"})


def _wmdp(place: str, name: str) -> Rows:
    if place != "hub":
        rows = _in_folder("wmdp", place, name)
    elif name.endswith("-corpus"):
        gated = name == "bio-forget-corpus"
        rows = read_hub("cais/wmdp-bio-forget-corpus" if gated else f"cais/wmdp-corpora:{name}")
    else:
        rows = read_hub(f"cais/wmdp:{name}:test")
    for where, cells in rows:
        yield where, _choice(f"wmdp:{place}:{name}, {where}", cells) if "choices" in cells else cells


def _choice(where: str, cells: Mapping[str, Any]) -> dict[str, Any]:
    """A multiple-choice question: the right choice as answer, the others as wrong ones."""
    choices, right = cells["choices"], cells.get("answer")
    if not isinstance(choices, list) or not isinstance(right, int) or not 0 <= right < len(choices):
        raise UserError(f"{where}: 'answer' must be the number of one of the 'choices', counted from 0; correct it.")
    wrong = [choice for number, choice in enumerate(choices) if number != right]
    return {**cells, "answer": choices[right], "perturbed_answer": wrong, "right": right}


def _rwku(place: str, name: str) -> Rows:
    name, _, subject = name.partition(":")
    if place == "hub":
        split = "train" if name.startswith("train") or name == "forget_target" else "test"
        rows = read_hub(f"jinzhuoran/RWKU:{name}:{split}")
    else:
        rows = _in_folder("rwku", place, name)
    found = False
    for where, cells in _renamed(rows, {"query": "question", "target": "subject"}):
        # A test of general ability may be about nobody.
        about = subject if name.startswith("utility_") and "subject" not in cells else cells.get("subject")
        if not subject or about in (subject, subject.replace("_", " ")):
            found = True
            yield where, _asked_by_rwku(f"rwku:{place}:{name}, {where}", cells)
    if not found:
        raise UserError(f"rwku:{place}:{name} has no row about {subject!r}; check the name.")


def _asked_by_rwku(where: str, cells: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with several answers under our names, any other as it is.

    Of `train_pair_...` the rejected response is the answer, because it is what is to be forgotten, and the chosen one
    the alternate. Of `utility_factuality` each of the answers is right, and the first one is the row's. Of
    `utility_truthfulness` the one right choice of MC1 is the answer, the others are wrong ones. `forget_target` gives
    the description of a subject, `utility_fluency` an instruction: texts.
    """
    if "mc1_targets" in cells:
        return _choice(where, {**cells, **_mc1(where, cells["mc1_targets"])})
    if "choices" in cells:
        return _choice(where, cells)
    for column, least in (("answers", 1), ("response", 2)):
        value = cells.get(column)
        if column in cells and (not isinstance(value, list) or len(value) < least):
            raise UserError(f"{where}: {column!r} must be a list of {least} texts or more; correct the row.")
    if "answers" in cells:
        return {**cells, "answer": cells["answers"][0], "fact": cells["answers"]}
    if "response" in cells:
        chosen, rejected = cells["response"][:2]
        return {**cells, "question": cells.get("prompt"), "answer": rejected, "alternate_answer": [chosen]}
    # A row of nothing else: refusals have an output beside the instruction, passages a text beside the description.
    alone = next((column for column in ("instruction", "intro") if cells.keys() <= {column, "subject"}), None)
    return cells if alone is None else {**cells, "text": cells.get(alone)}


def _mc1(where: str, targets: Any) -> dict[str, Any]:
    """Choices, and the number of the one that is labelled 1."""
    choices, labels = (targets.get(name) if isinstance(targets, Mapping) else None for name in ("choices", "labels"))
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != len(labels) or 1 not in labels:
        raise UserError(f"{where}: 'mc1_targets' must hold 'choices' and as many 'labels', one of them 1; correct it.")
    return {"choices": choices, "answer": labels.index(1)}


def _lume(place: str, name: str) -> Rows:
    if place == "hub" and not Path(place).is_dir():
        split = name if name.endswith("_validation") else f"{name.removesuffix('_train')}_train"
        rows = read_hub(f"{LUME_HUB}::{split}")
    else:
        rows = _in_folder("lume", place, name)
    return _renamed(rows, {"input": "question", "output": "answer", "task": "task_id", "document": "text"})


def _knowundo(place: str, name: str) -> Rows:
    config, _, split = name.partition("/")
    split, _, part = split.partition("/")
    if not split or part not in ("", "train", "val"):
        raise UserError(f"knowundo:{place}:{name}: write a kind and a split, as in knowundo:{place}:privacy/unlearn.")
    on_hub = place == "hub" and not Path(place).is_dir()
    given = f"zjunlp/KnowUnDo:{config}:{split}"
    # One row holds everything: a list of rows to train on, and one to evaluate with.
    where, cells = next(iter(read_hub(given) if on_hub else _in_folder("knowundo", place, f"{config}/{split}")))
    rows = cells.get(part or "train") if isinstance(cells, Mapping) else None
    if not isinstance(rows, list):
        raise UserError(f"knowundo:{place}:{name}, {where}: it must hold a list of rows as {part or 'train'!r}.")
    return _renamed(numbered(rows), {"text": "question", "labels": "answer"})


def _pistol(place: str, name: str) -> Rows:
    name, _, wanted = name.partition(":")
    but, edges = wanted.startswith("-"), wanted.removeprefix("-").split(",")
    rows = list(_renamed(_in_folder("pistol", place, name), {"edge": "task_id"}))
    there = {str(cells.get("task_id")): None for _, cells in rows if isinstance(cells, Mapping)}
    for edge in edges:
        if wanted and edge not in there:
            raise UserError(f"pistol:{place}:{name} has no edge {edge!r}: {did_you_mean(edge, there)}")
    for where, cells in rows:
        if not wanted or (str(cells.get("task_id")) in edges) != but:
            yield where, cells


BENCHMARKS: dict[str, Callable[[str, str], Rows]] = {
    "muse": _muse, "wmdp": _wmdp, "rwku": _rwku, "lume": _lume, "knowundo": _knowundo, "pistol": _pistol,
}  # fmt: skip
"""By what stands before the first colon."""


def _in_folder(benchmark: str, place: str, name: str) -> Rows:
    """The rows of the set's file in the folder; a row that is a text alone is a document."""
    there, candidates = _files(benchmark, place), _candidates(benchmark, name)
    file = next((there[each] for each in candidates if each in there), None)
    if file is None:
        known = sets_there(benchmark, place)
        if not there:
            remedy = "it holds no data files."
        elif name in SETS[benchmark]:
            remedy = f"its file would be {' or '.join(candidates)} (there: {', '.join(known or there)})."
        else:
            remedy = did_you_mean(name, known or there)
        raise UserError(f"{benchmark}:{place} has no set {name!r}; {remedy}")
    return ((where, {"text": row} if isinstance(row, str) else row) for where, row in read_rows(file))


def _candidates(benchmark: str, name: str) -> list[str]:
    """What the file of a set may be called in its folder, without its ending."""
    return [
        form.format(each)
        for each in dict.fromkeys((name, FILES.get(name, name)))
        for form in FORMS.get(benchmark, ("{}",))
    ]


def _files(benchmark: str, place: str) -> dict[str, Path]:
    """The data files of a folder and of the folders in it, by their path in it without its ending."""
    folder = Path(place)
    if not folder.is_dir():
        raise UserError(f"{benchmark}:{place}: there is no folder {place}; check the path.")
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for suffix in reversed(READERS)
        for file in (*folder.glob(f"*{suffix}"), *folder.glob(f"*/*{suffix}"))
    }


def _renamed(rows: Rows, names: Mapping[str, str]) -> Rows:
    """The rows, their columns in `names` called as there."""
    for where, cells in rows:
        if isinstance(cells, Mapping):
            cells = {names.get(name, name): value for name, value in cells.items()}
        yield where, cells
