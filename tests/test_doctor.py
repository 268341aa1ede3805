"""The doctor: this machine, its runtimes, and what a test set can tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdexport import doctor
from kdexport.cli import main
from kdexport.doctor import Checkup, examine
from kdexport.errors import BadInput
from kdexport.measure.statistics import smallest_detectable_loss
from kdexport.registry import names
from kdexport.runtimes import load_runtime


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """60 training and 20 test rows of two classes."""
    for split, count in (("train", 30), ("test", 10)):
        rows = [f"{label} of {split} {i},{label}" for i in range(count) for label in ("card", "cash")]
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    text = (
        "name: tiny\ntask: text_classification\nteachers: [{function: 'nobody:asks'}]\n"
        "data: {train: {path: train.csv}, test: {path: test.csv}}\ntargets: [local-cpu]\nmin_retention: 0.99\n"
    )
    (tmp_path / "kdexport.yaml").write_text(text)
    return tmp_path / "kdexport.yaml"


def test_every_runtime_is_installed_or_has_an_install_line() -> None:
    found = {r.name: r for r in examine(None).runtimes}
    assert list(found) == names("runtimes")
    assert found["onnxruntime"].version is not None
    for name, status in found.items():
        line = load_runtime(name).missing()
        assert (status.version is None, status.install) == (line is not None, line or "")


def test_bf16_is_promising_where_the_processor_has_amx_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    here = doctor.detect(1)
    for isa, promising in ((("avx2", "avx512_bf16"), False), (("amx_bf16", "amx_tile"), True)):
        monkeypatch.setattr(doctor, "detect", lambda threads, isa=isa: here.model_copy(update={"isa": isa}))
        assert examine(None).bf16_promising is promising


def test_a_project_is_counted_as_it_will_be_split(project: Path) -> None:
    data = examine(project).data
    assert data is not None
    assert (data.classes, data.train_rows, data.dev_rows, data.test_rows) == (2, 54, 6, 20)
    assert data.rows_of_smallest_class == 27


def test_the_detectable_loss_is_of_this_many_rows_at_this_accuracy(project: Path) -> None:
    assumed, given = examine(project).data, examine(project, accuracy=0.8).data
    assert assumed is not None
    assert given is not None
    assert (assumed.accuracy, assumed.accuracy_assumed) == (0.9, True)
    assert (given.accuracy, given.accuracy_assumed) == (0.8, False)
    assert assumed.detectable_loss == pytest.approx(smallest_detectable_loss(20, 0.9))
    assert given.detectable_loss == pytest.approx(smallest_detectable_loss(20, 0.8))


def test_a_test_set_too_small_for_min_retention_is_noted(project: Path) -> None:
    data = examine(project).data
    assert data is not None
    assert any("min_retention 0.99 allows a loss of 0.009, less than the test set can show" in n for n in data.notes)


def test_a_fault_in_the_project_has_its_line(project: Path) -> None:
    project.write_text(project.read_text().replace("local-cpu", "local-cpo"))
    with pytest.raises(BadInput, match=r"kdexport.yaml:5: targets\[0\]: unknown target 'local-cpo'; did you mean"):
        examine(project)


def test_the_verb_prints_the_same_value_as_table_and_as_json(project: Path) -> None:
    as_json = CliRunner().invoke(main, ["doctor", str(project), "--json"])
    table = CliRunner().invoke(main, ["doctor", str(project)])
    found = Checkup.model_validate(json.loads(as_json.stdout))
    assert found.data is not None
    assert f"{found.data.detectable_loss:.4f} of accuracy (estimated" in table.stdout
    assert found.environment.cpu in table.stdout
    assert "teacher at 0.9, assumed" in table.stdout
