"""The choice between models: its score, its rule, and what a run does with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.audit.training_measurements import Choice, Trial
from worldline.config import to_json
from worldline.data.store import Store
from worldline.engines.baselines import Persistence
from worldline.engines.learned import LearnedEngine
from worldline.episode import Episode
from worldline.errors import CollapseError, ConfigError, StoppedError
from worldline.progress import Progress
from worldline.recipes.linear import linear
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Estimate, draw_clusters
from worldline.testing.toys import Integrator
from worldline.workflows import choosing
from worldline.workflows.candidate_errors import TOLERATED, Errors, comparison_data, measure
from worldline.workflows.choosing import LINEAR, best, chooses
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import AUTO, Options
from worldline.workflows.training import LearnedModel, learn_world
from worldline.world.bundle_io import open_world

SHORT = {"training.num_updates": 8, "num_windows": 2}


def errors(*values: float) -> Errors:
    """Errors without any spread."""
    value = np.array(values)
    return Errors(value=value, draws=np.tile(value, (50, 1)))


def trial(name: str, low: float, value: float, high: float) -> Trial:
    return Trial(name=name, errors=(value,), relative=Estimate(value=value, low=low, high=high), learn_s=1.0)


@pytest.mark.parametrize("name", ["linear", "memory"])
def test_a_recipe_does_not_measure_what_the_rule_holds_out(name: str, tmp_path: Path) -> None:
    toy = Integrator(noise=0.1, wind=False, camera=False)
    same = toy.episodes(40, 60, seed=0)
    # In the last episodes, actions act 9 steps later, on much larger values.
    late = [
        replace(
            episode,
            observations={"position": 100 * episode.observations["position"]},
            actions={"push": np.roll(episode.actions["push"], -9, 0)},
        )
        for episode in same[36:]
    ]
    stores = {
        "same": stored(tmp_path / "same", toy.schema, same),
        "late": stored(tmp_path / "late", toy.schema, [*same[:36], *late]),
    }

    def settings(logs: str, split: str) -> dict[str, Any]:
        return choosing.make_recipe(stores[logs], Options(recipe=name, split=split)).settings()

    assert settings("same", "time") == settings("late", "time")
    assert settings("same", "episode") != settings("late", "episode")


def test_the_ratio_is_a_geometric_mean_over_the_steps() -> None:
    assert errors(0.1, 0.4).relative(errors(0.2, 0.2 * 2.0)).value == pytest.approx(np.sqrt(0.5))
    assert errors(0.2, 0.3).relative(errors(0.2, 0.3)).value == pytest.approx(1.0)


def test_a_loss_at_one_step_counts_more_than_an_equal_gain_at_another() -> None:
    assert errors(0.1, 0.4).relative(errors(0.2, 0.2)).value == pytest.approx(np.sqrt(2 / TOLERATED))
    assert errors(0.19, 0.21).relative(errors(0.2, 0.2)).value < 1


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([trial("a", 0.98, 0.99, 1.0), trial("b", 0.9, 1.2, 1.5)], LINEAR),
        ([trial("a", 0.5, 0.6, 0.7), trial("b", 0.4, 0.55, 0.8)], "b"),
        ([trial("a", 0.5, 0.57, 0.7), trial("b", 0.4, 0.55, 0.8)], "a"),
        ([], LINEAR),
    ],
)
def test_only_a_clearly_better_model_replaces_the_linear_one(others: list[Trial], chosen: str) -> None:
    assert best([trial(LINEAR, 1.0, 1.0, 1.0), *others]) == chosen


def plant(path: Path, *, cubic: bool, num_episodes: int = 24, num_steps: int = 40) -> Store:
    """x' = 0.9 x + u, or with the cube of u, which no linear model knows."""
    low, high = (-1.0,), (1.0,)
    schema = Schema(
        signals=(
            Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m"),
            Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="1", low=low, high=high),
        ),
        step_s=1.0,
    )
    episodes = []
    for number in range(num_episodes):
        rng = np.random.default_rng([number, 7])
        valve = rng.uniform(-1, 1, (num_steps, 1))
        push, level = (4 * valve**2 - 1 if cubic else valve), [rng.normal(0, 1, 1)]
        for step in range(num_steps):
            level.append(0.9 * level[-1] + push[step] + rng.normal(0, 0.01, 1))
        episodes.append(
            Episode(observations={"level": np.array(level, np.float32)}, actions={"valve": valve.astype(np.float32)})
        )
    return stored(path, schema, episodes)


