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
from kdexport.nouns.profile import HardwareProfile, Number, Sourced
from kdexport.nouns.target import LOCAL, Target
from kdexport.runtimes import load_runtime

PROFILES = catalogue.profiles()
TARGETS = catalogue.targets()
WANTED_PROFILES = {
    "edge-cpu": {"raspberry-pi-4", "raspberry-pi-5", "intel-n100", "atom-x7425e"},
    "edge-gpu": {
        *("jetson-orin-nano-8gb", "jetson-orin-nano-super-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb"),
        *("jetson-xavier-nx-8gb", "jetson-agx-thor-t5000", "rtx-4060-desktop", "rtx-4060-laptop", "rtx-4090"),
        *("rtx-5090", "rtx-a2000"),
    },
    "cpu": {
        *("xeon-8375c", "xeon-8488c", "xeon-8592plus", "xeon-6980p", "epyc-7r13", "epyc-9r14", "graviton3"),
        *("graviton4", "core-i7-13700k", "core-i9-13900k"),
    },
    "datacenter-gpu": {
        *("t4", "a10g", "a30", "l4", "l40s", "a100-sxm-40gb", "a100-sxm-80gb", "h100-sxm-80gb", "h100-pcie-80gb"),
        *("h100-nvl-94gb", "h200-sxm-141gb", "b200-sxm-180gb"),
    },
}
WANTED_TARGETS = {"local-cpu", "rtx-4060", "l4", "t4", "a100", "h100", "c7i-large", "c7g-large", "core-desktop"}
CLOUDS = {  # cloud: its region in the US, in the EU, in Singapore
    "aws": ("us-east-1", "eu-central-1", "ap-southeast-1"),
    "gcp": ("us-central1", "europe-west4", "asia-southeast1"),
    "azure": ("eastus", "westeurope", "southeastasia"),
}

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
    known = profile.facts.known()
    others = {
        f"{name}.also[{index}]": other
        for name, fact in known.items()
        if isinstance(fact, Number)
        for index, other in enumerate(fact.also)
    }
    return {name: fact for name, fact in {**known, **others, **prices}.items() if fact is not None}


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
    assert len(PROFILES) >= 32
    for device_class, ids in WANTED_PROFILES.items():
        assert {p.id for p in PROFILES.values() if p.device_class == device_class} >= ids
    assert len(TARGETS) >= 24
    assert TARGETS.keys() >= WANTED_TARGETS


def test_three_clouds_are_priced_in_the_us_in_the_eu_and_in_singapore_for_cpus_and_for_gpus():
    sold = {(o.region, p.is_gpu) for p in PROFILES.values() for o in p.offerings if o.kind == "rented"}
    assert sold == {(f"{c} {r}", is_gpu) for c, regions in CLOUDS.items() for r in regions for is_gpu in (True, False)}


def test_a_device_of_ones_own_is_priced_in_every_class():
    owned = {p.device_class for p in PROFILES.values() for o in p.offerings if o.kind == "owned"}
    assert owned == WANTED_PROFILES.keys()


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
        assert profile.facts.clock_mhz
    else:
        assert profile.facts.isa
        assert profile.facts.cores
        assert profile.facts.runtime_floor_mib
        assert profile.facts.compute_capability is None


@pytest.mark.parametrize("id", PROFILES)
def test_a_cpu_that_is_rented_says_how_many_vcpus_share_a_core(id):
    profile = PROFILES[id]
    rented = [offering for offering in profile.offerings if offering.kind == "rented"]
    if profile.is_gpu or not rented:
        return
    assert profile.facts.vcpus_per_core.value in (1, 2)
    for offering in rented:
        assert profile.cores_of(offering) == offering.vcpus / profile.facts.vcpus_per_core.value


def test_a_vcpu_is_half_a_core_on_x86_with_smt_and_a_whole_one_on_graviton_and_genoa_of_aws():
    shared = {
        id: PROFILES[id].facts.vcpus_per_core.value for id in ("xeon-8488c", "epyc-9r14", "graviton3", "graviton4")
    }
    assert shared == {"xeon-8488c": 2, "epyc-9r14": 1, "graviton3": 1, "graviton4": 1}
    large = PROFILES["xeon-8488c"].offering("aws-us-east-1-c7i.large")
    assert (large.vcpus, PROFILES["xeon-8488c"].cores_of(large)) == (2, 1.0)
    assert PROFILES["xeon-8488c"].cores_of(None) == 48
    assert PROFILES["l4"].cores_of(PROFILES["l4"].offerings[0]) is None


