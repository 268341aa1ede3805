"""How far latency estimates made before training miss on this machine: `python -m benchmarks.latency_model`.

Each runtime and precision is calibrated as `kdexport profiles calibrate` does, then graphs that were never timed are
drawn from --seed, measured, and compared with what was estimated. Calibrations and measurements are cached in --work,
so a killed benchmark goes on where it was. `--only quota` repeats both under a CPU quota of one core and of half a core
(Linux, root, cgroup v1 or v2). Pin it to a core that nothing else uses: `taskset -c 1 python -m ...`."""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._results import FOLDER, environment, write_result
from kdexport import registry
from kdexport.backbones import backbone_of, parse_spec
from kdexport.latency import calibrated, grid, physics, timing
from kdexport.latency.grid import PlannedGraph
from kdexport.measure.environment import detect
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.graph import GraphCost, InputShape
from kdexport.nouns.profile import Precision
from kdexport.storage.files import content_key, read_json, write_json

CELLS: tuple[tuple[str, Precision], ...] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
)
BACKBONES = ("transformer", "convolution", "image_convolution")
GRAPHS, SHAPES = 28, 5  # of each backbone: 84 graphs for each runtime and precision
SECONDS = 120.0
VISITS = 3  # of every held-out shape at least, far apart; up to timing.MOST_VISITS where they differ

# What a student is ever asked for. A picture student of more multiply-adds a run takes over half a second on a core.
LENGTHS, BATCHES, SIDES = (8, 128), (1, 32), (8, 128)
MAX_PICTURE_FLOPS = 40e9

# Bars. nn-Meter (MobiSys 2021) reaches 99 % within 10 % with days of profiling; boosting alone 64 % here, and six
# coefficients a backbone 74 %. Nine in ten is where a sized student can be believed, in no cell under eight in ten.
WITHIN_10, WITHIN_10_WORST_CELL, WITHIN_20 = 0.90, 0.80, 0.97
SPEARMAN = 0.99  # candidates are ranked by it
COVERAGE = (0.86, 0.94)  # of 90 % intervals: too narrow below, wider than said above
OVERRUN_S = 3.0  # a calibration is promised to end in time: a run in progress may end, no more

# Datasheet roofline of one core: AMD EPYC 9004 (Zen 4) has two 256-bit FMA pipes a core, 32 FLOP a cycle, boost up to
# 3.7 GHz, and 460.8 GB/s a socket (AMD EPYC 9004 data sheet, read 2026-11). Only their ratio matters: it is scaled.
ROOFLINE_FLOPS_PER_S, ROOFLINE_BYTES_PER_S = 32 * 3.7e9, 460.8e9

# Of a core, that this process had while it timed: below it something else ran there too, and the table says so. The
# figures stand all the same; a bar that is missed on a busy machine is missed.
QUIET_CORE_SHARE = 0.9

QUOTAS: tuple[float | None, ...] = (None, 1.0, 0.5)
QUOTA_CELL: tuple[str, Precision] = ("onnxruntime", "fp32")
QUOTA_SECONDS, QUOTA_GRAPHS = 60.0, 10
# Under half a core the kernel stops a process for 50 ms in every 100 ms: a run over 25 ms is stopped in its middle more
# often than not, and no median of single runs stays what it was. A student that slow has no place on such a machine.
QUOTA_LONGEST_MS = 25.0
PERIOD_US = 100_000


