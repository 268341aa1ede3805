"""`kdexport label`: the soft labels alone, exported on one machine, imported on another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdexport import pipeline
from kdexport.cli import main
from kdexport.errors import Damaged, StaleCache
from kdexport.pipeline import open_run

MODULE = "kdexport_label_teacher"
TEACHER = """
from pathlib import Path
LOG = Path(__file__).with_name("asked.txt")
def answer(texts):
    with open(LOG, "a") as f:
        f.write("".join(t + "\\n" for t in texts))
    return [[4.0 * ("card" in t) + SHIFT, 4.0 * ("cash" in t), 0.5] for t in texts]
"""
PROJECT = """
name: labels
task: text_classification
teachers:
  - function: "kdexport_label_teacher:answer"
    labels: [card, cash, other]
    licence: {distillation: allowed, source: written here}
data:
  train: {path: train.csv}
  test: {path: test.csv}
  unlabelled: [{path: more.txt}]
targets: [l4]
training: {augment_per_row: 0}
"""
WORDS = {"card": "my card", "cash": "some cash", "other": "a fee"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    teacher_of(tmp_path)
    for name, numbers in (("train", range(30)), ("test", range(30, 40))):
        rows = [f"{text} {i},{label}" for label, text in WORDS.items() for i in numbers]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "more.txt").write_text("".join(f"{text} and {i}\n" for text in WORDS.values() for i in range(20)))
    (tmp_path / "kdexport.yaml").write_text(PROJECT)
    yield tmp_path / "kdexport.yaml"
    sys.modules.pop(MODULE, None)


def teacher_of(folder: Path, shift: float = 0.0) -> None:
    sys.modules.pop(MODULE, None)
    (folder / f"{MODULE}.py").write_text(TEACHER + f"SHIFT = {shift}\n")


def asked(project: Path) -> list[str]:
    log = project.parent / "asked.txt"
    return log.read_text().splitlines() if log.exists() else []


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_labels_are_made_told_and_found_by_a_later_run(project: Path) -> None:
    result = invoke("label", project, "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    rows = 3 * 27 + 60  # a tenth of train is the dev split
    assert (told["rows"], told["distinct_rows"], told["classes"], told["stored_classes"]) == (rows, rows, 3, 3)
    assert told["bytes"] == Path(told["path"]).stat().st_size
    assert 6 < told["bytes_per_row"] < 9
    count = len(asked(project))
    labels = open_run(project, Path("out")).labels()
    assert (len(labels), len(asked(project))) == (rows, count)


def test_the_table_says_bytes_a_row_and_that_each_was_asked_once(project: Path) -> None:
    result = invoke("label", project, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "bytes a row" in result.stdout
    assert "distinct, each asked once" in result.stdout


def test_labels_made_elsewhere_are_used_and_nothing_is_asked_here(project: Path) -> None:
    made = pipeline.make_labels(project, "there", export_to=Path("labels.safetensors"))
    assert made.path == "labels.safetensors"
    count = len(asked(project))
    told = pipeline.make_labels(project, "here", import_from=Path("labels.safetensors"))
    assert (told.engine, told.rows) == ("imported", made.rows)
    here, there = open_run(project, Path("here")), open_run(project, Path("there"))
    assert here.labels().log_probs.tolist() == there.labels().log_probs.tolist()
    assert here.label_inputs != there.label_inputs
    assert len(asked(project)) == count


def test_labels_of_another_teacher_are_refused_and_change_nothing(project: Path) -> None:
    pipeline.make_labels(project, "there", export_to=Path("labels.safetensors"))
    teacher_of(project.parent, shift=0.25)
    with pytest.raises(StaleCache, match=r"labels\.safetensors: not this project's labels, other teacher \("):
        pipeline.make_labels(project, "here", import_from=Path("labels.safetensors"))
    assert open_run(project, Path("here")).label_inputs[1] != "imported"


def test_labels_of_other_rows_are_refused(project: Path) -> None:
    pipeline.make_labels(project, "there", export_to=Path("labels.safetensors"))
    with open("more.txt", "a") as f:
        f.write("one more\n")
    with pytest.raises(StaleCache, match=r"other rows \("):
        pipeline.make_labels(project, "here", import_from=Path("labels.safetensors"))


def test_imported_labels_that_are_gone_are_not_silently_made_here(project: Path) -> None:
    pipeline.make_labels(project, "there", export_to=Path("labels.safetensors"))
    pipeline.make_labels(project, "here", import_from=Path("labels.safetensors"))
    folder = open_run(project, Path("here")).label_folder
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(Damaged, match="imported from elsewhere are gone; import them again, or delete"):
        pipeline.make_labels(project, "here")
    assert pipeline.make_labels(project, "here", import_from=Path("labels.safetensors")).engine == "imported"
