"""What this machine shows besides its Environment: threads that share a core, NUMA, clock governor, quota, GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from kdexport.measure import environment
from kdexport.measure.gpus import gpus
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import Detected


@dataclass(frozen=True)
class Seen:
    detected: Detected
    threads_per_core: int | None  # None: the kernel does not say
    numa_nodes: int | None


def look(here: Environment) -> Seen:
    """Reads /sys and asks the NVIDIA driver; runs nothing, imports no runtime. Well under a second."""
    cards, note = gpus()
    detected = Detected(
        cpu=here.cpu,
        cores_by_affinity=environment.cores_by_affinity(),
        cpu_quota_cores=environment.cpu_quota_cores(),
        governor=environment.governor(),
        runtimes={name: version for name, version in here.packages.items() if name in environment.RUNTIMES},
        gpus=cards,
        gpu_note=note,
    )
    return Seen(detected, environment.threads_per_core(), environment.numa_nodes())
