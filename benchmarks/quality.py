"""What students of several sizes keep of their teacher: `python -m benchmarks.quality`.

Each size is planned, distilled and bundled by kdexport itself, three seeds each; the recipe is one and the same for
all sets, chosen on dev rows alone. Teacher, labels and students are cached in --work, so a killed benchmark goes on
where it was. Reads ../shared, or $KDEXPORT_DATA."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks._results import FOLDER, environment, write_result
from benchmarks._sets import SETS, prepare_environment, project_file
from kdexport import pipeline
from kdexport.measure.metrics import expected_calibration_error, retention, score
from kdexport.measure.statistics import bootstrap
from kdexport.nouns.metric import Metric
from kdexport.storage.files import content_key, read_json, replacing

WORK = Path(".benchmarks/quality")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Bar:
    """retention: mean of the seeds, of one teacher's quality; floor and aim. As asked of this release: a user who can
    take 12 times fewer parameters expects to lose nothing that he could notice."""

    data: str
    ratio: int
    floor: float
    aim: float


BARS = (
    Bar("banking77", 300, 0.96, 0.985),
    Bar("banking77", 100, 0.985, 1.00),
    Bar("banking77", 30, 0.99, 1.005),
    Bar("banking77", 12, 0.995, 1.01),
    Bar("clinc150", 100, 0.96, 0.985),
    Bar("clinc150", 30, 0.975, 0.995),
    Bar("clinc150", 12, 0.985, 1.00),
    Bar("cifar10", 20, 0.97, 0.985),
    Bar("banking77-imbalanced", 30, 0.97, 0.99),
    Bar("banking77-ensemble", 12, 1.0, 1.01),  # of the given single teacher: learnt from three, it is above one
)
TEACHER_FLOORS = {"clinc150": 0.95, "cifar10": 0.90}  # below these, a retention would be of too weak a teacher
UNKNOWN_CEILING = 0.001  # share of pieces: a trimmed vocabulary that hides words would show here first
CALIBRATION_SLACK = 0.01  # a student may be this much worse calibrated than its teacher
MINUTES_CEILING = 150.0  # of all sets and seeds together, on two cores
NOISE = 0.05  # share of characters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(SETS), help="one data set")
    parser.add_argument("--quick", action="store_true", help="one size a set, one seed")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    prepare_environment()
    seeds = (arguments.seed or 0,) if arguments.quick or arguments.seed is not None else SEEDS
    wanted = [bar for bar in BARS if arguments.only in (None, bar.data)]
    if arguments.quick:
        wanted = list({bar.data: bar for bar in wanted}.values())
    rows = []
    for bar in wanted:
        for seed in seeds:
            rows.append(run_size(bar.data, bar.ratio, seed, arguments.work))
            print(table_line(rows[-1]), file=sys.stderr, flush=True)
    if arguments.only and not arguments.quick and arguments.seed is None:
        rows = [*other_rows(arguments.only), *rows]
    document = document_of(rows)
    for line in document["figures"]["sizes"]:
        print(size_line(line), file=sys.stderr)
    if not arguments.quick and arguments.seed is None:
        write_result("quality", document)
    json.dump(document, sys.stdout, indent=1)
    return 0 if all(bar["passed"] for bar in document["bars"]) else 1


def other_rows(data: str) -> list[dict[str, Any]]:
    """Of the committed result, the rows of the other data sets: `--only` replaces one."""
    path = FOLDER / "quality.json"
    found = read_json(path)["figures"]["rows"] if path.is_file() else []
    return [row for row in found if row["data"] != data]


# --- one student


@cache
def opened(data: str, ratio: int, seed: int, work: Path) -> pipeline.Run:
    run = pipeline.open_run(project_file(SETS[data], ratio, seed, work), work / data)
    run.quality_from = "prior"
    return run


def student_bundle(data: str, ratio: int, seed: int, work: Path = WORK) -> Path:
    """The bundle of one student, made where it is not there yet. One folder serves all sizes: ask again before use."""
    run = opened(data, ratio, seed, work)
    with run.workspace.locked():
        return Path(run.made(next(iter(run.loaded.targets.values())))[2].path)


def run_size(data: str, ratio: int, seed: int, work: Path) -> dict[str, Any]:
    run = opened(data, ratio, seed, work)
    target = next(iter(run.loaded.targets.values()))
    with run.workspace.locked():
        student, choice, made = run.made(target)
        quality = run.quality(target, made, choice)
        predictions = run.student_predictions(target, made, choice)
        timed = run.target_bench(target) if seed == SEEDS[0] else None
        noisy = _noisy(run, made.sha256, Path(made.path), work / data)
    labels, metric = run.dataset.test.labels, run.project.metric
    assert labels is not None
    teacher = run.teacher_predictions.test
    seconds = run.workspace.seconds
    row = {
        "data": data,
        "ratio_wanted": ratio,
        "seed": seed,
        "commit": commit(),
        "metric": metric.name,
        "n": len(labels),
        "params": student.num_params,
        "params_without_embeddings": student.num_params_without_embeddings,
        "params_ratio": _teacher_params(run, data) / student.num_params,
        "student_bytes": made.bytes_loaded,
        "spec": student.spec,
        "engine": f"{choice.runtime}/{choice.precision}",
        "quality": score(metric, predictions.test, labels, run.dataset.classes, choice.threshold),
        "teacher_quality": quality.teacher.value,
        "retention": quality.retention.value,
        "retention_ci95": quality.retention.ci95,
        "right": _packed(predictions.test, labels),
        "teacher_right": _packed(teacher, labels),
        "calibration_error": expected_calibration_error(predictions.test, labels),
        "teacher_calibration_error": expected_calibration_error(teacher, labels),
        "dev_quality": student.dev_quality,
        "recipe": student.recipe.model_dump(),
        "seconds": own_seconds(seconds),
        "shared_seconds": shared_seconds(seconds),
        **noisy,
    }
    if timed is not None and timed.teacher is not None and timed.student is not None:
        row |= {
            "p50_us": timed.student.end_to_end.p50_ms * 1e3,
            "teacher_p50_us": timed.teacher.end_to_end.p50_ms * 1e3,
            "speedup": timed.speedup.value if timed.speedup else None,
        }
    return row


def own_seconds(stages: Mapping[str, float]) -> dict[str, float]:
    """Of one student. What runs inside others is left out: `quantise` in the engines', most of `quality` in the
    teacher's predictions."""
    own = ("distil", "tune", "plan", "engines-", "bundle-", "bench-", "predict-student-")
    return {name: round(seconds, 1) for name, seconds in stages.items() if name.startswith(own)}


