"""plan: for every target the candidates, their estimated quality, latency, size and cost, and the one to train.

Latency comes from the calibration (this machine) or from published measurements (others), quality from the ladder
where one was climbed, else from the shipped prior, cost from sourced prices. Nothing is run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdexport.backbones import backbone_of, backbones_for
from kdexport.errors import Unsupported
from kdexport.latency import absent, calibrated
from kdexport.latency.estimates import Estimates
from kdexport.latency.tail import assumed_tail, percentile_ms
from kdexport.nouns.calibration import Calibration, LocalSpeed
from kdexport.nouns.graph import GraphCost, InputShape, LatencyEstimate
from kdexport.nouns.ladder import Ladder
from kdexport.nouns.plan import Plan
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.project import Project
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.nouns.target import Target
from kdexport.pricing.cost import HOURS_PER_YEAR, SECONDS_PER_YEAR, replicas_for, usd_per_hour
from kdexport.runtimes import load_runtime
from kdexport.sizing import quality
from kdexport.sizing.choose import Wishes, choose
from kdexport.sizing.options import Cell, Options
from kdexport.sizing.share import share
from kdexport.sizing.spend import Sizes, ladder_budget_s, stage_estimates
from kdexport.tasks.image_classification import require_memory

if TYPE_CHECKING:
    import numpy as np

VERSION = 5
TOKENIZER_BYTES_PER_PIECE = 16
GRAPH_BYTES = 6_000
BYTES_PER_PARAM: dict[Precision, float] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
CPU_FLOOR_MIB = 74.0  # resident: Python, numpy, tokenizers and ONNX Runtime with a small student, measured 2026-11-24
BATCHES = (4, 16, 64)
LENGTHS_TIMED = 5  # between them latency is interpolated


@dataclass(frozen=True)
class Where:
    """A target with its device, and what this machine was measured to do if the target is this machine."""

    target: Target
    profile: HardwareProfile
    speed: LocalSpeed | None


@dataclass(frozen=True, eq=False)
class _Space:
    """All students: N specs, their costs at the median shape, and the shapes of the lengths that are timed."""

    sizes: Sizes
    specs: Sequence[StudentSpec]
    shapes: Sequence[InputShape]
    retention: quality.Retentions
    num_params: np.ndarray
    known_costs: dict[InputShape, list[GraphCost]]

    def costs(self, shape: InputShape) -> list[GraphCost]:
        """Counted once, for all targets."""
        if shape not in self.known_costs:
            self.known_costs[shape] = [backbone_of(s).cost(s, self.sizes.num_classes, shape) for s in self.specs]
        return self.known_costs[shape]


def candidates(sizes: Sizes) -> list[StudentSpec]:
    """The whole search space of a task, thousands of specs."""
    return [
        spec
        for backbone in backbones_for(sizes.input_kind)
        for spec in backbone.candidates(sizes.num_classes, sizes.shape, sizes.vocab_sizes)
    ]


def costs(specs: Sequence[StudentSpec], sizes: Sizes) -> list[GraphCost]:
    """Of one run at the median shape."""
    return [backbone_of(s).cost(s, sizes.num_classes, sizes.shape) for s in specs]


def plan(
    project: Project,
    sizes: Sizes,
    recipe: Recipe,
    targets: Sequence[Where],
    cores: float,
    ladder: Ladder | None = None,
    specs: Sequence[StudentSpec] | None = None,
    max_usd_per_million: float | None = None,
    best: bool = False,
) -> Plan:
    """specs: the students to choose from, default all. best: the best quality within the limits, whatever it is.

    Raises BadInput where the pictures to learn from do not fit into memory."""
    if sizes.input_kind == "image":
        require_memory(sizes.transfer_rows, sizes.shape.channels, sizes.shape.height, sizes.shape.width)
    space = _space(sizes, candidates(sizes) if specs is None else specs, ladder)
    wishes = Wishes(
        min_retention=0.0 if best else project.min_retention,
        prefer="quality" if best else project.prefer,
        max_params=project.max_params,
        max_usd_per_million=max_usd_per_million,
    )
    flops = [c.flops for c in space.costs(sizes.shape)]
    ladder_s = ladder_budget_s(project, sizes, recipe, flops) if ladder is None else 0.0
    here_ms = next((w.speed.preprocess_ms for w in targets if w.speed), None)
    options = [_options(project, space, here_ms, where) for where in targets]
    plans = [choose(o, wishes, w.target, _notes(w, o)) for o, w in zip(options, targets, strict=True)]
    plans, shared = share(plans, options, [w.target for w in targets], wishes, project.student_usd_per_year)
    return Plan(
        targets=tuple(plans),
        stages=tuple(stage_estimates(project, sizes, recipe, plans, cores, ladder_s)),
        shared=tuple(shared),
        quality_basis=space.retention.basis,
    )


def _space(sizes: Sizes, specs: Sequence[StudentSpec], ladder: Ladder | None) -> _Space:
    import numpy as np

    counted = costs(specs, sizes)
    num_params = np.array([c.num_params for c in counted], dtype=np.float64)
    retention = quality.predict(ladder, sizes.input_kind, specs, num_params, sizes.teacher_params)
    return _Space(sizes, specs, _shapes(sizes), retention, num_params, {sizes.shape: counted})


def _shapes(sizes: Sizes) -> list[InputShape]:
    """Of the requests that are timed: a few lengths from the shortest to the longest, or the one picture."""
    import numpy as np

    if not sizes.lengths:
        return [sizes.shape]
    lengths = np.quantile(sizes.lengths, np.linspace(0, 1, LENGTHS_TIMED), method="nearest")
    return [sizes.shape.model_copy(update={"tokens": int(t)}) for t in sorted(set(lengths.tolist()))]


def _options(project: Project, space: _Space, preprocess_here_ms: float | None, where: Where) -> Options:
    import numpy as np

    if where.speed is not None:
        made = [_calibrated(space, where, c) for c in where.speed.cells]
    else:
        made = _absent(project, space, where, preprocess_here_ms)
    num, cells = len(space.specs), [m.cell for m in made]
    spec_of, cell_of = np.tile(np.arange(num), len(made)), np.repeat(np.arange(len(made)), num)
    p50_ms = np.concatenate([m.latency.p50_ms if m.latency else np.full(num, np.nan) for m in made])
    batch = np.array([c.batch for c in cells])[cell_of]
    usd = _usd_per_year(p50_ms, batch, where, project.threads)
    artifact_bytes = np.concatenate([_artifact_bytes(space, c) for c in cells])
    return Options(
        specs=space.specs,
        cells=cells,
        spec_of=spec_of,
        cell_of=cell_of,
        num_params=space.num_params[spec_of],
        artifact_bytes=artifact_bytes,
        memory_mib=artifact_bytes / 2**20 + _floor_mib(where.profile),
        retention=space.retention,
        latency=[m.latency for m in made],
        p50_ms=p50_ms,
        objective_ms=np.concatenate([m.objective_ms for m in made]),
        bound_ms=np.concatenate([m.bound_ms for m in made]),
        usd_per_year=usd,
        usd_per_million=usd / (where.target.traffic.mean_requests_per_s * SECONDS_PER_YEAR / 1e6),
    )


@dataclass(frozen=True, eq=False)
class _Made:
    """One cell of one target: columns of N. latency: in the objective's scope."""

    cell: Cell
    latency: Estimates | None
    objective_ms: np.ndarray
    bound_ms: np.ndarray


