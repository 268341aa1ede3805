"""What works on this machine, how to get the rest, and what a project's test set can tell."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from kdexport import project_file, registry
from kdexport.dataset import Dataset, read_dataset
from kdexport.errors import KdexportError
from kdexport.measure.environment import detect
from kdexport.nouns.base import Noun
from kdexport.nouns.measurement import Environment
from kdexport.nouns.project import Project
from kdexport.project_file import LoadedProject
from kdexport.runtimes import distribution, load_runtime
from kdexport.tasks import load_task
from kdexport.teachers._peek import classes_of

ASSUMED_ACCURACY = 0.9


class RuntimeStatus(Noun):
    name: str
    version: str | None = Field(description="none: not installed")
    install: str = Field(default="", description="the line that installs it")


class DataCheckup(Noun):
    """Rows as the project splits them, and the smallest loss of quality that the test set can show."""

    project: str
    classes: int
    train_rows: int
    dev_rows: int
    test_rows: int
    unlabelled_rows: int
    rows_of_smallest_class: int = Field(description="in train")
    accuracy: float = Field(description="the teacher's: given, or assumed")
    accuracy_assumed: bool
    detectable_loss: float = Field(description="points of accuracy, 0..1: paired test at 5 %, power 80 %")
    notes: tuple[str, ...] = ()


class Checkup(Noun):
    environment: Environment
    runtimes: tuple[RuntimeStatus, ...]
    bf16_promising: bool = Field(description="does the CPU multiply bfloat16 in AMX tiles? training tries both anyway")
    data: DataCheckup | None = None


def examine(project: Path | None, accuracy: float | None = None) -> Checkup:
    """accuracy: the teacher's, 0..1; none: 0.9 is assumed. Raises BadInput where the project has a fault."""
    environment = detect(1)
    return Checkup(
        environment=environment,
        runtimes=tuple(_status(name, environment) for name in registry.names("runtimes")),
        bf16_promising="amx_bf16" in environment.isa,
        data=_examine_data(project, accuracy) if project else None,
    )


def _status(name: str, environment: Environment) -> RuntimeStatus:
    install = load_runtime(name).missing()
    if install:
        return RuntimeStatus(name=name, version=None, install=install)
    found = distribution(name)
    return RuntimeStatus(name=name, version=found[1] if found else "unknown version")


def _examine_data(path: Path, accuracy: float | None) -> DataCheckup:
    import numpy as np

    from kdexport.measure.statistics import smallest_detectable_loss

    loaded = project_file.load_project(path)
    project = loaded.project
    licences = project_file.refuse_forbidden(project, path)
    dataset = read_project_data(project)
    used = ASSUMED_ACCURACY if accuracy is None else accuracy
    loss = smallest_detectable_loss(len(dataset.test), used)
    counts = np.bincount(dataset.train.labels) if dataset.train.labels is not None else np.array([len(dataset.train)])
    return DataCheckup(
        project=str(path),
        classes=len(dataset.classes),
        train_rows=len(dataset.train),
        dev_rows=len(dataset.dev),
        test_rows=len(dataset.test),
        unlabelled_rows=len(dataset.unlabelled),
        rows_of_smallest_class=int(counts.min()),
        accuracy=used,
        accuracy_assumed=accuracy is None,
        detectable_loss=loss,
        notes=(*licences, *dataset.warnings, *_too_small(project, loss, used), *_refusals(loaded, dataset)),
    )


def _refusals(loaded: LoadedProject, dataset: Dataset) -> list[str]:
    """A teacher may not be there yet: the data can be judged without it."""
    try:
        project_file.check(loaded, dataset)
    except KdexportError as e:
        return [f"`kdexport run` would refuse this project: {e}"]
    return []


def read_project_data(project: Project) -> Dataset:
    kind = load_task(project.task).input_kind
    return read_dataset(project.data, kind, lambda: classes_of(project.teachers[0]))


def _too_small(project: Project, loss: float, accuracy: float) -> list[str]:
    allowed = (1 - project.min_retention) * accuracy
    if not 0 < allowed < loss:
        return []
    return [
        f"min_retention {project.min_retention:g} allows a loss of {allowed:.3f}, less than the test set can show "
        f"({loss:.3f}); give more test rows to be sure"
    ]