def test_cores_that_are_not_known_to_be_shared_are_not_counted():
    unknown = PROFILES["xeon-8488c"].facts.model_copy(update={"vcpus_per_core": None})
    profile = PROFILES["xeon-8488c"].model_copy(update={"facts": unknown})
    assert profile.cores_of(profile.offerings[0]) is None


@pytest.mark.parametrize("id", PROFILES)
def test_a_rented_offering_names_region_instance_and_vcpus_and_says_its_region_in_its_id(id):
    for offering in PROFILES[id].offerings:
        if offering.kind == "rented":
            named = f"{offering.region}-{offering.instance}"  # Azure's names hold capitals and underscores
            assert offering.id == named.lower().replace(" ", "-").replace("_", "-")
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
    in_cloud = (target.offering or "").startswith(tuple(CLOUDS))
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
    for runtime in target.runtimes:
        assert load_runtime(runtime).unsupported("fp16", profile) is None


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
    assert (
        PROFILES["jetson-agx-orin-64gb-30w"].facts.cores.value == PROFILES["jetson-agx-orin-64gb"].facts.cores.value / 2
    )
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


def test_a_package_cannot_replace_a_shipped_file_silently(tmp_path, monkeypatch):
    (tmp_path / "acme_module.py").write_text("")
    (tmp_path / "l4.yaml").write_text(PROFILE.replace("id: card", "id: l4"))
    monkeypatch.syspath_prepend(tmp_path)
    install_entry_point(monkeypatch, "acme_module")
    with pytest.raises(BadInput) as caught:
        catalogue.profile("l4", "kdexport.yaml:4")
    assert str(caught.value) == (
        "kdexport.yaml:4: profile 'l4' is both in kdexport itself and in entry point 'acme' of kdexport.profiles "
        f"({tmp_path / 'l4.yaml'}); uninstall one, or copy the one that is meant to profiles/l4.yaml in a folder of "
        "KDEXPORT_CATALOGUE, which wins"
    )
    with pytest.raises(BadInput, match="'l4' is both in"):
        catalogue.profiles()
    assert catalogue.profile("t4").id == "t4"


def test_the_users_file_settles_a_name_that_two_packages_claim(folder, tmp_path_factory, monkeypatch):
    modules = tmp_path_factory.mktemp("modules")
    (modules / "acme_module.py").write_text("")
    (modules / "card.yaml").write_text(PROFILE.replace("Someone", "Acme"))
    monkeypatch.syspath_prepend(modules)
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
        ":9: facts.peak_int8_tops: 485 is 4 times peak_fp16_tflops 121, and dense int8 is twice dense fp16: a sparse "
        "int8 peak, or fp16 with FP32 accumulation? Write both dense, fp16 with FP16 accumulation"
    )


def test_an_int8_peak_that_no_chip_has_is_refused_on_a_cpu_too(folder):
    (folder / "profiles" / "card.yaml").write_text(PROFILE.replace("datacenter-gpu", "cpu").replace("242", "600"))
    with pytest.raises(BadInput, match=r"facts.peak_int8_tops: 600 is over 4.5 times peak_fp16_tflops 121: a sparse"):
        catalogue.profile("card")


def test_a_bandwidth_in_megabytes_or_terabytes_is_refused_with_the_value_that_would_do(folder):
    outside = "is outside 50 to 20,000 for class datacenter-gpu: 10^9 bytes per second are wanted; a unit slip?"
    for value, meant in (("300000", "300"), ("0.3", "300"), ("3.35", "3350")):
        said = refusal(folder, "value: 300,", f"value: {value},")
        assert said == f":7: facts.memory_bandwidth_gb_per_s: {float(value):g} {outside} {meant} would do"


def test_a_compute_capability_without_quotes_is_refused(folder):
    said = refusal(folder, 'value: "8.9"', "value: 8.9")
    assert said == ":10: facts.compute_capability.value: text is wanted, found 8.9; put it in quotes"


def test_a_rented_offering_with_a_purchase_price_is_refused(folder):
    said = refusal(folder, "price_usd_per_hour", "purchase_usd")
    assert said == ":12: offerings[0]: a rented offering has price_usd_per_hour and no purchase_usd"


def test_a_percentile_that_no_one_measures_is_refused():
    with pytest.raises(ValueError, match=r"percentile 98 is not one of 50, 90, 95, 99, 99.9"):
        Target.model_validate(TARGETS["l4"].model_dump() | {"objective": {"percentile": 98, "limit_ms": 1}})
