from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldline.contracts.schema import Kind, Role
from worldline.errors import UnsupportedError
from worldline.labs.spaces import from_signals, schema_of, to_signals
from worldline.labs.two_rooms import TwoRooms

OBSERVATION = Role.OBSERVATION
SPACES = {
    "dict": spaces.Dict(
        picture=spaces.Box(0, 255, (6, 4, 3), np.uint8),
        grey=spaces.Box(0, 255, (6, 4), np.uint8),
        arm=spaces.Box(-2, 3, (2, 2), np.float32),
        heat=spaces.Box(np.array([0, -np.inf], np.float32), 9, (2,), np.float32),
        gear=spaces.Discrete(5, start=-2),
    ),
    "box": spaces.Box(-1, 1, (3,), np.float64),
    "discrete": spaces.Discrete(4),
}


class Env(gymnasium.Env):
    def __init__(self, observation: gymnasium.Space, action: gymnasium.Space) -> None:
        self.observation_space, self.action_space = observation, action


@pytest.mark.parametrize("name", SPACES)
def test_signals_describe_an_element_completely(name):
    space = SPACES[name]
    space.seed(0)
    schema = schema_of(Env(space, SPACES["discrete"]))
    for _ in range(20):
        element = space.sample()
        signals = to_signals(element, space, OBSERVATION)
        assert signals.keys() == {signal.name for signal in schema.observations}
        for signal in schema.observations:
            assert signals[signal.name].shape == signal.shape
            assert signals[signal.name].dtype == signal.dtype
        back = from_signals(signals, space, OBSERVATION)
        assert space.contains(back)
        for key, values in element.items() if isinstance(element, dict) else [(None, element)]:
            np.testing.assert_allclose(back if key is None else back[key], values, rtol=1e-6)


def test_kinds_and_bounds_come_from_the_spaces():
    schema = schema_of(Env(SPACES["dict"], SPACES["box"]))
    assert schema["picture"].kind is Kind.IMAGE
    assert schema["grey"].shape == (6, 4, 1)
    assert (schema["arm"].shape, schema["arm"].low, schema["arm"].high) == ((4,), (-2,) * 4, (3,) * 4)
    assert (schema["heat"].low, schema["heat"].high) == (None, (9, 9))
    assert (schema["gear"].kind, schema["gear"].num_values) == (Kind.DISCRETE, 5)
    assert [signal.name for signal in schema.actions] == ["action"]
    assert schema["action"].unit == "?"


def test_a_lab_has_a_schema_of_its_own():
    assert schema_of(TwoRooms()) == TwoRooms().schema


def test_signals_are_copies():
    space = SPACES["box"]
    shown = np.zeros(3)
    signals = to_signals(shown, space, OBSERVATION)
    shown += 1
    assert (signals["observation"] == 0).all()


def test_other_spaces_are_refused_with_a_way_out():
    with pytest.raises(UnsupportedError, match=r"action 'action' is a MultiBinary.*FlattenObservation"):
        schema_of(Env(SPACES["box"], spaces.MultiBinary(3)))
