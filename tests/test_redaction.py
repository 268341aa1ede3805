from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.errors import BadInput
from kdexport.nouns.project import Redact, RedactRule
from kdexport.project_file import load_project
from kdexport.redaction import BUILT_IN, is_card, is_iban, is_nric, redact, rules_of

ALL = rules_of(BUILT_IN)  # type: ignore[arg-type]


def redacted(text: str, *rules: Redact) -> str:
    return redact(text, rules_of(rules) if rules else ALL)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lost 4111 1111 1111 1111 12/25", "lost [CARD] 12/25"),
        ("lost 4111-1111-1111-1111.", "lost [CARD]."),
        ("cards 5500000000000004, 378282246310005", "cards [CARD], [CARD]"),
        ("NRIC S1234567D and s1234567d", "NRIC [NRIC] and [NRIC]"),
        ("FIN F1234567N, M1234567K, S 1234567 D", "FIN [NRIC], [NRIC], [NRIC]"),
        ("mail jane.doe+x@mail.example.co.uk.", "mail [EMAIL]."),
        ("see https://x.example/a?b=1, www.y.example", "see [URL], [URL]"),
        ("iban gb82 west 1234 5698 7654 32 please", "iban [IBAN] please"),
        ("from 192.168.1.17 or fe80::1ff:fe23", "from [IP] or [IP]"),
        ("call +65 8123 4567 or (020) 7946 0958", "call [PHONE] or [PHONE]"),
        ("sms 91234567 or 9123 4567", "sms [PHONE] or [PHONE]"),
        ("my name is john tan and I pay", "my name is [NAME] and I pay"),
        ("I am Wei Ling Tan, hello", "I am [NAME], hello"),
        ("I'm Muhammad Faizal bin Abdullah", "I'm [NAME]"),
        ("My name: Ravi s/o Kumar ok", "My name: [NAME] ok"),
        ("Dr. Priya Nair knows; Priya said so", "Dr. [NAME] knows; [NAME] said so"),
        ("mr tan called", "mr [NAME] called"),
        ("I AM JOHN AND LOST MY CARD", "I AM [NAME] AND LOST MY CARD"),
    ],
)
def test_personal_data_becomes_the_name_of_its_rule(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112 fails Luhn",
        "S1234567E has another letter",
        "GB82 WEST 1234 5698 7654 33 has other check digits",
        "paid 1000000 on 2026-10-11 at 12:30, ref 1.250",
        "charged $80001234 for 12345 items",
        "version 1.2.300.4",
        "flight ab123 and my luggage is now lost",
        "my name is wrong on my card",
        "I am trying to pay",
        "I Am Trying To Pay My Card",
        "I AM UNABLE TO PAY",
        "I am American",
        "I miss payments; 200 ms delay",
        "this is urgent",
    ],
)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    ["S0000001I", "T0000001E", "F0000001U", "G0000001P"],
)
def test_an_nric_whose_letter_is_worked_out_by_hand_is_valid(text: str) -> None:
    """Of the digits only the last is not 0, and weighs 2: the sum is 2, and 4 more for T and G."""
    assert is_nric(text)


@given(st.text("0123456789", min_size=12, max_size=18).filter(lambda digits: digits[0] != "0"))
def test_just_one_check_digit_makes_a_card(digits: str) -> None:
    assert [is_card(digits + last) for last in "0123456789"].count(True) == 1


@given(st.text("0123456789", min_size=7, max_size=7), st.sampled_from("STFGM"))
def test_just_one_letter_makes_an_nric(digits: str, series: str) -> None:
    assert [is_nric(series + digits + letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"].count(True) == 1


def test_the_examples_of_the_iban_registry_are_valid() -> None:
    assert all(map(is_iban, ("GB29NWBK60161331926819", "DE89370400440532013000", "NO9386011117947")))


@given(st.text(max_size=80))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


@given(st.text(max_size=60))
def test_the_pieces_between_findings_are_left_as_they_are(text: str) -> None:
    rest, found = redact(text, ALL)
    assert found or rest == text


def test_counts_say_how_often_each_rule_found_something() -> None:
    found = redact("4111111111111111, 5500000000000004 of S1234567D", ALL)[1]
    assert found == Counter({"card": 2, "nric": 1})


def test_a_pattern_of_the_users_own_has_his_replacement() -> None:
    rule = RedactRule(name="staff_id", pattern=r"S\d{6}", replace="[STAFF]")
    assert redacted("ask S123456 now", rule) == "ask [STAFF] now"
    assert redacted("ask S123456 now", rule.model_copy(update={"replace": None})) == "ask [STAFF_ID] now"


def test_built_in_rules_come_before_the_users_own() -> None:
    """The pattern alone would leave the last digit and the letter."""
    rule = RedactRule(name="staff_id", pattern=r"S\d{6}")
    assert redacted("I have S1234567D", rule, "nric") == "I have [NRIC]"


def test_a_list_finds_whole_names_in_any_case_the_longest_first(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Ana\nAna Maria Sy\n\n")
    rule = RedactRule(name="people", file=tmp_path / "names.txt")
    assert redacted("ANA  MARIA SY, ana and Banana", rule) == "[PEOPLE], [PEOPLE] and Banana"


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(BadInput, match="is empty; write one name"):
        rules_of((RedactRule(name="people", file=tmp_path / "names.txt"),))


PROJECT = """name: a
task: text_classification
data:
  train: {path: train.csv}
  redact:
    - email
    - RULE
teachers: [{function: "a:b"}]
targets: [local-cpu]
"""


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{name: a, pattern: '(x'}", r"kdexport.yaml:7: data\.redact\[1\]\.pattern: not a regular expression"),
        ("{name: a, pattern: 'x*'}", r"kdexport.yaml:7: data\.redact\[1\]\.pattern: it also matches where nothing"),
        ("{name: a}", r"kdexport.yaml:7: data\.redact\[1\]: give exactly one of 'pattern' and 'file'"),
        ("{name: a, file: none.txt}", r"kdexport.yaml:7: data\.redact\[1\]\.file: .*none.txt: the list of rule 'a'"),
        ("emial", r"kdexport.yaml:7: data\.redact\[1\]: .*found 'emial'"),
    ],
)
def test_a_bad_rule_is_an_error_with_key_and_line(tmp_path: Path, rule: str, message: str) -> None:
    (tmp_path / "kdexport.yaml").write_text(PROJECT.replace("RULE", rule))
    with pytest.raises(BadInput, match=message):
        load_project(tmp_path / "kdexport.yaml")
