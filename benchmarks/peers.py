"""Ours beside what one would use instead, on Banking77 and CLINC150 (in scope): `python -m benchmarks.peers`.

Everyone reads the same training rows, chooses on the same dev rows, is asked the test rows once, and answers raw text
with a label on one thread, one text at a time. Calls are timed in each peer's own process, in interleaved blocks.
Peers live in environments of their own (.benchmarks/venvs, made on first use), their models in --work: a killed
benchmark goes on with the next peer. Ours are the bundles of benchmarks.quality. Reads ../shared, or $KDEXPORT_DATA."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks._peers import environments
from benchmarks._peers.worker import TRAINED, Rows, Task, write_task
from benchmarks._results import FOLDER, environment, write_result
from benchmarks._sets import EXAMPLES, SETS, prepare_environment
from kdexport import pipeline
from kdexport.measure.environment import detect
from kdexport.measure.statistics import mcnemar_p, wilson
from kdexport.measure.timer import Timings
from kdexport.nouns.measurement import Latency
from kdexport.storage.files import content_key, read_json, sha256_file, write_json

DATA = ("banking77", "clinc150")
RATIOS = (300, 100, 30, 12)  # ours: the teacher's parameters over the student's
BETTER_IN_BOTH_CEILING = 0  # a peer that is faster and more accurate than all of ours leaves no reason to use ours
LEAST_CALLS = 2_000  # of each; a median of so many is known to about 1 %
BLOCK_CALLS = 20  # in a row of one process, before the next has its turn
WARM_CALLS = 200
QUICK_CALLS = 400


@dataclass(frozen=True)
class Peer:
    """module: of benchmarks/_peers, trained in `environment`. served_by: the module that answers, where that is
    another one, in kdexport's environment: what was trained is exported for it."""

    name: str
    module: str
    environment: str
    served_by: str = ""


PEERS = (
    Peer("TF-IDF + logistic regression", "tfidf", environments.OWN),
    Peer("fastText", "fast_text", "fasttext"),
    Peer("Model2Vec from the same teacher", "static_embeddings", "embeddings"),
    Peer("3-layer MiniLM, fine-tuned", "short_minilm", environments.OWN, served_by="onnx_classifier"),
    Peer("3-layer BERT, Trainer distillation", "trainer_distillation", "trainer", served_by="onnx_classifier"),
)


@dataclass(frozen=True)
class Contestant:
    """A model that can answer. folder: all that is loaded to do so. kind: "ours", "peer" or "teacher"."""

    name: str
    kind: str
    module: str
    environment: str
    folder: Path
    answers: Path
    training_s: float | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """What dominance is decided by. accuracy: share, 0 to 1; p50_us: raw text to label."""

    name: str
    accuracy: float
    p50_us: float


