"""A plan on a terminal: one table of all targets, the front of each as a plot, and what the next stages take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdexport.nouns.plan import Candidate, Plan, StageEstimate, TargetPlan
from kdexport.reporting import plan_figures
from kdexport.reporting.figures import Figure, percent, significant, usd
from kdexport.reporting.plan_figures import Drawing
from kdexport.reporting.scales import log_ticks, padded, padded_log, ticks
from kdexport.terminal import Cell, print_table, say

if TYPE_CHECKING:
    from rich.console import Console

ROWS = 12  # of the front that a terminal shows
PLOT_LINES, WIDEST_PLOT = 18, 110
FRONT, CHOSEN = "o", "●"
VERTICAL, HORIZONTAL = "┊", "┈"
DOTS = 400  # of a dotted line: more than any terminal has cells


def print_plan(plan: Plan, console: Console, fronts: bool = False) -> None:
    """The fronts are drawn for a single target, and with `fronts` for each."""
    _print_targets(plan, console)
    for t in plan.targets:
        missed = plan_figures.not_met_sentence(t)
        say(console, f"{t.target}: {t.reason}", *([f"  {missed}"] if missed else []), *(f"  {n}" for n in t.notes))
        if fronts or len(plan.targets) == 1:
            _print_front(t, console)
    if plan.shared:
        say(console, "", *map(plan_figures.shared_sentence, plan.shared))
    _print_stages(plan.stages, console)
    say(console, *(f"warning: {warning}" for warning in plan.warnings))


def _print_targets(plan: Plan, console: Console) -> None:
    letters = plan_figures.initials([t.chosen.spec for t in plan.targets])
    headings = ("Target", "Student", "Params\nSize", "Engine", "Retention", "p50", "Objective", "USD/year", "Feasible")
    print_table(console, headings, [_plan_row(t, letters) for t in plan.targets], left=(0, 1, 3, 8))
    say(
        console,
        "Parameters are counted, all else is estimated; below retention and p50 their 90 % intervals. Latency is in "
        "the scope of the target's objective, of one run alone.",
        "Under Objective stands what is held against the limit: the percentile, with waiting where the target is a "
        'server, or the upper end of its interval where this machine was measured. A "yes" compares these estimates.',
        _key(letters),
        *([f"Quality: {plan.quality_basis}"] if plan.quality_basis else []),
        "",
    )


def _key(letters: Mapping[str, str]) -> str:
    return f"Students: {', '.join(f'{short} {name}' for name, short in letters.items())}"


def _plan_row(target: TargetPlan, letters: Mapping[str, str]) -> list[Cell]:
    limit = f" ≤ {target.limit_ms:g} ms" if target.limit_ms is not None else ""
    return [
        target.target,
        *_student(target.chosen, letters),
        f"{_held(target.chosen) or '–'}\np{target.percentile:g}{limit}",
        _cell(plan_figures.usd_per_year(target.chosen)),
        plan_figures.verdict(target),
    ]


def _student(candidate: Candidate, letters: Mapping[str, str]) -> list[Cell]:
    """Student, parameters over size, engine, retention and median."""
    return [
        plan_figures.tiny_spec(candidate.spec, letters),
        f"{plan_figures.params(candidate).shown()}\n{plan_figures.size(candidate).shown()}",
        plan_figures.engine(candidate).replace("/", "\n"),
        _with_interval(plan_figures.retention(candidate)),
        _with_interval(plan_figures.median(candidate)),
    ]


def _cell(found: Figure) -> Cell:
    return None if found.value is None else found.shown()


def _held(candidate: Candidate) -> Cell:
    """What is held against the limit: the objective's percentile, or its upper end where the planner gives one."""
    found = plan_figures.at_percentile(candidate)
    return found.text(found.interval[1]) if found.interval else _cell(found)


def _with_interval(found: Figure) -> Cell:
    """The interval without the unit that stands above it."""
    return None if found.value is None else f"{found.shown()}\n{found.shown_interval().rpartition(' ')[0]}"


# --- the front of one target


def _print_front(target: TargetPlan, console: Console) -> None:
    from rich.text import Text

    drawing = plan_figures.drawing(target)
    if drawing.places:
        # drawn without colour; the console adds it where there is a terminal that has some
        plot = Text(front_plot(target, drawing, min(console.width, WIDEST_PLOT)), no_wrap=True)
        plot.highlight_regex(CHOSEN, "bold green")
        plot.highlight_regex(f"[{VERTICAL}{HORIZONTAL}]", "yellow")
        console.print(plot, crop=False, overflow="ignore")
        say(console, _legend(target, drawing))
    else:
        say(console, "no plot: latency is not known on this target")
    _print_candidates(target, console)


