"""The page: every figure of the contract, nothing loaded, nothing unescaped, blanks as dashes."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from kdexport.reporting.html import render_html
from kdexport.reporting.picture import CHARACTER, LINE

Document = dict[str, Any]
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Visible text, elements and their attributes; fails on an element that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "title" not in self.open and "desc" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def with_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.elements)


@pytest.mark.parametrize(
    "shown",
    [
        # local-cpu, measured
        "182,413", "43,245", "125×", "998 KiB", "87.4 MiB", "89.7×",
        "0.9266", "0.9168 to 0.9353", "0.9282", "0.9186 to 0.9368", "3,080",
        "99.8 %", "99.0 to 100.7 %",
        "0.0713 ms", "0.0677 to 0.0749 ms", "0.0931 ms", "0.198 ms", "2,000", "44.0×", "41.2 to 46.9×",
        "3.14 ms", "3.92 ms", "4.87 ms",
        "0.0462 ms", "0.0588 ms", "0.131 ms", "65.4×", "3.02 ms",
        "0.211 ms", "objective met", "measured p99 of 2,000 requests, upper bound",
        "engine onnxruntime int8", "bundles/local-cpu", "0.0213", "99.94 %",
        "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        "no price: target 'local-cpu' names no offering",
        "unsupported, because openvino is not installed",
        # l4, estimated and priced
        "0.186 ms", "0.103 to 0.335 ms", "7.04×", "9.46×", "1.31 ms", "1.22 ms", "0.129 ms",
        "$28,200", "$21,150", "$14,100", "$21,150 to $42,300", "$7,050 to $28,200", "239.5 requests/s",
        "$4.47", "$3.35", "$2.24", "$3.22", "240 requests/s", "130 to 420 requests/s",
        "objective not proven", "recipe tensorrt_rtx fp16",
        # the rest
        "22,713,677", "0.9247", "1.71 ms", "22.4 MiB", "0.155", "0.9250", "116 s", "9,003", "18,000", "60,000",
        "Intel Xeon Platinum 8488C", "onnxruntime 1.32.0", "0.8048 USD/hour", "2026-10-02", "assumed",
        "min_retention of 97.0 % met", "125× fewer parameters", "incumbent (assumed: teacher here) → student",
        "Incumbent: the teacher on this same target (assumed: the project names no incumbent).",
        "quality is measured on the dev rows", "(without storage)",
        "nothing reaches both limits. Not every limit can be met; met: limit_ms 12.",
        "Quality and parity are those of onnxruntime/fp32",
        "1.42 M", "predicted retention below 0.97", "95.0 to 97.1 %", "2026-11-24", "0.1.0",
    ],
)  # fmt: skip
def test_a_figure_of_the_report_document_stands_in_the_visible_text(document: Document, shown: str) -> None:
    assert shown in Page(render_html(document)).text


def test_the_decision_comes_first_then_the_warnings_then_the_targets(document: Document) -> None:
    page = render_html(document)
    assert re.findall(r"<h2[^>]*>([^<]*)", page) == [
        "2 warnings", "Targets", "Quality, latency and cost", "The teacher", "Target by target",
        "What the student forgot",
            "Quality by slice", "Training", "Other candidates of the plan", "Assumptions and evidence",
        "Environments",
    ]  # fmt: skip
    assert page.index('class="decision"') < page.index("2 warnings")


def test_a_measured_target_says_measured_and_an_estimated_one_says_estimated(document: Document) -> None:
    local, l4 = document["targets"]
    for target, kind, other in ((local, "measured", "estimated"), (l4, "estimated", "measured")):
        page = render_html(document | {"targets": [target]})
        summary = page[page.index('<table class="summary"') :]
        latency = re.findall(r"<td data-label=\"Latency, end to end\".*?</td>", summary[: summary.index("</table>")])
        assert len(latency) == 1
        assert f">{kind}<" in latency[0]
        assert f">{other}<" not in latency[0]


def test_every_word_from_the_document_is_escaped(document: Document) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(v) for key, v in value.items()}
        if isinstance(value, list):
            return [poison(v) for v in value]
        return value + "<img src=x>\"'" if isinstance(value, str) and value not in keys else value

    keys = {"measured", "estimated", "incumbent", "teacher", "teacher_quantised", "student", "retention"}
    page = Page(render_html(poison(document)))
    assert {"img", "script"}.isdisjoint(tag for tag, _ in page.elements)
    assert "<script>alert(1)</script>" in page.text
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_the_page_requests_nothing(document: Document) -> None:
    text = render_html(document)
    page = Page(text)
    targets = [a[key] or "" for _, a in page.elements for key in ("src", "href", "action", "data") if key in a]
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"url\(|@import|xlink", text)
    assert {"link", "script", "iframe", "img", "object"}.isdisjoint(tag for tag, _ in page.elements)
    assert "default-src 'none'" in text.replace("&#x27;", "'")


def test_a_blank_is_a_dash_with_its_reason_and_never_a_zero(blank_document: Document) -> None:
    page = Page(render_html(blank_document))
    assert "the test rows are unlabelled" in page.text
    assert "not measured" in page.text
    assert "no cost known" in page.text
    assert not re.search(r"(?<![\d.])0(\.0+)?( ms|×| %|\b(?!\.))|\$0|nan|None", page.text.replace("0.1.0", ""))


@pytest.mark.parametrize("key", ["project", "decision", "warnings", "environments", "data", "training", "teacher"])
def test_a_document_without_an_optional_part_still_renders(document: Document, key: str) -> None:
    del document[key]
    assert "182,413" in Page(render_html(document)).text


def test_any_single_value_may_be_null_or_absent(document: Document) -> None:
    for target in document["targets"]:
        target |= {key: target[key][:2] for key in ("per_class", "candidates", "engines")}
    document["targets"] = [document["targets"][1]]
    for path in _paths(document):
        for absent in (False, True):
            changed = copy.deepcopy(document)
            holder = changed
            for step in path[:-1]:
                holder = holder[step]
            if absent:
                del holder[path[-1]]
            else:
                holder[path[-1]] = None
            render_html(changed)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value inside, but only one of each list: its items are alike."""
    items = value.items() if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else ()
    return [p for key, v in items for p in [(*path, key), *_paths(v, (*path, key))]]


