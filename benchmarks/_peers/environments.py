"""Virtual environments of the peers, outside the repository's own: made once, kept in .benchmarks/venvs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = "kdexport"  # the environment that runs the benchmark
# Groups are installed one after another: torch first, so that no later package takes the CUDA build of it.
PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "fasttext": (("fasttext-wheel==0.9.2",),),  # 0.9.3 has no wheel, and built here it ended in NaN
    "trainer": (("torch==2.13.0",), ("transformers==4.57.6", "accelerate==1.15.0", "pydantic>=2")),
    "embeddings": (
        ("torch==2.13.0",),
        ("model2vec[distill]==0.10.0", "sentence-transformers==6.2.0", "setfit==1.2.0", "scikit-learn"),
    ),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
STAMP = ".installed"


def folder() -> Path:
    """$KDEXPORT_PEER_VENVS, or .benchmarks/venvs in the repository."""
    return Path(os.environ.get("KDEXPORT_PEER_VENVS", REPOSITORY / ".benchmarks" / "venvs"))


def python_of(name: str) -> Path:
    """The interpreter of an environment, made with its packages where it is not there yet (minutes). Raises
    SystemExit with pip's last lines where it cannot be made."""
    if name == OWN:
        return Path(sys.executable)
    venv = folder() / name
    python, wanted = venv / "bin" / "python", repr(PACKAGES[name])
    if (venv / STAMP).is_file() and (venv / STAMP).read_text() == wanted:
        return python
    print(f"installing {name} into {venv}", file=sys.stderr, flush=True)
    _call([sys.executable, "-m", "venv", str(venv)])
    for group in PACKAGES[name]:
        _call([str(python), "-m", "pip", "install", "--quiet", *group])
    (venv / STAMP).write_text(wanted)
    return python


def packages_of(name: str) -> dict[str, str]:
    """What is installed there, by name."""
    command = [str(python_of(name)), "-m", "pip", "list", "--format=freeze"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def variables(threads: int = 1) -> dict[str, str]:
    """For a peer's process: one thread, this repository importable, no network."""
    return {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": str(REPOSITORY),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def pin() -> None:
    """This process, on the first of the cores that it may use: for `preexec_fn`, so that all are timed on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
