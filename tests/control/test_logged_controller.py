"""The logged behaviour acts as what made the logs, without its noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldline.control.controller import ReplanningController, Situation
from worldline.control.controllers import Controller, ControllerActor, load_controller
from worldline.control.logged_controller import LoggedController
from worldline.data.store import Store
from worldline.episode import Arrays, Episode
from worldline.errors import ConfigError, InputError
from worldline.schema import Kind, Role, Schema, Signal

AIR = Signal(name="air", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")
WIND = Signal(name="wind", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
HEATER = Signal(name="heater", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(5.0,))
FAN = Signal(name="fan", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2)
SUN = Signal(name="sun", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,))
WANTED = Signal(name="wanted", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,))
ROOM = Schema(signals=(AIR, WIND, HEATER, FAN, SUN))
LOGGED = Schema(signals=(*ROOM.signals, WANTED))
STEPS = 120
Act = Callable[[int, float, float, float, float], tuple[float, int]]
"""Maps step, air, wind, wanted and the sun before the step to heater and fan."""


def live(act: Act, seed: int, noise: float = 0.0) -> Episode:
    """A room whose heat leaks, with a sun, a wind and changes of the wanted temperature."""
    draw, air, wind = np.random.default_rng(seed), 18.0, 0.0
    wanted, sun = np.repeat(draw.uniform(18, 22, 4), STEPS // 4), draw.uniform(0, 0.2, STEPS)
    rows, shakes = [(air, wind, 0.0, 0)], noise * draw.standard_normal(STEPS)
    for step in range(STEPS):
        heater, fan = act(step, air, wind, wanted[step], sun[step - 1])
        heater = float(np.clip(heater + shakes[step], 0, 5))
        air += 0.1 * (10 - air) + 0.4 * heater + sun[step] - 0.1 * fan + 0.02 * draw.standard_normal()
        wind = (wind + draw.uniform(0, 60)) % 360
        rows.append((air, wind, heater, fan))
    airs, winds, heaters, fans = (np.array(column)[:, None] for column in zip(*rows, strict=True))
    return Episode(
        observations={"air": airs.astype(np.float32), "wind": winds.astype(np.float32)},
        actions={"heater": heaters[1:].astype(np.float32), "fan": fans[1:, 0]},
        exogenous={"sun": sun[:, None].astype(np.float32), "wanted": wanted[:, None].astype(np.float32)},
    )


def original() -> Act:
    """A PI loop on the heater; the fan runs while the wind comes from the north."""
    total = 0.0

    def act(step: int, air: float, wind: float, wanted: float, sun: float) -> tuple[float, int]:
        nonlocal total
        total += 0.1 * (wanted - air)
        return 1.5 * (wanted - air) + total + 2.0, int(np.cos(np.radians(wind)) > 0)

    return act


def clone(controller: Controller) -> Act:
    """The controller, in its loop."""
    loop = ReplanningController(ControllerActor(controller, ROOM), ROOM, context=2, replan_every=1, seed=0)

    def act(step: int, air: float, wind: float, wanted: float, sun: float) -> tuple[float, int]:
        seen = {"air": np.array([[air]], np.float32), "wind": np.array([[wind]], np.float32)}
        before = {"sun": np.array([[sun]], np.float32)}
        taken = loop.act(seen, exogenous=before, goals={"air": np.array([[wanted]], np.float32)})
        return float(taken["heater"].item()), int(taken["fan"].item())

    loop.reset({})
    return act


@pytest.fixture(scope="module")
def logs() -> list[Episode]:
    return [live(original(), seed, noise=0.3) for seed in range(20)]


def goals(episodes: list[Episode]) -> list[Arrays]:
    return [{"air": episode.exogenous["wanted"]} for episode in episodes]


def misses(episode: Episode) -> float:
    return float(np.abs(episode.exogenous["wanted"] - episode.observations["air"][1:]).mean())


def test_it_closes_the_loop_as_the_original_without_its_noise(logs: list[Episode]) -> None:
    controller = LoggedController(logs, ROOM, goals(logs))
    assert controller.card.reads == ("air", "wind")
    for seed in (100, 101, 102):
        expected, copy = live(original(), seed), live(clone(controller), seed)
        assert misses(copy) == pytest.approx(misses(expected), rel=0.25)
        change = np.abs(copy.actions["heater"] - expected.actions["heater"])[5:]
        assert change.mean() < 0.2 * expected.actions["heater"].std()
        assert (copy.actions["fan"] == expected.actions["fan"]).mean() > 0.9


def test_missing_values_and_plants_side_by_side(logs: list[Episode]) -> None:
    """A gap changes little, and each plant gets its own action."""
    controller = LoggedController(logs, ROOM, goals(logs))
    history = replace(logs[0].history(at=20, length=20), observed={"wind": np.arange(20) != 19})
    stacked = type(history).stack([history, logs[1].history(at=20, length=20)])
    wanted = {"air": np.stack([logs[k].exogenous["wanted"][20] for k in (0, 1)])}
    both = controller.act(Situation(history=stacked, goals=wanted))
    for k in (0, 1):
        controller.reset()
        alone = controller.act(Situation(history=stacked.worlds([k]), goals={"air": wanted["air"][[k]]}))
        np.testing.assert_allclose(alone["heater"][0], both["heater"][k], rtol=1e-5)
        assert both["heater"][k] == pytest.approx(logs[k].actions["heater"][20], abs=1.0)


def test_a_file_names_logs_and_goal(logs: list[Episode], tmp_path: Path) -> None:
    store = Store.create(tmp_path / "logs", LOGGED)
    for episode in logs:
        store.append(episode)
    (tmp_path / "goal.toml").write_text('[targets]\nair = "wanted"\n[tolerance]\nair = 0.5\n')
    (tmp_path / "same.toml").write_text('kind = "logged"\nlogs = "logs"\ngoal = "goal.toml"\nreads = ["air"]\n')
    loaded = load_controller(tmp_path / "same.toml", ROOM)
    assert loaded.card.reads == ("air",)
    assert loaded.card.settings == ("actions of 2380 logged situations",)
    copy = live(clone(loaded), 100)
    assert misses(copy) == pytest.approx(misses(live(original(), 100)), rel=0.25)


def test_what_it_cannot_follow_is_named(logs: list[Episode]) -> None:
    with pytest.raises(ConfigError, match=r"there is no observation 'fog'\. Choose among air, wind"):
        LoggedController(logs, ROOM, reads=["fog"])
    with pytest.raises(InputError, match="an episode of at least two steps"):
        LoggedController([], ROOM)
    pump = Signal(name="pump", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    with pytest.raises(ConfigError, match="the logs have no signal 'pump'"):
        LoggedController(logs, Schema(signals=(*ROOM.signals, pump)))
    with pytest.raises(InputError, match="no goal for 'air'"):
        LoggedController(logs, ROOM, goals(logs)).act(Situation(history=logs[0].history(at=3, length=2), goals={}))
