from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdexport.measure import memory


def test_touching_64_mib_raises_what_is_resident():
    before = memory.resident_bytes()
    held = np.ones(1 << 26, dtype=np.uint8)
    assert memory.resident_bytes() - before > 0.9 * held.nbytes


def test_the_peak_is_at_least_what_is_resident_and_at_most_the_machine():
    # the kernel batches its counters by thread, so the two may differ by a few pages
    assert memory.resident_bytes() <= memory.peak_rss_bytes() + (1 << 20)
    assert memory.peak_rss_bytes() <= memory.physical_bytes()


def test_without_proc_the_peak_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "absent")
    assert memory.resident_bytes() == memory.peak_rss_bytes() > 1 << 20
