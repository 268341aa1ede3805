"""Calibrations of this machine, kept for every project: $KDEXPORT_CACHE or ~/.cache/kdexport.

One file for each fingerprint, runtime, version, precision and number of threads. What was measured under another
fingerprint (another CPU, quota, governor, or version of a runtime) lies in another folder and is never returned."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from kdexport.errors import BadInput, Damaged, KdexportError
from kdexport.latency.calibrated import version_of
from kdexport.measure.environment import fingerprint
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import Precision
from kdexport.storage.files import read_json, read_users_json, write_json

MEND = "delete it; `kdexport profiles calibrate` measures it again"


def folder() -> Path:
    """Where calibrations are kept."""
    root = os.environ.get("KDEXPORT_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "kdexport") / "calibrations"


def path_of(fingerprint: str, runtime: str, version: str, precision: Precision, threads: int) -> Path:
    return folder() / fingerprint / f"{runtime}-{version}-{precision}-{threads}t.json"


def load(environment: Environment, runtime: str, precision: Precision) -> Calibration | None:
    """What was measured on this very machine with the installed runtime; None where nothing was.

    Raises Damaged where the file is not a calibration, or one of another machine."""
    version, threads, here = version_of(runtime), environment.threads, fingerprint(environment)
    file = path_of(here, runtime, version, precision, threads)
    if not file.is_file():
        return None
    found = _parsed(file, read_json(file, MEND), Damaged, MEND)
    wanted = (here, runtime, version, precision, threads)
    if (found.fingerprint, found.runtime, found.version, found.precision, found.threads) != wanted:
        raise Damaged(f"{file}: holds {found.cell} of machine {found.fingerprint}, not what its name says; {MEND}")
    return found


def save(calibration: Calibration) -> Path:
    """Written whole or not at all. Raises BadInput where the folder cannot be written."""
    write_json(path(calibration), calibration)
    return path(calibration)


def path(calibration: Calibration) -> Path:
    """Where it is kept."""
    c = calibration
    return path_of(c.fingerprint, c.runtime, c.version, c.precision, c.threads)


def read(file: Path) -> Calibration:
    """A calibration brought from elsewhere. Raises BadInput or Damaged where the file does not hold one."""
    return _parsed(file, read_users_json(file), BadInput, "copy again what `kdexport profiles calibrate` kept there")


def _parsed(file: Path, document: object, error: type[KdexportError], mend: str) -> Calibration:
    try:
        return Calibration.model_validate(document)
    except ValidationError as e:
        raise error(f"{file}: not a calibration ({_first(e)}); {mend}") from e


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or 'document'}: {found['msg']}"
