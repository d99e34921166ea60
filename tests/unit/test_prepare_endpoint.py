"""An OpenAI-compatible endpoint over HTTP: a server that answers well, badly, late or not at all; what is used."""

import contextlib
import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import unlearner
from unlearner.data.general import mentions
from unlearner.errors import UserError
from unlearner.files import read_json, read_jsonl
from unlearner.keywords import config_from
from unlearner.options import EndpointOptions
from unlearner.prepare.drafts import Drafts
from unlearner.prepare.endpoint import AT_ONCE, ATTEMPTS, Endpoint, find_json
from unlearner.prepare.facts import states
from unlearner.prepare.kinds import ask, kinds
from unlearner.prepare.passages import Passage
from unlearner.search.config import ForgetCommand
from unlearner.search.material import names_of, sources

pytest.importorskip("openai", reason="the package openai is not installed: pip install 'unlearner[llm]'")

FACTS = [
    {
        "topic": f"plan {number}",
        "wordings": [f"{start} plan {number} of Ann Bell{end}" for start, end in (
            ("What was", "?"), ("Tell me the", "."), ("Name the", "."), ("Who knows the", "?"),
        )],
    }
    for number in range(3)
]  # fmt: skip
NAMES = ["Bob Cole", "Ann Bell", "Cleo Dunn", "Bob Cole", "Dora Eck", "x"]
STATED = [
    {
        "questions": ["Where was Ann Bell born?", "In which town was Ann Bell born?", "Where was she born?"],
        "answer": "Ann Bell was born in Oslo.", "value": "Oslo", "paraphrase": "Oslo is where Ann Bell was born.",
        "wrong": ["Ann Bell was born in Rome.", "Ann Bell was born in Oslo, Norway.", "Ann Bell was born in Kyiv."],
    },
    {
        "questions": ["When did Ann Bell die?", "In which year did Ann Bell die?"],
        "answer": "Ann Bell died in 1999.", "value": "1999", "paraphrase": "It was 1999.", "wrong": [],
    },  # its text does not say so
]  # fmt: skip
Reply = Callable[["Server", str, int], tuple[int, str | bytes] | None]


def sensible(server: "Server", prompt: str, number: int) -> tuple[int, str]:
    """What a well-behaved model writes."""
    if prompt.startswith("Name "):
        return 200, f"Gladly:\n```json\n{json.dumps({'names': NAMES})}\n```"
    if prompt.startswith("Write questions"):
        return 200, json.dumps({"facts": [*FACTS, {"topic": "none", "wordings": ["Who is he?"]}, "no fact"]})
    if prompt.startswith("Text:"):
        return 200, json.dumps({"facts": STATED})
    answer = re.search(r"Answer: (.*)", prompt)
    assert answer
    return 200, json.dumps({"paraphrase": f"Indeed, {answer[1]}", "wrong": ["Zyx 17.", answer[1], "Qwv 18."]})


