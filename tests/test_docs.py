"""The documentation: links exist, commands parse, examples load, generated files are those of the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from kdexport import schemas, terminal
from kdexport.backbones import Backbone
from kdexport.bundle.write import RUNNER_FILES, write_bundle
from kdexport.cli import main
from kdexport.nouns.manifest import Manifest, Preprocessor
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import TeacherSource, Training
from kdexport.nouns.target import Target
from kdexport.runtimes import Runtime
from kdexport.storage.yaml_documents import read_noun, read_yaml
from kdexport.teachers import TeacherKind
from tests.conftest import REPOSITORY
from tests.markdown import code_blocks, command_lines, links, parse_command

DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])
COMMANDS = [(page, line) for page in PAGES for line in command_lines(page.read_text(encoding="utf-8"))]
CATALOGUE = [
    (kind, path)
    for kind, folder in (("hardware-profile", "profiles"), ("target", "targets"))
    for path in sorted((REPOSITORY / folder).glob("*.yaml"))
]


def name(value: object) -> str | None:
    return str(value.relative_to(REPOSITORY)) if isinstance(value, Path) else None


def blocks_of(page: str, language: str) -> list[str]:
    text = (DOCS / "how-to" / page).read_text(encoding="utf-8")
    return [body for found, body in code_blocks(text) if found == language]


def plain(path: Path) -> Any:
    """A YAML document as JSON would hold it: dates are text."""
    return json.loads(json.dumps(read_yaml(path)[0], default=str))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=name)
def test_every_command_is_one_that_the_command_line_takes(page: Path, line: str) -> None:
    parse_command(line)


def test_every_page_is_in_the_index() -> None:
    index = {(DOCS / link).resolve() for link in links(DOCS / "README.md")}
    pages = {*(DOCS / "how-to").iterdir(), *(DOCS / "reference").iterdir()}
    assert {page for page in pages if not page.name.startswith(".")} <= index


@pytest.mark.parametrize("path", sorted(schemas.files()))
def test_a_generated_file_is_what_the_code_generates(path: str) -> None:
    assert (DOCS / path).read_text(encoding="utf-8") == schemas.files()[path], "run python -m kdexport.schemas"


def test_no_schema_is_left_over() -> None:
    assert {p.stem for p in (DOCS / "schemas").iterdir()} == set(schemas.NOUNS)


@pytest.mark.parametrize("noun", sorted(schemas.NOUNS))
def test_a_schema_is_one_and_refuses_unknown_keys(noun: str) -> None:
    schema = schemas.schemas()[noun]
    jsonschema.Draft202012Validator.check_schema(schema)
    errors = jsonschema.Draft202012Validator(schema).iter_errors({"no_such_key": 1})
    assert any("'no_such_key' was unexpected" in error.message for error in errors)


@pytest.mark.parametrize(("kind", "path"), CATALOGUE, ids=name)
def test_the_schema_takes_the_whole_catalogue(kind: str, path: Path) -> None:
    jsonschema.validate(plain(path), schemas.schemas()[kind])


def test_the_schema_takes_the_manifest_of_a_bundle(tmp_path: Path) -> None:
    manifest = Manifest(
        name="intents",
        task="text_classification",
        target="l4",
        artifact="recipe",
        runtime="tensorrt",
        precision="fp16",
        threads=1,
        labels=("a", "b"),
        model="model.onnx",
        input_name="input_ids",
        preprocessor=Preprocessor(kind="text", tokenizer="tokenizer.json", max_length=64),
    )
    files: dict[str, Path | bytes] = {"model.onnx": b"graph", "tokenizer.json": b"{}"}
    write_bundle(tmp_path / "b", manifest, files, golden=[("hello", [0.0, 1.0])])
    written = json.loads((tmp_path / "b" / "manifest.json").read_text())
    jsonschema.validate(written, schemas.schemas()["manifest"])
    assert written["checksum"]


@pytest.mark.parametrize(
    ("noun", "wrong"),
    [
        ("metric", {"name": "f2"}),
        ("objective", {"limit_ms": 0}),
        ("incumbent", {"usd_per_year": -1}),
        ("target", {"id": "Upper Case"}),
        ("project", {"min_retention": 97}),
    ],
)
def test_a_schema_refuses_what_the_noun_refuses(noun: str, wrong: dict[str, Any]) -> None:
    errors = list(jsonschema.Draft202012Validator(schemas.schemas()[noun]).iter_errors(wrong))
    assert any(list(error.path) == list(wrong) for error in errors)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        schemas.NOUNS[noun].model_validate(wrong)


def test_the_reference_explains_every_mapping_that_a_project_may_hold() -> None:
    text = schemas.project_reference()
    for definition in schemas.schemas()["project"]["$defs"]:
        assert f"\n## {definition}\n" in text
    assert "| `min_retention` | number > 0 ≤ 1.5 | `0.97` | student's quality over the teacher's |" in text
    assert "| `train` | [Table](#table) | **required** |" in text


def test_every_key_of_a_project_has_its_meaning() -> None:
    fields = schemas.schemas()["project"]["properties"]
    explained_elsewhere = {"data", "metric", "incumbent", "training"}  # tables of their own
    assert {key for key, field in fields.items() if not field.get("description")} <= explained_elsewhere


def test_the_device_and_the_target_of_the_how_to_are_right(tmp_path: Path) -> None:
    device, target = blocks_of("add-a-device.md", "yaml")
    (tmp_path / "my-board.yaml").write_text(device)
    (tmp_path / "target.yaml").write_text(target)
    profile = read_noun(tmp_path / "my-board.yaml", HardwareProfile)
    found = read_noun(tmp_path / "target.yaml", Target)
    assert found.profile == profile.id
    assert found.offering
    assert profile.offering(found.offering) is not None


def test_a_device_added_as_the_how_to_says_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDEXPORT_CATALOGUE", str(tmp_path))
    for text in blocks_of("add-a-device.md", "yaml"):
        path = Path(text.splitlines()[0].removeprefix("# "))
        path.parent.mkdir()
        path.write_text(text)
    commands = [c for c in command_lines((DOCS / "how-to" / "add-a-device.md").read_text()) if "my-board" in c]
    assert len(commands) == 3
    for command in commands:
        result = CliRunner().invoke(main, command.split()[1:])
        assert result.exit_code == 0, result.output


def test_the_loss_of_the_how_to_keeps_the_contract() -> None:
    import torch

    code: dict[str, Any] = {}
    exec(blocks_of("add-a-loss.md", "python")[0], code)
    student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0, 4.0]])
    assert float(code["loss"](student, teacher, 1.0)) == 1.0  # centred: -1, 1 against 0, 0
    with pytest.raises(ValueError, match="temperature 0"):
        code["loss"](student, teacher, 0)


def test_the_keys_of_the_how_tos_are_those_of_a_project() -> None:
    training = yaml.safe_load(blocks_of("add-a-loss.md", "yaml")[0])["training"]
    teachers = yaml.safe_load(blocks_of("add-a-teacher-kind.md", "yaml")[0])["teachers"]
    assert set(training) <= set(Training.model_fields)
    assert TeacherSource.model_validate(teachers[0]).kind == "function"


def test_the_files_of_a_bundle_are_as_told() -> None:
    text = (DOCS / "how-to" / "deploy-a-bundle.md").read_text(encoding="utf-8")
    for script in ("predict.py", "verify.py", "build.py"):
        assert script in RUNNER_FILES
        assert f"python {script}" in text


def test_the_exit_codes_are_as_told() -> None:
    text = (DOCS / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    for code in (0, terminal.NO, terminal.IMPOSSIBLE, terminal.INTERRUPTED, terminal.BROKEN_PIPE):
        assert f"\n| {code} | " in text


def test_what_a_backbone_and_a_runtime_offer_is_as_told() -> None:
    for page, protocol in (
        ("add-a-backbone.md", Backbone),
        ("add-a-runtime.md", Runtime),
        ("add-a-teacher-kind.md", TeacherKind),
    ):
        text = (DOCS / "how-to" / page).read_text(encoding="utf-8")
        offered = [n for n in (*vars(protocol), *protocol.__annotations__) if not n.startswith("_")]
        assert offered
        assert [n for n in offered if f"| `{n}" not in text] == []
