from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdexport.errors import BadInput
from kdexport.measure.statistics import (
    binomial_cdf,
    holm,
    mcnemar_p,
    median_ci95,
    paired_ratio,
    paired_retention,
    paired_shares,
    percentile_needs,
    ratio_of_medians,
    smallest_detectable_loss,
    upper_bound,
    wilson,
)

latencies_ms = arrays(np.float64, st.integers(70, 400), elements=st.floats(0.01, 1000))
answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_the_binomial_cdf_is_the_sum_of_its_terms():
    expected = [sum(math.comb(9, j) * 0.3**j * 0.7 ** (9 - j) for j in range(k + 1)) for k in range(10)]
    assert binomial_cdf(9, 0.3) == pytest.approx(expected)


@pytest.mark.parametrize(("percentile", "needed"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_percentile_has_no_bound_below_its_least_number_of_requests(percentile: float, needed: int):
    samples = np.arange(1, needed + 1, dtype=float)
    assert percentile_needs(percentile) == needed
    assert upper_bound(samples[:-1], percentile) is None
    assert upper_bound(samples, percentile) == needed


def test_one_slow_request_is_discarded_only_once_81_were_made():
    # P(Binomial(81, 0.1) <= 2) = 0.0099, P(Binomial(80, 0.1) <= 2) = 0.0107
    assert upper_bound([1.0] * 79 + [99.0], 90) == 99
    assert upper_bound([1.0] * 80 + [99.0], 90) == 1


def test_a_percentile_written_as_a_share_is_refused():
    with pytest.raises(ValueError, match="between 0 and 100"):
        upper_bound([1.0] * 700, 100)


@given(latencies_ms)
def test_the_bound_is_never_below_the_percentile_of_the_samples(samples: np.ndarray):
    bound = upper_bound(samples, 90)
    assert bound is not None
    assert bound >= np.percentile(samples, 90, method="inverted_cdf")


@given(latencies_ms)
def test_a_higher_percentile_has_no_lower_bound(samples: np.ndarray):
    bounds = [b for p in (50, 75, 90, 95) if (b := upper_bound(samples, p)) is not None]
    assert bounds == sorted(bounds)


def test_the_bound_covers_the_true_percentile_99_times_in_100():
    rng = np.random.default_rng(0)
    true_p90 = -math.log(0.1)
    covered = [(upper_bound(rng.exponential(size=100), 90) or 0) >= true_p90 for _ in range(1000)]
    assert np.mean(covered) > 0.98


def test_the_median_interval_of_ten_samples_runs_from_the_second_to_the_ninth():
    assert median_ci95(range(1, 11)) == (2, 9)


def test_below_six_samples_the_median_interval_is_the_whole_range():
    assert median_ci95([3.0, 1.0, 2.0]) == (1, 3)


def test_no_samples_have_no_median():
    with pytest.raises(ValueError, match="no samples"):
        median_ci95([])


@given(arrays(np.float64, st.integers(1, 80), elements=st.floats(-1e6, 1e6)))
def test_the_median_interval_holds_the_median(samples: np.ndarray):
    low, high = median_ci95(samples)
    assert low <= np.median(samples) <= high


def test_a_function_twice_as_slow_has_a_ratio_of_two_whatever_the_machine_does():
    fast = [np.array([1.0, 1.1, 0.9]) * noise for noise in (1.0, 1.0, 5.0, 1.0, 1.0)]
    slow = [2 * block for block in fast]
    value, (low, high) = ratio_of_medians(slow, fast, seed=0)
    assert (value, low, high) == pytest.approx((2, 2, 2))


def test_equal_functions_have_a_ratio_interval_that_contains_one():
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(size=(2, 30, 20))
    _, (low, high) = ratio_of_medians(list(a), list(b), seed=0)
    assert low < 1 < high


def test_a_single_block_tells_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        ratio_of_medians([[1.0]], [[1.0]], seed=0)


@settings(max_examples=20, deadline=None)
@given(arrays(np.float64, (4, 3), elements=st.floats(0.1, 100)), arrays(np.float64, (4, 3), elements=st.floats(0.1, 9)))
def test_the_ratio_interval_holds_the_ratio(a: np.ndarray, b: np.ndarray):
    value, (low, high) = ratio_of_medians(list(a), list(b), seed=0, resamples=50)
    assert low <= value <= high


def test_wilson_matches_a_published_example():
    # 81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_holds_the_share_and_stays_between_0_and_1(k_of_n: tuple[int, int]):
    k, n = k_of_n
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1


def test_more_right_answers_than_rows_are_no_share():
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_a_teacher_retains_all_of_itself():
    correct = np.random.default_rng(0).random(500) < 0.9
    assert paired_retention(correct, correct, seed=0) == (1.0, (1.0, 1.0))


def test_retention_is_the_ratio_of_right_answers():
    value, (low, high) = paired_retention([True] * 90 + [False] * 10, [True] * 100, seed=0)
    assert value == pytest.approx(0.9)
    # here the ratio is a share of 100 rows: its interval is near 0.9 +- 1.96 * 0.03
    assert (low, high) == pytest.approx((0.84, 0.96), abs=0.015)


def test_a_teacher_that_is_never_right_has_no_retention():
    with pytest.raises(BadInput, match="right on no row"):
        paired_retention([True, False], [False, False], seed=0)


def test_rows_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="the same"):
        paired_retention([True], [True, True], seed=0)


@given(answers)
def test_the_retention_interval_holds_the_retention(pairs: list[tuple[bool, bool]]):
    student, teacher = [s for s, _ in pairs], [True, *(t for _, t in pairs[1:])]
    value, (low, high) = paired_retention(student, teacher, seed=0, resamples=100)
    assert low <= value <= high


def test_the_general_ratio_agrees_with_retention_where_the_metric_is_accuracy():
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=400)
    teacher = np.eye(3)[labels] + rng.normal(scale=0.5, size=(400, 3))
    student = teacher + rng.normal(scale=0.3, size=(400, 3))

    def accuracy(logits: np.ndarray, truth: np.ndarray) -> float:
        return float(np.mean(logits.argmax(1) == truth))

    general, general_interval = paired_ratio(accuracy, student, teacher, labels, seed=0)
    exact, exact_interval = paired_retention(student.argmax(1) == labels, teacher.argmax(1) == labels, seed=0)
    assert general == pytest.approx(exact)
    assert general_interval == pytest.approx(exact_interval, abs=0.01)


