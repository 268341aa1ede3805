from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdexport.bundle.runner.cores import cores_allowed


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def machine(root: Path, own: str, files: dict[str, str]) -> Path:
    for path, text in {"proc/self/cgroup": own, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert cores_allowed(tmp_path) == 8
    assert cores_allowed(machine(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"})) == 8


def test_a_version_2_quota_is_a_share_of_the_period(tmp_path: Path) -> None:
    assert cores_allowed(machine(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"})) == 1.5


def test_the_smallest_quota_on_the_way_to_the_root_binds(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
        "sys/fs/cgroup/a/cpu.max": "200000 100000",
        "sys/fs/cgroup/other/cpu.max": "100000 100000",
    }
    assert cores_allowed(machine(tmp_path, "0::/a/b\n", files)) == 2


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_a_version_1_quota_binds_and_minus_one_means_none(tmp_path: Path, controllers: str) -> None:
    folder = f"sys/fs/cgroup/{controllers}/job"
    files = {f"{folder}/cpu.cfs_quota_us": "50000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    own = f"5:memory:/elsewhere\n3:{controllers}:/job\n0::/\n"
    assert cores_allowed(machine(tmp_path, own, files)) == 0.5
    assert cores_allowed(machine(tmp_path, own, {f"{folder}/cpu.cfs_quota_us": "-1\n"})) == 8


def test_in_a_container_the_host_path_is_absent_and_the_mount_itself_counts(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    assert cores_allowed(machine(tmp_path, "3:cpu,cpuacct:/docker/0123abcd\n", files)) == 3
