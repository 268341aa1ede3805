"""`teacher select` and ensembles, end to end on small functions: what is compared, what a run then labels with."""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kdexport import pipeline, selecting
from kdexport.cli import main
from kdexport.errors import BadInput
from kdexport.nouns.selection import Selection
from kdexport.selecting import _Choice, select_teacher
from kdexport.stages import select
from kdexport.storage.files import content_key
from kdexport.teachers._ensemble import combine
from kdexport.workspace import Workspace

WORDS = {"card": "my card is lost", "cash": "no cash came out", "rate": "which rate applies"}
MODULE = """
import hashlib

CLASSES = ("card", "cash", "rate")

def _answers(texts, wrong_of_100, salt, order=CLASSES):
    rows = []
    for text in texts:
        chance = int(hashlib.sha256((salt + text).encode()).hexdigest(), 16) % 100
        meant = next((i for i, c in enumerate(CLASSES) if c in text), 0)
        said = CLASSES[(meant + 1) % 3 if chance < wrong_of_100 else meant]
        rows.append([3.0 * (c == said) + 0.01 * chance for c in order])
    return rows

def good(texts):
    return _answers(texts, 4, "good")

def fair(texts):
    return _answers(texts, 12, "fair", ("rate", "card", "cash"))

def poor(texts):
    return _answers(texts, 40, "poor")

def zero(texts):
    return [[0.0, 0.0, 0.0] for _ in texts]

def swapped(texts):
    return _answers(texts, 0, "x", ("cash", "card", "rate"))

def unfinished(texts):
    return [[float("nan"), 0.0, 0.0] for _ in texts]
"""
PROJECT = """
name: three
task: text_classification
data:
  train: {{path: train.csv, input: text, label: label}}
  test: {{path: test.csv, input: text, label: label}}
  queries: [{{path: queries.txt}}]
  dev_fraction: 0.2
teachers:
{teachers}
{more}
targets: [l4]
max_params: 60000
min_retention: 0.3
training: {{epochs: 2, augment_per_row: 1, batch_size: 32, usd_per_hour: 3.6}}
"""
LICENCE = "licence: {distillation: allowed, source: written here}"


def source(name: str, labels: str = "card, cash, rate", trained_on: str = "") -> str:
    return f"  - {{function: 'kdexport_three:{name}', labels: [{labels}], trained_on: [{trained_on}], {LICENCE}}}\n"


