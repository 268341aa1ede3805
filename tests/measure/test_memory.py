from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from kdexport.measure import memory


def test_touching_64_mib_raises_what_is_resident():
    fresh = mmap.mmap(-1, 1 << 26)  # of the kernel: an allocator may hand out pages that are resident already
    before = memory.resident_bytes()
    np.frombuffer(fresh, dtype=np.uint8)[::4096] = 1
    assert memory.resident_bytes() - before > 0.9 * (1 << 26)


def test_the_peak_is_at_least_what_is_resident_and_at_most_the_machine():
    # the kernel batches its counters by thread, so the two may differ by a few pages
    assert memory.resident_bytes() <= memory.peak_rss_bytes() + (1 << 20)
    assert memory.peak_rss_bytes() <= memory.physical_bytes()


def test_without_proc_the_peak_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "absent")
    assert memory.resident_bytes() == memory.peak_rss_bytes() > 1 << 20
