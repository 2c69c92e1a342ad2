from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.stores import stored

import worldline
from worldline.data.store import Store
from worldline.episode import History
from worldline.errors import ConfigError, UnsupportedError
from worldline.models.layers.linear_forecast import RIDGE
from worldline.planning.base import Goal
from worldline.recipes.families import with_family
from worldline.recipes.linear import linear
from worldline.recipes.pixels import pixels
from worldline.recipes.vectors import vectors
from worldline.registry import load
from worldline.testing import check_world
from worldline.testing.toys import Integrator
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.training import learn_world
from worldline.world.base import PlanStatus

TOY = Integrator(noise=0.0, wind=False, camera=False)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("logs") / "store", TOY.schema, TOY.episodes(40, 30, seed=0))


def test_it_chooses_what_the_toy_needs(logs: Store) -> None:
    recipe = linear(logs)
    assert load("recipe", "linear") is linear
    assert (recipe.model, recipe.training.num_updates, recipe.heads.goals) == ("linear", 0, False)
    assert (recipe.model_config.history, recipe.model_config.ridge) == (1, RIDGE)
    assert replace(with_family(vectors(logs), logs, "linear"), name="linear") == recipe


def test_a_world_is_learned_without_a_training(logs: Store, tmp_path: Path) -> None:
    options = Options(recipe="linear", budget="1min", num_seeds=2)
    result = learn_logs(logs.path, tmp_path / "world", options)
    assert result.learned.trained.curves == ()
    report = (tmp_path / "world" / "report.html").read_text()
    assert "Learning" not in report
    world, episode = worldline.open(tmp_path / "world"), logs.episode(0)
    now, pushes = episode.history(at=5, length=4), {"push": episode.actions["push"][5:25]}
    found = world.predict(now, pushes, level=0.5)
    assert found.calibrated
    true = episode.observations["position"][6:26]
    np.testing.assert_allclose(found.signals["position"].mean, true, atol=1e-3 * true.std())
    plan = world.plan(now, Goal(targets={"position": true[9]}), horizon=10, seed=0)
    assert plan.status is PlanStatus.OPTIMAL


@pytest.mark.parametrize("path", ["training.num_updates", "heads.dynamics_updates"])
def test_updates_are_refused(logs: Store, tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path} is 5. It must be 0: the family is fitted in closed form"):
        learn_logs(logs.path, tmp_path / "world", Options(recipe="linear", set={path: 5}))


def test_other_families_need_updates_and_another_recipe(logs: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.num_updates is 0. It must be at least 1"):
        learn_logs(logs.path, tmp_path / "world", Options(recipe="vectors", set={"training.num_updates": 0}))
    with pytest.raises(UnsupportedError, match="cannot be turned into one with the family 'ensemble'"):
        with_family(linear(logs), logs, "ensemble")
    seen = replace(TOY, camera=True)
    pictures = stored(tmp_path / "pictures", seen.schema, seen.episodes(8, 8, seed=0))
    with pytest.raises(UnsupportedError, match="'linear' has no encoder for images"):
        with_family(pixels(pictures), pictures, "linear")


def test_twenty_episodes_suffice_for_bands_at_level_90(tmp_path: Path) -> None:
    """Each episode is predicted by a fit without it. Paths of fresh episodes lie inside as often as the bands say."""
    toy = Integrator(noise=0.1, wind=False, camera=False)
    store = stored(tmp_path / "store", toy.schema, toy.episodes(20, 30, seed=0))
    learned = learn_world(store, linear(store), folder=tmp_path / "run")
    assert learned.calibration.highest_level >= 0.9
    fresh = toy.episodes(300, 30, seed=1)
    now = History.stack([episode.history(at=5, length=6) for episode in fresh])
    pushes = {"push": np.stack([episode.actions["push"][5:15] for episode in fresh])}
    truth, inside = np.stack([episode.observations["position"][6:16] for episode in fresh]), dict[float, float]()
    for level in (0.5, 0.9):
        forecast = learned.world.predict(now, pushes, level=level)
        band = forecast.signals["position"]
        inside[level] = float(((band.low <= truth) & (truth <= band.high)).all((1, 2)).mean())
    assert 0.3 < inside[0.5] < 0.75
    assert inside[0.9] > 0.84
    assert np.mean(forecast.trust < 0.05) < 0.12


def test_a_model_of_few_episodes_is_fitted_to_all_but_the_held_out_ones(tmp_path: Path) -> None:
    toy = Integrator(noise=0.1, wind=False, camera=False)
    known, others = (toy.episodes(20, 12, seed=seed) for seed in (0, 1))
    store = stored(tmp_path / "all", toy.schema, known)
    recipe = replace(linear(store), horizon=4, num_windows=1)

    def fitted(part: str) -> dict[str, torch.Tensor]:
        """Where other episodes are in a part."""
        numbers = getattr(recipe.split(store), part, ())
        episodes = [others[number] if number in numbers else one for number, one in enumerate(known)]
        changed = stored(tmp_path / part, toy.schema, episodes)
        return learn_world(changed, recipe, folder=tmp_path / "run").engine.model.state_dict()

    first = fitted("nothing")
    for part in ("calibration", "held_out"):
        second = fitted(part)
        is_changed = any(not torch.equal(first[name], second[name]) for name in first)
        assert is_changed == (part != "held_out"), part


def test_a_world_with_exact_plans_conforms(tmp_path: Path) -> None:
    toy = Integrator(noise=0.05, wind=False, camera=False)
    store = stored(tmp_path / "store", toy.schema, toy.episodes(40, 16, seed=0))
    recipe = replace(linear(store), horizon=6, num_windows=2)
    world = learn_world(store, recipe, folder=tmp_path / "run").world
    assert "linear" in world.describe().abilities
    check_world(world, toy.episodes(30, 16, seed=1), Goal(targets={"position": np.array([0.5, -0.5])}))
