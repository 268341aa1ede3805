"""Calibrations of this machine as rows and as a table: how much was timed, and how far estimates from it miss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdexport.latency import calibrated, store
from kdexport.nouns.calibration import Calibration
from kdexport.storage.files import content_key
from kdexport.terminal import print_table, say

if TYPE_CHECKING:
    from rich.console import Console

BUSY_NOISE = 0.1  # visits of one input differ by 1-3 % on a quiet server


def calibration_rows(calibrations: Sequence[Calibration]) -> list[dict[str, Any]]:
    """One plain dict for each; ratios from 0 to 1, `half_width` by backbone: of the 90 % interval, over the median."""
    return [_row(calibration) for calibration in calibrations]


def _row(found: Calibration) -> dict[str, Any]:
    widths = calibrated.half_widths(found)
    return {
        "runtime": found.runtime,
        "version": found.version,
        "precision": found.precision,
        "threads": found.threads,
        "fingerprint": found.fingerprint,
        "taken_at": found.taken_at,
        "points": len(found.points),
        "graphs": len({content_key(p.spec, p.num_classes) for p in found.points}),
        "noise": found.noise,
        "tail": found.tail,
        "half_width": {name: math.expm1(width) for name, width in sorted(widths.items())},
        "seconds": found.seconds,
        "file": str(store.path(found)),
    }


def print_calibrations(calibrations: Sequence[Calibration], console: Console) -> None:
    rows = calibration_rows(calibrations)
    headings = ("Runtime", "Precision", "Threads", "Graphs", "Points", "Noise", "p99 / p50", "Seconds")
    cells = [
        (
            f"{row['runtime']} {row['version']}",
            row["precision"],
            str(row["threads"]),
            str(row["graphs"]),
            str(row["points"]),
            f"{row['noise']:.1%}",
            f"{row['tail'].get('99', math.nan):.2f}",
            f"{row['seconds']:.0f}",
        )
        for row in rows
    ]
    print_table(console, headings, cells, left=(0, 1), title="Measured")
    names = sorted({name for row in rows for name in row["half_width"]})
    widths = [(name, *(_width(row["half_width"].get(name)) for row in rows)) for name in names]
    engines = [f"{row['runtime']} {row['precision']}" for row in rows]
    print_table(console, ("Backbone", *engines), widths, title="90 % interval of an estimate, from graphs left out")
    say(
        console,
        "Noise: typical difference of two visits of one input. p99 / p50: of one input, again and again.",
        *(f"kept: {row['file']}" for row in rows),
        *(_busy(row) for row in rows if row["noise"] > BUSY_NOISE),
    )


def _busy(row: dict[str, Any]) -> str:
    again = f"kdexport profiles calibrate --runtime {row['runtime']} --precision {row['precision']} --force"
    return f"warning: {row['noise']:.0%} of noise: the machine was busy, and the intervals are wide; again: {again}"


def _width(width: float | None) -> str | None:
    return None if width is None else f"±{width:.1%}"
