"""What each later stage will take, said before any of it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from kdexport.backbones import backbone_of, parse_spec
from kdexport.nouns.graph import InputShape
from kdexport.nouns.plan import StageEstimate, TargetPlan
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.sizing.ladder import training_seconds

LADDER_SHARE = 1.0  # of one full training
ASSUMED_FLOPS_PER_S_PER_CORE = 0.06e12  # a teacher's large products; 0.1e12 was measured on Zen 4 in fp32
HARD_LABELS_SHARE = 1.45  # of a distillation: one full schedule, and three of 0.15 for the learning rate
PROCESS_GIB = 0.6  # Python, torch and a runtime
TEXT_TRAINING_GIB = 1.0
TRAINING_BYTES_PER_PARAM = 16  # fp32: weights, gradients, Adam's two moments


@dataclass(frozen=True)
class Sizes:
    """What the data and the teacher fix. teacher_flops: of one row, forward; None where it is not known.

    lengths: tokens at equally spaced quantiles of the production queries, ascending; empty for images."""

    input_kind: str
    num_classes: int
    shape: InputShape
    vocab_sizes: tuple[int, ...]
    teacher_params: int | None
    teacher_flops: float | None
    transfer_rows: int
    train_rows: int
    lengths: tuple[int, ...] = ()


def ladder_budget_s(project: Project, sizes: Sizes, recipe: Recipe, flops_per_row: Sequence[float]) -> float:
    """The project's minutes; without, a middling student's full training. flops_per_row: of the students
    that may be trained, forward."""
    if project.training.ladder_minutes is not None:
        return 60 * project.training.ladder_minutes
    seen = sizes.transfer_rows * recipe.epochs
    return LADDER_SHARE * training_seconds(median(flops_per_row), seen, recipe.batch_size, recipe.threads)


def stage_estimates(
    project: Project,
    sizes: Sizes,
    recipe: Recipe,
    plans: Sequence[TargetPlan],
    cores: float,
    ladder_s: float,
) -> list[StageEstimate]:
    """Hours from counted FLOPs at an assumed speed: within a factor of three, and said so. USD where the project
    states what an hour costs. ladder_s: its budget; 0 where there is none, or it is climbed already."""
    price = project.training.usd_per_hour
    return [
        e if price is None or e.hours is None else e.model_copy(update={"usd": e.hours * price})
        for e in _hours(project, sizes, recipe, plans, cores, ladder_s)
    ]


def _hours(
    project: Project, sizes: Sizes, recipe: Recipe, plans: Sequence[TargetPlan], cores: float, ladder_s: float
) -> list[StageEstimate]:
    speed = ASSUMED_FLOPS_PER_S_PER_CORE * cores
    teacher_gib = PROCESS_GIB + _training_gib(sizes.teacher_params or 0)
    estimates = []
    fits = [t.fit for t in project.teachers if t.fit is not None]
    if fits:
        rows = sum(3 * sizes.train_rows * f.epochs for f in fits)
        fit_gib = teacher_gib + _pixels_gib(sizes, sizes.train_rows)
        estimates.append(_teacher_stage("teach", sizes, rows, speed, fit_gib))
    asked = sizes.transfer_rows * len(project.teachers)
    estimates.append(_teacher_stage("label", sizes, asked, speed, teacher_gib))
    if ladder_s:
        basis = "at most: short trainings that predict quality, if asked for (`plan --ladder`)"
        memory_gib = _distil_gib(sizes, max(p.chosen.num_params for p in plans))
        estimates.append(StageEstimate(stage="ladder", hours=ladder_s / 3600, memory_gib=memory_gib, basis=basis))
    for number, chosen in enumerate({str(p.chosen.spec): p.chosen for p in plans}.values(), 1):
        seconds = training_seconds(
            _flops_of(chosen.spec, sizes), sizes.transfer_rows * recipe.epochs, recipe.batch_size, recipe.threads
        )
        estimates.append(
            StageEstimate(
                stage=f"distil student {number}",
                hours=seconds / 3600,
                memory_gib=_distil_gib(sizes, chosen.num_params),
                basis="FLOPs and steps at the speed of a server core; within a factor of three",
            )
        )
        if project.training.baselines and project.data.labelled:
            estimates.append(
                StageEstimate(
                    stage=f"baselines of student {number}",
                    hours=HARD_LABELS_SHARE * seconds / 3600,
                    memory_gib=_distil_gib(sizes, chosen.num_params),
                    basis="the same student on hard labels; training.baselines: false goes without",
                )
            )
    bench = StageEstimate(
        stage="engines and bench", hours=0.02 * len(plans), memory_gib=teacher_gib, basis="a fixed budget"
    )
    return [*estimates, bench]


def _basis(flops_per_s: float) -> str:
    return f"FLOPs at {flops_per_s / 1e9:.0f} GFLOP/s assumed; within a factor of three"


def _teacher_stage(name: str, sizes: Sizes, rows: int, flops_per_s: float, memory_gib: float) -> StageEstimate:
    """rows: passes through the teacher, a backward pass counted as two."""
    if sizes.teacher_flops is None:
        basis = "hours are not known: the teacher's files do not tell its FLOPs; memory is without the teacher"
        return StageEstimate(stage=name, hours=None, memory_gib=memory_gib, basis=basis)
    hours = sizes.teacher_flops * rows / flops_per_s / 3600
    return StageEstimate(stage=name, hours=hours, memory_gib=memory_gib, basis=_basis(flops_per_s))


def _training_gib(num_params: int) -> float:
    return num_params * TRAINING_BYTES_PER_PARAM / 2**30


def _pixels_gib(sizes: Sizes, rows: int) -> float:
    """Pictures are held as uint8, all at once; texts take next to nothing."""
    if sizes.input_kind != "image":
        return 0.0
    return rows * sizes.shape.channels * sizes.shape.height * sizes.shape.width / 2**30


def _distil_gib(sizes: Sizes, num_params: int) -> float:
    if sizes.input_kind != "image":
        return TEXT_TRAINING_GIB
    return PROCESS_GIB + _training_gib(num_params) + _pixels_gib(sizes, sizes.transfer_rows)


def _flops_of(spec: dict[str, object], sizes: Sizes) -> float:
    parsed = parse_spec(spec)
    return backbone_of(parsed).cost(parsed, sizes.num_classes, sizes.shape).flops
