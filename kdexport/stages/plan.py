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
from kdexport.nouns.plan import Plan, TargetPlan
from kdexport.nouns.profile import HardwareProfile, Offering, Precision
from kdexport.nouns.project import Project
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.nouns.target import LOCAL, Target
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

VERSION = 14
TOKENIZER_BYTES_PER_PIECE = 16
GRAPH_BYTES_PER_OPERATOR = 220  # names and attributes of the nodes: 120 to 220 in exported graphs of all backbones
BYTES_PER_PARAM: dict[Precision, float] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
CPU_FLOOR_MIB = 74.0  # resident: Python, numpy, tokenizers and ONNX Runtime with a small student, measured 2026-11-24
BATCHES = (4, 16, 64)
QUICK = 60.0  # seconds: a calibration that took less has a wide interval
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
    plans = [_told_of_choice(p) for p in plans]
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
    flops = np.array([c.flops for c in counted], dtype=np.float64)
    side = min(sizes.shape.height, sizes.shape.width)
    retention = quality.predict(ladder, sizes.input_kind, specs, num_params, sizes.teacher_params, flops, side)
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
    service = _Service(
        per_run_ms=np.concatenate([m.service_ms for m in made]),
        batch=batch,
        objective_ms=np.concatenate([m.objective_ms for m in made]),
        bound_ms=np.concatenate([m.bound_ms for m in made]),
        workers=workers(where.profile, where.target, project.threads),
    )
    usd, waiting_ms = _serving(service, where)
    artifact_bytes = np.concatenate([_artifact_bytes(space, c) for c in cells])
    fits = (artifact_bytes <= (where.target.limits.artifact_bytes or np.inf)).reshape(len(cells), num)
    fits &= np.nan_to_num(service.bound_ms).reshape(len(cells), num) <= where.target.objective.limit_ms
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
        objective_ms=service.objective_ms + waiting_ms,
        bound_ms=service.bound_ms + waiting_ms,
        usd_per_year=usd,
        usd_per_million=usd / (where.target.traffic.mean_requests_per_s * SECONDS_PER_YEAR / 1e6),
        allowed=_allowed(cells, fits, where),
    )


@dataclass(frozen=True, eq=False)
class _Made:
    """One cell of one target: columns of N. latency: of one run, in the objective's scope; objective_ms, bound_ms:
    without waiting; service_ms: how long a run keeps its worker, preprocessing of the whole batch included."""

    cell: Cell
    latency: Estimates | None
    objective_ms: np.ndarray
    bound_ms: np.ndarray
    service_ms: np.ndarray


@dataclass(frozen=True, eq=False)
class _Service:
    """Columns of M: what a replica's `workers` do."""

    per_run_ms: np.ndarray
    batch: np.ndarray
    objective_ms: np.ndarray
    bound_ms: np.ndarray
    workers: int


def _allowed(cells: Sequence[Cell], fits: np.ndarray, where: Where) -> np.ndarray:
    """(M,). On a machine that is not here the speed of a further precision is not measured: it is planned with where
    the planned one breaks a limit alone. fits: (cells, N) within bytes and latency."""
    import numpy as np

    allowed = np.ones(fits.shape, dtype=bool)
    if where.speed is None:
        planned = planned_precision(where.target)
        fits_planned = np.array([f for c, f in zip(cells, fits, strict=True) if c.precision == planned])
        for row, cell in enumerate(cells):
            if cell.precision != planned and len(fits_planned):
                allowed[row] = ~fits_planned.any(0)
    return allowed.ravel()


def _calibrated(space: _Space, where: Where, calibration: Calibration) -> _Made:
    """On this machine: the limit is held against the percentile of the intervals' upper ends, so that it is kept some
    19 times of 20."""
    assert where.speed is not None
    end_to_end = where.target.objective.scope == "end_to_end"
    by_shape = [calibrated.estimates(calibration, space.specs, space.sizes.num_classes, s) for s in space.shapes]
    at_median = calibrated.estimates(calibration, space.specs, space.sizes.num_classes, space.sizes.shape)
    latency = _plus(at_median, where.speed.preprocess_ms) if end_to_end else at_median
    middle, upper = (_at_lengths(space, [getattr(e, end) for e in by_shape]) for end in ("p50_ms", "high_ms"))
    around_ms = _preprocess_ms(where.speed, middle.shape[1]) if end_to_end else 0.0
    objective_ms, bound_ms = (
        percentile_ms(ms + around_ms, calibration.tail, where.target.objective.percentile) for ms in (middle, upper)
    )
    cell = Cell(calibration.runtime, calibration.precision)
    return _Made(cell, latency, objective_ms, bound_ms, at_median.p50_ms + where.speed.preprocess_ms)


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
    """On a machine that nobody here has: a cell for each precision and batch size."""
    precisions = [planned_precision(where.target)]
    if not where.profile.is_gpu:  # a GPU's engines are built in the planned precision (stages/engines.py)
        precisions += [p for p in where.target.precisions if p not in precisions]
    made = []
    for precision in precisions:
        runtime = _runtime_of(where.target, where.profile, precision)
        if runtime is None:
            continue
        for batch in (1, *(b for b in BATCHES if _may_batch(where, b))):
            try:
                made.append(_absent_cell(project, space, where, preprocess_here_ms, Cell(runtime, precision, batch)))
            except Unsupported:
                return [_unknown(Cell(runtime, precision), len(space.specs))]
    return made or [_unknown(Cell(where.target.runtimes[0], precisions[0]), len(space.specs))]