def test_errors_are_in_standard_deviations_and_of_all_episodes_that_are_not_held_out(tmp_path: Path) -> None:
    store = plant(tmp_path / "store", cubic=False)
    data = comparison_data(store, linear(store))
    assert set(data.numbers) == {*range(len(store))} - {*data.split.held_out}
    assert data.steps[0] == 1
    level = data.windows.history.observations["level"][:, -1:].astype(float)
    truth = data.windows.truth["level"].astype(float)
    persistence = {"level": np.broadcast_to(level, truth.shape)}
    found = measure(Persistence.fit([store.episode(0)], store.schema), persistence, data)
    expected = np.sqrt(np.square(truth - level)[:, [step - 1 for step in data.steps]].mean((0, 2)))
    np.testing.assert_allclose(found.value, expected / data.spreads["level"][0], rtol=1e-6)
    assert found.draws.shape == (len(draw_clusters(2, 0)), len(data.steps))


def test_an_episode_is_predicted_by_the_fit_without_it(tmp_path: Path) -> None:
    store = plant(tmp_path / "store", cubic=False)
    recipe = linear(store)
    data, learned = comparison_data(store, recipe), learn_world(store, recipe, folder=tmp_path / "run")
    asked = set[int]()

    def unseen(number: int) -> LearnedEngine:
        asked.add(number)
        return learned.unseen(number)

    found = data.unseen_errors(learned.engine, unseen)
    assert asked == set(data.split.not_held_out)
    noise = 0.01 / data.spreads["level"][0]
    assert 0.8 * noise < found.value[0] < 1.2 * noise


def test_a_linear_plant_gets_the_linear_model_and_its_page_says_what_was_tried_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = choosing.learn_engine

    def failing(store: Store, recipe: Recipe, **options: Any) -> LearnedModel:
        if recipe.name == "ensemble":
            raise CollapseError("the loss diverged")
        return whole(store, recipe, **options)

    monkeypatch.setattr(choosing, "learn_engine", failing)
    store = plant(tmp_path / "store", cubic=False, num_episodes=12, num_steps=16)
    result = learn_logs(store.path, tmp_path / "world", Options(set=SHORT))
    choice = result.choice
    assert choice.chosen == result.learned.recipe.name == LINEAR
    assert choice.failed == {"ensemble": "the loss diverged"}
    names = [LINEAR, "recurrent", "ensemble-memory", "ensemble-delays", "fracast"]
    assert [one.name for one in choice.trials] == names
    page = (tmp_path / "world" / "report.html").read_text()
    assert "The model linear was chosen: no other model was clearly better." in page
    assert "ensemble failed: the loss diverged" in page
    assert all(f">{one.name}<" in page for one in choice.trials)
    run = json.loads((tmp_path / "world" / "run.json").read_text())
    assert run["choice"] == json.loads(to_json(choice))
    assert 'recipe = "linear"' in (tmp_path / "world" / "run.toml").read_text()
    assert not (tmp_path / "world.partial").exists()


def test_a_plant_that_no_linear_model_knows_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "CANDIDATES", (LINEAR, "ensemble"))
    store = plant(tmp_path / "store", cubic=True, num_episodes=16, num_steps=30)
    many = Options(set={"training.num_updates": 120, "num_windows": 2})
    result = learn_logs(store.path, tmp_path / "world", many)
    assert result.choice.chosen == result.learned.recipe.name != LINEAR
    chosen = next(one for one in result.choice.trials if one.name == result.choice.chosen)
    assert chosen.relative.high < 1 - choosing.MIN_GAIN


