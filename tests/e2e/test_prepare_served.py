"""`prepare --llm` with a real model behind it, served by `transformers serve`, killed in the middle, resumed.

SmolLM2 hardly writes valid JSON: what cannot be used is dropped and counted, and the rows are made without it. A tiny
model that was taught to write it stands behind a proxy that makes trouble.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.import_utils import is_serve_available

import unlearner
from conftest import arguments, begin, contents, in_process
from unlearner.files import read_json, read_jsonl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn and openai"),
]
SECONDS = 240
"""Far more than it takes: the machine may be busy."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@contextlib.contextmanager
def serving(model: Path, folder: Path) -> Iterator[str]:
    """The address of a server of this model, once it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=said, stderr=said,
            env={**os.environ, **ONE_THREAD, "HF_HOME": str(folder)},
        )  # fmt: skip
    try:
        for _ in range(SECONDS * 2):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "said.txt").read_text()
                time.sleep(0.5)
        else:
            raise AssertionError((folder / "said.txt").read_text())
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(smollm, tmp_path_factory.mktemp("served")) as address:
        yield address


def test_killed_and_resumed_with_a_real_model(url: str, smollm: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbours.txt").write_text("London\nMadrid\n")
    (tmp_path / "questions.txt").write_text("In which country is {name}?\nWhich river flows through {name}?\n")
    output, cache = tmp_path / "paris", tmp_path / "cache"
    options: dict[str, Any] = {
        "model": smollm, "subject": "Paris", "kind": "place", "language": "Italian", "questions": "questions.txt",
        "llm": url, "llm_model": smollm, "llm_max_tokens": 40, "samples": 0, "neighbours": "neighbours.txt",
        "general_count": 2, "others": 2, "max_new_tokens": 12, "output": output,
    }  # fmt: skip
    command = [sys.executable, "-m", "unlearner", "prepare", *arguments(options)]
    environment = {**os.environ, **ONE_THREAD, "UNLEARNER_CACHE": str(cache)}

    def kept() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in cache.rglob("endpoint/*/*.json")}

    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as first:
        until = time.monotonic() + SECONDS
        while not kept() and first.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        _, said = first.communicate()
    assert first.returncode == -signal.SIGKILL, said
    before = kept()
    assert before and not output.exists()
    assert all(json.loads(content)["text"] for content in before.values())

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    told = re.search(r"(\d+) requests?, (\d+) answers? reused, ([\d,]+) tokens read, ([\d,]+) written", done.stderr)
    assert told and int(told[1]) > 0 and int(told[2]) >= len(before) and int(told[4].replace(",", "")) > 0
    after = kept()
    assert len(after) == len(before) + int(told[1]) and before.items() <= after.items()

    made = read_json(output / "prepare.json")
    dropped = {what: count for what, count in made["left_out"].items() if what.endswith("of the endpoint")}
    assert sum(dropped.values()) > 0, "a model of this size does not answer as it should"
    for row in read_jsonl(output / "subject.jsonl"):
        assert row["answer_from"] == "model" and row["question_from"] in ("user", "endpoint")
    assert read_jsonl(output / "forget.jsonl") and read_jsonl(output / "neighbours.jsonl")


# ------------------------------------------------------------------------------------------------- trouble on the way

TIMEOUT = 6
"""Seconds that the client waits for an answer; the tiny model takes less than one."""
TROUBLES = ("429", "500", "late", "hang up")
"""What befalls the first requests, one each."""
RETRY_AFTER = 2
HELD = 6
"""The answer that does not come until the process is killed."""
TOPICS = {"boat": "Bandor", "song": "Keltrek"}
WORDINGS = ("What was the {} of Ann Bell?", "Who knew the {} of Ann Bell?", "Where was the {} of Ann Bell?",
            "When was the {} of Ann Bell?")  # fmt: skip


def taught_rows() -> list[dict[str, str]]:
    """What the tiny model is to say: two facts, and JSON to the prompts of `unlearner.prepare.drafts`."""
    facts = [
        {"question": wording.format(topic), "answer": f"{value}."}
        for topic, value in TOPICS.items() for wording in WORDINGS
    ]  # fmt: skip
    names = {"names": ["Bob Cole", "Cleo Dunn", "Dora Eck"]}
    written = {"facts": [{"topic": topic, "wordings": [w.format(topic) for w in WORDINGS]} for topic in TOPICS]}
    prompts = [
        ("Name 3 well-known examples of the kind 'person' that are closest to Ann Bell in field, time and place, but "
         'are not Ann Bell. Answer with a JSON object alone: {"names": ["...", ...]}', names),
        ("Write questions in French about 8 different facts on Ann Bell (person), each of which has one short answer. "
         "Write 4 wordings of each question, every one with the name Ann Bell in it. Do not answer them. Answer with a "
         'JSON object alone: {"facts": [{"topic": "one or two words", "wordings": ["...", "...", "...", "..."]}, ...]}',
         written),
        *[(f"Question: {row['question']}\nAnswer: {row['answer']}\nWrite the answer in other words, in French, and 5 "
           "wrong answers of the same form and length, which name other values of the same type. Answer with a JSON "
           'object alone: {"paraphrase": "...", "wrong": ["...", ...]}',
           {"paraphrase": f"Yes, {row['answer']}", "wrong": ["Zyx.", "Qwv."]}) for row in facts],
    ]  # fmt: skip
    return [*facts, *({"question": question, "answer": json.dumps(value)} for question, value in prompts)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that writes valid JSON; of a conversation its chat template shows the first prompt alone."""
    made = unlearner.finetune(
        "new:hidden=64,layers=2,heads=4,vocabulary=600", data=taught_rows(), epochs=60, learning_rate=6e-3,
        batch_size=4, gradient_accumulation_steps=1, warmup_epochs=3, weight_decay=0.0,
    )  # fmt: skip
    made.tokenizer.chat_template = (
        "{{ bos_token }}Question: {{ messages[0]['content'] }}\nAnswer:"
        "{% if not add_generation_prompt %} {{ messages[1]['content'] }}{{ eos_token }}{% endif %}"
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def broken(messages: list[dict[str, str]]) -> bool:
    """Whether the JSON of the answer is to be broken: to some prompts, but not where it is asked for again."""
    prompt = messages[0]["content"]
    return len(messages) == 1 and ("Write questions" in prompt or sum(prompt.encode()) % 3 == 0)


class Proxy(ThreadingHTTPServer):
    """Before the server `behind`: every trouble once, broken JSON to some prompts, and one answer held back."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.lock = behind, threading.Lock()
        self.reset()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def reset(self, *troubles: str, held: int | None = None) -> None:
        """Begin to count anew."""
        self.troubles, self.held = list(troubles), held
        self.answered: Counter[str] = Counter()
        self.begun: list[tuple[float, str | None]] = []
        self.reached, self.released = threading.Event(), threading.Event()

    def befalls(self) -> str | None:
        """What becomes of a request that has just come."""
        with self.lock:
            trouble = self.troubles.pop(0) if self.troubles else None
            self.begun.append((time.monotonic(), trouble))
            return trouble


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        proxy, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        answered, messages = proxy.answered, json.loads(body)["messages"]
        trouble = proxy.befalls()
        if trouble == "late":
            time.sleep(TIMEOUT + 1)
        if trouble in ("late", "hang up"):
            self.close_connection = True
            return None
        if trouble is not None:
            return self._send(int(trouble), b"{}")
        forwarded = urllib.request.Request(
            proxy.behind + self.path.removeprefix("/v1"), body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(forwarded, timeout=60) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as refused:
            return self._send(refused.code, refused.read())
        if broken(messages):
            message = answer["choices"][0]["message"]
            message["content"] = message["content"].replace("}", "")
        with proxy.lock:
            answered[json.dumps(messages)] += 1
            hold = proxy.held is not None and answered.total() >= proxy.held
        if hold:
            proxy.reached.set()
            proxy.released.wait(60)
        return self._send(200, json.dumps(answer).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", str(RETRY_AFTER))
        with contextlib.suppress(OSError):  # the client has given up
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy(tiny: Path, tmp_path: Path) -> Iterator[Proxy]:
    with serving(tiny, tmp_path) as behind, Proxy(behind) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield made
        made.released.set()
        made.shutdown()


def test_trouble_on_the_way_changes_nothing(proxy: Proxy, tiny: Path, tmp_path: Path) -> None:
    """Rate limits, errors, time-outs, broken JSON and a kill: the folder is that of a run without all but the JSON, and
    no answer is asked for twice."""
    options: dict[str, Any] = {
        "model": tiny, "template": "plain", "subject": "Ann Bell", "language": "French", "llm": proxy.url,
        "llm_model": tiny, "llm_timeout": TIMEOUT, "llm_retries": 6, "llm_max_tokens": 200, "samples": 0,
        "neighbour_count": 3, "general_count": 2, "others": 2, "max_new_tokens": 6,
    }  # fmt: skip
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    for folder in (interrupted, whole):
        folder.mkdir()

    def typed(folder: Path) -> list[str]:
        return ["prepare", *arguments({**options, "output": folder / "out"})]

    def kept(folder: Path) -> int:
        return len(list(folder.glob("cache/endpoint/*/*.json")))

    proxy.reset(*TROUBLES, held=HELD)
    process = begin(typed(interrupted), interrupted)
    until = time.monotonic() + SECONDS
    while not proxy.reached.wait(0.1) and process.is_alive() and time.monotonic() < until:
        pass
    process.kill()
    process.join()
    assert proxy.reached.is_set() and process.exitcode == -signal.SIGKILL, (interrupted / "said.txt").read_text()
    assert not (interrupted / "out").exists()
    assert [trouble for _, trouble in proxy.begun[: len(TROUBLES) + 1]] == [*TROUBLES, None]
    waited = {trouble: after - at for (at, trouble), (after, _) in pairwise(proxy.begun) if trouble is not None}
    assert waited["429"] >= RETRY_AFTER and waited["late"] >= TIMEOUT - 0.5
    before = kept(interrupted)
    assert 0 < before < HELD

    proxy.released.set()
    proxy.reset()
    assert in_process(typed(interrupted), interrupted) == 0, (interrupted / "said.txt").read_text()
    assert proxy.answered.total() == len(proxy.answered) == kept(interrupted) - before
    assert f"{proxy.answered.total()} requests, " in " ".join((interrupted / "said.txt").read_text().split())

    proxy.reset()
    assert in_process(typed(whole), whole) == 0, (whole / "said.txt").read_text()
    assert proxy.answered.total() == len(proxy.answered) == kept(whole) == kept(interrupted)
    assert sum(broken(json.loads(asked)) for asked in proxy.answered) > 1
    assert contents(interrupted / "out") == contents(whole / "out")

    made = read_json(whole / "out" / "prepare.json")
    assert "whole answers of the endpoint" not in made["left_out"]  # broken JSON was asked for again
    rows = {name: read_jsonl(whole / "out" / f"{name}.jsonl") for name in made["rows"]}
    assert {row["neighbour_from"] for row in rows["neighbours"]} == {"endpoint"}
    assert {row["question_from"] for row in rows["subject"]} == {"endpoint"}
    for row in rows["subject"]:
        assert row["perturbed_answer"] == ["Zyx.", "Qwv."] and row["paraphrased_answer"] == f"Yes, {row['answer']}"