def test_classes_are_sorted_by_answers_lost_and_the_rest_is_folded(document: Document) -> None:
    classes = [{"class": f"c{i:02d}", "n": 50, "teacher": 0.9, "student": 0.9 - i / 50} for i in range(20)]
    classes.append({"class": "gained", "n": 50, "teacher": 0.9, "student": 0.94})
    classes.append({"class": "unknown", "n": 50, "teacher": 0.9, "student": None})
    document["targets"] = [document["targets"][0] | {"per_class": classes}]
    page = render_html(document)
    section = page[page.index('id="forgotten"') : page.index('id="training"')]
    text = Page(section[section.index(">") + 1 : section.index("</section>")]).text
    assert "Of 22 classes the student finds fewer in 19, more in 1, as many in 1." in text
    names = re.findall(r'<th scope="row">([^<]*)', section)
    assert names == [f"c{i:02d}" for i in reversed(range(20))] + ["gained", "unknown"]
    assert section.index("The other 7 classes") > section.index("c05")
    assert section.index("The other 7 classes") < section.index("c04")
    assert "19 lost" in text
    assert "2 gained" in text


def test_where_rows_have_weights_what_was_found_is_told_by_weight(document: Document) -> None:
    assert "count by their weights" not in Page(render_html(document)).text
    document["data"]["weights"] = {"weighted": True, "effective_n": 50.0}
    assert "Rows count by their weights, scaled to each class's number of rows." in Page(render_html(document)).text


