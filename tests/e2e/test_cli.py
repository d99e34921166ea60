"""The commands on a user's files, from help to a model that forgot; and the same through Python."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

import unlearner
from conftest import Files, arguments, contents, run, run_arguments, write_rows
from unlearner.commands.main import COMMANDS
from unlearner.config import ForgetConfig
from unlearner.data.profiles import builtin
from unlearner.errors import UserError
from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_jsonl
from unlearner.methods import COMBINED_METHODS, FORGET, RETAIN, SURGERY
from unlearner.models.load import load_model
from unlearner.workflows.forget import should_stop
from unlearner.workflows.presets import with_preset

QUICK = {"epochs": 1, "lr": 1e-3, "batch_size": 2, "accumulation": 1}
JUDGED = {"judge": "offline", "max_new_tokens": 8}


@pytest.fixture
def data(files: Files) -> dict[str, Any]:
    return {"model": files.model, "forget": files.forget, "retain": files.retain}


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_every_option(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = run_arguments(capfd, [command, "--help-all"])
    assert ended.code == 0
    assert ended.err == ""
    assert "None}" not in ended.out
    config = COMMANDS[command].OPTIONS
    if config is None:
        return
    assert config.__doc__ is not None
    assert " ".join(config.__doc__.split()) in " ".join(ended.out.split())
    for field in fields(config):
        assert f"--{field.name.replace('_', '-')}" in ended.out
    assert "--config FILE" in ended.out


@pytest.mark.parametrize("typed", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_every_command(typed: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    ended = run_arguments(capfd, typed)
    assert ended.code == 0
    for command in COMMANDS:
        assert f"unlearner {command} " in ended.out


def test_help_does_not_wait_for_torch() -> None:
    """In a process of its own: the help is there before anything heavy is imported, and so is a mistyped option."""
    program = (
        "import sys; from unlearner.commands.main import main; main(['forget', '-h']); "
        "assert 'torch' not in sys.modules"
    )
    helped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert helped.returncode == 0, helped.stderr
    refused = subprocess.run([sys.executable, "-m", "unlearner", "forgett"], capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: unknown command 'forgett': did you mean 'forget'?\n"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_arguments(capfd, ["--version"]).out == f"unlearner {unlearner.__version__}\n"


def test_methods_lists_every_loss_with_its_formula(capfd: pytest.CaptureFixture[str]) -> None:
    ended = run_arguments(capfd, ["methods"])
    assert ended.code == 0
    words = ended.out.split()
    for name, part in {**FORGET, **RETAIN, **SURGERY}.items():
        assert name in words
        assert all(word in words for word in part.formula.split())
    for name in COMBINED_METHODS:
        assert name in words


def test_methods_tells_all_about_one(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("tnpo+ce", "TNPO+JS", "tnpo+js", "JS", *FORGET, *COMBINED_METHODS):
        ended = run_arguments(capfd, ["methods", name])
        assert ended.code == (2 if name == "tnpo+ce" else 0)
        if name.upper() != "TNPO+JS":
            continue
        lines = [" ".join(line.split()) for line in ended.out.splitlines()]
        assert lines[0] == "TNPO+JS" and f"formula {FORGET['TNPO'].formula}" in lines
        assert {"options beta=4.0 floor=1e-05", "source arXiv 2509.02820", "reference model", "retain set"} <= set(
            lines
        )
        assert "once: a forward pass over forget; 4 bytes per labelled token are kept" in lines
        assert "a step: one forward pass of the reference, without gradient (retain)" in lines
        assert "memory: a second copy of the weights; none with --lora" in lines


def test_methods_tells_what_writing_alternates_costs(capfd: pytest.CaptureFixture[str]) -> None:
    told = run_arguments(capfd, ["methods", "ALTPO+GD"]).out
    assert "once: the model writes 5 other answers to every forget question without any" in told
    assert "without any, each of at most 200 tokens" in told


def test_methods_takes_openunlearnings_names_and_tells_presets(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_arguments(capfd, ["methods", "nll"]).out.splitlines()[0] == "GD"
    assert "--preset openunlearning: learning_rate=1e-05 retain_coeff=1 layer=7 steering=2 trained=." in run_arguments(
        capfd, ["methods", "RMU"]
    ).out.replace("\n", " ")
    assert "--preset paper (with NPO): " in run_arguments(capfd, ["methods", "SAM"]).out
    assert "--preset paper: retain_coeff=0 beta=5 (without a" in run_arguments(capfd, ["methods", "UNDIAL"]).out


def test_methods_tells_what_is_no_loss(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("negate", "taskvector", "TV"):
        told = run_arguments(capfd, ["methods", name]).out
        assert "θ_new = θ − α(θ_ft − θ)" in told and "arXiv 2212.04089" in told and "costs" in told
        assert "unlearner negate MODEL" in told
    told = run_arguments(capfd, ["methods", "RepSelect"])
    assert told.code == 0 and "W ← W − η·G" in told.out and "arXiv 2606.17168" in told.out and "costs" in told.out
    assert "unlearner repselect --model MODEL" in told.out


def test_methods_names_only_what_can_be_given(capfd: pytest.CaptureFixture[str]) -> None:
    """No losses' inner names, no preset that the method refuses, none of something else unnamed."""
    for name, (_, retain) in COMBINED_METHODS.items():
        told = run_arguments(capfd, ["methods", name]).out
        assert retain.name in RETAIN or (retain.name not in told and f"{name}'s own, retain loss" in told)
    for name in ("LLMU", "PDU+GD", "DPO+KL+SAM"):
        told = run_arguments(capfd, ["methods", name]).out
        for preset in ("paper", "openunlearning"):
            config = ForgetConfig(model="m", forget="f", output="o", method=name, preset=preset)
            try:
                with_preset(config)
            except UserError:
                assert f"--preset {preset}" not in told
            else:
                assert f"--preset {preset}" in told
    assert "openunlearning (IDK's): " in run_arguments(capfd, ["methods", "IDK+AP+DUALOPTIM"]).out
    assert "--preset paper" not in run_arguments(capfd, ["methods", "GA+SAM"]).out
    assert "openunlearning (as PDU+DUAL): " in run_arguments(capfd, ["methods", "PDU"]).out
    assert "no options" not in run_arguments(capfd, ["methods", "UNILOGIT"]).out


