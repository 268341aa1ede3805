"""What a person at a terminal sees: results on stdout, progress, log lines and one-line errors on stderr."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kdexport.errors import KdexportError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

NO, IMPOSSIBLE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141  # exit codes
DEBUG = "KDEXPORT_DEBUG"
PIPED_WIDTH = 140  # columns of a table where no terminal sets them
LOG_EVERY_SECONDS = 10.0  # between progress lines where there is no terminal
QUIET = {
    "HF_HUB_OFFLINE": "1",  # nothing is fetched behind the user's back
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
log = logging.getLogger(__name__)
Cell = str | None


# --- how a verb ends


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can mend ends in one line and exit 2; with KDEXPORT_DEBUG=1 in a traceback."""
    try:
        _silence_libraries()
        yield
        sys.stdout.flush()
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # the interpreter flushes once more at exit: into nothing
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except Exception as e:
        _end(_message(e), IMPOSSIBLE)


def _message(error: Exception) -> str:
    disk_full = "No space left on device" in str(error)  # safetensors and torch say it in classes of their own
    known = isinstance(error, KdexportError | OSError | MemoryError) or disk_full
    if not known or os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
    if isinstance(error, MemoryError):
        return "error: out of memory; use a smaller model or a larger machine"
    if disk_full and not isinstance(error, KdexportError):
        return "error: no space left on the disk; free some and run the same command again: it goes on where it stopped"
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {error.filename}: {error.strerror}"
    return f"error: {error}" if known else f"error: a fault in kdexport, not in your input: {error!r}"


def _end(line: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        click.echo(line, err=True)
    raise SystemExit(code) from None


def no(reasons: Sequence[str]) -> None:
    """Where there are reasons the answer is no: they go to stderr, and the exit code is 1."""
    if not reasons:
        return
    for reason in reasons:
        click.echo(f"no: {reason}", err=True)
    raise SystemExit(NO)


def _silence_libraries() -> None:
    """Third parties' warnings are for their developers; ours are log lines and report warnings."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not os.environ.get(DEBUG):
        warnings.simplefilter("ignore")
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())  # else a library's first warning sets up a handler on stderr
    logging.raiseExceptions = False  # a full disk under log.txt must not print tracebacks


# --- results on stdout


def answer(value: Any, as_json: bool, draw: Callable[[Console], None]) -> None:
    """The value as one JSON document, or drawn for people."""
    if not as_json:
        show(draw)
        return
    from kdexport.storage.files import to_plain

    click.echo(json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def show(draw: Callable[[Console], None]) -> None:
    """Draw on stdout, in colour on a terminal."""
    import io

    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    width = None if on_terminal else int(os.environ.get("COLUMNS") or PIPED_WIDTH)
    # drawn apart: rich has its own way to meet a broken pipe
    console = Console(file=io.StringIO(), force_terminal=on_terminal, width=width)
    draw(console)
    click.echo(console.file.getvalue(), nl=False)  # type: ignore[attr-defined]


def say(console: Console, *lines: str) -> None:
    """Plain lines: no markup is read in them, nothing is coloured, and a line is never cut in two."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    left: Sequence[int] = (0,),
    title: str = "",
) -> None:
    """Cells are plain text; None is a blank. `left`: indices of the columns of words; figures stand right."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title or None, title_justify="left")
    for index, heading in enumerate(headings):
        words = index in left
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*("–" if cell is None else escape(cell) for cell in row))
    console.print(table)


# --- progress on stderr


@dataclass(frozen=True)
class Following:
    """What a long call reports to: pipeline's progress_for and on_stage."""

    progress_for: Callable[[str], Callable[[int, int, str], None]]
    on_stage: Callable[[str, float, bool], None]


@contextlib.contextmanager
def following(log_file: Path | None = None) -> Iterator[Following]:
    """Progress bars on a terminal, log lines elsewhere; all log lines also at the end of `log_file`.

    Meanwhile nothing that a library prints reaches stdout: it is the verb's alone."""
    on_terminal = sys.stderr.isatty()
    with contextlib.ExitStack() as stack:
        if log_file is not None:
            # opened at the first line: by then the pipeline has made the folder, or said why it cannot
            file = logging.FileHandler(log_file, encoding="utf-8", delay=True)
            stack.enter_context(_logging_to(file, "%(asctime)s %(levelname)s %(name)s %(message)s", logging.INFO))
        lines = logging.StreamHandler(sys.stderr)
        lines.addFilter(lambda record: not record.name.startswith("kdexport.measure"))  # every timing: for log.txt
        level = logging.WARNING if on_terminal else logging.INFO
        stack.enter_context(_logging_to(lines, "%(asctime)s %(message)s", level, "%H:%M:%S"))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield stack.enter_context(_bars()) if on_terminal else Following(_logged_progress, lambda *_: None)


@contextlib.contextmanager
def _logging_to(handler: logging.Handler, line: str, level: int, clock: str | None = None) -> Iterator[None]:
    ours = logging.getLogger("kdexport")
    handler.setFormatter(logging.Formatter(line, clock))
    handler.setLevel(level)
    before = ours.level
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)
        handler.close()


def _logged_progress(name: str) -> Callable[[int, int, str], None]:
    """A log line every ten seconds."""
    first: tuple[float, int] | None = None  # a resumed stage does not begin at 0
    said = time.monotonic()

    def tell(done: int, total: int, state: str) -> None:
        nonlocal first, said
        now = time.monotonic()
        first = first or (now, done)
        if done > first[1] and now - said >= LOG_EVERY_SECONDS:
            left = (now - first[0]) * (total - done) / (done - first[1])
            log.info("%s: %d of %d, about %.0f s left %s", name, done, total, left, state)
            said = now

    return tell


@contextlib.contextmanager
def _bars() -> Iterator[Following]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """Blank until it is known; rich's own column would show a bare clock."""

        def render(self, task: Task) -> Text:
            left = task.time_remaining
            return Text("" if left is None else f"{datetime.timedelta(seconds=round(left))} left")

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TimeLeft(),
        TextColumn("{task.fields[state]}", markup=False),
    )

    def on_stage(name: str, seconds: float, cached: bool) -> None:
        if not cached:
            console.print(f"  {name}  {seconds:.1f} s", markup=False, highlight=False)

    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        status = _Status(progress)
        with _logging_to(status, "%(message)s", logging.INFO):
            yield Following(lambda name: _bar(progress, name), on_stage)


def _bar(progress: Progress, name: str) -> Callable[[int, int, str], None]:
    task = progress.add_task(name, total=None, state="")

    def tell(done: int, total: int, state: str) -> None:
        progress.update(task, completed=done, total=total, state=state, visible=done < total)

    return tell


class _Status(logging.Handler):
    """The stage that works, as an endless bar: what is going on where a stage has no bar of its own."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.task = progress.add_task("starting", total=None, state="")

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().split()
        if words[0].startswith("stage=") and words[-1] == "started":
            self.progress.update(self.task, description=words[0].removeprefix("stage="))