def test_a_general_ratio_over_a_teacher_that_scores_zero_is_refused():
    with pytest.raises(BadInput, match="scores 0"):
        paired_ratio(lambda logits, labels: 0.0, np.ones((2, 2)), np.ones((2, 2)), [0, 1])


def test_mcnemar_counts_only_rows_where_one_of_the_two_is_right():
    # one gained, five lost: 2 * (C(6,0) + C(6,1)) / 2^6
    student = [True] + [False] * 5 + [True] * 50
    teacher = [False] + [True] * 5 + [True] * 50
    assert mcnemar_p(student, teacher) == pytest.approx(14 / 64)
    assert mcnemar_p(teacher, student) == pytest.approx(14 / 64)


def test_equal_answers_are_no_evidence_of_a_difference():
    assert mcnemar_p([True, False], [True, False]) == 1


def test_the_detectable_loss_has_the_power_it_states():
    n, accuracy = 1000, 0.9
    loss = smallest_detectable_loss(n, accuracy)
    rng = np.random.default_rng(0)
    only_teacher, only_student = (0.1 + loss) / 2, (0.1 - loss) / 2
    lost, gained, _ = rng.multinomial(n, [only_teacher, only_student, 0.9], size=4000).T
    found = (lost - gained) / np.sqrt(lost + gained) > 1.96
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_more_test_rows_detect_a_smaller_loss():
    losses = [smallest_detectable_loss(n, 0.93) for n in (100, 1000, 10_000)]
    assert losses == sorted(losses, reverse=True)
    assert smallest_detectable_loss(3, 0.9) >= 0.9


def test_equal_weights_give_the_exact_test_up_to_its_draws():
    rng = np.random.default_rng(0)
    student, teacher = rng.random(300) < 0.8, rng.random(300) < 0.88
    assert mcnemar_p(student, teacher, np.full(300, 2.5)) == pytest.approx(mcnemar_p(student, teacher), abs=0.02)


def test_a_difference_that_one_heavy_row_makes_is_not_significant():
    student, teacher = np.array([False] + [True] * 99), np.ones(100, dtype=bool)
    assert mcnemar_p(student, teacher, [1000.0] + [1.0] * 99) == 1


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_paired_shares_without_weights_are_wilsons_and_the_paired_retention():
    student, teacher = [True] * 8 + [False] * 2, [True] * 9 + [False]
    found = paired_shares(student, teacher)
    assert (found.student, found.student_ci95) == (0.8, wilson(8, 10))
    assert (found.ratio, found.ratio_ci95) == paired_retention(student, teacher, seed=0)


def test_paired_shares_count_a_row_by_its_weight():
    found = paired_shares([True, False, True], [True, True, False], [1.0, 2.0, 1.0])
    assert (found.student, found.teacher) == (0.5, 0.75)
    assert found.ratio == pytest.approx(2 / 3)
    assert found.student_ci95[0] <= 0.5 <= found.student_ci95[1]


def test_a_few_weighted_rows_that_are_all_right_do_not_make_certain():
    """A bootstrap draws nothing else; Wilson's interval of as many equal rows as the weights tell of does not."""
    found = paired_shares([True] * 4, [False] * 4, [3.0, 1.0, 1.0, 1.0])
    assert found.student_ci95 == pytest.approx(wilson(3, 3))  # (3 + 1 + 1 + 1)^2 / (9 + 1 + 1 + 1) = 3 rows
    assert found.teacher_ci95 == pytest.approx(wilson(0, 3))


def test_paired_shares_of_a_teacher_that_is_never_right_have_no_ratio():
    assert paired_shares([True, False], [False, False]).ratio is None
    assert paired_shares([True, False], [False, False], [1.0, 2.0]).ratio is None
