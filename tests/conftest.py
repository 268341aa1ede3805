"""What tests of several folders share: the folder of real data, where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds data/ and models/: $KDEXPORT_DATA, or `shared` beside the repository."""
    folder = Path(os.environ.get("KDEXPORT_DATA") or REPOSITORY.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set KDEXPORT_DATA")
    return folder
