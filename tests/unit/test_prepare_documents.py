"""From documents to passages and questions: every format, broken files, near-duplicates, personal data, and how many of
the facts that made-up people have are found."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unlearner
from unlearner.audit.detector import normalised
from unlearner.data.profiles import builtin
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.files import read_json, read_jsonl, write_jsonl
from unlearner.prepare.cloze import cloze
from unlearner.prepare.documents import Document, _library, load_documents, sha256
from unlearner.prepare.facts import Topic, Wording, states, together
from unlearner.prepare.passages import cut, naming, personal_data, personal_sentence, sentences, without_duplicates
from unlearner.prepare.prepare import _beyond_chance

RECORDS = builtin("forget")
PEOPLE = list(dict.fromkeys(record.subject or "" for record in RECORDS))


def about(name: str) -> list[str]:
    return [record.answer for record in RECORDS if record.subject == name]


def write_pdf(path: Path, lines: list[str], password: str | None = None, algorithm: str = "RC4-128") -> None:
    """A page with these lines as text."""
    generic = pytest.importorskip("pypdf.generic")
    from pypdf import PdfWriter

    name = generic.NameObject
    writer = PdfWriter()
    page = writer.add_blank_page(842, 595)
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    made = generic.DictionaryObject({name(key): name(value) for key, value in font.items()})
    fonts = generic.DictionaryObject({name("/F1"): made})
    page[name("/Resources")] = generic.DictionaryObject({name("/Font"): fonts})
    stream = generic.DecodedStreamObject()
    stream.set_data(f"BT /F1 8 Tf 12 TL 20 570 Td {' '.join(f'({line}) Tj T*' for line in lines)} ET".encode())
    page[name("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt(password, algorithm=algorithm)
    writer.write(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the built-in people's answers say, in all formats, one person's spread over several; one file is broken."""
    docx = pytest.importorskip("docx")
    pytest.importorskip("bs4")
    place = tmp_path / "pile"
    (place / "more").mkdir(parents=True)
    first, second, third, fourth = PEOPLE[:4]
    (place / "a.txt").write_text("\n".join(about(first)[:5]))
    write_pdf(place / "b.pdf", about(first)[5:])
    page = "".join(f"<p>{answer.replace(second, f'<b>{second}</b>')}</p>" for answer in about(second))
    (place / "c.html").write_text(f"<html><head><title>No text</title></head><body><script>x()</script>{page}</body>")
    document = docx.Document()
    for answer in about(third)[:6]:
        document.add_paragraph(answer)
    table = document.add_table(rows=0, cols=1)
    for answer in about(third)[6:]:
        table.add_row().cells[0].text = answer
    document.save(str(place / "more" / "d.docx"))
    write_jsonl(place / "e.jsonl", [{"text": answer} for answer in about(fourth)[:-1]])
    (place / "f.md").write_text(f"# Notes\n\nThis is from *elsewhere*.\n\n{about(fourth)[-1]}\n")
    (place / "broken.pdf").write_bytes((place / "b.pdf").read_bytes()[:60])
    (place / "picture.png").write_bytes(b"")
    return place


