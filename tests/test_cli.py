"""The command line: exit codes, what goes to stdout and to stderr, and that starting it costs nothing."""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from PIL import Image

from kdexport import catalogue, pipeline, terminal
from kdexport.bundle.write import write_bundle
from kdexport.cli import main
from kdexport.nouns.manifest import Manifest, Preprocessor
from kdexport.nouns.plan import Candidate, Plan, QualityEstimate, StageEstimate, TargetPlan
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.target import Target

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "numpy", "pydantic", "rich", "yaml", "sklearn")


@pytest.fixture(autouse=True)
def _process_state_is_restored() -> Iterator[None]:
    """A verb silences libraries for its whole process, which here is the test's."""
    environment, raise_exceptions = dict(os.environ), logging.raiseExceptions
    yield
    os.environ.clear()
    os.environ.update(environment)
    logging.raiseExceptions = raise_exceptions


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def subprocess_of(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def verbs(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command, groups included."""
    yield path
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from verbs(child, (*path, name))


# --- help


@pytest.mark.parametrize("path", list(verbs()), ids=" ".join)
def test_every_help_ends_with_a_line_to_paste(path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    last = result.stdout.rstrip().splitlines()[-1].strip()
    assert result.exit_code == 0
    assert last.startswith(" ".join(("kdexport", *path)))


@pytest.mark.parametrize("path", [p for p in verbs() if p not in ((), ("profiles",), ("targets",), ("teacher",))])
def test_every_verb_offers_json(path: tuple[str, ...]) -> None:
    assert "--json" in call(*path, "--help").stdout


def test_every_verb_of_the_design_is_there() -> None:
    before = {"demo", "init", "doctor", "profiles", "targets", "teacher", "plan", "run"}
    assert set(main.commands) >= before | {"eval", "compare", "report", "bench", "verify"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom kdexport.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    found = subprocess_of("-c", code)
    assert found.stderr.strip() == "[]"
    assert "Usage: " in found.stdout


def test_a_list_of_profiles_imports_no_numbers_library() -> None:
    code = (
        "import sys\nfrom kdexport.cli import main\n"
        "main(['profiles', 'list'], standalone_mode=False)\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'onnxruntime') if m in sys.modules], file=sys.stderr)"
    )
    assert subprocess_of("-c", code).stderr.strip() == "[]"


def test_the_version_is_the_package_version() -> None:
    from kdexport import __version__

    assert call("--version").stdout.strip().endswith(__version__)


# --- errors


UNKNOWN_L5 = "unknown profile 'l5'; did you mean 'l4'?; new ones are found through KDEXPORT_CATALOGUE"


def test_an_unknown_name_is_one_line_on_stderr_and_exit_2() -> None:
    result = call("profiles", "show", "l5")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [f"error: {UNKNOWN_L5}"]


def test_kdexport_debug_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDEXPORT_DEBUG", "1")
    result = call("profiles", "show", "l5")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == f"error: {UNKNOWN_L5}"


def test_a_wrong_option_exits_2() -> None:
    result = call("profiles", "list", "--jsn")
    assert result.exit_code == 2
    assert "--jsn" in result.stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: no space left on the disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "error: no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: Permission denied"),
        (MemoryError(), 2, "error: out of memory"),
    ],
)
def test_what_goes_wrong_outside_is_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, line: str
) -> None:
    monkeypatch.setattr(catalogue, "profiles", _raising(raised))
    result = call("profiles", "list")
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(line)


def test_a_fault_of_ours_shows_its_traceback_and_is_not_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "profiles", _raising(ZeroDivisionError("oops")))
    result = call("profiles", "list")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "a fault in kdexport" in result.stderr.splitlines()[-1]


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    return fail


def test_a_reader_that_leaves_early_hears_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kdexport", "profiles", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


# --- catalogue


def test_json_of_a_profile_is_the_noun_itself() -> None:
    document = json.loads(call("profiles", "show", "l4", "--json").stdout)
    assert HardwareProfile.model_validate(document) == catalogue.profile("l4")


def test_json_of_a_target_is_the_noun_itself() -> None:
    document = json.loads(call("targets", "show", "l4", "--json").stdout)
    assert Target.model_validate(document) == catalogue.target("l4")


def test_a_list_names_every_entry() -> None:
    assert [p["id"] for p in json.loads(call("profiles", "list", "--json").stdout)] == list(catalogue.profiles())
    table = call("targets", "list").stdout
    assert all(name in table for name in catalogue.targets())


def test_a_shown_fact_has_source_and_date() -> None:
    shown = call("profiles", "show", "l4").stdout
    fact = catalogue.profile("l4").facts.memory_bandwidth_gb_per_s
    assert fact is not None
    line = next(line for line in shown.splitlines() if "memory_bandwidth" in line)
    assert fact.date.isoformat() in line
    assert fact.source[:20] in line


def test_the_shipped_catalogue_is_right() -> None:
    assert call("profiles", "validate").exit_code == 0
    assert call("targets", "validate").exit_code == 0


def test_a_wrong_profile_file_is_a_no_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(Path("profiles/l4.yaml").read_text())
    (tmp_path / "bad.yaml").write_text("id: bad\nname: Bad\ndevice_clas: cpu\n")
    result = call("profiles", "validate", tmp_path / "good.yaml", tmp_path / "bad.yaml")
    assert result.exit_code == 1
    assert f"{tmp_path / 'good.yaml'}: ok" in result.stdout
    assert f"no: {tmp_path / 'bad.yaml'}:3: device_clas: unknown key; did you mean 'device_class'?" in result.stderr


def test_a_target_file_with_an_unknown_runtime_is_a_no(tmp_path: Path) -> None:
    text = Path("targets/local-cpu.yaml").read_text().replace("[onnxruntime, openvino]", "[onxruntime]")
    (tmp_path / "mine.yaml").write_text(text)
    result = call("targets", "validate", tmp_path / "mine.yaml")
    assert result.exit_code == 1
    assert "unknown runtime 'onxruntime'; did you mean 'onnxruntime'?" in result.stderr


def test_a_detected_profile_can_be_used_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "box.yaml"
    result = call("profiles", "detect", "--out", file, "--json")
    assert json.loads(result.stdout)["id"] == "box"
    assert call("profiles", "validate", file).exit_code == 0


def test_an_offering_is_shown_with_what_its_price_leaves_out() -> None:
    shown = call("profiles", "show", "jetson-orin-nano-super-8gb").stdout
    assert "developer kit, list price" in shown


# --- plan and run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A text project that is right on paper; its teacher is never asked."""
    with open(tmp_path / "train.csv", "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["text", "label"])
        rows.writerows([f"{label} number {i}", label] for i in range(30) for label in ("card", "cash"))
    text = (
        "name: tiny\ntask: text_classification\nteachers: [{function: 'nobody:asks'}]\n"
        "data: {train: {path: train.csv}}\ntargets: [l4]\nmin_retention: 0.97\n"
    )
    (tmp_path / "kdexport.yaml").write_text(text)
    return tmp_path / "kdexport.yaml"


def a_plan(feasible: bool) -> Plan:
    chosen = Candidate(
        spec={"backbone": "convolution", "hidden_size": 32},
        num_params=1234,
        artifact_bytes=5000,
        quality=QualityEstimate(value=0.95, low=0.9, high=1.0, basis="prior"),
        latency=None,
        objective_ms=None,
    )
    target = TargetPlan(
        target="l4",
        chosen=chosen,
        reason="cheapest",
        feasible=feasible,
        nearest="" if feasible else "met: min_retention 0.950",
        num_candidates=1,
        front=(chosen,),
    )
    stage = StageEstimate(stage="label", hours=0.5, memory_gib=1.0, basis="assumed speed")
    return Plan(targets=(target,), stages=(stage,))


def test_a_plan_that_cannot_be_met_is_a_no_with_the_nearest_that_can(
    monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.setattr(pipeline, "plan", lambda *_, **__: a_plan(feasible=False))
    result = call("plan", project, "--out", project.parent / "out")
    assert result.exit_code == 1
    assert "no: l4: met: min_retention 0.950" in result.stderr
    assert "0.950" in result.stdout
    assert "label" in result.stdout


def test_hours_that_are_not_known_are_a_dash_in_a_plan(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    stage = StageEstimate(stage="label", hours=None, memory_gib=1.0, basis="hours are not known")
    made = a_plan(feasible=True).model_copy(update={"stages": (stage,)})
    monkeypatch.setattr(pipeline, "plan", lambda *_, **__: made)
    shown = call("plan", project, "--out", project.parent / "out").stdout
    line = next(row for row in shown.splitlines() if "label" in row)
    assert line.split()[:4] == ["label", "–", "–", "1.0"]


def test_a_plan_as_json_is_the_noun_itself(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr(pipeline, "plan", lambda *_, **__: a_plan(feasible=True))
    result = call("plan", project, "--out", project.parent / "out", "--json")
    assert result.exit_code == 0
    assert Plan.model_validate_json(result.stdout) == a_plan(feasible=True)


def test_limits_of_ones_own_are_the_question_and_the_page_is_drawn(
    monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    asked: list[Any] = []

    def planned(path: Path, out: Path, question: pipeline.Question, **how: Any) -> Plan:
        asked.extend([question, how["climb"]])
        return a_plan(feasible=True)

    monkeypatch.setattr(pipeline, "plan", planned)
    out = project.parent / "out"
    result = call("plan", project, "--out", out, "--p99-ms", "2", "--max-bytes", "1000", "--ladder", "--front")
    assert result.exit_code == 0
    assert asked == [pipeline.Question(p99_ms=2.0, max_bytes=1000), True]
    assert "l4" in (out / "plan.html").read_text()


@pytest.mark.parametrize("flag", ["--p99-ms", "--max-usd-per-million", "--max-bytes"])
def test_a_limit_that_nothing_could_meet_is_refused(project: Path, flag: str) -> None:
    assert call("plan", project, "--out", project.parent / "out", flag, "0").exit_code == 2


def a_document(retention: float = 0.99, met: bool | None = True) -> dict[str, Any]:
    objective = {"percentile": 99, "limit_ms": 1.0, "met": met, "value_ms": 2.0, "basis": "measured"}
    interval = [retention - 0.01, retention + 0.01]
    gate = {"min_retention": 0.97, "kind": "point", "met": retention >= 0.97}
    kept = {"value": retention, "ci95": interval}
    return {
        "schema": 1,
        "kdexport": "0.1.0",
        "decision": "Ship it.",
        "warnings": [],
        "teacher": {"quality": {"metric": "accuracy", "value": 0.97, "ci95": [0.95, 0.98], "n": 500}},
        "targets": [{"target": "l4", "objective": objective, "retention": kept, "gate": gate}],
    }


def fake_run(document: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    def run(project: Path, out: Path, **named: Any) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        print("a library that talks on stdout")
        logging.getLogger("kdexport.workspace").info("stage=%s seconds=%.1f", "teach", 1.5)
        named["on_stage"]("teach", 1.5, False)
        named["progress_for"]("label")(1, 2, "")
        return document

    return run


def test_a_run_as_json_prints_the_report_and_nothing_else(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr(pipeline, "run", fake_run(a_document()))
    result = call("run", project, "--out", project.parent / "out", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == a_document()


def test_a_run_without_terminal_logs_lines_to_stderr_and_to_the_run_folder(
    monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.setattr(pipeline, "run", fake_run(a_document()))
    result = call("run", project, "--out", project.parent / "out")
    assert "stage=teach seconds=1.5" in result.stderr
    assert "stage=teach seconds=1.5" in (project.parent / "out" / "log.txt").read_text()
    assert str(project.parent / "out" / "report.html") in result.stdout
    assert logging.getLogger("kdexport").handlers == []


def test_a_run_that_keeps_too_little_is_a_no_after_its_summary(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr(pipeline, "run", fake_run(a_document(retention=0.90, met=False)))
    result = call("run", project, "--out", project.parent / "out")
    assert result.exit_code == 1
    assert "Ship it." in result.stdout
    assert "no: l4: retention 0.900 is below min_retention 0.97 (the interval excludes it)" in result.stderr
    assert "no: l4: p99 2 ms misses 1 ms (measured)" in result.stderr


def test_a_terminal_sees_bars_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with terminal.following() as f:
        logging.getLogger("kdexport.workspace").info("stage=%s key=%s started", "label", "abc")
        tell = f.progress_for("rows")
        for done in (1, 2, 3):
            tell(done, 4, "loss 0.5")
            time.sleep(0.12)
        f.on_stage("teach", 12.25, False)
        f.on_stage("plan", 0.01, True)
        tell(4, 4, "")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"rows .*0:00:0\d left loss 0.5", shown)
    assert re.search(r"label .*0:00:00", shown)
    assert "teach  12.2 s" in shown
    assert "plan  " not in shown


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 5.0, 20.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.following() as f:
        tell = f.progress_for("label")
        for done in (100, 125, 200):  # it began at 100: taken up, not started
            tell(done, 400, "")
    assert [line.split(" ", 1)[1].strip() for line in screen.getvalue().splitlines()] == [
        "label: 200 of 400, about 40 s left"
    ]


# --- after a run


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Answers with the colour of a picture: the mean of each channel is its logit."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("ReduceMean", ["pixels"], ["logits"], axes=[2, 3], keepdims=0)],
            "colour",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, "H", "W"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    manifest = Manifest(
        name="colours",
        task="image_classification",
        target="local-cpu",
        artifact="engine",
        runtime="onnxruntime",
        precision="fp32",
        threads=1,
        labels=tuple(COLOURS),
        model="model.onnx",
        input_name="pixels",
        preprocessor=Preprocessor(kind="image", height=4, width=4, mean=(0.5,) * 3, std=(0.5,) * 3),
        figures={"dev_quality": {"metric": "accuracy", "value": 1.0, "n": 3}},
    )
    files: dict[str, Path | bytes] = {"model.onnx": bytes(model.SerializeToString())}
    write_bundle(tmp_path / "bundle", manifest, files, golden=[(png("red"), [1.0, -1.0, -1.0])])
    return tmp_path / "bundle"


def png(colour: str, shade: int = 0) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), np.abs(np.array(COLOURS[colour]) - shade), np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder per class: four pictures each; of 'blue' one is in truth red, so 11 of 12 are right."""
    for name in COLOURS:
        for shade in range(4):
            file = tmp_path / "pictures" / name / f"{shade}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png("red" if (name, shade) == ("blue", 3) else name, shade))
    return tmp_path / "pictures"


def test_a_whole_bundle_verifies(bundle: Path) -> None:
    result = call("verify", bundle, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"bundle": str(bundle), "whole": True, "problems": []}


def test_an_altered_file_is_a_no_that_names_it(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"something else")
    result = call("verify", bundle)
    assert result.exit_code == 1
    assert "no: model.onnx: 14 bytes, the manifest says" in result.stderr


def test_an_altered_manifest_is_a_no_too(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"red"', '"rad"'))
    result = call("verify", bundle)
    assert result.exit_code == 1
    assert "was altered" in result.stderr


def test_a_folder_that_is_no_bundle_cannot_be_verified(tmp_path: Path) -> None:
    result = call("verify", tmp_path)
    assert result.exit_code == 2
    assert f"is {tmp_path} a bundle?" in result.stderr


def test_eval_counts_what_the_bundle_gets_right(bundle: Path, pictures: Path) -> None:
    found = json.loads(call("eval", bundle, "--data", pictures, "--json").stdout)
    assert found["quality"]["value"] == pytest.approx(11 / 12)
    assert found["quality"]["n"] == 12
    assert found["quality"]["ci95"][0] < 11 / 12 < found["quality"]["ci95"][1]
    assert [(c["name"], c["n"], c["recall"]) for c in found["per_class"]] == [
        ("blue", 4, 0.75),
        ("green", 4, 1.0),
        ("red", 4, 1.0),
    ]


def test_eval_below_the_gate_is_a_no_that_speaks_of_the_interval(bundle: Path, pictures: Path) -> None:
    assert call("eval", bundle, "--data", pictures, "--min", 0.9).exit_code == 0
    result = call("eval", bundle, "--data", pictures, "--min", 0.95)
    assert result.exit_code == 1
    assert "no: accuracy 0.9167 is below 0.95 (its 95 % interval does not exclude that)" in result.stderr


def test_eval_shows_the_teachers_quality_and_that_it_is_of_other_rows(
    bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(a_document()))
    result = call("eval", bundle, "--data", pictures, "--report", tmp_path)
    assert "0.9700 [0.9500 to 0.9800], n = 500" in result.stdout
    assert "their ratio is no retention" in result.stdout


def test_eval_refuses_a_label_that_the_bundle_does_not_know(bundle: Path, pictures: Path) -> None:
    (pictures / "blue").rename(pictures / "bleu")
    result = call("eval", bundle, "--data", pictures)
    assert result.exit_code == 2
    assert f"{pictures / 'bleu' / '0.png'}: unknown label 'bleu'; did you mean 'blue'?" in result.stderr


def test_bench_measures_both_scopes_on_the_golden_inputs(bundle: Path) -> None:
    found = json.loads(call("bench", bundle, "--seconds", 0.3, "--json").stdout)
    assert found["requests_from"] == "the bundle's golden inputs"
    for scope in ("end_to_end", "model"):
        assert found[scope]["kind"] == "measured"
        assert found[scope]["n"] >= 2
        assert found[scope]["ci95"][0] <= found[scope]["p50_ms"] <= found[scope]["ci95"][1]
        assert found[scope]["environment"] == found["environment"]["id"]
    assert found["model"]["p50_ms"] < found["end_to_end"]["p50_ms"]
    assert found["peak_memory_bytes"] > 10 << 20


def test_bench_asks_the_users_own_requests(bundle: Path, pictures: Path) -> None:
    result = call("bench", bundle, "--data", pictures, "--seconds", 0.3)
    assert f"12 distinct requests from {pictures}" in result.stdout


def test_compare_sets_runs_side_by_side_and_says_no_to_a_missed_objective(tmp_path: Path) -> None:
    for name, met in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(a_document(met=met)))
    assert call("compare", tmp_path / "a").exit_code == 0
    result = call("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert result.exit_code == 1
    assert [row["run"] for row in json.loads(result.stdout)] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert f"no: {tmp_path / 'b'}: l4: p99 2 ms misses 1 ms (measured)" in result.stderr


def test_compare_says_no_to_a_missed_retention_too(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(a_document(retention=0.95)))
    result = call("compare", tmp_path)
    assert result.exit_code == 1
    assert "retention missed" in result.stdout
    assert f"no: {tmp_path}: l4: retention 0.950 is below min_retention 0.97" in result.stderr


def test_report_draws_the_page_and_the_costs_again(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(a_document()))
    result = call("report", tmp_path)
    assert result.exit_code == 0
    assert "Ship it." in (tmp_path / "report.html").read_text()
    assert (tmp_path / "costs.csv").read_text().startswith("target,")
    assert "Ship it." in result.stdout


@pytest.mark.parametrize("verb", ["compare", "report"])
def test_a_folder_without_a_report_says_what_to_name(verb: str, tmp_path: Path) -> None:
    result = call(verb, tmp_path)
    assert result.exit_code == 2
    assert "report.json: no such file; name the --out folder of a finished `kdexport run`" in result.stderr
