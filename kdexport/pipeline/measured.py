"""What was made, measured or estimated, and priced."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput
from kdexport.export.graph_cost import graph_cost
from kdexport.measure.metrics import fit_threshold, score
from kdexport.nouns.bench import BenchResult, QualityResult, Timed
from kdexport.nouns.cost import CostReport
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.student import EngineChoice
from kdexport.nouns.target import LOCAL, Target
from kdexport.stages import (
    bench,
    bundle,
    cost,
)
from kdexport.stages import plan as planning

if TYPE_CHECKING:
    import numpy as np


from kdexport.pipeline.distilled import Distilled
from kdexport.pipeline.taught import Predictions

log = logging.getLogger(__name__)


class Measured(Distilled):
    """What was made, measured or estimated, and priced."""

    @cached_property
    def teacher_files(self) -> bench.TeacherFiles | None:
        """fp32 graphs and int8 copies; None where a teacher is no graph."""
        if not self.teachers.is_graph:
            return None
        inputs = [self.teach_inputs, self.builders]
        return self.workspace.stage(
            "quantise-teacher",
            bench.VERSION,
            inputs,
            bench.TeacherFiles,
            lambda folder, key: bench.teacher_files(self.teachers, self.teach_folder, folder, self._calibration_feeds),
        )

    def _calibration_feeds(self, index: int) -> Sequence[dict[str, np.ndarray]]:
        engine = self.open_teachers().engines[index]
        assert engine is not None
        return [engine.feeds_one(raw) for raw in self.dataset.train.inputs[:64]]

    @cached_property
    def quantised_predictions(self) -> Predictions | None:
        files = self.teacher_files
        if files is None or not files.quantised:
            return None
        try:
            return self._predictions("teacher-int8", [self.teach_inputs, files], self._ask_quantised)
        except BadInput as e:  # the int8 copy answers nonsense: it is a comparison, not a part of the line
            log.warning("teacher int8 left out: %s", e)
            return None

    def _ask_quantised(self, raws: Sequence[Any]) -> np.ndarray:
        from kdexport.teachers._run import Teachers

        files = self.teacher_files
        assert files is not None
        members = tuple(
            m.model_copy(update={"graph": g}) for m, g in zip(self.teachers.members, files.quantised, strict=True)
        )
        quantised = Teachers(
            self.teachers.model_copy(update={"members": members}),
            self.project.teachers,
            self.teach_folder,
            self.dataset.classes,
            self.training_threads,
        )
        return quantised.logits(raws, batch_rows=1)  # as it would serve: its scales depend on the batch

    def quality(self, target: Target, made: bundle.Bundle, choice: EngineChoice) -> QualityResult:
        """Of the bundle itself; of its graph where the engine cannot run here."""
        student = self.student_predictions(target, made, choice)

        def make(folder: Path, key: str) -> QualityResult:
            teacher, judged = self.teacher_predictions, self.judged
            assert judged.test.labels is not None
            assert judged.dev.labels is not None
            found = bench.quality(
                self.project.metric,
                teacher.test,
                student.test,
                judged.test.labels,
                judged.classes,
                choice.threshold,
                fit_threshold(
                    self.project.metric, teacher.dev, judged.dev.labels, judged.classes, bench.weights_of(judged.dev)
                ),
                judged.test,
            )
            return bench.with_queries(found, teacher.queries, student.queries, judged.query_rows)

        dataset = self.dataset
        inputs = [made.sha256, self.teach_inputs, self.project.metric, dataset.sha256, dataset.slices_sha256]
        return self.workspace.stage(f"quality-{target.id}", bench.VERSION, inputs, QualityResult, make)

    def student_predictions(self, target: Target, made: bundle.Bundle, choice: EngineChoice) -> Predictions:
        return self._predictions(
            f"student-{target.id}", [made.sha256], lambda raws: self._ask_bundle(made, choice, raws)
        )

    def _ask_bundle(self, made: bundle.Bundle, choice: EngineChoice, raws: Sequence[Any]) -> np.ndarray:
        if choice.verified_on == f"{made.runtime}/{made.precision}":
            return bench.bundle_logits(Path(made.path), raws)
        return bench.graph_logits(Path(made.path), raws)

    @cached_property
    def quantised_quality(self) -> float | None:
        found, metric, judged = self.quantised_predictions, self.project.metric, self.judged
        if found is None or judged.test.labels is None or judged.dev.labels is None:
            return None
        weights = bench.weights_of(judged.dev)
        threshold = fit_threshold(metric, found.dev, judged.dev.labels, judged.classes, weights)
        return score(metric, found.test, judged.test.labels, judged.classes, threshold, bench.weights_of(judged.test))

    def benchmarked(self, target: Target, made: bundle.Bundle) -> BenchResult:
        profile, files = self.profile(target), self.teacher_files
        here_ms = None if target.profile == LOCAL else self.preprocess_here_ms
        device: list[object] = [self.facts(target), target.precisions, here_ms]
        if target.profile == LOCAL:
            device = [*self.machine_measured, self.project.threads]
        inputs = [made.sha256, self.teach_inputs, device]

        def make(folder: Path, key: str) -> BenchResult:
            if target.profile == LOCAL:
                return bench.measure(
                    target.id,
                    Path(made.path),
                    made.bytes_loaded,
                    self.teachers,
                    self.teach_folder,
                    files,
                    self.dataset.test.inputs,
                    self.project.threads,
                    self.environment.id,
                )
            return self._estimate(target, profile, made)

        return self.workspace.stage(f"bench-{target.id}", bench.VERSION, inputs, BenchResult, make)

    @property
    def preprocess_here_ms(self) -> float | None:
        """One request's preprocessing, where a calibration has measured it on this machine."""
        return self.local_speed.preprocess_ms if self.local_speed else None

    @property
    def teacher_bytes(self) -> int:
        return self.teacher_files.bytes if self.teacher_files else 0

    def _teacher_cost(self) -> GraphCost | None:
        """Operations of one answer; None where a teacher is no graph."""
        if self.teacher_files is None:
            return None
        graphs = [self.teach_folder / str(m.plain_graph or m.graph) for m in self.teachers.members]
        return _total([graph_cost(g, self.sizes.shape) for g in graphs])

    def _host(self, profile: HardwareProfile) -> LatencyEstimate:
        return planning.absent_host(profile, self.task.input_kind, self.preprocess_here_ms)

    def _estimator(self, profile: HardwareProfile, runtime: str | None = None) -> bench.Estimator:
        host = self._host(profile)
        cores = planning.cores_of_run(profile, self.project.threads)
        return lambda cost, precision, scope: planning.absent_end_to_end(
            profile, cost, precision, scope, host, cores, runtime
        )

    def _estimate(self, target: Target, profile: HardwareProfile, made: bundle.Bundle) -> BenchResult:
        files = self.teacher_files
        return bench.estimate(
            target.id,
            profile,
            self._estimator(profile, made.runtime),
            self._host(profile),
            graph_cost(Path(made.path) / "model.onnx", self.sizes.shape),
            made.precision,
            made.bytes_loaded,
            self._teacher_cost(),
            planning.planned_precision(target),
            self.teacher_bytes,
            files.quantised_bytes if files else 0,
            planning.cores_of_run(profile, self.project.threads),
            made.runtime,
        )

    def priced(self, target: Target, result: BenchResult, quality: QualityResult) -> CostReport | None:
        here = self._side(target)
        side, timed = here, result.teacher
        if self.project.incumbent.target is not None:
            side, timed = self._incumbent()
        return cost.cost(here, result, quality, self.quantised_quality, self.project.incumbent, side, timed)

    def _side(self, target: Target) -> cost.Side:
        profile = self.profile(target)
        speed = self._speed_for(target) if target.profile == LOCAL else None
        tail = max(c.tail["99"] for c in speed.cells) if speed else None
        return cost.Side(target, profile, planning.workers(profile, target, self.project.threads), tail)

    def _incumbent(self) -> tuple[cost.Side, Timed | None]:
        """The teacher where it runs today: measured if that is this machine and a target, estimated elsewhere."""
        target, profile = self.loaded.incumbent or (None, None)
        assert target is not None
        if profile is None:
            made = next((t for t in self.loaded.targets.values() if t.profile == LOCAL), None)
            timed = self.target_bench(made).teacher if made else None
            return self._side(target), timed
        workers = planning.workers(profile, target, self.project.threads)
        teacher_cost = self._teacher_cost()
        if teacher_cost is None:
            return cost.Side(target, profile, workers, None), None
        timed = bench.estimate_teacher(
            self._estimator(profile), teacher_cost, planning.planned_precision(target), self.teacher_bytes
        )
        return cost.Side(target, profile, workers, None), timed

    def target_bench(self, target: Target) -> BenchResult:
        return self.benchmarked(target, self.made(target)[2])


def _total(costs: Sequence[GraphCost]) -> GraphCost:
    """An ensemble's members run one after another."""
    return GraphCost(
        flops=sum(c.flops for c in costs),
        weight_bytes=sum(c.weight_bytes for c in costs),
        activation_bytes=sum(c.activation_bytes for c in costs),
        num_operators=sum(c.num_operators for c in costs),
        num_params=sum(c.num_params for c in costs),
        tokens=costs[0].tokens,
    )
