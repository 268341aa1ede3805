"""A bundle on new labelled rows: metrics, abstention, and what cannot be answered from a bundle alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdexport.bundle.evaluate import Evaluation, below_gate, evaluate, with_teacher
from kdexport.bundle.verify import load_predictor
from kdexport.errors import BadInput, Unsupported
from kdexport.nouns.metric import Metric
from kdexport.nouns.project import Table

from .conftest import LABELS, rewrite_manifest

TEXTS = ("my card", "cash", "how do i transfer", "hello", "get a card", "a")


@pytest.fixture
def rows(tmp_path: Path, bundle: Path) -> Table:
    """Labelled as the bundle answers, but for the last row."""
    predictor = load_predictor(bundle)
    answers = [predictor.predict(text)["label"] for text in TEXTS]
    answers[-1] = next(label for label in LABELS if label != answers[-1])
    lines = [f"{text},{label}" for text, label in zip(TEXTS, answers, strict=True)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return Table(path=str(tmp_path / "rows.csv"))


def test_accuracy_is_the_share_of_rows_answered_as_labelled(bundle: Path, rows: Table) -> None:
    found = evaluate(bundle, rows)
    assert found.quality.value == pytest.approx(5 / 6)
    assert (found.quality.metric, found.quality.n, found.answered) == ("accuracy", 6, 1.0)
    assert found.columns == ("text", "label")


def test_rows_count_by_their_weights_where_the_table_names_a_column_of_them(bundle: Path, rows: Table) -> None:
    path = Path(rows.path)
    header, *lines = path.read_text().splitlines()
    weighed = [f"{header},count", *(f"{line},{10 if i == len(lines) - 1 else 1}" for i, line in enumerate(lines))]
    path.write_text("\n".join(weighed) + "\n")
    found = evaluate(bundle, rows.model_copy(update={"weight": "count"}))
    assert found.quality.value == pytest.approx(5 / 15)  # the wrong row came ten times
    assert found.quality.ci95[0] <= 5 / 15 <= found.quality.ci95[1]
    assert found.weighted
    labels = [line.rsplit(",", 1)[1] for line in lines]
    right = labels.count(labels[-1]) - 1
    assert {c.name: c.recall for c in found.per_class}[labels[-1]] == pytest.approx(right / (right + 10))
    assert not evaluate(bundle, rows).weighted


def test_classes_come_with_the_worst_first(bundle: Path, rows: Table) -> None:
    recalls = [c.recall for c in evaluate(bundle, rows).per_class]
    assert recalls == sorted(recalls)
    assert recalls[0] < 1.0


def test_a_bundle_that_abstains_is_right_only_where_it_answers(bundle: Path, rows: Table) -> None:
    scores = sorted(load_predictor(bundle).predict(text)["score"] for text in TEXTS)
    threshold = (scores[2] + scores[3]) / 2
    rewrite_manifest(bundle, lambda document: document.update(abstain_below=threshold))
    found = evaluate(bundle, rows)
    assert found.answered == pytest.approx(0.5)
    assert found.quality.value <= 0.5


def test_a_projects_metric_is_used_where_it_is_given(bundle: Path, rows: Table) -> None:
    costs = Metric(name="cost_matrix", costs_usd={"card": {"cash": 5.0}})
    assert evaluate(bundle, rows, costs).quality.metric == "cost_matrix"


@pytest.mark.parametrize(("name", "way_out"), [("cost_matrix", "--project"), ("recall_at_false_alarm", "--metric")])
def test_a_metric_that_needs_a_projects_settings_is_named(bundle: Path, rows: Table, name: str, way_out: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["figures"] = {"dev_quality": {"metric": name}}

    rewrite_manifest(bundle, change)
    with pytest.raises(Unsupported, match=f"metric is {name}.*{way_out}"):
        evaluate(bundle, rows)
    assert evaluate(bundle, rows, Metric()).quality.metric == "accuracy"


def test_the_gate_compares_the_point_and_speaks_of_the_interval(bundle: Path, rows: Table) -> None:
    found = evaluate(bundle, rows)
    low, high = found.quality.ci95
    assert below_gate(found, found.quality.value) == []
    assert "does not exclude" in below_gate(found, (found.quality.value + high) / 2)[0]
    certain = found.model_copy(update={"quality": found.quality.model_copy(update={"value": 0.5, "ci95": (0.4, 0.6)})})
    assert "(its 95 % interval excludes that)" in below_gate(certain, 0.7)[0]
    assert low < found.quality.value


def test_a_report_without_the_teachers_quality_is_refused(bundle: Path, rows: Table) -> None:
    found: Evaluation = evaluate(bundle, rows)
    with pytest.raises(BadInput, match="run-a: names no quality of the teacher"):
        with_teacher(found, {"teacher": {"quality": None}}, "run-a")
