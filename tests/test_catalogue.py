"""The shipped catalogue keeps its contract, and a wrong file is refused with words that mend it."""

from __future__ import annotations

import datetime
import os
import re
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from kdexport import catalogue
from kdexport.errors import BadInput, Damaged
from kdexport.nouns.profile import Facts, HardwareProfile, Sourced
from kdexport.nouns.target import LOCAL, Target

PROFILES = catalogue.profiles()
TARGETS = catalogue.targets()
WANTED_PROFILES = {"raspberry-pi-5", "rtx-4060-desktop", "xeon-8488c", "graviton3", "core-i7-13700k", "l4", "a10g"}
WANTED_TARGETS = {"local-cpu", "rtx-4060", "l4", "t4", "a100", "h100", "c7i-large", "c7g-large", "core-desktop"}

PROFILE = """\
id: card
name: A card
device_class: datacenter-gpu
vendor: Someone
host: x86-64
facts:
  memory_bandwidth_gb_per_s: {value: 300, source: the data sheet, date: 2025-12-15}
  peak_fp16_tflops: {value: 121, source: the data sheet, date: 2025-12-15}
  peak_int8_tops: {value: 242, source: the data sheet, date: 2025-12-15}
  compute_capability: {value: "8.9", source: the data sheet, date: 2025-12-15}
offerings:
  - id: cloud-card.small
    kind: rented
    price_usd_per_hour: {value: 0.8, source: the price list, date: 2026-07-20}
"""
TARGET = """\
id: shop
profile: card
offering: cloud-card.small
runtimes: [tensorrt]
precisions: [fp16]
objective: {limit_ms: 10}
traffic: {mean_requests_per_s: 5, peak_requests_per_s: 20}
"""


def facts_of(profile: HardwareProfile) -> dict[str, Sourced]:
    """Every statement of fact in a profile, its prices too, by a readable name."""
    prices = {
        f"{offering.id}.{name}": fact
        for offering in profile.offerings
        for name, fact in (("per_hour", offering.price_usd_per_hour), ("purchase", offering.purchase_usd))
    }
    known = {name: getattr(profile.facts, name) for name in Facts.model_fields} | prices
    return {name: fact for name, fact in known.items() if fact is not None}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A user's catalogue with one profile and one target."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "targets").mkdir()
    (tmp_path / "profiles" / "card.yaml").write_text(PROFILE)
    (tmp_path / "targets" / "shop.yaml").write_text(TARGET)
    monkeypatch.setenv("KDEXPORT_CATALOGUE", str(tmp_path))
    return tmp_path


def refusal(folder: Path, old: str, new: str) -> str:
    """What is said of the profile `card` with `old` replaced by `new`, after the folder's name."""
    path = folder / "profiles" / "card.yaml"
    assert old in PROFILE
    path.write_text(PROFILE.replace(old, new))
    with pytest.raises(BadInput) as caught:
        catalogue.profile("card")
    return str(caught.value).removeprefix(f"{path}")


# The contract of every file found.


def test_the_wanted_devices_and_targets_are_shipped():
    assert len(PROFILES) >= 12
    assert PROFILES.keys() >= WANTED_PROFILES
    assert len(TARGETS) >= 11
    assert TARGETS.keys() >= WANTED_TARGETS


@pytest.mark.parametrize("id", PROFILES)
def test_every_fact_of_a_profile_has_a_source_and_a_date_and_none_is_from_memory(id):
    facts = facts_of(PROFILES[id])
    assert facts
    for name, fact in facts.items():
        assert not re.search(r"\[(memory|single-source)\]", fact.source + fact.note), name
        assert datetime.date(2017, 1, 1) < fact.date <= datetime.date.today(), name


@pytest.mark.parametrize("id", PROFILES)
def test_a_profile_holds_the_facts_that_its_class_needs(id):
    profile = PROFILES[id]
    if profile.is_gpu:
        assert re.fullmatch(r"\d+\.\d", profile.facts.compute_capability.value)
        assert profile.facts.memory_bandwidth_gb_per_s
        assert profile.facts.peak_fp16_tflops
        assert profile.facts.power_w
    else:
        assert profile.facts.isa
        assert profile.facts.cores
        assert profile.facts.compute_capability is None


