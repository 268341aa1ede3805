"""The verbs. Each parses, calls one function and prints; exit 0: done, 1: the answer is no, 2: it could not be done."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdexport import __version__, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from kdexport.catalogue_check import Verdict

RUN_FOLDER = Path("kdexport-run")
PATH = click.Path(path_type=Path)


def _group(parent: click.Group | None, name: str, help: str, paste: str) -> click.Group:
    group = click.Group(name, help=help, epilog=_paste(paste), context_settings={"help_option_names": ["-h", "--help"]})
    if parent is not None:
        parent.add_command(group)
    return group


def _paste(line: str) -> str:
    return f"\b\nFor example:\n  {line}"


def _verb(group: click.Group, name: str, paste: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command of `group` with --json, one-line errors, and a help that ends with a line to paste."""

    def register(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def told(**arguments: Any) -> None:
            with terminal.one_line_errors():
                function(**arguments)

        as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
        command = group.command(name, epilog=_paste(paste))(as_json(told))
        return command

    return register


main = _group(
    None,
    "kdexport",
    "A large model becomes a small one that fits a given machine, at a given price, and proves it.",
    "kdexport demo",
)
click.version_option(__version__, prog_name="kdexport")(main)
profiles = _group(
    main, "profiles", "Hardware profiles: facts of devices, each with its source.", "kdexport profiles list"
)
targets = _group(main, "targets", "Targets: a device, an objective, traffic and a price.", "kdexport targets list")
teacher = _group(
    main,
    "teacher",
    "Make teachers, and choose between them.",
    "kdexport teacher fit --base MiniLM --train train.csv --out my-teacher",
)


# --- start


@_verb(main, "demo", "kdexport demo --out kdexport-demo")
@click.option("--out", type=PATH, default=Path("kdexport-demo"), show_default=True, help="Folder for data and results.")
def demo(out: Path, as_json: bool) -> None:
    """The whole line on a small data set; no network, minutes.

    The data are scikit-learn's digits; three teachers are fitted on the spot."""
    from kdexport.demo import write_demo

    _run(write_demo(out / "data"), out, False, as_json)


@_verb(main, "init", "kdexport init --teacher my-teacher --train train.csv --test test.csv --target local-cpu")
@click.option("--teacher", "teacher_source", required=True, metavar="DIR|FILE.onnx|module:function|scores.jsonl")
@click.option("--train", required=True, help="Labelled rows: CSV, JSONL, Parquet, or a folder per class.")
@click.option("--test", default=None, help="Labelled rows to judge by; without it a tenth of train is held out.")
@click.option("--queries", default=None, help="Production requests, unlabelled.")
@click.option("--input", "input_column", default=None, help="Column of the text or picture; guessed if absent.")
@click.option("--label", "label_column", default=None, help="Column of the class; guessed if absent.")
@click.option(
    "--target",
    "target_names",
    multiple=True,
    default=["local-cpu"],
    show_default=True,
    help="Id or file of a target; several times for several.",
)
@click.option("--out", type=PATH, default=Path("kdexport.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(
    teacher_source: str,
    train: str,
    test: str | None,
    queries: str | None,
    input_column: str | None,
    label_column: str | None,
    target_names: tuple[str, ...],
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write a commented project file.

    Task and columns are guessed, said, and checked against the data."""
    from kdexport import listing
    from kdexport.initialise import Wishes, initialise

    wishes = Wishes(teacher_source, train, test, queries, input_column, label_column, target_names)
    found = initialise(wishes, out, force)
    terminal.answer(found, as_json, functools.partial(listing.print_started, found))


@_verb(main, "doctor", "kdexport doctor kdexport.yaml")
@click.argument("project", type=PATH, required=False)
@click.option("--accuracy", type=click.FloatRange(0, 1, min_open=True), help="The teacher's, 0 to 1; assumed 0.9.")
def doctor(project: Path | None, accuracy: float | None, as_json: bool) -> None:
    """What works on this machine; what a PROJECT's test set can tell."""
    from kdexport import listing
    from kdexport.doctor import examine

    found = examine(project, accuracy)
    terminal.answer(found, as_json, functools.partial(listing.print_checkup, found))


@_verb(teacher, "fit", "kdexport teacher fit --base MiniLM-L6 --train train.csv --test test.csv --out my-teacher")
@click.option("--base", type=PATH, required=True, help="Folder of a pretrained Hugging Face model.")
@click.option("--train", required=True, help="Labelled texts; a dev split is held out of them.")
@click.option("--test", default=None, help="Labelled texts to judge by; without it a tenth of train is held out.")
@click.option("--out", type=PATH, required=True, help="New folder for the teacher.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=2e-4, show_default=True)
@click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.05, show_default=True)
@click.option(
    "--seed", "seeds", type=int, multiple=True, help="Several times for the members of an ensemble. [default: 0]"
)
def teacher_fit(
    base: Path, train: str, test: str | None, out: Path, seeds: tuple[int, ...], as_json: bool, **settings: Any
) -> None:
    """Fine-tune a base model on labelled text; with several seeds, as many into OUT/seed-N.

    Stopped or killed, the same command goes on."""
    from kdexport import listing
    from kdexport.nouns.project import Data, Fit, Table
    from kdexport.teaching import fit_teacher, fit_teachers

    data = Data(train=Table(path=train), test=Table(path=test) if test else None)
    with terminal.following() as f:
        if len(seeds) > 1:
            found = fit_teachers(Fit(base=base, seeds=seeds, **settings), data, out, f.progress_for)
        else:
            found = [fit_teacher(Fit(base=base, seed=sum(seeds), **settings), data, out, f.progress_for("fine-tune"))]
    answer = found if len(seeds) > 1 else found[0]
    terminal.answer(answer, as_json, functools.partial(listing.print_fitted, found))


@_verb(teacher, "cost", "kdexport teacher cost kdexport.yaml")
@click.argument("project", type=PATH)
@click.option("--out", type=PATH, default=RUN_FOLDER, show_default=True, help="What is answered there is not counted.")
@click.option("--probe", is_flag=True, help="Ask up to three texts, and count tokens as the server does.")
def teacher_cost(project: Path, out: Path, probe: bool, as_json: bool) -> None:
    """Requests, tokens and USD of teachers behind an endpoint, before any is asked.

    Exit 1 where a cap (max_usd) would be reached before the last text."""
    from kdexport import pipeline
    from kdexport.reporting.asking import print_costs

    with terminal.following():
        found = pipeline.teacher_cost(project, out, probe=probe)
    terminal.answer(found, as_json, functools.partial(print_costs, found))
    terminal.no([cost.over_cap for cost in found if cost.over_cap])


@_verb(teacher, "select", "kdexport teacher select kdexport.yaml --no-students")
@click.argument("project", type=PATH)
@click.option(
    "--out", type=PATH, default=RUN_FOLDER, show_default=True, help="Run folder: a second call goes on there."
)
@click.option("--no-students", is_flag=True, help="Compare the teachers alone; no student is taught.")
def teacher_select(project: Path, out: Path, no_students: bool, as_json: bool) -> None:
    """A project's teachers and their ensembles: on dev rows, on production queries, by what they cost to ask, and by
    what a small student learns from each. Says what that takes before it starts."""
    from kdexport import listing
    from kdexport.selecting import select_teacher

    with terminal.following(out / "log.txt") as f:
        found = select_teacher(project, out, students=not no_students, progress_for=f.progress_for, on_stage=f.on_stage)
    terminal.answer(found, as_json, functools.partial(listing.print_selection, found))


# --- plan and run


class _Finite(click.FloatRange):
    """FloatRange lets NaN and infinity through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not 1e-9 <= number <= 1e12:
            self.fail(f"{value} is not a number between 1e-9 and 1e12", param, ctx)
        return number


POSITIVE = _Finite(min=0, min_open=True)


@_verb(main, "plan", "kdexport plan kdexport.yaml --p99-ms 5 --max-bytes 2000000")
@click.argument("project", type=PATH)
@click.option("--out", type=PATH, default=RUN_FOLDER, show_default=True, help="Run folder: what is measured is kept.")
@click.option("--ladder", is_flag=True, help="Train a few students shortly to predict quality; says its cost first.")
@click.option("--p99-ms", type=POSITIVE, help="Best quality with a p99 within this, on every target.")
@click.option("--max-usd-per-million", type=POSITIVE, help="Best quality within this price of a million requests.")
@click.option("--max-bytes", type=click.IntRange(min=1), help="Best quality within this size of graph and tokenizer.")
@click.option("--front", is_flag=True, help="Draw every target's front, too; plan.html has them all.")
def plan(
    project: Path,
    out: Path,
    ladder: bool,
    p99_ms: float | None,
    max_usd_per_million: float | None,
    max_bytes: int | None,
    front: bool,
    as_json: bool,
) -> None:
    """Size a student for every target, before anything is trained.

    With limits of your own (any of --p99-ms, --max-usd-per-million, --max-bytes): the best quality within them.
    Says what a run will take, too. Exit 1 where a target cannot be met, with what could."""
    from kdexport import pipeline
    from kdexport.reporting.plan_page import write_plan_page
    from kdexport.reporting.plan_terminal import print_plan

    question = pipeline.Question(p99_ms, max_usd_per_million, max_bytes)
    with terminal.following(out / "log.txt") as f:
        found = pipeline.plan(project, out, question, climb=ladder, progress_for=f.progress_for, on_stage=f.on_stage)
    write_plan_page(found, project.stem, out / "plan.html")

    def show(console: Console) -> None:
        print_plan(found, console, front)
        terminal.say(console, f"drawn: {out / 'plan.html'}")

    terminal.answer(found, as_json, show)
    terminal.no([f"{t.target}: {t.nearest}" for t in found.targets if not t.feasible])


@_verb(main, "label", "kdexport label kdexport.yaml --out kdexport-run --export labels.safetensors")
@click.argument("project", type=PATH)
@click.option(
    "--out", type=PATH, default=RUN_FOLDER, show_default=True, help="Run folder: a later run uses the labels."
)
@click.option("--export", "export_to", type=PATH, help="Write them to this file, for another machine's --import.")
@click.option("--import", "import_from", type=PATH, help="Take them from this file: nothing is asked.")
def label(project: Path, out: Path, export_to: Path | None, import_from: Path | None, as_json: bool) -> None:
    """The teacher's answers alone: made here, or on a larger machine and brought here.

    An imported file is refused where teacher, rows or classes are not this project's."""
    from kdexport import listing, pipeline

    with terminal.following(out / "log.txt") as f:
        found = pipeline.make_labels(
            project,
            out,
            export_to=export_to,
            import_from=import_from,
            progress_for=f.progress_for,
            on_stage=f.on_stage,
        )
    terminal.answer(found, as_json, functools.partial(listing.print_labels, found))


@_verb(main, "run", "kdexport run kdexport.yaml --out kdexport-run")
@click.argument("project", type=PATH)
@click.option("--out", type=PATH, default=RUN_FOLDER, show_default=True, help="Run folder: a second run goes on there.")
@click.option("--remeasure", is_flag=True, help="Forget the decisions of earlier runs and measure them again.")
@click.option("--no-ladder", is_flag=True, help="Predict quality from the shipped prior: wide, but nothing is trained.")
def run(project: Path, out: Path, remeasure: bool, no_ladder: bool, as_json: bool) -> None:
    """Every stage, from teacher to priced bundles.

    Stopped or killed, the same command goes on. Exit 1 where retention or an objective is missed."""
    _run(project, out, remeasure, as_json, climb=not no_ladder)


def _run(project: Path, out: Path, remeasure: bool, as_json: bool, climb: bool = True) -> None:
    from kdexport import pipeline

    with terminal.following(out / "log.txt") as f:
        document = pipeline.run(
            project, out, remeasure=remeasure, climb=climb, progress_for=f.progress_for, on_stage=f.on_stage
        )
    terminal.answer(document, as_json, functools.partial(_print_run, document, out))
    terminal.no(pipeline.answers_no(document))


def _print_run(document: dict[str, Any], out: Path, console: Console) -> None:
    from kdexport.reporting.table import print_summary

    print_summary(document, console)
    terminal.say(console, "", f"report: {out / 'report.html'}")


# --- after a run


@_verb(main, "eval", "kdexport eval kdexport-run/bundles/local-cpu --data new.csv --min 0.9")
@click.argument("bundle", type=PATH)
@click.option("--data", required=True, help="Labelled rows: CSV, JSONL, Parquet, or a folder per class.")
@click.option("--input", "input_column", default=None, help="Column of the text or picture; guessed if absent.")
@click.option("--label", "label_column", default=None, help="Column of the class; guessed if absent.")
@click.option("--weight", "weight_column", default=None, help="Column of how often each row came; absent: all alike.")
@click.option("--metric", type=click.Choice(["accuracy", "macro_f1"]), help="Default: the bundle's own.")
@click.option("--project", type=PATH, help="Project file whose metric is used, with its costs.")
@click.option("--report", "run_folder", type=PATH, help="Run folder: shows its teacher's test quality beside it.")
@click.option("--min", "minimum", type=float, help="Exit 1 where the metric is below this.")
def evaluate(
    bundle: Path,
    data: str,
    input_column: str | None,
    label_column: str | None,
    weight_column: str | None,
    metric: str | None,
    project: Path | None,
    run_folder: Path | None,
    minimum: float | None,
    as_json: bool,
) -> None:
    """Quality of a bundle on new labelled data, with intervals. Raw request in, answer out."""
    from kdexport import listing, project_file
    from kdexport.bundle import evaluate as evaluation
    from kdexport.errors import BadInput
    from kdexport.nouns.metric import Metric
    from kdexport.nouns.project import Table
    from kdexport.reporting.files import read_report

    if minimum is not None and not math.isfinite(minimum):
        raise BadInput(f"--min {minimum}: a finite number is wanted")
    chosen = project_file.load_project(project).project.metric if project else None
    if metric is not None:
        chosen = Metric.model_validate({"name": metric})
    table = Table(path=data, input=input_column, label=label_column, weight=weight_column)
    found = evaluation.evaluate(bundle, table, chosen)
    if run_folder is not None:
        found = evaluation.with_teacher(found, read_report(run_folder), str(run_folder))
    terminal.answer(found, as_json, functools.partial(listing.print_evaluation, found))
    terminal.no([] if minimum is None else evaluation.below_gate(found, minimum))


@_verb(main, "bench", "kdexport bench kdexport-run/bundles/local-cpu --seconds 10")
@click.argument("bundle", type=PATH)
@click.option("--data", default=None, help="Requests to ask; default: the bundle's golden inputs.")
@click.option("--input", "input_column", default=None, help="Column of the text or picture; guessed if absent.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="At most."
)
def bench(bundle: Path, data: str | None, input_column: str | None, seconds: float, as_json: bool) -> None:
    """How fast a bundle answers here: end to end, and engine alone."""
    from kdexport import listing
    from kdexport.bundle.timing import time_bundle
    from kdexport.nouns.project import Table

    found = time_bundle(bundle, Table(path=data, input=input_column) if data else None, seconds)
    terminal.answer(found, as_json, functools.partial(listing.print_timing, found))


@_verb(main, "verify", "kdexport verify kdexport-run/bundles/local-cpu")
@click.argument("bundle", type=PATH)
def verify(bundle: Path, as_json: bool) -> None:
    """Is a bundle whole, every file by its hash? Exit 1 if not."""
    from kdexport.bundle.verify import verify as problems_of
    from kdexport.errors import Damaged

    try:
        problems = problems_of(bundle)
    except Damaged as e:  # the manifest itself: a bundle that is not whole is an answer, not a failure to look
        problems = [str(e)]
    answer = {"bundle": str(bundle), "whole": not problems, "problems": problems}
    terminal.answer(answer, as_json, lambda c: terminal.say(c, f"{bundle}: {'damaged' if problems else 'whole'}"))
    terminal.no(problems)


@_verb(main, "compare", "kdexport compare run-a run-b")
@click.argument("folders", nargs=-1, required=True, type=PATH, metavar="DIR...")
def compare(folders: tuple[Path, ...], as_json: bool) -> None:
    """Runs side by side. Exit 1 where one of them misses retention or an objective."""
    from kdexport.pipeline import answers_no
    from kdexport.reporting.files import read_report
    from kdexport.reporting.table import compare_rows, print_comparison

    documents = {str(folder): read_report(folder) for folder in folders}
    terminal.answer(compare_rows(documents), as_json, functools.partial(print_comparison, documents))
    terminal.no([f"{run}: {reason}" for run, document in documents.items() for reason in answers_no(document)])


@_verb(main, "report", "kdexport report kdexport-run")
@click.argument("folder", type=PATH, metavar="DIR")
def report(folder: Path, as_json: bool) -> None:
    """Draw report.html and costs.csv again from report.json."""
    from kdexport.reporting.files import draw_report, read_report

    document = read_report(folder)
    draw_report(document, folder)
    terminal.answer(document, as_json, functools.partial(_print_run, document, folder))


@_verb(main, "purge", 'kdexport purge kdexport-run --project kdexport.yaml --containing "Jane Doe"')
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--project", type=PATH, required=True, help="Project file: where the rows come from.")
@click.option("--containing", "texts", multiple=True, help="Rows that hold this text, in any case; several times.")
@click.option("--file", "text_file", type=PATH, help="Texts to look for, one a line: not left in a shell's history.")
@click.option("--keep-bundles", is_flag=True, help="Leave bundles, which hold what was learnt from the rows.")
def purge(
    folder: Path, project: Path, texts: tuple[str, ...], text_file: Path | None, keep_bundles: bool, as_json: bool
) -> None:
    """Remove a person's rows from a run folder: all that was made from them. Exit 1 where nothing was."""
    from kdexport import pipeline
    from kdexport.purge import read_texts, told

    wanted = [*texts, *(read_texts(text_file) if text_file else ())]
    found = pipeline.purge(project, folder, wanted, keep_bundles=keep_bundles)
    lines = "\n".join(told(found, folder))
    terminal.answer(found, as_json, lambda console: console.print(lines, markup=False, highlight=False))
    if not found.rows:
        terminal.no([f"{folder}: nothing was made from such a row; one that is no longer in the data: give it whole"])


# --- catalogue


@_verb(profiles, "list", "kdexport profiles list")
def profiles_list(as_json: bool) -> None:
    """Every known device."""
    from kdexport import catalogue
    from kdexport.reporting.catalogue import print_profiles

    found = list(catalogue.profiles().values())
    terminal.answer(found, as_json, functools.partial(print_profiles, found))


@_verb(profiles, "show", "kdexport profiles show l4")
@click.argument("id")
def profiles_show(id: str, as_json: bool) -> None:
    """The facts of one device, each with source and date; ID may be a file."""
    from kdexport.catalogue_check import load_profile
    from kdexport.reporting.catalogue import print_profile

    found = load_profile(id)
    terminal.answer(found, as_json, functools.partial(print_profile, found))


@_verb(profiles, "diff", "kdexport profiles diff l4 t4")
@click.argument("first")
@click.argument("second")
@click.option("--all", "same_too", is_flag=True, help="Facts that do not differ, too.")
def profiles_diff(first: str, second: str, same_too: bool, as_json: bool) -> None:
    """Two devices side by side: what differs, and how many times. Ids or files."""
    from kdexport.catalogue_check import differences, load_profile
    from kdexport.reporting.catalogue import print_differences

    a, b = load_profile(first), load_profile(second)
    found = differences(a, b, same_too)
    terminal.answer(found, as_json, functools.partial(print_differences, (a.id, b.id), found))


@_verb(profiles, "validate", "kdexport profiles validate my-board.yaml")
@click.argument("files", nargs=-1, type=PATH)
def profiles_validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Check profile files, or with none the whole catalogue. Exit 1 where one is wrong.

    Facts on which sources disagree are named; that alone is not wrong."""
    from kdexport.catalogue_check import check_profiles

    _checked(check_profiles(files), as_json)


@_verb(profiles, "detect", "kdexport profiles detect --out my-server.yaml")
@click.option("--out", type=PATH, help="Also write it as a profile file; its name is the id.")
@click.option("--gpu", type=click.IntRange(min=0), help="The GPU of this number, instead of the CPU.")
def profiles_detect(out: Path | None, gpu: int | None, as_json: bool) -> None:
    """This machine as a profile. What cannot be detected stays out."""
    from kdexport.catalogue_check import write_profile
    from kdexport.measure.environment import detect
    from kdexport.measure.machine import look
    from kdexport.reporting.catalogue import print_profile
    from kdexport.stages.detect import gpu_profile, local_profile

    here = detect(1)
    seen = look(here)
    found = local_profile(here, seen) if gpu is None else gpu_profile(here, seen, gpu)
    if out is not None:
        found = write_profile(found, out)
    terminal.answer(found, as_json, functools.partial(print_profile, found))


@_verb(profiles, "calibrate", "kdexport profiles calibrate --runtime onnxruntime --precision fp32")
@click.option("--runtime", "runtimes", multiple=True, help="As often as wanted; all that work here, unless said.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["fp32", "fp16", "bf16", "int8"]))
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Of each of them.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--force", is_flag=True, help="Measure again what was measured before.")
@click.option("--from", "source", type=PATH, help="Keep a calibration that was measured elsewhere; measure nothing.")
def profiles_calibrate(
    runtimes: tuple[str, ...],
    precisions: tuple[Any, ...],
    seconds: float,
    threads: int,
    force: bool,
    source: Path | None,
    as_json: bool,
) -> None:
    """Time small graphs on this machine, so that students are sized by what it does.

    Every project uses it. Close what else keeps the machine busy meanwhile."""
    from kdexport import pipeline
    from kdexport.latency import store
    from kdexport.reporting.calibration import calibration_rows, print_calibrations

    if source is not None:
        found = [store.read(source)]
        store.save(found[0])
    else:
        with terminal.following() as f:
            found = pipeline.calibrate_machine(threads, runtimes, precisions, seconds, force, f.progress_for)
    terminal.answer(calibration_rows(found), as_json, functools.partial(print_calibrations, found))


@_verb(targets, "list", "kdexport targets list")
def targets_list(as_json: bool) -> None:
    """Every known target."""
    from kdexport import catalogue
    from kdexport.reporting.catalogue import print_targets

    found = list(catalogue.targets().values())
    terminal.answer(found, as_json, functools.partial(print_targets, found))


@_verb(targets, "show", "kdexport targets show l4")
@click.argument("id")
def targets_show(id: str, as_json: bool) -> None:
    """One target: objective, traffic, price, and the facts of its device with source and date."""
    from kdexport import project_file
    from kdexport.reporting.catalogue import print_target

    found, profile = project_file.load_target(id)
    terminal.answer(found, as_json, functools.partial(print_target, found, profile))


@_verb(targets, "new", "kdexport targets new --profile l4 --p99-ms 5 --rps 40 --peak-rps 200")
@click.option("--profile", required=True, help="Id of a device (kdexport profiles list), or local.")
@click.option("--p99-ms", type=POSITIVE, required=True, help="Objective: 99 of 100 requests answered within this.")
@click.option("--offering", default=None, help="Id of one of the device's; default: the cheapest.")
@click.option("--name", default=None, help="Id of the target; default: from the file, or the device and the objective.")
@click.option("--runtime", "runtimes", multiple=True, help="Allowed; several times for several. Default: by device.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(["fp32", "fp16", "bf16", "int8"]), help="Allowed."
)
@click.option("--rps", "mean_requests_per_s", type=POSITIVE, help="Requests per second, mean of a year.")
@click.option("--peak-rps", "peak_requests_per_s", type=POSITIVE, help="Requests per second at the peak.")
@click.option("--max-bytes", type=click.IntRange(min=1), help="Largest size of all files loaded to answer.")
@click.option("--description", default=None, help="One line for people; default: from the device.")
@click.option("--out", type=PATH, default=None, help="File to write; default: NAME.yaml here.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def targets_new(out: Path | None, force: bool, as_json: bool, **wishes: Any) -> None:
    """Write a commented target file for a known device.

    What is not said is taken from the class of the device; traffic then counts as assumed."""
    from kdexport.new_target import Wishes, new_target

    path, found = new_target(Wishes(**wishes), out, force)
    terminal.answer(found, as_json, lambda console: terminal.say(console, f"{path}: target {found.id}, written"))


@_verb(targets, "validate", "kdexport targets validate my-target.yaml")
@click.argument("files", nargs=-1, type=PATH)
def targets_validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Check target files, with profile, offering and runtimes, or with none the whole catalogue."""
    from kdexport.catalogue_check import check_targets

    _checked(check_targets(files), as_json)


def _checked(verdicts: dict[str, Verdict], as_json: bool) -> None:
    """verdicts: by file or id."""
    lines = []
    for name, verdict in verdicts.items():
        lines.append(f"{name}: {'wrong' if verdict.problem else 'ok'}")
        lines += [f"  conflict: {conflict}" for conflict in verdict.conflicts]
    terminal.answer(verdicts, as_json, lambda console: terminal.say(console, *lines))
    terminal.no([verdict.problem for verdict in verdicts.values() if verdict.problem])