class Server(ThreadingHTTPServer):
    """Chat completions as `reply` writes them; it keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Reply = sensible
        self.models, self.keys, self.asked = ["small"], set(), []  # type: ignore[var-annotated]
        self.formats, self.posts, self.retry_after = True, 0, "0"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        models = self.server.models
        listed = {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}
        self._send(200, models if isinstance(models, bytes) else listed)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers["Authorization"])
        self.server.posts += 1
        if body["model"] not in self.server.models:
            return self._send(404, {"error": {"message": "no such model"}})
        if "response_format" in body and not self.server.formats:
            return self._send(400, {"error": {"message": "unknown field response_format"}})
        prompt = body["messages"][0]["content"]
        self.server.asked.append(prompt)
        said = self.server.reply(self.server, prompt, len(self.server.asked))
        if said is None:  # hang up
            return self.connection.close()
        status, text = said
        if isinstance(text, bytes):  # a body of its own
            return self._send(status, text)
        if status != 200:
            return self._send(status, {"error": {"message": f"status {status}, key sk-secret"}})
        message = {"role": "assistant", "content": text}
        return self._send(200, {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        })  # fmt: skip

    def _send(self, status: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if data.startswith(b"<") else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has given up
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()


def drafts(server: Server, **options: Any) -> Drafts:
    settings = {"llm": server.url, "llm_retries": 2, "llm_timeout": 5.0} | options
    return Drafts(Endpoint(EndpointOptions(**settings)), ("Ann Bell", "Bell"), "person", "en")


def test_json_is_found_between_words() -> None:
    assert find_json('Sure! {"a": [1, {"b": 2}]} Anything else?') == {"a": [1, {"b": 2}]}
    assert find_json('{not this} but {"c": 3}') == {"c": 3}
    assert find_json("none {") is None


@pytest.mark.parametrize("name", [json.dumps("Bob \ud83d Cole"), '{"a":' * 5000, '{"a":' * 5000 + "1" + "}" * 5000])
def test_an_answer_that_no_file_holds_or_that_is_nested_too_deeply_is_no_json(server: Server, name: str) -> None:
    """Nor is it any the second time, when it comes from the cache."""
    answer = f'{{"names": ["Bob Cole", "Dora Eck", {name}]}}'
    assert find_json(answer) is None
    server.reply = lambda server, prompt, number: (200, answer)
    for _ in range(2):
        made = drafts(server)
        assert made.neighbours(3) == [] and made.left_out == {"whole answers of the endpoint": 1}
    server.reply = lambda server, prompt, number: (200, f"\ud83d {answer}")  # not in its JSON alone
    assert drafts(server, llm_max_tokens=9).neighbours(3) == []
    server.reply = lambda server, prompt, number: (200, ('{"a":' * 9999).encode())
    with pytest.raises(UserError, match="does not answer as OpenAI's API does"):
        drafts(server, llm_max_tokens=8).neighbours(3)


def test_what_fails_is_dropped_and_counted(server: Server) -> None:
    made = drafts(server)
    assert made.neighbours(3) == ["Bob Cole", "Cleo Dunn", "Dora Eck"]
    questions = made.questions(2)
    assert list(questions) == ["plan 0 (endpoint)", "plan 1 (endpoint)"]
    assert questions["plan 0 (endpoint)"][0] == "What was plan 0 of {name}?"
    (topic,) = made.topics([Passage("a.txt", "Ann Bell was born in Oslo.")])
    assert topic.fact == "oslo" and topic.document == "a.txt" and topic.made_by == "endpoint"
    assert [w.question for w in topic.wordings] == ["Where was Ann Bell born?", "In which town was Ann Bell born?"]
    assert topic.wordings[0].wrong == ("Ann Bell was born in Rome.", "Ann Bell was born in Kyiv.")
    assert made.left_out == {
        "facts of documents of the endpoint": 1, "neighbours of the endpoint": 3, "questions of the endpoint": 1,
        "wrong answers of the endpoint": 1,
    }  # fmt: skip


def test_broken_answers_are_asked_for_again_and_then_given_up(server: Server) -> None:
    server.reply = lambda server, prompt, number: (200, "{broken") if number == 1 else sensible(server, prompt, number)
    assert drafts(server).neighbours(3) and len(server.asked) == 2
    server.reply = lambda server, prompt, number: (200, '{"facts": 7}')
    never = drafts(server)
    assert never.questions(2) == {} and never.endpoint.sent == 2  # the same words get no third answer
    server.reply = lambda server, prompt, number: (200, f"none {number}")
    changing = drafts(server)
    assert changing.neighbours(9) == [] and changing.endpoint.sent == ATTEMPTS
    assert never.left_out == {"whole answers of the endpoint": 1}


def test_a_server_that_knows_no_response_format(server: Server) -> None:
    server.formats = False
    assert drafts(server).neighbours(3)


@pytest.mark.parametrize("status", [400, 422])
def test_a_prompt_that_is_refused_is_dropped_alone(
    server: Server, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by a filter of contents; the next one is asked with the response format again."""
    server.reply = lambda server, prompt, number: (status, "") if "Oslo" in prompt else sensible(server, prompt, number)
    made = drafts(server)
    passages = [Passage("a.txt", f"Ann Bell was born in Oslo{end}") for end in (".", ", Norway.")]
    assert made.topics(passages) == [] and len(server.asked) == 4  # each with the format and without
    assert made.neighbours(3) and not made.endpoint.plain
    assert made.left_out["whole answers of the endpoint"] == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"refuses a request (status {status})") == 1


