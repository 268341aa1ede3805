"""A number in the wrong unit, or a sparse peak, is refused wherever it stands in a profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kdexport import catalogue
from kdexport.errors import BadInput
from kdexport.nouns.plausible import DENSE_FP16_OVER_FP32
from kdexport.nouns.profile import HardwareProfile
from kdexport.storage.yaml_documents import read_noun

PROFILES = catalogue.profiles()
# key: how a slip of its unit multiplies it
SLIPS = {
    "memory_bandwidth_gb_per_s": (1e3, 1e-3),  # MB/s, TB/s
    "power_w": (1e3, 1e-3),  # mW, kW
    "peak_fp32_tflops": (1e3, 1e-3),  # GFLOP/s, PFLOP/s
    "peak_fp16_tflops": (1e3, 1e-3),
    "peak_bf16_tflops": (1e3, 1e-3),
    "peak_int8_tops": (1e3, 1e-3),
    "memory_gib": (1024, 1 / 1024),  # MiB, TiB
    "clock_mhz": (1e3, 1e-3),  # kHz, GHz
    "sustained_share": (100,),  # per cent
    "runtime_floor_mib": (1024, 1 / 1024),  # KiB, GiB
}
STATED = [(id, key) for id, p in PROFILES.items() for key in SLIPS if key in p.facts.known()]


def changed(profile: HardwareProfile, **values: float) -> HardwareProfile:
    document = profile.model_dump()
    for key, value in values.items():
        document["facts"][key]["value"] = value
    return HardwareProfile.model_validate(document)


@pytest.mark.parametrize(("id", "key"), STATED)
def test_every_shipped_value_is_refused_in_another_unit(id, key):
    value = getattr(PROFILES[id].facts, key).value
    for slip in SLIPS[key]:
        with pytest.raises(ValidationError, match=r"wanted|unit slip"):
            changed(PROFILES[id], **{key: value * slip})


@pytest.mark.parametrize("id", [id for id, p in PROFILES.items() if p.is_gpu])
def test_every_shipped_gpu_is_refused_with_its_int8_peak_read_sparse(id):
    with pytest.raises(ValidationError, match="sparse"):
        changed(PROFILES[id], peak_int8_tops=2 * PROFILES[id].facts.peak_int8_tops.value)


# of the A10G a maker's cap hides the doubling: 140 fp16 would still be dense for its chip
@pytest.mark.parametrize("id", [id for id, p in PROFILES.items() if p.is_gpu and id != "a10g"])
def test_every_shipped_gpu_is_refused_with_both_peaks_read_sparse(id):
    facts = PROFILES[id].facts
    with pytest.raises(ValidationError, match=r"sparse peak\? Write the dense one, half of it"):
        changed(
            PROFILES[id],
            peak_fp16_tflops=2 * facts.peak_fp16_tflops.value,
            peak_int8_tops=2 * facts.peak_int8_tops.value,
        )


def test_the_dense_ratio_of_a_chip_is_known_for_every_shipped_gpu():
    assert {p.facts.compute_capability.value for p in PROFILES.values() if p.is_gpu} <= DENSE_FP16_OVER_FP32.keys()


def test_a_gpu_whose_chip_is_not_known_may_have_any_ratio_of_fp16_to_fp32():
    document = PROFILES["l4"].model_dump()
    document["facts"]["compute_capability"]["value"] = "15.0"
    document["facts"]["peak_fp16_tflops"]["value"] = 242
    assert HardwareProfile.model_validate(document).facts.peak_fp16_tflops.value == 242


def test_a_tf32_peak_is_not_taken_for_fp32():
    with pytest.raises(ValidationError, match=r"494.7 over 132 cores is 3.7 a core"):
        changed(PROFILES["h100-sxm-80gb"], peak_fp32_tflops=494.7)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value: 121", "value: 242", "facts.peak_fp16_tflops: 242 is 7.99 times peak_fp32_tflops 30.29; compute "),
        ("value: 72,", "value: 72000,", "facts.power_w: 72000 is outside 20 to 2,500 for class datacenter-gpu: watts"),
        ("value: 24,", "value: 24576,", "facts.memory_gib: 24576 is outside 8 to 1,024 for class datacenter-gpu"),
        ("value: 0.74", "value: 74", "facts.sustained_share: 74 is outside 0.05 to 1 for any device: a share of"),
        (
            "value: passive",
            "value: fan",
            "facts.cooling: 'fan' is neither passive nor active; say the rest in the note",
        ),
        ("value: 300.1,", "value: -300.1,", "facts.memory_bandwidth_gb_per_s.value: Input should be greater than 0"),
    ],
)
def test_the_file_is_refused_at_the_line_of_the_key_with_what_was_found(tmp_path, old, new, said):
    text = catalogue._places("profiles")["l4"].path.read_text()
    assert text.count(old) >= 1
    path = tmp_path / "l4.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        read_noun(path, HardwareProfile)
    assert said in str(caught.value)
    key = said.split(":")[0].removeprefix("facts.").removesuffix(".value")
    named = next(n for n, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{key}:"))
    line = int(str(caught.value).removeprefix(f"{path}:").split(":")[0])
    assert named <= line <= named + 1  # the key, or the value below it


def test_a_fact_without_a_source_is_refused_at_its_line(tmp_path: Path):
    text = catalogue._places("profiles")["l4"].path.read_text()
    (tmp_path / "l4.yaml").write_text(text.replace("power_w: {value: 72, source: *gpudb,", "power_w: {value: 72,"))
    with pytest.raises(BadInput, match=r"l4.yaml:\d+: facts.power_w: required key 'source' is missing"):
        read_noun(tmp_path / "l4.yaml", HardwareProfile)