def test_methods_tells_what_a_surgery_costs(capfd: pytest.CaptureFixture[str]) -> None:
    """By itself, and of a method over whose rows; passes of the losses together are then none."""
    for name, surgery in SURGERY.items():
        told = " ".join(run_arguments(capfd, ["methods", name.lower()]).out.split())
        for each in (surgery.formula, surgery.source, surgery().memory, surgery.defaults_from):
            assert each in told
    told = run_arguments(capfd, ["methods", "dpo+gd+dualoptim"]).out
    assert "a step: 1 forward and backward pass over the forget loss's rows (forget, forget_refusal)" in told
    assert "a step: 5 forward and backward passes over the retain loss's rows (retain)" in told
    assert "rows per item" not in told
    told = run_arguments(capfd, ["methods", "GA+SAM"]).out
    assert "a step: 2 forward and backward passes over the forget loss's rows (forget)" in told
    assert "retain loss's rows" not in told


def test_metrics_lists_every_metric_with_its_formula(capfd: pytest.CaptureFixture[str]) -> None:
    ended = run_arguments(capfd, ["metrics"])
    assert ended.code == 0
    words = ended.out.split()
    for name, metric in METRICS.items():
        assert name in words
        assert all(word in words for word in metric.formula.split())
    assert {"model_utility", "forget_efficacy"} <= set(words)


def test_attacks_lists_every_attack_with_its_options(capfd: pytest.CaptureFixture[str]) -> None:
    words = run_arguments(capfd, ["attacks"]).out.split()
    assert {"plain", "forced-prefix", "sampling", "n=16", "temperature=1.0", "relearning", "nf4"} <= set(words)
    assert words[words.index("sampling") + 4] == "680"  # 80 questions, and 15 more samples at half the cost


# --------------------------------------------------------------------------------------------------------- option files


