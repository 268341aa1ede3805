"""`kdexport teacher fit`: from a base model and labelled text to a folder that any project can name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kdexport import teaching
from kdexport.dataset import read_dataset
from kdexport.errors import BadInput
from kdexport.nouns.measurement import Decision
from kdexport.nouns.project import Data, Fit, Table, TeacherSource
from kdexport.teachers import fit
from kdexport.teachers._peek import classes_of
from kdexport.teaching import FittedTeacher, fit_teacher, fit_teachers

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIALS, "card", "cash", "number", *"0123456789", *(f"##{digit}" for digit in "0123456789")]


def write_base(folder: Path) -> Path:
    """A BERT of 16 numbers a token, never trained."""
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(PIECES), max_position_embeddings=32, **shape)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_rows(file: Path, count: int, word: str = "") -> Table:
    rows = [f"{label} number {i}{word},{label}" for i in range(count) for label in ("card", "cash")]
    file.write_text("text,label\n" + "\n".join(rows) + "\n")
    return Table(path=str(file))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teaching")
    write_base(folder / "base")
    return folder


@pytest.fixture(scope="module")
def data(home: Path) -> Data:
    return Data(train=write_rows(home / "train.csv", 240), test=write_rows(home / "test.csv", 10, " 7 7"))


@pytest.fixture(scope="module")
def fitted(home: Path, data: Data) -> FittedTeacher:
    return fit_teacher(Fit(base=home / "base", epochs=5, learning_rate=0.01), data, home / "out")


def test_what_is_fitted_is_a_hugging_face_folder_with_the_datas_classes(home: Path, fitted: FittedTeacher) -> None:
    config = json.loads((home / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert classes_of(TeacherSource(model=home / "out")) == ("card", "cash")
    assert (home / "out" / "model.safetensors").is_file()


def test_the_rows_held_out_are_those_that_a_project_holds_out(fitted: FittedTeacher, data: Data) -> None:
    dataset = read_dataset(data, "text", tuple)
    assert (fitted.train_rows, fitted.dev_rows, fitted.test_rows) == (432, 48, 20)
    assert fitted.dev.n == len(dataset.dev)
    assert fitted.test.n == len(dataset.test)


def test_it_learns_words_that_name_the_class(fitted: FittedTeacher) -> None:
    assert fitted.test.value >= 0.9
    assert fitted.test.ci95[0] < fitted.test.value <= fitted.test.ci95[1]


def test_nothing_of_the_work_is_left_beside_it(home: Path, fitted: FittedTeacher) -> None:
    assert sorted(p.name for p in home.iterdir()) == ["base", "out", "test.csv", "train.csv"]


def test_a_folder_that_is_there_is_refused_before_any_work(home: Path, data: Data) -> None:
    with pytest.raises(BadInput, match=r"base: is there already; choose another --out"):
        fit_teacher(Fit(base=home / "base"), data, home / "base")


def test_a_base_that_is_no_model_leaves_nothing_at_out(tmp_path: Path, data: Data) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(BadInput, match=r"config.json: no such file; the base is a Hugging Face model folder"):
        fit_teacher(Fit(base=tmp_path / "base"), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_seeds_are_as_many_teachers_and_a_second_call_fits_none(
    home: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Fit(base=home / "base", epochs=1, learning_rate=0.01, seeds=(4, 5))
    first = fit_teachers(settings, data, home / "members")
    assert [Path(f.path).name for f in first] == ["seed-4", "seed-5"]
    weights = [(Path(f.path) / "model.safetensors").read_bytes() for f in first]
    assert weights[0] != weights[1]
    monkeypatch.setattr(teaching, "fit_teacher", lambda *a: pytest.fail("fitted again"))
    assert fit_teachers(settings, data, home / "members") == first


def test_a_member_fitted_with_other_settings_is_not_taken_for_this_one(home: Path, data: Data) -> None:
    settings = Fit(base=home / "base", epochs=1, learning_rate=0.01, seeds=(6,))
    fit_teachers(settings, data, home / "others")
    with pytest.raises(BadInput, match="seed-6: is there already"):
        fit_teachers(settings.model_copy(update={"epochs": 2}), data, home / "others")


def test_a_member_fitted_from_another_base_at_the_same_place_is_not_taken_for_this_one(
    home: Path, tmp_path: Path, data: Data
) -> None:
    shutil.copytree(home / "base", tmp_path / "base")
    settings = Fit(base=tmp_path / "base", epochs=1, learning_rate=0.01, seeds=(6,))
    fit_teachers(settings, data, tmp_path / "members")
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(BadInput, match="is there already"):
        fit_teachers(settings, data, tmp_path / "members")


def test_the_precision_of_a_fit_is_measured_once(home: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that goes on must not train its second half in another precision than its first."""
    path = home / "precision.json"
    chosen = Decision(name="training precision", choice="bf16", reason="measured before")
    path.write_text(chosen.model_dump_json())
    monkeypatch.setattr(fit, "measure_bf16", lambda *a: pytest.fail("measured again"))
    assert fit._bf16(None, None, None, 64, path)  # type: ignore[arg-type]