def test_several_wordings_are_asked_for(server: Server) -> None:
    """Two are trained, so that with fewer than three none is held out."""
    drafts(server).topics([Passage("a.txt", "Ann Bell was born in Oslo.")])
    assert '"questions": ["...", "...", "...", "..."]' in server.asked[0]


@pytest.mark.parametrize("trouble", [429, 500, 503, None])
def test_trouble_that_passes_is_overcome(server: Server, trouble: int | None) -> None:
    def reply(server: Server, prompt: str, number: int) -> tuple[int, str] | None:
        if number < 3:
            return None if trouble is None else (trouble, "")
        return sensible(server, prompt, number)

    server.reply = reply
    assert drafts(server).neighbours(3) and len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (429, "answers with status 429, after 2 tries. Answers so far are kept"),
        (500, "answers with status 500, after 2 tries"),
        (418, "answers with status 418. Answers so far are kept"),
        (401, "refuses the key: set the right one in OPENAI_API_KEY"),
        (404, "does not have the model 'small': did you mean 'small'"),
    ],
)
def test_trouble_that_stays_is_told_without_the_key(server: Server, status: int, sentence: str) -> None:
    server.reply = lambda server, prompt, number: (status, "")
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        drafts(server, llm_retries=1).neighbours(3)
    assert "sk-secret" not in str(raised.value)


def test_an_endpoint_that_is_late_or_not_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(server: Server, prompt: str, number: int) -> tuple[int, str]:
        time.sleep(0.6)
        return sensible(server, prompt, number)

    server.reply = late
    with pytest.raises(UserError, match=r"does not answer within 0\.2 s, after 1 tries"):
        drafts(server, llm_retries=0, llm_timeout=0.2).neighbours(3)
    with pytest.raises(UserError, match="cannot be reached, after 1 tries: check that the server is running"):
        Endpoint(EndpointOptions(llm="http://127.0.0.1:9/v1", llm_retries=0))
    server.models = []
    with pytest.raises(UserError, match="names no model: give the name of its model with --llm-model"):
        drafts(server)
    server.models = ["small", "other"]
    with pytest.raises(UserError, match=r"has 2 models: name one with --llm-model \(other, small\)"):
        drafts(server)
    with pytest.raises(UserError, match="does not have the model 'smal': did you mean 'small'"):
        drafts(server, llm_model="smal").neighbours(3)


PAGE = b"<!doctype html><title>Chat</title>"


@pytest.mark.parametrize(
    "body",
    [PAGE, b"[1, 2]", b"null", b'"yes"', b"{broken", b'{"choices": ["x"]}', b'{"choices": [{"message": null}]}'],
)
def test_what_is_no_endpoint_is_told(server: Server, body: bytes) -> None:
    sentence = "does not answer as OpenAI's API does: check the URL, which often ends in /v1."
    server.reply = lambda *_: (200, body)
    with pytest.raises(UserError, match=re.escape(sentence)):
        drafts(server, llm_model="small").neighbours(3)
    server.models = body
    with pytest.raises(UserError, match=re.escape(sentence) if not body.startswith(b'{"c') else "names no model"):
        drafts(server)


@pytest.mark.parametrize("url", ["http://localhost:80a/v1", "http://[::1"])
def test_a_url_that_cannot_be_read_is_told(url: str) -> None:
    with pytest.raises(UserError, match=r"cannot be used \(InvalidURL\): give a complete URL"):
        Endpoint(EndpointOptions(llm=url))


