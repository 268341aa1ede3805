"""Planted names, card numbers and NRICs, from import to bundle; and what `purge` takes away of them."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import random
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdexport import pipeline
from kdexport.cli import main
from kdexport.errors import BadInput
from kdexport.stages import bench, distil, engines
from kdexport.workspace import Workspace

CLASSES = ("balance", "card", "refund", "transfer")
# as many digits as a card has, and right by Luhn; NRICs right by their letter; none is anybody's
NAMES = ("Zebedee Quill", "Ottoline Farquhar", "Barnaby Thistlewood")
CARDS = ("4929 3813 3266 4295", "5370463888881191", "3782-822463-10005")
NRICS = ("S7361292F", "T0047831D", "G5872119R")
PLANTED = [*(part for name in NAMES for part in name.split()), *CARDS, *NRICS]
LISTED = "Hyacinth Vandergelder"
TEACHER = '''
CLASSES = ("balance", "card", "refund", "transfer")

def answer(texts):
    """Sure of the class whose word stands in the text."""
    return [[6.0 * (c in text) + 0.1 * len(text) / 50 for c in CLASSES] for text in texts]
'''
PROJECT = """
name: personal
task: text_classification
data:
  train: {path: train.csv}
  test: {path: test.csv}
  queries: [{path: log.csv, weight: count, time: at, slices: [agent]}]
  unlabelled: [{path: more.txt}]
  REDACT
teachers:
  - function: "kdexport_personal_teacher:answer"
    trained_on: []
    licence: {distillation: allowed, source: written here}
