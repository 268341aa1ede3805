"""Read a bundle, only if it is whole. The check itself is the runner's: one implementation, here and on the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdexport.bundle.runner import verify as runner_verify
from kdexport.errors import BadInput, Damaged
from kdexport.nouns.manifest import Manifest

if TYPE_CHECKING:
    from kdexport.bundle.runner.predict import Predictor

SHOWN_PROBLEMS = 5


def verify(folder: Path) -> list[str]:
    """Each difference between a bundle and its manifest; empty: whole.

    Raises BadInput where there is no bundle, Damaged where the manifest itself cannot be trusted."""
    _read(folder)
    try:
        return runner_verify.problems(folder)
    except OSError as e:
        raise BadInput(f"{e.filename}: cannot be read ({e.strerror})") from e


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone; no other file is looked at. Raises as `verify`."""
    try:
        return Manifest.model_validate(_read(folder))
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise Damaged(f"{folder / runner_verify.MANIFEST}: {key}: {first['msg']}; written by another version?") from e


def load_predictor(folder: Path) -> Predictor:
    """What the bundle ships, loaded from a verified bundle. Raises BadInput, Damaged."""
    from kdexport.bundle.runner.engines import NoEngine
    from kdexport.bundle.runner.predict import Predictor

    problems = verify(folder)
    if problems:
        more = f" and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise Damaged(f"{folder}: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}. Copy or write the bundle again")
    read_manifest(folder)
    try:
        return Predictor(folder)
    except NoEngine as e:
        raise BadInput(str(e)) from e


def _read(folder: Path) -> dict[str, Any]:
    try:
        return runner_verify.read_manifest(folder)
    except runner_verify.BadManifest as e:
        raise Damaged(str(e)) from e
    except OSError as e:
        path = folder / runner_verify.MANIFEST
        raise BadInput(f"{path}: cannot be read ({e.strerror}); is {folder} a bundle?") from e
