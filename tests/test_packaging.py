"""The wheel holds what kdexport needs to run away from its source tree, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import kdexport
from tests.conftest import REPOSITORY
from tests.markdown import links

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
NEEDED = {
    "kdexport/py.typed",
    "kdexport/latency/absent_prior.json",
    "kdexport/sizing/quality_prior.json",
    "kdexport/reporting/style.css",
    "kdexport/bundle/runner/predict.py",
    "kdexport/bundle/runner/verify.py",
    "kdexport/bundle/runner/build.py",
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_pure_python_of_this_version(wheel: Path) -> None:
    assert wheel.name == f"kdexport-{kdexport.__version__}-py3-none-any.whl"


def test_it_holds_the_data_files_of_the_package(names: set[str]) -> None:
    assert names >= NEEDED
    package = REPOSITORY / "kdexport"
    source = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {str(p.relative_to(REPOSITORY)) for p in source if not p.name.startswith(".")} <= names


@pytest.mark.parametrize("kind", ["profiles", "targets"])
def test_it_holds_the_catalogue(names: set[str], kind: str) -> None:
    shipped = {f"kdexport/_catalogue/{kind}/{p.name}" for p in (REPOSITORY / kind).glob("*.yaml")}
    assert shipped
    assert shipped == {n for n in names if n.startswith(f"kdexport/_catalogue/{kind}/")}


def test_it_holds_no_tests_and_nothing_beside_the_package(names: set[str]) -> None:
    assert {n.split("/")[0] for n in names} == {"kdexport", f"kdexport-{kdexport.__version__}.dist-info"}
    assert [n for n in names if "test" in Path(n).name.lower() or n.endswith(".pyc")] == []
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_source_archive_holds_what_the_readme_links_to_and_what_its_tests_need(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    folders = {parent.as_posix() for name in held for parent in Path(name).parents}
    wanted = {*links(REPOSITORY / "README.md"), "Makefile", "constraints.txt", ".ci/run", "tests/conftest.py"}
    assert wanted - held - folders == set()


def test_it_works_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [sys.executable, "-P", "-m", "kdexport", "targets", "show", "l4", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "l4"
    where = [sys.executable, "-P", "-c", "import kdexport; print(kdexport.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(str(tmp_path))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys; from kdexport.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'sklearn', 'scipy', 'numpy', 'pyarrow'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_the_schemas_are_generated_without_a_heavy_library() -> None:
    code = "import sys, kdexport.schemas as s; s.files(); print({'torch', 'numpy', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_version_is_told_once() -> None:
    assert PROJECT["version"] == kdexport.__version__


def test_every_upper_bound_has_a_comment() -> None:
    lines = (REPOSITORY / "pyproject.toml").read_text().splitlines()
    bounded = [line for line in lines if re.search(r'"[\w-]+(>=[^"]*)?,?<\d', line)]
    assert bounded
    assert [line for line in bounded if "#" not in line] == []


def test_everything_that_is_installed_for_the_tests_is_pinned() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    named = {re.split(r"[>=<; ]", line)[0].lower() for line in wanted}
    assert named - pinned == set()
