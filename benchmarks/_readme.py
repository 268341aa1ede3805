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
    """A table of benchmarks/results/quality.json, one row a student, and where it was measured."""
    rows = document["figures"]["rows"]
    lines = [
        "| data | student | size | accuracy, 95 % | of the teacher's, 95 % | end to end, p50 | speed-up | engine |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
        *(_row(row) for row in sorted(rows, key=lambda r: (r["data"], r["params"]))),
        "",
        _caption(document),
    ]
    missed = [_missed(bar) for bar in document["bars"] if not bar["passed"]]
    return "\n".join([*lines, *(["", "Below this release's own bar: " + "; ".join(missed) + "."] if missed else [])])


def _row(row: dict[str, Any]) -> str:
    cells = (
        row["data"],
        f"{row['params']:,} (1/{row['params_ratio']:.0f})",
        f"{row['student_bytes'] / 2**20:.2f} MiB",
        f"{row['accuracy']:.4f} ({_interval(row['accuracy_ci95'], '.3f')})",
        f"{row['retention']:.1%} ({_interval(row['retention_ci95'], '.1%')})",
        f"{row['teacher_p50_us']:,.0f} → {row['p50_us']:,.0f} µs",
        f"{row['speedup']:.1f}× ({row['speedup_fastest_teacher']:.1f}×)",
        row["engine"],
    )
    return f"| {' | '.join(cells)} |"


def _interval(pair: list[float], form: str) -> str:
    return f"{pair[0]:{form}} to {pair[1]:{form}}"


def _caption(document: dict[str, Any]) -> str:
    rows, machine = document["figures"]["rows"], document["environment"]
    teachers = {row["data"]: f"{row['data']} {row['teacher_accuracy']:.4f} (n = {row['n']:,})" for row in rows}
    return (
        f"All measured on {machine['taken_at'][:10]}, {machine['cpu']}, one thread, raw text in, answer out. Teachers: "
        f"{'; '.join(teachers.values())}. Speed-up: against the teacher in ONNX Runtime fp32 with its transformer "
        "fusions; in brackets against the teacher's own fastest engine."
    )


def _missed(bar: dict[str, Any]) -> str:
    return f"{bar['name']} {bar['value']:.3g}, wanted {bar['floor']:g}"


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
