from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.data.stores import stored

import worldline
from worldline.cli.main import app
from worldline.config import nested
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import BundleError, ConfigError, InputError, StoppedError, UnknownNameError
from worldline.models import GruPredictorConfig
from worldline.models.ensemble import EnsembleConfig
from worldline.progress import Progress
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.testing.toys import Integrator
from worldline.workflows.choosing import make_recipe
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options, OptionsDict, parse_settings, seconds
from worldline.workflows.learn_result import run_toml

pytestmark = pytest.mark.usefixtures("brief_recalibration")

SMALL: dict[str, object] = {
    "training": {"num_updates": 6, "num_checks": 2, "batch_size": 16},
    "heads": {"distance_updates": 2, "inverse_updates": 2, "width": 16},
    "model": {"encoder": {"width": 16}, "predictor": {"width": 16}},
}
"""Settings with which a world is learned in seconds."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 episodes of 12 steps of a toy without images."""
    toy = Integrator(camera=False)
    return stored(tmp_path_factory.mktemp("logs") / "store", toy.schema, toy.episodes(24, 12, seed=0))


def made(store: Store, **options: Any) -> Recipe:
    return make_recipe(store, Options(**options).resolved())


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_setting_is_written_as_in_toml_and_text_needs_no_quotes() -> None:
    texts = {"3000": 3000, "true": True, "last": "last", '"3"': "3", "b=c": "b=c", "1\nb = 2": "1\nb = 2"}
    for text, value in texts.items():
        assert parse_settings([f"a={text}"]) == {"a": value}


