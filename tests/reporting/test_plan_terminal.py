"""A plan on a terminal: one table of all targets that fits, the front as a plot, everything labelled."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kdexport.nouns.plan import Plan
from kdexport.reporting import plan_figures
from kdexport.reporting.plan_terminal import PLOT_LINES, ROWS, front_plot, print_plan
from tests.reporting import plans


def printed(plan: Plan, width: int = 140, fronts: bool = False, terminal: bool = False) -> str:
    file = io.StringIO()
    print_plan(
        plan,
        Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None),
        fronts,
    )
    return file.getvalue()


def table_lines(text: str, after: str) -> list[str]:
    """The lines of the first table below a heading, without those that only go on with a row."""
    lines = text[text.index(after) :].splitlines()[2:]
    return [line for line in itertools.takewhile(str.strip, lines) if not line.startswith("   ")]


def test_twelve_targets_stand_in_one_table_of_two_lines_each_at_140_columns() -> None:
    text = printed(plans.twelve())
    rows = table_lines(text, " Target ")
    assert [row.split()[0] for row in rows] == [t.target for t in plans.twelve().targets]
    table = text[: text.index("Parameters are counted")]
    assert max(map(len, table.splitlines())) <= 140
    assert len(table.strip().splitlines()) == 2 + 1 + 2 * 12  # two lines of headings, the rule, the rows
    assert text.count("Feasible") == 1


@pytest.mark.parametrize(
    "shown",
    [
        "local-cpu", "convolution", "v3330 e64 h256 hl2", "660 k", "2.54 MiB", "onnxruntime", "fp32",
        "96.6 %", "95.4 to 97.5", "0.149 ms", "0.134 to 0.167", "0.224 ms", "p99 ≤ 1 ms", "$2,760", "yes",
        "Parameters are counted, all else is estimated", "h hidden_size", "hl num_hidden_layers",
        "local-cpu: cheapest, then fastest of 412 of 1,920 candidates within the limits",
        "Quality: a ladder of 4 students trained for 6 minutes on this project's rows",
        "distil student 1", "ladder's rate", "Together 0.46 hours, $0.150 (estimated).",
    ],
)  # fmt: skip
def test_a_figure_of_the_plan_is_shown(shown: str) -> None:
    assert shown in printed(plans.plan())


def test_an_infeasible_target_names_the_limit_in_the_table_and_the_nearest_objective_below() -> None:
    text = printed(plans.plan(plans.target_plan(), plans.infeasible()))
    (row,) = [line for line in table_lines(text, " Target ") if "raspberry-pi-5" in line]
    assert "no: latency" in row
    assert (
        "  not met; nearest: limit_ms 1.4 with min_retention 0.96, or limit_ms 1 with min_retention 0.948; "
        "binding: latency (limit_ms)\n"
    ) in text


def test_the_upper_end_that_is_held_against_the_limit_stands_over_it() -> None:
    chosen = plans.candidate(6, bound_ms=0.251)
    (row,) = table_lines(printed(plans.plan(plans.target_plan(front=(chosen,), chosen=chosen))), " Target ")
    assert "0.251 ms" in row
    assert "0.224 ms" not in row


def test_a_target_without_latency_is_not_called_feasible() -> None:
    text = printed(plans.plan(plans.without_latency()))
    (row,) = table_lines(text, " Target ")
    assert "not known" in row
    assert "yes" not in row
    assert "no plot: latency is not known on this target" in text
    assert "its facts lack a peak or the bandwidth" in text


def test_a_single_target_shows_its_front_and_several_only_where_asked() -> None:
    several = plans.plan(plans.target_plan("a"), plans.target_plan("b"))
    assert printed(plans.plan()).count("● chosen") == 1
    assert printed(several).count("● chosen") == 0
    assert printed(several, fronts=True).count("● chosen") == 2


def test_a_shared_student_is_told_in_a_sentence_with_both_costs() -> None:
    assert (
        "One student can serve c7i-large, core-desktop, local-cpu: convolution: vocab 3,330, embedding 48, hidden 224, "
        "hidden layers 1, 570 k parameters. $5,100 a year against $6,900 with one student each (estimated): it "
        "saves $1,800 a year."
    ) in printed(plans.twelve())


def test_warnings_are_shown() -> None:
    assert "warning: 12 rows of [bold]test[/bold] stand in train\n" in printed(
        plans.plan(warnings=("12 rows of [bold]test[/bold] stand in train",))
    )


def test_hours_that_are_not_known_are_blank_and_not_in_the_sum() -> None:
    label, distil = plans.plan().stages
    text = printed(plans.plan(stages=(label.model_copy(update={"hours": None, "usd": None}), distil)))
    assert re.search(r"label +– +– ", text)
    assert "Together 0.40 hours, $0.130 (estimated), without 1 whose hours are not known." in text


# --- the plot


def plot(width: int = 100, **changes: object) -> list[str]:
    target = plans.target_plan(**changes)  # type: ignore[arg-type]
    return front_plot(target, plan_figures.drawing(target), width).splitlines()


def marks(lines: list[str], symbol: str) -> list[tuple[int, int]]:
    """(column, line) of each, line 0 at the top."""
    return [(x, y) for y, line in enumerate(lines) for x, found in enumerate(line) if found == symbol]


def test_the_plot_holds_every_candidate_of_a_spread_front_and_one_chosen() -> None:
    lines = plot(width=110)
    assert len(marks(lines, "o")) == 17
    assert len(marks(lines, "●")) == 1
    assert len(lines) == PLOT_LINES


def test_better_is_higher_and_slower_is_farther_right() -> None:
    points = sorted(marks(plot(), "o"))
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) > 8


def test_the_limit_is_a_column_between_what_meets_it_and_what_does_not() -> None:
    lines = plot()
    (column,) = {x for x, _ in marks(lines, "┊")}
    slower = [c for c in plans.target_plan().front if c.why_not]
    assert slower
    assert sum(x > column for x, _ in marks(lines, "o")) == len(slower)


def test_min_retention_is_a_line_between_what_reaches_it_and_what_does_not() -> None:
    lines = plot(min_retention=0.97)
    (height,) = {y for _, y in marks(lines, "┈")}
    points = [*marks(lines, "o"), *marks(lines, "●")]
    good = [c.quality.value > 0.97 for c in plans.target_plan().front]
    assert abs(sum(y < height for _, y in points) - sum(good)) <= 1  # one may share the line's cells
    assert abs(sum(y > height for _, y in points) - good.count(False)) <= 1


def test_a_candidate_on_the_axis_stands_over_the_tick_of_its_latency() -> None:
    exact = plans.candidate(0, objective_ms=0.1)
    lines = plot(front=(exact, *plans.target_plan().front[4:]), chosen=exact)
    ((column, _),) = marks(lines, "●")
    tick = lines[-1].index("0.1 ") + 1  # the label is centred under its tick
    assert abs(column - tick) <= 1


@settings(max_examples=25, deadline=None)
@given(width=st.integers(40, 200), length=st.integers(1, 40), limit=st.none() | st.floats(1e-3, 1e4))
def test_no_line_is_wider_than_asked_and_none_holds_an_escape_code(
    width: int, length: int, limit: float | None
) -> None:
    lines = plot(width, length=length, at=0, limit_ms=limit)
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    assert len(marks(lines, "●")) == 1


def test_a_pipe_gets_no_colour_and_a_terminal_the_same_text_with_some() -> None:
    piped, coloured = printed(plans.plan()), printed(plans.plan(), terminal=True)
    assert "\x1b" not in piped
    assert "\x1b[1;32m●" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == piped


@pytest.mark.parametrize("length", [1, 3, 11, 12, 13, 40])
def test_the_table_of_the_front_has_at_most_twelve_rows_with_both_ends_and_the_chosen_one(length: int) -> None:
    front = plans.target_plan(length=length, at=0).front
    for chosen in front:
        shown = plan_figures.thinned(front, chosen, ROWS)
        assert len(shown) == min(length, ROWS)
        assert chosen in shown
        assert {front[0].num_params, front[-1].num_params} <= {c.num_params for c in shown}
        assert shown == sorted(shown, key=front.index)


def test_the_chosen_one_is_drawn_where_a_tie_left_it_out_of_the_front() -> None:
    whole = plans.target_plan()
    target = plans.target_plan(front=whole.front[:3], chosen=whole.front[8])
    assert len(marks(front_plot(target, plan_figures.drawing(target), 100).splitlines(), "●")) == 1
    assert plan_figures.front(target)[-1] == target.chosen


def test_without_the_percentile_of_every_candidate_the_median_is_drawn() -> None:
    target = plans.target_plan(front=(plans.candidate(2, objective_ms=None), plans.candidate(6)))
    drawing = plan_figures.drawing(target)
    assert drawing.latency_name == "median"
    assert [p.ms for p in drawing.places] == [plans.candidate(i).latency.p50_ms for i in (2, 6)]  # type: ignore[union-attr]
    assert "predicted retention over median in ms" in printed(plans.plan(target))


def test_two_fields_with_the_same_initials_keep_their_names() -> None:
    letters = plan_figures.initials([{"backbone": "x", "width": 8, "weights": 2, "depth": 3}])
    assert letters == {"width": "width", "weights": "weights", "depth": "d"}
    assert plan_figures.tiny_spec({"backbone": "x", "width": 8, "depth": 3}, letters) == "x\nwidth8 d3"
