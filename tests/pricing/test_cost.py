import datetime
import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdexport.errors import BadInput
from kdexport.nouns.cost import Capacity, CostLine
from kdexport.nouns.profile import Facts, HardwareProfile, Number, Offering
from kdexport.nouns.target import Objective, Target, Traffic
from kdexport.pricing.cost import compare, price, replicas_for, usd_per_hour, zero_saving_requests_per_s

DATE = datetime.date(2025, 5, 1)
rates = st.floats(1e-3, 1e5)
redundancies = st.integers(0, 4)


def number(value):
    return Number(value=value, source="price list", date=DATE)


def rented(usd, **kwargs):
    return Offering(id="rent", kind="rented", region="eu-west-1", price_usd_per_hour=number(usd), **kwargs)


def owned(usd, **kwargs):
    return Offering(id="own", kind="owned", purchase_usd=number(usd), **kwargs)


def profile(*offerings, power_w=None):
    facts = Facts(power_w=number(power_w) if power_w else None)
    return HardwareProfile(
        id="box", name="Box", device_class="cpu", vendor="acme", host="x86-64", facts=facts, offerings=offerings
    )


def target(redundancy=0, offering="rent", **kwargs):
    return Target(
        id="site",
        profile="box",
        offering=offering,
        runtimes=("onnxruntime",),
        precisions=("fp32",),
        objective=Objective(limit_ms=50),
        traffic=Traffic(mean_requests_per_s=1, peak_requests_per_s=1),
        redundancy=redundancy,
        **kwargs,
    )


def serves(rps, low=None, high=None):
    interval = (rps if low is None else low, high or rps)
    return Capacity(requests_per_s=rps, kind="estimated", error_interval=interval, how="a test's figure")


def line(who="student", usd=1.0, rps=10.0, redundancy=0, peak=10.0, mean=None, capacity=None, **kwargs):
    offering = None if usd is None else "rent"
    return price(
        who,
        target(redundancy, offering),
        profile(*([] if usd is None else [rented(usd)])),
        capacity or serves(rps),
        traffic=Traffic(mean_requests_per_s=mean or peak, peak_requests_per_s=peak),
        quality=0.9,
        quality_label="accuracy, test",
        **kwargs,
    )


# Replicas


@given(peak=rates, capacity=rates, redundancy=redundancies)
def test_replicas_serve_the_peak_and_one_fewer_would_not(peak, capacity, redundancy):
    needed = replicas_for(peak, capacity, redundancy) - redundancy
    assert needed * capacity >= peak
    assert needed == 1 or (needed - 1) * capacity <= peak


def test_a_quotient_that_floats_round_down_still_serves_the_peak():
    peak, capacity = next(
        (p / 10, c / 10)
        for c, p in itertools.product(range(1, 200), range(1, 2000))
        if (p / 10) / (c / 10) == (n := round(p / c)) and n * (c / 10) < p / 10
    )
    assert replicas_for(peak, capacity, 0) * capacity >= peak


@given(peak=rates, capacity=rates, redundancy=redundancies)
def test_two_half_endpoints_need_no_fewer_replicas_than_one(peak, capacity, redundancy):
    assert 2 * replicas_for(peak / 2, capacity, redundancy) >= replicas_for(peak, capacity, redundancy)


def test_replicas_of_no_capacity_are_refused():
    with pytest.raises(BadInput, match="no number of replicas"):
        replicas_for(1.0, 0.0, 1)


# Price of an hour


def test_a_rented_replica_costs_its_list_price():
    assert usd_per_hour(rented(1.25), profile()) == 1.25


def test_an_owned_replica_costs_its_purchase_over_its_lifetime_and_its_electricity():
    # 8,760 USD over one year is 1 USD/hour; 500 W at 0.20 USD/kWh is 0.10 USD/hour.
    offering = owned(8760, lifetime_years=1, usd_per_kwh=0.2)
    assert usd_per_hour(offering, profile(power_w=500)) == pytest.approx(1.10)


