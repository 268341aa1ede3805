"""Teachers behind an endpoint in a project: read, priced before anything is asked, and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdexport import pipeline
from kdexport.cli import main
from kdexport.errors import BadInput
from kdexport.project_file import load_project, refuse_forbidden

CHAT = "chat: {{url: 'http://127.0.0.1:9/v1', model: small, describe: {{path: a way}}{more}}}"
PRICES = ", usd_per_million_input_tokens: 10, usd_per_million_output_tokens: 10"
ROWS = [("way number", "path"), ("car number", "car")]


def project(folder: Path, teacher: str, licence: str = "") -> Path:
    rows = [f"{text} {i},{label}" for i in range(20) for text, label in ROWS]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]))
    path = folder / "kdexport.yaml"
    path.write_text(
        f"name: p\ntask: text_classification\nteachers:\n  - {teacher}\n{licence}"
        "data: {train: {path: train.csv}}\ntargets: [local-cpu]\ntraining: {augment_per_row: 0}\n"
    )
    return path


def told(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["teacher", "cost", str(path), "--out", str(path.parent / "run"), *words])


def test_a_models_name_is_no_path_and_neither_is_a_class_that_is_called_like_a_key(tmp_path: Path) -> None:
    source = load_project(project(tmp_path, CHAT.format(more=""))).project.teachers[0]
    assert source.chat is not None
    assert (source.chat.model, source.chat.describe) == ("small", {"path": "a way"})


def test_the_tokenizer_of_a_served_model_is_a_path(tmp_path: Path) -> None:
    served = "open_inference: {url: 'http://h', model: m, tokenizer: tok}"
    source = load_project(project(tmp_path, served)).project.teachers[0]
    assert source.open_inference is not None
    assert source.open_inference.tokenizer == tmp_path / "tok"


def test_a_cost_is_told_with_no_server_there(tmp_path: Path) -> None:
    result = told(project(tmp_path, CHAT.format(more=PRICES)), "--json")
    assert result.exit_code == 0
    (cost,) = json.loads(result.stdout)
    assert (cost["texts"], cost["answered"], cost["requests"]) == (40, 0, 40)
    usd = (cost["input_tokens"]["value"] + cost["output_tokens"]["value"]) / 1e5
    assert cost["usd"]["value"] == pytest.approx(usd)


def test_a_table_is_for_people(tmp_path: Path) -> None:
    result = told(project(tmp_path, CHAT.format(more=PRICES)))
    assert "Still to ask (estimated)" in result.stdout
    assert "bytes a token" in result.stdout


def test_a_cap_that_will_be_reached_is_a_no(tmp_path: Path) -> None:
    result = told(project(tmp_path, CHAT.format(more=PRICES + ", max_usd: 0.001")))
    assert result.exit_code == 1
    assert "max_usd 0.001 leaves 0.001" in result.stderr


def test_a_project_without_an_endpoint_has_nothing_to_tell(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no teacher behind an endpoint"):
        pipeline.teacher_cost(project(tmp_path, "function: 'math:sqrt'"), tmp_path / "run")


def test_a_licence_that_forbids_it_names_the_model(tmp_path: Path) -> None:
    path = project(tmp_path, CHAT.format(more=""), "    licence: {distillation: forbidden, source: terms}\n")
    with pytest.raises(BadInput, match="licence of small forbids distillation"):
        refuse_forbidden(load_project(path).project, path)
