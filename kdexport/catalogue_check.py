"""Profile and target files as their authors see them: each checked by itself, two compared, a detected one written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import Field

from kdexport import catalogue, project_file
from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.base import Noun
from kdexport.nouns.profile import HardwareProfile, Number
from kdexport.storage.files import write_text
from kdexport.storage.yaml_documents import read_noun


class Verdict(Noun):
    """Of one file. Conflicts between sources are named, and are no problem: a fact may carry both."""

    problem: str = Field(default="", description="empty where the file is right")
    conflicts: tuple[str, ...] = ()


class Difference(Noun):
    """One key of two profiles; `ratio` is the second over the first, where both are numbers."""

    key: str
    first: float | str | None
    second: float | str | None
    ratio: float | None = None


def check_profiles(files: Sequence[Path]) -> dict[str, Verdict]:
    """Each file, or with none each entry of the catalogue."""
    if files:
        return _verdicts([str(f) for f in files], lambda name: conflicts(read_noun(Path(name), HardwareProfile)))
    return _verdicts(catalogue.names("profiles"), lambda name: conflicts(catalogue.profile(name)))


def check_targets(files: Sequence[Path]) -> dict[str, Verdict]:
    """As check_profiles; a target also needs its profile, its offering and runtimes that exist."""

    def check(name: str) -> list[str]:
        project_file.load_target(name)
        return []

    return _verdicts([str(f) for f in files] if files else catalogue.names("targets"), check)


def _verdicts(names: Iterable[str], check: Callable[[str], list[str]]) -> dict[str, Verdict]:
    found = {}
    for name in names:
        try:
            found[name] = Verdict(conflicts=tuple(check(name)))
        except KdexportError as e:
            found[name] = Verdict(problem=str(e))
    return found


def conflicts(profile: HardwareProfile) -> list[str]:
    """Facts on which sources differ by more than the tolerance, each in words with both values."""
    return [
        f"facts.{key}: {fact.value:g} of {fact.source} is used; {other.source} says {other.value:g}"
        for key, fact in profile.facts.known().items()
        if isinstance(fact, Number)
        for other in fact.conflicts
    ]


def load_profile(id_or_path: str) -> HardwareProfile:
    """By id, or from a file where the name ends in .yaml or .yml. Raises BadInput."""
    if id_or_path.endswith(catalogue.SUFFIXES):
        return read_noun(Path(id_or_path), HardwareProfile)
    return catalogue.profile(id_or_path)


def differences(first: HardwareProfile, second: HardwareProfile, same_too: bool = False) -> list[Difference]:
    """Key by key in the order of the facts; a fact that neither has is left out, and one that agrees unless asked."""
    rows: dict[str, tuple[float | str | None, float | str | None]] = {
        key: (getattr(first, key) or None, getattr(second, key) or None)
        for key in ("device_class", "vendor", "power_mode", "host")
    }
    ours, theirs = first.facts.known(), second.facts.known()
    for key in type(first.facts).model_fields:
        if key in ours or key in theirs:
            rows[key] = (ours[key].value if key in ours else None, theirs[key].value if key in theirs else None)
    rows["cheapest_usd_per_device_hour"] = (_cheapest(first), _cheapest(second))
    return [
        Difference(key=key, first=a, second=b, ratio=b / a if isinstance(a, float) and isinstance(b, float) else None)
        for key, (a, b) in rows.items()
        if (a is not None or b is not None) and (same_too or a != b)
    ]


def _cheapest(profile: HardwareProfile) -> float | None:
    """USD per hour of one device, of the cheapest that is rented."""
    rented = [o.price_usd_per_hour.value / o.devices for o in profile.offerings if o.price_usd_per_hour]
    return min(rented, default=None)


def write_profile(profile: HardwareProfile, path: Path) -> HardwareProfile:
    """As YAML; the file's name becomes the id, as the catalogue wants it. Returns the profile as written."""
    import yaml
    from pydantic import ValidationError

    if path.suffix not in catalogue.SUFFIXES:
        raise BadInput(f"{path}: a profile file ends in .yaml")
    plain = {**profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True), "id": path.stem}
    try:
        named = HardwareProfile.model_validate(plain)
    except ValidationError as e:
        raise BadInput(f"{path}: the name is the id: {e.errors()[0]['msg']}") from e
    write_text(path, "# Detected by `kdexport profiles detect`.\n" + yaml.safe_dump(plain, sort_keys=False))
    return named