def test_a_linear_world_can_be_used_while_the_others_are_tried_and_the_choice_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "CANDIDATES", (LINEAR, "ensemble"))
    store = plant(tmp_path / "store", cubic=True, num_episodes=12, num_steps=16)
    out = tmp_path / "world"

    def stop(now: Progress) -> None:
        if now.stage == "compare models" and now.step:
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        learn_logs(store.path, out, Options(set=SHORT), progress=stop)
    assert open_world(out).describe().notes["recipe"] == LINEAR
    trials, sizes = (trial("ensemble", 0, 0, 0),), {"steps": (1,), "step_s": 1.0, "num_episodes": 2}
    kept = Choice(chosen="ensemble", reason="", **sizes, trials=trials, failed={})
    (tmp_path / "world.partial" / "choice.json").write_text(to_json(kept))
    stages: list[str] = []
    result = learn_logs(store.path, out, Options(set=SHORT, resume=True), progress=lambda now: stages.append(now.stage))
    assert "compare models" not in stages
    assert result.choice.trials == kept.trials


def test_a_world_that_exists_is_not_replaced_by_the_linear_one(tmp_path: Path) -> None:
    store = plant(tmp_path / "store", cubic=False, num_episodes=12, num_steps=16)
    learn_logs(store.path, tmp_path / "world", Options(recipe="vectors", set=SHORT))
    before = (tmp_path / "world" / "run.json").read_bytes()

    def stop(now: Progress) -> None:
        if now.stage == "compare models":
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        learn_logs(store.path, tmp_path / "world", Options(set=SHORT), progress=stop)
    assert (tmp_path / "world" / "run.json").read_bytes() == before


def test_learning_chooses_unless_a_recipe_or_a_family_is_named(tmp_path: Path) -> None:
    toy = Integrator(camera=False)
    store = stored(tmp_path / "vectors", toy.schema, toy.episodes(4, 8, seed=0))
    options = (Options(), Options(recipe=AUTO), Options(recipe="vectors"), Options(model="ensemble"))
    assert [chooses(store, one) for one in options] == [True, True, False, False]


def test_a_run_takes_three_minutes_unless_the_user_sets_its_time_or_its_training() -> None:
    assert choosing.time_for(Options()) == choosing.DEFAULT_S
    assert choosing.time_for(Options(budget="2min")) == 120.0
    assert choosing.time_for(Options(set={"training": {"window": 5}})) is None


def test_logs_with_images_are_compared_unless_settings_of_a_model_are_given(tmp_path: Path) -> None:
    toy = Integrator()
    store = stored(tmp_path / "images", toy.schema, toy.episodes(4, 8, seed=0))
    assert chooses(store, Options())
    assert not chooses(store, Options(set={"model.latent_size": 8}).resolved())


def test_settings_of_a_model_need_a_named_recipe(tmp_path: Path) -> None:
    store = plant(tmp_path / "store", cubic=False, num_episodes=12, num_steps=16)
    with pytest.raises(ConfigError, match="Name the recipe"):
        learn_logs(store.path, tmp_path / "world", Options(set={"model.latent_size": 8}))


def test_training_after_the_comparison_has_more_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "CANDIDATES", (LINEAR, "ensemble"))
    monkeypatch.setattr(choosing, "best", lambda trials: trials[-1].name)
    monkeypatch.setattr("worldline.workflows.learn.beats", lambda *_: True)
    monkeypatch.setattr("worldline.workflows.budget.TIMED", 1)
    store = plant(tmp_path / "store", cubic=True, num_episodes=12, num_steps=16)
    result = learn_logs(store.path, tmp_path / "world", Options(budget=0.5, set={"num_windows": 2}))
    assert result.learned.recipe.name == "ensemble"
    assert result.learned.recipe.training.open_loop_share == choosing.CONTINUED_SHARE
