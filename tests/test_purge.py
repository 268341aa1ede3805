"""Purge on a run folder that is written by hand: what goes, what stays, and in whatever state a run was killed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kdexport.dataset import Dataset, read_dataset
from kdexport.errors import BadInput
from kdexport.nouns.base import Noun
from kdexport.nouns.project import Data, Project, Table, TeacherSource
from kdexport.purge import Purged, purge, read_texts, record_rows, told
from kdexport.teachers._answers import key_of
from kdexport.workspace import RESULT, Workspace

QUESTION = "c0ffee" * 10
PERSON = "I am Quentin Abernathy, card lost"


class Done(Noun):
    kind: str = "model"
    sha256: str = QUESTION


MODEL = Done()


class Folder:
    """A project's data beside its run folder, with one stage of every sort."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write(
            "train.csv", [(f"{c} query {i}", c) for c in ("card", "pay") for i in range(20)] + [(PERSON, "card")]
        )
        self.write("test.csv", [("judged only once", "pay"), ("another row", "card")])
        train, test = (Table(path=str(folder / name)) for name in ("train.csv", "test.csv"))
        self.project = Project(
            name="a",
            task="text_classification",
            teachers=(TeacherSource(function="a:b"),),
            data=Data(train=train, test=test),
            targets=("local-cpu",),
        )
        self.workspace = Workspace(folder / "out")
        record_rows(self.workspace, self.dataset)
        for name in ("environment", "label", "distil", "predict-teacher", "select-students"):
            self.stage(name)
        self.stage("teach-1")
        self.stage("teach-2", Done(kind="fit"))

    @property
    def dataset(self) -> Dataset:
        return read_dataset(self.project.data, "text", tuple)

    def write(self, name: str, rows: list[tuple[str, str]]) -> None:
        with open(self.folder / name, "w", newline="") as f:
            csv.writer(f).writerows([("text", "label"), *rows])

    def stage(self, name: str, done: Done = MODEL) -> Path:
        def make(folder: Path, key: str) -> Done:
            (folder / "made.bin").write_bytes(b"1234")
            return done

        self.workspace.stage(name, 1, [name], Done, make)
        return self.workspace.folder_of(name, 1, [name])

    def stages(self) -> set[str]:
        return {p.name.rpartition("-")[0] for p in (self.folder / "out" / "stages").iterdir()}

    def purge(self, *texts: str, **more: Any) -> Purged:
        return purge(self.workspace, self.project, "text", texts, **more)


