from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldline.errors import InputError, UnsupportedError
from worldline.labs.spaces import SpaceLayout, boxes, schema_of
from worldline.labs.two_rooms import TwoRooms
from worldline.schema import Kind, Role, Schema, Signal

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
        signals = SpaceLayout(space, OBSERVATION).read(element)
        assert signals.keys() == {signal.name for signal in schema.observations}
        for signal in schema.observations:
            assert (signals[signal.name].shape, signals[signal.name].dtype) == (signal.shape, signal.dtype)
        back = SpaceLayout(space, OBSERVATION).write(signals)
        assert space.contains(back)
        for key, values in element.items() if isinstance(element, dict) else [(None, element)]:
            np.testing.assert_allclose(back if key is None else back[key], values, rtol=1e-6)


def test_kinds_and_bounds_come_from_the_spaces():
    schema = schema_of(Env(SPACES["dict"], SPACES["box"]))
    assert (schema["picture"].kind, schema["grey"].shape) == (Kind.IMAGE, (6, 4, 1))
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
    signals = SpaceLayout(space, OBSERVATION).read(shown)
    shown += 1
    assert (signals["observation"] == 0).all()


@pytest.mark.parametrize("role", [Role.OBSERVATION, Role.ACTION])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple(
            (spaces.Box(-1, 1, (2,)), spaces.Dict(a=spaces.Discrete(3), b=spaces.Tuple((spaces.Discrete(2),))))
        ),
        spaces.Dict({"arm/left": spaces.Dict(joint=spaces.Box(-1, 1, (), np.float64)), "lamps": spaces.MultiBinary(3)}),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, -1], [2, 3]]),
        spaces.MultiDiscrete([2, 3], np.int32),
        spaces.MultiBinary((2, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_spaces_of_several_parts_come_back_whole(space, role):
    space.seed(0)
    layout = SpaceLayout(space, role)
    for _ in range(20):
        element = space.sample()
        back = layout.write(layout.read(element))
        assert space.contains(back)
        assert spaces.flatten(space, back).tolist() == spaces.flatten(space, element).tolist()


def test_parts_are_named_by_keys_and_numbers():
    def names(space: gymnasium.Space, role: Role = Role.OBSERVATION) -> dict[str, int]:
        return {signal.name: signal.size for signal in SpaceLayout(space, role).signals}

    box = SPACES["box"]
    nested = spaces.Dict({"arm/left": spaces.Dict(joint=spaces.Box(-1, 1, (4,))), "eye": spaces.Tuple([SPACES["box"]])})
    assert names(nested) == {"arm.left.joint": 4, "eye.0": 3}
    assert names(spaces.Tuple([box, spaces.Dict(a=box)])) == {"observation.0": 3, "observation.1.a": 3}
    assert names(spaces.MultiDiscrete([[2, 3]])) == {"observation.0.0": 2, "observation.0.1": 3}
    assert names(spaces.MultiBinary(2)) == {"observation": 2}
    assert names(spaces.MultiBinary(2), Role.ACTION) == {"action.0": 2, "action.1": 2}


def test_texts_of_an_observation_are_left_out_and_named():
    space = spaces.Dict(view=SPACES["box"], task=spaces.Text(20), inner=spaces.Tuple((spaces.Text(3), SPACES["box"])))
    space.seed(0)
    layout = SpaceLayout(space, OBSERVATION)
    assert set(layout.left_out) == {"inner.0", "task"}
    assert {signal.name for signal in layout.signals} == {"view", "inner.1"}
    found = layout.read(space.sample())
    assert (found.keys(), layout.write(found)["task"]) == ({"view", "inner.1"}, "")
    with pytest.raises(UnsupportedError, match="Text"):
        SpaceLayout(spaces.Text(3), OBSERVATION)


def test_no_number_is_rounded_without_need():
    signals = SpaceLayout(
        spaces.Dict(a=spaces.Box(-1, 1, (1,), np.float64), b=spaces.Box(-9, 9, (1,), np.int32)), OBSERVATION
    )
    assert {signal.precision for signal in signals.signals} == {"float64"}
    assert signals.read({"a": [1 / 3], "b": [2**30 + 1]})["b"].tolist() == [2**30 + 1]


@pytest.mark.parametrize(("space", "value", "words"), [
    (SPACES["box"], np.zeros(2), r"observation 'observation' is float64 of shape \(2,\)"),
    (SPACES["box"], ["a", "b", "c"], r"is <U1 of shape \(3,\)"),
    (SPACES["discrete"], 1.5, r"is float64 of shape \(\) \(1.5\). Give an element of Discrete\(4\)"),
    (spaces.Box(0, 255, (2, 2, 1), np.uint8), np.full((2, 2, 1), 256), "is int64"),
    (SPACES["discrete"], 4, r"Give an element of Discrete\(4\)"),
    (SPACES["discrete"], -1, r"Give an element of Discrete\(4\)"),
    (SPACES["discrete"], np.array([1]), r"of shape \(1,\)"),
    (SPACES["dict"].spaces["gear"], -3, "start=-2"),
    (SPACES["dict"].spaces["gear"], 3, "start=-2"),
    (spaces.MultiDiscrete([2, 3]), [1, 3], r"Give an element of Discrete\(3\)"),
    (SPACES["dict"].spaces["arm"], np.zeros((4, 1)), r"of shape \(4, 1\)"),
    (SPACES["dict"].spaces["arm"], np.zeros(4), r"of shape \(4,\)"),
    (SPACES["dict"], {"gear": 1}, "the value is .*Give an element of Dict"),
    (spaces.Tuple([SPACES["box"]]), (), "the value is .*Give an element of Tuple"),
    (spaces.MultiDiscrete([2, 3]), [1], "the value is .*Give an element of MultiDiscrete"),
])  # fmt: skip
def test_what_is_no_element_is_refused(space, value, words):
    with pytest.raises(InputError, match=words):
        SpaceLayout(space, OBSERVATION).read(value)


def test_other_spaces_are_refused_with_a_way_out():
    for space in (spaces.Text(3), spaces.Sequence(SPACES["box"]), spaces.Dict(action=spaces.Text(3))):
        with pytest.raises(UnsupportedError, match=r"action 'action' is a (Text|Sequence).*FlattenObservation"):
            schema_of(Env(SPACES["box"], space))


def test_boxes_are_the_space_of_a_schema_within_its_bounds() -> None:
    schema = Schema(
        signals=(
            Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(8, 8, 3)),
            Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
            Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), low=(-1.0, -2.0), high=(0.0, 2.0)),
        )
    )
    seen, done = (boxes(schema, role) for role in (Role.OBSERVATION, Role.ACTION))
    assert seen["camera"] == spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert seen["place"] == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    ends = (np.array(end, np.float32) for end in ([-1, -2], [0, 2]))
    assert done == spaces.Dict({"push": spaces.Box(*ends, dtype=np.float32)})
