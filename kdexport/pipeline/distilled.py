"""Students, their engines and their bundles."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.bundle.write import is_bundle
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import EngineChoice, Recipe, Student, Tuning
from kdexport.nouns.target import LOCAL, Target
from kdexport.stages import (
    bundle,
    distil,
    engines,
    quantise,
    tune,
)
from kdexport.training.quantisation_aware import Scheme

if TYPE_CHECKING:
    pass

from kdexport.pipeline.sized import Sized

log = logging.getLogger(__name__)


class Distilled(Sized):
    """Students, their engines and their bundles."""

    @cached_property
    def tuned_recipe(self) -> Recipe:
        """With temperature and hard weight as searched on dev, on the first target's student: one search serves all,
        since it is about the teacher and the rows."""
        tried = tune.candidates(self.project.training, self.recipe)
        if self.dataset.train.labels is None or len(tried) < 2:
            return self.recipe
        spec = self.spec(next(iter(self.loaded.targets.values())))
        bf16 = self.bf16(spec)
        inputs = [tried, spec, self.label_inputs, self.recipe, self.project.metric, bf16]
        made = self.workspace.stage(
            "tune",
            tune.VERSION,
            inputs,
            Tuning,
            lambda folder, key: tune.tune(
                tried, spec, self.curriculum(spec, self.recipe, bf16), folder, self._progress("tune")
            ),
        )
        for checkpoint in self.workspace.folder_of("tune", tune.VERSION, inputs).glob(tune.CHECKPOINTS):
            checkpoint.unlink()  # not before the result is there
        self.tuning = made
        kept = made.trials[made.chosen]
        return self.recipe.model_copy(update={"temperature": kept.temperature, "hard_weight": kept.hard_weight})

    def student(self, spec: StudentSpec) -> tuple[Student, Path]:
        bf16 = self.bf16(spec)
        inputs = [spec, self.label_inputs, self.tuned_recipe, self.project.metric, bf16]
        made = self.workspace.stage(
            "distil",
            distil.VERSION,
            inputs,
            Student,
            lambda folder, key: distil.distil(
                spec, self.curriculum(spec, self.tuned_recipe, bf16), folder, self._progress("distil")
            ),
        )
        self.training_s[made.weights_sha256] = round(self.workspace.seconds["distil"], 3)
        folder = self.workspace.folder_of("distil", distil.VERSION, inputs)
        (folder / distil.CHECKPOINT).unlink(missing_ok=True)  # not before the result is there
        return made, folder

    def choice(self, target: Target, student: Student, folder: Path) -> tuple[EngineChoice, Path]:
        """Engines of one student on one target."""
        settings = [target.runtimes, target.precisions, self.facts(target), self.project.threads]
        measured = self.machine_measured if target.profile == LOCAL else None
        inputs = [student.weights_sha256, settings, self.project.metric, self.dataset.sha256, self.builders, measured]
        wish = self.project.training.quantisation_aware
        inputs += [quantise.VERSION] if wish == "auto" else [wish, quantise.VERSION]

        def finished(scheme: Scheme) -> tuple[Student, Path, engines.Inputs]:
            made, made_folder = self.finished(student, folder, scheme)
            return made, made_folder, self._engine_inputs(made, made_folder)

        finishing = None if wish == "never" else engines.Finishing(finished, always=wish == "always")
        made = self.workspace.stage(
            f"engines-{target.id}",
            engines.VERSION,
            inputs,
            EngineChoice,
            lambda own, key: engines.engines(
                student,
                folder,
                self._engine_inputs(student, folder),
                self.judged,
                self.project.metric,
                target,
                self.profile(target),
                self.project.threads,
                self.environment.id,
                lambda measure: self.workspace.decide(f"engine-{target.id}", inputs, measure),
                own,
                finishing,
            ),
        )
        return made, self.workspace.folder_of(f"engines-{target.id}", engines.VERSION, inputs)

    def finished(self, student: Student, folder: Path, scheme: Scheme) -> tuple[Student, Path]:
        """The student distilled on with int8 in the loop."""
        stage = ("quantise", quantise.VERSION, [student.weights_sha256, student.recipe, scheme, self.label_inputs])
        made = self.workspace.stage(
            *stage,
            Student,
            lambda own, key: quantise.quantise(
                student,
                folder,
                scheme,
                self.rows,
                self.labels(),
                self.judged,
                self.task,
                own,
                self._progress("quantise"),
            ),
        )
        before_s = self.training_s[student.weights_sha256]
        self.training_s[made.weights_sha256] = round(before_s + self.workspace.seconds["quantise"], 3)
        own = self.workspace.folder_of(*stage)
        (own / quantise.CHECKPOINT).unlink(missing_ok=True)
        return made, own

    def _engine_inputs(self, student: Student, folder: Path) -> engines.Inputs:
        cached: dict[str, engines.Inputs] = self.__dict__.setdefault("_inputs_of", {})
        if student.weights_sha256 not in cached:
            cached[student.weights_sha256] = engines.prepare_inputs(student, folder, self.dataset, self.task)
        return cached[student.weights_sha256]

    def bundled(
        self, target: Target, student: Student, folder: Path, choice: EngineChoice, engines_folder: Path
    ) -> bundle.Bundle:
        made = self.workspace.out / "bundles" / target.id
        inputs = [
            student.weights_sha256,
            choice,
            self.project,
            self.dataset.sha256,
            target.max_batch,
            self.label_inputs,
        ]

        def write(own: Path, key: str) -> bundle.Bundle:
            return bundle.bundle(
                self.project,
                target,
                self.dataset,
                self.task,
                self.teachers,
                student,
                folder,
                choice,
                engines_folder,
                made,
            )

        stage = (f"bundle-{target.id}", bundle.VERSION, inputs)
        done = self.workspace.stage(*stage, bundle.Bundle, write)
        if not is_bundle(made, done.sha256):  # removed or altered since, or another run's with other settings
            done = write(self.workspace.folder_of(*stage), "")
        return done.model_copy(update={"path": str(made)})

    def made(self, target: Target) -> tuple[Student, EngineChoice, bundle.Bundle]:
        student, student_folder = self.student(self.spec(target))
        choice, engines_folder = self.choice(target, student, student_folder)
        if choice.finished:
            student, student_folder = self.finished(student, student_folder, choice.finished)
        return student, choice, self.bundled(target, student, student_folder, choice, engines_folder)
