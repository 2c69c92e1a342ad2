"""Imagined runs: the logged actions give the log, and a controller meets the disturbances of the log again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.served_world import serving_world
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.control.controller import Situation
from worldline.control.controllers import FunctionController, PidController, PidLoop
from worldline.control.imagination import imagine
from worldline.data.store import Store, open_store
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.errors import InputError, UnsupportedError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld

LEVEL = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m", precision="float64")
VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
RAIN = Signal(name="rain", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), precision="float64")
SCHEMA = Schema(signals=(LEVEL, VALVE, RAIN), step_s=1.0)
GAIN = 0.4


def tank(valve: NDArray[np.floating] | None, rain: NDArray[np.floating], noise: NDArray[np.floating]) -> Episode:
    """A level that keeps 0.9 of itself; without `valve`, a proportional controller holds it at 2."""
    levels, taken = [1.0], list[float]()
    for step, (flow, gust) in enumerate(zip(rain, noise, strict=True)):
        free = np.float32(np.clip(GAIN * (2.0 - levels[-1]), -1, 1))
        taken.append(float(free if valve is None else valve[step]))
        levels.append(0.9 * levels[-1] + taken[-1] + 0.5 * flow + gust)
    return Episode(
        observations={"level": np.array(levels)[:, None]},
        actions={"valve": np.array(taken, np.float32)[:, None]},
        exogenous={"rain": rain[:, None]},
    )


def logs(count: int, *, noise: float, seed: int = 0) -> tuple[list[Episode], list[Episode]]:
    """Logged episodes of 30 to 40 steps, and how they go under the proportional controller."""
    draw, logged, controlled = np.random.default_rng(seed), list[Episode](), list[Episode]()
    for _ in range(count):
        size = int(draw.integers(30, 41))
        rain, gusts = draw.standard_normal(size), noise * draw.standard_normal(size)
        logged.append(tank(draw.uniform(-1, 1, size).astype(np.float32), rain, gusts))
        controlled.append(tank(None, rain, gusts))
    return logged, controlled


@pytest.fixture(scope="module")
def world() -> LocalWorld:
    """Knows the tank without noise."""
    return LocalWorld(Linear.fit(logs(8, noise=0.0)[0], SCHEMA, context=1), None, CrossEntropy())


def test_the_logged_actions_give_the_log(world: LocalWorld) -> None:
    episodes, _ = logs(3, noise=0.3, seed=1)
    longest = max(episode.num_steps for episode in episodes)
    valves = np.zeros((3, longest, 1), np.float32)
    for number, episode in enumerate(episodes):
        valves[number, : episode.num_steps] = episode.actions["valve"]

    def replay(now: Situation) -> dict[str, NDArray[np.floating]]:
        return {"valve": valves[:, now.step]}

    for imagined, logged in zip(imagine(world, FunctionController(replay), episodes), episodes, strict=True):
        np.testing.assert_allclose(imagined.observations["level"], logged.observations["level"], atol=1e-9)
        np.testing.assert_array_equal(imagined.actions["valve"], logged.actions["valve"])


def test_a_controller_meets_the_disturbances_of_the_log(world: LocalWorld) -> None:
    episodes, controlled = logs(4, noise=0.3, seed=2)
    pid = PidController([PidLoop(reads="level", acts="valve", set_point=2, gain=GAIN)], SCHEMA)
    for imagined, true, logged in zip(imagine(world, pid, episodes), controlled, episodes, strict=True):
        np.testing.assert_allclose(imagined.observations["level"], true.observations["level"], atol=1e-3)
        assert np.abs(imagined.observations["level"] - logged.observations["level"]).max() > 0.5
    for short, true in zip(imagine(world, pid, episodes, max_steps=5), controlled, strict=True):
        np.testing.assert_allclose(short.observations["level"], true.observations["level"][:6], atol=1e-3)


def test_a_missing_value_counts_as_unchanged(world: LocalWorld) -> None:
    (episode,), _ = logs(1, noise=0.0, seed=3)
    seen = np.arange(episode.num_steps + 1) != 5
    broken = Episode(
        observations={"level": np.where(seen[:, None], episode.observations["level"], 1e6)},
        actions=episode.actions,
        exogenous=episode.exogenous,
        observed={"level": seen},
    )
    still = FunctionController(lambda now: {"valve": episode.actions["valve"][None, now.step]})
    (imagined,) = imagine(world, still, [broken])
    expected = episode.observations["level"].copy()
    expected[5] = expected[4]
    np.testing.assert_allclose(imagined.observations["level"], expected, atol=1e-9)


def test_what_cannot_be_imagined_is_refused(world: LocalWorld) -> None:
    episodes, _ = logs(1, noise=0.0)
    other = PidController([PidLoop(reads="power", acts="valve", set_point=2, gain=1)], Schema(
        signals=(Signal(name="power", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)), VALVE)
    ))  # fmt: skip
    with pytest.raises(UnsupportedError, match="controller 'pid' reads 'power', which the world linear does not"):
        imagine(world, other, episodes)
    with pytest.raises(InputError, match="fewer than 1 steps"):
        imagine(world, FunctionController(lambda now: {}), [])


def test_run_writes_imagined_episodes(world: LocalWorld, tmp_path: Path) -> None:
    episodes, controlled = logs(3, noise=0.1, seed=4)
    store = Store.create(tmp_path / "logs", SCHEMA)
    for episode in episodes:
        store.append(episode)
    save_world(tmp_path / "world", world)
    file, out = tmp_path / "pid.toml", tmp_path / "imagined"
    file.write_text("kind = 'pid'\nloops = [{reads = 'level', acts = 'valve', set_point = 2, gain = 0.4}]")
    command = ["run", str(file), "--in", str(tmp_path / "world"), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--logs", str(tmp_path / "logs")])
    assert result.exit_code == 0, result.output
    imagined = open_store(out)
    for number, true in enumerate(controlled):
        levels = imagined.episode(number).observations["level"]
        np.testing.assert_allclose(levels, true.observations["level"], atol=1e-3)
    mean = np.concatenate([episode.observations["level"] for episode in controlled]).mean()
    assert f"{mean:.3g}" in result.output
    with serving_world(world) as url:
        served = [*command[:2], "--in", url, "--out", str(tmp_path / "served"), "--logs", str(tmp_path / "logs")]
        again = CliRunner().invoke(app, served)
    assert again.exit_code == 0, again.output
    levels = (open_store(path).episode(0).observations["level"] for path in (out, tmp_path / "served"))
    np.testing.assert_allclose(*levels, atol=1e-5)
    lacking = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "more")])
    assert "Name a store with --logs" in lacking.output
