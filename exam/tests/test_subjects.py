"""Who sits the exam: how large it is, what it hears, and which episodes calibrate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.recipes.families import with_family
from worldline.recipes.memory import memory
from worldline.recipes.recipe import Recipe
from worldline.testing.toys import Integrator
from worldline.workflows.training import build_model
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline_exam.subjects import ExamSubject, RecipeSubject, Terms, TrivialSubject, kept_last

SHORT = f"{__name__}:short"


def short(store: Store) -> Recipe:
    """The recipe "memory" that learns next to nothing."""
    known = memory(store)
    training = replace(known.training, num_updates=2, num_checks=1, batch_size=8, num_validation=4)
    return replace(known, training=training, heads=replace(known.heads, readout_updates=2, width=16), num_windows=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    toy = Integrator(noise=0.1, camera=False, wind=False)
    return stored(tmp_path / "logs", toy.schema, toy.episodes(12, 12, seed=1))


def num_parameters(store: Store, recipe: Recipe) -> int:
    return sum(one.numel() for one in build_model(store, recipe.split(store), recipe).parameters())


@pytest.mark.parametrize(("family", "hears"), [("token", True), ("token-blind", False)])
def test_another_family_is_as_large_as_the_recipes_own_and_the_blind_one_hears_no_actions(
    store: Store, family: str, hears: bool
) -> None:
    own, found = memory(store), RecipeSubject(recipe="memory", family=family)._recipe(store)
    usual = with_family(own, store, "token")
    usual = replace(usual, model_config=replace(usual.model_config, actions=hears))
    assert (found.model, found.model_config.actions) == ("token", hears)
    due, size, unmatched = (num_parameters(store, one) for one in (own, found, usual))
    assert abs(np.log(size / due)) < 0.2 < abs(np.log(unmatched / due))


@pytest.mark.parametrize("subject", [RecipeSubject(recipe=SHORT), TrivialSubject(name="linear")])
def test_as_many_of_the_last_episodes_calibrate_as_are_asked_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: ExamSubject
) -> None:
    seen: list[tuple[list[bytes], int]] = []

    def noting(engine: Any, episodes: Sequence[Episode], *, horizon: int, **how: Any) -> Calibration:
        seen.append(([one.observations["position"].tobytes() for one in episodes], horizon))
        return calibrate(engine, episodes, horizon=horizon, **how)

    for module in ("worldline_exam.subjects", "worldline.workflows.training"):
        monkeypatch.setattr(f"{module}.calibrate", noting)
    subject.learn(store, seed=0, terms=Terms(num_calibration=3, horizon=2), folder=tmp_path / "work")
    assert seen == [([store.episode(number).observations["position"].tobytes() for number in (9, 10, 11)], 2)]


def test_of_the_other_episodes_each_has_its_part(store: Store) -> None:
    split = kept_last(store, 3)
    assert split.calibration == (9, 10, 11)
    assert (len(split.train), len(split.validation), len(split.held_out)) == (6, 1, 2)
    assert sorted((*split.train, *split.validation, *split.held_out)) == list(range(9))
    with pytest.raises(InputError, match="12 episodes with 9 for calibration leave 3"):
        kept_last(store, 9)
