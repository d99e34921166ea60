"""`unlearner audit RUN_DIRECTORY`: the directory of a forget run says what is to be asked of which model; that of a
name stands for the run in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearner.audit.questions import Trained, read_controls, untrained
from unlearner.config import AuditConfig, ForgetConfig
from unlearner.console import note
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.options import check_budget
from unlearner.results.layout import AuditDirectory, RunDirectory
from unlearner.results.prepared import PreparedDirectory
from unlearner.results.subjects import SubjectDirectory

TAKEN = ("forget", "retain", "columns", "task", "template", "retrained", "precision", "trust_remote_code", "redact")
"""Options that an audit takes from the run, unless it gives them itself."""
EVALUATED = ("forget_eval", "retain_eval", "real_authors", "world_facts")
"""Options of a run that name what is read by its columns of evaluation."""


def of_forget(config: ForgetConfig) -> AuditConfig:
    """The audit that `config.audit` asks for, of the run in `config.output`: in audit/ there."""
    assert config.audit is not None
    return of_run(
        AuditConfig(
            model=str(config.output), budget=config.audit, controls=config.audit_controls, seed=config.seed,
            output=str(RunDirectory(Path(config.output)).audited),
        )
    )  # fmt: skip


def check_forget(config: ForgetConfig) -> None:
    """Before it runs: raises UserError where the audit that it asks for could not be made afterwards."""
    if config.audit is not None:
        if config.output is None:
            raise UserError("audit needs output: without a directory, use Unlearner(...).audit().")
        check_budget(config.audit, "--audit")
        audited = RunDirectory(Path(config.output)).audited
        if (budget := begun(audited).get("budget", config.audit)) != config.audit:
            raise UserError(
                f"{audited} holds an audit begun with --audit {budget}: give the same, or choose another --output."
            )
        if config.forget:  # not yet there where it begins at a name, which brings its own controls
            read_controls(config.audit_controls, config.forget, config.columns)


def begun(folder: str | Path) -> dict[str, Any]:
    """The options of the audit that lies in `folder`; empty where none does, or where they cannot be read."""
    try:
        return dict(AuditDirectory(Path(folder)).read_manifest()["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def where_begun(config: AuditConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with the model's path as it was when the audit in `config.output` was begun, if both lie in the
    directory of one run: this may be copied, moved or spelt otherwise; the model's hash says that it is the same."""
    if isinstance(config.model, str):
        run = RunDirectory(Path(config.model).parent)
        if run.manifest.is_file() and run.audited.resolve() == Path(config.output).resolve():
            return settings | {"model": begun(config.output).get("model", settings["model"])}
    return settings


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of `forget`: the options it was given, and where the model it made lies."""

    config: dict[str, Any]
    made: str


def finished_run(model: Any) -> FinishedRun | None:
    """The run whose directory `model` is, or that the directory of a name holds; None where it is a model, or an object
    in memory. Raises UserError for a directory that is neither a model nor a finished forget run."""
    if not isinstance(model, str) or not Path(model).is_dir():
        return None
    run, place = RunDirectory(Path(model)), SubjectDirectory(Path(model))
    if any((run.path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    if place.manifest.is_file() and not place.held_out.is_file():
        raise UserError(
            f"{run.path} holds an unfinished run of `unlearner forget --subject`: repeat the command to resume it."
        )
    try:
        if place.held_out.is_file():
            run = place.run(place.read_held_out()["run"])
        manifest = run.read_manifest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.path} holds neither a model nor a run of unlearner: give one of them.") from error
    if manifest["command"] != "forget" or not run.is_finished:
        raise UserError(f"{run.path} is not a finished run of `unlearner forget`: give a model, or finish the run.")
    held = manifest["config"]
    return FinishedRun(held, str(run.made(lora=bool(held["lora"]), merge=bool(held["merge"]))))


def of_run(config: AuditConfig) -> AuditConfig:
    """The config with what `config.model`, if it is the directory of a run, says. Raises UserError for a directory that
    is neither a model nor a finished forget run."""
    run = finished_run(config.model)
    if run is None:
        return config
    held = run.config
    default = AuditConfig(model="", output="")
    taken: dict[str, Any] = {
        name: held[name]
        for name in TAKEN
        if held.get(name) is not None and getattr(config, name) == getattr(default, name)
    }
    # An audit reads all its sources by the same columns.
    evaluated = dict(held.get("eval_columns") or held["columns"])
    alike = evaluated == dict(taken.get("columns", config.columns))
    if not alike and any(held.get(name) is not None for name in EVALUATED):
        note("the run's sources of evaluation have other columns than its forget set: the audit does not ask them")
    if alike and held.get("forget_eval") is not None and config.forget is None:
        taken["forget"] = held["forget_eval"]
    if config.controls is None and (controls := held.get("audit_controls") or _controls(held)) is not None:
        taken["controls"] = controls
    if not config.neighbours:
        taken["neighbours"] = _neighbours(held) if alike else []
    before = config.before if config.before is not None else held["model"]
    return replace(config, model=run.made, before=before, **taken)


def _controls(held: Mapping[str, Any]) -> str | None:
    """The controls that were prepared with what the run forgets, as of a run that began at a name."""
    folder = str(held["forget"]).rpartition(":")[0]
    place = PreparedDirectory(Path(folder))
    return f"{folder}:controls" if place.manifest.is_file() and place.source("controls").is_file() else None


def _neighbours(held: Mapping[str, Any]) -> list[str]:
    """What the run was evaluated on beside the forget set; of that on what is retained where it was not trained on, as
    in a run that began at a name."""
    names = [held[name] for name in ("real_authors", "world_facts") if held.get(name) is not None]
    kept = held.get("retain_eval")
    if kept is None or kept == held.get("retain"):
        return names
    sources = [held[name] for name in ("forget", "retain") if held.get(name) is not None]
    trained = Trained(*(row for source in sources for row in load_records(source, held["columns"])))
    return [kept, *names] if untrained(load_records(kept, held["columns"]), trained) else names