@pytest.mark.parametrize("id", PROFILES)
def test_a_rented_offering_names_region_instance_and_vcpus_and_says_its_region_in_its_id(id):
    for offering in PROFILES[id].offerings:
        if offering.kind == "rented":
            assert offering.id == f"{offering.region.replace(' ', '-')}-{offering.instance}"
            assert offering.vcpus


@pytest.mark.parametrize("id", PROFILES)
def test_a_device_that_can_be_bought_says_what_it_draws(id):
    profile = PROFILES[id]
    if any(offering.kind == "owned" for offering in profile.offerings):
        assert profile.facts.power_w


@pytest.mark.parametrize("id", TARGETS)
def test_the_profile_and_the_offering_of_a_target_exist(id):
    target = TARGETS[id]
    if target.profile == LOCAL:
        assert target.offering is None
    else:
        catalogue.check(target, catalogue.profile(target.profile))


@pytest.mark.parametrize("id", TARGETS)
def test_a_shipped_target_assumes_its_traffic_and_spares_a_replica_in_the_cloud_only(id):
    target = TARGETS[id]
    in_cloud = (target.offering or "").startswith(("aws", "gcp"))
    assert target.traffic.assumed
    assert target.redundancy == (1 if in_cloud else 0)
    assert target.objective.scenario == ("server" if in_cloud else "single_stream")


@pytest.mark.parametrize("id", TARGETS)
def test_a_target_allows_only_runtimes_that_its_device_can_run(id):
    target = TARGETS[id]
    profile = PROFILES.get(target.profile)
    if profile is None or not profile.is_gpu:
        assert set(target.runtimes) <= {"onnxruntime", "openvino"}
        assert set(target.precisions) == {"fp32", "int8"}
        return
    assert set(target.runtimes) <= {"tensorrt", "tensorrt_rtx"}
    if "tensorrt_rtx" in target.runtimes:  # docs.nvidia.com, TensorRT-RTX 1.4 support matrix
        assert profile.host == "x86-64"
        assert profile.facts.compute_capability.value in {"7.5", "8.6", "8.9", "12.0"}


@pytest.mark.parametrize("id", [*PROFILES, *TARGETS])
def test_a_shipped_file_begins_with_one_line_that_says_what_it_is(id):
    root = Path(catalogue.__file__).parents[1]
    paths = [p for p in (root / "profiles" / f"{id}.yaml", root / "targets" / f"{id}.yaml") if p.exists()]
    if not paths:
        pytest.skip("the catalogue is read from an installed wheel")
    for path in paths:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert lines[1].startswith("id: ")


def test_the_power_mode_of_a_jetson_is_part_of_its_profile_and_moves_its_peaks():
    slow, fast = PROFILES["jetson-orin-nano-8gb"], PROFILES["jetson-orin-nano-super-8gb"]
    assert (slow.power_mode, fast.power_mode) == ("15 W", "MAXN_SUPER, 25 W")
    assert fast.facts.peak_fp16_tflops.value / slow.facts.peak_fp16_tflops.value == pytest.approx(1.63, abs=0.01)


# Where entries are found.


def test_a_profile_and_a_target_of_the_user_are_found_beside_the_shipped_ones(folder):
    assert catalogue.profiles().keys() == PROFILES.keys() | {"card"}
    assert catalogue.targets().keys() == TARGETS.keys() | {"shop"}
    catalogue.check(catalogue.target("shop"), catalogue.profile("card"))


def test_the_users_file_wins_over_the_shipped_file_of_the_same_name(folder):
    (folder / "profiles" / "l4.yaml").write_text(PROFILE.replace("id: card", "id: l4"))
    assert catalogue.profile("l4").vendor == "Someone"


def test_of_several_user_folders_the_first_wins(folder, tmp_path_factory, monkeypatch):
    second = tmp_path_factory.mktemp("second")
    (second / "profiles").mkdir()
    (second / "profiles" / "card.yaml").write_text(PROFILE.replace("Someone", "Another"))
    monkeypatch.setenv("KDEXPORT_CATALOGUE", os.pathsep.join([str(second), str(folder)]))
    assert catalogue.profile("card").vendor == "Another"
    assert catalogue.target("shop").id == "shop"


def test_a_user_folder_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("KDEXPORT_CATALOGUE", "/nowhere/at/all")
    with pytest.raises(BadInput, match="KDEXPORT_CATALOGUE: '/nowhere/at/all' is not a folder; correct the variable"):
        catalogue.profiles()


