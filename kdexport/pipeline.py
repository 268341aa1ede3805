"""All stages in order. Knows what depends on what; every key, decision and resume is made here."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdexport import project_file
from kdexport.backbones import parse_spec
from kdexport.bundle.write import is_bundle
from kdexport.dataset import Dataset, Split, read_dataset, split_sha256
from kdexport.errors import BadInput
from kdexport.export.graph_cost import graph_cost
from kdexport.latency import store
from kdexport.measure.environment import cores_allowed, detect, fingerprint
from kdexport.measure.metrics import fit_threshold, score
from kdexport.nouns.base import Noun
from kdexport.nouns.bench import BenchResult, QualityResult, Timed
from kdexport.nouns.calibration import Calibration, LocalSpeed
from kdexport.nouns.cost import CostReport
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.ladder import Ladder
from kdexport.nouns.measurement import Decision, Environment
from kdexport.nouns.plan import Plan
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import EngineChoice, Recipe, Student
from kdexport.nouns.target import LOCAL, Target
from kdexport.nouns.teacher import TeacherMember, TeacherSet
from kdexport.project_file import LoadedProject
from kdexport.registry import names
from kdexport.runtimes import load_runtime
from kdexport.sizing.spend import Sizes, ladder_budget_s
from kdexport.stages import bench, bundle, calibrate, cost, distil, engines, label, ladder, report, teach
from kdexport.stages import plan as planning
from kdexport.stages.detect import local_profile
from kdexport.stages.report import TargetResult
from kdexport.storage.files import content_key, replacing
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task, load_task
from kdexport.teachers import context_of, teacher_kind
from kdexport.teachers._peek import classes_of, glance, tokenizer_of
from kdexport.training.recipe import TransferSet, recipe, transfer_set
from kdexport.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

    from kdexport.teachers._run import Teachers

log = logging.getLogger(__name__)
QUICK_SECONDS = 12.0  # for calibrating this machine in a run, where `profiles calibrate` has not
TYPICAL_REQUESTS = 2000
LENGTH_QUANTILES = 50
BUILDERS = ("onnx", "openvino", "nncf", "tensorrt")
QualityFrom = Literal["ladder", "known", "prior"]
ProgressFor = Callable[[str], Callable[[int, int, str], None]]


@dataclass
class Run:
    """One project in one folder. Properties are the stages' results, made when first asked for."""

    loaded: LoadedProject
    workspace: Workspace
    progress_for: ProgressFor | None = None
    warnings: list[str] = field(default_factory=list)
    quality_from: QualityFrom = "ladder"  # trained where it is not there yet; "known": only one that is finished
    training_s: dict[str, float] = field(default_factory=dict)  # by the hash of the student's weights

    # --- what is known at once

    @property
    def project(self) -> Project:
        return self.loaded.project

    @cached_property
    def task(self) -> Task:
        return load_task(self.project.task)

    @cached_property
    def dataset(self) -> Dataset:
        return read_dataset(self.project.data, self.task.input_kind, lambda: classes_of(self.project.teachers[0]))

    @cached_property
    def judged(self) -> Dataset:
        """The dataset with labels to be judged by: the true ones, or the teacher's where there are none."""
        dataset = self.dataset
        if dataset.test.labels is not None and dataset.dev.labels is not None:
            return dataset
        found = self.teacher_predictions
        dev, test = (
            split if split.labels is not None else Split(split.inputs, logits.argmax(1))
            for split, logits in ((dataset.dev, found.dev), (dataset.test, found.test))
        )
        return replace(dataset, dev=dev, test=test)

    @cached_property
    def environment(self) -> Environment:
        return detect(self.project.threads)

    def environments(self) -> list[Environment]:
        """All that this run folder has met, each as first met: figures refer to them by id."""
        found = self.environment
        self.workspace.stage("environment", 1, found.id, Environment, lambda folder, key: found)
        return self.workspace.results("environment", Environment)

    @cached_property
    def training_threads(self) -> int:
        return max(1, int(cores_allowed()))

    @cached_property
    def recipe(self) -> Recipe:
        return recipe(self.project, self.dataset, self.task.input_kind, self.training_threads)

    @cached_property
    def teacher_tokenizer(self) -> str:
        return next((t for t in map(tokenizer_of, self.project.teachers) if t), "")

    @cached_property
    def local(self) -> HardwareProfile:
        return local_profile(self.environment)

    def profile(self, target: Target) -> HardwareProfile:
        return self.loaded.profiles.get(target.id) or self.local

    @cached_property
    def rows(self) -> TransferSet:
        return transfer_set(self.dataset, self.task, self.recipe.augment_per_row, self.recipe.seed)

    @property
    def builders(self) -> dict[str, str]:
        """The packages that make engines, with their versions."""
        return {name: v for name, v in self.environment.packages.items() if name.startswith(BUILDERS)}

    @cached_property
    def wishes(self) -> list[object]:
        """The project by content: no paths, the teachers and rows by hash, licences left out."""
        project = self.project.model_dump(mode="json", exclude={"teachers", "data", "targets"})
        return [project, [_teacher_key(t) for t in self.project.teachers], self.dataset.sha256]

    def facts(self, target: Target) -> HardwareProfile | None:
        """What is known of a target's device, for keys; None for this machine, which is measured."""
        return self.loaded.profiles.get(target.id)

    @cached_property
    def machine_measured(self) -> list[object]:
        """What a timing here depends on besides the code that is timed; --remeasure changes it."""
        return [fingerprint(self.environment), self.workspace.generation]

    @cached_property
    def machine(self) -> list[object]:
        """What bits depend on besides the inputs: threads and ISA."""
        return [self.training_threads, list(self.environment.isa)]

    # --- sizing

    @cached_property
    def local_cells(self) -> list[tuple[str, Precision]]:
        """Every runtime and precision that a target on this machine allows, and that works here."""
        found: dict[tuple[str, Precision], None] = {}
        for target in self.loaded.targets.values():
            if target.profile == LOCAL:
                found |= dict.fromkeys(
                    (name, precision)
                    for name in target.runtimes
                    for precision in target.precisions
                    if not (load_runtime(name).missing() or load_runtime(name).unsupported(precision, self.local))
                )
        return list(found)

    @cached_property
    def local_speed(self) -> LocalSpeed | None:
        """Calibrations of `profiles calibrate` where this machine has them; where it has none for a target, a quick
        one of the target's first cell: engines are measured later in any case."""
        if not self.local_cells:
            return None
        known = [cell for cell in self.local_cells if store.load(self.environment, *cell)]
        for target in self.loaded.targets.values():
            allowed = [c for c in self.local_cells if c[0] in target.runtimes and c[1] in target.precisions]
            if target.profile == LOCAL and not set(known) & set(allowed):
                known += allowed[:1]
        stored = [store.load(self.environment, *cell) for cell in known]
        inputs = [
            self.machine_measured,
            self.dataset.sha256,
            content_key(self.teacher_tokenizer),
            self.project.task,
            [(cell, s and s.taken_at) for cell, s in zip(known, stored, strict=True)],
        ]
        return self.workspace.stage(
            "calibrate",
            calibrate.VERSION,
            inputs,
            LocalSpeed,
            lambda folder, key: calibrate.calibrate(
                known,
                self.dataset,
                self.task,
                self.teacher_tokenizer,
                self.environment,
                QUICK_SECONDS,
            ),
        )

    @cached_property
    def sizes(self) -> Sizes:
        inputs = self.dataset.train.inputs
        vocab_sizes = self.task.vocab_sizes(inputs, self.teacher_tokenizer)
        prepared = self.task.prepare(inputs, self.teacher_tokenizer, vocab_sizes[0])
        encoded = self.task.encode(prepared, self._typical_inputs)
        shape = encoded.shape()
        glances = [glance(t, len(self.dataset.classes), shape) for t in self.project.teachers]
        params = [g.num_params for g in glances]
        flops = [f for g in glances if (f := g.flops_per_row(shape, len(self.dataset.classes))) is not None]
        variants = len(self.dataset.train) * (1 + self.recipe.augment_per_row)
        return Sizes(
            input_kind=self.task.input_kind,
            num_classes=len(self.dataset.classes),
            shape=shape,
            vocab_sizes=tuple(vocab_sizes),
            teacher_params=sum(p for p in params if p) if all(params) else None,
            teacher_flops=sum(flops) / len(flops) if len(flops) == len(glances) else None,
            transfer_rows=variants + len(self.dataset.unlabelled),
            train_rows=len(self.dataset.train),
            lengths=_lengths(encoded.lengths) if shape.tokens else (),
        )

    @property
    def _typical_inputs(self) -> Sequence[Raw]:
        """Production queries where there are any, else training rows; spread over the file, which may be sorted."""
        inputs = self.dataset.query_test or self.dataset.train.inputs
        return inputs[:: max(1, len(inputs) // TYPICAL_REQUESTS)]

    @cached_property
    def plan(self) -> Plan:
        return self.planned(self.loaded.targets.values(), [])

    @cached_property
    def ladder(self) -> Ladder | None:
        """Short trainings that predict quality; None: the shipped prior is used. Not tied to any target or gate."""
        minutes, limit = self.project.training.ladder_minutes, self.project.max_params
        teachers = [(_teacher_key(t), t.weight) for t in self.project.teachers]
        inputs = [teachers, self.dataset.sha256, self.project.task, self.project.metric, self.recipe, self.machine]
        inputs += [minutes, limit, names("backbones")]
        known = self.workspace.has("ladder", ladder.VERSION, inputs)
        if minutes == 0 or self.quality_from == "prior" or not (known or self.quality_from == "ladder"):
            return None
        return self.workspace.stage("ladder", ladder.VERSION, inputs, Ladder, self._climb)

    def _climb(self, folder: Path, key: str) -> Ladder:
        specs = self._affordable_specs
        flops = [c.flops for c in planning.costs(specs, self.sizes)]
        budget_s = ladder_budget_s(self.project, self.sizes, self.recipe, flops)
        log.warning("%s", _told_cost(budget_s, self.project.training.usd_per_hour))
        schooling = ladder.Schooling(
            self.prepared,
            self._embedding,
            self.bf16,
            self.rows,
            self.labels(),
            self.judged,
            self.task,
            self.project.metric,
            self.recipe,
        )
        return ladder.ladder(
            specs, self.sizes.shape, schooling, self._teacher_dev_quality, budget_s, folder, self._progress("ladder")
        )

    @property
    def _affordable_specs(self) -> list[StudentSpec]:
        """Of the search space, what keeps max_params."""
        specs, limit = planning.candidates(self.sizes), self.project.max_params
        sized = zip(specs, planning.costs(specs, self.sizes), strict=True)
        return [spec for spec, cost in sized if limit is None or cost.num_params <= limit] or specs

    @property
    def _teacher_dev_quality(self) -> float | None:
        """None where a teacher has seen the dev rows: a retention on them would be flattered."""
        if any(t.fit is None and "train" in t.trained_on for t in self.project.teachers):
            return None
        found, judged, metric = self.teacher_predictions, self.judged, self.project.metric
        assert judged.dev.labels is not None
        threshold = fit_threshold(metric, found.dev, judged.dev.labels, judged.classes)
        return score(metric, found.dev, judged.dev.labels, judged.classes, threshold) or None

    def planned(self, targets: Iterable[Target], asked: object, **wishes: Any) -> Plan:
        """asked: what was wished for besides the project; part of the key."""
        places = [
            planning.Where(t, self.profile(t), self._speed_for(t) if t.profile == LOCAL else None) for t in targets
        ]
        facts = [(w.target, self.facts(w.target), w.speed) for w in places]
        return self.workspace.stage(
            "plan",
            planning.VERSION,
            [self.wishes, facts, self.ladder, asked, self.recipe, cores_allowed(), names("backbones")],
            Plan,
            lambda folder, key: planning.plan(
                self.project, self.sizes, self.recipe, places, cores_allowed(), self.ladder, **wishes
            ),
        )

    def _speed_for(self, target: Target) -> LocalSpeed | None:
        """Of the cells that this target allows."""
        speed = self.local_speed
        if speed is None:
            return None
        allowed = [c for c in speed.cells if c.runtime in target.runtimes and c.precision in target.precisions]
        return speed.model_copy(update={"cells": tuple(allowed)}) if allowed else None

    def spec(self, target: Target) -> StudentSpec:
        """The planned student: a decision, since it rests on a calibration."""
        chosen = self.plan.for_target(target.id)
        everywhere = [(t, self.facts(t)) for t in self.loaded.targets.values()]  # targets may share a student
        stored = [c.taken_at for cell in self.local_cells if (c := store.load(self.environment, *cell))]
        inputs = [self.wishes, target.id, everywhere, stored, self.ladder is not None]
        decision = self.workspace.decide(
            f"student-{target.id}",
            inputs,
            lambda: Decision(
                name=f"student for {target.id}",
                choice=json.dumps(chosen.chosen.spec, sort_keys=True),
                reason=chosen.reason,
                environment=self.environment.id,
            ),
        )
        return parse_spec(json.loads(decision.choice))

    # --- teaching

    @cached_property
    def teachers(self) -> TeacherSet:
        """All members, each a stage of its own; paths are relative to `teach_folder`. Licence, weight and source are
        the project's: they may change without a new teacher."""
        return TeacherSet(members=tuple(self._teacher(i, t) for i, t in enumerate(self.project.teachers)))

    def _teacher(self, index: int, source: TeacherSource) -> TeacherMember:
        learnt_from = self._labelled_rows_key if source.fit else self.dataset.classes
        inputs = [_teacher_key(source), learnt_from, self.project.task, self.machine]
        name = f"teach-{index + 1}"
        made = self.workspace.stage(
            name,
            teach.VERSION,
            inputs,
            TeacherMember,
            lambda folder, key: teach.teach(
                source, context_of(self.project, self.dataset, self.training_threads), folder, self._progress(name)
            ),
        )
        folder = self.workspace.folder_of(name, teach.VERSION, inputs).name
        files = {k: f"{folder}/{v}" for k in teach.FILES if (v := getattr(made, k))}
        return made.model_copy(update=files | {"licence": source.licence, "weight": source.weight})

    @cached_property
    def _labelled_rows_key(self) -> str:
        """Train and dev alone: what a fitted teacher depends on."""
        rows = [
            (split_sha256(s), s.labels.tolist()) for s in (self.dataset.train, self.dataset.dev) if s.labels is not None
        ]
        return content_key(rows, self.dataset.classes)

    def _progress(self, name: str) -> Callable[[int, int, str], None] | None:
        return self.progress_for(name) if self.progress_for else None

    @cached_property
    def teach_inputs(self) -> list[object]:
        """The teachers by content, for keys."""
        return [(m.sha256, m.weight, m.classes) for m in self.teachers.members]

    @property
    def teach_folder(self) -> Path:
        return self.workspace.out / "stages"

    def open_teachers(self) -> Teachers:
        from kdexport.teachers._run import Teachers

        return Teachers(
            self.teachers, self.project.teachers, self.teach_folder, self.dataset.classes, self.training_threads
        )

    @cached_property
    def label_inputs(self) -> list[object]:
        rows = [self.recipe.augment_per_row, self.recipe.seed]
        return [self.teach_inputs, self.dataset.sha256, self.dataset.classes, rows, self.machine, "float32"]

    def labels(self) -> Any:
        """Soft labels, opened; made chunk by chunk where they are not there yet."""
        from kdexport.training.soft_labels import open_labels

        made = self.workspace.stage("label", label.VERSION, self.label_inputs, LabelsDone, self._make_labels)
        folder = self.workspace.folder_of("label", label.VERSION, self.label_inputs)
        return open_labels(folder, made.key)

    def _make_labels(self, folder: Path, key: str) -> LabelsDone:
        progress = self._progress("label")
        tell = (lambda done, total: progress(done, total, "")) if progress else None
        label.label(self.open_teachers(), self.rows, folder, key, tell)
        return LabelsDone(key=key, rows=len(self.rows.inputs))

    # --- students

    def prepared(self, spec: StudentSpec) -> Prepared:
        vocab_size = int(getattr(spec, "vocab_size", 0))
        return self.task.prepare(self.dataset.train.inputs, self.teacher_tokenizer, vocab_size)

    def bf16(self, spec: StudentSpec) -> bool:
        """A decision: measured on one batch, before the student's key is made, which holds the choice."""
        decision = self.workspace.decide(
            "training-precision",
            [spec, self.recipe, self.machine, self.environment.cpu],
            lambda: distil.decide_precision(
                spec, self.prepared(spec), self.rows, self.labels(), self.task, len(self.dataset.classes), self.recipe
            ),
        )
        return decision.choice == "bf16"

    def student(self, spec: StudentSpec) -> tuple[Student, Path]:
        bf16 = self.bf16(spec)
        inputs = [spec, self.label_inputs, self.recipe, self.project.metric, bf16]
        made = self.workspace.stage(
            "distil", distil.VERSION, inputs, Student, lambda folder, key: self._distil(spec, bf16, folder)
        )
        self.training_s[made.weights_sha256] = round(self.workspace.seconds["distil"], 3)
        folder = self.workspace.folder_of("distil", distil.VERSION, inputs)
        (folder / distil.CHECKPOINT).unlink(missing_ok=True)  # not before the result is there
        return made, folder

    def _distil(self, spec: StudentSpec, bf16: bool, folder: Path) -> Student:
        prepared = self.prepared(spec)
        return distil.distil(
            spec,
            prepared,
            self.rows,
            self.labels(),
            self.judged,
            self.task,
            self.project.metric,
            self.recipe,
            self._embedding(prepared),
            bf16,
            folder,
            self._progress("distil"),
        )

    def _embedding(self, prepared: Prepared) -> np.ndarray | None:
        """Rows of a teacher's token embedding that the student's vocabulary keeps, (V, D): of the teacher whose
        tokenizer was trimmed, since another's rows mean other pieces."""
        index = next((i for i, t in enumerate(self.project.teachers) if tokenizer_of(t)), None)
        if index is None or not prepared.kept_ids or not self.teachers.members[index].embedding:
            return None
        from safetensors.numpy import load_file

        table = load_file(self.teach_folder / str(self.teachers.members[index].embedding))["embedding"]
        rows: np.ndarray = table[list(prepared.kept_ids)]
        return rows

    def choice(self, target: Target, student: Student, folder: Path) -> tuple[EngineChoice, Path]:
        """Engines of one student on one target."""
        settings = [target.runtimes, target.precisions, self.facts(target), self.project.threads]
        measured = self.machine_measured if target.profile == LOCAL else None
        inputs = [student.weights_sha256, settings, self.project.metric, self.dataset.sha256, self.builders, measured]
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
            ),
        )
        return made, self.workspace.folder_of(f"engines-{target.id}", engines.VERSION, inputs)

    def _engine_inputs(self, student: Student, folder: Path) -> engines.Inputs:
        cached: dict[str, engines.Inputs] = self.__dict__.setdefault("_inputs_of", {})
        if student.weights_sha256 not in cached:
            cached[student.weights_sha256] = engines.prepare_inputs(student, folder, self.dataset, self.task)
        return cached[student.weights_sha256]

    # --- measuring

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
    def teacher_predictions(self) -> Predictions:
        """The teacher's logits on test and dev, asked once."""
        return self._predictions("teacher", self.teach_inputs, lambda raws: self.open_teachers().logits(raws))

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
            TeacherSet(members=members),
            self.project.teachers,
            self.teach_folder,
            self.dataset.classes,
            self.training_threads,
        )
        return quantised.logits(raws, batch_rows=1)  # as it would serve: its scales depend on the batch

    def _predictions(self, name: str, inputs: object, ask: Callable[[Sequence[Any]], np.ndarray]) -> Predictions:
        """Logits on test, and on dev for thresholds, written once."""
        key = [inputs, self.dataset.sha256]

        def make(folder: Path, _: str) -> PredictionsDone:
            import numpy as np
            from safetensors.numpy import save_file

            with replacing(folder / "logits.safetensors") as temporary:
                tensors = {"test": ask(self.dataset.test.inputs), "dev": ask(self.dataset.dev.inputs)}
                if self.dataset.query_test:
                    tensors["queries"] = ask(self.dataset.query_test)
                # safetensors writes the buffer as it lies, whatever the strides
                save_file({name: np.ascontiguousarray(logits) for name, logits in tensors.items()}, temporary)
            return PredictionsDone(rows=len(self.dataset.test))

        self.workspace.stage(f"predict-{name}", 1, key, PredictionsDone, make)
        from safetensors.numpy import load_file

        tensors = load_file(self.workspace.folder_of(f"predict-{name}", 1, key) / "logits.safetensors")
        return Predictions(tensors["test"], tensors["dev"], tensors.get("queries"))

    def quality(self, target: Target, made: bundle.Bundle, choice: EngineChoice) -> QualityResult:
        """Of the bundle itself; of its graph where the engine cannot run here."""
        student = self._predictions(
            f"student-{target.id}", [made.sha256], lambda raws: self._ask_bundle(made, choice, raws)
        )

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
                fit_threshold(self.project.metric, teacher.dev, judged.dev.labels, judged.classes),
            )
            return bench.with_queries(found, teacher.queries, student.queries)

        inputs = [made.sha256, self.teach_inputs, self.project.metric, self.dataset.sha256]
        return self.workspace.stage(f"quality-{target.id}", bench.VERSION, inputs, QualityResult, make)

    def _ask_bundle(self, made: bundle.Bundle, choice: EngineChoice, raws: Sequence[Any]) -> np.ndarray:
        if choice.verified_on == f"{made.runtime}/{made.precision}":
            return bench.bundle_logits(Path(made.path), raws)
        return bench.graph_logits(Path(made.path), raws)

    @cached_property
    def quantised_quality(self) -> float | None:
        found, metric, judged = self.quantised_predictions, self.project.metric, self.judged
        if found is None or judged.test.labels is None or judged.dev.labels is None:
            return None
        threshold = fit_threshold(metric, found.dev, judged.dev.labels, judged.classes)
        return score(metric, found.test, judged.test.labels, judged.classes, threshold)

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
        return student, choice, self.bundled(target, student, student_folder, choice, engines_folder)

    def target_bench(self, target: Target) -> BenchResult:
        return self.benchmarked(target, self.made(target)[2])

    def target_result(self, target: Target) -> TargetResult:
        student, choice, made = self.made(target)
        quality = self.quality(target, made, choice)
        result = self.benchmarked(target, made)
        priced = self.priced(target, result, quality)
        plan = self.plan.for_target(target.id)
        took_s = self.training_s[student.weights_sha256]
        return TargetResult(target, plan, student, choice, result, quality, priced, made.model_dump(), took_s)

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
            [*self.warnings, *self.dataset.warnings],
        )