def _calibrated(space: _Space, where: Where, calibration: Calibration) -> _Made:
    """On this machine: the limit is held against the upper end of the interval, so that it is kept 19 times of 20."""
    assert where.speed is not None
    end_to_end = where.target.objective.scope == "end_to_end"
    by_shape = [calibrated.estimates(calibration, space.specs, space.sizes.num_classes, s) for s in space.shapes]
    at_median = calibrated.estimates(calibration, space.specs, space.sizes.num_classes, space.sizes.shape)
    latency = _plus(at_median, where.speed.preprocess_ms) if end_to_end else at_median
    medians_ms = _at_lengths(space, [e.p50_ms for e in by_shape])
    if end_to_end:
        medians_ms = medians_ms + _preprocess_ms(where.speed, medians_ms.shape[1])
    objective_ms = percentile_ms(medians_ms, calibration.tail, where.target.objective.percentile)
    cell = Cell(calibration.runtime, calibration.precision)
    return _Made(cell, latency, objective_ms, objective_ms * latency.high_ms / latency.p50_ms)


def _plus(estimates: Estimates, extra_ms: float) -> Estimates:
    return replace(
        estimates,
        p50_ms=estimates.p50_ms + extra_ms,
        low_ms=estimates.low_ms + extra_ms,
        high_ms=estimates.high_ms + extra_ms,
    )


