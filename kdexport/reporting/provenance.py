"""Where every number comes from: assumptions under the money, evidence of each figure, machines, data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdexport.reporting import figures
from kdexport.reporting.figures import BLANK, Document, Figure, finite, mapping, rows, words
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import badge, blank, bullets, number, table

DATA = ("train", "dev", "test", "unlabelled", "augmented")


def assumptions(document: Document) -> Safe:
    """Each number that the money rests on; those that nobody has confirmed are marked `assumed`."""
    lines = [
        (
            words(a.get("key")),
            words(target.get("target")),
            _assumed_value(a),
            badge("assumed" if a.get("assumed") else "stated"),
            " ".join(filter(None, (blank(a.get("source")), f"({a['note']})" if a.get("note") else ""))),
            blank(a.get("date")),
        )
        for target in rows(document.get("targets"))
        for a in rows(mapping(mapping(target.get("cost")).get("report")).get("assumptions"))
    ]
    if not lines:
        return tag("p", "No cost was computed, so nothing is assumed about money.", class_="muted")
    headings = ("Assumption", "Target", "Value", "Status", "Source", "Date")
    return table("What the money rests on", headings, lines, text=(1, 3, 4, 5))


def _assumed_value(assumption: Document) -> str:
    value = finite(assumption.get("value"))
    return BLANK if value is None else f"{value:,.6g} {words(assumption.get('unit'))}".strip()


def evidence(document: Document) -> Safe:
    lines = [(name, where, number(found), _status(found), found.evidence()) for name, where, found in _all(document)]
    headings = ("Figure", "Target", "Value", "Status", "Measured where, when, on how many; or estimated by what")
    return table("Evidence of each figure", headings, lines, text=(1, 3, 4))


def _status(found: Figure) -> Safe:
    return badge(found.kind if found.value is not None else "blank")


def _all(document: Document) -> Iterable[tuple[str, str, Figure]]:
    teacher = mapping(document.get("teacher"))
    yield "Teacher's quality", "", figures.quality(teacher.get("quality"), "on the test rows")
    yield "Teacher's parameters", "", figures.counted(teacher.get("params"), figures.whole, "in its graph")
    for target in rows(document.get("targets")):
        for name, found in _of_target(document, target):
            yield name, words(target.get("target")), found


def _of_target(document: Document, target: Document) -> Iterable[tuple[str, Figure]]:
    yield "Student's quality", figures.quality(target.get("quality"), "on the test rows")
    yield figures.retention_name(target).capitalize(), figures.retention(target)
    for key, scope in (("latency", "end to end"), ("latency_model", "model alone")):
        for who in ("teacher", "student"):
            yield f"Median latency, {scope}, {who}", figures.latency(document, mapping(target.get(key)).get(who))
        yield f"Speed-up, {scope}", figures.speedup(target, key)
    for who in ("incumbent", "teacher_quantised", "student"):
        yield f"USD/year, {figures.WHO[who].lower()}", figures.usd_per_year(target, who)
    yield "Saving, USD/year", figures.saving(target)


def environments(document: Document) -> Safe:
    found = mapping(document.get("environments"))
    if not found:
        return tag("p", "Nothing was measured, so there is no machine to name.", class_="muted")
    lines = [(tag("code", name), *_machine(mapping(machine))) for name, machine in found.items()]
    headings = ("Environment", "Machine", "Memory", "Threads", "Cores allowed", "Software", "Taken at")
    return table("Machines that measured", headings, lines, text=(1, 5, 6))


def _machine(environment: Document) -> Sequence[str]:
    memory, cores = finite(environment.get("memory_bytes")), finite(environment.get("cores_allowed"))
    packages = ", ".join(f"{name} {version}" for name, version in mapping(environment.get("packages")).items())
    software = ", ".join(
        p for p in (words(environment.get("platform")), f"Python {environment.get('python')}", packages) if p
    )
    isa = ", ".join(map(str, environment.get("isa") or ()))
    return (
        f"{blank(environment.get('cpu'))}{f' ({isa})' if isa else ''}",
        BLANK if memory is None else figures.bytes_text(memory),
        blank(environment.get("threads")),
        BLANK if cores is None else f"{cores:g}",
        software,
        blank(environment.get("taken_at")),
    )


def data(document: Document) -> Safe:
    counts = mapping(document.get("data"))
    lines = [(name.capitalize(), number(figures.counted(counts.get(name), figures.whole, "rows"))) for name in DATA]
    said = _said_of_data(counts)
    listed = table("Rows of data (counted)", ("Part", "Rows"), lines, class_="narrow")
    return join([listed, bullets(said) if said else ""])


def _said_of_data(counts: Document) -> list[str]:
    """Weights, split, near duplicates and redaction: what qualities and intervals rest on besides the rows."""
    weights, near = mapping(counts.get("weights")), mapping(counts.get("near_duplicates"))
    told = []
    if weights.get("weighted"):
        effective = finite(weights.get("effective_n"))
        as_much = "" if effective is None else f": they tell as much as {effective:,.0f} equal ones"
        told.append(f"Test rows count by their weights{as_much}.")
    if counts.get("split") == "time":
        told.append("Held out by time: the latest rows.")
    if (n := finite(near.get("n"))) is not None and (of := finite(near.get("of"))):
        sample = ", in a sample" if near.get("sampled") else ""
        told.append(f"{n:,.0f} of {of:,.0f} test rows ({figures.percent(n / of)}){sample} are nearly rows of train.")
    if (redacted := counts.get("redacted")) is not None:
        found = ", ".join(f"{finite(v) or 0:,.0f} {name}" for name, v in sorted(mapping(redacted).items()))
        told.append(f"Redacted on import: {found or 'nothing was found'}.")
    return told