def _absent_cell(project: Project, space: _Space, where: Where, preprocess_here_ms: float | None, cell: Cell) -> _Made:
    """Raises Unsupported where facts are missing."""
    profile, objective = where.profile, where.target.objective
    host = absent_host(profile, space.sizes.input_kind, preprocess_here_ms)
    extra = host if objective.scope == "end_to_end" else None
    run_cores = cores_of_run(profile, project.threads)
    found = []
    for shape in (space.sizes.shape, *space.shapes):
        costs = space.costs(shape.model_copy(update={"batch": cell.batch}))
        found.append(absent.estimates(profile, costs, cell.precision, run_cores, cell.runtime))
    service_ms = found[0].p50_ms + cell.batch * host.p50_ms
    told = [_with_host(e, extra) for e in found]
    medians_ms = _at_lengths(space, [e.p50_ms for e in told[1:]])
    objective_ms = percentile_ms(medians_ms, assumed_tail(), objective.percentile)
    if cell.batch > 1:  # at the peak a request first waits for the batch before its own
        objective_ms = 2 * objective_ms
    return _Made(cell, told[0], objective_ms, objective_ms, service_ms)


def _may_batch(where: Where, batch: int) -> bool:
    """Batches pay on GPUs, and form only where requests come faster than they are answered."""
    target = where.target
    return where.profile.is_gpu and target.objective.scenario == "server" and batch <= target.max_batch


def _unknown(cell: Cell, num: int) -> _Made:
    import numpy as np

    blank = np.full(num, np.nan)
    return _Made(cell, None, blank, blank, blank)


def _runtime_of(target: Target, profile: HardwareProfile, precision: Precision) -> str | None:
    """The first of the target's runtimes that serves the precision there."""
    return next((r for r in target.runtimes if not load_runtime(r).unsupported(precision, profile)), None)


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

    target, profile = where.target, where.profile
    offering = profile.offering(target.offering) if target.offering else None
    unknown = np.isnan(options.p50_ms).all()
    quick = [c for c in where.speed.cells if c.seconds < QUICK] if where.speed else []
    found = {
        f"latency on {profile.id} cannot be estimated: {_why_unknown(where)}; limit_ms is not checked": unknown,
        f"this machine was calibrated for {sum(c.seconds for c in quick):.0f} s only, so the interval is wide: "
        "`kdexport profiles calibrate` narrows it": quick,
        f"target {target.id} names no offering: its cost is blank": target.offering is None,
        _priced_at(target, offering): offering,
        "how many virtual CPUs share a core is not known here: 2 assumed": (
            offering and offering.vcpus and not profile.is_gpu and profile.cores_of(offering) is None
        ),
        "memory that the runtime itself takes on this device is not known: only the artefact is counted": (
            profile.is_gpu and profile.facts.runtime_floor_mib is None and target.limits.memory_mib
        ),
    }
    return [note for note, applies in found.items() if applies]


def _why_unknown(where: Where) -> str:
    if where.target.profile == LOCAL:
        runtimes = " ".join(f"--runtime {r}" for r in where.target.runtimes)
        return f"none of its runtimes was timed; install one, then `kdexport profiles calibrate {runtimes}`"
    return "its facts lack a peak or the bandwidth"


def _priced_at(target: Target, offering: Offering | None) -> str:
    """What the money rests on, in words."""
    traffic = target.traffic
    assumed = "assumed" if traffic.assumed else "as the target states"
    price = offering and (offering.price_usd_per_hour or offering.purchase_usd)
    return (
        f"cost is of {traffic.mean_requests_per_s:g} requests/s, {traffic.peak_requests_per_s:g} at the peak "
        f"({assumed}), {target.redundancy} spare replica(s), offering {target.offering}"
        + (f", price of {price.date.isoformat()}" if price else "")
    )


