"""What teachers behind an endpoint will take, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdexport.nouns.endpoint import Amount, AskingCost
from kdexport.terminal import print_table, say

if TYPE_CHECKING:
    from rich.console import Console


def print_costs(costs: Sequence[AskingCost], console: Console) -> None:
    """Every figure but `answered` and `spent` is estimated, with its interval."""
    headings = ("Teacher", "Texts", "Answered", "Requests", "Tokens in", "Tokens out", "USD", "Spent", "Cap")
    cells = [
        (
            cost.teacher,
            f"{cost.texts:,}",
            f"{cost.answered:,}",
            f"{cost.requests:,}",
            _span(cost.input_tokens, ",.0f"),
            _span(cost.output_tokens, ",.0f"),
            _span(cost.usd, ".4g"),
            f"{cost.spent_usd:.4g}",
            None if cost.max_usd is None else f"{cost.max_usd:g}",
        )
        for cost in costs
    ]
    print_table(console, headings, cells, title="Still to ask (estimated)")
    for cost in costs:
        pace = f"; at least {cost.seconds_at_least:,.0f} s by requests_per_s" if cost.seconds_at_least else ""
        say(console, f"{cost.teacher}: {cost.method}{pace}")


def _span(amount: Amount | None, form: str) -> str | None:
    return None if amount is None else f"{amount.value:{form}} ({amount.low:{form}}–{amount.high:{form}})"
