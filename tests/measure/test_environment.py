from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdexport.measure import environment
from kdexport.measure.environment import detect, fingerprint

INTEL = """processor : 0
cpu family : 6
model : 143
model name : Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags : fpu sse2 avx2 fma avx512f avx512_vnni amx_bf16 amx_int8

processor : 1
model name : another
flags : sve
"""
GRAVITON = """processor\t: 0
Features\t: fp asimd asimddp i8mm sve bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, str], own: str, cpuinfo: str = "") -> None:
    """A machine whose /proc lies in `folder`, with `files` below /sys/fs/cgroup."""
    cgroups = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {**cgroups, "proc/self/cgroup": own, "proc/cpuinfo": cpuinfo}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(environment, "ROOT", folder)


def test_model_and_instructions_come_from_the_first_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine(monkeypatch, tmp_path, {}, "", INTEL)
    found = detect(threads=1)
    assert found.cpu == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (family 6, model 143)"
    assert found.isa == ("amx_bf16", "amx_int8", "avx2", "avx512_vnni", "avx512f", "fma")


def test_an_arm_server_is_named_by_its_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine(monkeypatch, tmp_path, {}, "", GRAVITON)
    found = detect(threads=1)
    assert found.cpu == "ARM implementer 0x41 part 0xd40"
    assert found.isa == ("bf16", "dotprod", "i8mm", "neon", "sve")


def test_a_machine_without_proc_or_cgroups_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(environment, "ROOT", tmp_path / "absent")
    found = detect(threads=1)
    assert found.cpu
    assert found.cores_allowed >= 1
    assert found.memory_bytes > 0


def test_a_quota_of_a_third_of_a_core_is_seen_to_the_hundredth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine(monkeypatch, tmp_path, {"box/cpu.max": "33333 100000"}, "0::/box\n")
    assert environment.cores_allowed() == 0.33


@pytest.mark.parametrize(
    ("files", "own"),
    [({"box/memory.max": "1048576"}, "0::/box\n"), ({"memory/memory.limit_in_bytes": "1048576"}, "8:memory:/\n")],
    ids=["v2", "v1"],
)
def test_a_memory_limit_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], own: str):
    machine(monkeypatch, tmp_path, files, own)
    assert environment.memory_limit_bytes() == 1 << 20


def processors(folder: Path, siblings: str) -> None:
    """Every CPU that this test may run on has these siblings in the machine of `folder`."""
    for cpu in os.sched_getaffinity(0):
        topology = folder / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings)


@pytest.mark.parametrize(("siblings", "threads"), [("0\n", 1), ("0-1\n", 2), ("0,96\n", 2), ("0-3,8\n", 5)])
def test_threads_of_a_core_are_counted_from_the_kernels_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, siblings: str, threads: int
):
    machine(monkeypatch, tmp_path, {}, "")
    processors(tmp_path, siblings)
    assert environment.threads_per_core() == threads


def test_nodes_governor_and_quota_are_read_where_the_kernel_shows_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine(monkeypatch, tmp_path, {"box/cpu.max": "150000 100000"}, "0::/box\n")
    for node in ("node0", "node1"):
        (tmp_path / "sys/devices/system/node" / node).mkdir(parents=True)
    (tmp_path / "sys/devices/system/node/possible").write_text("0-1")
    (tmp_path / "sys/devices/system/cpu/cpu0/cpufreq").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").write_text("powersave\n")
    assert environment.numa_nodes() == 2
    assert environment.governor() == "powersave"
    assert environment.cpu_quota_cores() == 1.5
    assert environment.cores_by_affinity() == len(os.sched_getaffinity(0))


def test_what_the_kernel_hides_is_blank_and_not_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine(monkeypatch, tmp_path, {}, "")
    assert (environment.numa_nodes(), environment.threads_per_core()) == (None, None)
    assert (environment.governor(), environment.cpu_quota_cores()) == ("", None)


def test_the_id_is_twelve_hex_digits_that_time_does_not_change(monkeypatch: pytest.MonkeyPatch):
    first = detect(threads=1)
    monkeypatch.setattr(environment, "_version", lambda package: "9.9" if package == "numpy" else None)
    assert len(first.id) == 12
    assert int(first.id, 16) >= 0
    assert detect(threads=1).id != first.id
    monkeypatch.undo()
    assert detect(threads=1).id == first.id


def test_the_fingerprint_depends_on_threads_and_runtimes_and_not_on_other_packages():
    here = detect(threads=1)
    newer = here.model_copy(update={"packages": {**here.packages, "onnxruntime": "99"}})
    other = here.model_copy(update={"packages": {**here.packages, "pydantic": "99"}, "taken_at": "", "id": ""})
    assert fingerprint(here) == fingerprint(other)
    assert len({fingerprint(here), fingerprint(newer), fingerprint(detect(threads=2))}) == 3


def test_the_fingerprint_of_a_throttled_or_slowly_clocked_machine_is_another(monkeypatch: pytest.MonkeyPatch):
    """A quota of one core stops the process, being kept to one core does not: the count alone would be equal."""
    here, found = detect(threads=1), set()
    for quota, clock in ((None, ""), (1.0, ""), (0.5, ""), (None, "powersave")):
        monkeypatch.setattr(environment, "cpu_quota_cores", lambda quota=quota: quota)
        monkeypatch.setattr(environment, "governor", lambda clock=clock: clock)
        found.add(fingerprint(here))
    assert len(found) == 4


def test_detecting_imports_no_runtime():
    code = (
        "import sys; from kdexport.measure.environment import detect; found = detect(1); "
        "assert 'numpy' in found.packages; "
        "assert not {'torch', 'onnxruntime', 'openvino', 'transformers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
