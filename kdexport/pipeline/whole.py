"""One project in one folder, every stage: the whole of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdexport.nouns.target import Target
from kdexport.stages import (
    report,
)
from kdexport.stages.report import TargetResult

if TYPE_CHECKING:
    pass

from kdexport.pipeline.compared import Compared


class Run(Compared):
    """One project in one folder. Properties are the stages' results, made when first asked for."""

    def target_result(self, target: Target) -> TargetResult:
        student, choice, made = self.made(target)
        quality = self.quality(target, made, choice)
        result = self.benchmarked(target, made)
        priced = self.priced(target, result, quality)
        plan = self.plan.for_target(target.id)
        took_s = self.training_s[student.weights_sha256]
        compared = self.compared(target, student, choice, made)
        return TargetResult(target, plan, student, choice, result, quality, priced, made.model_dump(), compared, took_s)

    def document(self) -> dict[str, Any]:
        results = [self.target_result(t) for t in self.loaded.targets.values()]
        files = self.teacher_files
        return report.report(
            self.project,
            self.dataset,
            self.teachers,
            files.bytes if files else None,
            self.quantised_quality,
            results,
            len(self.dataset.train) * self.recipe.augment_per_row,
            self.environments(),
            [*self.warnings, *self.dataset.warnings, *self._ensemble_warnings, *self._endpoint_notes],
            self.tuning,
        )
