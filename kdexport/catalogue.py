"""The hardware catalogue: one YAML file is one profile or one target, and its file name is its id.

Three places hold them: the folders of the environment variable KDEXPORT_CATALOGUE (each may hold `profiles/` and
`targets/`), packages with an entry point in the group `kdexport.profiles` or `kdexport.targets` (the value is a package
or module whose folder holds YAML files), and the files shipped here. The user's folders win over the rest, the first
of them over the others: whoever sets the variable means it. A package is installed for other reasons too, so a name
that it shares with the shipped files or with another package is refused when it is asked for, never replaced silently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

from kdexport.errors import BadInput, Damaged, unknown_name
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.target import LOCAL, Target
from kdexport.storage.yaml_documents import read_noun, read_yaml, validate

Kind = Literal["profiles", "targets"]
Entry = TypeVar("Entry", HardwareProfile, Target)
VARIABLE = "KDEXPORT_CATALOGUE"
SUFFIXES = (".yaml", ".yml")


def profiles() -> dict[str, HardwareProfile]:
    """Every known profile by id. Raises BadInput at the first file that is wrong, or claimed twice."""
    return {name: _read_entry(_unclaimed(p, "profiles"), HardwareProfile) for name, p in _places("profiles").items()}


def targets() -> dict[str, Target]:
    """Every known target by id. Raises BadInput at the first file that is wrong, or claimed twice."""
    return {name: _read_entry(_unclaimed(p, "targets"), Target) for name, p in _places("targets").items()}


def profile(id: str, where: str = "") -> HardwareProfile:
    """The profile of this id; no other file is read. Raises BadInput with the nearest name."""
    return _read_entry(_find("profiles", id, where), HardwareProfile)


def target(id_or_path: str, where: str = "") -> Target:
    """The target of this id, or in this file if it ends in .yaml or .yml; no other file is read.

    A file outside the catalogue may have any name. Raises BadInput with the nearest name."""
    if id_or_path.endswith(SUFFIXES):
        return read_noun(Path(id_or_path), Target)
    return _read_entry(_find("targets", id_or_path, where), Target)


def check(target: Target, profile: HardwareProfile) -> None:
    """That the target's profile is this one (or the local machine) and sells its offering. Raises BadInput."""
    where = f"target '{target.id}'"
    if target.profile not in (LOCAL, profile.id):
        raise BadInput(f"{where}: lives on profile '{target.profile}', not on '{profile.id}'; pass that profile")
    if target.offering is None or profile.offering(target.offering):
        return
    if not profile.offerings:
        raise BadInput(
            f"{where}: offering '{target.offering}' is wanted, but profile '{profile.id}' has none; "
            "leave `offering` out (the cost stays blank), or copy the profile and add one"
        )
    raise unknown_name("offering", target.offering, [o.id for o in profile.offerings], where)


def names(kind: Kind) -> list[str]:
    """Of every entry, sorted; they come from the folders alone, no file is opened."""
    return list(_places(kind))


@dataclass(frozen=True)
class _Place:
    path: Path
    whose: str  # who put it there, for an error
    claimed_by: str = ""  # a second one that is no less entitled to the name


def _find(kind: Kind, name: str, where: str) -> Path:
    places = _places(kind)
    if name not in places:
        error = unknown_name(kind.removesuffix("s"), name, places, where)
        raise BadInput(f"{error}; new ones are found through {VARIABLE}") if kind == "profiles" else error
    return _unclaimed(places[name], kind, where)


def _unclaimed(place: _Place, kind: Kind, where: str = "") -> Path:
    if place.claimed_by:
        raise BadInput(
            f"{where + ': ' if where else ''}{kind.removesuffix('s')} '{place.path.stem}' is both in {place.whose} and "
            f"in {place.claimed_by}; uninstall one, or copy the one that is meant to {kind}/{place.path.name} in a "
            f"folder of {VARIABLE}, which wins"
        )
    return place.path


def _places(kind: Kind) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    for folder in _user_folders(kind):
        for path in _entries(folder):
            found.setdefault(path.stem, _Place(path, VARIABLE))
    users = set(found)
    shipped = ("kdexport itself", _shipped_folder(kind))
    installed = [(_called(entry), _folder_of(entry)) for entry in sorted(entry_points(group=f"kdexport.{kind}"))]
    for whose, folder in [shipped, *installed]:
        for path in _entries(folder):
            first = found.get(path.stem)
            if first is None:
                found[path.stem] = _Place(path, whose)
            elif path.stem not in users and first.path != path:  # two entry points may name one folder
                found[path.stem] = _Place(first.path, first.whose, claimed_by=f"{whose} ({path})")
    return dict(sorted(found.items()))


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


def _called(entry: EntryPoint) -> str:
    package = f" of package {entry.dist.name}" if entry.dist else ""
    return f"entry point '{entry.name}' of {entry.group}{package}"


def _user_folders(kind: Kind) -> list[Path]:
    roots = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for root in roots:
        if not root.is_dir():
            raise BadInput(f"{VARIABLE}: '{root}' is not a folder; correct the variable or unset it")
    return [root / kind for root in roots if (root / kind).is_dir()]


def _folder_of(entry: EntryPoint) -> Path:
    """The folder of the module that an entry point names; the module itself is not run."""
    try:
        spec = find_spec(entry.module)
    except ImportError:
        spec = None
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise BadInput(
            f"{_called(entry)}: '{entry.module}' is not a package or module; "
            "reinstall or uninstall the package that declares it"
        )
    return Path(next(iter(spec.submodule_search_locations or ()), None) or Path(str(spec.origin)).parent)


def _shipped_folder(kind: Kind) -> Path:
    here = Path(__file__).parent
    # A wheel holds them below the package; in the source tree they are at the top, where people look for them.
    for folder in (here / "_catalogue" / kind, here.parent / kind):
        if folder.is_dir():
            return folder
    raise Damaged(f"{here}: the shipped {kind} are not there; reinstall kdexport")


def _read_entry(path: Path, noun: type[Entry]) -> Entry:
    document, lines = read_yaml(path)
    entry = validate(document, noun, path, lines)
    if entry.id != path.stem:
        raise BadInput(
            f"{path}:{lines.get(('id',), 1)}: id: is '{entry.id}', but the file is named '{path.name}'; rename one"
        )
    return entry
