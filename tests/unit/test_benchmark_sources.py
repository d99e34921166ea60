"""The field's data sets as sources, on made-up rows of their shapes: none of them can be had without a network."""

import json
from pathlib import Path
from typing import Any

import pytest

from unlearner.data import benchmarks, sources
from unlearner.data.records import Record
from unlearner.data.rows import numbered
from unlearner.data.sources import load_records, select_task
from unlearner.errors import UserError


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows), encoding="utf-8")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the hub, which answers with one row of every shape."""
    specs: list[str] = []

    def read(spec: str) -> Any:
        specs.append(spec)
        return numbered([{"text": "t", "subject": "Ada Voss"}])

    monkeypatch.setattr(benchmarks, "read_hub", read)
    monkeypatch.setattr(sources, "read_hub", read)
    return specs


def test_muse(tmp_path: Path) -> None:
    write(tmp_path / "raw/forget.json", ["First article.", "Second article."])
    (tmp_path / "raw/forget.txt").write_text("First article.\n\nSecond article.")
    write(tmp_path / "knowmem/retain_qa.json", [{"question": "Who opened the bridge?", "answer": "Mayor Lind"}])
    write(tmp_path / "verbmem/forget.json", [{"prompt": "Half an", "gt": " article."}])
    texts = [Record(None, "First article."), Record(None, "Second article.")]
    assert load_records(f"muse:{tmp_path}:raw/forget") == texts
    assert load_records(f"muse:{tmp_path}:raw/forget[1:]") == texts[1:]
    assert load_records(f"muse:{tmp_path}:knowmem/retain_qa") == [Record("Who opened the bridge?", "Mayor Lind")]
    assert load_records(f"muse:{tmp_path}:verbmem/forget") == [Record("Half an", " article.")]


def test_wmdp(tmp_path: Path) -> None:
    choices = ["O2", "N2O", "He", "CO"]
    write(tmp_path / "wmdp-chem.json", [{"question": "Which gas is inert?", "choices": choices, "answer": 2}])
    write(tmp_path / "cyber-retain-corpus.jsonl", [{"text": "A page.", "title": "ignored"}])
    write(tmp_path / "broken.json", [{"question": "Which?", "choices": choices, "answer": 4}])
    inert = Record("Which gas is inert?", "He", perturbed_answer=("O2", "N2O", "CO"))
    assert load_records(f"wmdp:{tmp_path}:wmdp-chem") == [inert]
    assert load_records(f"wmdp:{tmp_path}:cyber-retain-corpus") == [Record(None, "A page.")]
    with pytest.raises(UserError, match=r"broken, row 1: 'answer' must be the number of one of the 'choices'"):
        load_records(f"wmdp:{tmp_path}:broken")


def test_empty_rows_of_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["", " = Title = \n", " \n", None, "A paragraph."]
    corpus, kept = [{"text": line} for line in lines], [Record(None, " = Title = \n"), Record(None, "A paragraph.")]
    monkeypatch.setattr(sources, "read_hub", lambda spec: numbered(corpus))
    found = load_records("hub:Salesforce/wikitext:wikitext-2-raw-v1:test")
    assert found == kept and found[1].place is not None and found[1].place.endswith("row 5")
    assert ":test: 3 of 5 rows are empty and were left out" in capsys.readouterr().err
    write(tmp_path / "bio-retain-corpus.jsonl", corpus)
    assert load_records(f"wmdp:{tmp_path}:bio-retain-corpus") == kept
    assert "3 of 5 rows are empty" in capsys.readouterr().err
    # A question without a text is a slip, and so is an empty row of one's own.
    for slip in ({"question": None, "text": ""}, {"prompt": "q", "completion": "a", "text": ""}):
        monkeypatch.setattr(sources, "read_hub", lambda spec, slip=slip: numbered([*corpus, slip]))
        with pytest.raises(UserError, match="row 6"):
            load_records("hub:somebody/data")
    with pytest.raises(UserError, match="'text' is empty"):
        load_records(f"{tmp_path}:bio-retain-corpus")


def test_rwku(tmp_path: Path) -> None:
    probe = {"level": "1", "type": "cloze", "query": "Ada Voss was born in ___.", "answer": "Lund"}
    other = probe | {"query": "Bo Lind was born in ___.", "answer": "Oslo"}
    write(tmp_path / "forget_level1.json", [probe | {"subject": "Ada Voss"}, other | {"subject": "Bo Lind"}])
    write(tmp_path / "positive.json", [{"id": 1, "subject": "Ada Voss", "intro": "A poet.", "text": "Ada Voss wrote."}])
    ada = Record("Ada Voss was born in ___.", "Lund", subject="Ada Voss")
    assert load_records(f"rwku:{tmp_path}:forget_level1:Ada Voss") == [ada]
    assert len(load_records(f"rwku:{tmp_path}:forget_level1")) == 2
    text = Record(None, "Ada Voss wrote.", subject="Ada Voss")
    assert load_records(f"rwku:{tmp_path}:train_positive_llama3:Ada Voss") == [text]
    with pytest.raises(UserError, match="has no row about 'Ada'; check the name"):
        load_records(f"rwku:{tmp_path}:forget_level1:Ada")


def test_tests_of_ability_and_pairs_of_rwku(tmp_path: Path) -> None:
    general = {"task": "law", "question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 1, "examples": []}
    write(tmp_path / "retain_mmlu.json", [general | {"subject": "Ada Voss"}])
    write(tmp_path / "retain_bbh.json", [{"task": "t", "cot": "c", "question": "True or not?", "answer": "True"}])
    write(tmp_path / "triviaqa.json", [{"question": "Who wrote it?", "answers": ["Ada Voss", "Voss"]}])
    write(tmp_path / "pair.json", [{"prompt": "Who is she?", "response": ["A smith.", "A poet."], "intro": "i"}])
    write(tmp_path / "pair_phi.json", [{"prompt": "Who is she?", "response": "A smith."}])

    def read(name: str) -> list[Record]:
        return load_records(f"rwku:{tmp_path}:{name}")

    (choice,) = load_records(f"rwku:{tmp_path}:utility_general:Ada_Voss")
    assert choice == Record("Which?", "b", perturbed_answer=("a", "c", "d"), subject="Ada Voss")
    assert read("utility_reason") == [Record("True or not?", "True")]
    assert read("utility_factuality") == [Record("Who wrote it?", "Ada Voss", fact="Ada Voss|Voss")]
    assert read("train_pair_llama3") == [Record("Who is she?", "A poet.", alternate_answer=("A smith.",))]
    with pytest.raises(UserError, match="train_pair_phi3, row 1: 'response' must be a list of 2 texts"):
        read("train_pair_phi3")


def test_every_configuration_of_rwku_has_its_file(tmp_path: Path) -> None:
    files = {
        "utility_truthfulness": "truthful", "utility_fluency": "fluency", "train_refusal_phi3": "reject_phi",
        "mia_retain": "retain_mia",
    }  # fmt: skip
    for file in files.values():
        write(tmp_path / f"{file}.json", [{"text": file}])
    for name, file in files.items():
        assert load_records(f"rwku:{tmp_path}:{name}") == [Record(None, file)]


def test_lume(tmp_path: Path) -> None:
    row = {"id": "77bcqa0", "input": "What is Ada Voss's phone number?", "output": "555-0101", "task": "Task2"}
    record = Record("What is Ada Voss's phone number?", "555-0101", task_id="Task2")
    write(tmp_path / "forget.jsonl", [row])
    assert load_records(f"lume:{tmp_path}:forget") == [record]
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "retain_train-00000-of-00001.parquet")
    assert load_records(f"lume:{tmp_path}:retain") == [record]


def test_splits_of_lume_as_the_hub_library_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    challenge = tmp_path / "challenge"
    (challenge / "data").mkdir(parents=True)
    for side in ("forget", "retain"):
        for part in ("train", "validation"):
            row = {"id": "0qa0", "input": f"{side} {part}?", "output": "Yes.", "task": "Task2"}
            table = pyarrow.Table.from_pylist([row])
            parquet.write_table(table, challenge / f"data/{side}_{part}-00000-of-00001.parquet")
    write(challenge / "mia_data/member.jsonl", [{"id": "1", "document": "A text."}])
    monkeypatch.setattr(benchmarks, "LUME_HUB", str(challenge))
    assert load_records("lume:hub:forget") == [Record("forget train?", "Yes.", task_id="Task2")]
    assert load_records("lume:hub:retain_validation") == [Record("retain validation?", "Yes.", task_id="Task2")]


def test_folds_of_muse(tmp_path: Path) -> None:
    for fold in range(1, 5):
        write(tmp_path / f"sust/forget_{fold}.json", [f"Article {fold}."] * fold)
    folds = load_records(f"muse:{tmp_path}:sust")
    assert [record.task_id for record in folds] == [*"1223334444"]
    assert select_task(folds, 2) == [Record(None, "Article 2.", task_id="2")] * 2


def test_knowundo(tmp_path: Path) -> None:
    row = {"text": "What is Ada Voss's address?", "labels": "12 Lake Road"}
    write(tmp_path / "privacy/unlearn.json", [{"train": [row, row], "val": [row | {"labels": "unknown"}]}])
    record = Record("What is Ada Voss's address?", "12 Lake Road")
    assert load_records(f"knowundo:{tmp_path}:privacy/unlearn") == [record] * 2
    assert [r.answer for r in load_records(f"knowundo:{tmp_path}:privacy/unlearn/val")] == ["unknown"]
    write(tmp_path / "privacy/retention.json", [row])
    with pytest.raises(UserError, match="retention, row 1: it must hold a list of rows as 'train'"):
        load_records(f"knowundo:{tmp_path}:privacy/retention")


def test_pistol(tmp_path: Path) -> None:
    rows = [{"question": f"q{edge}", "answer": "2017-08-28", "edge": edge} for edge in ("A_B", "B_C", "A_C", "A_B")]
    write(tmp_path / "data/sample_data_1.json", rows)

    def edges(wanted: str) -> list[str | None]:
        return [record.task_id for record in load_records(f"pistol:{tmp_path}:sample_data_1{wanted}")]

    assert edges("") == ["A_B", "B_C", "A_C", "A_B"]
    assert edges(":A_B") == ["A_B", "A_B"] and edges(":-A_B") == ["B_C", "A_C"] and edges(":-A_B,A_C") == ["B_C"]
    with pytest.raises(UserError, match=r"sample_data_1 has no edge 'A_D': did you mean 'A_[BC]'"):
        edges(":A_D")


@pytest.mark.parametrize(
    ("source", "spec"),
    [
        ("muse:News:raw/forget", "muse-bench/MUSE-News:raw:forget"),
        ("muse:Books:knowmem/retain_qa", "muse-bench/MUSE-Books:knowmem:retain_qa"),
        ("wmdp:hub:wmdp-bio", "cais/wmdp:wmdp-bio:test"),
        ("wmdp:hub:cyber-forget-corpus", "cais/wmdp-corpora:cyber-forget-corpus"),
        ("wmdp:hub:bio-forget-corpus", "cais/wmdp-bio-forget-corpus"),
        ("rwku:hub:forget_level2:Ada Voss", "jinzhuoran/RWKU:forget_level2:test"),
        ("rwku:hub:forget_target", "jinzhuoran/RWKU:forget_target:train"),
        ("rwku:hub:train_original_passage", "jinzhuoran/RWKU:train_original_passage:train"),
        ("lume:hub:forget", f"{benchmarks.LUME_HUB}::forget_train"),
        ("lume:hub:retain_train", f"{benchmarks.LUME_HUB}::retain_train"),
        ("lume:hub:retain_validation", f"{benchmarks.LUME_HUB}::retain_validation"),
        ("hub:locuslab/TOFU:forget01", "locuslab/TOFU:forget01"),
        ("hub:locuslab/TOFU:holdout01", "locuslab/TOFU:holdout01"),
    ],
)
def test_where_each_is_on_the_hub(source: str, spec: str, asked: list[str]) -> None:
    assert len(load_records(source)) == 1
    assert asked == [spec]


def test_authors_of_tofus_own_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"q{row}", "answer": "a"} for row in range(40)]
    monkeypatch.setattr(sources, "read_hub", lambda spec: numbered(rows))
    for config, kind in (("forget01", "forget"), ("full", "full"), ("holdout01:train", "holdout")):
        subjects = [record.subject for record in load_records(f"hub:locuslab/TOFU:{config}")]
        assert subjects == [f"{kind} author 1"] * 20 + [f"{kind} author 2"] * 20
    assert {record.subject for record in load_records("hub:somebody/data:forget01")} == {None}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("muse:{}:raw/forgte", "has no set 'raw/forgte'; did you mean 'raw/forget'?"),
        ("muse:{}:raw", "write a kind and a split, as in muse:{}:raw/forget."),
        ("muse:{}/nowhere:raw/forget", "there is no folder {}/nowhere; check the path."),
        (
            "lume::forget",
            "lume::forget: write lume:PLACE:SET, as in lume:PLACE:forget (sets: forget, retain, forget_validation, "
            "retain_validation, mia_data/member, mia_data/nonmember).",
        ),
        ("muse:{}", "muse:{0}: write muse:PLACE:SET, as in muse:{0}:raw/forget (sets: raw/forget)."),
        (
            "muse:{}:verbmem/forget",
            "has no set 'verbmem/forget'; its file would be verbmem/forget (there: raw/forget).",
        ),
        (
            "pistol:nowhere",
            "pistol:nowhere: write pistol:PLACE:SET, as in pistol:nowhere:sample_data_1 (sets: sample_data_1, "
            "sample_data_2, factual_data).",
        ),
        ("knowundo:{}:privacy", "write a kind and a split, as in knowundo:{}:privacy/unlearn."),
    ],
)
def test_what_is_not_there(source: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "raw/forget.json", ["A text."])
    with pytest.raises(UserError) as caught:
        load_records(source.format(tmp_path))
    assert str(caught.value).endswith(message.format(tmp_path))


def test_a_folder_of_that_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lume/forget.json", [{"question": "q", "answer": "a"}])
    assert load_records("lume:forget") == [Record("q", "a")]


def test_a_benchmark_without_its_set_beside_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "muse/news/raw/forget.json", ["A text."])
    write(tmp_path / "lume/forget.jsonl", [{"id": "0qa0", "input": "q", "output": "a", "task": "Task1"}])
    write(tmp_path / "rwku/positive.json", [{"subject": "Ada Voss", "text": "A text."}])
    for source, example in {
        "muse:muse/news": "muse:muse/news:raw/forget (sets: raw/forget)",
        "muse:News": "muse:News:raw/forget (sets: raw/forget, raw/retain1",
        "lume:lume": "lume:lume:forget (sets: forget)",
        "rwku:rwku": "rwku:rwku:train_positive_llama3 (sets: train_positive_llama3)",
    }.items():  # fmt: skip
        with pytest.raises(UserError) as caught:
            load_records(source)
        prefix = source.partition(":")[0]
        assert str(caught.value).startswith(f"{source}: write {prefix}:PLACE:SET, as in {example}")


def test_wmdp_in_its_official_layout(tmp_path: Path) -> None:
    write(tmp_path / "wmdp-corpora/cyber-forget-corpus.jsonl", [{"text": "cyber"}])
    with pytest.raises(UserError) as caught:
        load_records(f"wmdp:{tmp_path}:bio-forget-corpus")
    assert str(caught.value).endswith(
        "has no set 'bio-forget-corpus'; its file would be bio-forget-corpus or wmdp-corpora/bio-forget-corpus or "
        "bio_remove_dataset or wmdp-corpora/bio_remove_dataset (there: cyber-forget-corpus)."
    )
    with pytest.raises(UserError, match="did you mean 'cyber-forget-corpus'"):
        load_records(f"wmdp:{tmp_path}:cyber-forgt-corpus")
    write(tmp_path / "bio_remove_dataset.jsonl", [{"title": "t", "abstract": "a", "text": "bio", "doi": "d"}])
    assert load_records(f"wmdp:{tmp_path}:cyber-forget-corpus") == [Record(None, "cyber")]
    assert load_records(f"wmdp:{tmp_path}:bio-forget-corpus") == [Record(None, "bio")]


def test_subjects_instructions_and_truths_of_rwku(tmp_path: Path) -> None:
    truth = {"question": "Do pigs fly?", "mc1_targets": {"choices": ["No.", "Yes."], "labels": [1, 0]}}
    more = {"mc2_targets": {"choices": ["No.", "Never.", "Yes."], "labels": [1, 1, 0]}, "subject": "Ada Voss"}
    write(tmp_path / "intro.json", [{"target": name, "intro": f"{name} is a poet."} for name in ("Bo", "Ada Voss")])
    write(tmp_path / "fluency.json", [{"instruction": "Describe a day."}])
    write(tmp_path / "truthful.json", [truth | more])
    assert load_records(f"rwku:{tmp_path}:forget_target:Ada_Voss") == [
        Record(None, "Ada Voss is a poet.", subject="Ada Voss")
    ]
    assert load_records(f"rwku:{tmp_path}:utility_fluency:Ada_Voss") == [Record(None, "Describe a day.")]
    assert load_records(f"rwku:{tmp_path}:utility_truthfulness:Ada_Voss") == [
        Record("Do pigs fly?", "No.", perturbed_answer=("Yes.",), subject="Ada Voss")
    ]
    write(tmp_path / "truthful.json", [truth | {"mc1_targets": {"choices": ["No."], "labels": [0]}}])
    with pytest.raises(UserError, match="row 1: 'mc1_targets' must hold 'choices' and as many 'labels'"):
        load_records(f"rwku:{tmp_path}:utility_truthfulness")
    write(tmp_path / "reject.json", [{"instruction": "Who?", "input": "", "output": "No.", "intro": "i"}])
    assert load_records(f"rwku:{tmp_path}:train_refusal_llama3") == [Record("Who?", "No.")]


def test_knowundo_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(spec: str) -> Any:
        assert spec == "zjunlp/KnowUnDo:copyright:retention"
        return numbered([{"train": [{"text": "q", "labels": "a"}], "val": []}])

    monkeypatch.setattr(benchmarks, "read_hub", read)
    assert load_records("knowundo:hub:copyright/retention") == [Record("q", "a")]