def shared_seconds(stages: Mapping[str, float]) -> dict[str, float]:
    """Of all students of a set."""
    shared = ("teach", "label", "ensemble", "answers-", "predict-teacher", "quantise-teacher", "calibrate")
    return {name: round(seconds, 1) for name, seconds in stages.items() if name.startswith(shared)}


def _teacher_params(run: pipeline.Run, data: str) -> int:
    """Of one teacher; of an ensemble's first member."""
    return SETS[data].teacher_params or run.teachers.members[0].num_params or 0


def _packed(logits: np.ndarray, labels: np.ndarray) -> str:
    """Which rows are right, a hexadecimal digit for four: the paired interval of a mean over seeds needs them."""
    return np.packbits(logits.argmax(1) == labels).tobytes().hex()


def _unpacked(text: str, n: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))[:n].astype(np.float64)


def _noisy(run: pipeline.Run, sha256: str, bundle: Path, folder: Path) -> dict[str, Any]:
    """Quality of teacher and student where 5 % of the characters are wrong, and the share of unknown pieces."""
    if run.task.input_kind != "text":
        return {}
    from kdexport.stages.bench import bundle_logits

    texts = [str(raw) for raw in run.dataset.test.inputs]
    wrong = [with_typos(text, random.Random(f"{i}")) for i, text in enumerate(texts)]
    labels, metric, classes = run.dataset.test.labels, run.project.metric, run.dataset.classes
    assert labels is not None
    asked = content_key(run.teach_inputs, run.dataset.sha256)[:12]
    teacher = _kept(folder / f"noisy-teacher-{asked}.npy", lambda: run.open_teachers().logits(wrong))
    student = _kept(folder / f"noisy-{sha256[:12]}.npy", lambda: bundle_logits(bundle, wrong))
    return {
        **noisy_figures(metric, teacher, student, labels, classes),
        "unknown_share": unknown_share(bundle / "tokenizer.json", texts),
        "noisy_unknown_share": unknown_share(bundle / "tokenizer.json", wrong),
    }