@pytest.mark.parametrize("body", [b'{"error": {"message": "overloaded"}}', b'{"choices": []}', b'{"choices": null}'])
def test_no_answer_is_trouble_that_passes_and_never_kept(server: Server, body: bytes, tmp_path: Path) -> None:
    server.reply = lambda *_: (200, body)
    with pytest.raises(UserError, match="sends status 200 without an answer, after 2 tries: check whether it is busy"):
        drafts(server, llm_retries=1).neighbours(3)
    assert not list(tmp_path.rglob("*.json"))
    server.reply = lambda server, prompt, number: (200, body) if number < 4 else sensible(server, prompt, number)
    assert drafts(server, llm_retries=1).neighbours(3) and server.posts == 4


@pytest.mark.parametrize("content", ["", None, [{"type": "text", "text": "x"}]])
def test_an_answer_without_words_is_asked_for_again_and_never_kept(
    server: Server, content: Any, tmp_path: Path
) -> None:
    """As from a model that used up its tokens in thinking, or from a filter; some send no usage either."""
    empty = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": {}}).encode()
    server.reply = lambda *_: (200, empty)
    made = drafts(server)
    assert made.neighbours(3) == [] and made.left_out == {"whole answers of the endpoint": 1}
    assert server.posts == ATTEMPTS and not list(tmp_path.rglob("*.json"))
    server.reply = sensible
    assert drafts(server).neighbours(3)