def _at_lengths(space: _Space, by_shape: Sequence[np.ndarray]) -> np.ndarray:
    """(N, K) ms at every length of the queries, linear between those that were timed."""
    import numpy as np

    columns = np.stack(by_shape, 1)
    if columns.shape[1] == 1:
        return columns
    lengths = np.array(space.sizes.lengths, dtype=np.float64)
    timed = np.array([s.tokens for s in space.shapes], dtype=np.float64)
    right = np.clip(np.searchsorted(timed, lengths), 1, len(timed) - 1)
    share = (lengths - timed[right - 1]) / (timed[right] - timed[right - 1])
    result: np.ndarray = columns[:, right - 1] * (1 - share) + columns[:, right] * share
    return result


def _preprocess_ms(speed: LocalSpeed, kinds: int) -> np.ndarray:
    """(K,) of requests in the order of their length: the longer one takes longer to preprocess."""
    import numpy as np

    levels = [0.5, *(float(p) / 100 for p in speed.preprocess_tail)]
    ratios = np.maximum.accumulate([1.0, *speed.preprocess_tail.values()])
    at: np.ndarray = np.interp((np.arange(kinds) + 0.5) / kinds, levels, ratios)
    return speed.preprocess_ms * at


def _absent(project: Project, space: _Space, where: Where, preprocess_here_ms: float | None) -> list[_Made]:
    """On a machine that nobody here has: one cell for each batch size, in the precision that is planned with."""
    target, profile = where.target, where.profile
    precision = planned_precision(target)
    run_cores = cores_of_run(profile, project.threads)
    host = absent_host(profile, space.sizes.input_kind, preprocess_here_ms)
    extra = host if target.objective.scope == "end_to_end" else None
    runtime = _runtime_of(target, profile, precision)
    made = []
    for batch in (1, *(b for b in BATCHES if _may_batch(where, b))):
        shapes = [s.model_copy(update={"batch": batch}) for s in (space.sizes.shape, *space.shapes)]
        try:
            found = [
                _with_host(absent.estimates(profile, space.costs(s), precision, run_cores, runtime), extra)
                for s in shapes
            ]
        except Unsupported:
            return [_unknown(Cell(runtime, precision), len(space.specs))]
        medians_ms = _at_lengths(space, [e.p50_ms for e in found[1:]])
        objective_ms = percentile_ms(medians_ms, assumed_tail(), target.objective.percentile)
        if batch > 1:  # at the peak a request first waits for the batch before its own
            objective_ms = 2 * objective_ms
        made.append(_Made(Cell(runtime, precision, batch), found[0], objective_ms, objective_ms))
    return made


def _may_batch(where: Where, batch: int) -> bool:
    """Batches pay on GPUs, and form only where requests come faster than they are answered."""
    target = where.target
    return where.profile.is_gpu and target.objective.scenario == "server" and batch <= target.max_batch


def _unknown(cell: Cell, num: int) -> _Made:
    import numpy as np

    blank = np.full(num, np.nan)
    return _Made(cell, None, blank, blank)


def _runtime_of(target: Target, profile: HardwareProfile, precision: Precision) -> str:
    fitting = [r for r in target.runtimes if not load_runtime(r).unsupported(precision, profile)]
    return (fitting or list(target.runtimes))[0]


def _with_host(model: Estimates, host: LatencyEstimate | None) -> Estimates:
    if host is None:
        return model
    return replace(
        model,
        p50_ms=model.p50_ms + host.p50_ms,
        low_ms=model.low_ms + host.low_ms,
        high_ms=model.high_ms + host.high_ms,
        basis=f"{model.basis}; preprocessing: {host.basis}",
    )


