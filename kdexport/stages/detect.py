"""detect: this machine, or one of its GPUs, as a hardware profile. What is not known of it stays blank."""

from __future__ import annotations

import datetime
import platform
from typing import Literal

from kdexport.errors import BadInput
from kdexport.measure.environment import cores_allowed
from kdexport.measure.machine import Seen
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import DeviceClass, Facts, Gpu, HardwareProfile, Number, Text
from kdexport.nouns.target import LOCAL

SOURCE = "detected on this machine by kdexport"
DESKTOP_NAMES = ("GeForce", "RTX A", "Quadro", "TITAN")  # sold for one's own desk
LANES_PER_SM = {"7.0": 64, "7.2": 64, "7.5": 64, "8.0": 64}  # 128 on all later ones


def local_profile(environment: Environment, seen: Seen | None = None) -> HardwareProfile:
    """The CPU of this machine. `seen`: what `measure.machine.look` adds to it."""
    today = datetime.date.fromisoformat(environment.taken_at[:10])
    shared = seen.threads_per_core if seen else None
    cores_note = f"logical CPUs, {shared} of which share a core" if shared and shared > 1 else ""
    return HardwareProfile(
        id=LOCAL,
        name=f"this machine ({environment.cpu})",
        device_class="cpu",
        vendor="detected",
        host=_host(),
        facts=Facts(
            cores=Number(value=cores_allowed(), source=SOURCE, date=today, note=cores_note),
            memory_gib=_number(environment.memory_bytes / 2**30, today),
            numa_nodes=_number(seen.numa_nodes if seen else None, today),
            vcpus_per_core=_number(shared, today),
            isa=_isa(environment, today),
        ),
        detected=seen.detected if seen else None,
    )


def gpu_profile(environment: Environment, seen: Seen, index: int) -> HardwareProfile:
    """One GPU of this machine; its driver tells no peaks and no bandwidth. Raises BadInput where it is not there."""
    gpu = next((g for g in seen.detected.gpus if g.index == index), None)
    if gpu is None:
        there = ", ".join(f"{g.index} ({g.name})" for g in seen.detected.gpus) or seen.detected.gpu_note
        raise BadInput(f"--gpu {index}: there is no such GPU here: {there}")
    today = datetime.date.fromisoformat(environment.taken_at[:10])
    lanes = LANES_PER_SM.get(gpu.compute_capability, 128)
    return HardwareProfile(
        id=f"{LOCAL}-gpu-{index}",
        name=f"{gpu.name} of this machine",
        device_class=_class(gpu),
        vendor="NVIDIA",
        host=_host(),
        facts=Facts(
            cores=_number(gpu.cuda_cores / lanes if gpu.cuda_cores else None, today),
            memory_gib=_number(gpu.memory_gib, today),
            power_w=_number(gpu.power_limit_w, today),
            clock_mhz=_number(gpu.clock_mhz, today),
            compute_capability=Text(value=gpu.compute_capability, source=SOURCE, date=today)
            if gpu.compute_capability
            else None,
            isa=_isa(environment, today),
        ),
        detected=seen.detected,
    )


def _class(gpu: Gpu) -> DeviceClass:
    """A desktop card or a Jetson, whose driver calls it by its chip; else a card for servers."""
    on_a_desk = any(name in gpu.name for name in DESKTOP_NAMES)
    return "edge-gpu" if on_a_desk or "Orin" in gpu.name or "Thor" in gpu.name else "datacenter-gpu"


def _host() -> Literal["x86-64", "aarch64"]:
    return "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86-64"


def _isa(environment: Environment, today: datetime.date) -> Text:
    return Text(value=" ".join(environment.isa) or "baseline", source=SOURCE, date=today)


def _number(value: float | None, today: datetime.date) -> Number | None:
    return Number(value=value, source=SOURCE, date=today) if value is not None else None
