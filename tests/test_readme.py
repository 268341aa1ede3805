"""The README's commands, lists, tree and figures are those of the code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from benchmarks import _readme
from kdexport import registry
from kdexport.cli import main
from kdexport.nouns.project import Project
from kdexport.storage.files import read_json
from tests.conftest import REPOSITORY
from tests.markdown import code_blocks, command_lines, parse_command

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = command_lines(README)
QUICK = ["profiles list", "targets show l4", "doctor", "--help"]
KINDS = ("losses", "backbones", "runtimes", "tasks", "teachers")


def test_it_can_be_read_in_ten_minutes() -> None:
    assert len(README.splitlines()) <= 175


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(line: str) -> None:
    parse_command(line)


def test_a_command_with_an_option_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(click.UsageError, match="--outt"):
        parse_command("kdexport run kdexport.yaml --outt x")


def test_every_verb_is_shown() -> None:
    assert [verb for verb in main.commands if f"kdexport {verb} " not in README.replace("`", " ")] == []


@pytest.mark.parametrize("arguments", QUICK)
def test_a_quick_command_runs(arguments: str) -> None:
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_of_each_kind_is_what_is_there(kind: str) -> None:
    found = re.search(rf"\({kind}: ([^)]*)\)", README)
    assert found, f"no '({kind}: ...)'"
    assert re.findall(r"`([^`]+)`", found.group(1)) == registry.names(kind)


def test_the_tree_is_what_is_there() -> None:
    tree = next(body for _, body in code_blocks(README) if "\nkdexport/ " in body)
    top = [line.split()[0].rstrip("/") for line in tree.splitlines() if not line.startswith(" ")]
    inner = [line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")]
    assert set(top) == folders(REPOSITORY)
    assert set(inner) == folders(REPOSITORY / "kdexport")
    assert len(inner) == len(set(inner))


def folders(of: Path) -> set[str]:
    """Folders that hold files of the repository: no caches, no results of runs."""
    ignored = {line.strip("/\n") for line in (REPOSITORY / ".gitignore").read_text().splitlines()}
    found = {p.name for p in of.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    return found - ignored


def test_the_stages_are_listed_as_they_are() -> None:
    line = next(line for line in README.splitlines() if line.startswith("  stages/"))
    shown = {name.strip() for name in line.split(maxsplit=1)[1].split(",")}
    assert shown == {p.stem for p in (REPOSITORY / "kdexport" / "stages").glob("[a-z]*.py")}


def test_the_project_file_loads() -> None:
    body = next(body for language, body in code_blocks(README) if language == "yaml")
    project = Project.model_validate(yaml.safe_load(body))
    known = {p.stem for p in (REPOSITORY / "targets").glob("*.yaml")}
    assert set(project.targets) <= known


def test_the_error_of_absent_machines_is_the_models_own() -> None:
    prior = read_json(REPOSITORY / "kdexport" / "latency" / "absent_prior.json")
    for pool, name in (("gpu", "GPUs"), ("cpu", "CPUs")):
        assert f"×/÷{math.exp(prior['pools'][pool]['half_width_log']):.1f} on {name}" in README
    rows, devices = (sum(pool[key] for pool in prior["pools"].values()) for key in ("rows", "devices"))
    assert f"{rows} published rows of {devices} devices" in README


def test_the_table_of_results_is_the_benchmarks() -> None:
    if not _readme.QUALITY.is_file():
        pytest.skip(f"{_readme.QUALITY}: not measured yet; python -m benchmarks.quality")
    expected = _readme.quality_block(read_json(_readme.QUALITY))
    assert _readme.block(README, "quality") == expected, "run python -m benchmarks._readme"


def test_a_row_of_results_says_size_spread_and_interval() -> None:
    size = {
        "data": "banking77",
        "params": 450_000,
        "params_ratio": 50.2,
        "student_bytes": 2 * 2**20,
        "quality_mean": 0.925,
        "quality_sd": 0.0012,
        "retention_mean": 0.9961,
        "retention_ci95": [0.988, 1.004],
        "noisy_retention": 0.97,
        "teacher_p50_us": 3100.0,
        "p50_us": 100.0,
        "own_teacher_quality": 0.9282,
        "n": 3080,
        "seeds": [0, 1, 2],
    }
    bars = [{"name": "banking77 1/50 retention", "value": 0.9961, "floor": 0.999, "passed": False}]
    machine = {"taken_at": "2026-11-24T20:00:00Z", "cpu": "EPYC"}
    text = _readme.quality_block({"figures": {"sizes": [size]}, "bars": bars, "environment": machine})
    wanted = "| banking77 | 450,000 (1/50) | 2.00 MiB | 0.9250 ± 0.0012 | 99.6% (98.8% to 100.4%) | 97.0% "
    assert wanted + "| 3,100 → 100 µs |" in text
    assert "banking77 0.9282 (n = 3,080)" in text
    assert "Below this release's own bar: banking77 1/50 retention 0.9961, wanted at least 0.999." in text


def test_a_block_is_replaced_and_the_rest_is_not() -> None:
    text = "before\n<!-- x -->\nold\n<!-- /x -->\nafter\n"
    assert _readme.with_block(text, "x", "a \\1 b") == "before\n<!-- x -->\na \\1 b\n<!-- /x -->\nafter\n"
    assert _readme.block(text, "x") == "old"
    with pytest.raises(ValueError, match="block y"):
        _readme.with_block(text, "y", "")


def test_the_demos_output_is_there() -> None:
    block = _readme.block(README, "demo-output")
    targets = re.search(r"targets: \[(.*)\]", (REPOSITORY / "kdexport" / "demo.py").read_text())
    assert targets
    assert all(f" {name} " in block for name in targets.group(1).split(", "))
    assert "measured" in block
    assert "estimated" in block


def test_ci_runs_the_test_command_of_the_readme() -> None:
    section = README.partition("## Test")[2]
    command = code_blocks(section)[0][1].strip()
    last = (REPOSITORY / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert command == last == "make test"
    rule = re.search(r"^test:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert rule
    assert all(tool in rule.group(1) for tool in ("ruff check", "mypy", "pytest"))


def test_the_demo_block_is_the_table_of_a_report() -> None:
    report = {"schema": 1, "decision": "said elsewhere", "targets": [{"target": "somewhere", "notes": []}]}
    block = _readme.demo_block(report)
    assert block.startswith("```\n")
    assert "somewhere" in block
    assert "said elsewhere" not in block
