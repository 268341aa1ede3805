"""The whole line on a small text set with a teacher that is a function: one run, then what a second run does."""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdexport import pipeline
from kdexport.bundle.verify import load_predictor, read_manifest, verify
from kdexport.errors import BadInput, Damaged
from kdexport.stages import baselines, bench, calibrate, distil, engines, label, teach
from kdexport.stages import bundle as bundling
from kdexport.stages import plan as planning
from kdexport.storage.files import sha256_folder
from kdexport.workspace import Workspace

CLASSES = ("balance", "card", "refund", "transfer")
TARGETS = ("local-cpu", "l4")
STAGES = {
    "calibrate": (calibrate, "calibrate"),
    "plan": (planning, "plan"),
    "teach": (teach, "teach"),
    "label": (label, "label"),
    "distil": (distil, "distil"),
    "engines": (engines, "engines"),
    "bundle": (bundling, "bundle"),
    "quality": (bench, "quality"),
    "bench": (bench, "measure"),
    "estimate": (bench, "estimate"),
}
TEACHER = '''
CLASSES = ("balance", "card", "refund", "transfer")

def answer(texts):
    """Sure of the class whose word stands in the text."""
    return [[6.0 * (c in text) + 0.1 * len(text) / 50 for c in CLASSES] for text in texts]
'''
PROJECT = """
name: small
task: text_classification
data:
  train: {path: train.csv}
  test: {path: test.csv}
teachers:
  - function: "kdexport_test_teacher:answer"
    trained_on: []
    licence: {distillation: allowed, source: written here}
targets: [local-cpu, l4]
max_params: 200000
min_retention: 0.5
training: {epochs: 1, augment_per_row: 1, batch_size: 16, ladder_minutes: 0.3}
"""


def write_project(folder: Path) -> Path:
    chance = random.Random(0)
    fill = ["please", "my", "now", "the", "what", "about", "can", "you", "need", "help", "with", "it"]
    for name, count in (("train.csv", 60), ("test.csv", 15)):
        with open(folder / name, "w", newline="") as f:
            rows = csv.writer(f)
            rows.writerow(["text", "label"])
            for c in CLASSES:
                for _ in range(count):
                    words = [c, *chance.sample(fill, chance.randint(2, 6))]
                    rows.writerow([" ".join(chance.sample(words, len(words))), c])
    (folder / "kdexport_test_teacher.py").write_text(TEACHER)
    (folder / "kdexport.yaml").write_text(PROJECT)
    return folder / "kdexport.yaml"


@dataclass
class Ran:
    project: Path
    out: Path
    document: dict[str, Any]

    def again(self) -> tuple[dict[str, Any], set[str], set[str]]:
        """Run once more: the document, the stages that were made, the stages that were there."""
        made, there = set[str](), set[str]()
        document = pipeline.run(
            self.project, self.out, on_stage=lambda name, _, cached: (there if cached else made).add(name)
        )
        return document, made, there


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.known, "cores_allowed", lambda: 1.0)  # small steps are no faster on two
        patch.setattr(distil, "BF16_TRIALS", 4)
        patch.setattr(pipeline.sized, "QUICK_SECONDS", 1.5)
        patch.setattr(engines, "TIMING_SECONDS", 0.3)
        patch.setattr(bench, "MAX_SECONDS", 2.0)
        patch.setattr(baselines, "MAX_SECONDS", 0.5)
        yield patch


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, patched: pytest.MonkeyPatch) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("project")
    project, out = write_project(folder), folder / "out"
    sys.path.insert(0, str(folder))  # syspath_prepend would undo what libraries add meanwhile
    yield Ran(project, out, pipeline.run(project, out))
    sys.path.remove(str(folder))


def entry(document: dict[str, Any], target: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in document["targets"] if e["target"] == target)
    return found


