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


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The toy without a picture."""
    toy = Integrator(camera=False)
    return stored(tmp_path_factory.mktemp("logs") / "store", toy.schema, toy.episodes(60, 20, seed=0))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return record("two-rooms", tmp_path_factory.mktemp("rooms") / "store", num_episodes=24, max_steps=30, seed=0)


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
