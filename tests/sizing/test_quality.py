from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport import registry
from kdexport.sizing.quality import predict_retention

KINDS = ("text", "image")
PARAMS = st.integers(100, 10**9)
TEACHERS = st.none() | st.integers(10**4, 10**10)


@given(st.sampled_from(KINDS), st.sampled_from(registry.names("backbones")), PARAMS, PARAMS, TEACHERS)
def test_more_parameters_are_never_predicted_to_keep_less(
    kind: str, backbone: str, one: int, other: int, teacher: int | None
) -> None:
    small, large = (predict_retention(kind, backbone, n, teacher) for n in sorted((one, other)))
    assert small.value <= large.value


@given(st.sampled_from(KINDS), PARAMS, TEACHERS)
def test_a_prediction_is_a_share_within_its_interval(kind: str, params: int, teacher: int | None) -> None:
    found = predict_retention(kind, "convolution", params, teacher)
    assert 0 <= found.low <= found.value <= found.high
    assert found.value <= 1.01


@given(PARAMS, st.integers(10**4, 10**9))
def test_a_larger_teacher_is_never_easier_to_keep(params: int, teacher: int) -> None:
    easy, hard = (predict_retention("text", "convolution", params, t) for t in (teacher, 2 * teacher))
    assert hard.value <= easy.value


@pytest.mark.parametrize(
    ("params", "ratio", "measured"),
    [(700_000, 33, 1.001), (180_000, 126, 0.998), (908_000, 25, 0.971), (234_000, 97, 0.960)],
)
def test_the_interval_holds_every_retention_that_it_was_made_from(params: int, ratio: int, measured: float) -> None:
    """Banking77 at 1/33 and 1/126, a set of 64 intents at 1/25 and 1/97."""
    found = predict_retention("text", "convolution", params, params * ratio)
    assert found.low <= measured <= found.high


def test_an_unknown_teacher_is_assumed_and_said() -> None:
    assert predict_retention("text", "convolution", 10**5, None).basis.endswith("teacher's size unknown, 20 M assumed")
    assert "unknown" not in predict_retention("text", "convolution", 10**5, 10**7).basis


def test_pictures_have_a_wider_interval_than_texts() -> None:
    text, image = (predict_retention(kind, "convolution", 10**6, 3 * 10**7) for kind in KINDS)
    assert image.high - image.low > text.high - text.low
