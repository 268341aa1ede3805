"""The plan: what this machine can do, what quality a size keeps, and the student that each target gets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.backbones import parse_spec
from kdexport.latency import store
from kdexport.nouns.calibration import LocalSpeed
from kdexport.nouns.ladder import Ladder
from kdexport.nouns.measurement import Decision
from kdexport.nouns.plan import Plan
from kdexport.nouns.profile import Precision
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.target import LOCAL, Target
from kdexport.registry import names
from kdexport.runtimes import load_runtime
from kdexport.sizing.spend import Sizes, ladder_budget_s
from kdexport.stages import (
    calibrate,
    ladder,
)
from kdexport.stages import plan as planning
from kdexport.storage.files import content_key
from kdexport.storage.tables import Raw
from kdexport.teachers._peek import glance

if TYPE_CHECKING:
    import numpy as np


from kdexport.pipeline.known import teacher_key
from kdexport.pipeline.taught import Taught

log = logging.getLogger(__name__)
QUICK_SECONDS = 12.0  # for calibrating this machine in a run, where `profiles calibrate` has not
TYPICAL_REQUESTS = 2000
LENGTH_QUANTILES = 50


class Sized(Taught):
    """The plan: what this machine can do, what quality a size keeps, and the student that each target gets."""

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
        inputs = self.vocabulary_inputs
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
        teachers = [(teacher_key(t), t.weight) for t in self.project.teachers]
        inputs = [teachers, self.dataset.sha256, self.project.task, self.project.metric, self.recipe, self.machine]
        inputs += [minutes, limit, names("backbones")]
        inputs += [self.project.ensemble] if len(teachers) > 1 else []
        known = self.workspace.has("ladder", ladder.VERSION, inputs)
        if minutes == 0 or self.quality_from == "prior" or not (known or self.quality_from == "ladder"):
            return None
        return self.workspace.stage("ladder", ladder.VERSION, inputs, Ladder, self._climb)

    def _climb(self, folder: Path, key: str) -> Ladder:
        specs = self.affordable_specs
        flops = [c.flops for c in planning.costs(specs, self.sizes)]
        budget_s = ladder_budget_s(self.project, self.sizes, self.recipe, flops)
        log.warning("%s", _told_cost(budget_s, self.project.training.usd_per_hour))
        schooling = ladder.Schooling(
            self.prepared,
            self.embedding,
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
    def affordable_specs(self) -> list[StudentSpec]:
        """Of the search space, what keeps max_params."""
        specs, limit = planning.candidates(self.sizes), self.project.max_params
        sized = zip(specs, planning.costs(specs, self.sizes), strict=True)
        return [spec for spec, cost in sized if limit is None or cost.num_params <= limit] or specs

    def planned(self, targets: Iterable[Target], asked: object, **wishes: Any) -> Plan:
        """asked: what was wished for besides the project; part of the key."""
        places = [
            planning.Where(t, self.profile(t), self._speed_for(t) if t.profile == LOCAL else None) for t in targets
        ]
        facts = [(w.target, self.facts(w.target), w.speed) for w in places]
        return self.workspace.stage(
            "plan",
            planning.VERSION,
            [self.wishes, facts, self.ladder, asked, self.recipe, self.cores, names("backbones")],
            Plan,
            lambda folder, key: planning.plan(
                self.project, self.sizes, self.recipe, places, self.cores, self.ladder, **wishes
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
