from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.stores import stored

from worldline.data.store import Store
from worldline.errors import ConfigError, InputError, UnknownNameError, UnsupportedError
from worldline.recipes.families import resized, with_family
from worldline.recipes.pixels import pixels, pixels_and_vectors
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms
from worldline.recipes.vectors import vectors
from worldline.registry import load
from worldline.testing.toys import Integrator
from worldline.workflows.record import record
from worldline.workflows.training import learn_world


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The toy without a picture."""
    toy = Integrator(camera=False)
    return stored(tmp_path_factory.mktemp("logs") / "store", toy.schema, toy.episodes(60, 20, seed=0))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return record("two-rooms", tmp_path_factory.mktemp("rooms") / "store", num_episodes=24, max_steps=30, seed=0)


def short(recipe: Recipe) -> Recipe:
    """Some seconds of it."""
    heads = {name: min(10, updates) for name, updates in vars(recipe.heads).items() if name.endswith("_updates")}
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=6, num_checks=2, batch_size=8, num_validation=8),
        heads=replace(recipe.heads, **heads),
        horizon=8,
        num_windows=2,
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("family", ["ensemble", "rssm", "token"])
def test_one_recipe_learns_vectors_with_any_family(logs: Store, tmp_path: Path, family: str) -> None:
    recipe = short(with_family(vectors(logs), logs, family))
    assert recipe.model == family
    assert recipe.horizon == short(vectors(logs)).horizon
    learned = learn_world(logs, recipe, folder=tmp_path)
    one = logs.episode(learned.split.held_out[0])
    exogenous = {"wind": one.exogenous["wind"][3:8]}
    found = learned.world.predict(one.history(3, 3), {"push": one.actions["push"][3:8]}, exogenous=exogenous, level=0.5)
    assert found.signals["position"].mean.shape == (5, 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("family", ["lewm", "rssm"])
def test_one_recipe_learns_pictures_with_any_family_that_takes_them(rooms: Store, tmp_path: Path, family: str) -> None:
    recipe = short(with_family(two_rooms(rooms), rooms, family))
    small = {
        "lewm": {"depth": 1, "predictor_depth": 1, "projector_width": 32},
        "rssm": {"hidden_size": 16, "num_groups": 4, "num_classes": 4, "channels": 8, "image_width": 32},
    }[family]
    recipe = replace(recipe, model_config=replace(recipe.model_config, **small))
    learned = learn_world(rooms, recipe, folder=tmp_path)
    one = rooms.episode(learned.split.held_out[0])
    found = learned.world.predict(one.history(3, 3), {"move": one.actions["move"][3:8]}, level=0.5)
    assert found.signals["position"].mean.shape == (5, 2)


def test_what_a_family_cannot_learn_it_says(logs: Store, rooms: Store) -> None:
    for family in ("ensemble", "token"):
        with pytest.raises(UnsupportedError, match=r"no encoder for images.*camera.*--recipe vectors"):
            with_family(pixels(rooms), rooms, family)
    for family in ("features", "lewm"):
        with pytest.raises(UnsupportedError, match="learns from images"):
            with_family(vectors(logs), logs, family, weights=Path("anywhere"))
    with pytest.raises(InputError, match="--weights"):
        with_family(pixels(rooms), rooms, "features")
    with pytest.raises(InputError, match="starts from none"):
        with_family(pixels(rooms), rooms, "rssm", weights=Path("anywhere"))
    with pytest.raises(UnknownNameError, match="rssm"):
        with_family(pixels(rooms), rooms, "rsm")


def test_lewm_takes_the_camera_alone_and_reads_out_the_rest(rooms: Store) -> None:
    recipe = with_family(pixels_and_vectors(rooms), rooms, "lewm")
    assert recipe.model_config.inputs == ("camera",)
    assert recipe.heads.readout_updates > 0  # they are not in the latent as they are


def test_other_families_keep_the_vectors(rooms: Store) -> None:
    recipe = with_family(pixels_and_vectors(rooms), rooms, "rssm")
    assert recipe.model_config.inputs == ("camera", "position", "wall")


def test_a_recipe_of_another_family_is_changed_too_but_not_into_jepa(logs: Store) -> None:
    recipe = replace(with_family(vectors(logs), logs, "rssm"), pretrained=lambda model: None)
    changed = with_family(recipe, logs, "ensemble")
    assert changed.model_config == with_family(vectors(logs), logs, "ensemble").model_config
    assert changed.pretrained is None  # those were weights of the other family
    with pytest.raises(UnsupportedError, match="the family 'jepa'"):
        with_family(recipe, logs, "jepa")


def test_weights_count_where_the_recipe_has_the_family_already(rooms: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        with_family(with_family(two_rooms(rooms), rooms, "lewm"), rooms, "lewm", weights=tmp_path / "nowhere")


def test_the_rssm_remembers_no_more_than_short_episodes_have(tmp_path: Path) -> None:
    toy = Integrator(camera=False)
    store = stored(tmp_path / "store", toy.schema, toy.episodes(20, 4, seed=0))
    recipe = with_family(vectors(store), store, "rssm")
    assert (recipe.training.window, recipe.model_config.context) == (5, 4)


def test_the_recipes_own_family_changes_nothing(logs: Store) -> None:
    recipe = vectors(logs)
    assert with_family(recipe, logs, "jepa") == recipe


@pytest.mark.parametrize("family", ["jepa", "ensemble", "rssm", "token"])
@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_a_larger_size_has_more_weights(logs: Store, family: str, size: float) -> None:
    recipe = with_family(vectors(logs), logs, family)

    def weights(one: Recipe) -> int:
        model = load("model", family)(schema=logs.schema, config=one.model_config)
        return sum(parameter.numel() for parameter in model.parameters())

    ratio = weights(resized(recipe, size)) / weights(recipe)
    assert (ratio > 1, ratio < 1) == (size > 1, size < 1)


@pytest.mark.parametrize("name", ["ensemble", "ensemble-memory", "memory", "vectors"])
def test_recipes_of_vectors_need_one(tmp_path: Path, rooms: Store, name: str) -> None:
    pictures = replace(rooms.schema, signals=(rooms.schema["camera"], rooms.schema["move"]))
    with pytest.raises(UnsupportedError, match="needs a vector observation"):
        load("recipe", name)(Store.create(tmp_path / "store", pictures))