@dataclass(frozen=True)
class Measured:
    """One graph that was not calibrated with, at one shape. first_ms: of the first visit alone, as a check."""

    spec: dict[str, Any]
    num_classes: int
    shape: InputShape
    ms: float
    first_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one runtime/precision, or 'quota'")
    parser.add_argument("--quick", action="store_true", help="a quarter of the time and graphs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/latency_model"))
    parser.add_argument("--under-quota", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.under_quota:
        write_json(arguments.under_quota, quota_row(arguments.seed))
        return 0
    sections = sections_of(arguments)
    document = document_of(sections)
    if not arguments.quick:
        document = document_of(other_sections(sections) | sections)
        write_result("latency_model", document)
    json.dump(document, sys.stdout, indent=1)
    return 0 if all(bar["passed"] for bar in document["bars"]) else 1


def sections_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """{"cells of seed N": rows, "quota": rows}."""
    found: dict[str, Any] = {}
    cells = [c for c in CELLS if arguments.only in (None, "/".join(c))]
    if cells:
        rows = [cell_row(*cell, arguments.seed, arguments.quick, arguments.work) for cell in cells]
        found[f"seed {arguments.seed}"] = rows
    if arguments.only == "quota":
        found["quota"] = quota_rows(arguments.seed)
    return found


def other_sections(sections: dict[str, Any]) -> dict[str, Any]:
    """Of the committed result: other seeds stay, and of this seed the cells that were not run."""
    path = FOLDER / "latency_model.json"
    known = read_json(path)["figures"]["sections"] if path.is_file() else {}
    for name, rows in sections.items():
        if name != "quota":
            cells = {row["cell"] for row in rows}
            rows += [row for row in known.get(name, []) if row["cell"] not in cells]
    return dict(known)


# --- one runtime and precision


def cell_row(runtime: str, precision: Precision, seed: int, quick: bool, work: Path) -> dict[str, Any]:
    """Figures of one cell, all held-out points among them."""
    share = 0.25 if quick else 1.0
    key = content_key(seed, quick, grid_version(), detect(1).id)[:10]
    folder = work / key / f"{runtime}-{precision}"
    calibration = Calibration.model_validate(
        watched(folder, "calibration", "calibrating", lambda: calibrate(runtime, precision, seed, SECONDS * share))
    )
    known = {content_key(p.spec) for p in calibration.points}
    planned = held_out(seed, max(2, int(GRAPHS * share)), known)
    points = measured_points(watched(folder, "held_out", "measuring", lambda: measure(planned, runtime, precision)))
    row = {"cell": f"{runtime}/{precision}", "seed": seed} | figures(calibration, points)
    row["core_share"] = min(read_json(folder / name)["core_share"] for name in ("calibrating.json", "measuring.json"))
    print(table(row), file=sys.stderr, flush=True)
    return row


def grid_version() -> dict[str, str]:
    """The code that decides what is timed, and how: a cache of other code is of other graphs."""
    return {m.__name__: Path(str(m.__file__)).read_text(encoding="utf-8") for m in (grid, timing)}


def watched(folder: Path, name: str, watch: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, cached. In watch.json: the share of a core that this process had meanwhile; less than all of
    it means that something else ran there, and that the figures are those of a busy machine."""
    path = folder / f"{name}.json"
    if not path.is_file():
        begin, cpu = time.monotonic(), time.process_time()
        made = make()
        share = min(1.0, (time.process_time() - cpu) / (time.monotonic() - begin))
        write_json(folder / f"{watch}.json", {"core_share": share})
        write_json(path, made)
    return read_json(path)


def calibrate(runtime: str, precision: Precision, seed: int, seconds: float) -> Calibration:
    return calibrated.calibrate(runtime, precision, detect(1), seconds, seed=seed, progress=tell)


def tell(done: int, allowed: int, what: str) -> None:
    if done % 20 == 0:
        print(f"  calibrating, {done} of {allowed} s: {what}", file=sys.stderr, flush=True)


def held_out(seed: int, graphs: int, known: set[str]) -> list[PlannedGraph]:
    """Drawn evenly by a plain random generator: nothing of the calibration's sequence, no graph of it."""
    chance = random.Random(f"held out {seed}")
    found = []
    for name in BACKBONES:
        backbone, mine = registry.load("backbones", name), 0
        while mine < graphs:
            fields = len(backbone.Spec.model_fields) - 1
            spec = grid.draw_spec(backbone, [chance.random() for _ in range(fields)])  # type: ignore[arg-type]
            if spec is None or content_key(spec.model_dump()) in known:
                continue
            num_classes = log_uniform(chance, *grid.CLASSES)
            shapes = draw_shapes(chance, spec, num_classes)
            if shapes:
                found.append(PlannedGraph(spec, num_classes, shapes))
                mine += 1
    return found


def draw_shapes(chance: random.Random, spec: Any, num_classes: int) -> tuple[InputShape, ...]:
    """SHAPES different ones; none where the spec has no place for them."""
    shapes: dict[InputShape, None] = {}
    if spec.backbone == "image_convolution":
        smallest = max(SIDES[0], grid.SMALLEST_LAST_SIDE << (spec.num_stages - 1))
        side = log_uniform(chance, smallest, SIDES[1])
        largest = MAX_PICTURE_FLOPS / backbone_of(spec).cost(spec, num_classes, picture(spec, side, 1)).flops
        if min(largest, BATCHES[1]) < SHAPES:
            return ()
        while len(shapes) < SHAPES:
            shapes[picture(spec, side, log_uniform(chance, BATCHES[0], min(BATCHES[1], int(largest))))] = None
        return tuple(shapes)
    while len(shapes) < SHAPES:
        shapes[InputShape(batch=log_uniform(chance, *BATCHES), tokens=log_uniform(chance, *LENGTHS))] = None
    return tuple(shapes)


def picture(spec: Any, side: int, batch: int) -> InputShape:
    return InputShape(batch=batch, channels=spec.channels, height=side, width=side)


def log_uniform(chance: random.Random, low: int, high: int) -> int:
    drawn: float = (low - 0.5) * ((high + 0.5) / (low - 0.5)) ** chance.random()
    return min(high, max(low, round(drawn)))


def measure(planned: Sequence[PlannedGraph], runtime: str, precision: Precision) -> list[dict[str, Any]]:
    """All graphs open, visited in turn: the visits of one shape are a minute apart."""
    graphs = [timing.open_graph(p, runtime, precision, threads=1) for p in planned]
    for number in range(timing.MOST_VISITS):
        for graph in graphs:
            graph.visit(at_least=VISITS)
        print(f"  held out: visit {number + 1} of {len(graphs)} graphs", file=sys.stderr, flush=True)
    return [
        {
            "spec": graph.planned.spec.model_dump(),
            "num_classes": graph.planned.num_classes,
            "shape": shape.model_dump(),
            "ms": timing.quiet_median_ms(visits),
            "first_ms": float(np.median(visits[0])),
        }
        for graph in graphs
        for shape, visits in zip(graph.planned.shapes, graph.visits, strict=True)
    ]


def measured_points(rows: Sequence[dict[str, Any]]) -> list[Measured]:
    return [Measured(**{**row, "shape": InputShape.model_validate(row["shape"])}) for row in rows]


# --- figures


def figures(calibration: Calibration, points: Sequence[Measured]) -> dict[str, Any]:
    estimated, low, high, extrapolated = predict(calibration, points)
    names = np.array([p.spec["backbone"] for p in points])
    ms, first_ms = np.array([p.ms for p in points]), np.array([p.first_ms for p in points])
    inside = (low <= ms) & (ms <= high)
    by_backbone = {
        name: accuracy(estimated[names == name], ms[names == name])
        | {
            "coverage_90": float(inside[names == name].mean()),
            "half_width_ratio": float(np.median((high / estimated)[names == name])) - 1,
            "first_visit_within_10_percent": float(within(first_ms, ms, 0.1)[names == name].mean()),
        }
        for name in BACKBONES
    }
    return {
        "by_backbone": by_backbone,
        "calibration": {
            "seconds": calibration.seconds,
            "points": len(calibration.points),
            "graphs": len({content_key(p.spec, p.num_classes) for p in calibration.points}),
            "noise": calibration.noise,
            "tail": calibration.tail,
        },
        "extrapolated": float(extrapolated.mean()),
        "baselines": {name: accuracy(values, ms) for name, values in baselines(calibration, points).items()},
        "held_out": graph_rows(points, estimated, low, high),
    }


def graph_rows(
    points: Sequence[Measured], estimated: np.ndarray, low: np.ndarray, high: np.ndarray
) -> list[dict[str, Any]]:
    """runs: [batch, tokens or side, measured_ms, estimated_ms, low_ms, high_ms] of each shape, 5 digits."""
    rows: dict[str, dict[str, Any]] = {}
    for point, *ms in zip(points, estimated, low, high, strict=True):
        key = content_key(point.spec, point.num_classes)
        row = rows.setdefault(key, {"spec": point.spec, "num_classes": point.num_classes, "runs": []})
        extent = point.shape.tokens or point.shape.height
        row["runs"].append([point.shape.batch, extent, *(float(f"{value:.5g}") for value in (point.ms, *ms))])
    return list(rows.values())


def predict(calibration: Calibration, points: Sequence[Measured]) -> tuple[np.ndarray, ...]:
    found = []
    for point in points:
        one = calibrated.estimates(calibration, [parse_spec(point.spec)], point.num_classes, point.shape).one(0)
        found.append((one.p50_ms, one.low_ms, one.high_ms, one.extrapolated))
    return tuple(np.array(found).T)


def within(estimated: np.ndarray, ms: np.ndarray, share: float) -> np.ndarray:
    found: np.ndarray = np.abs(estimated / ms - 1) <= share
    return found


def accuracy(estimated: np.ndarray, ms: np.ndarray) -> dict[str, float]:
    from scipy.stats import spearmanr

    return {
        "n": len(ms),
        "within_10_percent": float(within(estimated, ms, 0.1).mean()),
        "within_20_percent": float(within(estimated, ms, 0.2).mean()),
        "median_error": float(np.median(np.abs(estimated / ms - 1))),
        "spearman": float(spearmanr(estimated, ms).statistic),
    }


def baselines(calibration: Calibration, points: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Estimates of simpler models from the same calibration; ms of each held-out point."""
    timed = [
        (parse_spec(p.spec), p.num_classes, p.shape) for p in calibration.points if p.spec["backbone"] in BACKBONES
    ]
    timed_ms = np.array([p.p50_ms for p in calibration.points if p.spec["backbone"] in BACKBONES])
    asked = [(parse_spec(p.spec), p.num_classes, p.shape) for p in points]
    counts: dict[str, Callable[[GraphCost], float]] = {
        "FLOPs only": lambda c: c.flops,
        "parameters only": lambda c: c.num_params,
        "datasheet roofline": roofline_s,
    }
    timed_costs, asked_costs = ([backbone_of(s).cost(s, n, x) for s, n, x in runs] for runs in (timed, asked))
    found = {
        name: scaled(np.array([count(c) for c in timed_costs]), np.array([count(c) for c in asked_costs]), timed_ms)
        for name, count in counts.items()
    }
    return found | {"plain physics: five counts a backbone, no learned speeds": plain_physics(timed, timed_ms, asked)}


def roofline_s(cost: GraphCost) -> float:
    return max(cost.flops / ROOFLINE_FLOPS_PER_S, (cost.weight_bytes + cost.activation_bytes) / ROOFLINE_BYTES_PER_S)


def scaled(timed: np.ndarray, asked: np.ndarray, timed_ms: np.ndarray) -> np.ndarray:
    """One factor by least squares of relative errors."""
    ratio = timed / timed_ms
    found: np.ndarray = asked * ratio.sum() / (ratio**2).sum()
    return found


def plain_physics(timed: Sequence[Any], timed_ms: np.ndarray, asked: Sequence[Any]) -> np.ndarray:
    found = np.empty(len(asked))
    for name in BACKBONES:
        mine = [i for i, run in enumerate(timed) if run[0].backbone == name]
        theirs = [i for i, run in enumerate(asked) if run[0].backbone == name]
        counted = physics.quantities(*zip(*(timed[i] for i in mine), strict=True))
        names = ("run", "operators", "flops", "activation_bytes", "weight_bytes")
        plain = physics.fit({n: counted[n] for n in names}, timed_ms[mine], bent=())
        found[theirs] = plain.predict_ms(physics.quantities(*zip(*(asked[i] for i in theirs), strict=True)))
    return found


def table(row: dict[str, Any]) -> str:
    lines = [
        f"{row['cell']}, seed {row['seed']}: calibrated in {row['calibration']['seconds']:.0f} s, "
        f"with {row['core_share']:.1%} of a core" + (" (BUSY)" if row["core_share"] < QUIET_CORE_SHARE else "")
    ]
    for name, found in row["by_backbone"].items():
        lines.append(
            f"  {name:18s} n {found['n']:4d}  within 10 % {found['within_10_percent']:.3f}  "
            f"20 % {found['within_20_percent']:.3f}  median {found['median_error']:.3f}  "
            f"Spearman {found['spearman']:.4f}  90 % interval holds {found['coverage_90']:.3f} "
            f"(+{found['half_width_ratio']:.0%})"
        )
    for name, found in row["baselines"].items():
        lines.append(f"  {name:18s} within 10 % {found['within_10_percent']:.3f}  Spearman {found['spearman']:.4f}")
    return "\n".join(lines)


# --- CPU quotas


def quota_rows(seed: int) -> list[dict[str, Any]]:
    """Calibration and held-out graphs in a process of its own under each quota."""
    rows = []
    for cores in QUOTAS:
        with tempfile.TemporaryDirectory() as folder, cpu_quota(cores) as enter:
            answer = Path(folder) / "row.json"
            command = [
                sys.executable,
                "-m",
                "benchmarks.latency_model",
                "--seed",
                str(seed),
                "--under-quota",
                str(answer),
            ]
            subprocess.run(command, check=True, preexec_fn=enter)
            rows.append({"quota_cores": cores} | read_json(answer))
        print(quota_line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def quota_row(seed: int) -> dict[str, Any]:
    """Run inside the quota."""
    here = detect(1)
    calibration = calibrated.calibrate(*QUOTA_CELL, here, QUOTA_SECONDS, ("text",), seed)
    known = {content_key(p.spec) for p in calibration.points}
    planned = [p for p in held_out(seed + 1, QUOTA_GRAPHS, known) if p.spec.backbone in ("transformer", "convolution")]
    points = measured_points(measure(planned, *QUOTA_CELL))
    estimated, low, high, _ = predict(calibration, points)
    ms = np.array([p.ms for p in points])
    short = estimated < QUOTA_LONGEST_MS
    return {
        "fingerprint": calibration.fingerprint,
        "cores_allowed": here.cores_allowed,
        "tail": calibration.tail,
        "accuracy": accuracy(estimated[short], ms[short]),
        "coverage_90": float(((low <= ms) & (ms <= high))[short].mean()),
        "throttled_points": int((~short).sum()),
    }


def quota_line(row: dict[str, Any]) -> str:
    tail = ", ".join(f"p{p} {ratio:.2f}" for p, ratio in row["tail"].items())
    return (
        f"quota {row['quota_cores']}: fingerprint {row['fingerprint']}, within 10 % "
        f"{row['accuracy']['within_10_percent']:.3f} of {row['accuracy']['n']}, over the median: {tail}"
    )


@contextmanager
def cpu_quota(cores: float | None) -> Iterator[Callable[[], None] | None]:
    """A function that puts the calling process under the quota, for the time of the block; None: no quota.

    Raises SystemExit where cgroups cannot be written."""
    if cores is None:
        yield None
        return
    root = Path("/sys/fs/cgroup")
    is_v1 = (root / "cpu").is_dir()
    folder = (root / "cpu" if is_v1 else root) / f"kdexport-quota-{os.getpid()}"
    try:
        folder.mkdir()
        if is_v1:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(int(cores * PERIOD_US)))
        else:
            (folder / "cpu.max").write_text(f"{int(cores * PERIOD_US)} {PERIOD_US}")
    except OSError as e:
        raise SystemExit(f"{folder}: a CPU quota cannot be set ({e.strerror}); run as root on Linux") from e
    try:
        yield functools.partial(_join, folder / "cgroup.procs")
    finally:
        time.sleep(0.2)  # the kernel needs a moment after the last process has left
        folder.rmdir()


def _join(processes: Path) -> None:
    processes.write_text(str(os.getpid()))


# --- document


def document_of(sections: dict[str, Any]) -> dict[str, Any]:
    seeds = {name: rows for name, rows in sections.items() if name != "quota"}
    return {
        "figures": {"overall": {name: overall(rows) for name, rows in seeds.items()}, "sections": sections},
        "baselines": {name: overall_baselines(rows) for name, rows in seeds.items()},
        "bars": [
            bar
            for name, rows in sections.items()
            for bar in (quota_bars(rows) if name == "quota" else bars(name, rows))
        ],
        "environment": environment(),
    }


def overall(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    graphs = [graph for row in rows for graph in row["held_out"]]
    _, _, ms, estimated, low, high = np.array([run for graph in graphs for run in graph["runs"]]).T
    worst = min(b["within_10_percent"] for row in rows for b in row["by_backbone"].values())
    return accuracy(estimated, ms) | {
        "coverage_90": float(((low <= ms) & (ms <= high)).mean()),
        "worst_cell_within_10_percent": worst,
        "graphs": len({content_key(graph["spec"], graph["num_classes"]) for graph in graphs}),
    }


def overall_baselines(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the cells."""
    names = rows[0]["baselines"]
    keys = ("within_10_percent", "within_20_percent", "median_error", "spearman")
    return {n: {k: float(np.mean([row["baselines"][n][k] for row in rows])) for k in keys} for n in names}


def bars(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = overall(rows)
    slowest = max(row["calibration"]["seconds"] for row in rows)
    return [
        at_least(f"{name}: within_10_percent", found["within_10_percent"], WITHIN_10),
        at_least(f"{name}: worst cell within_10_percent", found["worst_cell_within_10_percent"], WITHIN_10_WORST_CELL),
        at_least(f"{name}: within_20_percent", found["within_20_percent"], WITHIN_20),
        at_least(f"{name}: spearman", found["spearman"], SPEARMAN),
        at_least(f"{name}: coverage_90", found["coverage_90"], COVERAGE[0]),
        at_most(f"{name}: coverage_90", found["coverage_90"], COVERAGE[1]),
        at_most(f"{name}: calibration seconds", slowest, SECONDS + OVERRUN_S),
    ]


def quota_bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [
        at_least(f"quota {row['quota_cores']}: within_10_percent", row["accuracy"]["within_10_percent"], WITHIN_10)
        for row in rows
    ]
    return [*found, at_least("quota: fingerprints", len({row["fingerprint"] for row in rows}), len(rows))]


def at_least(name: str, value: float, floor: float) -> dict[str, Any]:
    return {"name": name, "value": value, "floor": floor, "passed": value >= floor}


def at_most(name: str, value: float, ceiling: float) -> dict[str, Any]:
    return {"name": name, "value": value, "ceiling": ceiling, "passed": value <= ceiling}


if __name__ == "__main__":
    sys.exit(main())