@dataclass(frozen=True)
class Undominated:
    """A peer that none of ours equals in both. latency_gap_us: by how much it is faster than the fastest of ours that
    are as accurate; accuracy_gap: by how much it is more accurate than the best of ours that are as fast. None: none
    of ours is as accurate, or as fast."""

    name: str
    latency_gap_us: float | None
    beaten_in_latency: str | None
    accuracy_gap: float | None
    beaten_in_accuracy: str | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=DATA, help="one data set")
    parser.add_argument(
        "--quick", action="store_true", help="one size of ours, one setting of each peer, short training"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/peers"))
    parser.add_argument(
        "--runs", type=Path, default=Path(".benchmarks/quality"), help="run folders that hold the teachers"
    )
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for data in [arguments.only] if arguments.only else DATA:
        work = arguments.work / ("quick" if arguments.quick else "full") / data
        rows += measure(data, work, arguments.runs / data, arguments.quick, arguments.seed)
    document = document_of(rows)
    if not arguments.quick:
        document = document_of([*_other_rows(rows), *rows])
        write_result("peers", document)
    json.dump(document, sys.stdout, indent=1)
    return 0 if all(bar["passed"] for bar in document["bars"]) else 1


def measure(data: str, work: Path, run_folder: Path, quick: bool, seed: int) -> list[dict[str, Any]]:
    """One row of figures for each contestant, in the order of the table."""
    work.mkdir(parents=True, exist_ok=True)
    task, test = task_and_test(data, run_folder)
    write_task(work / "task.json", task)
    contestants = [teacher_of(task, work)]
    contestants += [trained(peer, task, work, quick, seed) for peer in PEERS]
    contestants += [ours(data, ratio, seed, work) for ratio in (RATIOS[2:3] if quick else RATIOS)]
    right = {c.name: correct(c, task, test) for c in contestants}
    timings = time_all(contestants, test.texts, task.dev.texts, QUICK_CALLS if quick else LEAST_CALLS)
    here = detect(1).id
    rows = [row_of(data, c, right[c.name], timings.latency(c.name, here)) for c in contestants]
    for row in rows:
        print(table_line(row), file=sys.stderr, flush=True)
    for gap in undominated(*_points(rows)):
        print(f"  undominated: {told(gap)}", file=sys.stderr, flush=True)
    _add_chance(rows, right)
    return rows


# --- who takes part


def task_and_test(data: str, run_folder: Path) -> tuple[Task, Rows]:
    """The example's rows and its teacher: fitted here where the project says so and the run folder has none yet."""
    prepare_environment()
    run = pipeline.open_run(EXAMPLES / SETS[data].example, run_folder)
    with run.workspace.locked():
        dataset = run.dataset
        teacher = (
            run.project.teachers[0].model or (run.teach_folder / str(run.teachers.members[0].graph)).parent / "fitted"
        )
    splits = []
    for split in (dataset.train, dataset.dev, dataset.test):
        assert split.labels is not None
        splits.append(Rows([str(text) for text in split.inputs], split.labels.tolist()))
    base = Path(os.environ["KDEXPORT_MINILM"])
    return Task(list(dataset.classes), splits[0], splits[1], teacher.resolve(), base), splits[2]


def teacher_of(task: Task, work: Path) -> Contestant:
    """The teacher in the reference form: fp32, fused, ONNX Runtime."""
    from benchmarks._peers import onnx_classifier

    folder = work / f"teacher-{sha256_file(task.teacher / 'model.safetensors')[:12]}"
    if not folder.is_dir():
        onnx_classifier.export(task.teacher, folder)
    answers = work / f"{folder.name}.answers.json"
    return Contestant("teacher", "teacher", "onnx_classifier", environments.OWN, folder, answers, None, {})


def ours(data: str, ratio: int, seed: int, work: Path) -> Contestant:
    from benchmarks.quality import student_bundle

    found = student_bundle(data, ratio, seed)
    manifest = read_json(found / "manifest.json")
    folder = work / f"ours-{ratio}-{manifest['checksum'][:12]}"
    if not folder.is_dir():  # a copy: one folder of the run serves all sizes in turn
        scratch = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(found, scratch)
        scratch.rename(folder)
    lineage = manifest["lineage"]
    facts = {
        "spec": lineage["spec"],
        "engine": f"{manifest['runtime']}/{manifest['precision']}",
        "dev_accuracy": manifest["figures"]["dev_quality"]["value"],
    }
    answers = work / f"{folder.name}.answers.json"
    seconds = _training_s(lineage["weights_sha256"])
    return Contestant(f"kdexport 1/{ratio}", "ours", "bundle", environments.OWN, folder, answers, seconds, facts)


def _training_s(weights_sha256: str) -> float | None:
    """Of the distil stage that made those weights, labelling left out; None where its run folder is gone."""
    for path in Path(".benchmarks").glob("quality/**/stages/distil-*/result.json"):
        document = read_json(path)
        if document["result"].get("weights_sha256") == weights_sha256:
            return float(document["seconds"])
    return None


def trained(peer: Peer, task: Task, work: Path, quick: bool, seed: int) -> Contestant:
    """The peer's model, trained where it is not there yet."""
    modules = [Path(__file__).parent / "_peers" / f"{name}.py" for name in (peer.module, "layers") if name]
    key = content_key(asdict(task), [path.read_text() for path in modules], quick, seed)[:12]
    folder = work / f"{peer.module}-{key}"
    python = environments.python_of(peer.environment)
    if not (folder / TRAINED).is_file():
        print(f"training: {peer.name}", file=sys.stderr, flush=True)
        command = [str(python), "-m", "benchmarks._peers.worker", "train", peer.module]
        command += [str((work / "task.json").resolve()), str(folder.resolve()), "--seed", str(seed)]
        _call(command + (["--quick"] if quick else []), folder.with_suffix(".log"))
    facts = read_json(folder / TRAINED)
    facts["packages"] = _packages(peer.environment)
    served, module, place = folder, peer.module, peer.environment
    if peer.served_by:
        served, module, place = folder / "served", peer.served_by, environments.OWN
        if not served.is_dir():
            from benchmarks._peers import onnx_classifier

            onnx_classifier.export(folder / "fitted", served)
    answers = work / f"{folder.name}.answers.json"
    return Contestant(peer.name, "peer", module, place, served, answers, facts.pop("training_s"), facts)


def _packages(name: str) -> dict[str, str]:
    wanted = ("torch", "transformers", "accelerate", "model2vec", "sentence-transformers", "setfit", "fasttext-wheel")
    wanted += ("scikit-learn", "numpy", "tokenizers", "onnxruntime")
    return {k: v for k, v in environments.packages_of(name).items() if k in wanted}


def _call(command: Sequence[str], log: Path) -> None:
    """What the peer says goes to `log`. Raises SystemExit with its end where the peer fails."""
    with open(log, "w") as f:
        done = subprocess.run(
            command, cwd=environments.REPOSITORY, env=environments.variables(), stdout=f, stderr=f,
            preexec_fn=environments.pin,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{log}: a training ended with {done.returncode}: {log.read_text()[-2000:]}")


# --- what they answer, and how fast


class Worker:
    """A contestant's process. log: where its stderr goes."""

    def __init__(self, process: subprocess.Popen[str], log: str) -> None:
        self._process = process
        self._log = log
        self._read()  # "ready"

    def labels(self, texts: Sequence[str]) -> list[str]:
        return list(self._ask({"texts": list(texts)})["labels"])

    def timed_ns(self, texts: Sequence[str]) -> list[int]:
        return list(self._ask({"texts": list(texts), "timed": True})["ns"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._log}: its process ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def working(contestant: Contestant) -> Iterator[Worker]:
    command = [str(environments.python_of(contestant.environment)), "-m", "benchmarks._peers.worker", "serve"]
    command += [contestant.module, str(contestant.folder.resolve())]
    log = contestant.answers.with_suffix(".log")
    with open(log, "w") as said, subprocess.Popen(
        command, cwd=environments.REPOSITORY, env=environments.variables(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=said, text=True, preexec_fn=environments.pin,
    ) as process:  # fmt: skip
        try:
            yield Worker(process, str(log))
        finally:
            assert process.stdin is not None
            process.stdin.close()


def correct(contestant: Contestant, task: Task, test: Rows) -> list[bool]:
    """Of each test row. A model is asked once: its answers are kept beside it."""
    if not contestant.answers.is_file():
        with working(contestant) as worker:
            write_json(contestant.answers, {"labels": worker.labels(test.texts)})
    found = read_json(contestant.answers)["labels"]
    return [label == task.classes[wanted] for label, wanted in zip(found, test.labels, strict=True)]


def time_all(contestants: Sequence[Contestant], texts: Sequence[str], warm: Sequence[str], calls: int) -> Timings:
    """Blocks of one contestant, then of the next, in processes that have not seen the texts before."""
    with ExitStack() as stack:
        workers = {c.name: stack.enter_context(working(c)) for c in contestants}
        for worker in workers.values():
            worker.timed_ns(warm[:WARM_CALLS])
        return interleaved({name: worker.timed_ns for name, worker in workers.items()}, texts, calls)


def interleaved(
    timed_ns: Mapping[str, Callable[[Sequence[str]], list[int]]], texts: Sequence[str], calls: int
) -> Timings:
    """At least so many calls of each, all of the same texts in the same order."""
    import numpy as np

    samples: dict[str, list[list[float]]] = {name: [] for name in timed_ns}
    for first in range(0, calls, BLOCK_CALLS):
        block = [texts[i % len(texts)] for i in range(first, first + BLOCK_CALLS)]
        for name, ask in timed_ns.items():
            samples[name].append([ns / 1e6 for ns in ask(block)])
    return Timings({name: np.array(blocks) for name, blocks in samples.items()})


# --- the table


def row_of(data: str, contestant: Contestant, right: Sequence[bool], latency: Latency) -> dict[str, Any]:
    return {
        "data": data,
        "name": contestant.name,
        "kind": contestant.kind,
        "accuracy": sum(right) / len(right),
        "accuracy_ci95": list(wilson(sum(right), len(right))),
        "n": len(right),
        "p50_us": latency.p50_ms * 1e3,
        "p50_us_ci95": [ms * 1e3 for ms in latency.ci95 or ()],
        "p99_us": latency.p99_ms * 1e3 if latency.p99_ms else None,
        "calls": latency.n,
        "bytes": bytes_loaded(contestant.folder),
        "training_s": contestant.training_s,
        **contestant.facts,
    }


def bytes_loaded(folder: Path) -> int:
    """Every file that is read to answer one text: of a bundle model and tokenizer, else all but the training's log."""
    if (folder / "manifest.json").is_file():
        manifest = read_json(folder / "manifest.json")
        names = {manifest["model"], manifest["preprocessor"]["tokenizer"]}
        weights = Path(manifest["model"]).with_suffix(".bin").name  # of an OpenVINO graph
        paths = [folder / name for name in (*names, weights) if (folder / name).is_file()]
    else:
        paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in (TRAINED, "README.md")]
    return sum(path.stat().st_size for path in paths)


def _points(rows: Sequence[dict[str, Any]]) -> tuple[list[Point], list[Point]]:
    """(ours, peers)."""
    found: dict[str, list[Point]] = {"ours": [], "peer": [], "teacher": []}
    for row in rows:
        found[row["kind"]].append(Point(row["name"], row["accuracy"], row["p50_us"]))
    return found["ours"], found["peer"]


def better_than_all(mine: Sequence[Point], peers: Sequence[Point]) -> list[Point]:
    """Peers that are more accurate *and* faster than each of ours."""
    return [p for p in peers if all(p.accuracy > m.accuracy and p.p50_us < m.p50_us for m in mine)]


def undominated(mine: Sequence[Point], peers: Sequence[Point]) -> list[Undominated]:
    """Peers that none of ours equals or beats in both, and by how much they are ahead."""
    found = []
    for peer in peers:
        as_accurate = [m for m in mine if m.accuracy >= peer.accuracy]
        as_fast = [m for m in mine if m.p50_us <= peer.p50_us]
        if any(m in as_fast for m in as_accurate):
            continue
        fastest = min(as_accurate, key=lambda m: m.p50_us, default=None)
        best = max(as_fast, key=lambda m: m.accuracy, default=None)
        found.append(
            Undominated(
                peer.name,
                fastest.p50_us - peer.p50_us if fastest else None,
                fastest.name if fastest else None,
                peer.accuracy - best.accuracy if best else None,
                best.name if best else None,
            )
        )
    return found


def told(gap: Undominated) -> str:
    latency = (
        f"{gap.latency_gap_us:.1f} us faster than {gap.beaten_in_latency}, the fastest of ours that is as accurate"
        if gap.latency_gap_us is not None
        else "none of ours is as accurate"
    )
    accuracy = (
        f"{gap.accuracy_gap * 100:.2f} points above {gap.beaten_in_accuracy}, the best of ours that is as fast"
        if gap.accuracy_gap is not None
        else "none of ours is as fast"
    )
    return f"{gap.name}: {latency}; {accuracy}"


def _add_chance(rows: Sequence[dict[str, Any]], right: Mapping[str, Sequence[bool]]) -> None:
    """To each peer's row: p of its difference to each of ours (McNemar, exact, two-sided), on the same test rows."""
    for row in rows:
        if row["kind"] == "peer":
            names = [r["name"] for r in rows if r["kind"] == "ours"]
            row["mcnemar_p"] = {name: mcnemar_p(right[name], right[row["name"]]) for name in names}


def document_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(rows, key=lambda row: (row["data"], row["p50_us"]))
    gaps: dict[str, list[dict[str, Any]]] = {}
    bars = []
    for data in sorted({row["data"] for row in rows}):
        mine, peers = _points([row for row in ordered if row["data"] == data])
        better = better_than_all(mine, peers)
        gaps[data] = [asdict(gap) for gap in undominated(mine, peers)]
        bars.append(_ceiling(f"{data}: peers better in accuracy and latency than all of ours", len(better)))
    figures = {"rows": ordered, "undominated": gaps}
    return {"figures": figures, "baselines": {}, "bars": bars, "environment": environment()}


def _ceiling(name: str, value: int) -> dict[str, Any]:
    ceiling = BETTER_IN_BOTH_CEILING
    return {"name": name, "value": value, "ceiling": ceiling, "passed": value <= ceiling}


def _other_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the committed result, the rows of data sets that are not in `rows`: `--only` replaces one set."""
    path = FOLDER / "peers.json"
    found = read_json(path)["figures"]["rows"] if path.is_file() else []
    return [row for row in found if row["data"] not in {r["data"] for r in rows}]


def table_line(row: dict[str, Any]) -> str:
    low, high = row["accuracy_ci95"]
    seconds = f"{row['training_s']:>6.0f} s" if row["training_s"] is not None else "       -"
    return (
        f"{row['data']:10s} {row['name']:36s} accuracy {row['accuracy']:.4f} ({low:.4f}-{high:.4f})  "
        f"p50 {row['p50_us']:>7.1f} us  {row['bytes']:>12,} B  trained in {seconds}"
    )


if __name__ == "__main__":
    sys.exit(main())