@pytest.fixture
def made(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_training_row_takes_all_that_learnt_from_it_and_leaves_what_did_not(made: Folder) -> None:
    found = made.purge("quentin  ABERNATHY")
    assert found.rows == 1
    assert made.stages() == {"environment", "predict-teacher", "teach-1"}
    assert found.removed == {"distil": 1, "label": 1, "select-students": 1, "teach-2": 1}
    assert found.still_in == (f"{made.folder / 'train.csv'}:42",)


def test_a_test_row_takes_predictions_but_no_student_and_no_teacher(made: Folder) -> None:
    made.purge("judged only")
    assert made.stages() == {"environment", "label", "distil", "teach-1", "teach-2"}


def test_half_made_work_goes_too(made: Folder) -> None:
    folder = made.stage("distil")
    (folder / RESULT).unlink()
    made.purge("abernathy")
    assert not folder.exists()


def test_stages_of_other_rows_stay(made: Folder) -> None:
    """The same folder served an earlier state of the data, which had not the row."""
    made.workspace.rows = "of_others"
    folder = made.stage("baseline-hard-labels")
    made.purge("abernathy")
    assert folder.exists()


def test_a_stage_without_a_record_is_taken_for_made_from_the_row(made: Folder) -> None:
    made.workspace.rows = ""
    folder = made.stage("ladder")
    made.purge("abernathy")
    assert not folder.exists()


def test_a_row_that_the_data_no_longer_holds_is_found_by_its_whole_text_alone(made: Folder) -> None:
    made.write("train.csv", [(f"{c} query {i}", c) for c in ("card", "pay") for i in range(20)])
    assert made.purge("abernathy").rows == 0
    found = made.purge(PERSON.upper())
    assert (found.rows, found.still_in) == (1, ())
    assert "label" not in made.stages()


def test_the_record_holds_no_text_and_after_purge_not_even_the_rows_hash(made: Folder) -> None:
    record = next((made.folder / "out" / "rows").glob("*.npz"))
    assert b"bernathy" not in record.read_bytes()
    assert made.purge("abernathy").rows == 1
    assert made.purge("abernathy").rows == 0


def test_a_killed_purge_is_finished_by_the_next(made: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdexport import purge as module

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            made.purge("abernathy")
    assert made.purge("abernathy").rows == 1
    assert not list((made.folder / "out").rglob("*.tmp"))
    assert "label" not in made.stages()


def test_answers_to_remaining_rows_are_kept_with_what_all_have_cost(made: Folder) -> None:
    file = made.folder / "out" / "answers" / f"chat-12345678-{QUESTION[:12]}.jsonl"
    file.parent.mkdir()
    keys = [key_of(text, QUESTION) for text in ("card query 1", PERSON, "a variant of some row")]
    records = [{"paid": 1, "usd": 0.5, "in": 1, "out": 1}, *({"key": k, "logits": [1.0, 2.0]} for k in keys)]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert made.purge("abernathy").removed["answers"] == 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == records[:2]


def test_a_line_of_answers_that_was_torn_by_a_kill_is_left_out(made: Folder) -> None:
    file = made.folder / "out" / "answers" / f"chat-12345678-{QUESTION[:12]}.jsonl"
    file.parent.mkdir()
    kept = json.dumps({"key": key_of("card query 1", QUESTION), "logits": [1.0, 2.0]}) + "\n"
    file.write_text(kept + '{"key": "ab')
    assert made.purge("abernathy").removed["answers"] == 1
    assert file.read_text() == kept


def test_an_altered_bundle_is_not_left_in_silence(made: Folder) -> None:
    """Its golden.json holds the row all the same."""
    bundle = made.folder / "out" / "bundles" / "local-cpu"
    bundle.mkdir(parents=True)
    (bundle / "golden.json").write_text(json.dumps([{"input": PERSON}]))
    made.stage("bundle-local-cpu")
    found = made.purge("abernathy")
    assert found.bundles == (str(bundle),)
    assert not bundle.exists()


def test_a_bundle_that_a_killed_run_was_writing_goes(made: Folder) -> None:
    torn = made.folder / "out" / "bundles" / ".local-cpu.abcd.tmp"
    torn.mkdir(parents=True)
    (torn / "golden.json").write_text(json.dumps([{"input": PERSON}]))
    made.purge("abernathy")
    assert not torn.exists()


@pytest.mark.parametrize(("quoted", "stays"), [(PERSON, False), ("card query 1", True)])
def test_a_question_that_shows_the_row_as_an_example_goes_with_all_its_answers(
    made: Folder, quoted: str, stays: bool
) -> None:
    question = made.stage("teach-3", Done(kind="chat"))
    messages = [{"role": "user", "content": f"Query: {quoted}\nIntent:"}, {"role": "assistant", "content": "card"}]
    (question / "question.json").write_text(json.dumps({"messages": messages}))
    file = made.folder / "out" / "answers" / f"chat-12345678-{QUESTION[:12]}.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps({"key": key_of("card query 1", QUESTION), "logits": [1.0]}) + "\n")
    (made.workspace.folder_of("teach-1", 1, ["teach-1"]) / RESULT).unlink()  # no other stage of the same question
    made.purge("Abernathy")
    assert question.exists() == stays
    assert bool(file.read_text()) == stays


def test_log_lines_that_quote_the_text_go(made: Folder) -> None:
    (made.folder / "out" / "log.txt").write_text(f"started\nno answer to '{PERSON}'\n")
    made.purge("Abernathy")
    assert (made.folder / "out" / "log.txt").read_text() == "started\n"


def test_what_is_printed_holds_counts_and_places_but_no_text(made: Folder) -> None:
    lines = "\n".join(told(made.purge("Abernathy"), Path("out")))
    assert "1 rows" in lines
    assert "train.csv:42: remove the row there" in lines
    assert "bernathy" not in lines


@pytest.mark.parametrize("texts", [(), ("",), ("  ",)])
def test_a_blank_text_would_mean_every_row_and_is_refused(made: Folder, texts: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="no text to look for"):
        made.purge(*texts)


def test_a_folder_without_a_record_of_rows_is_refused(made: Folder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no record of rows"):
        purge(Workspace(tmp_path / "other"), made.project, "text", ["a"])


def test_texts_are_read_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Jane Doe\n\n  another \n")
    assert read_texts(tmp_path / "texts.txt") == ["Jane Doe", "another"]
    with pytest.raises(BadInput, match="cannot be read"):
        read_texts(tmp_path / "none.txt")
