from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport import registry
from kdexport.backbones import InputShape, parse_spec
from kdexport.latency import physics

TEXT_SHAPE, PICTURE = InputShape(batch=2, tokens=17), InputShape(batch=2, channels=3, height=30, width=30)


def asked(name: str, fields: dict[str, Any], num_classes: int, shape: InputShape) -> physics.Quantities:
    return physics.quantities([parse_spec({"backbone": name, **fields})], [num_classes], [shape])


def candidate(name: str, number: int) -> dict[str, Any]:
    backbone = registry.load("backbones", name)
    shape = TEXT_SHAPE if backbone.input_kind == "text" else PICTURE
    found = list(backbone.candidates(7, shape, [900, 5_000]))
    return dict(found[number % len(found)].model_dump())


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(registry.names("backbones")), st.integers(0, 10_000), st.data())
def test_no_quantity_falls_when_anything_grows(name: str, number: int, data: st.DataObject) -> None:
    backbone = registry.load("backbones", name)
    fields, classes = candidate(name, number), 7
    shape = TEXT_SHAPE if backbone.input_kind == "text" else PICTURE
    axes = ("tokens",) if backbone.input_kind == "text" else ("height", "width")
    grown = data.draw(st.sampled_from([*backbone.SIZE_FIELDS, "batch", *axes, "num_classes"]))
    by = data.draw(st.integers(1, 70))
    before = asked(name, fields, classes, shape)
    if grown == "num_classes":
        classes += by
    elif grown in ("batch", *axes):
        shape = shape.model_copy(update={grown: getattr(shape, grown) + by})
    elif grown == "num_stages":
        fields[grown] = min(5, fields[grown] + 1)
    elif grown == "hidden_size" and "num_attention_heads" in fields:
        fields[grown] *= 1 + by % 3  # the heads still divide it
    elif grown == "num_attention_heads":
        fields[grown] *= 2 if fields["hidden_size"] % (2 * fields[grown]) == 0 else 1
    else:
        fields[grown] += by
    after = asked(name, fields, classes, shape)
    for quantity, value in before.items():
        assert after[quantity][0] >= value[0], quantity


def test_tokens_count_in_whole_tiles_and_past_the_longest_not_at_all() -> None:
    fields = candidate("convolution", 5)
    flops = {t: asked("convolution", fields, 7, InputShape(tokens=t))["tiled_flops"][0] for t in (16, 17, 32)}
    assert flops[17] == flops[32] > 1.5 * flops[16]
    short = {**candidate("transformer", 40), "max_length": 20}
    cut, longest = (asked("transformer", short, 7, InputShape(tokens=t)) for t in (25, 20))
    assert all(cut[name] == longest[name] for name in cut)


def quantities_of(points: int, seed: int = 0) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {
        "run": np.ones(points),
        "operators": chance.integers(5, 100, points).astype(float),
        "flops": 10 ** chance.uniform(5, 10, points),
        "weight_bytes": 10 ** chance.uniform(4, 7, points),
    }


def milliseconds(q: dict[str, np.ndarray]) -> np.ndarray:
    """5 us a run, 2 us an operator, 50 GFLOP/s."""
    found: np.ndarray = 0.005 + 0.002 * q["operators"] + q["flops"] / 50e9 * 1e3
    return found


def test_planted_speeds_are_recovered_on_other_points() -> None:
    law = physics.fit(quantities_of(150), milliseconds(quantities_of(150)))
    fresh = quantities_of(200, seed=1)
    assert law.predict_ms(fresh) == pytest.approx(milliseconds(fresh), rel=0.01)
    assert (law.coefficients >= 0).all()


def test_a_speed_that_changes_beyond_a_cache_is_learned() -> None:
    def cached(q: dict[str, np.ndarray]) -> np.ndarray:
        found: np.ndarray = milliseconds(q) + 1e-5 * np.maximum(q["weight_bytes"] - 1e6, 0)
        return found

    timed, fresh = quantities_of(300), quantities_of(300, seed=1)
    bent = physics.fit(timed, cached(timed)).predict_ms(fresh) / cached(fresh) - 1
    straight = physics.fit(timed, cached(timed), bent=()).predict_ms(fresh) / cached(fresh) - 1
    assert np.quantile(np.abs(bent), 0.9) < 0.5 * np.quantile(np.abs(straight), 0.9)


def test_points_timed_in_a_slow_spell_do_not_move_the_fit() -> None:
    timed, fresh = quantities_of(200), quantities_of(200, seed=1)
    ms = milliseconds(timed)
    slow = np.array([random.Random(i).random() < 0.15 for i in range(200)])
    law = physics.fit(timed, np.where(slow, 2 * ms, ms))
    assert np.abs(law.predict_ms(fresh) / milliseconds(fresh) - 1).max() < 0.05


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1_000), st.sampled_from(["operators", "flops", "weight_bytes"]), st.floats(1, 1e3))
def test_more_of_a_quantity_is_never_faster_whatever_was_timed(seed: int, name: str, factor: float) -> None:
    chance = np.random.default_rng(seed)
    timed = quantities_of(60, seed)
    law = physics.fit(timed, milliseconds(timed) * np.exp(chance.normal(0, 0.5, 60)))
    before = quantities_of(50, seed + 1)
    after = {**before, name: before[name] * factor}
    assert (law.predict_ms(after) >= law.predict_ms(before) * (1 - 1e-12)).all()
