"""`kdexport init`: what is guessed, what is refused, and that what it writes loads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from kdexport.cli import main
from kdexport.errors import BadInput, Unsupported
from kdexport.initialise import Wishes, initialise, kind_of_teacher
from kdexport.project_file import load_project

CLASSES = ("card", "cash")


def text_rows(count: int = 20) -> list[tuple[str, str]]:
    return [(f"{label} number {i}", label) for i in range(count) for label in CLASSES]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with rows in every format; a picture's class is its shade."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("Utterance,intent\n" + "\n".join(f"{t},{c}" for t, c in text_rows()) + "\n")
    lines = [json.dumps({"text": t, "label": c}) for t, c in text_rows()]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    pictures = []
    for name, shade in (("dark", 10), ("light", 240)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            data = io.BytesIO()
            Image.new("L", (4, 4), shade - i if shade > 100 else shade + i).save(data, "PNG")
            (tmp_path / "pictures" / name / f"{i}.png").write_bytes(data.getvalue())
            pictures.append({"image": data.getvalue(), "label": name})
    pq.write_table(pa.Table.from_pylist(pictures), tmp_path / "train.parquet")
    paths = [f"pictures/{name}/{i}.png,{name}" for name in ("dark", "light") for i in range(20)]
    (tmp_path / "paths.csv").write_text("path,label\n" + "\n".join(paths) + "\n")
    return tmp_path


def write_teacher(folder: Path, architecture: str = "BertForSequenceClassification", names: object = CLASSES) -> str:
    folder.mkdir()
    labels = dict(enumerate(names))  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], "id2label": labels}))
    return str(folder)


@pytest.mark.parametrize(
    ("train", "task", "columns"),
    [
        ("train.csv", "text_classification", ("Utterance", "intent")),
        ("train.jsonl", "text_classification", ("text", "label")),
        ("train.parquet", "image_classification", ("image", "label")),
        ("paths.csv", "image_classification", ("path", "label")),
        ("pictures", "image_classification", ("file", "folder")),
    ],
)
def test_task_and_columns_are_guessed_from_the_rows(
    folder: Path, train: str, task: str, columns: tuple[str, str]
) -> None:
    found = initialise(Wishes("nobody:asks", train), Path("kdexport.yaml"))
    assert (found.task, (found.input, found.label), found.classes) == (task, columns, 2)
    assert load_project(folder / "kdexport.yaml").project.task == task


def test_what_is_written_holds_every_wish(folder: Path) -> None:
    teacher = write_teacher(folder / "my teacher")
    (folder / "test.csv").write_text("text,label\nmy card,card\nsome cash,cash\n")  # other columns than train's
    initialise(Wishes(teacher, "train.csv", "test.csv", "train.jsonl", targets=("l4", "local-cpu")), Path("kd.yaml"))
    project = load_project(folder / "kd.yaml").project
    assert project.teachers[0].model == folder / "my teacher"
    assert project.data.train.path == str(folder / "train.csv")
    assert project.data.test is not None
    assert (project.data.test.path, project.data.test.input) == (str(folder / "test.csv"), "text")
    assert project.data.queries[0].path == str(folder / "train.jsonl")
    assert project.targets == ("l4", "local-cpu")


def test_paths_below_the_project_are_relative_and_others_absolute(folder: Path) -> None:
    (folder / "below").mkdir()
    initialise(Wishes("nobody:asks", "train.csv"), Path("kdexport.yaml"))
    initialise(Wishes("nobody:asks", "train.csv"), Path("below/kdexport.yaml"))
    assert "path: train.csv" in (folder / "kdexport.yaml").read_text()
    assert f"path: {folder / 'train.csv'}" in (folder / "below" / "kdexport.yaml").read_text()


def test_a_target_file_is_named_from_the_project(folder: Path) -> None:
    local = Path(__file__).parent.parent / "targets" / "local-cpu.yaml"
    (folder / "mine.yaml").write_text(local.read_text())
    (folder / "below").mkdir()
    initialise(Wishes("nobody:asks", "train.csv", targets=("mine.yaml",)), Path("below/kdexport.yaml"))
    assert list(load_project(folder / "below" / "kdexport.yaml").targets) == ["local-cpu"]


@pytest.mark.parametrize(
    ("name", "kind"), [("m", "model"), ("m.onnx", "onnx"), ("s.jsonl", "scores"), ("package.module:f", "function")]
)
def test_the_kind_of_teacher_is_told_by_what_is_there(folder: Path, name: str, kind: str) -> None:
    write_teacher(folder / "m")
    for file in ("m.onnx", "s.jsonl"):
        (folder / file).touch()
    assert kind_of_teacher(name) == kind


@pytest.mark.parametrize("name", ["nowhere", "nowhere.onnx", "nowhere.jsonl", "pictures", "train.csv"])
def test_what_can_be_no_teacher_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(BadInput, match=name):
        kind_of_teacher(name)


def test_a_file_that_is_there_is_not_written_over(folder: Path) -> None:
    (folder / "kdexport.yaml").write_text("mine")
    with pytest.raises(BadInput, match="--force writes over it"):
        initialise(Wishes("nobody:asks", "train.csv"), Path("kdexport.yaml"))
    assert (folder / "kdexport.yaml").read_text() == "mine"
    initialise(Wishes("nobody:asks", "train.csv"), Path("kdexport.yaml"), force=True)
    assert load_project(folder / "kdexport.yaml").project.teachers[0].function == "nobody:asks"


def test_nothing_is_written_where_a_run_would_refuse(folder: Path) -> None:
    rows = (folder / "train.csv").read_text() + "one more,transfer\n"
    (folder / "test.csv").write_text(rows)
    before = sorted(folder.iterdir())
    with pytest.raises(BadInput, match="label 'transfer' is not in"):
        initialise(Wishes("nobody:asks", "train.csv", "test.csv"), Path("kdexport.yaml"))
    with pytest.raises(BadInput, match="--target: unknown target 'l5'; did you mean 'l4'"):
        initialise(Wishes("nobody:asks", "train.csv", targets=("l5",)), Path("kdexport.yaml"))
    assert sorted(folder.iterdir()) == before


def test_a_base_model_is_sent_to_teacher_fit(folder: Path) -> None:
    base = write_teacher(folder / "base", architecture="BertModel")
    with pytest.raises(Unsupported, match="kdexport teacher fit --base"):
        initialise(Wishes(base, "train.csv"), Path("kdexport.yaml"))


def test_a_teacher_of_other_classes_is_refused(folder: Path) -> None:
    teacher = write_teacher(folder / "other", names=("card", "loan"))
    with pytest.raises(BadInput, match="lacks 1 of the data's 2: cash"):
        initialise(Wishes(teacher, "train.csv"), Path("kdexport.yaml"))


def test_a_teacher_without_class_names_is_noted(folder: Path) -> None:
    teacher = write_teacher(folder / "plain", names=("LABEL_0", "LABEL_1"))
    found = initialise(Wishes(teacher, "train.csv"), Path("kdexport.yaml"))
    assert any("named LABEL_0, LABEL_1" in note for note in found.notes)


def test_an_unknown_licence_and_a_missing_test_set_are_noted(folder: Path) -> None:
    notes = " ".join(initialise(Wishes("nobody:asks", "train.csv"), Path("kdexport.yaml")).notes)
    assert "licence of teacher nobody:asks" in notes
    assert "no test set given" in notes


def test_the_verb_says_what_it_guessed_and_what_to_do_next(folder: Path) -> None:
    result = CliRunner().invoke(main, ["init", "--teacher", "nobody:asks", "--train", "train.csv"])
    assert result.exit_code == 0
    assert "text_classification" in result.stdout
    assert "guessed" in result.stdout
    assert "next: kdexport plan kdexport.yaml" in result.stdout
