"""What a user asks of a project, each one call: `kdexport VERB` and the same in Python."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport import project_file
from kdexport import purge as purging
from kdexport.errors import BadInput
from kdexport.measure.environment import detect
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.endpoint import AskingCost
from kdexport.nouns.labels import LabelsMade
from kdexport.nouns.plan import Plan
from kdexport.nouns.profile import Precision
from kdexport.nouns.target import Target
from kdexport.stages import (
    calibrate,
)
from kdexport.stages.detect import local_profile
from kdexport.training import soft_labels
from kdexport.workspace import Workspace

if TYPE_CHECKING:
    pass

from kdexport.pipeline.known import ProgressFor
from kdexport.pipeline.whole import Run

log = logging.getLogger(__name__)


def open_run(
    project: Path,
    out: Path,
    progress_for: ProgressFor | None = None,
    on_stage: Callable[[str, float, bool], None] | None = None,
) -> Run:
    """Read and check the project; nothing is computed yet. Raises BadInput."""
    loaded = project_file.load_project(project)
    warnings = project_file.refuse_forbidden(loaded.project, project)
    return Run(loaded, Workspace(out, on_stage), progress_for, warnings)


@dataclass(frozen=True)
class Question:
    """Limits asked for in place of a project's: the best quality within them is looked for. None: the target's own."""

    p99_ms: float | None = None
    max_usd_per_million: float | None = None
    max_bytes: int | None = None

    @property
    def asked(self) -> bool:
        return self != Question()

    def of(self, target: Target) -> Target:
        objective, limits = target.objective, target.limits
        if self.p99_ms is not None:
            objective = objective.model_copy(update={"percentile": 99, "limit_ms": self.p99_ms})
        if self.max_bytes is not None:
            limits = limits.model_copy(update={"artifact_bytes": self.max_bytes})
        return target.model_copy(update={"objective": objective, "limits": limits})


def plan(
    project: str | Path,
    out: str | Path = "kdexport-run",
    question: Question = Question(),
    *,
    climb: bool = False,
    progress_for: ProgressFor | None = None,
    on_stage: Callable[[str, float, bool], None] | None = None,
) -> Plan:
    """Size students for every target of a project. climb: train the ladder first, where it is not there yet (labels
    are made for it); else only a ladder that was climbed before is used."""
    this = open_run(Path(project), Path(out), progress_for, on_stage)
    with this.workspace.locked(), this.without_texts():
        project_file.check(this.loaded, this.dataset)
        this.quality_from = "ladder" if climb else "known"
        asking = [cost_of_asking.told() for cost_of_asking in this.asking_costs() if cost_of_asking.requests]
        if not question.asked:
            found = this.plan
        else:
            targets = [question.of(t) for t in this.loaded.targets.values()]
            wishes = {"max_usd_per_million": question.max_usd_per_million, "best": True}
            found = this.planned(targets, wishes, **wishes)
        return found.model_copy(update={"warnings": (*this.warnings, *this.dataset.warnings, *asking)})


def run(
    project: str | Path,
    out: str | Path = "kdexport-run",
    *,
    remeasure: bool = False,
    climb: bool = True,
    progress_for: ProgressFor | None = None,
    on_stage: Callable[[str, float, bool], None] | None = None,
) -> dict[str, Any]:
    """Every stage; returns the report document; writes report.json, report.html, costs.csv and bundles/ in `out`."""
    from kdexport.reporting.files import write_report

    this = open_run(Path(project), Path(out), progress_for, on_stage)
    asked = this.project.training.ladder_minutes  # nothing is spent on it that the project has not granted
    this.quality_from = "prior" if not climb else "ladder" if asked else "known"
    with this.workspace.locked(), this.without_texts():
        if remeasure:
            this.workspace.forget_measurements()
        project_file.check(this.loaded, this.dataset)
        for cost_of_asking in this.asking_costs():
            if cost_of_asking.requests:
                log.warning("%s", cost_of_asking.told())
        document = this.document()
        write_report(document, this.workspace.out)
    return document


def teacher_cost(project: str | Path, out: str | Path = "kdexport-run", *, probe: bool = False) -> list[AskingCost]:
    """Requests, tokens and USD of every teacher behind an endpoint, less what `out` already holds. Nothing is asked,
    unless probe: then up to three texts, whose answers are kept. Raises BadInput where no teacher is behind one."""
    this = open_run(Path(project), Path(out))
    with this.workspace.locked(), this.without_texts():
        project_file.check(this.loaded, this.dataset)
        costs = this.asking_costs(probe)
    if not costs:
        raise BadInput(f"{project}: no teacher behind an endpoint (chat, open_inference): asking costs nothing")
    return costs


def make_labels(
    project: str | Path,
    out: str | Path = "kdexport-run",
    *,
    export_to: Path | None = None,
    import_from: Path | None = None,
    progress_for: ProgressFor | None = None,
    on_stage: Callable[[str, float, bool], None] | None = None,
) -> LabelsMade:
    """The soft labels alone; a later `run` in `out` uses them. import_from: taken from that file instead, which another
    machine's export_to wrote; refused where teacher, rows, classes or format are not this project's."""
    this = open_run(Path(project), Path(out), progress_for, on_stage)
    with this.workspace.locked(), this.without_texts():
        project_file.check(this.loaded, this.dataset)
        labels = this.import_labels(import_from) if import_from else this.labels()
        engine = "imported" if this.imported.is_file() else this.label_engine
        path = this.label_folder / soft_labels.LABELS
        if export_to:
            soft_labels.export_labels(this.label_folder, labels.key, this.labels_origin, export_to)
        size = path.stat().st_size
        return LabelsMade(
            rows=len(labels),
            distinct_rows=soft_labels.distinct_rows(this.label_folder),
            classes=len(this.dataset.classes),
            stored_classes=labels.log_probs.shape[1],
            bytes=size,
            bytes_per_row=size / len(labels),
            engine=engine,
            path=str(export_to or path),
        )


def purge(project: str | Path, out: str | Path, texts: Sequence[str], *, keep_bundles: bool = False) -> purging.Purged:
    """Take away all in `out` that was made from rows that contain one of the texts. Raises BadInput."""
    if not Path(out).is_dir():
        raise BadInput(f"{out}: no such run folder")
    this = open_run(Path(project), Path(out))
    with this.workspace.locked():
        return purging.purge(this.workspace, this.project, this.task.input_kind, texts, keep_bundles)


def calibrate_machine(
    threads: int,
    runtimes: Sequence[str],
    precisions: Sequence[Precision],
    seconds: float,
    force: bool,
    progress_for: ProgressFor,
) -> list[Calibration]:
    """Time this machine, for every project to come; see stages/calibrate.py."""
    here = detect(threads)
    return calibrate.calibrate_machine(local_profile(here), here, runtimes, precisions, seconds, force, progress_for)


def answers_no(document: dict[str, Any]) -> list[str]:
    """Why a run's answer is no: retention under the gate, a limit or an objective missed; as its report says."""
    missed = (_missed_gate, _missed_limit, _missed_objective)
    return [reason for entry in document["targets"] for of in missed for reason in of(entry)]


