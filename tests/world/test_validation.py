from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.episode import Episode, History
from worldline.errors import InputError
from worldline.planning.base import Goal
from worldline.planning.calls import PlanCall
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.validation import check_actions, check_episode, check_goal, check_group, check_history

SCHEMA = Schema(
    signals=(
        Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m"),
        Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(4, 4, 3)),
        Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3),
        Signal(
            name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="N", low=(-1.0, -2.0), high=(1.0, 2.0)
        ),
        Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), unit="m/s"),
    )
)


def good(length: int = 3, num_worlds: int | None = None) -> History:
    front = () if num_worlds is None else (num_worlds,)
    return History(
        observations={
            "position": np.zeros((*front, length, 2)),
            "camera": np.zeros((*front, length, 4, 4, 3), np.uint8),
            "gear": np.zeros((*front, length), np.int32),
        },
        actions={"push": np.zeros((*front, length - 1, 2))},
        exogenous={"wind": np.zeros((*front, length - 1, 1))},
    )


@given(st.integers(1, 4), st.none() | st.integers(1, 3))
def test_one_world_and_a_batch_are_told_apart(length: int, num_worlds: int | None) -> None:
    checked, single = check_history(SCHEMA, good(length, num_worlds))
    assert single == (num_worlds is None)
    assert checked.observations["position"].shape == (num_worlds or 1, length, 2)
    assert (checked.observations["gear"].dtype, checked.actions["push"].dtype) == (np.int64, np.float32)


def observation(name: str, value: np.ndarray) -> History:
    return replace(good(), observations={**good().observations, name: value})


NAN = np.where(np.arange(6).reshape(3, 2) == 3, np.nan, 0)