GOOD, FAIR, POOR = source("good"), source("fair", "rate, card, cash"), source("poor")


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    return [(f"{chance.choice(['please', 'hi', 'now'])} {WORDS[c]} {chance.randint(0, 9999)}", c) for c in WORDS
            for _ in range(count)]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("three")
    for name, count, seed in (("train", 200, 1), ("test", 30, 2)):
        with open(found / f"{name}.csv", "w", newline="") as f:
            csv.writer(f).writerows([("text", "label"), *rows(count, seed)])
    (found / "queries.txt").write_text("\n".join(text for text, _ in rows(100, 3)) + "\n")
    (found / "kdexport_three.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(found))
        patch.setattr(pipeline.known, "cores_allowed", lambda: 1.0)
        patch.setattr(select, "LESSON_ROWS", {"text": 200})
        patch.setattr(select, "LESSON_SECONDS", 0.2)
        yield found
    sys.modules.pop("kdexport_three", None)


def project(folder: Path, name: str, teachers: str, more: str = "") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(PROJECT.format(teachers=teachers, more=more))
    return path


@pytest.fixture(scope="module")
def chosen(folder: Path) -> Selection:
    return select_teacher(project(folder, "all", POOR + GOOD + FAIR), folder / "out")


def by_name(found: Selection) -> dict[str, Any]:
    return {c.name: c for c in found.candidates}


def test_another_way_to_combine_the_teachers_is_another_ladder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its students learn from the ensemble's labels."""
    asked: list[str] = []

    def has(self: Workspace, name: str, version: int, inputs: object) -> bool:
        asked.append(content_key(name, version, inputs))
        return False

    monkeypatch.setattr(Workspace, "has", has)
    for mean in ("logits", "probabilities"):
        run = pipeline.open_run(project(folder, mean, GOOD + FAIR, f"ensemble: {{mean: {mean}}}"), folder / "out-mean")
        run.quality_from = "known"
        assert run.ladder is None
    assert asked[0] != asked[1]


def test_every_teacher_and_every_sensible_ensemble_is_compared(chosen: Selection) -> None:
    assert [(c.name, c.members) for c in chosen.candidates] == [
        ("kdexport_three:poor", (1,)),
        ("kdexport_three:good", (2,)),
        ("kdexport_three:fair", (3,)),
        ("the best 2 together", (2, 3)),
        ("all 3 together", (1, 2, 3)),
    ]


def test_qualities_are_what_the_teachers_are_with_intervals(chosen: Selection) -> None:
    found = by_name(chosen)
    good, poor = found["kdexport_three:good"], found["kdexport_three:poor"]
    assert good.quality.value > 0.9 > 0.75 > poor.quality.value > 0.45
    assert good.quality.ci95[0] < good.quality.value < good.quality.ci95[1]
    assert good.quality.n == chosen.dev_rows == 120
    assert good.nll < poor.nll
    assert 0 <= good.ece < poor.ece


def test_agreement_is_with_the_ensemble_of_all_on_production_queries(chosen: Selection) -> None:
    found = by_name(chosen)
    assert chosen.agreement_on == "production queries"
    assert 20 < chosen.agreement_rows <= 30  # a tenth of 300, distinct
    assert found["all 3 together"].agreement is None
    assert found["kdexport_three:good"].agreement > found["kdexport_three:poor"].agreement
    assert found["kdexport_three:good"].inner_disagreement is None
    pair, all_of_them = (found[n].inner_disagreement for n in ("the best 2 together", "all 3 together"))
    assert 0 < pair < all_of_them


def test_an_ensemble_costs_what_its_members_cost_together(chosen: Selection) -> None:
    found = by_name(chosen)
    alone = [found[f"kdexport_three:{n}"].labelling for n in ("poor", "good", "fair")]
    together = found["all 3 together"].labelling
    assert together.seconds == pytest.approx(sum(a.seconds for a in alone), abs=0.02)
    assert together.usd == pytest.approx(together.seconds * 0.001, abs=1e-4)  # $3.6 an hour
    assert together.rows == alone[0].rows > 900


def test_each_candidate_taught_a_student_of_the_same_size(chosen: Selection) -> None:
    assert chosen.student_params is not None
    assert chosen.student_params <= 60_000
    assert chosen.student_rows == 200
    lessons = [c.student for c in chosen.candidates]
    assert all(lesson is not None for lesson in lessons)
    assert max(lesson.against_best for lesson in lessons if lesson) == 1.0


def test_one_sentence_recommends_and_names_what_it_rests_on(chosen: Selection) -> None:
    assert chosen.recommended in by_name(chosen)
    assert chosen.sentence.startswith(f"Take {chosen.recommended}: the same small student reached accuracy ")


def test_a_second_call_asks_and_trains_nothing(
    folder: Path, chosen: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "teach_student", lambda *a: pytest.fail("trained again"))
    import kdexport_three

    monkeypatch.setattr(kdexport_three, "_answers", lambda *a: pytest.fail("asked again"))
    assert select_teacher(folder / "all.yaml", folder / "out") == chosen


def test_without_students_the_teachers_own_dev_rows_decide(folder: Path) -> None:
    found = select_teacher(project(folder, "alone", POOR + GOOD), folder / "out-alone", students=False)
    assert found.recommended == "kdexport_three:good"
    assert found.sentence.endswith("what a student learns from it was not tried.")
    assert all(c.student is None for c in found.candidates)


def test_without_production_queries_nobody_is_asked_about_none_and_dev_rows_tell_the_agreement(folder: Path) -> None:
    path = project(folder, "no-queries", POOR + GOOD)
    path.write_text(path.read_text().replace("  queries: [{path: queries.txt}]\n", ""))
    found = select_teacher(path, folder / "out-no-queries", students=False)
    assert (found.agreement_on, found.agreement_rows) == ("dev rows", 120)


def test_teachers_that_have_no_weight_yet_are_compared_as_if_they_weighed_alike(folder: Path) -> None:
    """Weight 0: it does not label, but it may be worth it."""
    idle = [s.replace("trained_on: []", "trained_on: [], weight: 0") for s in (GOOD, FAIR)]
    path = project(folder, "idle", POOR + "".join(idle), "ensemble: {weights: given}")
    found = select_teacher(path, folder / "out-idle", students=False)
    pair = next(c for c in found.candidates if c.name == "the best 2 together")
    assert pair.members == (2, 3)
    assert pair.quality is not None
    assert pair.quality.value > 0.9


def test_another_version_of_the_variants_is_labelled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(project(folder, "all", POOR + GOOD + FAIR), folder / "out")
    before = _Choice(run)._rows_key
    monkeypatch.setattr(selecting, "AUGMENTATION", selecting.AUGMENTATION + 1)
    assert _Choice(run)._rows_key != before


def test_rows_that_a_teacher_may_have_learnt_from_recommend_nothing(folder: Path) -> None:
    seen = project(folder, "seen", POOR + source("good", trained_on="train"))
    found = select_teacher(seen, folder / "out-seen", students=False)
    assert found.recommended == ""
    assert found.sentence.startswith("Nothing is recommended: dev rows that a teacher may have learnt from")
    assert "kdexport_three:good may have learnt from these rows" in found.candidates[-1].combination


def test_the_verb_prints_a_table_and_one_json_document(folder: Path, chosen: Selection) -> None:
    arguments = ["teacher", "select", str(folder / "all.yaml"), "--out", str(folder / "out")]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert chosen.sentence in shown.stdout
    assert "> " + chosen.recommended in shown.stdout
    assert "taught 2 epochs on the same 200 rows by each" in shown.stdout
    document = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert Selection.model_validate(document) == chosen


def test_what_it_takes_is_said_before_it_is_spent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        select_teacher(project(folder, "told", GOOD + FAIR), folder / "out-told")
    assert any(
        "200 rows labelled by each of 2 teachers" in m and "then 3 short trainings" in m and "$0." in m
        for m in caplog.messages
    )


@pytest.mark.parametrize("ask", [select_teacher, pipeline.make_labels, pipeline.run])
def test_no_error_shows_a_text_of_a_project_that_is_redacted(folder: Path, ask: Any, tmp_path: Path) -> None:
    path = project(folder, f"redacted-{ask.__name__}", source("unfinished"))
    path.write_text(path.read_text().replace("  dev_fraction", "  redact: [email]\n  dev_fraction"))
    with pytest.raises(BadInput, match=r"are not finite numbers, the first to '\[TEXT\]'"):
        ask(path, tmp_path)


# --- what a run labels with


def opened(path: Path, out: Path) -> pipeline.Run:
    return pipeline.open_run(path, out)


def test_a_run_labels_with_the_combination_that_dev_rows_decided(folder: Path) -> None:
    run = opened(project(folder, "weighted", POOR + GOOD, "ensemble: {weights: dev}"), folder / "out-weighted")
    combination = run.teachers.combination
    assert combination is not None
    assert combination.weights[1][0] > 0.7
    two = run.opened(run.members)
    raws = run.dataset.test.inputs[:5]
    answers = [two.member_logits(i, raws) for i in range(2)]
    np.testing.assert_array_equal(run.open_teachers().logits(raws), combine(answers, combination))


def test_another_combination_means_other_labels(folder: Path) -> None:
    one = opened(project(folder, "given", POOR + GOOD, "ensemble: {weights: given}"), folder / "out-keys")
    other = opened(project(folder, "fitted", POOR + GOOD, "ensemble: {weights: dev}"), folder / "out-keys")
    assert one.label_inputs != other.label_inputs


def test_an_ensemble_whose_weights_are_all_zero_is_refused_with_their_number_and_line(folder: Path) -> None:
    none = [s.replace("trained_on: []", "trained_on: [], weight: 0") for s in (POOR, GOOD, FAIR)]
    with pytest.raises(BadInput, match=r"zero.yaml:\d+: teachers: .*the weights of all 3 teachers are 0; give one"):
        opened(project(folder, "zero", "".join(none)), folder / "out-zero")


def test_a_member_that_answers_everything_alike_is_named(folder: Path) -> None:
    run = opened(project(folder, "constant", GOOD + source("zero")), folder / "out-constant")
    with pytest.raises(BadInput, match="kdexport_three:zero: gives the same score for every class and input; are its"):
        run.teachers  # noqa: B018


def test_a_member_whose_labels_are_in_another_order_is_named_with_the_labels(folder: Path) -> None:
    run = opened(project(folder, "swapped", GOOD + source("swapped")), folder / "out-swapped")
    told = r"teacher 2 \(kdexport_three:swapped\) is right on 3\d\.\d% of the 120 dev rows; with 2 classes exchanged"
    with pytest.raises(BadInput, match=told + r" it is on 100\.0% \(it answers 'ca\w+' for 'ca\w+'"):
        run.teachers  # noqa: B018


def test_members_that_disagree_are_a_warning_with_the_share_of_rows(folder: Path) -> None:
    run = opened(project(folder, "disagree", POOR + GOOD), folder / "out-weighted")
    assert run.teachers.combination is not None
    [warning] = run.teachers.combination.warnings
    assert warning.startswith("teachers disagree: teacher 1 (kdexport_three:poor) and teacher 2 (kdexport_three:good)")
    assert warning.endswith("% of the 120 dev rows")


def test_seeds_of_one_entry_are_as_many_members_that_share_its_weight(folder: Path) -> None:
    spec = "{backbone: bag}"
    entry = f"  - {{fit: {{spec: {spec}, seeds: [3, 5]}}, weight: 3, {LICENCE}}}\n"
    run = opened(project(folder, "seeds", entry + GOOD), folder / "out-seeds")
    assert [(t.fit.seed, t.fit.seeds, t.weight) for t in run.project.teachers[:2] if t.fit] == [
        (3, (), 1.5),
        (5, (), 1.5),
    ]
    assert len(run.project.teachers) == 3