def _told_of_choice(plan: TargetPlan) -> TargetPlan:
    """What the chosen engine takes for granted."""
    chosen, notes = plan.chosen, []
    if chosen.batch > 1:
        notes.append(f"batch {chosen.batch} assumes a server that batches requests; `run` prices batch 1")
    if chosen.precision == "int8":
        notes.append("int8 is predicted to keep what fp32 keeps; `run` measures it, and keeps fp32 where it does not")
    return plan.model_copy(update={"notes": (*plan.notes, *notes)}) if notes else plan


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
    nodes = np.array([c.num_operators for c in space.costs(space.sizes.shape)])
    graph = weights + GRAPH_BYTES_PER_OPERATOR * nodes + TOKENIZER_BYTES_PER_PIECE * vocab
    result: np.ndarray = np.ceil(graph)
    return result


def _width(spec: StudentSpec) -> int:
    return int(getattr(spec, "embedding_size", 0) or getattr(spec, "hidden_size", 0))


def _floor_mib(profile: HardwareProfile) -> float:
    """Memory that the serving process takes before any student is in it; 0 where it is not known (and noted)."""
    known = profile.facts.runtime_floor_mib
    if known is not None:
        return known.value
    return 0.0 if profile.is_gpu else CPU_FLOOR_MIB


def _serving(service: _Service, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """(USD a year, ms that a request waits at the objective's percentile), each (M,).

    Scenario server: a replica is loaded up to max_utilisation, or less where waiting would break the limit; one that
    breaks it without waiting is loaded to max_utilisation all the same. The cost stage simulates the queue for the
    chosen one."""
    import numpy as np

    target, profile = where.target, where.profile
    rate_rps = service.workers * service.batch * 1e3 / service.per_run_ms  # of a replica that never rests
    load = np.full(len(rate_rps), target.max_utilisation)
    if target.objective.scenario == "server":
        load = _bearable_load(service, target)
    known = np.isfinite(rate_rps)
    peak = target.traffic.peak_requests_per_s
    replicas = np.full(len(rate_rps), np.nan)
    replicas[known] = [replicas_for(peak, c, target.redundancy) for c in (load * rate_rps)[known].tolist()]
    waiting_ms = np.zeros(len(rate_rps))
    if target.objective.scenario == "server":
        used = peak / ((replicas - target.redundancy) * rate_rps)
        waiting_ms = np.nan_to_num(queue_ms(service.per_run_ms, used, service.workers, target.objective.percentile))
        waiting_ms = np.where(service.batch > 1, 0.0, waiting_ms)  # batches wait for each other: counted before
    hourly = usd_per_hour(profile.offering(target.offering) if target.offering else None, profile)
    return replicas * (np.nan if hourly is None else hourly) * HOURS_PER_YEAR, waiting_ms


def _bearable_load(service: _Service, target: Target) -> np.ndarray:
    """The highest utilisation, at most max_utilisation, at which bound plus waiting keeps the limit; by bisection."""
    import numpy as np

    low, high = np.full(len(service.batch), 1e-3), np.full(len(service.batch), target.max_utilisation)
    for _ in range(20):
        middle = (low + high) / 2
        waiting_ms = queue_ms(service.per_run_ms, middle, service.workers, target.objective.percentile)
        keeps = service.bound_ms + waiting_ms <= target.objective.limit_ms
        low, high = np.where(keeps, middle, low), np.where(keeps, high, middle)
    hopeless = (service.bound_ms > target.objective.limit_ms) | (service.batch > 1)
    return np.where(hopeless, target.max_utilisation, low)


def queue_ms(service_ms: np.ndarray, utilisation: np.ndarray, workers: int, percentile: float) -> np.ndarray:
    """ms waited, of Poisson arrivals at `workers` that share a queue, about constant service times (M,).

    P(wait > t) = P(wait) exp(-t / scale); P(wait) = utilisation^(sqrt(2 (c + 1)) - 1), scale = service / (2 c
    (1 - utilisation)): Sakasegawa 1977 with the exponential tail of heavy traffic (Kingman 1962)."""
    import numpy as np

    load = np.clip(utilisation, 1e-9, 0.999)
    chance = load ** (np.sqrt(2 * (workers + 1)) - 1)
    scale_ms = service_ms / (2 * workers * (1 - load))
    waited: np.ndarray = scale_ms * np.log(np.maximum(chance / (1 - percentile / 100), 1.0))
    return waited


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
