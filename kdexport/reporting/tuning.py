"""The search on dev for temperature and hard weight: what was tried, and why one was kept."""

from __future__ import annotations

from kdexport.reporting.figures import (
    BLANK,
    Document,
    finite,
    mapping,
    percent,
    quality_text,
    rows,
    significant,
    words,
)
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import table

HEADINGS = ("Temperature", "Weight of true labels", "Quality (dev)", "Nats a row (dev)", "Gain, nats a row", "Kept")


def tuning(document: Document) -> Safe:
    """Empty where nothing was searched."""
    found = mapping(document.get("tuning"))
    trials = rows(found.get("trials"))
    if not trials:
        return Safe("")
    share = finite(found.get("schedule_share"))
    caption = "Balance of soft and hard targets, searched on dev (measured)"
    caption += f", each on {percent(share)} of the training" if share is not None else ""
    lines = [_line(trial, index == found.get("chosen"), index == 0) for index, trial in enumerate(trials)]
    return join([table(caption, HEADINGS, lines), tag("p", words(found.get("reason")), class_="muted")])


def _sign(value: float) -> str:
    return "−" if value < 0 else "+"


def _line(trial: Document, kept: bool, first: bool) -> list[str]:
    """The first trial is what the others' gains are over: it has none itself."""
    gain, error = finite(trial.get("gain_nll")), finite(trial.get("gain_error"))
    quality, nll = finite(trial.get("dev_quality")), finite(trial.get("dev_nll"))
    return [
        words(trial.get("temperature")),
        words(trial.get("hard_weight")),
        BLANK if quality is None else quality_text(quality),
        BLANK if nll is None else significant(nll),
        BLANK if first or gain is None or error is None else f"{_sign(gain)}{abs(gain):.4f} ± {2 * error:.4f}",
        "kept" if kept else "",
    ]
