"""`profiles detect`: this machine as the kernel, the control group and the NVIDIA driver show it, as a usable file."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
from click.testing import CliRunner

from kdexport import catalogue_check
from kdexport.cli import main
from kdexport.errors import BadInput
from kdexport.measure import gpus as gpus_module
from kdexport.measure.environment import detect
from kdexport.measure.gpus import gpus
from kdexport.measure.machine import Seen, look
from kdexport.nouns.profile import Detected, Gpu, HardwareProfile
from kdexport.stages.detect import gpu_profile, local_profile
from kdexport.storage.yaml_documents import read_noun

L4 = Gpu(
    index=0,
    name="NVIDIA L4",
    memory_gib=22.5,
    compute_capability="8.9",
    power_limit_w=72,
    cuda_cores=7680,
    clock_mhz=2040,
)


class FakeError(Exception):
    pass


def driver(*cards: Gpu, failure: str = "") -> ModuleType:
    """A pynvml whose driver lists these cards; what a card does not tell raises, as a Jetson's does."""
    nvml = ModuleType("pynvml")

    def told(value: object) -> object:
        if value is None:
            raise FakeError("Not Supported")
        return value

    def init() -> None:
        if failure:
            raise FakeError(failure)

    memory = {card.index: type("Memory", (), {"total": int(card.memory_gib * 2**30)}) for card in cards}
    capability = {
        c.index: tuple(map(int, c.compute_capability.split("."))) if c.compute_capability else None for c in cards
    }
    vars(nvml).update(
        NVMLError=FakeError,
        NVML_CLOCK_SM=1,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda h: cards[h].name.encode(),
        nvmlDeviceGetMemoryInfo=lambda h: memory[h],
        nvmlDeviceGetCudaComputeCapability=lambda h: told(capability[h]),
        nvmlDeviceGetPowerManagementLimit=lambda h: 1000 * told(cards[h].power_limit_w),
        nvmlDeviceGetNumGpuCores=lambda h: told(cards[h].cuda_cores),
        nvmlDeviceGetMaxClockInfo=lambda h, clock: told(cards[h].clock_mhz),
    )
    return nvml


def seen(*cards: Gpu) -> Seen:
    detected = Detected(cpu="a cpu", cores_by_affinity=4, gpus=cards, gpu_note="" if cards else "no driver")
    return Seen(detected, threads_per_core=2, numa_nodes=1)


def test_the_driver_is_asked_for_every_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver(L4, L4.model_copy(update={"index": 1})))
    assert gpus() == ((L4, L4.model_copy(update={"index": 1})), "")


def test_what_a_card_does_not_tell_stays_blank(monkeypatch: pytest.MonkeyPatch):
    orin = Gpu(index=0, name="Orin (nvgpu)", memory_gib=7.5)
    monkeypatch.setitem(sys.modules, "pynvml", driver(orin))
    assert gpus() == ((orin,), "")


def test_without_a_driver_there_is_no_gpu_and_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver(failure="NVML Shared Library Not Found"))
    assert gpus() == ((), "no NVIDIA driver answers (NVML Shared Library Not Found)")
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    assert gpus() == ((), "the NVIDIA driver lists no GPU")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == ((), "GPUs were not looked for: pip install nvidia-ml-py")


def test_this_machine_says_its_threads_nodes_runtimes_and_gpus():
    here = detect(1)
    profile = local_profile(here, seen(L4))
    assert (profile.facts.vcpus_per_core.value, profile.facts.numa_nodes.value) == (2, 1)
    assert profile.facts.cores.note == "logical CPUs, 2 of which share a core"
    assert profile.detected.gpus == (L4,)
    assert profile.facts.cores.source == "detected on this machine by kdexport"


def test_a_gpu_of_this_machine_is_a_profile_without_peaks():
    profile = gpu_profile(detect(1), seen(L4), 0)
    facts = profile.facts
    assert (profile.id, profile.device_class) == ("local-gpu-0", "datacenter-gpu")
    assert (facts.cores.value, facts.power_w.value, facts.clock_mhz.value) == (60, 72, 2040)
    assert facts.compute_capability.value == "8.9"
    assert (facts.peak_fp16_tflops, facts.memory_bandwidth_gb_per_s) == (None, None)


@pytest.mark.parametrize(
    ("name", "device_class"),
    [
        ("NVIDIA GeForce RTX 4060", "edge-gpu"),
        ("NVIDIA RTX A2000", "edge-gpu"),
        ("Orin (nvgpu)", "edge-gpu"),
        ("NVIDIA H100 80GB HBM3", "datacenter-gpu"),
        ("Tesla T4", "datacenter-gpu"),
    ],
)
def test_the_class_of_a_gpu_is_told_by_its_name(name, device_class):
    assert gpu_profile(detect(1), seen(L4.model_copy(update={"name": name})), 0).device_class == device_class


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(BadInput, match=r"--gpu 1: there is no such GPU here: 0 \(NVIDIA L4\)"):
        gpu_profile(detect(1), seen(L4), 1)
    with pytest.raises(BadInput, match="--gpu 0: there is no such GPU here: no driver"):
        gpu_profile(detect(1), seen(), 0)


def test_the_written_file_is_a_valid_profile_that_says_what_was_detected(tmp_path):
    written = catalogue_check.write_profile(local_profile(detect(1), seen(L4)), tmp_path / "my-server.yaml")
    assert read_noun(tmp_path / "my-server.yaml", HardwareProfile) == written
    assert (written.id, written.detected.gpus[0].name) == ("my-server", "NVIDIA L4")
    assert catalogue_check.check_profiles([tmp_path / "my-server.yaml"]) == {
        str(tmp_path / "my-server.yaml"): catalogue_check.Verdict()
    }


def test_the_verb_shows_it_and_imports_no_runtime(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpus_module, "gpus", gpus)
    monkeypatch.setitem(sys.modules, "pynvml", driver(L4))
    result = CliRunner().invoke(main, ["profiles", "detect", "--json"])
    assert json.loads(result.stdout)["detected"]["gpus"][0]["name"] == "NVIDIA L4"
    shown = CliRunner().invoke(main, ["profiles", "detect"]).stdout
    assert "0: NVIDIA L4, 22 GiB" in shown
    card = json.loads(CliRunner().invoke(main, ["profiles", "detect", "--gpu", "0", "--json"]).stdout)
    assert card["facts"]["compute_capability"]["value"] == "8.9"


def test_looking_agrees_with_what_the_kernel_lets_this_process_use():
    found = look(detect(1)).detected
    assert found.cores_by_affinity >= 1
    assert found.cpu_quota_cores is None or found.cpu_quota_cores > 0
    assert "numpy" in found.runtimes