def test_two_owned_devices_in_one_instance_are_both_paid_for():
    offering = owned(8760, lifetime_years=1, usd_per_kwh=0.2, devices=2)
    assert usd_per_hour(offering, profile(power_w=500)) == pytest.approx(2.20)


def test_an_owned_device_of_unknown_power_says_that_electricity_is_left_out():
    offering = owned(8760, lifetime_years=1)
    found = price(
        "student",
        target(offering="own"),
        profile(offering),
        serves(10),
        traffic=Traffic(mean_requests_per_s=1, peak_requests_per_s=1),
        quality=None,
        quality_label="not measured",
    )
    assert found.usd_per_year == pytest.approx(8760)
    assert "electricity is left out" in found.note


def test_no_offering_has_no_price():
    assert usd_per_hour(None, profile(power_w=500)) is None


# One line


def test_a_line_worked_by_hand():
    # peak 25 at 10 a replica: 3 + 1 spare = 4 x 0.50 USD; 1 request/s is 31.536 million a year.
    found = line(usd=0.5, rps=10, redundancy=1, peak=25, mean=1)
    assert found.replicas == 4
    assert found.usd_per_hour == pytest.approx(2.0)
    assert found.usd_per_year == pytest.approx(17_520)
    assert found.usd_per_million == pytest.approx(17_520 / 31.536)
    assert (found.region, found.price_date, found.currency) == ("eu-west-1", DATE, "USD")


def test_the_interval_of_a_cost_is_the_cost_at_both_ends_of_the_capacity():
    found = line(usd=1, peak=20, capacity=serves(10, low=5, high=20))
    assert (found.usd_per_year, found.usd_per_year_interval) == (2 * 8760, (8760, 4 * 8760))


def test_a_capacity_that_may_be_zero_leaves_the_interval_blank_and_says_so():
    found = line(capacity=serves(10, low=0, high=20))
    assert found.usd_per_year == 8760
    assert found.usd_per_year_interval is None
    assert "no upper bound on cost" in found.note


@given(usd=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), peak=rates, rps=rates)
def test_a_dearer_hour_never_costs_less(usd, peak, rps):
    assume(peak / rps < 1e5)
    low, high = (line(usd=u, peak=peak, rps=rps).usd_per_year for u in sorted(usd))
    assert low <= high


@given(peaks=st.tuples(rates, rates), rps=rates, redundancy=redundancies)
def test_more_traffic_never_costs_less(peaks, rps, redundancy):
    low, high = (line(peak=p, rps=rps, redundancy=redundancy).usd_per_year for p in sorted(peaks))
    assert low <= high


@given(redundancy=redundancies, peak=rates, rps=rates)
def test_one_more_spare_replica_costs_more(redundancy, peak, rps):
    assert line(redundancy=redundancy, peak=peak, rps=rps).replicas + 1 == (
        line(redundancy=redundancy + 1, peak=peak, rps=rps).replicas
    )
    spare = line(redundancy=redundancy + 1, peak=peak, rps=rps).usd_per_year
    assert line(redundancy=redundancy, peak=peak, rps=rps).usd_per_year < spare


@given(peak=rates, rps=rates)
def test_a_missing_price_is_blank_and_never_zero(peak, rps):
    found = line(usd=None, peak=peak, rps=rps)
    assert (found.usd_per_hour, found.usd_per_year, found.usd_per_million) == (None, None, None)
    assert found.usd_per_year_interval is None
    assert found.replicas >= 1
    assert "names no offering" in found.note


def test_no_capacity_gives_a_reason_and_no_replicas():
    missed = Capacity(requests_per_s=0, kind="measured", ci95=(0, 0), how="no capacity: p99 is 80 ms")
    found = line(capacity=missed)
    assert (found.replicas, found.usd_per_year) == (None, None)
    assert found.note == "no capacity: p99 is 80 ms"


