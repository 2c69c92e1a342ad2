"""Everything that a log can hold goes the whole way: through the store into the loss, and out as a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.brief import brief
from tests.data.stores import stored

from worldline.config import replace_at
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.episode import Episode
from worldline.planning.base import Goal
from worldline.recipes.pixels import pixels, pixels_and_vectors
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.batches import to_window
from worldline.training.loop import train
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.training import build_model
from worldline.world.base import PlanStatus

pytestmark = pytest.mark.usefixtures("brief_recalibration")

SCHEMA = Schema(
    signals=(
        Signal(name="arm.front", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3)),
        Signal(name="side", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 1)),
        Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", precision="float64"),
        Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3),
        Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
        Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(0.0,), high=(1.0,)),
        Signal(name="rain", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,)),
    ),
    step_s=1.0,
)


def episode(seed: int, num_steps: int = 20) -> Episode:
    """A tank: the level rises by what comes in per second, and steps differ in length. Two cameras see the level."""
    draw = np.random.default_rng(seed)
    gear, valve = draw.integers(0, 3, num_steps), draw.random((num_steps, 1))
    rain, step_s = draw.random((num_steps, 1)), draw.uniform(0.5, 2.0, num_steps)
    inflow = (gear[:, None] - 1) * valve + 0.2 * (rain - 0.5)
    level = np.concatenate([draw.normal(size=(1, 1)), inflow * step_s[:, None]]).cumsum(0)
    height = np.clip(32 + 6 * level[:, 0], 0, 63).astype(int)
    lit = np.arange(64)[None, :, None, None] > height[:, None, None, None]
    return Episode(
        observations={
            "arm.front": np.broadcast_to(200 * lit, (num_steps + 1, 64, 64, 3)).astype(np.uint8),
            "side": np.broadcast_to(90 * lit, (num_steps + 1, 64, 64, 1)).astype(np.uint8),
            "level": np.concatenate([level, -level], 1),
            "lamp": draw.integers(0, 3, num_steps + 1),
        },
        actions={"gear": gear, "valve": valve.astype(np.float32)},
        exogenous={"rain": rain.astype(np.float32)},
        rewards={"reward": valve.astype(np.float32)},
        observed={"level": draw.random(num_steps + 1) < 0.8, "arm.front": draw.random(num_steps + 1) < 0.9},
        step_s=step_s.astype(np.float32),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path, days = tmp_path_factory.mktemp("tank") / "store", [{"day": number // 3} for number in range(24)]
    return stored(path, SCHEMA, map(episode, range(24)), days)


def short(recipe: Callable[[Store], Recipe]) -> Callable[[Store], Recipe]:
    def make(store: Store) -> Recipe:
        found = brief(recipe(store), 4, batch_size=8, num_checks=2, min_deviation=0.0, min_rank=1.0)
        config = replace_at(found.model_config, {"encoder.channels": 8, "encoder.width": 32, "predictor.width": 32})
        return replace(found, model_config=config, horizon=5, num_windows=2)

    return make


@pytest.mark.parametrize("recipe", [pixels, vectors, pixels_and_vectors])
def test_what_is_missing_does_not_matter_and_what_is_there_does(
    store: Store, recipe: Callable[[Store], Recipe]
) -> None:
    small = short(recipe)(store)
    model = build_model(store, small.split(store), small)
    names = [*small.model_config.inputs, "gear", "valve", "rain"]
    batch = Windows(store, 4, range(len(store)), names).sample(32, np.random.default_rng(0))
    masked = [name for name in small.model_config.inputs if not batch.observed[name].all()]
    assert masked

    def loss(**changes: object) -> float:
        window = to_window(replace(batch, **changes), SCHEMA)
        return float(model.loss(window, generator=torch.Generator().manual_seed(0)).total.detach())

    wild = {
        k: np.where(batch.observed[k].reshape(32, 4, *[1] * (v.ndim - 2)), v, 77) for k, v in batch.observations.items()
    }
    wild = {name: values.astype(batch.observations[name].dtype) for name, values in wild.items()}
    assert loss(observations=wild) == pytest.approx(loss(), rel=1e-6)
    for change in (
        {"observations": {name: values // 2 for name, values in batch.observations.items()}},
        {"actions": {**batch.actions, "gear": (batch.actions["gear"] + 1) % 3}},
        {"actions": {**batch.actions, "valve": 1 - batch.actions["valve"]}},
        {"exogenous": {"rain": batch.exogenous["rain"] + 1}},
        {"step_s": batch.step_s + 1},
    ):
        assert loss(**change) != loss()


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(pixels, marks=pytest.mark.slow), pytest.param(vectors, marks=pytest.mark.slow), pixels_and_vectors],
)
def test_a_world_is_learned_predicts_and_plans(tmp_path: Path, store: Store, recipe: Callable[[Store], Recipe]) -> None:
    result = learn_logs(store.path, tmp_path / "world", Options(recipe=short(recipe), split="key:day"))
    run = json.loads((tmp_path / "world" / "run.json").read_text())
    days = [
        {number // 3 for number in run["split"][part]} for part in ("train", "validation", "calibration", "held_out")
    ]
    assert sum(map(len, days)) == len(set.union(*days)) == 8
    assert run["split"]["rule"] == "by day at random, seed 0"
    one = store.episode(result.learned.split.held_out[0])
    actions = {"gear": one.actions["gear"][:4], "valve": one.actions["valve"][:4]}
    found = result.world.predict(one.history(0, 1), actions, exogenous={"rain": one.exogenous["rain"][:4]}, level=0.5)
    level = found.signals["level"]
    assert level.mean.shape == (4, 2)
    assert np.isfinite([level.low, level.mean, level.high]).all()
    goal = Goal(targets={"level": np.array([3.0, -3.0])})
    plan = result.world.plan(one.history(0, 1), goal, horizon=4, exogenous={"rain": one.exogenous["rain"][:4]})
    assert plan.status is PlanStatus.SEARCHED
    assert plan.actions["gear"].shape == (4,)
    assert set(plan.actions["gear"].tolist()) <= {0, 1, 2}
    assert plan.actions["valve"].shape == (4, 1)
    assert ((plan.actions["valve"] >= 0) & (plan.actions["valve"] <= 1)).all()


@pytest.mark.slow
def test_known_durations_explain_what_is_seen(store: Store, tmp_path: Path) -> None:
    """The level moves by inflow times duration; a model that is told the duration predicts better."""

    def error(timed: bool) -> float:
        recipe = vectors(store)
        sizes = {"encoder.width": 32, "predictor.width": 64, "timed": timed}
        config = replace_at(recipe.model_config, sizes)
        training = replace(recipe.training, num_updates=400, batch_size=64, num_checks=2, window=3)
        small = replace(recipe, model_config=config, training=training)
        model = build_model(store, small.split(store), small)
        trained = train(model, store, small.split(store), config.inputs, training, folder=tmp_path / str(timed))
        return trained.curves[-1]["validation_signals"]

    assert error(True) < 0.5 * error(False)
