"""plan: for every target the candidates, their estimated quality, latency, size and cost, and the one to train.

Nothing is trained: latency comes from the calibration (this machine) or from published measurements (others),
quality from the shipped prior, cost from sourced prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdexport.backbones import InputShape, backbone_of, backbones_for
from kdexport.errors import Unsupported
from kdexport.latency import absent, calibrated
from kdexport.latency.tail import TAIL_ASSUMED, at_percentile
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.plan import Candidate, Plan, StageEstimate, TargetPlan
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.project import Project
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.nouns.target import Target
from kdexport.pricing.cost import HOURS_PER_YEAR, replicas_for, usd_per_hour
from kdexport.sizing.choose import choose
from kdexport.sizing.quality import predict_retention
from kdexport.tasks.image_classification import require_memory

VERSION = 4
TOKENIZER_BYTES_PER_PIECE = 16
GRAPH_BYTES = 6_000
TRAINING_EFFICIENCY = 0.25  # of a 2-core matrix product's speed, small graphs; hours are said as an estimate
ASSUMED_FLOPS_PER_S_PER_CORE = 0.06e12
PROCESS_GIB = 0.6  # Python, torch and a runtime
TEXT_TRAINING_GIB = 1.0
TRAINING_BYTES_PER_PARAM = 16  # fp32: weights, gradients, Adam's two moments


@dataclass(frozen=True)
class Sizes:
    """What the data and the teacher fix. teacher_flops: of one row, forward; None where it is not known."""

    input_kind: str
    num_classes: int
    shape: InputShape
    vocab_sizes: tuple[int, ...]
    teacher_params: int | None
    teacher_flops: float | None
    transfer_rows: int
    train_rows: int


def plan(
    project: Project,
    sizes: Sizes,
    recipe: Recipe,
    targets: Sequence[tuple[Target, HardwareProfile, Calibration | None]],
    cores: float,
) -> Plan:
    """Raises BadInput where the pictures to learn from do not fit into memory."""
    if sizes.input_kind == "image":
        require_memory(sizes.transfer_rows, sizes.shape.channels, sizes.shape.height, sizes.shape.width)
    specs = [
        spec
        for backbone in backbones_for(sizes.input_kind)
        for spec in backbone.candidates(sizes.num_classes, sizes.shape, sizes.vocab_sizes)
    ]
    here_ms = next((calibration.preprocess_ms for _, _, calibration in targets if calibration), None)
    plans = [_plan_target(project, sizes, specs, here_ms, *target) for target in targets]
    return Plan(targets=tuple(plans), stages=tuple(_stage_estimates(project, sizes, recipe, plans, cores)))


def _plan_target(
    project: Project,
    sizes: Sizes,
    specs: Sequence[StudentSpec],
    preprocess_here_ms: float | None,
    target: Target,
    profile: HardwareProfile,
    calibration: Calibration | None,
) -> TargetPlan:
    candidates = [_candidate(project, sizes, spec, preprocess_here_ms, target, profile, calibration) for spec in specs]
    notes = list(dict.fromkeys(_notes(target, profile, candidates)))
    return choose(candidates, project, target, notes)


def _notes(target: Target, profile: HardwareProfile, candidates: Sequence[Candidate]) -> list[str]:
    notes = []
    if all(c.latency is None for c in candidates):
        notes.append(f"latency on {profile.id} cannot be estimated: its facts lack a peak or the bandwidth")
    if target.offering is None:
        notes.append(f"target {target.id} names no offering: its cost is blank")
    return notes


def _candidate(
    project: Project,
    sizes: Sizes,
    spec: StudentSpec,
    preprocess_here_ms: float | None,
    target: Target,
    profile: HardwareProfile,
    calibration: Calibration | None,
) -> Candidate:
    cost = backbone_of(spec).cost(spec, sizes.num_classes, sizes.shape)
    run_cores = cores_of_run(profile, project.threads)
    latency = _end_to_end(spec, cost, target, profile, calibration, sizes.input_kind, preprocess_here_ms, run_cores)
    objective_ms = None
    if latency is not None:
        tail = calibration.tail_ratio if calibration else TAIL_ASSUMED
        objective_ms = at_percentile(latency.p50_ms, tail, target.objective)
    artifact_bytes = 4 * cost.num_params + GRAPH_BYTES
    artifact_bytes += TOKENIZER_BYTES_PER_PIECE * int(getattr(spec, "vocab_size", 0))
    return Candidate(
        spec=spec.model_dump(),
        num_params=cost.num_params,
        artifact_bytes=artifact_bytes,
        quality=predict_retention(sizes.input_kind, spec.backbone, cost.num_params, sizes.teacher_params),
        latency=latency,
        objective_ms=objective_ms,
        usd_per_year=_usd_per_year(latency, target, profile, project.threads),
        why_not=_why_not(project, target, cost.num_params, artifact_bytes, objective_ms),
    )


def _end_to_end(
    spec: StudentSpec,
    cost: GraphCost,
    target: Target,
    profile: HardwareProfile,
    calibration: Calibration | None,
    input_kind: str,
    preprocess_here_ms: float | None,
    run_cores: int | None,
) -> LatencyEstimate | None:
    if calibration is not None:
        model = calibrated.estimate(calibration, spec.backbone, cost)
        if target.objective.scope == "model":
            return model
        extra = calibration.preprocess_ms
        added = {"p50_ms": model.p50_ms + extra, "low_ms": model.low_ms + extra, "high_ms": model.high_ms + extra}
        return model.model_copy(update=added)
    try:
        host = absent_host(profile, input_kind, preprocess_here_ms)
        return absent_end_to_end(profile, cost, planned_precision(target), target.objective.scope, host, run_cores)
    except Unsupported:
        return None


def absent_host(profile: HardwareProfile, input_kind: str, preprocess_here_ms: float | None) -> LatencyEstimate:
    """Preprocessing on a machine that nobody here has, from this machine's where a calibration measured it."""
    return absent.estimate_host(profile, "image" if input_kind == "image" else "text", preprocess_here_ms)