def test_a_bill_replaces_the_price_and_has_no_width():
    found = line("incumbent", usd=1, capacity=serves(10, low=5, high=20), billed_usd_per_year=50_000.0)
    assert found.usd_per_year == 50_000
    assert found.usd_per_year_interval == (50_000, 50_000)
    assert (found.price_source, found.kind) == ("the project's bill", "measured")


def test_an_offering_that_the_profile_lacks_is_named_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'rent'"):
        price(
            "student",
            target(offering="rant"),
            profile(rented(1)),
            serves(1),
            traffic=Traffic(mean_requests_per_s=1, peak_requests_per_s=1),
            quality=None,
            quality_label="not measured",
        )


def test_defaults_are_listed_as_assumed_and_sourced_prices_are_not():
    offering = owned(8760, lifetime_years=2)
    found = price(
        "student",
        target(offering="own", max_utilisation=0.5),
        profile(offering, power_w=10),
        serves(10),
        traffic=Traffic(mean_requests_per_s=1, peak_requests_per_s=1, assumed=True),
        quality=None,
        quality_label="not measured",
    )
    assumed = {a.key: a.assumed for a in found.assumptions}
    assert assumed == {
        "traffic.mean": True,
        "traffic.peak": True,
        "site.redundancy": False,
        "site.max_utilisation": False,
        "own.price": False,
        "own.lifetime": False,
        "own.electricity": True,
        "box.power": False,
        "box.power_share": True,
    }
    sources = {a.key: a.source for a in found.assumptions}
    assert sources["own.lifetime"] == "offering 'own'"
    assert sources["own.electricity"] == sources["box.power_share"] == "kdexport's default"
    assert found.price_basis == "purchase over 2 years, with electricity at full power all year"


def test_a_sourced_price_keeps_what_its_source_leaves_out():
    card = Number(value=8760, source="price list", date=DATE, note="card alone, without storage")
    offering = Offering(id="own", kind="owned", purchase_usd=card)
    found = price(
        "student",
        target(offering="own"),
        profile(offering),
        serves(10),
        traffic=Traffic(mean_requests_per_s=1, peak_requests_per_s=1),
        quality=None,
        quality_label="not measured",
    )
    assert {a.key: a.note for a in found.assumptions}["own.price"] == "card alone, without storage"


def test_a_line_says_what_its_price_rests_on():
    assert line().price_basis == "list price of an hour"
    assert line("incumbent", billed_usd_per_year=1.0).price_basis == "bill"
    assert line(usd=None).price_basis == ""


def test_a_cost_without_the_source_of_its_price_is_refused():
    values = line().model_dump() | {"price_source": ""}
    with pytest.raises(ValidationError, match="source of its price"):
        CostLine(**values)


# Savings


def test_the_saving_is_the_incumbent_s_cost_less_the_student_s():
    report = compare(line("incumbent", rps=2, peak=10), line("teacher_quantised", rps=5, peak=10), line(peak=10))
    assert report.saving_usd_per_year == 4 * 8760
    assert [one.who for one in report.lines] == ["incumbent", "teacher_quantised", "student"]
    assert report.line("teacher_quantised").usd_per_year == 2 * 8760


def test_the_saving_s_interval_takes_the_far_ends():
    before = line("incumbent", peak=20, capacity=serves(5, low=4, high=10))
    after = line(peak=20, capacity=serves(10, low=5, high=20))
    assert compare(before, None, after).saving_interval_usd_per_year == ((2 - 4) * 8760, (5 - 1) * 8760)


@pytest.mark.parametrize("blank", ["incumbent", "student"])
def test_a_blank_cost_leaves_the_saving_blank_and_says_whose_it_is(blank):
    usd = {"incumbent": 1.0, "student": 1.0} | {blank: None}
    report = compare(line("incumbent", usd=usd["incumbent"]), None, line(usd=usd["student"]))
    assert (report.saving_usd_per_year, report.zero_saving_requests_per_s) == (None, None)
    assert report.note.startswith(f"{blank}: no price")


