"""Projects that differ from the usual one: no labels, queries, another incumbent, a fitted ensemble, a moved folder."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdexport import pipeline
from kdexport.stages import distil

TEACHER = """
def answer(texts):
    return [[4.0 * ("card" in t), 4.0 * ("cash" in t), 0.5] for t in texts]
"""
UNLABELLED = """
name: unlabelled
task: text_classification
data:
  labelled: false
  train: {path: log.txt}
  queries: [{path: queries.txt}]
teachers:
  - function: "kdexport_unlabelled_teacher:answer"
    labels: [card, cash, other]
    trained_on: []
    licence: {distillation: allowed, source: written here}
targets: [l4]
incumbent: {target: t4, usd_per_year: 12000}
max_params: 100000
min_retention: 0.3
training: {epochs: 2, augment_per_row: 1, batch_size: 32}
"""
PICTURES = """
name: pictures
task: image_classification
data: {train: {path: pictures}}
teachers:
  - fit: {spec: {backbone: image_convolution, channels: 1, width: 4, num_stages: 1}, epochs: 2, seed: 1}
    licence: {distillation: allowed, source: trained here}
  - fit: {spec: {backbone: image_convolution, channels: 1, width: 4, num_stages: 1}, epochs: 2, seed: 2}
    licence: {distillation: allowed, source: trained here}
    weight: 2.0
targets: [l4, jetson-orin-nano-super]
min_retention: 0.3
training: {epochs: 2, augment_per_row: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.known, "cores_allowed", lambda: 1.0)
        patch.setattr(distil, "BF16_TRIALS", 3)
        yield


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("unlabelled")
    words = ["my card is lost", "cash please", "hello there", "no card here", "get cash now", "what is this"]
    (folder / "log.txt").write_text("\n".join(f"{w} number {i}" for i in range(40) for w in words) + "\n")
    (folder / "queries.txt").write_text("\n".join(f"{w} asked {i}" for i in range(20) for w in words) + "\n")
    (folder / "kdexport_unlabelled_teacher.py").write_text(TEACHER)
    (folder / "kdexport.yaml").write_text(UNLABELLED)
    sys.path.insert(0, str(folder))
    yield pipeline.run(folder / "kdexport.yaml", folder / "out")
    sys.path.remove(str(folder))


def test_without_labels_retention_is_agreement_with_the_teacher_and_says_so(unlabelled: dict[str, Any]) -> None:
    entry = unlabelled["targets"][0]
    assert entry["retention_kind"] == "agreement with the teacher"
    assert entry["retention"]["value"] == pytest.approx(entry["agreement"])
    assert unlabelled["teacher"]["quality"]["value"] == 1.0


def test_agreement_is_measured_on_held_out_production_queries(unlabelled: dict[str, Any]) -> None:
    found = unlabelled["targets"][0]["query_agreement"]
    assert found["n"] == 12  # a tenth of 120
    low, high = found["ci95"]
    assert low <= found["value"] <= high


def test_a_bill_is_the_incumbents_cost(unlabelled: dict[str, Any]) -> None:
    cost = unlabelled["targets"][0]["cost"]
    assert cost["incumbent_usd_per_year"] == 12000
    assert cost["saving_usd_per_year"] == pytest.approx(12000 - cost["student_usd_per_year"])
    line = next(line for line in cost["report"]["lines"] if line["who"] == "incumbent")
    assert line["target"] == "t4"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("pictures")
    for name in ("bar", "box"):
        (folder / "pictures" / name).mkdir(parents=True)
        for index in range(30):
            picture = Image.new("L", (12, 12), 20)
            corner = (index % 4, index % 5, index % 4 + 7, index % 5 + (1 if name == "bar" else 6))
            ImageDraw.Draw(picture).rectangle(corner, fill=200 + index % 50)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            (folder / "pictures" / name / f"{index}.png").write_bytes(buffer.getvalue())
    (folder / "kdexport.yaml").write_text(PICTURES)
    return folder


def test_a_fitted_ensemble_is_distilled_for_machines_that_are_not_here(pictures: Path) -> None:
    document = pipeline.run(pictures / "kdexport.yaml", pictures / "out")
    jetson = next(t for t in document["targets"] if t["target"] == "jetson-orin-nano-super")
    assert jetson["artifact"] == "recipe"
    assert jetson["latency"]["student"]["kind"] == "estimated"
    assert "held out as the test set" in " ".join(document["warnings"])
    assert document["teacher"]["params"] == 2 * (9 * 4 + 4 * 4 + 4 * 2 + 2)  # convolution, normalisation, classifier


def test_a_run_folder_can_be_moved_and_nothing_is_redone(pictures: Path) -> None:
    pipeline.run(pictures / "kdexport.yaml", pictures / "out")
    shutil.move(pictures / "out", pictures / "elsewhere")
    made: list[str] = []
    pipeline.run(
        pictures / "kdexport.yaml",
        pictures / "elsewhere",
        on_stage=lambda name, _, cached: None if cached else made.append(name),
    )
    assert made == []


def test_a_plan_says_what_is_odd_about_the_data_before_anything_is_spent(pictures: Path, tmp_path: Path) -> None:
    plan = pipeline.plan(pictures / "kdexport.yaml", tmp_path / "plan")
    assert "held out as the test set" in " ".join(plan.warnings)