def noisy_figures(
    metric: Metric, teacher: np.ndarray, student: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """teacher, student: logits (N, C) for the noisy texts."""
    return {
        "noisy_quality": score(metric, student, labels, classes),
        "noisy_teacher_quality": score(metric, teacher, labels, classes),
        "noisy_retention": retention(metric, student, teacher, labels, classes)[0],
    }


def _kept(path: Path, make: Any) -> np.ndarray:
    if not path.is_file():
        with replacing(path) as temporary, open(temporary, "wb") as f:
            np.save(f, make())
    return cast(np.ndarray, np.load(path))


def with_typos(text: str, chance: random.Random) -> str:
    """Each character with probability NOISE replaced by a letter, left out, doubled, or swapped with the next."""
    letters, changed, i = list(text), [], 0
    while i < len(letters):
        kind = chance.randrange(4) if chance.random() < NOISE else None
        if kind == 0:
            changed.append(chance.choice(string.ascii_lowercase))
        elif kind == 2:
            changed += [letters[i], letters[i]]
        elif kind == 3 and i + 1 < len(letters):
            changed += [letters[i + 1], letters[i]]
            i += 1
        elif kind != 1:
            changed.append(letters[i])
        i += 1
    return "".join(changed)


def unknown_share(tokenizer: Path, texts: Sequence[str]) -> float:
    """Of all pieces of the texts, without the marks that each gets, those that the tokenizer does not know."""
    from tokenizers import Tokenizer

    opened_file, model = Tokenizer.from_file(str(tokenizer)), read_json(tokenizer)["model"]
    unknown = model.get("unk_id")  # of Unigram; others name the piece, or know every byte
    if unknown is None:
        unknown = opened_file.token_to_id(model.get("unk_token") or "[UNK]")
    ids = [i for e in opened_file.encode_batch_fast(list(texts), add_special_tokens=False) for i in e.ids]
    return sum(i == unknown for i in ids) / max(1, len(ids))


def commit() -> str:
    """Of the code that was measured; empty outside a checkout."""
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip()


# --- all of them


def document_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    reference = next((r for r in rows if r["data"] == "banking77"), None)
    sizes = [size_of(bar, rows, reference) for bar in BARS if any(_is(bar, row) for row in rows)]
    return {
        "figures": {"sizes": sizes, "rows": rows, "minutes": minutes(rows)},
        "baselines": {},
        "bars": bars(sizes, minutes(rows)),
        "environment": environment(),
    }


def _is(bar: Bar, row: dict[str, Any]) -> bool:
    return (row["data"], row["ratio_wanted"]) == (bar.data, bar.ratio)


def size_of(bar: Bar, rows: list[dict[str, Any]], reference: dict[str, Any] | None) -> dict[str, Any]:
    """Mean and standard deviation over seeds; the interval is of the mean, rows of the test set drawn anew in pairs.
    The reference is a single teacher: for the ensemble's student the one that the other students had."""
    mine = [row for row in rows if _is(bar, row)]
    n = mine[0]["n"]
    single = reference if bar.data == "banking77-ensemble" and reference else mine[0]
    retentions = [row["quality"] / single["teacher_quality"] for row in mine]
    right = np.mean([_unpacked(row["right"], n) for row in mine], axis=0)
    teacher = _unpacked(single["teacher_right"], n)
    mean = statistics.fmean(retentions)
    interval = None
    if mine[0]["metric"] == "accuracy":
        interval = bootstrap(lambda counts: float((counts * right).sum() / (counts * teacher).sum()), n, 0, mean)
    named = ("unknown_share", "noisy_unknown_share", "noisy_quality", "noisy_teacher_quality", "noisy_retention")
    return {
        "data": bar.data,
        "ratio_wanted": bar.ratio,
        "floor": bar.floor,
        "aim": bar.aim,
        "metric": mine[0]["metric"],
        "seeds": [row["seed"] for row in mine],
        "params": mine[0]["params"],
        "params_ratio": min(row["params_ratio"] for row in mine),
        "student_bytes": mine[0]["student_bytes"],
        "quality_mean": statistics.fmean(row["quality"] for row in mine),
        "quality_sd": statistics.stdev(row["quality"] for row in mine) if len(mine) > 1 else None,
        "teacher_quality": single["teacher_quality"],
        "own_teacher_quality": mine[0]["teacher_quality"],
        "retention_mean": mean,
        "retention_sd": statistics.stdev(retentions) if len(mine) > 1 else None,
        "retention_ci95": interval,
        "calibration_error": max(row["calibration_error"] for row in mine),
        "teacher_calibration_error": mine[0]["teacher_calibration_error"],
        "p50_us": mine[0].get("p50_us"),
        "teacher_p50_us": mine[0].get("teacher_p50_us"),
        "speedup": mine[0].get("speedup"),
        "engine": mine[0]["engine"],
        "n": n,
        **{name: statistics.fmean(row[name] for row in mine) for name in named if name in mine[0]},
    }


def minutes(rows: list[dict[str, Any]]) -> float:
    """Of every stage, each counted once: teachers, their labels and answers once a set, all else once a student. The
    answers to noisy texts, which are no stage, are left out."""
    own = sum(sum(row["seconds"].values()) for row in rows)
    shared = {row["data"]: row["shared_seconds"] for row in rows}
    return round((own + sum(sum(s.values()) for s in shared.values())) / 60, 1)


def bars(sizes: list[dict[str, Any]], minutes_taken: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def floor(name: str, value: float, least: float) -> None:
        found.append({"name": name, "value": value, "floor": least, "passed": value >= least})

    def ceiling(name: str, value: float, most: float) -> None:
        found.append({"name": name, "value": value, "ceiling": most, "passed": value <= most})

    for size in sizes:
        name = f"{size['data']} 1/{size['ratio_wanted']}"
        floor(f"{name} retention", size["retention_mean"], size["floor"])
        floor(f"{name} parameters fewer", size["params_ratio"], size["ratio_wanted"])
        most = size["teacher_calibration_error"] + CALIBRATION_SLACK
        ceiling(f"{name} calibration error", size["calibration_error"], most)
        for key in ("unknown_share", "noisy_unknown_share"):
            if key in size:
                ceiling(f"{name} {key.replace('_', ' ')}", size[key], UNKNOWN_CEILING)
    for data, least in TEACHER_FLOORS.items():
        for size in sizes:
            if size["data"] == data:
                floor(f"{data} teacher", size["own_teacher_quality"], least)
                break
    ceiling("minutes in all", minutes_taken, MINUTES_CEILING)
    return found


def table_line(row: dict[str, Any]) -> str:
    low, high = row["retention_ci95"]
    noisy = f"noisy {row['noisy_quality']:.4f} of {row['noisy_teacher_quality']:.4f}" if "noisy_quality" in row else ""
    return (
        f"{row['data']:21s} 1/{row['params_ratio']:<4.0f} seed {row['seed']} {row['params']:>9,} params  "
        f"{row['metric']} {row['quality']:.4f} of {row['teacher_quality']:.4f}  "
        f"retention {row['retention']:.4f} ({low:.4f}-{high:.4f})  {noisy}  "
        f"ECE {row['calibration_error']:.3f} of {row['teacher_calibration_error']:.3f}  "
        f"{row['engine']}  {row['seconds']['distil']:.0f} s"
    )


def size_line(size: dict[str, Any]) -> str:
    sd = f" ± {size['retention_sd']:.4f}" if size["retention_sd"] is not None else ""
    return (
        f"{size['data']:21s} 1/{size['params_ratio']:<4.0f} retention {size['retention_mean']:.4f}{sd} "
        f"(floor {size['floor']}, aim {size['aim']}), teacher {size['teacher_quality']:.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