def test_lines_priced_at_different_traffic_are_not_compared():
    with pytest.raises(BadInput, match="differ in traffic"):
        compare(line("incumbent", peak=10), None, line(peak=11))


@pytest.mark.parametrize(
    ("incumbent", "student", "expected"),
    [
        # Same offering: one replica each up to the incumbent's capacity, then it needs a second.
        ({"rps": 10}, {"rps": 40}, 10.0),
        # Same offering and capacity: never a saving.
        ({"rps": 10}, {"rps": 10}, None),
        # The student's replica is cheaper: it saves at any traffic.
        ({"usd": 2, "rps": 10}, {"usd": 1, "rps": 10}, 0.0),
        # The student's costs 3, the incumbent's 1: 4 replicas (above 30) are the first to cost more.
        ({"usd": 1, "rps": 10}, {"usd": 3, "rps": 1000}, 30.0),
        # The same, 1 spare each: 6 against k + 2, so k = 5 gives 7.
        ({"usd": 1, "rps": 10, "redundancy": 1}, {"usd": 3, "rps": 1000, "redundancy": 1}, 50.0),
        # Student 2 USD at 25, incumbent 1 USD at 10: 3 v 2 above 20.
        ({"usd": 1, "rps": 10}, {"usd": 2, "rps": 25}, 20.0),
        # Student 12, incumbent 10, same price: 2 v 1 only from 10 to 12.
        ({"rps": 10}, {"rps": 12}, 10.0),
    ],
)
def test_the_traffic_without_a_saving_worked_by_hand(incumbent, student, expected):
    report = compare(line("incumbent", **incumbent), None, line(**student))
    assert report.zero_saving_requests_per_s == expected
    assert report.note == "" or expected is None


def test_a_student_that_never_saves_says_so():
    report = compare(line("incumbent", usd=1, rps=10), None, line(usd=2, rps=10))
    assert report.zero_saving_requests_per_s is None
    assert "saves nothing up to 10,000 replicas" in report.note


@given(
    usd=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    rps=st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)),
    redundancy=redundancies,
    share=st.floats(1e-3, 1),
)
def test_nothing_is_saved_at_or_below_the_break_even_and_something_just_above(usd, rps, redundancy, share):
    def saving(peak):
        before = line("incumbent", usd=usd[0], rps=rps[0], redundancy=redundancy, peak=peak)
        after = line(usd=usd[1], rps=rps[1], redundancy=redundancy, peak=peak)
        return Fraction(usd[0]) * before.replicas - Fraction(usd[1]) * after.replicas

    before = line("incumbent", usd=usd[0], rps=rps[0], redundancy=redundancy)
    zero = zero_saving_requests_per_s(before, line(usd=usd[1], rps=rps[1], redundancy=redundancy))
    assume(zero is not None)
    if zero:
        assert saving(zero) <= 0
        assert saving(zero * share) <= 0
    assert saving(max(math.nextafter(zero, math.inf), 1e-6)) > 0


def test_a_bill_without_a_capacity_has_a_saving_and_no_break_even():
    values = {"traffic": Traffic(mean_requests_per_s=1, peak_requests_per_s=10)}
    before = price(
        "incumbent",
        target(offering=None),
        profile(),
        None,
        quality=0.9,
        quality_label="accuracy, test",
        billed_usd_per_year=20_000.0,
        **values,
    )
    report = compare(before, None, line(peak=10, mean=1))
    assert report.saving_usd_per_year == 20_000 - 8760
    assert report.zero_saving_requests_per_s is None
    assert "a bill without a capacity" in report.note


def test_the_report_lists_each_assumption_once():
    report = compare(line("incumbent", rps=2), None, line(rps=10))
    assert len(set(report.assumptions)) == len(report.assumptions)
    assert [a.key for a in report.assumptions].count("rent.price") == 1