class LabelsDone(Noun):
    key: str
    rows: int


class PredictionsDone(Noun):
    rows: int


@dataclass(frozen=True)
class Predictions:
    """logits float32 (N, C) of one model."""

    test: np.ndarray
    dev: np.ndarray
    queries: np.ndarray | None


def _teacher_key(source: TeacherSource) -> object:
    """A teacher by its content: no path, and nothing that changes no answer of it."""
    fields = source.model_dump(mode="json", exclude={"model", "onnx", "scores", "licence", "weight"})
    if fields["fit"]:
        fields["fit"].pop("base")
    return [fields, teacher_kind(source.kind).content(source)]


def _told_cost(budget_s: float, usd_per_hour: float | None) -> str:
    """Before any of it is spent."""
    money = f", ${budget_s / 3600 * usd_per_hour:.2f}" if usd_per_hour is not None else ""
    return (
        f"ladder: at most {budget_s / 60:.1f} minutes ({budget_s / 3600:.3f} hours{money}) of short trainings, after "
        "the teacher has labelled; training.ladder_minutes sets it, --no-ladder goes without"
    )


def _lengths(lengths: np.ndarray) -> tuple[int, ...]:
    """Tokens at equally spaced quantiles, ascending."""
    import numpy as np

    levels = (np.arange(LENGTH_QUANTILES) + 0.5) / LENGTH_QUANTILES
    return tuple(int(n) for n in np.quantile(lengths, levels, method="nearest"))


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
    with this.workspace.locked():
        project_file.check(this.loaded, this.dataset)
        this.quality_from = "ladder" if climb else "known"
        if not question.asked:
            found = this.plan
        else:
            targets = [question.of(t) for t in this.loaded.targets.values()]
            wishes = {"max_usd_per_million": question.max_usd_per_million, "best": True}
            found = this.planned(targets, wishes, **wishes)
        return found.model_copy(update={"warnings": (*this.warnings, *this.dataset.warnings)})


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
    with this.workspace.locked():
        if remeasure:
            this.workspace.forget_measurements()
        project_file.check(this.loaded, this.dataset)
        document = this.document()
        write_report(document, this.workspace.out)
    return document


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