def test_what_was_done_to_the_data_is_told_beside_its_rows(document: Document) -> None:
    document["data"] |= {
        "split": "time",
        "weights": {"weighted": True, "effective_n": 78.6},
        "near_duplicates": {"n": 8, "of": 299, "share": 0.0268, "sampled": False},
        "redacted": {"name": 193, "card": 2},
    }
    text = Page(render_html(document)).text
    assert "Test rows count by their weights: they tell as much as 79 equal ones." in text
    assert "Held out by time: the latest rows." in text
    assert "8 of 299 test rows (2.7 %) are nearly rows of train." in text
    assert "Redacted on import: 2 card, 193 name." in text


def test_agreement_on_held_out_queries_stands_beside_the_quality(document: Document) -> None:
    assert "held-out queries" not in Page(render_html(document)).text
    document["targets"][0]["query_agreement"] = {"value": 0.953, "ci95": [0.93, 0.97], "n": 412}
    text = Page(render_html(document)).text
    assert "Agreement with the teacher, held-out queries" in text
    assert "95.3 %" in text
    assert "412" in text


def test_a_slice_of_queries_has_an_agreement_and_no_quality_of_the_teacher(document: Document) -> None:
    sure, found = {"value": 1.0, "ci95": [1.0, 1.0]}, {"value": 0.9, "ci95": [0.8, 0.95]}
    document["targets"] = document["targets"][:1]
    document["targets"][0]["slices"] = [
        {"by": "region", "name": "EU", "on": "held-out queries", "n": 50, "share": 0.5, "metric": "agreement",
         "teacher": sure, "student": found, "retention": found},
    ]  # fmt: skip
    page = render_html(document)
    section = page[page.index('id="slices"') : page.index('id="training"')]
    text = Page(section[section.index("<table") : section.index("</table>")] + "</table>").text
    assert text.count("90.0 %") == 1
    assert "100.0 %" not in text


def test_the_trial_that_others_are_held_against_shows_no_gain(document: Document) -> None:
    trial = {"temperature": 1.0, "hard_weight": 0.1, "dev_quality": 0.9, "dev_nll": 0.3}
    trial |= {"gain_nll": 0.0, "gain_error": 0.0}
    worse = trial | {"temperature": 2.0, "gain_nll": -0.01, "gain_error": 0.001}
    document["tuning"] = {"trials": [trial, worse], "chosen": 0, "schedule_share": 0.05, "reason": "no other is better"}
    text = Page(render_html(document)).text
    assert "0.0000 ±" not in text
    assert "−0.0100 ± 0.0020" in text


def test_a_class_of_one_row_does_not_stand_above_a_class_that_lost_many(document: Document) -> None:
    document["targets"][0]["per_class"] = [
        {"class": "tiny", "n": 1, "teacher": 1.0, "student": 0.0},
        {"class": "large", "n": 1000, "teacher": 0.9, "student": 0.8},
    ]
    text = Page(render_html(document)).text
    assert text.index("large") < text.index("tiny")


def test_students_with_the_same_recalls_share_one_block(document: Document) -> None:
    assert "This machine's CPU · AWS g6.xlarge, one L4" in Page(render_html(document)).text
    document["targets"][1]["per_class"][0]["student"] = 0.5
    assert "This machine's CPU · AWS g6.xlarge, one L4" not in Page(render_html(document)).text


def test_inside_the_noise_the_word_is_no_significant_difference(document: Document) -> None:
    l4 = document["targets"][1]
    l4["retention"]["ci95"] = [0.97, 0.999]
    document["targets"] = [l4]
    assert "no significant difference" not in Page(render_html(document)).text
    l4["cost"]["report"]["saving_interval_usd_per_year"] = [-500.0, 28_200.0]
    assert "no significant difference" in Page(render_html(document)).text