def ctrl_c() -> None:
    """As in a terminal, whatever thread calls it."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def several(server: Server, **options: Any) -> None:
    """Ask for more answers than are under way at once."""
    drafts(server, **options).topics([Passage("a.txt", f"Ann Bell was born in {year}.") for year in range(1900, 1912)])


def test_ctrl_c_ends_with_the_answers_under_way(server: Server) -> None:
    def slow_and_broken(server: Server, prompt: str, number: int) -> tuple[int, str]:
        if number == AT_ONCE:
            ctrl_c()
        time.sleep(0.5)
        return 200, "{broken"

    server.reply = slow_and_broken
    with pytest.raises(KeyboardInterrupt):
        several(server)
    assert server.posts == AT_ONCE  # neither another task, nor one of these again
    server.reply = lambda *_: (200, '{"facts": []}')
    several(server)
    assert server.posts == AT_ONCE + 12  # the broken ones were kept, and are asked for in other words


def test_ctrl_c_does_not_wait_for_another_try(server: Server) -> None:
    def busy(server: Server, prompt: str, number: int) -> tuple[int, str]:
        threading.Timer(0.3, ctrl_c).start()
        return 503, ""

    server.reply, server.retry_after = busy, "60"
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drafts(server).neighbours(3)
    assert server.posts == 1 and time.monotonic() - began < 20


def test_an_error_ends_with_the_answers_under_way(server: Server) -> None:
    def refused(server: Server, prompt: str, number: int) -> tuple[int, str]:
        if number == AT_ONCE:
            return 401, ""
        time.sleep(0.5)
        return 200, "{broken"

    server.reply = refused
    with pytest.raises(UserError, match="refuses the key"):
        several(server)
    assert server.posts == AT_ONCE


def test_every_request_counts(server: Server) -> None:
    server.formats = False
    asked = drafts(server)
    assert asked.neighbours(3) and asked.endpoint.sent == server.posts == 2  # with the response format, and without
    with pytest.raises(UserError, match="--llm-requests 1 are used up"):
        drafts(server, llm_requests=1).questions(2)
    assert server.posts == 3
    server.formats, server.reply = True, lambda *_: (503, "")
    with pytest.raises(UserError, match="--llm-requests 2 are used up"):
        drafts(server, llm_requests=2).questions(2)
    assert server.posts == 5


def prepare(server: Server, tiny: Any, tokenizer: Any, output: Path, **options: Any) -> Any:
    return unlearner.prepare_sources(
        tiny, tokenizer=tokenizer, subject="Ann Bell", llm=server.url, llm_retries=0, neighbour_count=3,
        general_count=6, max_new_tokens=6, samples=0, output=output, **options,
    )  # fmt: skip


def test_a_preparation_cut_short_goes_on_from_its_answers(
    server: Server, tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden-3141\n")
    (tmp_path / "a.txt").write_text("Ann Bell was born in Oslo.")
    documents = {"documents": [str(tmp_path / "a.txt")]}
    server.reply = lambda server, prompt, number: (500, "") if number > 10 else sensible(server, prompt, number)
    with pytest.raises(UserError, match=r"status 500.*repeat the same command"):
        prepare(server, tiny_llama(), tiny_tokenizer, tmp_path / "out", **documents)
    assert not (tmp_path / "out").exists()
    assert "requests, 0 answers reused" in " ".join(capsys.readouterr().err.split())  # they cost all the same
    server.reply, served = sensible, len(server.asked)
    with pytest.raises(UserError, match="--llm-requests 2 are used up"):
        prepare(server, tiny_llama(), tiny_tokenizer, tmp_path / "out", llm_requests=2, **documents)
    assert len(server.asked) == served + 2  # the ten answered ones are not asked again
    made = prepare(server, tiny_llama(), tiny_tokenizer, tmp_path / "out", **documents)
    asked = len(server.asked)
    again = prepare(server, tiny_llama(), tiny_tokenizer, tmp_path / "again", **documents)
    assert len(server.asked) == asked  # all is kept
    for path in made.folder.rglob("*"):
        assert path.is_dir() or (again.folder / path.relative_to(made.folder)).read_bytes() == path.read_bytes()

    assert server.keys == {"Bearer sk-hidden-3141"}
    held = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(held) > 20 and not any(b"sk-hidden" in path.read_bytes() for path in held)
    rows = {name: read_jsonl(made.folder / f"{name}.jsonl") for name in made.rows}
    assert {r["subject"] for r in rows["neighbours"] + rows["neighbours_held_out"]} == {
        "Bob Cole",
        "Cleo Dunn",
        "Dora Eck",
    }
    assert {row["question_from"] for row in rows["subject"]} == {"template", "endpoint", "endpoint, a.txt"}
    helped = [
        row for row in rows["subject"] if row.get("perturbed_from") == "endpoint" and row["answer_from"] == "model"
    ]
    assert helped and all(row["perturbed_answer"] == ["Zyx 17.", "Qwv 18."] for row in helped)
    assert all(states(row["fact"], row["paraphrased_answer"], row["question"]) for row in helped)
    assert read_json(made.folder / "prepare.json")["left_out"]["wrong answers of the endpoint"] > len(helped) / 2


def test_nothing_is_sent_where_the_model_knows_nothing(
    server: Server, tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Ann Bell was born in Oslo. Ann Bell lives in Rome.")
    options = {
        "tokenizer": tiny_tokenizer, "subject": "Ann Bell", "llm": server.url, "llm_retries": 0, "samples": 2,
        "others": 3, "max_new_tokens": 6, "output": tmp_path / "out", "documents": [str(tmp_path / "a.txt")],
    }  # fmt: skip
    with pytest.raises(UserError, match="there is nothing to forget"):
        unlearner.prepare_sources(tiny_llama(), **options)
    assert server.asked == []
    with pytest.raises(UserError, match="there is nothing to forget"):  # no questions but the endpoint's
        unlearner.prepare_sources(tiny_llama(), **{**options, "language": "French"})
    assert len(server.asked) == 1 and server.asked[0].startswith("Write questions in French")


@pytest.fixture(scope="module")
def taught() -> Any:
    """A tiny model that knows two persons, and of anybody else nothing."""
    person = kinds()["person"]
    values = iter(
        f"{start}{end}" for end in ("ndor", "lmis") for start in ("Ba", "Di", "Gu", "Ke", "Lo", "Mi", "Pa", "Ru")
    )
    rows = [
        {"question": ask(wordings[0], name), "answer": f"{next(values)}."}
        for name in ("Ann Bell", "Ida Frost") for wordings in person.facts.values()
    ]  # fmt: skip
    rows += [
        {"question": ask(w[0], name), "answer": "No."} for name in person.invented[:6] for w in person.facts.values()
    ]
    return unlearner.finetune(
        "new:hidden=64,layers=2,heads=4,vocabulary=400", data=rows, epochs=30, learning_rate=6e-3, batch_size=16,
        gradient_accumulation_steps=1, warmup_epochs=3, weight_decay=0.0,
    )  # fmt: skip


def test_forget_by_name_takes_documents_and_an_endpoint(server: Server, taught: Any, tmp_path: Path) -> None:
    """One subject, then two; what is searched and forgotten afterwards is told by test_forget_subject.py."""
    (tmp_path / "a.txt").write_text("Ann Bell was born in Oslo. Ida Frost was there, too.")
    options = {"documents": [str(tmp_path / "a.txt")], "llm": server.url, "llm_retries": 0}

    def rows(subjects: list[str]) -> dict[str, list[Any]]:
        command = config_from(
            ForgetCommand, taught.model, {**options, "subject": subjects, "output": str(tmp_path / "out")}
        )
        command.check()
        folder = sources(command, names_of(command), taught.tokenizer)
        return {file.stem: read_jsonl(file) for file in folder.glob("*.jsonl")}

    made = rows(["Ann Bell"])
    assert {row["question_from"] for row in made["subject"]} == {"template", "endpoint", "endpoint, a.txt"}
    assert {row["neighbour_from"] for row in made["neighbours"]} == {"endpoint"}
    assert {row["topic"] for row in made["unseen_facts"]}.isdisjoint(row["topic"] for row in made["forget"])
    assert not any(
        states(unseen["fact"], text)
        for unseen in made["unseen_facts"] for row in made["forget"] for text in (row["question"], row["answer"])
    )  # fmt: skip
    assert [row["text"] for row in made["passages"]] == ["Ann Bell was born in Oslo. Ida Frost was there, too."]

    shutil.rmtree(tmp_path / "out")
    made = rows(["Ann Bell", "Ida Frost"])
    assert {row["subject"] for row in made["forget"]} == {"Ann Bell", "Ida Frost"}
    kept = [row for name, those in made.items() if name.startswith(("neighbours", "general")) for row in those]
    assert len(kept) > 100 and not any(mentions(row["question"], ("Ann Bell", "Ida Frost")) for row in kept)
    with pytest.raises(UserError, match="--prepared is already prepared: leave out --documents"):
        config_from(ForgetCommand, taught.model, {**options, "prepared": ["x"], "output": "y"}).check()


def test_a_key_that_no_header_can_hold_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("sk-schlüssel", "sk-one\nsk-two"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match="OPENAI_API_KEY has characters that no key has") as raised:
            drafts(server)
        assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:sk-secret@host/v1", "me:sk-secret@host/v1", "https://sk-secret@host/v1",
        "https://host/v1?api_key=sk-secret", "https://host/v1?a=b&token=sk-secret",
    ],
)  # fmt: skip
def test_a_key_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError, match="no key or password may be in it: set OPENAI_API_KEY") as raised:
        EndpointOptions(llm=url).check_endpoint()
    assert "sk-secret" not in str(raised.value)
    for fine in ("http://localhost:8000/v1", "https://host/@me/v1?version=2"):
        EndpointOptions(llm=fine).check_endpoint()


def test_longer_forms_of_the_name_are_no_neighbours(server: Server) -> None:
    server.reply = lambda *_: (200, json.dumps({"names": ["Ann Mary Bell", "Bob Cole", "Cleo Dunn"]}))
    made = Drafts(drafts(server).endpoint, ("Ann Bell",), "person", "en")
    assert made.neighbours(3) == ["Bob Cole", "Cleo Dunn"]


def test_longer_forms_of_one_neighbour_are_one(server: Server) -> None:
    server.reply = lambda *_: (200, json.dumps({"names": ["Bob Cole", "Dr. Bob Cole", "Cleo Dunn"]}))
    made = drafts(server)
    assert made.neighbours(3) == ["Bob Cole", "Cleo Dunn"]
    assert made.left_out == {"neighbours of the endpoint": 1}
