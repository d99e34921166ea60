"""`prepare --llm` with a real model behind it: SmolLM2 served by `transformers serve`, killed in the middle, resumed.

A model of this size hardly writes valid JSON. What cannot be used is dropped and counted; the rows are made without it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.import_utils import is_serve_available

from conftest import arguments
from unlearner.files import read_json, read_jsonl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn and openai"),
]
SECONDS = 240
"""Far more than it takes: the machine may be busy."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def url(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, once it is healthy."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(smollm), "--device", "cpu"]
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
    told = re.search(r"(\d+) requests, (\d+) answers from before, ([\d,]+) tokens read, ([\d,]+) written", done.stderr)
    assert told and int(told[1]) > 0 and int(told[2]) >= len(before) and int(told[4].replace(",", "")) > 0
    after = kept()
    assert len(after) == len(before) + int(told[1]) and before.items() <= after.items()

    made = read_json(output / "prepare.json")
    dropped = {what: count for what, count in made["left_out"].items() if what.endswith("of the endpoint")}
    assert sum(dropped.values()) > 0, "a model of this size does not answer as it should"
    for row in read_jsonl(output / "subject.jsonl"):
        assert row["answer_from"] == "model" and row["question_from"] in ("user", "endpoint")
    assert read_jsonl(output / "forget.jsonl") and read_jsonl(output / "neighbours.jsonl")
