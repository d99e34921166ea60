"""A saved model or adapter, with its card, as a repository of the Hugging Face hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from unlearner.console import warn
from unlearner.errors import UserError, brief
from unlearner.files import read_json, write_json
from unlearner.models import smollm2
from unlearner.workflows.card import is_hub_id, telling_name


def share(folder: Path, repo_id: str, *, private: bool | None = None, token: Any = None, **commit: Any) -> str:
    """Upload all of `folder` in one commit, into a repository that is made where there is none; gives its address.

    `commit` are huggingface_hub's options of a commit: commit_message, commit_description, revision, create_pr. Raises
    UserError where the hub cannot be reached or refuses.
    """
    _hide_path(folder / "adapter_config.json")
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, **commit)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is not the name of a repository: write OWNER/NAME.") from error
    except LocalTokenNotFoundError as error:
        raise UserError("the hub needs a token: log in with `hf auth login`, or give token.") from error
    except HfHubHTTPError as error:
        raise UserError(f"the hub refuses {repo_id}: {brief(error)}") from error
    except Exception as error:
        # Without a network the hub's HTTP library, which has been httpx and httpx2, raises errors of its own.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise UserError(f"the hub cannot be reached to upload {repo_id} ({brief(error)}): try again.") from error
    return str(made)


def _hide_path(file: Path) -> None:
    """In an adapter's configuration, a directory of this machine as the base model: others do not find it there, and it
    tells them where things lay. SmolLM2 has a name on the hub."""
    if not file.is_file():
        return
    held = read_json(file)
    base = held.get("base_model_name_or_path") or ""
    if base == str(smollm2.place()):
        write_json(file, held | {"base_model_name_or_path": smollm2.HUB})
    elif base and not is_hub_id(base):
        held["base_model_name_or_path"] = telling_name(base)
        write_json(file, held)
        warn(
            f"the adapter's base model {base} is a directory here, so others cannot load it with the adapter: start "
            "from a model of the hub, or save the merged model."
        )
