from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from kdexport import registry
from kdexport.errors import BadInput


def test_a_file_in_the_folder_is_a_name() -> None:
    assert {"kl", "logit_standardisation"} <= set(registry.names("losses"))
    assert {"convolution", "transformer", "image_convolution"} <= set(registry.names("backbones"))
    assert {"text_classification", "image_classification"} <= set(registry.names("tasks"))
    assert {"model", "onnx", "function", "scores", "fit"} <= set(registry.names("teachers"))


def test_a_file_that_starts_with_an_underscore_is_no_name() -> None:
    assert not [name for name in registry.names("teachers") if name.startswith("_")]


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"^p\.yaml:3: task: unknown task 'text_clasification'; did you mean 'text_cla"):
        registry.load("tasks", "text_clasification", "p.yaml:3: task")


def test_a_name_unlike_any_other_is_answered_with_all_of_them() -> None:
    with pytest.raises(BadInput, match=r"unknown loss 'zzzz'; known: .*kl"):
        registry.load("losses", "zzzz")


def test_a_strangers_entry_point_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name="theirs", value="kdexport.losses.kl", group="kdexport.losses")

    def entry_points(group: str, name: str = "theirs") -> list[EntryPoint]:
        return [entry] if (group, name) == (entry.group, entry.name) else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert "theirs" in registry.names("losses")
    assert registry.load("losses", "theirs").__name__ == "kdexport.losses.kl"
