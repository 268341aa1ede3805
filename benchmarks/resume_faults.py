"""Kill a run with SIGKILL at every stage, in training and during a checkpoint write; resume; compare the weights.

An undisturbed run makes the decisions; the killed run starts from a copy of its decision files, as promised in
docs: same decisions, thread count and ISA give the same bits. Bars: weights identical; no finished stage redone."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks._results import environment, write_result
from kdexport.demo import write_demo
from kdexport.storage.files import sha256_file

# (stage in the log, seconds to wait after its start): short waits, since the stages are short
KILLS = (("plan", 0.3), ("label", 0.8), ("engines", 0.2), ("bench", 0.4))
TRAINING_KILLS = 3
TRAINING_WAIT_S = 3.0
STARTED = re.compile(r"stage=(\S+) key=\S+ started")
FINISHED = re.compile(r"stage=(\S+) seconds=\S+ cached=False")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="work here instead of in a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        document = measure(folder)
    write_result("resume_faults", document)
    json.dump(document, sys.stdout, indent=1)
    return 0 if all(bar["passed"] for bar in document["bars"]) else 1


def measure(folder: Path) -> dict[str, object]:
    project = _small_project(folder / "data")
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    _run(project, undisturbed)
    shutil.copytree(undisturbed / "decisions", killed / "decisions")
    kills = []
    for stage, wait_s in KILLS[:2]:
        kills.append(_kill_in(project, killed, _stage_started(killed, stage), wait_s, stage))
    for number in range(TRAINING_KILLS):
        kills.append(
            _kill_in(project, killed, _stage_started(killed, "distil"), TRAINING_WAIT_S, f"training {number + 1}")
        )
    kills.append(_kill_in(project, killed, lambda: _writing_checkpoint(killed), 0.0, "checkpoint write"))
    for stage, wait_s in KILLS[2:]:
        kills.append(_kill_in(project, killed, _stage_started(killed, stage), wait_s, stage))
    _run(project, killed)
    same = _weights(undisturbed) == _weights(killed) and bool(_weights(killed))
    redone = _redone(killed / "log.txt")
    bars = [
        {"name": "weights identical to an undisturbed run", "value": float(same), "floor": 1.0, "passed": same},
        {
            "name": "kills that hit",
            "value": sum(k["hit"] for k in kills),
            "floor": 8,
            "passed": all(k["hit"] for k in kills),
        },
        {"name": "finished stages redone", "value": len(redone), "ceiling": 0, "passed": not redone},
    ]
    figures = {"kills": kills, "weights_sha256": _weights(killed), "stages_redone": redone}
    return {"figures": figures, "baselines": {}, "bars": bars, "environment": environment()}


def _small_project(folder: Path) -> Path:
    """The demo's, with one target: every stage is real, none is long."""
    project = write_demo(folder)
    text = re.sub(r"targets: \[.*\]", "targets: [local-cpu]", project.read_text())
    project.write_text(text)
    return project


def _start(project: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kdexport", "run", str(project), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _run(project: Path, out: Path) -> None:
    process = _start(project, out)
    if process.wait(timeout=600) not in (0, 1):
        raise RuntimeError(f"kdexport run ended with {process.returncode}; see {out / 'log.txt'}")


def _stage_started(out: Path, stage: str) -> Callable[[], bool]:
    """True once this process has started the stage: lines already in the log do not count."""
    log = out / "log.txt"
    seen = log.stat().st_size if log.exists() else 0

    def started() -> bool:
        if not log.exists():
            return False
        with open(log, "rb") as f:
            f.seek(seen)
            names = STARTED.findall(f.read().decode(errors="replace"))
        return any(name == stage or name.startswith(f"{stage}-") for name in names)

    return started


def _writing_checkpoint(out: Path) -> bool:
    return any(out.glob("stages/distil-*/.checkpoint.safetensors.*.tmp"))


def _kill_in(project: Path, out: Path, ready: Callable[[], bool], wait_s: float, name: str) -> dict[str, object]:
    process = _start(project, out)
    while process.poll() is None and not ready():
        time.sleep(0.0005)
    time.sleep(wait_s)
    hit = process.poll() is None
    if hit:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    leftovers = len(list(out.glob("stages/distil-*/.checkpoint.safetensors.*.tmp")))
    print(f"kill: {name:20s} hit={hit} half-written checkpoints left={leftovers}", file=sys.stderr)
    return {"at": name, "hit": hit, "half_written_checkpoints": leftovers}


def _weights(out: Path) -> list[str]:
    return sorted(sha256_file(p) for p in out.glob("stages/distil-*/model.safetensors"))


def _redone(log: Path) -> list[str]:
    """Stages that ended uncached more than once."""
    names = FINISHED.findall(log.read_text())
    return sorted({n for n in names if names.count(n) > 1})


if __name__ == "__main__":
    sys.exit(main())
