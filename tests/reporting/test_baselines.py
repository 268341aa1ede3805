from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from kdexport.reporting.baselines import baselines, verdicts
from kdexport.reporting.table import print_summary


def entry(kind: str, name: str, gain: float, **more: Any) -> dict[str, Any]:
    quality = {"metric": "accuracy", "value": 0.9 - gain, "ci95": [0.85, 0.95], "n": 1000}
    difference = {"value": gain, "ci95": [gain - 0.01, gain + 0.01]}
    return {"kind": kind, "name": name, "how": "C = 3", "reason": "", "quality": quality} | {
        "difference": difference,
        "num_params": 650,
        "bytes": 2934,
        "latency": {"kind": "measured", "p50_ms": 0.68, "n": 1000, "ci95": [0.67, 0.69], "environment": "e"},
    } | more  # fmt: skip


def target(name: str, **changes: Any) -> dict[str, Any]:
    found = {
        "verdict": "distillation bought +2.1 points",
        "hard_labels": entry("hard_labels", "the same student on hard labels only", 0.021, latency=None),
        "plain": entry("plain", "TF-IDF <b>", -0.013),
    }
    return {"target": name, "quality": {"value": 0.9, "n": 1000}, "baselines": found | changes}


def test_the_card_shows_both_baselines_with_evidence_and_the_verdict() -> None:
    shown = str(baselines({"environments": {"e": {"cpu": "Zen", "threads": 1}}}, target("here")))
    for part in (
        "Distillation bought +2.1 points.",
        "2.1 points",
        "−1.3 points",
        "0.680 ms",
        "2.87 KiB",
        "TF-IDF &lt;b&gt;",
    ):
        assert part in shown, part
    assert "n = 1,000" in shown
    assert "on Zen, 1 thread" in shown


def test_a_baseline_that_cannot_be_had_says_why() -> None:
    absent = {"kind": "hard_labels", "name": "hard labels", "reason": "the project has no true labels"}
    shown = str(baselines({}, target("here", hard_labels=absent)))
    assert "the project has no true labels" in shown


def test_a_report_without_baselines_shows_none() -> None:
    assert str(baselines({}, {"target": "here"})) == ""


def test_targets_of_which_the_same_is_true_are_named_together() -> None:
    other = target("l4", verdict="distillation bought nothing measurable here")
    assert verdicts([target("a"), other, target("b")]) == [
        "a, b: distillation bought +2.1 points",
        "l4: distillation bought nothing measurable here",
    ]


def test_the_terminal_says_what_distillation_bought() -> None:
    stream = io.StringIO()
    print_summary({"targets": [target("here")]}, Console(file=stream, width=200))
    assert "here: distillation bought +2.1 points" in stream.getvalue()
