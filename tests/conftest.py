"""Shared by all tests: where the shared data lies, and tiny models that tests make themselves."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project with TOFU, the real-world data and the official numbers."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.name}/ folder beside the project: official numbers and TOFU data are not here")
    return SHARED
