"""What `push_to_hub` sends, over HTTP, to a small server that speaks the hub's protocol; PEFT loads it again."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import unlearner
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.models import smollm2
from unlearner.workflows import share

QUICK: dict[str, Any] = {
    "judge": "offline", "max_new_tokens": 8, "metrics": ["rouge", "probability"],
    "args": unlearner.TrainingArguments(
        learning_rate=3e-3, epochs=1, batch_size=4, gradient_accumulation_steps=1, max_length=64
    ),
}  # fmt: skip


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits; `refusal` is a status with which it answers instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[dict[str, Any]] = []
        self.commits: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refusal: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refusal is not None:
            return self._send(self.server.refusal, {"error": "You don't have the rights"})
        parts = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            name = f"{json.loads(body)['organization']}/{json.loads(body)['name']}"
            return self._send(200, {"url": f"{self.server.url}/{name}", "id": name})
        if self.path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if "preupload" in parts:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        assert parts[-2] == "commit", self.path
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "header":
                self.server.commits.append((self.path, line["value"]))
            else:
                assert line["key"] == "file" and line["value"]["encoding"] == "base64"
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._send(200, {
            "commitUrl": f"{self.server.url}/o/n/commit/abc", "commitOid": "a" * 40, "success": True,
            "pullRequestUrl": None,
        })  # fmt: skip

    def do_GET(self) -> None:
        self._send(404, {"error": "not here"})

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as made:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", made.url)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()


def rows(records: list[Record]) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(r).items() if value not in (None, ())} for r in records]


@pytest.fixture
def base(tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase) -> Path:
    """The model to start from, in a directory whose path nobody else should see."""
    folder = tmp_path / "secret-place" / "taught" / "model"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def received(hub: Hub, folder: Path) -> Path:
    for name, content in hub.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_an_adapter_is_a_repository_of_peft(
    hub: Hub, base: Path, tmp_path: Path, forget_records: list[Record], retain_records: list[Record],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    forget, retain = rows(forget_records[:4]), rows(retain_records[:4])
    u = unlearner.Unlearner(str(base), forget=forget, retain=retain, peft_config=LoraConfig(r=2), **QUICK)
    u.evaluate()
    u.train()
    after = u.evaluate()
    assert after is not None
    address = u.push_to_hub("org/forgot", private=True, token="hf_of_the_test", commit_message="Forgot four rows")
    assert address == f"{hub.url}/org/forgot"
    assert hub.made[0]["visibility"] == "private" and hub.tokens == {"Bearer hf_of_the_test"}
    assert len(hub.commits) == 1 and hub.commits[0][1]["summary"] == "Forgot four rows"
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= hub.files.keys()

    there = received(hub, tmp_path / "there")
    card = ModelCard.load(there / "README.md")
    assert card.data.library_name == "peft" and "lora" in card.data.tags and card.data.base_model is None
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {
        (f"measured: {name}", metric): pytest.approx(value, abs=1e-6)
        for name, metrics in after.summary["sets"].items() for metric, value in metrics.items() if value is not None
    }  # fmt: skip
    assert {key for key, _ in found} == {"measured: forget", "measured: retain"}
    for text in {value for row in (*forget, *retain) for value in (row["question"], row["answer"], row["subject"])}:
        assert text not in card.content
    said = " ".join(each["generation"] for each in after.records).split(". ")
    assert not any(len(each) > 20 and each in card.content for each in said)
    for name, content in hub.files.items():
        assert b"secret-place" not in content and str(tmp_path).encode() not in content, name
    assert "others cannot load it" in " ".join(capsys.readouterr().err.split())

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), there)
    for name, weight in u.model.state_dict().items():
        if "lora_" in name:
            assert loaded.state_dict()[name].equal(weight.cpu()), name
    assert AutoTokenizer.from_pretrained(there).get_vocab() == u.tokenizer.get_vocab()
    # What was saved on this machine goes on naming the base model by its place.
    u.save_pretrained(tmp_path / "kept")
    assert json.loads((tmp_path / "kept" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_a_whole_model_is_sent_with_its_card(
    hub: Hub, tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase,
    forget_records: list[Record],
) -> None:  # fmt: skip
    u = unlearner.Unlearner(
        tiny_llama(), tiny_tokenizer, forget=rows(forget_records[:4]), method="GA", **QUICK | {"evaluate": "none"}
    )
    u.train()
    u.push_to_hub("org/forgot")
    there = received(hub, tmp_path / "there")
    card = ModelCard.load(there / "README.md")
    assert card.data.library_name == "transformers" and "The model was not measured." in card.text
    loaded = AutoModelForCausalLM.from_pretrained(there)
    assert all(loaded.state_dict()[name].equal(weight.cpu()) for name, weight in u.model.state_dict().items())


def test_what_the_hub_refuses_is_one_sentence(
    hub: Hub, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    u = unlearner.Unlearner(tiny_llama(), tiny_tokenizer, forget=rows(forget_records[:4]), method="GA", **QUICK)
    with pytest.raises(UserError, match="did you mean 'private'"):
        u.push_to_hub("org/forgot", privat=True)
    with pytest.raises(UserError, match="is not the name of a repository"):
        u.push_to_hub("org/for got/x", token="hf_x")
    for status in (401, 403):
        hub.refusal = status
        with pytest.raises(UserError, match="the hub refuses org/forgot"):
            u.push_to_hub("org/forgot", token="hf_x")
    hub.server_close()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub cannot be reached"):
        u.push_to_hub("org/forgot", token="hf_x")


@pytest.mark.parametrize(
    ("base", "shared"),
    [("gpt2", "gpt2"), ("org/name", "org/name"), (None, "HuggingFaceTB/SmolLM2-135M-Instruct")],
    ids=["old", "owner", "smollm2"],
)
def test_a_base_model_of_the_hub_is_named(
    base: str | None, shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = base or str(smollm2.place())  # where `builtin:smollm2` was converted
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"base_model_name_or_path": base}))
    share._hide_path(file)
    assert json.loads(file.read_text())["base_model_name_or_path"] == shared
    assert capsys.readouterr().err == ""