def test_an_installed_package_adds_profiles_without_being_run(tmp_path, monkeypatch):
    package = tmp_path / "acme_devices"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('run')")
    (package / "card.yaml").write_text(PROFILE)
    monkeypatch.syspath_prepend(tmp_path)
    install_entry_point(monkeypatch, "acme_devices")
    assert catalogue.profile("card").vendor == "Someone"
    assert "acme_devices" not in sys.modules


def test_an_installed_module_adds_the_yaml_files_beside_it(tmp_path, monkeypatch):
    (tmp_path / "acme_module.py").write_text("")
    (tmp_path / "card.yml").write_text(PROFILE)
    monkeypatch.syspath_prepend(tmp_path)
    install_entry_point(monkeypatch, "acme_module")
    assert catalogue.profile("card").vendor == "Someone"


@pytest.mark.parametrize("value", ["no_such_package", "no_such_package.devices"])
def test_an_entry_point_that_names_nothing_is_an_error(value, monkeypatch):
    install_entry_point(monkeypatch, value)
    with pytest.raises(BadInput, match=f"entry point 'acme' of kdexport.profiles: '{value}' is not a package"):
        catalogue.profiles()


def test_an_installed_wheel_holds_its_files_below_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "kdexport" / "catalogue.py"))
    with pytest.raises(Damaged, match="the shipped profiles are not there; reinstall kdexport"):
        catalogue.profiles()
    shipped = tmp_path / "kdexport" / "_catalogue" / "profiles"
    shipped.mkdir(parents=True)
    (shipped / "card.yaml").write_text(PROFILE)
    assert catalogue.profiles().keys() == {"card"}


def install_entry_point(monkeypatch, value: str) -> None:
    entries = EntryPoints([EntryPoint("acme", value, "kdexport.profiles")])
    monkeypatch.setattr(catalogue, "entry_points", lambda group: entries.select(group=group))


def test_one_profile_is_read_without_opening_the_others(folder):
    (folder / "profiles" / "broken.yaml").write_text("id: [")
    assert catalogue.profile("card").id == "card"
    with pytest.raises(BadInput, match=r"broken.yaml:\d+: not valid YAML"):
        catalogue.profiles()


def test_a_target_may_be_a_path(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("project") / "mine.yaml"
    path.write_text(TARGET)
    assert catalogue.target(str(path)) == catalogue.target("shop")


# What is said of a wrong name or file.


def test_a_misspelt_profile_is_answered_with_the_nearest():
    with pytest.raises(BadInput) as caught:
        catalogue.profile("gravitron3")
    said = "unknown profile 'gravitron3'; did you mean 'graviton3'?; new ones are found through KDEXPORT_CATALOGUE"
    assert str(caught.value) == said


def test_a_misspelt_target_is_answered_with_the_nearest_and_with_the_place_that_named_it():
    with pytest.raises(BadInput) as caught:
        catalogue.target("c7i-lrge", where="project.yaml:4")
    assert str(caught.value) == "project.yaml:4: unknown target 'c7i-lrge'; did you mean 'c7i-large'?"


def test_a_target_file_that_is_missing_is_named(tmp_path):
    path = tmp_path / "absent.yaml"
    with pytest.raises(BadInput) as caught:
        catalogue.target(str(path))
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory)"


def test_a_misspelt_offering_is_answered_with_the_nearest(folder):
    target = catalogue.target("shop").model_copy(update={"offering": "cloud-card.smal"})
    with pytest.raises(BadInput) as caught:
        catalogue.check(target, catalogue.profile("card"))
    assert str(caught.value) == "target 'shop': unknown offering 'cloud-card.smal'; did you mean 'cloud-card.small'?"


def test_an_offering_of_a_profile_without_a_price_is_refused():
    target = TARGETS["jetson-agx-orin"].model_copy(update={"offering": "owned"})
    with pytest.raises(BadInput, match="offering 'owned' is wanted, but profile 'jetson-agx-orin-64gb' has none"):
        catalogue.check(target, PROFILES["jetson-agx-orin-64gb"])


def test_a_target_is_not_checked_against_another_profile():
    with pytest.raises(BadInput, match="target 'l4': lives on profile 'l4', not on 't4'; pass that profile"):
        catalogue.check(TARGETS["l4"], PROFILES["t4"])


