from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import ConfigError, UnknownNameError
from worldline.schema import Kind, Role, Schema, Signal


def vector(name: str = "x", role: Role = Role.OBSERVATION, **changes: Any) -> Signal:
    """A sound two-component signal, with fields replaced."""
    return Signal(**{"name": name, "role": role, "kind": Kind.VECTOR, "shape": (2,), **changes})


@pytest.mark.parametrize(
    ("kind", "shape", "num_values", "size", "dtype"),
    [
        (Kind.VECTOR, (3,), None, 3, np.float32),
        (Kind.IMAGE, (4, 5, 3), None, 60, np.uint8),
        (Kind.DISCRETE, (), 7, 7, np.int64),
    ],
)
def test_size_and_dtype_follow_the_kind(
    kind: Kind, shape: tuple[int, ...], num_values: int | None, size: int, dtype: type[np.generic]
) -> None:
    signal = Signal(name="x", role=Role.OBSERVATION, kind=kind, shape=shape, num_values=num_values)
    assert signal.size == size
    assert np.dtype(signal.dtype) == dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "a name must be non-empty"),
        ({"name": "a/b"}, "without slashes"),
        ({"name": "a\\b"}, "without slashes"),
        ({"name": ".x"}, "leading dot"),
        ({"shape": ()}, r"a vector has 1 positive dimensions, not shape \(\)"),
        ({"shape": (0,)}, "positive dimensions"),
        ({"shape": (2, 2)}, "positive dimensions"),
        ({"kind": Kind.IMAGE}, "an? image has 3 positive dimensions"),
        ({"kind": Kind.DISCRETE, "num_values": 2}, "a discrete has 0 positive dimensions"),
        ({"kind": Kind.DISCRETE, "shape": ()}, "discrete signals need num_values"),
        ({"num_values": 4}, "discrete signals need num_values"),
        ({"low": (0.0,)}, "low needs 2 numbers"),
        ({"high": (0.0, math.nan)}, "high needs 2 numbers"),
        ({"kind": Kind.IMAGE, "shape": (1, 2, 1), "low": (0.0, 0.0)}, "low needs 2 numbers"),
        ({"low": (0.0, 1.0), "high": (1.0, 0.0)}, "exceeds high"),
        ({"components": ("x",)}, "1 component names"),
        ({"period": 0.0}, "period must be a positive number"),
        ({"kind": Kind.DISCRETE, "shape": (), "num_values": 2, "period": 1.0}, "period must be a positive number"),
        ({"kind": Kind.IMAGE, "shape": (1, 2, 1), "components": ("a", "b")}, "2 component names"),
    ],
)
def test_a_contradictory_signal_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vector(**changes)


def test_bounds_may_touch_and_may_be_infinite() -> None:
    signal = vector(low=(0.0, -math.inf), high=(0.0, math.inf))
    assert signal.low == (0.0, -math.inf)


def test_a_schema_gives_its_signals_by_role_in_order() -> None:
    schema = Schema(
        signals=(
            vector("b"),
            vector("u", Role.ACTION),
            vector("w", Role.EXOGENOUS),
            vector("a"),
            vector("r", Role.REWARD),
        )
    )
    assert [signal.name for signal in schema.observations] == ["b", "a"]
    assert [signal.name for signal in schema.actions] == ["u"]
    assert [signal.name for signal in schema.exogenous] == ["w"]
    assert [signal.name for signal in schema.of(Role.REWARD)] == ["r"]
    assert schema["w"].role is Role.EXOGENOUS


def test_an_unknown_signal_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no signal is called 'air_temp'. Did you mean 'air_temperature'"):
        Schema(signals=(vector("air_temperature"), vector("co2")))["air_temp"]


def test_a_name_used_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="signals named twice: x"):
        Schema(signals=(vector("x"), vector("y"), vector("x", Role.ACTION)))


@pytest.mark.parametrize("step_s", [0.0, -1.0, math.inf, math.nan])
def test_a_step_lasts_a_positive_time(step_s: float) -> None:
    with pytest.raises(ConfigError, match="step_s must be a positive number of seconds"):
        Schema(signals=(), step_s=step_s)


@given(value=st.floats(-1000, 1000), other=st.floats(-1000, 1000))
def test_the_difference_of_angles_is_the_shorter_way_round(value: float, other: float) -> None:
    angle = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
    apart = float(angle.difference(np.array([value]), np.array([other]))[0])
    assert -180 <= apart <= 180
    turns = (other + apart - value) / 360
    assert abs(turns - round(turns)) < 1e-9


def test_other_signals_differ_as_they_are() -> None:
    place = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
    assert place.difference(np.array([500.0]), np.array([-500.0])) == 1000
