"""The three layers, read from the imports themselves: nouns <- capabilities <- stages <- pipeline, cli."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdexport"
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "sklearn", "scipy", "pyarrow", "tokenizers", "PIL", "openvino"}
LAYERS = (
    "known",
    "taught",
    "sized",
    "distilled",
    "measured",
    "compared",
    "whole",
    "verbs",
)  # of the pipeline, in order


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TOP = {
    "kdexport.selecting",
    "kdexport.cli",
    "kdexport.__main__",
    *(m for m in MODULES if m.startswith("kdexport.pipeline")),
}
NOUNS = [name for name in MODULES if name.startswith("kdexport.nouns")]
STAGES = [name for name in MODULES if name.startswith("kdexport.stages.")]
CAPABILITIES = [m for m in MODULES if m not in {*NOUNS, *STAGES, *TOP, "kdexport", "kdexport.stages"}]


def imported(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Every module that the code imports, in functions too; `from a import b` gives `a.b` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, "imports are absolute, or from the same folder"
            module = f"{package}.{node.module}" if node.level else str(node.module)
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield full if full in MODULES else module


def imports_of(name: str) -> set[str]:
    return set(imported(ast.parse(MODULES[name].read_text()), name.rpartition(".")[0]))


def own_imports(name: str) -> set[str]:
    return {m for m in imports_of(name) if m.split(".")[0] == "kdexport"}


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported; what stands under TYPE_CHECKING does not."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from run_on_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from run_on_import(getattr(node, field, []))


def imports_at_module_scope(source: str) -> set[str]:
    found: set[str] = set()
    for node in run_on_import(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


def test_there_is_something_to_read() -> None:
    assert len(NOUNS) > 10
    assert {"kdexport.stages.plan", "kdexport.stages.report"} <= set(STAGES)
    assert {"kdexport.losses.kl", "kdexport.dataset"} <= set(CAPABILITIES)


def test_the_readers_see_imports_in_functions_and_skip_those_for_types_alone() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import onnx\n"
    assert imports_at_module_scope(source) == {"typing"}
    assert set(imported(ast.parse(source))) == {"typing", "torch", "onnx"}
    assert "scipy" in imports_at_module_scope("try:\n    import scipy\nexcept ImportError:\n    pass\n")


@pytest.mark.parametrize("name", NOUNS)
def test_a_noun_imports_only_nouns_and_errors_and_no_numeric_library(name: str) -> None:
    assert {m for m in own_imports(name) if not m.startswith("kdexport.nouns")} <= {"kdexport.errors"}
    assert not {m.split(".")[0] for m in imports_of(name)} & {*HEAVY, "numpy"}


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_capability_imports_no_stage_and_neither_pipeline_nor_cli(name: str) -> None:
    assert not {m for m in own_imports(name) if m in TOP or m.startswith("kdexport.stages")}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_imports_no_other_stage_and_neither_pipeline_nor_cli(name: str) -> None:
    assert not {m for m in own_imports(name) - {name} if m in TOP or m.startswith("kdexport.stages")}


def test_only_the_pipeline_imports_several_stages() -> None:
    several = {name for name in MODULES if len({m for m in own_imports(name) if m in STAGES}) > 1}
    assert several
    assert all(name.startswith("kdexport.pipeline.") for name in several)


@pytest.mark.parametrize("number", range(len(LAYERS)), ids=LAYERS)
def test_a_layer_of_the_pipeline_imports_only_those_before_it(number: int) -> None:
    found = {m for m in own_imports(f"kdexport.pipeline.{LAYERS[number]}") if m.startswith("kdexport.pipeline.")}
    assert found <= {f"kdexport.pipeline.{name}" for name in LAYERS[:number]}


def test_every_file_of_the_pipeline_is_a_layer() -> None:
    assert {m for m in MODULES if m.startswith("kdexport.pipeline.")} == {f"kdexport.pipeline.{n}" for n in LAYERS}


@pytest.mark.parametrize(
    ("layer", "strangers"),
    [
        ("backbones", ("runtimes", "tasks", "teachers", "export", "latency")),
        ("runtimes", ("tasks", "teachers", "dataset", "training")),
        ("losses", ("backbones", "tasks", "teachers", "training", "runtimes")),
        ("tasks", ("runtimes", "teachers", "losses", "training", "export")),
        ("reporting", ("pipeline", "teachers", "tasks", "backbones", "training", "runtimes")),
    ],
)
def test_what_one_folder_must_not_know_of_another(layer: str, strangers: tuple[str, ...]) -> None:
    members = [name for name in MODULES if name.startswith(f"kdexport.{layer}")]
    known = {m for name in members for m in own_imports(name)}
    assert members
    assert not {m for m in known if m.split(".")[1] in strangers}


def test_a_task_knows_no_backbone_but_the_shape_of_an_input() -> None:
    tasks = [name for name in MODULES if name.startswith("kdexport.tasks")]
    assert {m for name in tasks for m in own_imports(name) if "backbones" in m} == {"kdexport.backbones"}
    for name in tasks:
        for node in ast.walk(ast.parse(MODULES[name].read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "kdexport.backbones":
                assert {a.name for a in node.names} == {"InputShape"}


@pytest.mark.parametrize("name", [m for m in MODULES if not m.startswith("kdexport.bundle.runner")])
def test_no_module_loads_a_heavy_library_when_it_is_imported(name: str) -> None:
    assert not imports_at_module_scope(MODULES[name].read_text()) & HEAVY


@pytest.mark.parametrize("name", [m for m in MODULES if m.startswith("kdexport.bundle.runner")])
def test_the_runner_is_copied_to_devices_and_so_imports_nothing_of_kdexport(name: str) -> None:
    assert not {m for m in own_imports(name) if not m.startswith("kdexport.bundle.runner")}
