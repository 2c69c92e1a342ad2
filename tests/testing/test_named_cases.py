from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import stores
from tests.testing.exact_world import Exact, toy_episodes

from worldline.config import replace_at
from worldline.data.store import open_store
from worldline.engines.learned import LearnedEngine
from worldline.episode import Episode
from worldline.errors import DataError, InputError, UnreadableError
from worldline.models.jepa import Jepa, JepaConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.cases import WorldCase
from worldline.testing.named_cases import case_from_logs, logged_goal
from worldline.testing.toys import Integrator
from worldline.training.heads.base import by_name
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.3)


def stored(path: Path, episodes: list[Episode], schema: Schema = TOY.schema) -> Path:
    """The path of a new store that holds the episodes."""
    stores.stored(path, schema, episodes)
    return path


def case_of(world: World, logs: Path, *, opened_from: str = "", horizon: int = 4, num_episodes: int = 30) -> WorldCase:
    return case_from_logs(
        world, logs, opened_from=opened_from, horizon=horizon, num_episodes=num_episodes, num_calibration=None, seed=3
    )


def test_episodes_and_a_goal_of_the_logs(tmp_path: Path) -> None:
    speed = Signal(name="speed", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    schema = replace(TOY.schema, signals=(*TOY.schema.signals, speed))
    episodes = [
        replace(one, observations={**one.observations, "speed": np.zeros((one.num_steps + 1, 1), np.float32)})
        for one in [*TOY.episodes(1, 4, seed=1), *toy_episodes()]
    ]
    case = case_of(Exact(), stored(tmp_path / "logs", episodes, schema))
    assert (len(case.episodes), case.horizon, case.seed, case.num_calibration) == (30, 4, 3, None)
    first = case.episodes[0]
    assert first.num_steps == 14  # the one that is too short is left out
    assert set(first.observations) == {"position", "camera"}  # what the world does not speak of is left out
    np.testing.assert_array_equal(case.goal.targets["position"], first.observations["position"][4])
    spread = np.concatenate([one.observations["position"] for one in case.episodes]).std(0).max()
    assert case.goal.tolerance["position"] == pytest.approx(float(spread))


def test_of_the_store_that_a_bundle_was_learned_from_only_what_was_held_out(tmp_path: Path) -> None:
    logs = stored(tmp_path / "logs", TOY.episodes(9, 14, seed=3))
    torch.manual_seed(0)
    config = replace_at(JepaConfig(inputs=("position",), latent_size=4), {"encoder.width": 8, "predictor.width": 8})
    engine = LearnedEngine(
        model=Jepa(schema=TOY.schema, config=config).eval().requires_grad_(False),
        schema=TOY.schema,
        inputs=("position",),
        heads=by_name(
            Readout(ReadoutConfig(latent_size=4, signals=(TOY.schema["position"],), width=8)).eval(),
            MahalanobisScore(MahalanobisConfig(latent_size=4)).eval(),
        ),
        notes={"data": open_store(logs).content_hash()},
    )
    calibration = calibrate(engine, TOY.episodes(12, 14, seed=2), horizon=4, num_windows=1, seed=0)
    run = {"split": {"train": [0, 1, 3], "calibration": [4, 5, 6, 8], "held_out": [2, 7]}}
    folder = tmp_path / "world"
    save_world(folder, LocalWorld(engine, calibration, CrossEntropy(), num_proposals=4), run=run)
    case = case_of(open_world(folder), logs, opened_from=str(folder))
    every = TOY.episodes(9, 14, seed=3)
    for found, due in zip(case.episodes, (every[2], every[7]), strict=True):
        np.testing.assert_array_equal(found.observations["position"], due.observations["position"])
    others = stored(tmp_path / "others", TOY.episodes(5, 14, seed=4))
    assert len(case_of(open_world(folder), others, opened_from=str(folder)).episodes) == 5
    with pytest.raises(DataError, match="does not state which episodes were held out"):
        case_of(open_world(folder), logs)


def test_logs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    short = stored(tmp_path / "short", TOY.episodes(3, 5, seed=1))
    with pytest.raises(DataError, match="0 have the 8 steps that the checks need"):
        case_of(Exact(), short)
    calm = Integrator(noise=0.3, wind=False)
    with pytest.raises(UnreadableError, match=r"signal 'wind' of the world is not in .*calm"):
        case_of(Exact(), stored(tmp_path / "calm", calm.episodes(3, 14, seed=1), calm.schema))
    wide = replace(TOY.schema, signals=(replace(TOY.schema["position"], shape=(3,)), *TOY.schema.signals[1:]))
    episodes = [
        replace(one, observations={**one.observations, "position": np.zeros((15, 3), np.float32)})
        for one in TOY.episodes(3, 14, seed=1)
    ]
    with pytest.raises(
        UnreadableError, match=r"vector \(3,\) in .*wide, but the world takes observation vector \(2,\)"
    ):
        case_of(Exact(), stored(tmp_path / "wide", episodes, wide))


def test_the_goal_is_on_what_can_be_measured() -> None:
    lamp = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)
    card, episodes = (
        Exact().describe(),
        [replace(one, observations={**one.observations, "lamp": np.arange(15) % 3}) for one in toy_episodes()],
    )
    lit = replace(card, schema=replace(card.schema, signals=(*card.schema.signals, lamp)), predicts=("camera", "lamp"))
    assert logged_goal(lit, episodes, 4).targets == {"lamp": 1}
    seen = replace(card, predicts=("camera",), abilities=("reaches",))
    assert set(logged_goal(seen, episodes, 4).targets) == {"camera"}
    with pytest.raises(InputError, match="the world predicts camera, and none of these can be a goal"):
        logged_goal(replace(card, predicts=("camera",)), episodes, 4)
    hidden = [replace(episodes[0], observed={"position": np.arange(15) != 4}), episodes[1]]
    assert (logged_goal(card, hidden, 4).targets["position"] == episodes[1].observations["position"][4]).all()