def _missed_gate(entry: dict[str, Any]) -> list[str]:
    gate = entry.get("gate") or {}
    if gate.get("met") is not False:
        return []
    retention, wanted = entry["retention"], gate["min_retention"]
    reached = retention["value"] if gate["kind"] == "point" else retention["ci95"][0]
    excluded = "excludes" if retention["ci95"][1] < wanted else "does not exclude"
    return [
        f"{entry['target']}: retention {reached:.3f} is below min_retention {wanted:g} (the interval {excluded} it)"
    ]


def _missed_limit(entry: dict[str, Any]) -> list[str]:
    limits = entry.get("limits") or {}
    if limits.get("met") is not False:
        return []
    size = entry["size"]["student_bytes"]
    return [f"{entry['target']}: {size:,} bytes are over the target's artifact_bytes {limits['artifact_bytes']:,}"]


def _missed_objective(entry: dict[str, Any]) -> list[str]:
    objective = entry.get("objective") or {}
    if objective.get("met") is not False:
        return []
    if objective["value_ms"] <= objective["limit_ms"]:
        return [f"{entry['target']}: no capacity under load at {objective['limit_ms']:g} ms ({objective['basis']})"]
    return [
        f"{entry['target']}: p{objective['percentile']:g} {objective['value_ms']:.3g} ms misses "
        f"{objective['limit_ms']:g} ms ({objective['basis']})"
    ]
