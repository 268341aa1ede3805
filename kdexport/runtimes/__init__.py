"""Runtimes: `runtimes/NAME.py` is the runtime NAME. It sees named tensors with dynamic axes, never text or pictures.

Each module offers
    missing() -> the install line where its package is absent, else None
    unsupported(precision, profile) -> why it cannot serve there, else None
    only_there(profile) -> why its engine must be built on the device itself, else None
    build(graph, precision, folder, calibration) -> path of the engine file
    open_engine(path, threads) -> Engine
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from kdexport import registry
from kdexport.nouns.profile import HardwareProfile, Precision

if TYPE_CHECKING:
    import numpy as np

Feeds = Mapping[str, "np.ndarray"]


class Engine(Protocol):
    def run(self, feeds: Feeds) -> np.ndarray:
        """The first output, float32 (B, C)."""
        ...


class Runtime(Protocol):
    def missing(self) -> str | None: ...
    def unsupported(self, precision: Precision, profile: HardwareProfile) -> str | None: ...
    def only_there(self, profile: HardwareProfile) -> str | None: ...
    def build(self, graph: Path, precision: Precision, folder: Path, calibration: Sequence[Feeds]) -> Path: ...
    def open_engine(self, path: Path, threads: int) -> Engine: ...


@cache  # reading all of site-packages takes half a second
def distribution(name: str) -> tuple[str, str] | None:
    """(package name on PyPI, version) that provides a runtime's module here; None where nothing does."""
    from importlib.metadata import packages_distributions, version

    found = packages_distributions().get(name)
    return (found[0], version(found[0])) if found else None


def load_runtime(name: str, where: str = "") -> Runtime:
    return cast(Runtime, registry.load("runtimes", name, where))
