"""Is the planned student the right one? `python -m benchmarks.sizing`: objectives from tight to loose, each answered by
the planner from a calibration and a ladder alone, then held against a grid of students that were all trained.

Grid, ladder and timings are cached in --work: a killed benchmark goes on where it was. Reads ../shared, or
$KDEXPORT_DATA. Teacher and soft labels are shared by grid and ladder, and in no cost here."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks._results import FOLDER, environment, shared_folder, write_result
from kdexport import pipeline
from kdexport.backbones import parse_spec
from kdexport.bundle.verify import load_predictor
from kdexport.measure.metrics import score
from kdexport.measure.timer import interleave
from kdexport.nouns.base import Noun
from kdexport.nouns.calibration import LocalSpeed
from kdexport.nouns.ladder import Ladder
from kdexport.nouns.profile import Precision
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Student
from kdexport.nouns.target import Limits, Objective, Target
from kdexport.stages import bench, calibrate, distil
from kdexport.stages import ladder as climbing
from kdexport.stages import plan as planning
from kdexport.storage.files import replacing, write_text
from kdexport.storage.tables import Raw
from kdexport.training.student import Curriculum, quality_on_dev

SETS = ("banking77", "cifar10")
GRID_VERSION = 1
OBJECTIVES = 8
# The bars, each for one data set:
MET_FLOOR = 7  # of 8: the interval that a limit is held against is left once in twenty on either side
MISS_CEILING = 0.10  # of the limit: what the one that misses may be over
USE_FLOOR = 0.75  # of the limit, median: below it a better student was left on the table for fear of a miss
REGRET_MEAN_CEILING = 0.005  # of accuracy: what two seeds of one student differ by
REGRET_WORST_CEILING = 0.012
COST_CEILING = 0.35  # of training the grid: else a user had better train it
LADDER_BUDGET_S = 200.0  # a twelfth of 27 trainings of 90 s
TIGHTEST = 1.5  # times the least of the grid: nearer to it only the very smallest are left, and no choice
CALIBRATION_SECONDS = 120.0
PASSES = 3  # over all students, so that a slow spell of the machine does not hit one of them alone
TIMED_REQUESTS = 512
TIMED_SAMPLES = 4_000
TIMED_SECONDS = 6.0
CIFAR_TRAIN_ROWS = 10_000
CIFAR_TEST_ROWS = 5_000
TEXT_TRAINING = "{augment_per_row: 1, epochs: 4}"  # 145 k rows seen: the slowest of the grid takes 90 s on one core
IMAGE_TRAINING = "{augment_per_row: 1, epochs: 5}"  # 90 k pictures seen
CONVOLUTIONS = (  # embedding_size, hidden_size, num_hidden_layers
    (16, 64, 1), (16, 128, 1), (32, 64, 1), (32, 128, 1), (32, 256, 1), (64, 128, 1), (96, 192, 1), (128, 256, 1),
    (192, 256, 1), (384, 256, 1), (32, 96, 2), (64, 128, 2), (96, 192, 2),
)  # fmt: skip
TRANSFORMERS = ((32, 1), (64, 1), (128, 1), (32, 2), (96, 2))  # hidden_size, num_hidden_layers
BAGS = ((16, 0), (32, 0), (64, 0), (64, 128), (128, 0), (256, 128))  # embedding_size, hidden_size
IMAGES = {  # width, num_stages, layers or blocks per stage
    "image_convolution": (
        (4, 2, 1), (4, 3, 1), (8, 2, 1), (8, 3, 1), (8, 4, 1), (12, 3, 1), (12, 4, 1), (16, 2, 1), (16, 3, 1),
        (16, 4, 1), (24, 3, 1), (24, 4, 1), (8, 3, 2), (12, 3, 2), (16, 3, 2),
    ),
    "depthwise_convolution": ((16, 3, 1),),
    "residual_convolution": ((8, 3, 1), (12, 3, 1)),
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """One data set as a project of its own, and the students of its grid."""

    name: str
    run: pipeline.Run
    specs: tuple[StudentSpec, ...]


class GridStudent(Noun):
    """seconds: of the processor. It is one thread, so that they are those of a clock where nothing else runs."""

    student: Student
    seconds: float


def open_data(name: str, seed: int, work: Path) -> Data:
    """One training thread, so that the cache holds whatever cores a later run is allowed."""
    path = work / f"{name}-{seed}.yaml"
    write_text(path, _text_project(seed) if name == "banking77" else _image_project(seed, work))
    run = pipeline.open_run(path, work / f"{name}-{seed}")
    run.__dict__["training_threads"] = 1
    specs = text_specs(run) if name == "banking77" else image_specs()
    return Data(name, run, tuple(specs))


def _text_project(seed: int) -> str:
    shared = shared_folder()
    return f"""name: banking77