def absent_end_to_end(
    profile: HardwareProfile,
    cost: GraphCost,
    precision: Precision,
    scope: str,
    host: LatencyEstimate,
    run_cores: int | None,
) -> LatencyEstimate:
    """Model plus preprocessing (host) on a machine that nobody here has. Raises Unsupported where facts are missing."""
    model = absent.estimate(profile, cost, precision, run_cores)
    if scope == "model":
        return model
    return LatencyEstimate(
        p50_ms=model.p50_ms + host.p50_ms,
        low_ms=model.low_ms + host.low_ms,
        high_ms=model.high_ms + host.high_ms,
        model=model.model,
        basis=f"{model.basis}; preprocessing: {host.basis}",
        extrapolated=model.extrapolated,
    )


def planned_precision(target: Target) -> Precision:
    """What is planned with until engines are measured: half precision on GPUs that may use it, else fp32."""
    return "fp16" if "fp16" in target.precisions else target.precisions[0]


def _usd_per_year(
    latency: LatencyEstimate | None, target: Target, profile: HardwareProfile, threads: int
) -> float | None:
    """Replicas at the utilisation ceiling; the cost stage simulates the queue for the chosen one."""
    offering = profile.offering(target.offering) if target.offering else None
    hourly = usd_per_hour(offering, profile)
    if latency is None or hourly is None or offering is None:
        return None
    capacity_rps = target.max_utilisation * workers(profile, target, threads) * 1e3 / latency.p50_ms
    return replicas_for(target.traffic.peak_requests_per_s, capacity_rps, target.redundancy) * hourly * HOURS_PER_YEAR


def cores_of_run(profile: HardwareProfile, threads: int) -> int | None:
    """Cores that one run uses: the engine's threads on a CPU, where `workers` run side by side; None: a whole GPU."""
    return None if profile.is_gpu else threads


def workers(profile: HardwareProfile, target: Target, threads: int) -> int:
    """Processes of one replica that answer at once: one a GPU, one for each `threads` virtual CPUs elsewhere."""
    offering = profile.offering(target.offering) if target.offering else None
    if profile.is_gpu:
        return offering.devices if offering else 1
    cores = offering.vcpus if offering and offering.vcpus else profile.facts.cores.value if profile.facts.cores else 1
    return max(1, int(cores / threads))


def _why_not(project: Project, target: Target, num_params: int, artifact_bytes: int, objective_ms: float | None) -> str:
    limits = target.limits
    if project.max_params is not None and num_params > project.max_params:
        return f"{num_params:,} parameters are over max_params {project.max_params:,}"
    if limits.artifact_bytes is not None and artifact_bytes > limits.artifact_bytes:
        return f"{artifact_bytes:,} bytes are over the target's artifact_bytes {limits.artifact_bytes:,}"
    if limits.memory_mib is not None and artifact_bytes > limits.memory_mib * 2**20:
        return f"{artifact_bytes / 2**20:.0f} MiB of weights are over the target's memory_mib {limits.memory_mib:g}"
    if objective_ms is not None and objective_ms > target.objective.limit_ms:
        return f"p{target.objective.percentile:g} {objective_ms:.3g} ms is over limit_ms {target.objective.limit_ms:g}"
    return ""


def _stage_estimates(
    project: Project, sizes: Sizes, recipe: Recipe, plans: Sequence[TargetPlan], cores: float
) -> list[StageEstimate]:
    """Hours from counted FLOPs at an assumed speed: within a factor of three, and said so."""
    speed = ASSUMED_FLOPS_PER_S_PER_CORE * cores * TRAINING_EFFICIENCY
    teacher_gib = PROCESS_GIB + _training_gib(sizes.teacher_params or 0)
    estimates = []
    fits = [t.fit for t in project.teachers if t.fit is not None]
    if fits:
        rows = sum(3 * sizes.train_rows * f.epochs for f in fits)
        fit_gib = teacher_gib + _pixels_gib(sizes, sizes.train_rows)
        estimates.append(_teacher_stage("teach", sizes, rows, speed, fit_gib))
    asked = sizes.transfer_rows * len(project.teachers)
    estimates.append(_teacher_stage("label", sizes, asked, speed, teacher_gib))
    for number, chosen in enumerate({str(p.chosen.spec): p.chosen for p in plans}.values(), 1):
        flops = 3 * _flops_of(chosen.spec, sizes) * sizes.transfer_rows * recipe.epochs
        estimates.append(
            StageEstimate(
                stage=f"distil student {number}",
                hours=flops / speed / 3600,
                memory_gib=_distil_gib(sizes, chosen.num_params),
                basis=_basis(speed),
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
    from kdexport.backbones import parse_spec

    parsed = parse_spec(spec)
    return backbone_of(parsed).cost(parsed, sizes.num_classes, sizes.shape).flops