M = {"kind", "p50_ms", "p90_ms", "p99_ms", "n", "ci95", "error_interval", "environment"}
CONTRACT: dict[str, set[str]] = {
    "": {"target", "student", "quality", "retention", "size", "latency", "latency_model", "cost", "runtime",
         "precision", "artifact", "bundle", "bundle_in_run", "bundle_sha256", "parity", "verified_on", "gate"},
    "student": {"params", "params_without_embeddings", "spec"},
    "quality": {"value", "ci95", "n"},
    "retention": {"value", "ci95"},
    "size": {"teacher_bytes", "student_bytes", "params_ratio", "bytes_ratio"},
    "gate": {"min_retention", "kind", "met", "interval_excludes_failure"},
    "objective": {"percentile", "limit_ms", "scenario", "met", "interval_excludes_failure", "value_ms", "basis"},
    "latency": {"teacher", "student", "speedup"},
    "latency_model": {"teacher", "student", "speedup"},
    "latency.student": M,
    "latency_model.student": M,
    "cost": {"incumbent_usd_per_year", "teacher_quantised_usd_per_year", "student_usd_per_year",
             "saving_usd_per_year", "zero_saving_requests_per_s", "usd_per_million"},
    "parity": {"max_abs_err", "agreement"},
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("place", CONTRACT)
def test_the_report_has_every_key_of_the_contract(ran: Ran, target: str, place: str) -> None:
    value = entry(ran.document, target)
    for step in filter(None, place.split(".")):
        value = value[step]
    assert CONTRACT[place] <= set(value)


def test_the_report_has_the_teacher_and_every_target_in_order(ran: Ran) -> None:
    document = ran.document
    assert document["schema"] == 1
    assert {"params", "quality"} <= set(document["teacher"])
    assert {"metric", "value", "ci95", "n"} <= set(document["teacher"]["quality"])
    assert tuple(e["target"] for e in document["targets"]) == TARGETS


def test_every_latency_is_measured_here_and_estimated_elsewhere(ran: Ran) -> None:
    here, there = (entry(ran.document, t) for t in TARGETS)
    for scope in ("latency", "latency_model"):
        measured, estimated = here[scope]["student"], there[scope]["student"]
        assert (measured["kind"], estimated["kind"]) == ("measured", "estimated")
        assert measured["environment"] in ran.document["environments"]
        assert measured["n"] >= 64
        assert estimated["error_interval"][0] <= estimated["p50_ms"] <= estimated["error_interval"][1]
    assert here["latency_model"]["student"]["p50_ms"] < here["latency"]["student"]["p50_ms"]


def test_the_bundle_is_found_from_the_run_folder_and_the_training_took_its_time(ran: Ran) -> None:
    for reported in ran.document["targets"]:
        assert (ran.out / reported["bundle_in_run"]).resolve() == Path(reported["bundle"]).resolve()
    assert all(run["seconds"] > 0 for run in ran.document["training"])


def test_the_files_of_a_run_are_the_document(ran: Ran) -> None:
    assert json.loads((ran.out / "report.json").read_text()) == ran.document
    assert (ran.out / "report.html").read_text().startswith("<!")
    assert (ran.out / "costs.csv").read_text().count("\n") >= 2


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_is_whole_and_is_the_one_reported(ran: Ran, target: str) -> None:
    reported = entry(ran.document, target)
    assert verify(Path(reported["bundle"])) == []
    manifest = read_manifest(Path(reported["bundle"]))
    assert (manifest.runtime, manifest.precision) == (reported["runtime"], reported["precision"])
    assert manifest.labels == CLASSES


def test_the_bundle_for_this_machine_answers_raw_text(ran: Ran) -> None:
    predictor = load_predictor(Path(entry(ran.document, "local-cpu")["bundle"]))
    assert predictor.predict("please refund it")["label"] in CLASSES


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_both_baselines_on_the_same_rows_and_a_verdict(ran: Ran, target: str) -> None:
    reported = entry(ran.document, target)
    found = reported["baselines"]
    for kind in ("hard_labels", "plain"):
        baseline = found[kind]
        assert baseline["reason"] == ""
        assert baseline["quality"]["n"] == reported["quality"]["n"]
        gap = reported["quality"]["value"] - baseline["quality"]["value"]
        assert baseline["difference"]["value"] == pytest.approx(gap)
        low, high = baseline["difference"]["ci95"]
        assert low <= baseline["difference"]["value"] <= high
    assert "distillation" in found["verdict"]
    assert (found["plain"]["latency"] is not None) == (target == "local-cpu")
    page = (ran.out / "report.html").read_text()
    assert "What one gets without distillation" in page


def test_the_student_keeps_to_the_limit_and_learns(ran: Ran) -> None:
    for target in TARGETS:
        reported = entry(ran.document, target)
        assert reported["student"]["params"] <= 200_000
        assert reported["quality"]["value"] > 0.5
    assert ran.document["teacher"]["quality"]["value"] == 1.0


def without_clocks(document: dict[str, Any]) -> dict[str, Any]:
    environments = [{k: v for k, v in e.items() if k != "taken_at"} for e in document["environments"].values()]
    return {**document, "created": "", "environments": environments}


def test_a_second_run_makes_no_stage(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (module, function) in STAGES.items():

        def forbidden(*args: object, stage: str = name, **more: object) -> None:
            raise AssertionError(f"{stage} was made again")

        monkeypatch.setattr(module, function, forbidden)
    document, made, there = ran.again()
    assert made == set()
    assert {
        "calibrate",
        "ladder",
        "plan",
        "teach-1",
        "distil",
        "engines-l4",
        "bundle-l4",
        "quality-l4",
        "bench-local-cpu",
    } <= there
    assert without_clocks(document) == without_clocks(ran.document)


@pytest.mark.parametrize("stage", ["quality-l4", "bench-l4", "engines-l4"])
def test_a_stage_that_is_deleted_is_made_again_and_no_other(ran: Ran, stage: str) -> None:
    (folder,) = (ran.out / "stages").glob(f"{stage}-*")
    shutil.rmtree(folder)
    document, made, _ = ran.again()
    assert made == {stage}
    assert entry(document, "l4")["bundle_sha256"] == entry(ran.document, "l4")["bundle_sha256"]


def test_a_student_that_is_deleted_is_trained_again_to_the_same_bits(ran: Ran) -> None:
    before = {p.name: sha256_folder(p) for p in (ran.out / "bundles").iterdir()}
    for folder in (ran.out / "stages").glob("distil-*"):
        shutil.rmtree(folder)
    _, made, _ = ran.again()
    assert made == {"distil"}
    assert {p.name: sha256_folder(p) for p in (ran.out / "bundles").iterdir()} == before


@pytest.mark.parametrize("damage", ["removed", "altered"])
def test_a_bundle_that_is_removed_or_altered_is_written_again(ran: Ran, damage: str) -> None:
    folder = ran.out / "bundles" / "l4"
    before = sha256_folder(folder)
    if damage == "removed":
        shutil.rmtree(folder)
    else:
        (folder / "tokenizer.json").write_text("{}")
    ran.again()
    assert sha256_folder(folder) == before


def test_a_damaged_result_is_one_error_that_names_it(ran: Ran) -> None:
    (result,) = (ran.out / "stages").glob("quality-l4-*/result.json")
    whole = result.read_text()
    result.write_text(whole[:-40])
    with pytest.raises(Damaged, match=r"result\.json: not valid JSON .*delete it, it is made again"):
        ran.again()
    result.unlink()
    ran.again()
    assert json.loads(result.read_text())["result"] == json.loads(whole)["result"]


def test_two_runs_in_one_folder_are_refused(ran: Ran) -> None:
    with Workspace(ran.out).locked(), pytest.raises(BadInput, match="another kdexport run is working in this folder"):
        ran.again()


def test_a_teacher_whose_code_changed_is_asked_again(ran: Ran) -> None:
    path = ran.project.parent / "kdexport_test_teacher.py"
    before = pipeline.open_run(ran.project, ran.out).teach_inputs
    path.write_text(TEACHER + "# changed\n")
    try:
        assert pipeline.open_run(ran.project, ran.out).teach_inputs != before
    finally:
        path.write_text(TEACHER)
    assert pipeline.open_run(ran.project, ran.out).teach_inputs == before


def test_no_checkpoint_is_left_behind(ran: Ran) -> None:
    assert not list((ran.out / "stages").glob("*/checkpoint*"))


def test_a_plan_alone_trains_nothing(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ran.out / "stages", tmp_path / "stages")  # the calibration is there
    for folder in (tmp_path / "stages").iterdir():
        if not folder.name.startswith("calibrate"):
            shutil.rmtree(folder)
    found = pipeline.plan(ran.project, tmp_path)
    assert {p.name.partition("-")[0] for p in (tmp_path / "stages").iterdir()} == {"calibrate", "plan"}
    assert tuple(t.target for t in found.targets) == TARGETS
    assert {"label", "distil student 1", "engines and bench"} <= {s.stage for s in found.stages}
    assert all(s.basis for s in found.stages)
    assert {s.stage for s in found.stages if s.hours is None} == {"label"}  # nobody counts what a function does


def test_the_inverse_question_is_answered_with_the_best_within_its_limits(ran: Ran) -> None:
    answers = [
        pipeline.plan(ran.project, ran.out, pipeline.Question(p99_ms=1000, max_bytes=n)).for_target(TARGETS[0]).chosen
        for n in (60_000, 200_000, 2_000_000)
    ]
    kept = [a.quality.value for a in answers]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]
    assert all(a.artifact_bytes <= n for a, n in zip(answers, (60_000, 200_000, 2_000_000), strict=True))


def test_a_question_without_an_answer_names_what_binds(ran: Ran) -> None:
    found = pipeline.plan(ran.project, ran.out, pipeline.Question(p99_ms=1e-6)).for_target(TARGETS[0])
    assert not found.feasible
    assert found.binding == "latency"


def test_a_ladder_that_was_climbed_is_used_by_every_later_plan(ran: Ran) -> None:
    """Without being asked for, and whatever the targets and gates."""
    assert "ladder" in {p.name.partition("-")[0] for p in (ran.out / "stages").iterdir()}
    assert pipeline.plan(ran.project, ran.out).quality_basis.startswith("ladder: ")


def test_a_forbidden_licence_stops_before_the_first_label(ran: Ran, tmp_path: Path) -> None:
    project = ran.project.parent / "forbidden.yaml"
    project.write_text(PROJECT.replace("allowed, source: written here", "forbidden, source: clause 7"))
    with pytest.raises(BadInput, match=r"forbids distillation \(clause 7\); use another teacher"):
        pipeline.run(project, tmp_path / "out")
    assert not (tmp_path / "out" / "stages").exists()


def answered(retention: float, low: float, met: bool | None = True, kind: str = "point") -> dict[str, Any]:
    objective = {"met": met, "percentile": 99, "value_ms": 3.0, "limit_ms": 2.0, "basis": "measured, single stream"}
    kept = {"value": retention, "ci95": [low, 1.01]}
    reached = retention if kind == "point" else low
    gate = {"min_retention": 0.97, "kind": kind, "met": reached >= 0.97, "interval_excludes_failure": low >= 0.97}
    return {"targets": [{"target": "t", "retention": kept, "gate": gate, "objective": objective}]}


def test_the_answer_is_yes_where_retention_and_objective_are_met() -> None:
    assert pipeline.answers_no(answered(0.98, 0.96)) == []
    assert pipeline.answers_no(answered(0.98, 0.96, met=None)) == []


def test_the_answer_is_no_with_the_reason_and_whether_the_interval_excludes_it() -> None:
    (reason,) = pipeline.answers_no(answered(0.95, 0.93))
    assert reason == "t: retention 0.950 is below min_retention 0.97 (the interval does not exclude it)"
    (reason,) = pipeline.answers_no(answered(0.98, 0.98, met=False))
    assert reason == "t: p99 3 ms misses 2 ms (measured, single stream)"


def test_the_strict_gate_compares_the_lower_bound() -> None:
    (reason,) = pipeline.answers_no(answered(0.98, 0.96, kind="lower_bound"))
    assert reason == "t: retention 0.960 is below min_retention 0.97 (the interval does not exclude it)"


def test_a_target_without_capacity_under_load_is_a_no_of_its_own() -> None:
    document = answered(0.98, 0.96, met=False)
    document["targets"][0]["objective"] |= {"value_ms": 1.0, "basis": "estimated"}
    assert pipeline.answers_no(document) == ["t: no capacity under load at 2 ms (estimated)"]


def test_a_report_from_before_the_gate_was_written_is_judged_by_its_objective_alone() -> None:
    document = answered(0.90, 0.90)
    del document["targets"][0]["gate"]
    assert pipeline.answers_no(document) == []


def test_remeasuring_times_everything_again_and_trains_nothing_new(ran: Ran, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(ran.out, out)
    made = set[str]()
    pipeline.run(ran.project, out, remeasure=True, on_stage=lambda n, _, cached: None if cached else made.add(n))
    assert {"calibrate", "engines-local-cpu", "bench-local-cpu"} <= made
    assert not {"teach-1", "label"} & made


def test_a_licence_that_is_cleared_reaches_the_report_without_new_labels(ran: Ran, tmp_path: Path) -> None:
    out, project = tmp_path / "out", ran.project.parent / "cleared.yaml"
    shutil.copytree(ran.out, out)
    project.write_text(PROJECT.replace("written here", "signed by legal"))
    made = set[str]()
    document = pipeline.run(project, out, on_stage=lambda n, _, cached: None if cached else made.add(n))
    assert document["teacher"]["licence"]["source"] == "signed by legal"
    assert not {"teach-1", "label", "distil"} & made