def test_the_local_target_fits_any_detected_machine():
    catalogue.check(TARGETS["local-cpu"], PROFILES["xeon-8488c"])


def test_a_file_whose_name_is_not_its_id_is_refused(folder):
    said = refusal(folder, "id: card\n", "id: other\n")
    assert said == ":1: id: is 'other', but the file is named 'card.yaml'; rename one"


def test_an_unknown_key_is_named_with_file_line_and_the_nearest(folder):
    assert refusal(folder, "vendor: Someone", "vendr: Someone") == ":4: vendr: unknown key; did you mean 'vendor'?"


def test_an_unknown_fact_is_named_with_the_nearest(folder):
    said = refusal(folder, "peak_int8_tops", "peak_int8_tflops")
    assert said == ":9: facts.peak_int8_tflops: unknown key; did you mean 'peak_int8_tops'?"


def test_an_unknown_key_of_an_offering_is_named_with_the_nearest(folder):
    said = refusal(folder, "    kind: rented", "    kind: rented\n    vcpu: 2")
    assert said == ":14: offerings[0].vcpu: unknown key; did you mean 'vcpus'?"


def test_a_fact_without_a_source_is_refused(folder):
    said = refusal(folder, "{value: 300, source: the data sheet, date: 2025-12-15}", "{value: 300, date: 2025-12-15}")
    assert said == ":7: facts.memory_bandwidth_gb_per_s: required key 'source' is missing"


def test_a_fact_from_memory_is_refused(folder):
    said = refusal(folder, "{value: 300, source: the data sheet", "{value: 300, source: '[memory]'")
    assert said == (
        ":7: facts.memory_bandwidth_gb_per_s.source: a fact tagged [memory] is not sourced; confirm it or leave it out"
    )


def test_a_date_that_names_a_month_only_is_refused(folder):
    said = refusal(folder, "2026-07-20", "2026-07")
    assert said.startswith(":14: offerings[0].price_usd_per_hour.date: Input should be a valid date")


def test_a_sparse_int8_peak_of_a_gpu_is_refused(folder):
    assert refusal(folder, "value: 242", "value: 485") == (
        ":6: facts: peak_int8_tops 485 is over 2.2 times peak_fp16_tflops 121: a sparse int8 peak, "
        "or fp16 with FP32 accumulation? Write both dense, fp16 with FP16 accumulation"
    )


def test_an_int8_peak_that_no_chip_has_is_refused_on_a_cpu_too(folder):
    (folder / "profiles" / "card.yaml").write_text(PROFILE.replace("datacenter-gpu", "cpu").replace("242", "600"))
    with pytest.raises(BadInput, match=r"peak_int8_tops 600 is over 4.5 times peak_fp16_tflops 121: a sparse peak"):
        catalogue.profile("card")


def test_a_bandwidth_in_megabytes_or_terabytes_is_refused(folder):
    wanted = " for class datacenter-gpu: a unit slip? Write 10^9 bytes per second"
    for value in ("300000", "0.3", "3.35"):
        said = refusal(folder, "value: 300,", f"value: {value},")
        assert said == f":6: facts: memory_bandwidth_gb_per_s {float(value):g} is outside 50 to 20,000{wanted}"


def test_the_slowest_memory_is_caught_in_megabytes_too():
    facts = PROFILES["raspberry-pi-5"].model_dump()
    facts["facts"]["memory_bandwidth_gb_per_s"]["value"] *= 1000
    with pytest.raises(ValueError, match="17100 is outside 1 to 4,000 for class edge-cpu"):
        HardwareProfile.model_validate(facts)


def test_a_compute_capability_without_quotes_is_refused(folder):
    said = refusal(folder, 'value: "8.9"', "value: 8.9")
    assert said == ":10: facts.compute_capability.value: text is wanted, found 8.9; put it in quotes"


def test_a_rented_offering_with_a_purchase_price_is_refused(folder):
    said = refusal(folder, "price_usd_per_hour", "purchase_usd")
    assert said == ":12: offerings[0]: a rented offering has price_usd_per_hour and no purchase_usd"


def test_a_percentile_that_no_one_measures_is_refused():
    with pytest.raises(ValueError, match=r"percentile 98 is not one of 50, 90, 95, 99, 99.9"):
        Target.model_validate(TARGETS["l4"].model_dump() | {"objective": {"percentile": 98, "limit_ms": 1}})