task: text_classification
teachers:
  - model: {shared}/models/banking77-teacher
    trained_on: [train]
    licence: {{distillation: allowed, source: "fine-tuned from all-MiniLM-L6-v2 (Apache-2.0) on CC BY 4.0 data"}}
data:
  train: {{path: "{shared}/data/banking77/train.csv", input: text, label: category}}
  test: {{path: "{shared}/data/banking77/test.csv", input: text, label: category}}
  unlabelled:
    - {{path: "{shared}/data/clinc150/data_full.json#train", input: text}}
    - {{path: "{shared}/data/clinc150/data_full.json#val", input: text}}
targets: [local-cpu]
prefer: quality
training: {TEXT_TRAINING}
seed: {seed}
"""


def _image_project(seed: int, work: Path) -> str:
    cut_cifar(work)
    spec = "{backbone: image_convolution, channels: 3, width: 24, num_stages: 3, layers_per_stage: 2}"
    return f"""name: cifar10
task: image_classification
teachers:
  - fit: {{spec: {spec}, epochs: 4, learning_rate: 0.003, seed: {seed}}}
    licence: {{distillation: allowed, source: "trained here"}}
data:
  train: {{path: cifar10-train.parquet, input: image, label: label}}
  test: {{path: cifar10-test.parquet, input: image, label: label}}
targets: [local-cpu]
prefer: quality
training: {IMAGE_TRAINING}
seed: {seed}
"""


def cut_cifar(work: Path) -> None:
    """Random rows of CIFAR-10's train and test files, the same whatever the seed, beside the project."""
    import numpy as np
    import pyarrow.parquet as pq

    for part, count in (("train", CIFAR_TRAIN_ROWS), ("test", CIFAR_TEST_ROWS)):
        path = work / f"cifar10-{part}.parquet"
        if not path.is_file():
            table = pq.read_table(shared_folder() / "data/cifar10" / f"{part}.parquet", columns=["image", "label"])
            rows = np.sort(np.random.default_rng(0).permutation(len(table))[:count])  # the files are sorted by class
            with replacing(path) as temporary:
                pq.write_table(table.take(rows), temporary)


def text_specs(run: pipeline.Run) -> list[StudentSpec]:
    """The whole vocabulary; the smallest of each backbone with the smallest vocabulary too."""
    sizes = run.task.vocab_sizes(run.dataset.train.inputs, run.teacher_tokenizer)
    small = [_convolution(sizes[-1], *CONVOLUTIONS[0]), _transformer(sizes[-1], *TRANSFORMERS[0])]
    found = [
        *(_convolution(sizes[0], *c) for c in CONVOLUTIONS),
        *(_transformer(sizes[0], *t) for t in TRANSFORMERS),
        *(_bag(sizes[0], *b) for b in BAGS),
        *small,
        _bag(sizes[-1], *BAGS[0]),
    ]
    return [parse_spec(fields) for fields in found]


def _convolution(vocab_size: int, embedding_size: int, hidden_size: int, layers: int) -> dict[str, Any]:
    sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "num_hidden_layers": layers}
    return {"backbone": "convolution", "vocab_size": vocab_size, **sizes}


