"""Profile and target files as their authors see them: each checked by itself, and a detected one written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kdexport import catalogue, project_file
from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.profile import HardwareProfile
from kdexport.storage.files import write_text
from kdexport.storage.yaml_documents import read_noun


def profile_problems(files: Sequence[Path]) -> dict[str, str]:
    """What is wrong with each file, '' where nothing; with no file, of the catalogue's entries."""
    if files:
        return _problems([str(f) for f in files], lambda name: read_noun(Path(name), HardwareProfile))
    return _problems(list(catalogue._files("profiles")), catalogue.profile)


def target_problems(files: Sequence[Path]) -> dict[str, str]:
    """As profile_problems; a target also needs its profile, its offering and runtimes that exist."""
    names = [str(f) for f in files] if files else list(catalogue._files("targets"))
    return _problems(names, project_file.load_target)


def _problems(names: Iterable[str], check: Callable[[str], object]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            check(name)
            found[name] = ""
        except KdexportError as e:
            found[name] = str(e)
    return found


def write_profile(profile: HardwareProfile, path: Path) -> HardwareProfile:
    """As YAML; the file's name becomes the id, as the catalogue wants it. Returns the profile as written."""
    import yaml
    from pydantic import ValidationError

    if path.suffix not in catalogue.SUFFIXES:
        raise BadInput(f"{path}: a profile file ends in .yaml")
    plain = {**profile.model_dump(mode="json", exclude_none=True), "id": path.stem}
    try:
        named = HardwareProfile.model_validate(plain)
    except ValidationError as e:
        raise BadInput(f"{path}: the name is the id: {e.errors()[0]['msg']}") from e
    write_text(path, "# Detected by `kdexport profiles detect`.\n" + yaml.safe_dump(plain, sort_keys=False))
    return named
