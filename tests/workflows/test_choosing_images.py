"""The choice between recipes for images: what is compared, the rule, and what a run does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored
from tests.workflows.test_choosing import trial

from worldline.config import from_json
from worldline.data.store import Store
from worldline.device import CPU
from worldline.episode import Episode
from worldline.errors import CollapseError
from worldline.recipes.families import resized
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training import loop
from worldline.workflows import budget, choosing_images, learn
from worldline.workflows.budget import BUDGET, Sizing
from worldline.workflows.choosing import make_recipe
from worldline.workflows.choosing_images import best_recipe, candidate_options, choose_recipe
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.training import LearnedModel

WIDTH = 32
RECIPES = ("pixels", "film", "film, rssm")
SHORT = {
    "training.num_updates": 4,
    "training.num_checks": 1,
    "training.num_validation": 8,
    "heads.distance_updates": 10,
    "heads.inverse_updates": 4,
}
SHORT |= {"heads.readout_updates": 0, "heads.dynamics_updates": 0, "heads.decoder_updates": 0}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all networks narrow, and batch norms and timings cheap."""
    monkeypatch.setattr(loop, "RECALIBRATION_BATCHES", 2)
    monkeypatch.setattr(budget, "TIMED", 1)

    def small(store: Store, options: Options) -> Recipe:
        return resized(make_recipe(store, options), 0.17)

    monkeypatch.setattr(choosing_images, "make_recipe", small)
    monkeypatch.setattr(learn, "make_recipe", small)


def stripes(path: Path, *, vectors: bool = False, num_episodes: int = 40) -> Store:
    """A stripe moves around a ring of 32 pixels, by 3 pixels per step to one side; a picture does not show to which."""
    camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(WIDTH, WIDTH, 1))
    gauge = Signal(name="gauge", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
    episodes = []
    for number in range(num_episodes):
        rng = np.random.default_rng([number, 3])
        pushes = rng.uniform(-1, 1, (16, 1)).astype(np.float32)
        steps = rng.choice((-3.0, 3.0)) + 0.3 * pushes[:, 0]
        place = np.cumsum([rng.uniform(0, WIDTH), *steps])
        apart = (np.arange(WIDTH) - place[:, None] + WIDTH / 2) % WIDTH - WIDTH / 2
        image = np.repeat((250 * np.exp(-(apart**2) / 16)).astype(np.uint8)[:, None], WIDTH, 1)[..., None]
        observations: dict[str, Any] = {"camera": image}
        if vectors:
            observations["gauge"] = np.sin(place * 2 * np.pi / WIDTH)[:, None].astype(np.float32)
        episodes.append(Episode(observations=observations, actions={"push": pushes}, truncated=True))
    signals = (camera, gauge, push) if vectors else (camera, push)
    return stored(path, Schema(signals=signals, step_s=0.1), episodes)


def without_rssm(store: Store, options: Options) -> dict[str, Options]:
    return dict(list(candidate_options(store, options).items())[:2])


def test_a_velocity_that_no_picture_shows_is_learned_with_a_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing_images, "candidate_options", without_rssm)
    options = Options(set={**SHORT, "training.num_updates": 200}).resolved()
    choice, begun, chosen = choose_recipe(stripes(tmp_path / "store"), options, folder=tmp_path / "run", device=CPU)
    assert [one.name for one in choice.trials] == ["pixels", "film"]
    assert choice.chosen == chosen.recipe == "film"
    assert choice.trials[1].relative.high < 0.8
    assert choice.reason.endswith("plans to pictures need --goals or --recipe pixels")
    assert choice.compared == "images"
    assert begun is not None


@pytest.mark.parametrize(
    ("value", "loses_goals", "chosen"),
    [(0.99, False, "pixels"), (0.95, False, "film"), (0.95, True, "pixels"), (0.85, True, "film")],
)
def test_only_a_clearly_better_recipe_replaces_the_usual_one(value: float, *, loses_goals: bool, chosen: str) -> None:
    trials = [trial("pixels", 1.0, 1.0, 1.0), trial("film", value, value, value)]
    assert best_recipe(trials, "pixels", loses_goals=loses_goals)[0] == chosen


def test_with_goals_the_order_of_distances_counts_and_the_world_has_its_recipe_and_goal_heads(tmp_path: Path) -> None:
    store = stripes(tmp_path / "store", vectors=True, num_episodes=8)
    result = learn_logs(store.path, tmp_path / "world", Options(goals=True, set=SHORT))
    names = [one.name for one in result.choice.trials]
    assert names == ["pixels-and-vectors", "film-and-vectors", "film-and-vectors, rssm"]
    assert {len(one.errors) for one in result.choice.trials} == {len(result.choice.steps) + 1}
    assert "reaches" in result.world.describe().abilities
    assert result.learned.recipe.name == result.choice.chosen
    page = (tmp_path / "world" / "report.html").read_text()
    assert f"The model {result.choice.chosen} was chosen: {result.choice.reason}." in page
    assert "ratio to pixels-and-vectors" in page
    assert f'recipe = "{result.choice.chosen.split(",")[0]}"' in (tmp_path / "world" / "run.toml").read_text()


@pytest.mark.parametrize(("failing", "reason"), [(("film",), "clearly better"), (RECIPES[1:], "could be tried")])
def test_a_candidate_that_fails_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...], reason: str
) -> None:
    whole = choosing_images.learn_engine

    def may_fail(store: Store, recipe: Recipe, **options: Any) -> LearnedModel:
        if recipe.name in failing:
            raise CollapseError("the loss diverged")
        return whole(store, recipe, **options)

    monkeypatch.setattr(choosing_images, "learn_engine", may_fail)
    monkeypatch.setattr(choosing_images, "GOALS_GAIN", 1.0)
    store = stripes(tmp_path / "store", num_episodes=8)
    choice, _, _ = choose_recipe(store, Options(set=SHORT).resolved(), folder=tmp_path / "run", device=CPU)
    assert choice.failed == dict.fromkeys(failing, "the loss diverged")
    assert choice.chosen == "pixels"
    assert reason in choice.reason


def test_lengths_fit_a_budget_and_a_resumed_run_keeps_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing_images, "candidate_options", without_rssm)
    store, whole = stripes(tmp_path / "store", num_episodes=8), {"budget": 30, "set": SHORT}
    choice, begun, _ = choose_recipe(store, Options(**whole).resolved(), folder=tmp_path, device=CPU)
    sizing = from_json(Sizing, (tmp_path / BUDGET).read_text(), where=tmp_path)
    assert begun is not None
    assert 1 <= sizing.num_updates <= 8 * SHORT["training.num_updates"]
    again = choose_recipe(store, Options(**whole, resume=True).resolved(), folder=tmp_path, device=CPU)
    assert again[:2] == (choice, None)
