"""What a user gets without distillation, beside what ships."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import parse_spec
from kdexport.measure.metrics import fit_threshold
from kdexport.nouns.baseline import Baseline, Baselines, HardLabelStudent, PlainModel
from kdexport.nouns.measurement import Latency
from kdexport.nouns.student import EngineChoice, Student
from kdexport.nouns.target import LOCAL, Target
from kdexport.stages import (
    baselines,
    bench,
    bundle,
    distil,
)

if TYPE_CHECKING:
    import numpy as np


from kdexport.pipeline.measured import Measured
from kdexport.pipeline.taught import Predictions

log = logging.getLogger(__name__)


class Compared(Measured):
    """What a user gets without distillation, beside what ships."""

    def compared(self, target: Target, student: Student, choice: EngineChoice, made: bundle.Bundle) -> Baselines:
        """What the user gets without distillation, beside what ships. Asked on test after every choice is made."""
        shipped = baselines.Judged(self.student_predictions(target, made, choice).test, choice.threshold)
        hard_labels, plain = self._hard_labels(student, shipped), self._plain(target, shipped)
        return Baselines(hard_labels=hard_labels, plain=plain, verdict=baselines.verdict(hard_labels, plain))

    def _hard_labels(self, student: Student, shipped: baselines.Judged) -> Baseline:
        spec, train = parse_spec(student.spec), self.dataset.train
        if reason := self._no_baseline(train.labels):
            return Baseline(kind="hard_labels", name=baselines.HARD_LABELS, reason=reason)
        prepared = self.prepared(spec)
        inputs = [spec, self.label_inputs, self.recipe, self.project.metric, student.bf16, distil.VERSION]
        stage = ("baseline-hard-labels", baselines.VERSION, inputs)
        folder = self.workspace.folder_of(*stage)

        def make(own: Path, key: str) -> HardLabelStudent:
            log.warning("%s", baselines.told_cost(self.workspace.seconds["distil"]))
            curriculum = self.curriculum(spec, self.recipe, student.bf16)
            return baselines.hard_label_student(spec, curriculum, own, self._progress("baselines"))

        made = self.workspace.stage(*stage, HardLabelStudent, make)
        (folder / baselines.CHECKPOINT).unlink(missing_ok=True)
        found = self._predictions(
            "baseline-hard-labels",
            [made.weights_sha256, spec],
            lambda raws: baselines.hard_label_logits(
                spec, prepared, made, folder, self.task, len(self.dataset.classes), raws
            ),
        )
        told = baselines.described_hard_labels(made, student, self.workspace.seconds["baseline-hard-labels"])
        return self._against(told, shipped, found)

    def _plain(self, target: Target, shipped: baselines.Judged) -> Baseline:
        labels = self._plain_labels
        reason = self._no_baseline(labels)
        if labels is None or reason:
            return Baseline(kind="plain", name=baselines.plain_name(self.task), reason=reason)
        inputs = [self.dataset.sha256, self.dataset.classes, self.project.task, self.project.metric, self.machine]
        inputs += [] if self.dataset.train.labels is not None else [self.label_inputs]
        stage = ("baseline-plain", baselines.VERSION, inputs)
        made = self.workspace.stage(
            *stage,
            PlainModel,
            lambda own, key: baselines.plain_model(
                self.judged, labels, self.task, self.project.metric, self.training_threads, own
            ),
        )
        folder = self.workspace.folder_of(*stage)
        found = self._predictions(
            "baseline-plain", made.sha256, lambda raws: baselines.plain_logits(self.task, folder, raws)
        )
        latency = None
        if target.profile == LOCAL:
            latency = self.workspace.stage(
                "baseline-plain-latency",
                baselines.VERSION,
                [made.sha256, self.machine_measured],
                Latency,
                lambda own, key: baselines.plain_latency(
                    self.task, folder, self.dataset.test.inputs, self.environment.id
                ),
            )
        from_teacher = self.dataset.train.labels is None
        told = baselines.described_plain(made, from_teacher, latency, self.workspace.seconds["baseline-plain"])
        return self._against(told, shipped, found)

    @cached_property
    def _plain_labels(self) -> np.ndarray | None:
        """Of the train rows: the true ones, or the teacher's answers where there are none; None: not asked for."""
        if not self.project.training.baselines:
            return None
        if self.dataset.train.labels is not None:
            return self.dataset.train.labels
        answers: np.ndarray = self.labels().rows(slice(0, len(self.dataset.train))).argmax(1)
        return answers

    def _no_baseline(self, labels: np.ndarray | None) -> str:
        """Why there is none, else empty."""
        if not self.project.training.baselines:
            return baselines.SWITCHED_OFF
        if labels is None:
            return baselines.NO_LABELS
        return baselines.ONE_CLASS if len(set(labels.tolist())) < 2 else ""

    def _against(self, told: Baseline, shipped: baselines.Judged, found: Predictions) -> Baseline:
        metric, judged = self.project.metric, self.judged
        assert judged.dev.labels is not None
        weights = bench.weights_of(judged.dev)
        threshold = fit_threshold(metric, found.dev, judged.dev.labels, judged.classes, weights)
        other = baselines.Judged(found.test, threshold)
        return baselines.compared(told, shipped, other, metric, judged.test, judged.classes)