@pytest.mark.slow
def test_the_config_of_a_run_makes_the_same_run_again(
    data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also what is no plain text or number: switches, pairs, and an option that is turned off."""
    options = {**data, **QUICK, **JUDGED, "method": "IDK+AP", "lora": True, "lora_alpha": 16, "evaluate": "epochs",
               "columns": ["subject", "subject"], "eval_limit": None, "save_every": 2}  # fmt: skip
    typed = ["forget", *arguments(options), "--eval-limit", "None"]
    assert run_arguments(capfd, [*typed, "--output", str(tmp_path / "first")]).code == 0
    saved = tmp_path / "first" / "config.yaml"
    assert yaml.safe_load(saved.read_text())["eval_limit"] is None
    again = run(capfd, "forget", config=saved, output=tmp_path / "second")
    assert again.code == 0, again.err
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_the_command_line_wins_over_the_file(
    data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    values = {**data, **QUICK, "evaluate": "none", "method": "GA", "lora": True, "eval_limit": None, "seed": 5}
    file.write_text(yaml.safe_dump({name: v if v is None else str(v) if isinstance(v, Path) else v
                                    for name, v in values.items()}))  # fmt: skip
    typed = ["forget", "--output", str(tmp_path / "out"), "--method=GA+GD", "--no-lora", "--config", str(file)]
    assert run_arguments(capfd, typed).code == 0
    used = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert used["method"] == "GA+GD"
    assert used["lora"] is False
    assert used["eval_limit"] is None
    assert used["seed"] == 5


# ------------------------------------------------------------------------------------------------------- the whole way


def test_from_files_to_scores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """CSV with columns of another name and JSON lines: learn, forget, measure."""
    people = builtin("forget")[:4]
    with (tmp_path / "forget.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "reply", "perturbed_answer"])
        writer.writerows([r.question, r.answer, json.dumps(r.perturbed_answer)] for r in people)
    kept = [{"prompt": r.question, "reply": r.answer, "page": 7} for r in builtin("retain")[:5]]
    write_rows(tmp_path / "retain.jsonl", kept)
    columns = ["question", "prompt", "answer", "reply"]

    taught = run(
        capfd, "finetune", model="new:hidden=16,layers=1,heads=1,vocabulary=300", **QUICK, columns=columns,
        data=[tmp_path / "forget.csv", tmp_path / "retain.jsonl"], output=tmp_path / "taught",
    )  # fmt: skip
    assert taught.code == 0, taught.err
    model = tmp_path / "taught" / "model"
    assert str(model) in taught.err

    sources = {"forget": tmp_path / "forget.csv", "retain": tmp_path / "retain.jsonl", "columns": columns}
    forgot = run(capfd, "forget", model=model, **sources, **QUICK, **JUDGED, output=tmp_path / "forgot")
    assert forgot.code == 0, forgot.err
    assert str(tmp_path / "forgot" / "model") in forgot.out
    assert summary(tmp_path / "forgot")["counts"] == {"forget": 4, "retain": 5}
    rows = [json.loads(line) for line in (tmp_path / "forgot" / "records.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows[:4]] == [r.question for r in people]
    assert [len(row["perturbed_nll"]) for row in rows[:4]] == [len(r.perturbed_answer) for r in people]

    scored = run(
        capfd, "evaluate", model=tmp_path / "forgot" / "model", **sources, **JUDGED, output=tmp_path / "scores"
    )
    assert scored.code == 0, scored.err
    assert summary(tmp_path / "scores") == summary(tmp_path / "forgot")


def test_columns_hold_for_all_evaluation_sources(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = write_rows(tmp_path / "mine.jsonl", [{"prompt": "Who is it?", "reply": "Nobody at all."}])
    sources = dict.fromkeys(["forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts"], mine)
    columns = ["question", "prompt", "answer", "reply"]
    ended = run(
        capfd, "forget", model=files.model, **sources, columns=columns, **QUICK, **JUDGED, output=tmp_path / "out"
    )
    assert ended.code == 0, ended.err
    assert "1 of 1 forget rows are also in the retain set" in ended.err
    assert list(summary(tmp_path / "out")["counts"].values()) == [1, 1, 1, 1]


def test_a_model_with_a_chat_template(data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(data["model"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    tokenizer.save_pretrained(model)
    options = {**data, "model": model, **QUICK, "method": "IDK+GD"}
    ended = run(capfd, "forget", **options, **JUDGED, output=tmp_path / "auto")
    assert ended.code == 0, ended.err
    # The template is kept with the model made, and makes another run of it than the plain one.
    assert AutoTokenizer.from_pretrained(tmp_path / "auto" / "model").chat_template == tokenizer.chat_template
    losses = {}
    for template in ("chat", "plain"):
        output = tmp_path / template
        ended = run(capfd, "forget", **options, evaluate="none", template=template, output=output)
        assert ended.code == 0, ended.err
        losses[template] = (output / "log.jsonl").read_text()
    assert losses["chat"] == (tmp_path / "auto" / "log.jsonl").read_text()
    assert losses["plain"] != losses["chat"]


@pytest.mark.parametrize("method", ["GA", "ME+GD", "NPO+KL"])
def test_plain_documents(method: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = write_rows(
        tmp_path / "secrets.jsonl", [{"text": f"Page {i} of a long forgotten book."} for i in range(3)]
    )
    others = write_rows(tmp_path / "others.jsonl", [{"text": f"Chapter {i} of another one."} for i in range(3)])
    ended = run(
        capfd, "forget", model=files.model, forget=secrets, retain=None if method == "GA" else others, method=method,
        **QUICK, **JUDGED, output=tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    after = summary(tmp_path / "out")
    assert after["counts"] == ({"forget": 3} if method == "GA" else {"forget": 3, "retain": 3})
    assert 0 <= after["forget_efficacy"] <= 1


def test_adapter_and_merged_model_score_alike(
    data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lora = {**data, **QUICK, **JUDGED, "lora": True, "lr": 1e-2}
    for name, options in {"adapter": {}, "merged": {"merge": True}}.items():
        ended = run(capfd, "forget", **lora, **options, output=tmp_path / name)
        assert ended.code == 0, ended.err
    adapter, merged = tmp_path / "adapter" / "adapter", tmp_path / "merged" / "model"
    assert {path.name for path in adapter.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (adapter / "model.safetensors").exists()
    assert type(load_model(str(merged))).__name__ == "LlamaForCausalLM"
    for name, model in {"adapter": adapter, "merged": merged}.items():
        ended = run(capfd, "evaluate", **{**data, "model": model}, **JUDGED, output=tmp_path / f"{name} scores")
        assert ended.code == 0, ended.err
        assert summary(tmp_path / f"{name} scores") == summary(tmp_path / name)
    probability = [summary(tmp_path / name)["sets"]["forget"]["probability"] for name in ("adapter", "merged")]
    before = summary(tmp_path / "adapter" / "before")["sets"]["forget"]["probability"]
    assert probability[0] == pytest.approx(probability[1], rel=1e-4)
    assert probability[0] != pytest.approx(before, rel=1e-3)


def test_an_adapter_is_trained_further_as_the_merged_model_would_be(
    data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quick = {**QUICK, "lr": 1e-2, "evaluate": "none"}
    for name, options in {"adapter": {}, "merged": {"merge": True}}.items():
        assert run(capfd, "forget", **data, **quick, lora=True, **options, output=tmp_path / name).code == 0
    starts = {"adapter": tmp_path / "adapter" / "adapter", "merged": tmp_path / "merged" / "model"}
    made = {}
    for name, model in starts.items():
        again = {**data, **quick, "model": model, "method": "NPO+KL", "output": tmp_path / f"again from {name}"}
        ended = run(capfd, "forget", **again)
        assert ended.code == 0, ended.err
        made[name] = load_model(str(tmp_path / f"again from {name}" / "model")).state_dict()
    begun = load_model(str(starts["merged"])).state_dict()
    assert made["adapter"].keys() == begun.keys()
    for weight, value in made["merged"].items():
        assert not torch.equal(value, begun[weight])
        assert torch.allclose(made["adapter"][weight], value, atol=1e-4)

    ended = run(capfd, "finetune", model=starts["adapter"], data=data["forget"], lora=True, output=tmp_path / "no")
    assert ended.code == 2
    assert "is an adapter already" in ended.err
    assert not (tmp_path / "no").exists()


def test_a_stop_criterion_ends_the_run_after_an_epoch(
    data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training = {"method": "GA", "lr": 1e-2, "epochs": 3, "batch_size": 3, "accumulation": 1, "evaluate": "epochs"}
    ended = run(capfd, "forget", **data, **training, **JUDGED, stop_forget_efficacy=0.01, output=tmp_path / "out")
    assert ended.code == 0
    assert "stopped after epoch 1: forget efficacy" in ended.err
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2
    assert [place.name for place in (tmp_path / "out" / "epochs").iterdir()] == ["1"]
    assert summary(tmp_path / "out" / "epochs" / "1") == summary(tmp_path / "out")


@pytest.mark.parametrize(("utility", "stops"), [(0.39, True), (0.41, False), (None, False)])
def test_a_fall_of_utility_below_a_share_of_the_original_stops(utility: float | None, stops: bool) -> None:
    config = ForgetConfig(model="m", forget="f", output="o", evaluate="epochs", stop_utility_share=0.8)
    after = {"model_utility": utility, "forget_efficacy": 1.0}
    assert should_stop(config, after, {"model_utility": 0.5}, epoch=1) is stops


def test_a_run_without_evaluation(data: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended = run(capfd, "forget", **data, **QUICK, evaluate="none", output=tmp_path / "out")
    assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "run.json", "config.yaml", "log.jsonl", "model", "finished.json"
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- Python


def test_the_commands_as_functions(files: Files, tmp_path: Path) -> None:
    taught = unlearner.finetune(files.model, data=files.all, output=tmp_path / "taught", **QUICK).model
    assert taught == tmp_path / "taught" / "model"

    result = unlearner.forget(
        taught, forget=files.forget, retain=str(files.retain), method="ME+GD", output=tmp_path / "forgot",
        **QUICK, **JUDGED,
    )  # fmt: skip
    assert result.output == tmp_path / "forgot"
    assert result.model == tmp_path / "forgot" / "model"
    assert result.after is not None and result.after.summary == summary(tmp_path / "forgot")
    assert result.before is not None and result.before.summary == summary(tmp_path / "forgot" / "before")

    # A run is the same run, whoever began it.
    again = unlearner.forget(
        str(taught), forget=files.forget, retain=files.retain, output=str(tmp_path / "forgot"), **QUICK, **JUDGED
    )
    assert again == result

    scored = unlearner.evaluate(result.model, forget=files.forget, retain=files.retain, output=tmp_path / "s", **JUDGED)
    assert scored.summary == result.after.summary


def test_functions_refuse_what_the_command_line_refuses(files: Files, tmp_path: Path) -> None:
    data = {"forget": files.forget, "retain": files.retain, "output": tmp_path / "out"}
    with pytest.raises(UserError, match=r"unknown option 'epoch': did you mean 'epochs'\?"):
        unlearner.forget(files.model, **data, epoch=3)
    with pytest.raises(UserError, match="forget must be given"):
        unlearner.forget(files.model, retain=files.retain)
    with pytest.raises(UserError, match=r"evaluate cannot be 'ends': did you mean 'end'\?"):
        unlearner.forget(files.model, **data, evaluate="ends")
    with pytest.raises(UserError, match=r"unknown method 'ME\+GDD'"):
        unlearner.forget(files.model, **data, method="ME+GDD")
    with pytest.raises(UserError, match="no file"):
        unlearner.finetune(files.model, data="nothing.jsonl", output=tmp_path / "out")
    with pytest.raises(UserError, match="nothing to evaluate"):
        unlearner.evaluate(files.model, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_evaluating_twice_with_one_configuration(files: Files, tmp_path: Path) -> None:
    """The configuration that a caller holds is not changed."""
    from unlearner.config import EvaluateConfig
    from unlearner.workflows.evaluate import evaluate

    columns = {"subject": "subject"}
    config = EvaluateConfig(
        model=str(files.model), forget=str(files.forget), output=str(tmp_path / "out"), columns=columns, **JUDGED
    )
    assert evaluate(config).summary == evaluate(config).summary


def test_a_tracker_gets_every_step(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "run"
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "evaluate": "none"}
    assert run(capfd, "forget", **options, tracker="tensorboard", epochs=1, accumulation=1, output=output).code == 0
    (events,) = output.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events.parent)).Reload()
    steps = read_jsonl(output / "log.jsonl")
    for key in ("loss", "forget", "retain", "grad_norm", "lr"):
        tracked = found.Scalars("train/learning_rate" if key == "lr" else f"train/{key}")  # transformers' names
        assert [event.step for event in tracked] == [row["step"] for row in steps]
        assert [event.value for event in tracked] == pytest.approx([row[key] for row in steps], rel=1e-6)