@pytest.mark.parametrize(
    ("texts", "said"), [(["a"], "'a' is no setting"), (["=3"], "no setting"), (["a=1", "a=2"], "twice")]
)
def test_a_setting_has_a_path_and_a_value_and_is_given_once(texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_settings(texts)


@pytest.mark.parametrize(("budget", "expected"), [("90s", 90.0), ("1.5 min", 90.0), ("2h", 7200.0), (90.0, 90.0)])
def test_a_budget_is_a_duration(budget: str | float, expected: float) -> None:
    assert seconds(budget) == expected


@pytest.mark.parametrize("budget", ["90", "0s", "soon", 0.0, -1.0, float("nan")])
def test_a_budget_that_is_no_duration_is_refused_with_the_options(budget: str | float) -> None:
    with pytest.raises(ConfigError, match=r"budget is .* no duration\. Use"):
        Options(budget=budget)


def test_shortcuts_are_the_fields_of_the_options_and_replace_them(store: Store, tmp_path: Path) -> None:
    texts = {name: hint.__forward_arg__ for name, hint in OptionsDict.__annotations__.items()}
    assert texts == Options.__annotations__
    assert Options(seed=3, recipe="linear").replaced({"seed": 4}) == Options(seed=4, recipe="linear")
    shortcuts: Any = {"recipee": "linear"}
    with pytest.raises(UnknownNameError, match=r"no option of learn is called 'recipee'. Did you mean 'recipe'"):
        worldline.learn(store, tmp_path / "world", **shortcuts)


def test_any_field_of_the_recipe_can_be_set(store: Store) -> None:
    settings = {"training.learning_rate": 1, "model.predictor": GruPredictorConfig(context=3), "num_windows": 3}
    found = made(store, set={**settings, "heads.goals": False, "planner.num_candidates": 32})
    assert found.training.learning_rate == 1.0
    assert found.model_config.predictor == GruPredictorConfig(context=3)
    assert not found.heads.goals
    assert (found.planner.num_candidates, found.num_windows) == (32, 3)
    assert not found.exact_horizon
    assert made(store, set={"model.width": 24}, model="ensemble").model_config.width == 24


@pytest.mark.parametrize(
    ("path", "value", "error", "said"),
    [
        ("model.width", 128, UnknownNameError, r"Did you mean .*'model\.encoder\.width'.* Known: .*model\.predictor"),
        ("trainig.window", 3, UnknownNameError, r"'trainig'\. Did you mean 'training'\? Known: heads, horizon, model"),
        ("training.windo", 3, UnknownNameError, r"Did you mean 'training\.window'"),
        ("training.window", "long", ConfigError, r"training: window: .*\(got 'long'\)"),
        ("training.num_updates", -1, ConfigError, r"training: num_updates is -1\. It must be at least 0"),
        ("training", 3, ConfigError, r"training is 3\. Set one of its fields, such as training\.num_updates=1500"),
        ("heads.seed", 3, ConfigError, r"heads\.seed is set by the seed of the run"),
        ("horizon", 0, ConfigError, r"horizon is 0\. It must be a whole number of at least 1"),
        ("num_windows", True, ConfigError, "num_windows is True"),
    ],
)
def test_a_wrong_setting_is_named(store: Store, path: str, value: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        made(store, set={path: value})


def test_the_file_has_precedence_over_the_recipe_and_the_call_over_the_file(store: Store, tmp_path: Path) -> None:
    file = written(
        tmp_path / "mine.toml",
        'horizon = 5\n[learn]\nmodel = "ensemble"\nseed = 4\nnum_seeds = 2\n'
        "[training]\nnum_updates = 7\nwindow = 4\n[model]\nwidth = 24\n",
    )
    options = Options(config=file, seed=9, set={"training.window": 6}).resolved()
    assert (options.seeds, options.model) == (range(9, 11), "ensemble")
    found = make_recipe(store, options)
    assert isinstance(found.model_config, EnsembleConfig)
    assert (found.training.num_updates, found.training.window, found.model_config.width) == (7, 6, 24)
    assert (found.horizon, found.exact_horizon) == (5, True)
    assert made(store, config=file, horizon=3).horizon == 3


def test_another_kind_in_the_call_drops_the_fields_of_the_kind_in_the_file(store: Store, tmp_path: Path) -> None:
    file = written(tmp_path / "mine.toml", '[model.predictor]\nkind = "gru"\ncontext = 3\n')
    assert made(store, config=file).model_config.predictor == GruPredictorConfig(context=3)
    assert made(store, config=file, set={"model.predictor.kind": "mlp"}).model_config.predictor.kind == "mlp"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[learn]\nsed = 3", r"no option in \[learn\] is called 'sed'\. Did you mean 'seed'"),
        ("[learn]\nseed = '3'", r"learn\.seed is '3'\. Expected int"),
        ("learn = 3", r"Write a table \[learn\]"),
        ("[learn]\nrecipe = 'os:abort'", r"'os:abort' is code, which a file cannot choose\. .* --recipe os:abort"),
        ("[learn]\nrecipe = 'a function in Python'", "was a function in Python"),
        ("num_updates", "is no TOML file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path / "mine.toml", text)
    with pytest.raises(ConfigError, match=said) as caught:
        Options(config=file).resolved()
    assert str(file) in str(caught.value)


def test_a_recipe_of_the_callers_own_is_used_with_a_file_that_names_it(store: Store, tmp_path: Path) -> None:
    file = written(tmp_path / "mine.toml", "[learn]\nrecipe = 'mine:larger'\n[training]\nnum_updates = 7\n")
    assert made(store, config=file, recipe=vectors).training.num_updates == 7


def local(store: Store) -> Recipe:
    """A recipe in a module."""
    return vectors(store)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (None, "vectors"),
        ("memory", "memory"),
        (vectors, "vectors"),
        (local, f"{local.__module__}:local"),
        (lambda store: vectors(store), "a function in Python"),
    ],
)
def test_the_file_of_a_run_names_its_recipe(store: Store, recipe: Any, name: str) -> None:
    options = Options(recipe=recipe, split="time").resolved()
    found = tomllib.loads(run_toml(store, options, make_recipe(store, options), horizon=4))
    assert found["learn"] == {"recipe": name, "split": "time", "seed": 0, "num_seeds": 1}
    assert found["horizon"] == 4
    assert "seed" not in found["training"]


def test_the_file_of_a_run_repeats_it(store: Store, tmp_path: Path) -> None:
    first = tmp_path / "first"
    worldline.learn(store.path, first, seed=3, horizon=4, recipe="vectors", set=SMALL)
    stored_settings = tomllib.loads((first / "run.toml").read_text())
    assert stored_settings["training"]["num_updates"] == 6
    assert stored_settings["learn"]["seed"] == 3
    worldline.learn(store.path, tmp_path / "second", config=first / "run.toml")
    for name in ("model.safetensors", "heads/readout.safetensors", "calibration.safetensors", "run.toml"):
        assert (tmp_path / "second" / name).read_bytes() == (first / name).read_bytes(), name


def test_the_horizon_of_bands_and_report_is_set(store: Store, tmp_path: Path) -> None:
    found = learn_logs(store.path, tmp_path / "world", Options(recipe="vectors", set=SMALL, horizon=10))
    assert found.learned.calibration.horizon == 10
    assert found.diagnostics.horizon == 10
    with pytest.raises(ConfigError, match=r"horizon is 11, but the longest possible is 10: .* held-out .* 12 steps"):
        learn_logs(store.path, tmp_path / "never", Options(recipe="vectors", set=SMALL, horizon=11))
    assert not list((tmp_path / "never.partial").rglob("*.safetensors")), "refused before the training"


@pytest.mark.parametrize(("name", "path"), [("horizon", "horizon"), ("goals", "heads.goals")])
def test_a_setting_that_is_an_option_too_is_given_once(name: str, path: str) -> None:
    given: dict[str, Any] = {name: True}
    assert Options(**given).resolved().set == nested({path: True})
    with pytest.raises(ConfigError, match=f"{path} is given as an option and in set"):
        Options(**given, set={path: True})


@pytest.mark.parametrize(
    ("camera", "goals", "fitted"), [(False, None, False), (False, True, True), (True, None, True), (True, False, False)]
)
def test_goal_heads_are_fitted_with_images_or_if_asked(
    tmp_path: Path, camera: bool, goals: bool | None, fitted: bool
) -> None:
    toy = Integrator(camera=camera, wind=False)
    store = stored(tmp_path / "store", toy.schema, toy.episodes(4, 6, seed=0))
    assert made(store, goals=goals).heads.goals == fitted


def test_logs_that_goal_heads_do_not_support_are_refused_before_training(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'wind' is exogenous\. Add low and high .*--no-goals"):
        worldline.learn(store, tmp_path / "world", goals=True)
    assert not (tmp_path / "world.partial").exists()


def test_calibration_episodes_that_are_too_short_for_the_horizon_are_noted(tmp_path: Path) -> None:
    toy = Integrator(camera=False)
    episodes = list(toy.episodes(30, 12, seed=0))
    parts = split_store(stored(tmp_path / "long", toy.schema, episodes))
    (episodes[parts.calibration[0]],) = toy.episodes(1, 6, seed=1)
    store = stored(tmp_path / "store", toy.schema, episodes)
    found = learn_logs(store.path, tmp_path / "world", Options(recipe="vectors", set=SMALL, horizon=10))
    assert "2 of 3 calibration episodes are long enough for a horizon of 10 steps." in found.findings


def test_progress_says_where_a_call_is_and_stop_ends_it_so_that_it_goes_on(store: Store, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def ended() -> bool:
        return (seen[-1].stage, seen[-1].step) == ("learn", 4)

    with pytest.raises(
        StoppedError, match=r"stage 'learn', after 4 of 6 steps\. The training is saved in .*resume=True"
    ):
        worldline.learn(store.path, tmp_path / "world", recipe="vectors", set=SMALL, progress=seen.append, stop=ended)
    assert [(now.step, now.total) for now in seen if now.stage == "learn"] == [(1, 6), (2, 6), (3, 6), (4, 6)]
    assert all(now.loss is not None and now.loss > 0 for now in seen if now.stage == "learn")
    assert not (tmp_path / "world").exists()
    seen.clear()
    worldline.learn(store.path, tmp_path / "world", recipe="vectors", set=SMALL, resume=True, progress=seen.append)
    assert [now.step for now in seen if now.stage == "learn"] == [5, 6]
    assert {now.loss for now in seen if now.stage != "learn"} == {None}


def test_a_stop_before_the_training_saves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="Nothing was saved"):
        worldline.learn(store.path, tmp_path / "world", budget="10min", stop=lambda: True)
    with pytest.raises(BundleError, match="no checkpoint"):
        worldline.learn(store.path, tmp_path / "world", resume=True)


def test_stop_is_for_a_single_process(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="stop needs a single process"):
        worldline.learn(store.path, tmp_path / "world", stop=lambda: False)


def test_the_command_has_every_option_but_corrections_of_the_schema() -> None:
    parameters = {parameter.name for parameter in typer.main.get_group(app).commands["learn"].params}
    assert {option.name for option in fields(Options)} - parameters == {"edits"}