def test_facts_are_found_in_all_formats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents, failed = load_documents([str(folder)])
    assert len(failed) == 1 and "broken.pdf cannot be read" in failed[0] and "broken.pdf" in capsys.readouterr().err
    assert {each.name.partition(",")[0] for each in documents} == {
        "a.txt", "b.pdf", "c.html", "more/d.docx", "e.jsonl", "f.md",
    }  # fmt: skip
    assert not any("x()" in each.text or "No text" in each.text for each in documents)
    passages, _ = without_duplicates(cut(documents, 150))
    found = right = wanted = made = 0
    for name in PEOPLE[:4]:
        truth = {normalised(r.fact or "").removeprefix("the ") for r in RECORDS if r.subject == name}
        topics = cloze(naming(passages, (name,))[0], (name,), seed=1)
        values = [topic.fact.removeprefix("the ") for topic in topics]
        assert len(set(values)) == len(values)
        wanted, found = wanted + len(truth), found + len(truth & set(values))
        right, made = right + sum(value in truth for value in values), made + len(values)
        assert name != PEOPLE[3] or "f.md" in {topic.document for topic in topics}
        for topic in topics:
            for wording in topic.wordings:
                assert name in wording.question and states(topic.fact, wording.answer, wording.question)
                assert not any(states(topic.fact, wrong) for wrong in wording.wrong)
    assert found / wanted >= 0.75 and right / made >= 0.9, (found, wanted, right, made)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.pdf", b"no pdf at all", "a.pdf cannot be read"),
        ("a.docx", b"PK\x03\x04 no", "a.docx cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "a.txt is not UTF-8 text: save it as UTF-8"),
        ("a.txt", b" \n", r"a\.txt has no text: leave it out\."),
        ("a.html", b"<html><head><title>Only</title><body></body>", "a.html has no text: leave it out"),
        ("a.odt", b"x", "unknown extension '.odt'"),
        ("a.jsonl", b"{", "a.jsonl, line 1: this is not valid JSON"),
    ],
)
def test_a_file_that_is_named_must_be_readable(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load_documents([str(tmp_path / name)])


def test_files_that_are_not_there_or_encrypted(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["Secret."], password="word")
    with pytest.raises(UserError, match=r"a\.pdf is encrypted: save it without a password"):
        load_documents([str(tmp_path / "a.pdf")])
    with pytest.raises(UserError, match="has no text that can be read"):
        load_documents([str(tmp_path)])
    with pytest.raises(UserError, match="does not exist"):
        load_documents([str(tmp_path / "nowhere")])


def test_an_encrypted_file_is_told_whatever_it_is_encrypted_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pypdf wants another package for AES; without it, it says so when it is asked to read or decrypt."""
    errors = pytest.importorskip("pypdf.errors")

    def missing(*given: Any, **options: Any) -> Any:
        raise errors.DependencyError("cryptography>=3.1 is required for AES algorithm")

    write_pdf(tmp_path / "a.pdf", ["Secret."], password="word")
    monkeypatch.setattr("pypdf.PdfReader.decrypt", missing)
    with pytest.raises(UserError, match=r"a\.pdf is encrypted: save it without a password"):
        load_documents([str(tmp_path / "a.pdf")])


def test_a_text_that_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("Secret.")
    (tmp_path / "b.txt").write_text("Open.")
    read = Path.read_text

    def guarded(path: Path, *given: Any, **options: Any) -> str:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *given, **options)

    monkeypatch.setattr(Path, "read_text", guarded)
    found, failed = load_documents([str(tmp_path)])
    assert [each.name for each in found] == ["b.txt"]
    assert failed == [f"{tmp_path / 'a.txt'} cannot be read (Permission denied): check its permissions."]


@pytest.mark.parametrize("end", ["</head>", ""])
def test_the_end_tag_of_a_head_is_optional(tmp_path: Path, end: str) -> None:
    pytest.importorskip("bs4")
    head = f"<!doctype html><html><head><meta charset=utf-8><title>No</title><style>p {{}}</style>{end}"
    (tmp_path / "a.html").write_text(f"{head}<body><h1>Life</h1><p>Ann Bell lives in Oslo.<p>She paints.</body></html>")
    ((document,), _) = load_documents([str(tmp_path / "a.html")])
    assert document.text == "Life\n\nAnn Bell lives in Oslo.\n\nShe paints."


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cv.txt").write_text(f"{folder}1@x.org, {folder}2@x.org, {folder}3@x.org")
    both = [str(tmp_path / folder / "cv.txt") for folder in ("a", "b")]
    found, _ = load_documents(both)
    assert personal_data(found, ("Ann Bell",)) == {"e-mail addresses": dict.fromkeys(both, 3)}
    (tmp_path / "a" / "cv.txt").write_text("Another text.")
    changed, _ = load_documents(both)
    assert sha256(found).keys() == sha256(changed).keys() == {*both}
    assert [name for name, value in sha256(found).items() if sha256(changed)[name] != value] == both[:1]
    again, _ = load_documents([str(tmp_path), *both, both[0]])  # each is read once
    assert [each.name for each in again] == ["a/cv.txt", "b/cv.txt"]


def test_a_name_that_is_no_text_is_told_by_its_codes(tmp_path: Path) -> None:
    name = "M\udcfcller"
    try:
        (tmp_path / f"{name}.txt").write_text("Ann Bell.")
        (tmp_path / f"{name}.pdf").write_bytes(b"broken")
    except OSError:
        pytest.skip("no such names on this file system")
    found, failed = load_documents([str(tmp_path)])
    assert [each.name for each in found] == [r"M\udcfcller.txt"]
    assert r"M\udcfcller.pdf cannot be read" in failed[0] and failed[0].encode()


def test_what_a_parser_logs_is_not_shown(tmp_path: Path) -> None:
    for module in ("pypdf", "pypdf._reader"):
        logger, shown = logging.getLogger(module), logging.getLogger("pypdf").level
        with pytest.raises(UserError, match="cannot be read"), _library(tmp_path / "a.pdf"):
            assert not logger.isEnabledFor(logging.CRITICAL)
            raise ValueError("broken")
        assert logger.isEnabledFor(logging.ERROR) and logging.getLogger("pypdf").level == shown


def test_passages_end_with_sentences_and_near_duplicates_are_left_out() -> None:
    text = "Dr. Ann J. Bell lives in Oslo. She paints. " * 3 + "\n\nShort end."
    assert sentences('Dr. Ann J. Bell lives. She paints!  "Why?" Ok') == [
        "Dr. Ann J. Bell lives.", "She paints!", '"Why?"', "Ok",
    ]  # fmt: skip
    found = cut([Document("a", text)], 20)
    assert all(len(passage.text.split()) <= 20 for passage in found)
    assert " ".join(" ".join(p.text.split()) for p in found) == " ".join(text.split())
    twice = cut([Document("a", text), Document("b", text.upper()), Document("c", "Something else altogether.")], 200)
    kept, repeated = without_duplicates(twice)
    assert [passage.document for passage in kept] == ["a", "c"] and repeated == 1


def test_personal_data_of_others_are_counted_and_not_told() -> None:
    text = (
        "Ann Bell (ann.bell@mail.org) met Carl Udo Frey on Monday. Write to c.frey@mail.org or +49 30 123 4567. "
        "The account is DE89 3704 0044 0532 0130 00. In May 1990 they read \"The Old House\". The End came in 2001."
    )  # fmt: skip
    found = personal_data([Document("a.txt", text)], ("Ann Bell",))
    assert found == {
        "e-mail addresses": {"a.txt": 1}, "telephone numbers": {"a.txt": 1}, "bank account numbers": {"a.txt": 1},
        "names": {"a.txt": 1},
    }  # fmt: skip
    sentence = personal_sentence(found)
    assert "e-mail addresses: 1 (a.txt)" in sentence and "frey" not in sentence.lower()


def test_the_subjects_name_within_another_word_hides_no_one() -> None:
    text = "Joanne Campbell met Ann Bell. Write to d.campbell@x.org, bell@x.org or annbell@x.org."
    assert personal_data([Document("a.txt", text)], ("Ann Bell",)) == {
        "e-mail addresses": {"a.txt": 1}, "names": {"a.txt": 1},
    }  # fmt: skip


def test_pronouns_speak_of_the_subject_only_after_it() -> None:
    text = "He left Rome. Ann Bell was born in Oslo. She moved to Bergen in 1990. Her cat is Tom. Bob went to Kyoto."
    facts = {topic.name for topic in cloze(cut([Document("a", text)], 99), ("Ann Bell",), seed=1)}
    assert facts == {"name oslo", "name bergen", "year 1990", "name tom"}


def test_one_value_is_one_fact_in_however_many_sentences() -> None:
    text = "Ann Bell was born in Oslo. The city where Ann Bell was born is Oslo. Ann Bell lives in Bergen."
    topics = {t.fact: t for t in cloze(cut([Document("a", text)], 99), ("Ann Bell",), seed=1)}
    assert topics.keys() == {"oslo", "bergen"}
    first, *_ = topics["oslo"].wordings
    assert (
        first.answer == "Ann Bell was born in Oslo." and first.paraphrase == "The city where Ann Bell was born is Oslo."
    )
    assert first.wrong == ("Ann Bell was born in Bergen.",)


def test_facts_of_one_sentence_are_trained_or_unseen_together() -> None:
    text = (
        "Ann Bell was born in 1970 in Ghent. Ann Bell lives in Ghent. Ann Bell wrote \"The Old House\" in 1999. "
        "Ann Bell has a cat."
    )  # fmt: skip
    topics = cloze(cut([Document("a", text)], 99), ("Ann Bell",), seed=1)
    assert together(topics) == [["year 1970", "name ghent"], ["year 1999", "title the old house"], ["thing cat"]]
    chain = [Topic(name, name, tuple(Wording("q", a) for a in told), "a", "cloze") for name, told in (
        ("one", ("A.",)), ("two", ("B.",)), ("three", ("C.",)), ("four", ("a", "B.")),
    )]  # fmt: skip
    assert together(chain) == [["one", "two", "four"], ["three"]]


def test_an_unseen_fact_is_stated_by_nothing_that_is_trained(
    tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    lines = [f"Ann Bell met {name} in {1970 + place}." for place, name in enumerate(("Bo Eck", "Cy Fry", "Di Gad"))]
    lines += [f"Ann Bell lived in {town}." for town in ("Ghent", "Oslo", "Kyoto", "Bergen", "Riga", "Lima")]
    lines += ["Ann Bell saw the fog of Lima as a tourist from Oslo.", "Ann Bell left Riga and Kyoto as a painter."]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    for seed in range(3):
        made = unlearner.prepare_sources(
            tiny_llama(), tokenizer=tiny_tokenizer, subject="Ann Bell", documents=[str(tmp_path / "a.txt")], seed=seed,
            neighbour_count=2, general_count=3, max_new_tokens=4, samples=0, output=tmp_path / str(seed),
        )  # fmt: skip
        trained = read_jsonl(made.folder / "forget.jsonl")
        unseen = read_jsonl(made.folder / "unseen_facts.jsonl")
        assert unseen
        for row in unseen:
            assert not any(
                states(row["fact"], text) for other in trained for text in (other["question"], other["answer"])
            )


def test_facts_of_documents_are_known_beyond_chance() -> None:
    text = "Ann Bell was born in Oslo. Ann Bell lives in Bergen. Ann Bell died in Kyoto. Ann Bell worked in Rome."
    topics = cloze(cut([Document("a", text)], 99), ("Ann Bell",), seed=1)
    assert [len(topic.wordings[0].wrong) for topic in topics] == [3, 3, 3, 3]  # a chance of 1/4 each
    names = [topic.name for topic in topics]
    assert _beyond_chance(topics, dict.fromkeys(names, True))  # 1/256
    assert _beyond_chance(topics, dict.fromkeys(names[:3], True) | {names[3]: False}) is False  # 13/256 = 0.0508
    assert not _beyond_chance(topics, {})


def test_a_folder_out_of_documents(
    folder: Path, tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    def prepare(output: str, **options: Any) -> Any:
        return unlearner.prepare_sources(
            tiny_llama(), tokenizer=tiny_tokenizer, subject=PEOPLE[0], documents=[str(folder)], neighbour_count=3,
            general_count=6, max_new_tokens=6, samples=0, output=tmp_path / output, **options,
        )  # fmt: skip

    made = prepare("a", alias=["Torva"])
    rows = {name: read_jsonl(made.folder / f"{name}.jsonl") for name in made.rows}
    asked = [row for row in rows["subject"] if row["answer_from"] in ("a.txt", "b.pdf")]
    assert {row["question_from"].partition(",")[0] for row in asked} == {"cloze"} and len(asked) > 20
    assert rows["unseen_facts"] and not {r["topic"] for r in rows["unseen_facts"]} & {
        r["topic"] for r in rows["forget"]
    }
    assert any(row["answer_from"] == "a wrong answer" for row in rows["controls"])
    assert {row["text_from"] for row in rows["passages"]} == {"a.txt", "b.pdf"}
    assert "f.md" in {row["text_from"] for row in rows["passages_unnamed"]}
    assert all(record.question is None for record in load_records(f"{made.folder}:passages"))
    manifest = read_json(made.folder / "prepare.json")
    assert manifest["documents_read"]["near_duplicates"] == 0 and any("broken.pdf" in w for w in manifest["warnings"])
    again = prepare("b", alias=["Torva"]).folder
    for path in made.folder.rglob("*"):
        assert path.is_dir() or (again / path.relative_to(made.folder)).read_bytes() == path.read_bytes()
    (folder / "a.txt").write_text("Torva Osterrick is somebody else.")
    with pytest.raises(UserError, match="already holds something else"):
        prepare("a", alias=["Torva"])
    with pytest.raises(UserError, match="no passage names Nobody Atall"):
        unlearner.prepare_sources("nowhere", subject="Nobody Atall", documents=[str(folder)], output=tmp_path / "c")


def test_documents_in_another_language_give_passages_alone(
    tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Ann Bell hat in Gent einen Hund und ein Haus. Ann Bell lebt in Oslo.")
    made = unlearner.prepare_sources(
        tiny_llama(), tokenizer=tiny_tokenizer, subject="Ann Bell", documents=[str(tmp_path / "a.txt")], language="de",
        neighbour_count=2, general_count=3, max_new_tokens=4, samples=0, output=tmp_path / "made",
    )  # fmt: skip
    assert {row["question_from"] for row in read_jsonl(made.folder / "subject.jsonl")} == {"template"}
    assert made.rows["passages"] == 1
    told = "no facts are taken from the documents: without --llm that works only with --language en, not de."
    assert told in " ".join(capsys.readouterr().err.split())
    assert told in read_json(made.folder / "prepare.json")["warnings"][-1]


def test_near_duplicates_and_personal_data_in_documents_are_told(
    folder: Path, tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two documents planted again, a little changed and in other formats, and an address in a letter."""

    def prepared(output: str) -> dict[str, list[dict[str, Any]]]:
        made = unlearner.prepare_sources(
            tiny_llama(), tokenizer=tiny_tokenizer, subject=PEOPLE[0], documents=[str(folder)], neighbour_count=2,
            general_count=3, max_new_tokens=4, samples=0, output=tmp_path / output,
        )  # fmt: skip
        return {name: read_jsonl(made.folder / f"{name}.jsonl") for name in made.rows}

    def of_documents(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
        return [(r["question"], r["fact"]) for r in rows["subject"] if r["question_from"].startswith("cloze")]

    alone = prepared("a")
    text = (folder / "a.txt").read_text()
    (folder / "more" / "a copy.md").write_text(f"**Copied:** {text}".replace("\n", " "))
    write_pdf(folder / "second.pdf", [*about(PEOPLE[1]), "The end."])
    (folder / "letter.txt").write_text("Please write to Eva Stone, eva.stone@mail.org, about the meeting.")
    capsys.readouterr()
    rows = prepared("b")
    assert of_documents(rows) == of_documents(alone)  # nothing is asked twice
    held = read_json(tmp_path / "b" / "prepare.json")
    assert held["documents_read"]["near_duplicates"] == 2
    assert held["documents_read"]["personal_data"]["e-mail addresses"] == {"letter.txt": 1}
    texts = [row["text_from"] for row in rows["passages"] + rows["passages_unnamed"]]
    assert "more/a copy.md" not in texts and "second.pdf" not in texts
    said = " ".join(capsys.readouterr().err.split())
    assert "near-duplicates left out: 2" in said and "e-mail addresses: 1 (letter.txt)" in said
    page = (tmp_path / "b" / "rows.html").read_text()
    assert "e-mail addresses: 1 (letter.txt)" in page and "eva.stone" not in said
