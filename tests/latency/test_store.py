from __future__ import annotations

from pathlib import Path

import pytest

from kdexport.errors import BadInput, Damaged
from kdexport.latency import store
from kdexport.latency.calibrated import version_of
from kdexport.measure.environment import detect, fingerprint
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.measurement import Environment
from tests.latency.planted import calibration, points


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KDEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def here() -> Environment:
    return detect(1)


@pytest.fixture(scope="module")
def taken(here: Environment) -> Calibration:
    own = {"fingerprint": fingerprint(here), "version": version_of("onnxruntime")}
    return calibration(points(["bag"], graphs=1)).model_copy(update=own)


def test_what_was_saved_is_found_again(here: Environment, taken: Calibration, cache: Path) -> None:
    assert store.load(here, "onnxruntime", "fp32") is None
    kept = store.save(taken)
    assert store.load(here, "onnxruntime", "fp32") == taken
    folder = cache / "calibrations" / taken.fingerprint
    assert kept == folder / f"onnxruntime-{taken.version}-fp32-1t.json"
    assert list(folder.iterdir()) == [kept]  # nothing half-written beside it


def test_other_cells_and_threads_are_other_files(here: Environment, taken: Calibration) -> None:
    store.save(taken)
    assert store.load(here, "onnxruntime", "int8") is None
    assert store.load(here.model_copy(update={"threads": 2}), "onnxruntime", "fp32") is None


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 12}, {"version": "0.1"}])
def test_of_another_machine_or_version_nothing_is_returned(
    here: Environment, taken: Calibration, change: dict[str, str]
) -> None:
    store.save(taken.model_copy(update=change))
    assert store.load(here, "onnxruntime", "fp32") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"fingerprint": "f"}'])
def test_a_damaged_file_is_named_with_what_to_do(here: Environment, taken: Calibration, content: str) -> None:
    path = store.save(taken)
    path.write_text(content)
    with pytest.raises(Damaged, match=f"{path.name}.*delete it"):
        store.load(here, "onnxruntime", "fp32")


def test_a_file_under_another_machines_name_is_refused(here: Environment, taken: Calibration) -> None:
    other = store.save(taken.model_copy(update={"fingerprint": "0" * 12}))
    path = store.save(taken)
    path.write_bytes(other.read_bytes())
    with pytest.raises(Damaged, match="of machine 000000000000"):
        store.load(here, "onnxruntime", "fp32")


def test_a_calibration_from_elsewhere_is_checked_before_it_is_kept(tmp_path: Path, taken: Calibration) -> None:
    path = store.save(taken)
    assert store.read(path) == taken
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"points": []}')
    with pytest.raises(BadInput, match="not a calibration"):
        store.read(wrong)
    with pytest.raises(BadInput, match="cannot be read"):
        store.read(tmp_path / "absent.json")


def test_without_a_variable_it_is_kept_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDEXPORT_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert store.folder() == Path("/home/somebody/.cache/kdexport/calibrations")
