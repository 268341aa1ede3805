"""Every error that a user can cause, or can mend. `cli.py` prints the message and exits 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KdexportError(Exception):
    """It could not be done: the message says what is wrong, where, and what to do."""


class BadInput(KdexportError):
    """A file or value from the user is wrong; the message names file, line or key."""


class StaleCache(KdexportError):
    """A cached artefact was made from other inputs than this project's."""


class Damaged(KdexportError):
    """An artefact on disk is truncated, altered or not what its hash says."""


class Unsupported(KdexportError):
    """A combination that kdexport names and refuses, rather than half-serve."""


class CapReached(KdexportError):
    """A limit on money that the user set would be passed: work stopped before it, and what was made is kept."""


class MissingPackage(KdexportError):
    """An optional package is absent; the message holds the install line."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> BadInput:
    """The error for a misspelt name, with the nearest match."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return BadInput(f"{where + ': ' if where else ''}unknown {kind} '{name}'; {hint}")
