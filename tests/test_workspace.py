from __future__ import annotations

from pathlib import Path

import pytest

from kdexport.errors import BadInput, Damaged
from kdexport.nouns.base import Noun
from kdexport.nouns.measurement import Decision
from kdexport.workspace import Workspace


class Figure(Noun):
    value: int


class Counter:
    """A stage that counts how often it is made."""

    def __init__(self, value: int = 1) -> None:
        self.calls = 0
        self.value = value

    def __call__(self, folder: Path, key: str) -> Figure:
        assert folder.is_dir()
        self.calls += 1
        return Figure(value=self.value)

    def decide(self) -> Decision:
        self.calls += 1
        return Decision(name="which", choice=str(self.value), reason="measured")


def test_a_finished_stage_is_read_and_not_made_again(tmp_path: Path) -> None:
    make = Counter(7)
    first = Workspace(tmp_path).stage("label", 1, ["rows"], Figure, make)
    second = Workspace(tmp_path).stage("label", 1, ["rows"], Figure, make)
    assert (first, second, make.calls) == (Figure(value=7), Figure(value=7), 1)


@pytest.mark.parametrize(("version", "inputs"), [(2, ["rows"]), (1, ["other rows"])])
def test_another_version_or_other_inputs_make_the_stage_again(tmp_path: Path, version: int, inputs: list[str]) -> None:
    make, workspace = Counter(), Workspace(tmp_path)
    workspace.stage("label", 1, ["rows"], Figure, make)
    workspace.stage("label", version, inputs, Figure, make)
    assert make.calls == 2


def test_a_stage_that_fails_leaves_no_result_and_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path, key: str) -> Figure:
        (folder / "half.bin").write_bytes(b"x")
        raise RuntimeError("killed")

    workspace = Workspace(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        workspace.stage("label", 1, [], Figure, fail)
    make = Counter()
    workspace.stage("label", 1, [], Figure, make)
    assert make.calls == 1
    assert (workspace.folder_of("label", 1, []) / "half.bin").is_file()  # what the stage itself may take up


def test_every_stage_that_ends_is_told_with_whether_it_was_there(tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []
    workspace = Workspace(tmp_path, lambda name, seconds, cached: told.append((name, cached)))
    workspace.stage("label", 1, [], Figure, Counter())
    workspace.stage("label", 1, [], Figure, Counter())
    assert told == [("label", False), ("label", True)]


@pytest.mark.parametrize(
    "content",
    ["", '{"key": "', "[]", "{}", '{"key": "KEY", "seconds": 1, "result": {"value": "many"}}',
     '{"key": "KEY", "seconds": "soon", "result": {"value": 1}}', '{"key": "other", "seconds": 1, "result": {}}'],
)  # fmt: skip
def test_a_damaged_result_is_one_error_that_says_what_to_delete(tmp_path: Path, content: str) -> None:
    keys: list[str] = []

    def make(folder: Path, key: str) -> Figure:
        keys.append(key)
        return Figure(value=1)

    workspace = Workspace(tmp_path)
    workspace.stage("label", 1, [], Figure, make)
    result = workspace.folder_of("label", 1, []) / "result.json"
    result.write_text(content.replace("KEY", keys[0]))
    with pytest.raises(Damaged, match=r"result\.json: .*delete") as e:
        workspace.stage("label", 1, [], Figure, make)
    assert str(result) in str(e.value)


def test_a_decision_is_measured_once_and_read_ever_after(tmp_path: Path) -> None:
    first, second = Counter(1), Counter(2)
    made = Workspace(tmp_path).decide("engine", ["inputs"], first.decide)
    read = Workspace(tmp_path).decide("engine", ["inputs"], second.decide)
    assert read == made
    assert (first.calls, second.calls) == (1, 0)


def test_a_decision_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    decision = workspace.decide("engine", [], Counter(3).decide)
    (path,) = (tmp_path / "decisions").glob("*.json")
    assert Decision.model_validate_json(path.read_text()) == decision


def test_a_decision_on_other_inputs_is_another_decision(tmp_path: Path) -> None:
    workspace, make = Workspace(tmp_path), Counter()
    workspace.decide("engine", ["a"], make.decide)
    workspace.decide("engine", ["b"], make.decide)
    assert make.calls == 2


def test_remeasuring_forgets_every_decision_and_starts_a_generation(tmp_path: Path) -> None:
    workspace, make, stage = Workspace(tmp_path), Counter(), Counter()
    workspace.decide("engine", [], make.decide)
    workspace.stage("label", 1, [], Figure, stage)
    assert workspace.generation == 0
    workspace.forget_measurements()
    workspace.decide("engine", [], make.decide)
    workspace.stage("label", 1, [], Figure, stage)
    assert (make.calls, stage.calls) == (2, 1)
    assert Workspace(tmp_path).generation == 1


@pytest.mark.parametrize("content", ["", '{"name": "which"}', "[]"])
def test_a_damaged_decision_is_one_error_that_says_what_to_delete(tmp_path: Path, content: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.decide("engine", [], Counter().decide)
    (path,) = (tmp_path / "decisions").glob("*.json")
    path.write_text(content)
    with pytest.raises(Damaged, match="delete it"):
        workspace.decide("engine", [], Counter().decide)


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with Workspace(tmp_path).locked():
        with pytest.raises(BadInput, match="another kdexport run is working in this folder"):
            with Workspace(tmp_path).locked():
                pass
    with Workspace(tmp_path).locked():
        pass


def test_an_error_in_a_run_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        with Workspace(tmp_path).locked():
            raise RuntimeError("killed")
    with Workspace(tmp_path).locked():
        pass


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        Workspace(tmp_path / "file" / "out")


def test_what_a_killed_run_left_half_written_is_cleared_when_its_stage_goes_on(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.folder_of("label", 1, [])
    folder.mkdir(parents=True)
    (folder / ".logits.npy.abc.tmp").write_bytes(b"half")
    (folder / "progress.json").write_text("{}")
    workspace.stage("label", 1, [], Figure, Counter())
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    assert (folder / "progress.json").is_file()