def _transformer(vocab_size: int, hidden_size: int, layers: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "intermediate_size": 4 * hidden_size}
    heads = {"num_attention_heads": max(hidden_size // 32, 1), "max_length": 64}
    return {"backbone": "transformer", "vocab_size": vocab_size, **sizes, **heads}


def _bag(vocab_size: int, embedding_size: int, hidden_size: int) -> dict[str, Any]:
    sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size}
    return {"backbone": "bag", "vocab_size": vocab_size, **sizes}


def image_specs() -> list[StudentSpec]:
    found = []
    for backbone, all_sizes in IMAGES.items():
        depth = "blocks_per_stage" if backbone == "residual_convolution" else "layers_per_stage"
        for width, num_stages, per_stage in all_sizes:
            sizes = {"width": width, "num_stages": num_stages, depth: per_stage}
            found.append(parse_spec({"backbone": backbone, "channels": 3, **sizes}))
    return found


def train_one(data: Data, spec: StudentSpec) -> tuple[GridStudent, Path]:
    """One student of the grid on the full schedule, cached. Measured: encoding, training and export."""
    run = data.run
    inputs = [spec, run.recipe, run.dataset.sha256]

    def make(folder: Path, key: str) -> GridStudent:
        prepared, labels, bf16 = run.prepared(spec), run.labels(), run.bf16(spec)
        embedding, judged = run.embedding(prepared), run.judged
        started = time.process_time()
        metric, recipe = run.project.metric, run.recipe
        curriculum = Curriculum(prepared, run.rows, labels, judged, run.task, metric, recipe, embedding, bf16)
        student = distil.distil(spec, curriculum, folder, None)
        seconds = time.process_time() - started
        (folder / distil.CHECKPOINT).unlink(missing_ok=True)
        return GridStudent(student=student, seconds=round(seconds, 3))

    made = run.workspace.stage("grid", GRID_VERSION, inputs, GridStudent, make)
    return made, run.workspace.folder_of("grid", GRID_VERSION, inputs)


def climb(data: Data) -> Ladder:
    """On the students of the grid, without a look at what their full training gave."""
    run = data.run

    def make(folder: Path, key: str) -> Ladder:
        schooling = climbing.Schooling(
            prepared_of=run.prepared,
            embedding_of=run.embedding,
            bf16_of=run.bf16,
            rows=run.rows,
            labels=run.labels(),
            dataset=run.judged,
            task=run.task,
            metric=run.project.metric,
            recipe=run.recipe,
        )
        return climbing.ladder(
            data.specs,
            run.sizes.shape,
            schooling,
            teacher_dev_quality(run),
            LADDER_BUDGET_S,
            folder,
            None,
            time.process_time,
        )

    inputs = [data.specs, run.recipe, run.dataset.sha256, LADDER_BUDGET_S]
    return run.workspace.stage("ladder", climbing.VERSION, inputs, Ladder, make)


def teacher_dev_quality(run: pipeline.Run) -> float | None:
    if run.teachers.seen_dev:
        return None
    return quality_on_dev(run.teacher_predictions.dev, run.judged, run.project.metric)


class Sized(Noun):
    """A student of the grid, trained in full and bundled."""

    spec: dict[str, Any]
    num_params: int
    bytes: int
    bundle: str
    bundle_sha256: str
    seconds: float
    dev: float
    test: float


def sized(data: Data, number: int) -> Sized:
    run, spec = data.run, data.specs[number]
    made, folder = train_one(data, spec)
    target = grid_target(run, f"student-{number:02d}")
    choice, engines_folder = run.choice(target, made.student, folder)
    bundle = run.bundled(target, made.student, folder, choice, engines_folder)

    def make(own: Path, key: str) -> Sized:
        test = run.judged.test
        assert test.labels is not None
        logits = bench.bundle_logits(Path(bundle.path), test.inputs)
        return Sized(
            spec=spec.model_dump(),
            num_params=made.student.num_params,
            bytes=bundle.bytes_loaded,
            bundle=bundle.path,
            bundle_sha256=bundle.sha256,
            seconds=made.seconds,
            dev=made.student.dev_quality[-1],
            test=score(run.project.metric, logits, test.labels, run.judged.classes),
        )

    return run.workspace.stage("sized", GRID_VERSION, [bundle.sha256, made.seconds], Sized, make)


def grid_target(run: pipeline.Run, name: str, **changes: Any) -> Target:
    """This machine, one runtime and precision: the choice is of the student alone."""
    local = next(iter(run.loaded.targets.values()))
    fixed = {"id": name, "runtimes": ("onnxruntime",), "precisions": ("fp32",)}
    return local.model_copy(update=fixed | changes)


class Timings(Noun):
    """Measured, raw request to answer, one thread: of each student of the grid."""

    p50_ms: tuple[float, ...]
    p95_ms: tuple[float, ...]
    n: int
    spread: float  # of the passes: largest over least p95, minus one, of the median student


def timings(data: Data, grid: Sequence[Sized]) -> Timings:
    """The median over the passes."""
    run = data.run
    inputs = run.dataset.test.inputs
    requests = inputs[:: max(1, len(inputs) // TIMED_REQUESTS)]

    def make(folder: Path, key: str) -> Timings:
        import numpy as np

        predictors = [load_predictor(Path(s.bundle)) for s in grid]
        found = np.empty((PASSES, len(grid), 2))
        for turn in range(PASSES):
            for i in np.random.default_rng(turn).permutation(len(grid)):
                found[turn, i] = _p50_and_p95_ms(predictors[i].predict, requests, run.environment.id)
        p50_ms, p95_ms = np.median(found, axis=0).T
        spread = float(np.median(found[:, :, 1].max(0) / found[:, :, 1].min(0)) - 1)
        return Timings(p50_ms=tuple(p50_ms.tolist()), p95_ms=tuple(p95_ms.tolist()), n=TIMED_SAMPLES, spread=spread)

    bundles = [s.bundle_sha256 for s in grid]
    return run.workspace.stage("timings", GRID_VERSION, [bundles, run.machine_measured], Timings, make)


def _p50_and_p95_ms(
    predict: Callable[[Raw], object], requests: Sequence[Raw], environment_id: str
) -> tuple[float, float]:
    """Alone in its process for a while, as in production: in turn with others its data would be out of the caches."""
    timed = interleave(
        {"end to end": lambda i: predict(requests[i])},
        len(requests),
        min_samples=TIMED_SAMPLES,
        max_seconds=TIMED_SECONDS,
    ).latency("end to end", environment_id)
    assert timed.p95_ms is not None
    return timed.p50_ms, timed.p95_ms


def speed(run: pipeline.Run) -> LocalSpeed:
    """What `profiles calibrate` has stored of this machine, else taken now; no student of the grid is in it."""
    cells: list[tuple[str, Precision]] = [("onnxruntime", "fp32")]
    arguments = (cells, run.dataset, run.task, run.teacher_tokenizer, run.environment, CALIBRATION_SECONDS)
    inputs = [run.machine_measured, run.dataset.sha256, cells, CALIBRATION_SECONDS]
    return run.workspace.stage(
        "calibrate", calibrate.VERSION, inputs, LocalSpeed, lambda folder, key: calibrate.calibrate(*arguments)
    )


@dataclass(frozen=True)
class Question:
    limit_ms: float
    max_bytes: int


def questions(p95_ms: Sequence[float], sizes: Sequence[int], count: int) -> list[Question]:
    """From tight to loose, each limit on a geometric scale from the grid's least to its most: in turn the latency and
    the bytes are the tighter one."""
    found = []
    for number in range(count):
        level = number / (count - 1)
        looser = min(1.0, level + 0.25)
        tight_ms, loose_ms = (_between(TIGHTEST * min(p95_ms), max(p95_ms), x) for x in (level, looser))
        tight_bytes, loose_bytes = (_between(TIGHTEST * min(sizes), max(sizes), x) for x in (level, looser))
        latency_binds = number % 2 == 0
        found.append(
            Question(
                limit_ms=tight_ms if latency_binds else loose_ms,
                max_bytes=int(loose_bytes if latency_binds else tight_bytes),
            )
        )
    return found


def _between(low: float, high: float, share: float) -> float:
    return float(low * (high / low) ** share)


def chosen(data: Data, asked: Sequence[Question], ladder: Ladder | None, measured: LocalSpeed) -> list[int]:
    """The planner's answers: indices into the grid, which is all the search space here."""
    run = data.run
    targets = [
        grid_target(
            run, f"objective-{number}", objective=Objective(percentile=95, limit_ms=q.limit_ms),
            limits=Limits(artifact_bytes=q.max_bytes),
        )
        for number, q in enumerate(asked)
    ]  # fmt: skip
    places = [planning.Where(t, run.local, measured) for t in targets]
    plan = planning.plan(run.project, run.sizes, run.recipe, places, 1.0, ladder=ladder, specs=data.specs, best=True)
    known = [spec.model_dump() for spec in data.specs]
    return [known.index(plan.for_target(t.id).chosen.spec) for t in targets]


def answer_row(
    question: Question, choice: int, grid: Sequence[Sized], timed: Timings, ladder: Ladder
) -> dict[str, Any]:
    """One objective: what was chosen from predictions, against what was there, as measured. The best feasible of the
    grid is chosen on dev, as a user who had trained all of it would."""
    picked = grid[choice]
    feasible = [
        i
        for i, student in enumerate(grid)
        if timed.p95_ms[i] <= question.limit_ms and student.bytes <= question.max_bytes
    ]
    best = max(feasible, key=lambda i: (grid[i].dev, -timed.p95_ms[i]))
    p95_ms = timed.p95_ms[choice]
    best_dev = max(s.dev for s in grid)
    return {
        "limit_ms": question.limit_ms,
        "max_bytes": question.max_bytes,
        "feasible": len(feasible),
        "chosen": picked.spec,
        "num_params": picked.num_params,
        "p95_ms": p95_ms,
        "bytes": picked.bytes,
        "over_limit": max(p95_ms / question.limit_ms, picked.bytes / question.max_bytes) - 1,
        "use": max(p95_ms / question.limit_ms, picked.bytes / question.max_bytes),
        "at_ceiling": best_dev - picked.dev <= noise_of_a_difference(best_dev, ladder.dev_rows),
        "dev": picked.dev,
        "test": picked.test,
        "best": grid[best].spec,
        "best_dev": grid[best].dev,
        "best_test": grid[best].test,
        "regret": grid[best].test - picked.test,
        "cost_share": (ladder.seconds + picked.seconds) / sum(s.seconds for s in grid),
    }


def noise_of_a_difference(quality: float, rows: int) -> float:
    """One standard error of a share on so many rows: what is nearer to the best than this is at the ceiling."""
    return float((quality * (1 - quality) / rows) ** 0.5)


def figures_of(
    data: Data, grid: Sequence[Sized], timed: Timings, ladder: Ladder, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    from statistics import mean, median

    grid_s = sum(s.seconds for s in grid)
    students = {str(r["chosen"]): r["num_params"] for r in rows}
    trained_s = sum(s.seconds for s in grid if str(s.spec) in students)
    uses = [r["use"] for r in rows if not r["at_ceiling"]]
    return {
        "data": data.name,
        "students": len(grid),
        "longest_training_s": max(s.seconds for s in grid),
        "grid_s": grid_s,
        "ladder_s": ladder.seconds,
        "ladder_trainings": len(ladder.rungs),
        "timing_spread": timed.spread,
        "met": sum(r["over_limit"] <= 0 for r in rows) / len(rows),
        "worst_over_limit": max(0.0, *(r["over_limit"] for r in rows)),
        "median_use": median(uses) if uses else 1.0,
        "at_ceiling": sum(r["at_ceiling"] for r in rows),
        "regret_mean": mean(max(0.0, r["regret"]) for r in rows),
        "regret_mean_signed": mean(r["regret"] for r in rows),
        "regret_worst": max(r["regret"] for r in rows),
        "cost_share_worst": max(r["cost_share"] for r in rows),
        "cost_share_all_objectives": (ladder.seconds + trained_s) / grid_s,
        "objectives": list(rows),
        "grid": [
            s.model_dump(exclude={"bundle", "bundle_sha256"}) | {"p50_ms": p50_ms, "p95_ms": p95_ms}
            for s, p50_ms, p95_ms in zip(grid, timed.p50_ms, timed.p95_ms, strict=True)
        ],
        "rungs": [r.model_dump() for r in ladder.rungs],
    }


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    name = figures["data"]
    floors = [
        ("objectives met", figures["met"], MET_FLOOR / OBJECTIVES),
        ("median use of the objective", figures["median_use"], USE_FLOOR),
    ]
    ceilings = [
        ("worst over its limit", figures["worst_over_limit"], MISS_CEILING),
        ("mean regret of accuracy", figures["regret_mean"], REGRET_MEAN_CEILING),
        ("worst regret of accuracy", figures["regret_worst"], REGRET_WORST_CEILING),
        ("ladder and chosen over grid", figures["cost_share_worst"], COST_CEILING),
    ]
    return [
        *({"name": f"{name} {n}", "value": v, "floor": f, "passed": v >= f} for n, v, f in floors),
        *({"name": f"{name} {n}", "value": v, "ceiling": c, "passed": v <= c} for n, v, c in ceilings),
    ]


def baselines(
    data: Data, asked: Sequence[Question], grid: Sequence[Sized], timed: Timings, ladder: Ladder, measured: LocalSpeed
) -> dict[str, Any]:
    """Regret of simpler ways: no ladder, and the most parameters that meet the limits as measured."""
    most = []
    for question in asked:
        feasible = [
            i for i, s in enumerate(grid) if timed.p95_ms[i] <= question.limit_ms and s.bytes <= question.max_bytes
        ]
        most.append(max(feasible, key=lambda i: grid[i].num_params))
    ways = {"shipped prior, no ladder": chosen(data, asked, None, measured), "most parameters": most}
    return {
        way: _regrets([answer_row(q, c, grid, timed, ladder) for q, c in zip(asked, choices, strict=True)])
        for way, choices in ways.items()
    }


def _regrets(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    regrets = [max(0.0, r["regret"]) for r in rows]
    return {"regret_mean": sum(regrets) / len(regrets), "regret_worst": max(regrets)}


def one_set(name: str, seed: int, quick: bool, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, baselines)."""
    data = open_data(name, seed, work)
    if quick:
        data = replace(data, specs=data.specs[::3])
    ladder = climb(data)
    grid = [sized(data, number) for number in range(len(data.specs))]
    timed, measured = timings(data, grid), speed(data.run)
    asked = questions(timed.p95_ms, [s.bytes for s in grid], OBJECTIVES)
    choices = chosen(data, asked, ladder, measured)
    rows = [answer_row(q, c, grid, timed, ladder) for q, c in zip(asked, choices, strict=True)]
    return figures_of(data, grid, timed, ladder, rows), baselines(data, asked, grid, timed, ladder, measured)


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['data']}: {figures['students']} students, longest training {figures['longest_training_s']:.0f} s, "
        f"grid {figures['grid_s']:.0f} s, ladder {figures['ladder_s']:.0f} s (measured)",
        " limit p95 ms      bytes  chosen params  p95 ms measured   use  ceiling  accuracy  best    regret  cost share",
    ]
    lines += [
        f"{r['limit_ms']:13.4f} {r['max_bytes']:10,}  {r['num_params']:13,}  {r['p95_ms']:15.4f}  {r['use']:.2f}"
        f"  {'yes' if r['at_ceiling'] else 'no':7s}  {r['test']:.4f}    {r['best_test']:.4f}  {r['regret']:+.4f}"
        f"  {r['cost_share']:.2f}"
        for r in figures["objectives"]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SETS, help="one data set")
    parser.add_argument("--quick", action="store_true", help="a third of the students")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/sizing"))
    arguments = parser.parse_args()
    figures, simpler = {}, {}
    for name in [arguments.only] if arguments.only else SETS:
        figures[name], simpler[name] = one_set(name, arguments.seed, arguments.quick, arguments.work)
        print(table(figures[name]), file=sys.stderr, flush=True)
    document = document_of(figures, simpler)
    if not arguments.quick:
        write_result("sizing", document_of(*with_other_sets(figures, simpler)))
    json.dump(document, sys.stdout, indent=1)
    return 0 if all(bar["passed"] for bar in document["bars"]) else 1


def document_of(figures: dict[str, Any], simpler: dict[str, Any]) -> dict[str, Any]:
    found = [bar for name in sorted(figures) for bar in bars(figures[name])]
    return {"figures": figures, "baselines": simpler, "bars": found, "environment": environment()}


def with_other_sets(figures: dict[str, Any], simpler: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Beside these, what the committed result holds of other data sets: `--only` replaces one."""
    path = FOLDER / "sizing.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"figures": {}, "baselines": {}}
    return kept["figures"] | figures, kept["baselines"] | simpler


if __name__ == "__main__":
    sys.exit(main())