@pytest.mark.parametrize(("history", "message"), [
    (observation("position", np.zeros((3, 3))), r"'position': .*got \(3, 3\)"),
    (observation("position", np.zeros((2, 2, 2))), "'camera': expected shape"),
    (observation("position", NAN), r"'position' is nan at \[1, 1\]. Mark it as missing"),
    (observation("position", np.full((3, 2), np.inf)), "'position' is inf"),
    (observation("position", np.zeros((3, 2), bool)), "'position' has dtype bool. Convert it to numbers"),
    (observation("position", np.zeros((3, 2), object)), "'position' has dtype object"),
    (observation("camera", np.zeros((3, 4, 4, 3))), "'camera' has dtype float64. Convert it to uint8"),
    (observation("gear", np.zeros(3)), "'gear' has dtype float64. Convert it to integers"),
    (observation("gear", np.array([0, 3, 0])), r"'gear': expected values in \[0, 2\], got 0 to 3"),
    (observation("positon", np.zeros((3, 2))), "Did you mean 'position'"),
    (replace(good(), actions={}), r"past action 'push' is missing. Add an array of shape \(2, 2\) \[N\]"),
    (replace(good(), actions={"push": np.zeros((3, 2))}), r"'push': expected shape \(2, 2\), got \(3, 2\)"),
    (replace(good(), exogenous={}), "past exogenous 'wind' is missing"),
    (
        replace(good(), observed={"gear": np.ones(4, bool)}),
        r"observed mask 'gear': expected bool\[3\], got bool\[4\]",
    ),
    (replace(good(), observations={}), "no observations"),
    (observation("position", np.zeros(2)), r"expected shape \[H, \*shape\] for one world"),
    (observation("position", np.zeros((0, 2))), "at least one world and one observation"),
])  # fmt: skip
def test_errors_name_the_signal_and_the_fix(history: History, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_history(SCHEMA, history)


def test_missing_values_become_0_whatever_they_were() -> None:
    history = replace(observation("position", NAN), observed={"position": np.array([True, False, True])})
    checked, _ = check_history(SCHEMA, history)
    assert (checked.observations["position"][0, 1] == 0).all()
    assert np.isnan(history.observations["position"]).any()  # the argument stays


def test_actions_stay_inside_their_bounds() -> None:
    push = np.zeros((5, 4, 2), np.float32)
    push[2, 3] = [1 + 1e-6, -2]  # rounding is forgiven
    assert check_actions(SCHEMA.actions, {"push": push}, (None, None))["push"].shape == (5, 4, 2)
    push[2, 3, 1] = -2.4
    assert check_actions(SCHEMA.actions, {"push": push}, (None, None))["push"][2, 3, 1] == np.float32(-2.4), "unchanged"
    push[2, 3, 1] = -2.41
    with pytest.raises(InputError, match=r"'push' is -2.41 at \[2, 3, 1\], below its bound -2 N. Clip it"):
        check_actions(SCHEMA.actions, {"push": push}, (None, None))
    with pytest.raises(InputError, match=r"'push' is 1.5 at \[0, 0\], above its bound 1 N"):
        check_actions(SCHEMA.actions, {"push": np.full((1, 2), 1.5)}, (None,))


@pytest.mark.parametrize("low", [None, (-np.inf, -2.0)])
def test_without_a_finite_range_no_action_may_leave_its_bounds(low: tuple[float, ...] | None) -> None:
    push = replace(SCHEMA["push"], low=low)
    check_actions((push,), {"push": np.array([[1.0, 2.0]])}, (None,))
    with pytest.raises(InputError, match=r"'push' is 1.01 at \[0, 0\], above its bound 1 N"):
        check_actions((push,), {"push": np.array([[1.01, 0.0]])}, (None,))


def test_calls_without_a_step_are_refused() -> None:
    with pytest.raises(InputError, match=r"'push': expected shape \(1, 2\), got \(0, 2\)"):
        check_actions(SCHEMA.actions, {"push": np.zeros((0, 2))}, (None,))
    with pytest.raises(InputError, match="horizon is 0"):
        PlanCall(history=good(), goal=Goal(), horizon=0)


def test_goals() -> None:
    targets = {"position": np.ones(2), "camera": np.zeros((4, 4, 3), np.uint8)}
    assert check_goal(SCHEMA, Goal(targets=targets), ())["position"].shape == (1, 2)
    level = Schema(signals=(replace(SCHEMA["position"], name="level", shape=(1,), components=None),))
    assert check_goal(level, Goal(targets={"level": 1.5}), ())["level"].tolist() == [[1.5]]
    with pytest.raises(InputError, match=r"got \(4,\)\. Add an axis: values\[\.\.\., None\]"):
        check_history(level, History(observations={"level": np.zeros(4)}))
    with pytest.raises(InputError, match="no target"):
        check_goal(SCHEMA, Goal(targets={}), ())
    with pytest.raises(InputError, match=r"target 'position': expected shape \(3, 2\), got \(2,\)"):
        check_goal(SCHEMA, Goal(targets=targets), (3,))
    with pytest.raises(InputError, match="target: no signal is called 'push'"):
        check_goal(SCHEMA, Goal(targets={"push": np.ones(2)}), ())
    with pytest.raises(InputError, match="tolerance of 'position' is -1"):
        check_goal(SCHEMA, Goal(targets=targets, tolerance={"position": -1.0}), ())
    with pytest.raises(InputError, match=r"tolerance of 'gear' is 1\.0.*one of the targets"):
        check_goal(SCHEMA, Goal(targets=targets, tolerance={"gear": 1.0}), ())


def test_an_episode_keeps_its_seed_and_ends() -> None:
    whole = good(5)
    episode = Episode(
        observations=whole.observations, actions={**whole.actions, "extra": np.zeros(4)}, exogenous=whole.exogenous,
        terminated=True, seed=3,
    )  # fmt: skip
    checked = check_episode(SCHEMA, episode)
    assert (checked.seed, checked.terminated, checked.num_steps) == (3, True, 4)
    assert list(checked.actions) == ["push"]
    with pytest.raises(InputError, match="of one episode"):
        check_episode(SCHEMA, Episode(**vars(good(3, 2))))


def test_arrays_without_names_are_refused() -> None:
    message = r"expected a mapping of signal names to arrays, got an array of shape \(4, 2\)\. Give \{'push': array\}"
    with pytest.raises(InputError, match=f"actions: {message}"):
        check_actions(SCHEMA.actions, np.zeros((4, 2)), (None,))
    with pytest.raises(InputError, match=f"past action: {message}"):
        check_group(SCHEMA.actions, np.zeros((4, 2)), (4,), "past action")
    for targets, tolerance in ((np.zeros(2), {}), ({"position": np.zeros(2)}, 0.1)):
        goal = SimpleNamespace(targets=targets, tolerance=tolerance, costs=())  # the types of a `Goal` are checked here
        with pytest.raises(InputError, match=r"(targets|tolerance): expected a mapping.* Give \{'position': array\}"):
            check_goal(SCHEMA, goal, ())