def _legend(target: TargetPlan, drawing: Drawing) -> str:
    limit = f"{VERTICAL} p{target.percentile:g} limit {target.limit_ms:g} ms" if target.limit_ms else ""
    kept = f"{HORIZONTAL} min_retention {percent(target.min_retention)}" if target.min_retention is not None else ""
    parts = (f"{CHOSEN} chosen", f"{FRONT} front", limit, kept)
    listed = ", ".join(part for part in parts if part)
    return f"predicted retention over {drawing.latency_name} in ms (log scale), both estimated: {listed}"


def front_plot(target: TargetPlan, drawing: Drawing, width: int) -> str:
    """PLOT_LINES lines of at most `width` characters, without colour. The drawing has a place at least."""
    import plotext

    figure = plotext.figure
    figure.clear()  # plotext has one figure, and it remembers
    plotext.terminal.limit(False, False)
    figure.theme("colorless").legend(False).plot_size(width, PLOT_LINES)
    points = [(math.log10(p.ms), p.candidate.quality.value, p.chosen) for p in drawing.places]
    ms = [p.ms for p in drawing.places] + ([target.limit_ms] if target.limit_ms else [])
    kept = [y for _, y, _ in points] + ([target.min_retention] if target.min_retention is not None else [])
    (left, right), (bottom, top) = padded_log(ms), padded(kept, least=0.01)
    x_ticks, y_ticks = log_ticks(left, right), ticks(bottom, top)
    x_range = (math.log10(left), math.log10(right))
    # the axis is linear in the logarithm: plotext's own log scale puts limits and ticks elsewhere
    figure.ruler("x", "lower").lim(*x_range).ticks([math.log10(t) for t in x_ticks], [f"{t:g}" for t in x_ticks])
    figure.ruler("y", "left").lim(bottom, top).ticks(y_ticks, [percent(t) for t in y_ticks])
    if target.limit_ms:
        figure.draw(figure.signal([math.log10(target.limit_ms)] * DOTS, _spread(bottom, top), marker=VERTICAL))
    if target.min_retention is not None:
        figure.draw(figure.signal(_spread(*x_range), [target.min_retention] * DOTS, marker=HORIZONTAL))
    for marker, chosen in ((FRONT, False), (CHOSEN, True)):
        drawn = [(x, y) for x, y, is_chosen in points if is_chosen == chosen]
        if drawn:
            figure.draw(figure.signal([x for x, _ in drawn], [y for _, y in drawn], marker=marker))
    text = figure.build().string(colorless=True)
    figure.clear()
    return "\n".join(line.rstrip() for line in str(text).splitlines())


def _spread(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / (DOTS - 1) for i in range(DOTS)]


def _print_candidates(target: TargetPlan, console: Console) -> None:
    front = plan_figures.front(target)
    shown = plan_figures.thinned(front, target.chosen, ROWS)
    letters = plan_figures.initials([c.spec for c in shown])
    percentile = f"p{target.percentile:g}"
    headings = ("", "Student", "Params\nSize", "Engine", "Retention", "p50", percentile, "USD/year", "Breaks")
    print_table(console, headings, [_candidate_row(c, target, letters) for c in shown], left=(0, 1, 3, 8))
    whole = max(target.front_size, len(front))
    few = f"{len(shown)} of the {whole:,} on the front" if len(shown) < whole else "The whole front"
    more = f"; --json has {len(front)} of them" if len(shown) < len(front) else ""
    say(console, f"{few}, of {target.num_candidates:,} candidates{more}. {_key(letters)}", "")


def _candidate_row(candidate: Candidate, target: TargetPlan, letters: Mapping[str, str]) -> list[Cell]:
    return [
        CHOSEN if candidate == target.chosen else "",
        *_student(candidate, letters),
        _held(candidate),
        _cell(plan_figures.usd_per_year(candidate)),
        candidate.why_not or plan_figures.broken_names(candidate),
    ]


# --- what is spent next


def _print_stages(stages: Sequence[StageEstimate], console: Console) -> None:
    headings = ("Stage", "Hours", "USD", "Memory GiB", "Basis")
    print_table(console, headings, [_stage(s) for s in stages], left=(0, 4))
    say(console, plan_figures.stages_sentence(stages))


def _stage(stage: StageEstimate) -> list[Cell]:
    hours = significant(stage.hours, 2) if stage.hours is not None else None
    money = usd(stage.usd) if stage.usd is not None else None
    return [stage.stage, hours, money, significant(stage.memory_gib, 2), stage.basis]