targets: [here.yaml]
max_params: 200000
min_retention: 0.1
training: {epochs: 1, augment_per_row: 1, batch_size: 16, baselines: false}
"""
TARGET = """
id: local-cpu
profile: local
runtimes: [onnxruntime]
precisions: [fp32]
objective: {percentile: 99, limit_ms: 50}
traffic: {mean_requests_per_s: 5, peak_requests_per_s: 20}
"""
REDACT = "redact: [email, phone, card, nric, iban, ip, url, name, {name: people, file: names.txt}]"


def planted(rows: list[str], chance: random.Random) -> list[str]:
    """One thing planted in every fifth row, in the words around it."""
    found = []
    for i, row in enumerate(rows):
        kind = (i // 5) % 4
        if i % 5:
            found.append(row)
        elif kind == 0:
            found.append(f"my name is {chance.choice(NAMES)} and {row}")
        elif kind == 1:
            found.append(f"{row} {chance.choice(CARDS)} please")
        elif kind == 2:
            found.append(f"{row}, NRIC {chance.choice(NRICS)}")
        else:
            found.append(f"{row} says {LISTED}")
    return found


def write_project(folder: Path, redact: str) -> Path:
    chance = random.Random(0)
    fill = ["please", "my", "now", "the", "what", "about", "can", "you", "need", "help", "with", "it"]

    def texts(c: str, count: int) -> list[str]:
        rows = [" ".join(chance.sample([c, *chance.sample(fill, chance.randint(2, 6))], 3)) for _ in range(count)]
        return planted([f"{c} {row} {i}" for i, row in enumerate(rows)], chance)

    for name, count in (("train.csv", 60), ("test.csv", 20)):
        with open(folder / name, "w", newline="") as f:
            csv.writer(f).writerows([("text", "label"), *((t, c) for c in CLASSES for t in texts(c, count))])
    asked = [t for c in CLASSES for t in texts(c, 30)]
    with open(folder / "log.csv", "w", newline="") as f:
        rows = [(f"{t} asked", 1 + i % 7, 1_760_000_000 + 3600 * i, NAMES[i % 3]) for i, t in enumerate(asked)]
        csv.writer(f).writerows([("text", "count", "at", "agent"), *rows])
    (folder / "more.txt").write_text("\n".join(f"{t} more" for c in CLASSES for t in texts(c, 10)))
    (folder / "names.txt").write_text("\n".join([LISTED, *NAMES]))
    (folder / "kdexport_personal_teacher.py").write_text(TEACHER)
    (folder / "here.yaml").write_text(TARGET)
    (folder / "kdexport.yaml").write_text(PROJECT.replace("REDACT", redact))
    return folder / "kdexport.yaml"


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those of what is packed in it."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif path.read_bytes()[:2] == b"\x1f\x8b":
        yield gzip.decompress(path.read_bytes())


def leaked(folder: Path) -> dict[str, list[str]]:
    """By file, what was planted and stands in it, in any case and in UTF-8 or UTF-16."""
    found: dict[str, list[str]] = {}
    for path in (p for p in sorted(folder.rglob("*")) if p.is_file()):
        for data in contents(path):
            low = data.lower()
            for text in [*PLANTED, *LISTED.split()]:
                if text.lower().encode() in low or text.lower().encode("utf-16-le") in low:
                    found.setdefault(str(path.relative_to(folder)), []).append(text)
    return found


@dataclass
class Ran:
    project: Path
    out: Path
    document: dict[str, Any]


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.known, "cores_allowed", lambda: 1.0)
        patch.setattr(distil, "BF16_TRIALS", 4)
        patch.setattr(pipeline.sized, "QUICK_SECONDS", 1.0)
        patch.setattr(engines, "TIMING_SECONDS", 0.2)
        patch.setattr(bench, "MAX_SECONDS", 1.0)
        yield patch


def run(folder: Path, redact: str) -> Ran:
    """As the command does: with a log file in the run folder."""
    project, out = write_project(folder, redact), folder / "out"
    out.mkdir()
    handler = logging.FileHandler(out / "log.txt")
    logging.getLogger("kdexport").addHandler(handler)
    level = logging.getLogger("kdexport").level
    logging.getLogger("kdexport").setLevel(logging.DEBUG)
    sys.path.insert(0, str(folder))
    try:
        return Ran(project, out, pipeline.run(project, out))
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("kdexport_personal_teacher", None)
        logging.getLogger("kdexport").setLevel(level)
        logging.getLogger("kdexport").removeHandler(handler)
        handler.close()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, patched: pytest.MonkeyPatch) -> Ran:
    return run(tmp_path_factory.mktemp("redacted"), REDACT)


def test_no_file_of_a_run_holds_what_was_planted_in_its_data(ran: Ran) -> None:
    assert len(list(ran.out.rglob("*"))) > 30
    assert leaked(ran.out) == {}


def test_the_report_counts_what_was_redacted_and_shows_none_of_it(ran: Ran) -> None:
    redacted = ran.document["data"]["redacted"]
    assert redacted.keys() == {"card", "nric", "name", "people"}
    told = next(w for w in ran.document["warnings"] if w.startswith("redacted: "))
    assert f"{redacted['card']} card" in told
    assert "rows" in told


def test_a_run_without_redaction_leaks_so_the_search_can_find_it(tmp_path: Path, patched: pytest.MonkeyPatch) -> None:
    assert leaked(run(tmp_path, "dev_fraction: 0.1").out)


def test_weights_and_slices_of_the_query_log_reach_the_report(ran: Ran) -> None:
    entry = ran.document["targets"][0]
    on_queries = [s for s in entry["slices"] if s["on"] == "held-out queries"]
    assert {s["by"] for s in on_queries} == {"agent", "length", "time"}
    assert {s["name"] for s in on_queries if s["by"] == "agent"} == {"[PEOPLE]"}
    for by in ("agent", "length", "time"):
        assert sum(s["share"] for s in on_queries if s["by"] == by) == pytest.approx(1)
    assert {"class", "length"} <= {s["by"] for s in entry["slices"] if s["on"] == "test rows"}


def test_an_error_shows_no_text_where_texts_are_redacted(tmp_path: Path, patched: pytest.MonkeyPatch) -> None:
    project = write_project(tmp_path, REDACT)
    (tmp_path / "kdexport_personal_teacher.py").write_text("def answer(texts):\n    raise ValueError(texts[0])\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(BadInput, match=r"\[TEXT\]") as error:
            pipeline.run(project, tmp_path / "out")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("kdexport_personal_teacher", None)
    texts = [line.split(",")[0] for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    assert not [t for t in texts if t in str(error.value)]
    assert error.value.__cause__ is None


# --- purge: in order, each on what the one before it has left


def stages(out: Path) -> set[str]:
    return {p.name.rpartition("-")[0] for p in (out / "stages").iterdir()}


def purge(ran: Ran, *more: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(main, ["purge", str(ran.out), "--project", str(ran.project), *more, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}, result.output


def test_purge_of_a_text_that_is_nowhere_says_no_and_removes_nothing(ran: Ran) -> None:
    before = stages(ran.out)
    code, found, _ = purge(ran, "--containing", "Nobody Atall")
    assert (code, found["rows"], stages(ran.out)) == (1, 0, before)


def test_purge_of_a_held_out_query_leaves_students_and_bundles(ran: Ran) -> None:
    import numpy as np

    from kdexport.project_file import load_project

    data = pipeline.Run(load_project(ran.project), Workspace(ran.out)).dataset
    assert not np.isin(data.query_test, data.train.inputs).any()
    code, found, _ = purge(ran, "--containing", data.query_test[0].partition("[")[0].strip() or data.query_test[0])
    assert (code, found["bundles"]) == (0, [])
    assert {"distil", "label", "bundle-local-cpu"} <= stages(ran.out)
    assert not {"predict-teacher", "quality-local-cpu"} & stages(ran.out)


def test_purge_finds_a_person_by_what_redaction_took_out(ran: Ran) -> None:
    """The raw rows are looked at: their redacted form is what the run has learnt from."""
    assert (ran.out / "bundles" / "local-cpu").is_dir()
    code, found, output = purge(ran, "--containing", NAMES[0].upper())
    assert code == 0
    assert found["rows"] > 5
    assert found["bundles"] == [str(ran.out / "bundles" / "local-cpu")]
    assert not (ran.out / "bundles" / "local-cpu").exists()
    assert not {"label", "distil", "predict-teacher", "engines-local-cpu", "bundle-local-cpu"} & stages(ran.out)
    assert not list((ran.out / "decisions").glob("*-*"))
    assert NAMES[0].split()[1] not in output
    lines = [place.rpartition(":") for place in found["still_in"]]
    held = {(file, int(line)) for file, _, line in lines}
    assert (str(ran.project.parent / "train.csv"), 2) in held or len(held) > 5


def test_after_purge_the_rows_are_known_no_more(ran: Ran) -> None:
    code, found, _ = purge(ran, "--containing", NAMES[0])
    assert (code, found["rows"], found["removed"]) == (1, 0, {})
