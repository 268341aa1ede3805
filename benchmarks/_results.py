"""Where a benchmark's result goes, and the environment that travels with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdexport.measure.environment import detect
from kdexport.storage.files import write_json

FOLDER = Path(__file__).parent / "results"


def environment(threads: int = 1) -> dict[str, Any]:
    return detect(threads).model_dump(mode="json")


def write_result(name: str, document: dict[str, Any]) -> Path:
    """results/NAME.json, replaced whole."""
    path = FOLDER / f"{name}.json"
    write_json(path, document)
    return path


def shared_folder() -> Path:
    """The folder with data/ and models/: $KDEXPORT_DATA, or ../shared beside the repository."""
    path = Path(os.environ.get("KDEXPORT_DATA", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data").is_dir():
        raise SystemExit(f"{path}: no data/ there; set KDEXPORT_DATA to the folder that holds data/ and models/")
    return path
