"""How many CPU cores this process may use: by affinity and by the cgroup quota (v1 and v2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def cores_allowed(root: Path = Path("/")) -> float:
    """Cores by affinity or by the smallest CPU quota that binds this process, whichever is less.

    A fraction where the quota is one (0.5: half of every period). `root` stands in for / in tests."""
    folders = cgroup_folders("cpu", root)
    quotas = [q for folder in folders for q in (_quota_v2(folder), _quota_v1(folder)) if q is not None]
    return min([float(_cores_by_affinity()), *quotas])


def _cores_by_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """This process's own cgroup of a controller ("cpu", "memory") and all above it: the limit of each binds.

    In a container /proc/self/cgroup may hold the host's path, absent here; the mount itself then has the limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for name in (controllers, controller) if controllers else ("", "unified"):
            mount = root / "sys/fs/cgroup" / name
            own = mount / path.lstrip("/")
            yield from (p for p in (own, *own.parents) if p == mount or mount in p.parents)


def _quota_v2(cgroup: Path) -> float | None:
    fields = _words(cgroup / "cpu.max")
    return int(fields[0]) / int(fields[1]) if len(fields) == 2 and fields[0] != "max" else None


def _quota_v1(cgroup: Path) -> float | None:
    quota, period = _words(cgroup / "cpu.cfs_quota_us"), _words(cgroup / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
