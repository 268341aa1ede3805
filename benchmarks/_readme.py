"""The marked blocks of README.md: `python -m benchmarks._readme` rewrites the table of results/quality.json,
`--demo kdexport-demo` also the demo's output, from the report of a finished demo."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks._results import FOLDER
from kdexport.storage.files import read_json, write_text

README = Path(__file__).parent.parent / "README.md"
QUALITY = FOLDER / "quality.json"
DEMO_WIDTH = 128  # columns: no cell is folded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, help="run folder of a finished `kdexport demo`")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    if QUALITY.is_file():
        text = with_block(text, "quality", quality_block(read_json(QUALITY)))
    else:
        print(f"{QUALITY}: not there; run `python -m benchmarks.quality` first", file=sys.stderr)
    if arguments.demo is not None:
        text = with_block(text, "demo-output", demo_block(read_json(arguments.demo / "report.json")))
    write_text(README, text)
    return 0


def with_block(text: str, name: str, body: str) -> str:
    """text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced."""
    pattern, new = _pattern(name), f"<!-- {name} -->\n{body}\n<!-- /{name} -->"
    if not pattern.search(text):
        raise ValueError(f"the block {name} is not marked in the text")
    return pattern.sub(lambda _: new, text, count=1)


def block(text: str, name: str) -> str:
    """What stands in a marked block."""
    found = _pattern(name).search(text)
    if found is None:
        raise ValueError(f"the block {name} is not marked in the text")
    return found.group(1).removesuffix("\n")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", re.DOTALL)


def quality_block(document: dict[str, Any]) -> str:
    """A table of benchmarks/results/quality.json, one row a size, and where it was measured."""
    lines = [
        "| data | student | size | quality, mean ± sd of seeds | of the teacher's | with typos | end to end, p50 |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(_row(size) for size in document["figures"]["sizes"]),
        "",
        _caption(document),
    ]
    missed = [_missed(bar) for bar in document["bars"] if not bar["passed"]]
    return "\n".join([*lines, *(["", "Below this release's own bar: " + "; ".join(missed) + "."] if missed else [])])


def _row(size: dict[str, Any]) -> str:
    interval = size["retention_ci95"]
    cells = (
        size["data"],
        f"{size['params']:,} (1/{size['params_ratio']:.0f})",
        f"{size['student_bytes'] / 2**20:.2f} MiB",
        f"{size['quality_mean']:.4f}{_spread(size['quality_sd'])}",
        f"{size['retention_mean']:.1%}" + (f" ({_interval(interval, '.1%')})" if interval else ""),
        f"{size['noisy_retention']:.1%}" if "noisy_retention" in size else "",
        f"{size['teacher_p50_us']:,.0f} → {size['p50_us']:,.0f} µs" if size["p50_us"] else "",
    )
    return f"| {' | '.join(cells)} |"


def _spread(sd: float | None) -> str:
    return "" if sd is None else f" ± {sd:.4f}"


def _interval(pair: list[float], form: str) -> str:
    return f"{pair[0]:{form}} to {pair[1]:{form}}"


def _caption(document: dict[str, Any]) -> str:
    sizes, machine = document["figures"]["sizes"], document["environment"]
    teachers = {s["data"]: f"{s['data']} {s['own_teacher_quality']:.4f} (n = {s['n']:,})" for s in sizes}
    seeds = max(len(size["seeds"]) for size in sizes)
    return (
        f"All measured by {machine['taken_at'][:10]}, {machine['cpu']}, one thread, raw text in, answer out; {seeds} "
        f"seeds, 95 % intervals of their mean. Teachers: {'; '.join(teachers.values())}. With typos: 5 % of the "
        "characters of the test set wrong, for teacher and student. Latency: one seed, against the teacher in ONNX "
        "Runtime fp32 with its transformer fusions, the machine shared with other trainings."
    )


def _missed(bar: dict[str, Any]) -> str:
    wanted = f"at least {bar['floor']:g}" if "floor" in bar else f"at most {bar['ceiling']:g}"
    return f"{bar['name']} {bar['value']:.4g}, wanted {wanted}"


def demo_block(document: dict[str, Any]) -> str:
    """The table that `kdexport demo` prints at the end, less its blank lines, as a code block."""
    from rich.console import Console

    from kdexport.reporting.table import print_summary

    console = Console(file=io.StringIO(), width=DEMO_WIDTH)
    print_summary({**document, "decision": ""}, console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    return "\n".join(["```", *filter(None, lines), "```"])


if __name__ == "__main__":
    sys.exit(main())