def _notes(where: Where, options: Options) -> list[str]:
    import numpy as np

    notes = []
    if np.isnan(options.p50_ms).all():
        notes.append(f"latency on {where.profile.id} cannot be estimated: its facts lack a peak or the bandwidth")
    if where.target.offering is None:
        notes.append(f"target {where.target.id} names no offering: its cost is blank")
    offering = where.profile.offering(where.target.offering) if where.target.offering else None
    if offering and offering.vcpus and not where.profile.is_gpu and where.profile.cores_of(offering) is None:
        notes.append("how many virtual CPUs share a core is not known here: 2 assumed")
    if any(c.batch > 1 for c in options.cells):
        notes.append("a batch above 1 assumes a server that batches requests; `run` prices batch 1")
    if where.profile.is_gpu and where.profile.facts.runtime_floor_mib is None and where.target.limits.memory_mib:
        notes.append("memory that the runtime itself takes on this device is not known: only the weights are counted")
    return notes


def _artifact_bytes(space: _Space, cell: Cell) -> np.ndarray:
    """Graph and tokenizer, from the parameter count. int8: what ONNX Runtime's dynamic quantiser leaves in fp32 (the
    convolutions of text) is counted as fp32."""
    import numpy as np

    vocab = np.array([int(getattr(s, "vocab_size", 0)) for s in space.specs], dtype=np.float64)
    per_param = BYTES_PER_PARAM[cell.precision]
    weights = per_param * space.num_params
    if cell.precision == "int8" and cell.runtime == "onnxruntime":
        tables = vocab * np.array([_width(s) for s in space.specs])
        keeps_fp32 = np.array([s.backbone == "convolution" for s in space.specs])
        weights = np.where(keeps_fp32, tables + 4 * (space.num_params - tables), weights)
    result: np.ndarray = np.ceil(weights + GRAPH_BYTES + TOKENIZER_BYTES_PER_PIECE * vocab)
    return result


def _width(spec: StudentSpec) -> int:
    return int(getattr(spec, "embedding_size", 0) or getattr(spec, "hidden_size", 0))


def _floor_mib(profile: HardwareProfile) -> float:
    """Memory that the serving process takes before any student is in it; 0 where it is not known (and noted)."""
    known = profile.facts.runtime_floor_mib
    if known is not None:
        return known.value
    return 0.0 if profile.is_gpu else CPU_FLOOR_MIB


def _usd_per_year(p50_ms: np.ndarray, batch: np.ndarray, where: Where, threads: int) -> np.ndarray:
    """(M,). Replicas at the utilisation ceiling; the cost stage simulates the queue for the chosen one."""
    import numpy as np

    target, profile = where.target, where.profile
    hourly = usd_per_hour(profile.offering(target.offering) if target.offering else None, profile)
    if hourly is None:
        return np.full(len(p50_ms), np.nan)
    capacity_rps = target.max_utilisation * workers(profile, target, threads) * batch * 1e3 / p50_ms
    peak, known = target.traffic.peak_requests_per_s, np.isfinite(capacity_rps)
    replicas = np.full(len(p50_ms), np.nan)
    replicas[known] = [replicas_for(peak, c, target.redundancy) for c in capacity_rps[known].tolist()]
    return replicas * hourly * HOURS_PER_YEAR


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
    runtime: str | None = None,
) -> LatencyEstimate:
    """Model plus preprocessing (host) on a machine that nobody here has. Raises Unsupported where facts are missing."""
    found = absent.estimates(profile, [cost], precision, run_cores, runtime)
    return _with_host(found, None if scope == "model" else host).one(0)


def planned_precision(target: Target) -> Precision:
    """What is planned with until engines are measured: half precision on GPUs that may use it, else fp32."""
    return "fp16" if "fp16" in target.precisions else target.precisions[0]


def cores_of_run(profile: HardwareProfile, threads: int) -> int | None:
    """Cores that one run uses: the engine's threads on a CPU, where `workers` run side by side; None: a whole GPU."""
    return None if profile.is_gpu else threads


def workers(profile: HardwareProfile, target: Target, threads: int) -> int:
    """Processes of one replica that answer at once: one a GPU, one for each `threads` whole cores elsewhere. Where it
    is not known how many virtual CPUs share a core, two are taken to (and a plan notes it)."""
    offering = profile.offering(target.offering) if target.offering else None
    if profile.is_gpu:
        return offering.devices if offering else 1
    vcpus = offering.vcpus if offering else None
    return max(1, int((profile.cores_of(offering) or (vcpus or 2) / 2) / threads))