def test_a_saving_of_nothing_without_a_width_is_told_as_such(document: Document) -> None:
    l4 = document["targets"][1]
    document["targets"] = [l4]
    l4["retention"]["ci95"] = [0.97, 0.999]
    l4["cost"]["saving_usd_per_year"] = 0.0
    l4["cost"]["report"]["saving_interval_usd_per_year"] = [0.0, 0.0]
    text = Page(render_html(document)).text
    assert text.count("none: the same replicas serve either") == 2
    assert "no significant difference" not in text


def test_a_missed_gate_is_a_second_badge_on_row_and_card(document: Document) -> None:
    document["targets"] = document["targets"][:1]
    document["targets"][0]["gate"] |= {"met": False, "min_retention": 0.999}
    text = Page(render_html(document)).text
    assert text.count("✗ min_retention of 99.9 % missed") == 2
    assert text.count("✓ objective met") == 2


def test_the_upper_end_of_an_estimate_is_told_beside_its_objective(document: Document) -> None:
    objective = document["targets"][1]["objective"]
    for met, safe, shown in ((True, False, "estimate misses it."), (True, True, "estimate meets it, too.")):
        objective |= {"met": met, "interval_excludes_failure": safe}
        assert f"The upper end of the {shown}" in Page(render_html(document)).text


def test_the_picture_shows_measured_filled_estimated_hollow_and_the_objective(document: Document) -> None:
    page = Page(render_html(document))
    classes = [a.get("class") for _, a in page.elements]
    assert classes.count("mark measured") == 3  # teacher, teacher int8 and student on the measured target
    assert classes.count("mark estimated") == 2 + 2 * 5
    assert classes.count("objective") == 2
    assert page.text.count("objective p99 ≤ 10 ms") == 2
    assert "Student int8 · 0.0713 ms" in page.text
    assert "Student fp16 · 0.186 ms · $14,100/year" in page.text


def test_every_drawing_has_a_name_for_those_who_do_not_see_it(document: Document) -> None:
    drawings = re.findall(r"<svg[^>]*>.{0,7}", render_html(document))
    assert len(drawings) == 4
    assert all('role="img"' in drawing and drawing.endswith("<title>") for drawing in drawings)


def test_labels_of_the_picture_do_not_overlap(document: Document) -> None:
    reference = document["teacher"]["engines"][0]
    for i, precision in enumerate(("fp16", "bf16", "int4")):
        near = reference["end_to_end"] | {"p50_ms": 3.0 + 0.05 * i}
        document["teacher"]["engines"].append(reference | {"label": f"ort/{precision}", "end_to_end": near})
    document["targets"][0]["latency"]["student"]["p50_ms"] = 2.9
    panel = render_html(document).split('class="panel"')[1]
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label [a-z]+">([^<]*)', panel)
    assert len(found) == 6
    boxes = [(float(x), float(y) - LINE, float(x) + len(t) * CHARACTER, float(y)) for x, y, t in found]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, (found[i], other)


def test_tables_have_headers_for_columns_and_rows_and_regions_the_keyboard_reaches(document: Document) -> None:
    page = Page(render_html(document))
    assert all(a.get("scope") in ("col", "row") for tag, a in page.elements if tag == "th")
    regions = [a for _, a in page.elements if a.get("role") == "region"]
    assert regions
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)
    assert {"header", "main", "footer"} <= {tag for tag, _ in page.elements}
    identities = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identities) == len(set(identities))


def test_the_same_document_gives_the_same_page_and_it_is_small(document: Document) -> None:
    text = render_html(document)
    assert text == render_html(copy.deepcopy(document))
    assert len(text.encode()) < 300_000


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_colours_reach_a_contrast_of_4_5_on_the_page(scheme: str) -> None:
    style = files("kdexport.reporting").joinpath("style.css").read_text(encoding="utf-8")
    root = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[("light", "dark", "print").index(scheme)]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", root))
    for name in ("ink", "muted", "accent", "teacher", "quantised", "good", "bad", "warn"):
        for ground in ("page", "warn-back") if name in ("ink", "warn") else ("page",):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def _contrast(a: str, b: str) -> float:
    """WCAG 2.1, relative luminance."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
