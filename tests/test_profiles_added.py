"""A device that nobody here knows: one YAML file makes it usable, without touching code; so does a package."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kdexport import catalogue, project_file
from kdexport.errors import BadInput
from kdexport.new_target import Wishes, new_target
from tests.markdown import code_blocks

REPOSITORY = Path(__file__).parents[1]
HOW_TO = (REPOSITORY / "docs" / "how-to" / "add-a-device.md").read_text()


def device_of_the_how_to() -> str:
    return next(body for language, body in code_blocks(HOW_TO) if language == "yaml" and "device_class:" in body)


def install(site: Path, entry: str = "acme", yaml: str = "", name: str = "my-board.yaml") -> None:
    """A package as pip leaves it: a folder with YAML and no code, and the metadata that declares it."""
    devices, info = site / "acme_devices", site / "acme_devices-1.0.dist-info"
    devices.mkdir(parents=True)
    info.mkdir()
    (devices / "__init__.py").write_text("raise RuntimeError('a catalogue is read, never run')")
    (devices / name).write_text(yaml or device_of_the_how_to())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-devices\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kdexport.profiles]\n{entry} = acme_devices\n")


def test_one_yaml_file_is_enough_for_a_target_to_live_on_the_device(tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "my-board.yaml").write_text(device_of_the_how_to())
    monkeypatch.setenv("KDEXPORT_CATALOGUE", str(tmp_path))
    path, _ = new_target(Wishes("my-board", 20.0), tmp_path / "mine.yaml")
    target, profile = project_file.load_target(str(path))
    assert profile == catalogue.profile("my-board")
    assert target.profile == "my-board"
    assert profile.offering(target.offering).purchase_usd.value == 80


def test_an_installed_package_adds_a_device_through_its_entry_point(tmp_path, monkeypatch):
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert catalogue.profile("my-board").device_class == "edge-cpu"
    path, _ = new_target(Wishes("my-board", 20.0), tmp_path / "mine.yaml")
    assert project_file.load_target(str(path))[1] == catalogue.profile("my-board")
    assert "acme_devices" not in sys.modules


def test_a_fresh_process_sees_the_package_too(tmp_path):
    install(tmp_path / "site")
    code = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        from kdexport.cli import main
        main(["profiles", "show", "my-board"])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], capture_output=True, text=True, timeout=60, check=True
    )
    assert "my-board: My board, 8 GB (Example, edge-cpu, aarch64, 15 W)" in done.stdout


def test_a_package_that_ships_a_known_name_is_named_with_what_to_do(tmp_path, monkeypatch):
    l4 = catalogue._places("profiles")["l4"].path.read_text()
    install(tmp_path / "site", yaml=l4, name="l4.yaml")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(BadInput) as caught:
        catalogue.profile("l4")
    said = str(caught.value)
    assert "both in kdexport itself and in entry point 'acme' of kdexport.profiles of package acme-devices" in said
    assert "copy the one that is meant to profiles/l4.yaml in a folder of KDEXPORT_CATALOGUE, which wins" in said


def test_one_package_may_declare_its_folder_twice(tmp_path, monkeypatch):
    install(tmp_path / "site")
    (tmp_path / "site" / "acme_devices-1.0.dist-info" / "entry_points.txt").write_text(
        "[kdexport.profiles]\nacme = acme_devices\nboards = acme_devices\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert catalogue.profile("my-board").vendor == "Example"
