from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import random_episode, stored

from worldline.data.store import Store
from worldline.errors import InputError, UnknownNameError
from worldline.plots.episode_view import drawn_signals
from worldline.schema import Kind, Role, Schema, Signal


def vector(name: str, role: Role = Role.OBSERVATION, size: int = 1, unit: str = "m") -> Signal:
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), unit=unit)


EYE = Signal(name="eye", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(8, 8, 3))
MODE = Signal(
    name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3, components=("off", "low", "up")
)
SCHEMA = Schema(signals=(EYE, vector("place", size=2), vector("push", Role.ACTION, unit="N"), MODE), step_s=0.5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Ten episodes of 10 to 19 steps; in the first, the place is missing in rows 3 and 4."""
    first = np.isin(np.arange(11), [3, 4], invert=True)
    observed = [{"place": first}, *[{}] * 9]
    episodes = [random_episode(SCHEMA, 10 + n, n, observed=mask) for n, mask in enumerate(observed)]
    return stored(tmp_path / "logs", SCHEMA, episodes)


def test_episodes_are_drawn_over_each_other_with_time_units_and_gaps(store: Store) -> None:
    figure = store.plot([0, 9])
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["place.0 [m]", "place.1 [m]", "push [N]", "mode"]
    place, _, push, mode = figure.axes
    curves = {str(line.get_label()): line for line in place.lines}
    y = store.episode(0).observations["place"][:, 0].astype(float)
    y[3:5] = np.nan
    np.testing.assert_array_equal(curves["episode 0"].get_xdata(), 0.5 * np.arange(11))
    np.testing.assert_array_equal(curves["episode 0"].get_ydata(), y)
    assert curves["episode 9"].get_xdata()[-1] == 9.5
    assert (push.get_xlim(), mode.get_xlabel()) == ((0, 9.5), "time [s]")
    force = store.episode(0).actions["push"][:, 0]
    (line,) = [line for line in push.lines if 5 in line.get_xdata()[-1:]]
    np.testing.assert_array_equal(line.get_ydata(), np.repeat(force, 2))  # an action holds during its step
    assert {tick.get_text() for tick in mode.get_yticklabels()} <= {"off", "low", "up", ""}


def test_without_a_choice_a_few_episodes_of_the_store_are_drawn(store: Store) -> None:
    labels = [str(line.get_label()) for line in store.plot(signals=["push"]).axes[0].lines]
    assert {label for label in labels if label[0] != "_"} == {f"episode {number}" for number in (0, 2, 4, 7, 9)}
    assert "images" in " ".join(text.get_text() for text in store.plot().texts)


def test_one_episode_is_drawn_with_its_images_from_store_and_from_memory(store: Store) -> None:
    whole, episode = store.plot(0), store.episode(0)
    assert [axes.get_title("left") for axes in whole.axes] == ["eye", "place [m]", "push [N]", "mode"]
    in_memory = episode.plot(SCHEMA)
    for one, other in zip(whole.axes, in_memory.axes, strict=True):
        assert one.get_title("left") == other.get_title("left")
        for line, same in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())
    bare = episode.plot(signals=["place", "mode"])
    assert [axes.get_title("left") for axes in bare.axes] == ["place", "mode"]
    assert bare.axes[-1].get_xlabel() == "step"


def test_times_are_steps_if_one_is_unknown(tmp_path: Path) -> None:
    schema = replace(SCHEMA, step_s=None)
    timed = random_episode(schema, 3, step_s=np.array([1, 2, 3], np.float32))
    store = stored(tmp_path / "logs", schema, [timed, random_episode(schema, 5)])
    assert (store.plot().axes[-1].get_xlabel(), store.plot(0).axes[-1].get_xlabel()) == ("step", "time [s]")


def test_what_is_not_there_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no episode 10"):
        store.plot(10)
    with pytest.raises(InputError, match="expected 1 to 8 episodes, got 9"):
        store.plot(range(9))
    with pytest.raises(InputError, match="got 0"):
        Store.create(tmp_path / "none", SCHEMA).plot()
    with pytest.raises(UnknownNameError, match="'speed'"):
        store.plot(signals=["speed"])


def test_of_many_signals_each_role_is_drawn() -> None:
    signals = [vector(f"o{k}", Role.OBSERVATION) for k in range(100)]
    signals += [Signal(name="eye", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(2, 2, 3))]
    signals += [vector("r", Role.REWARD), vector("a", Role.ACTION)]
    assert [one.name for one in drawn_signals(signals, 5)] == ["o0", "o1", "o2", "a", "r"]
    assert (len(drawn_signals(signals, 12)), drawn_signals([], 12)) == (12, [])
