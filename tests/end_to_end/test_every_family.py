"""Every family goes the whole way: learned from logs, saved as a bundle, opened again, the same answers."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.brief import brief
from tests.data.stores import stored
from tests.surface.worlds_shown import SIZES as SMALL

import worldline
from worldline.config import replace_at
from worldline.data.store import Store
from worldline.engines.learned import LearnedEngine
from worldline.episode import History
from worldline.errors import EngineError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.families import with_family
from worldline.recipes.pixels import pixels
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.registry import names
from worldline.schema import Kind
from worldline.testing.toys import Integrator
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.world.base import PlanStatus, World
from worldline.world.local import LocalWorld

SIZES = {**SMALL, "rssm": {**SMALL["rssm"], "channels": 8, "image_width": 32}}
OF_VECTORS = ("jepa", "rssm", "ensemble", "recurrent", "token", "linear")
OF_PICTURES = ("rssm", "features", "lewm")


@pytest.fixture(scope="module")
def vector_logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    toy = Integrator(noise=0.1, wind=False, camera=False)
    return stored(tmp_path_factory.mktemp("vectors") / "store", toy.schema, toy.episodes(40, 12, seed=0))


@pytest.fixture(scope="module")
def picture_logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The toy seen by a camera of 32 by 32 pixels and 3 colours."""
    toy = Integrator(wind=False)
    signals = tuple(replace(s, shape=(32, 32, 3)) if s.kind is Kind.IMAGE else s for s in toy.schema.signals)
    made = Store.create(tmp_path_factory.mktemp("pictures") / "store", replace(toy.schema, signals=signals))
    for episode in toy.episodes(40, 12, seed=0):
        large = episode.observations["camera"].repeat(4, 1).repeat(4, 2).repeat(3, 3)
        made.append(replace(episode, observations={**episode.observations, "camera": large}))
    return made


def small(recipe: Callable[[Store], Recipe], family: str, weights: Path | None = None) -> Callable[[Store], Recipe]:
    """The recipe with this family, of a size that learns next to nothing in a second or two."""

    def make(store: Store) -> Recipe:
        whole = with_family(recipe(store), store, family, weights=weights)
        whole = brief(whole, 4, num_checks=2, batch_size=8, window=5, num_validation=16)
        config, heads = replace_at(whole.model_config, SIZES[family]), replace(whole.heads, width=16, unroll=2)
        planner = CrossEntropy(num_candidates=8, num_iterations=2)
        return replace(whole, model_config=config, heads=heads, horizon=4, num_windows=1, planner=planner)

    return make


def assert_same_answers(before: World, after: World, store: Store, goal: Goal) -> None:
    """Both describe, predict and plan alike, to the last bit."""
    assert after.describe() == before.describe()
    episode = store.episode(0)
    now, pushes = episode.history(at=5, length=4), {"push": episode.actions["push"][5:9]}
    first, second = (world.predict(now, pushes, level=0.5) for world in (before, after))
    assert first.calibrated
    assert first.trust == second.trust
    assert first.signals.keys() == second.signals.keys() == {"position"}
    for part in ("mean", "low", "high"):
        there, here = (vars(found.signals["position"])[part] for found in (first, second))
        assert np.isfinite(there).all(), part
        np.testing.assert_array_equal(there, here, err_msg=part)
    plans = [world.plan(now, goal, horizon=3, seed=1) for world in (before, after)]
    for plan in plans:
        assert plan.status in (PlanStatus.OPTIMAL, PlanStatus.SEARCHED, PlanStatus.OUT_OF_TIME), plan.reason
        assert plan.actions["push"].shape == (3, 2)
        assert np.abs(plan.actions["push"]).max() <= 1
    np.testing.assert_array_equal(plans[0].actions["push"], plans[1].actions["push"])
    assert plans[0].cost == plans[1].cost


def assert_right_or_silent(world: World, store: Store, growth: float) -> None:
    """200 steps of extreme actions stay within ten ranges of the log, or the world states the smallest trust.

    All weights of the model are multiplied by `growth`. Predictions that are not finite may be refused.
    """
    assert isinstance(world, LocalWorld)
    assert isinstance(world.engine, LearnedEngine)
    assert world.calibration is not None
    model = copy.deepcopy(world.engine.model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(growth)
    wild = replace(world, engine=replace(world.engine, model=model))
    low, high = world.calibration.logged_range["position"]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (200, 2))
    pushes = np.stack([np.ones((200, 2)), -np.ones((200, 2)), signs]).astype(np.float32)
    now = History.stack([store.episode(number).history(at=5, length=4) for number in range(3)])
    try:
        found = wild.predict(now, {"push": pushes})
    except EngineError:
        return
    path = found.signals["position"].mean
    near = ((path >= low - 10 * (high - low)) & (path <= high + 10 * (high - low))).all((1, 2))
    assert (near | (np.asarray(found.trust) == world.calibration.smallest_trust)).all()


def test_every_family_is_here() -> None:
    assert {*OF_VECTORS, *OF_PICTURES} == set(names("model")) == SIZES.keys()


@pytest.mark.parametrize("family", OF_VECTORS)
def test_a_world_of_vectors_comes_back_from_its_bundle(vector_logs: Store, tmp_path: Path, family: str) -> None:
    result = learn_logs(vector_logs.path, tmp_path / "world", Options(recipe=small(vectors, family)))
    assert result.learned.recipe.model == family
    goal = Goal(targets={"position": np.array([1.0, -1.0], np.float32)})
    assert_same_answers(result.world, worldline.open(tmp_path / "world"), vector_logs, goal)
    for growth in (1.0, 1.2):
        assert_right_or_silent(result.world, vector_logs, growth)


@pytest.mark.slow
@pytest.mark.parametrize("family", OF_PICTURES)
def test_a_world_of_pictures_comes_back_from_its_bundle(picture_logs: Store, tmp_path: Path, family: str) -> None:
    weights = tmp_path / "encoder" if family == "features" else None
    if weights is not None:
        from tests.models.encoder_folders import dinov2  # skips where its libraries are not installed

        dinov2().save_pretrained(weights)
    result = learn_logs(picture_logs.path, tmp_path / "world", Options(recipe=small(pixels, family, weights)))
    assert result.learned.recipe.model == family
    if weights is not None:
        shutil.rmtree(weights)  # the bundle brings them
    goal = Goal(targets={"camera": picture_logs.episode(1).observations["camera"][7]})
    assert_same_answers(result.world, worldline.open(tmp_path / "world"), picture_logs, goal)
