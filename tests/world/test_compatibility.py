from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worldline.engines.base import Card
from worldline.formatting import NBSP
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.compatibility import differences

SCHEMA = Integrator(camera=False).schema
CARD = Card(
    name="toy", engine="toy", schema=SCHEMA, inputs=("position",), predicts=("position",), context=1,
    deterministic=True, abilities=("reaches",),
)  # fmt: skip
HEAT = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")


def with_signal(name: str, **changes: Any) -> Card:
    signals = tuple(replace(one, **changes) if one.name == name else one for one in SCHEMA.signals)
    return replace(CARD, schema=replace(SCHEMA, signals=signals))


def test_the_same_world_learned_anew_agrees() -> None:
    assert differences(CARD, replace(CARD, name="newer", context=4, notes={"data": "more"})) == ()


def test_more_may_be_predicted() -> None:
    more = replace(CARD, schema=replace(SCHEMA, signals=(*SCHEMA.signals, HEAT)), predicts=("heat", "position"))
    assert (differences(CARD, more), differences(more, CARD)) == ((), ("'heat' is no longer predicted",))
    assert differences(CARD, replace(more, inputs=("position", "heat"))) == ("'heat' is a new required observation",)


def test_bands_may_reach_further_but_not_less_far() -> None:
    banded = replace(CARD, band_horizon=20, band_level=0.95)
    assert differences(CARD, banded) == ()
    assert differences(banded, replace(banded, band_horizon=30, band_level=0.92)) == ()
    assert differences(banded, CARD) == (
        f"bands reach 0{NBSP}steps, not 20",
        "bands have levels up to 0, not 0.9; it needs more episodes",
    )
    assert differences(banded, replace(banded, band_horizon=1)) == (f"bands reach 1{NBSP}step, not 20",)
    low = replace(banded, band_level=0.8)
    assert differences(low, low) == ()
    assert differences(low, replace(low, band_level=0.75)) == (
        "bands have levels up to 0.75, not 0.8; it needs more episodes",
    )


@pytest.mark.parametrize("name", ["max_batch", "max_candidates"])
def test_calls_may_be_larger_but_not_smaller(name: str) -> None:
    small, large = (replace(CARD, **{name: limit}) for limit in (8, 9))
    assert differences(small, large) == differences(large, large) == ()
    assert differences(large, small) == (f"{name} is 8, not 9",)


UNREAD = {"inputs": ("camera",), "predicts": ("camera",)}


@pytest.mark.parametrize(("before", "after"), [
    (replace(CARD, action_conditioned=False), CARD),
    (CARD, with_signal("position", low=(-3.0, -3.0), high=(3.0, 3.0), precision="float64")),
    (replace(CARD, **UNREAD), replace(with_signal("position", unit="ft"), **UNREAD)),
])  # fmt: skip
def test_what_no_application_would_notice(before: Card, after: Card) -> None:
    assert differences(before, after) == ()


@pytest.mark.parametrize(("after", "said"), [
    (with_signal("position", unit="ft"), "unit of 'position' is ft, not m"),
    (with_signal("push", high=(2.0, 1.0)), "high of 'push' is (2.0, 1.0), not (1.0, 1.0)"),
    (with_signal("wind", shape=(3,)), "shape of 'wind' is (3,), not (2,)"),
    (replace(CARD, schema=replace(SCHEMA, step_s=0.2)), "a step takes 0.2 s, not 0.1 s"),
    (replace(CARD, action_conditioned=False), "it is no longer action-conditioned, so it cannot plan"),
    (
        replace(CARD, abilities=()),
        "it has no distance to goals (ability 'reaches'); `worldline learn --goals` fits it",
    ),
    (
        replace(CARD, schema=Schema(signals=SCHEMA.signals[:2], step_s=0.1)),
        "the exogenous signal 'wind' is missing",
    ),
])  # fmt: skip
def test_what_an_application_would_notice(after: Card, said: str) -> None:
    assert differences(CARD, after) == (said,)


def test_new_inputs_that_nobody_gives() -> None:
    pull = Signal(name="pull", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    after = replace(CARD, schema=replace(SCHEMA, signals=(*SCHEMA.signals, pull)))
    assert differences(CARD, after) == (
        "the action signal 'pull' is required by the new version but not provided by the application",
    )
