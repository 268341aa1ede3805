"""`kdexport targets new` writes a whole, commented target that loads, or says why not and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdexport import catalogue, project_file
from kdexport.cli import main
from kdexport.errors import BadInput
from kdexport.new_target import Wishes, new_target

SERVED = [id for id in catalogue.names("profiles") if id != "jetson-xavier-nx-8gb"]


def written(tmp_path: Path, profile: str, **wishes: object):
    path, target = new_target(Wishes(profile, 5.0, **wishes), tmp_path / "mine.yaml")
    return path.read_text(), target


@pytest.mark.parametrize("id", [*SERVED, "local"])
def test_a_target_of_every_device_loads_with_nothing_said_but_the_objective(tmp_path, id):
    path, target = new_target(Wishes(id, 5.0), tmp_path / "mine.yaml")
    loaded, profile = project_file.load_target(str(path))
    assert loaded == target
    assert (profile.id if profile else "local") == id
    assert (target.id, target.objective.limit_ms, target.traffic.assumed) == ("mine", 5.0, True)


def test_the_cheapest_device_hour_is_chosen_and_the_file_says_so(tmp_path):
    text, target = written(tmp_path, "a100-sxm-40gb")
    assert target.offering == "aws-us-east-1-p4d.24xlarge"  # 2.74 USD for each of eight, 3.67 for one of GCP
    assert "# the cheapest known; all: kdexport profiles show a100-sxm-40gb" in text


def test_a_device_without_an_offering_leaves_the_cost_blank(tmp_path):
    text, target = written(tmp_path, "jetson-agx-orin-64gb")
    assert target.offering is None
    assert "its cost stays blank" in text


@pytest.mark.parametrize(
    ("profile", "scenario", "redundancy", "runtimes"),
    [
        ("l4", "server", 1, ("tensorrt_rtx", "tensorrt")),
        ("h100-sxm-80gb", "server", 1, ("tensorrt",)),
        ("rtx-4090", "single_stream", 0, ("tensorrt_rtx", "tensorrt")),
        ("jetson-agx-orin-64gb", "single_stream", 0, ("tensorrt",)),
        ("xeon-8488c", "server", 1, ("onnxruntime", "openvino")),
        ("graviton4", "server", 1, ("onnxruntime",)),
        ("raspberry-pi-5", "single_stream", 0, ("onnxruntime",)),
    ],
)
def test_defaults_follow_the_class_of_the_device(tmp_path, profile, scenario, redundancy, runtimes):
    _, target = written(tmp_path, profile)
    assert (target.objective.scenario, target.redundancy, target.runtimes) == (scenario, redundancy, runtimes)


def test_what_is_said_is_taken(tmp_path):
    text, target = written(
        tmp_path,
        "l4",
        offering="gcp-asia-southeast1-g2-standard-4",
        runtimes=("tensorrt",),
        precisions=("fp16",),
        mean_requests_per_s=40.0,
        peak_requests_per_s=200.0,
        max_bytes=2_000_000,
    )
    assert target.offering == "gcp-asia-southeast1-g2-standard-4"
    assert (target.runtimes, target.precisions) == (("tensorrt",), ("fp16",))
    assert (target.traffic.mean_requests_per_s, target.traffic.peak_requests_per_s) == (40, 200)
    assert not target.traffic.assumed
    assert target.limits.artifact_bytes == 2_000_000
    assert text.startswith("# GCP g2-standard-4 in asia-southeast1, written by `kdexport targets new`.\nid: mine\n")


def test_half_of_the_traffic_keeps_the_proportion_and_counts_as_assumed(tmp_path):
    _, target = written(tmp_path, "l4", mean_requests_per_s=1.0)
    assert (target.traffic.peak_requests_per_s, target.traffic.assumed) == (3, True)
    _, target = new_target(Wishes("l4", 5.0, peak_requests_per_s=9.0), tmp_path / "other.yaml")
    assert target.traffic.mean_requests_per_s == 3


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes("l5", 5.0), "--profile: unknown profile 'l5'; did you mean 'l4'?"),
        (Wishes("l4", 5.0, offering="aws-us-east1-g6.xlarge"), "did you mean 'aws-us-east-1-g6.xlarge'?"),
        (Wishes("jetson-agx-orin-64gb", 5.0, offering="owned"), "this device has no offering; leave it out"),
        (Wishes("l4", 5.0, runtimes=("tensorr",)), "--runtime: unknown runtime 'tensorr'; did you mean 'tensorrt'?"),
        (Wishes("graviton3", 5.0, runtimes=("tensorrt",)), "--runtime tensorrt: cannot serve there: graviton3 is not"),
        (Wishes("jetson-xavier-nx-8gb", 5.0), "no runtime serves it: jetson-xavier-nx-8gb has compute capability 7.2"),
        (Wishes("l4", 5.0, mean_requests_per_s=9.0, peak_requests_per_s=3.0), "--peak-rps 3 is below --rps 9"),
        (Wishes("l4", 5.0, name="Upper Case"), "id: String should match pattern"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path, wishes, said):
    with pytest.raises(BadInput) as caught:
        new_target(wishes, tmp_path / "mine.yaml")
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept_unless_it_is_forced(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    with pytest.raises(BadInput, match="is there already; --force writes over it"):
        new_target(Wishes("l4", 5.0), path)
    assert path.read_text() == "mine"
    new_target(Wishes("l4", 5.0), path, force=True)
    assert project_file.load_target(str(path))[0].profile == "l4"


def test_the_verb_names_the_file_after_device_and_objective(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["targets", "new", "--profile", "l4", "--p99-ms", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["id"] == "l4-p99-0.5ms"
    checked = CliRunner().invoke(main, ["targets", "validate", "l4-p99-0.5ms.yaml"])
    assert (checked.exit_code, checked.stdout) == (0, "l4-p99-0.5ms.yaml: ok\n")
