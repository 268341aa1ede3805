"""Find things by name: a module `kdexport/KIND/NAME.py` *is* the NAME; strangers use an entry point.

A third-party package adds one with `[project.entry-points."kdexport.KIND"]  NAME = "package.module"`.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

from kdexport.errors import unknown_name


def names(kind: str) -> list[str]:
    """All known names of a kind (`losses`, `backbones`, `tasks`, `runtimes`), built in and installed."""
    package = importlib.import_module(f"kdexport.{kind}")
    built_in = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    return sorted(built_in | {e.name for e in entry_points(group=f"kdexport.{kind}")})


def load(kind: str, name: str, where: str = "") -> ModuleType:
    """The module that is `name`. Raises BadInput with the nearest match if there is none."""
    known = names(kind)
    if name not in known:
        raise unknown_name(kind.removesuffix("es") if kind == "losses" else kind[:-1], name, known, where)
    for entry in entry_points(group=f"kdexport.{kind}", name=name):
        loaded = entry.load()
        assert isinstance(loaded, ModuleType), f"entry point kdexport.{kind}:{name} must name a module"
        return loaded
    return importlib.import_module(f"kdexport.{kind}.{name}")
