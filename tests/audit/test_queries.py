from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from worldline.audit import queries
from worldline.audit.baselines import as_world
from worldline.audit.queries import check_numbers, window_forecasts
from worldline.data.windows import evenly_spaced_windows
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.errors import NoGoodAnswerError, UnsupportedError
from worldline.labs.playing import explore
from worldline.registry import load, names
from worldline.world.base import World
from worldline.world.local import LocalWorld
from worldline_exam.base import ExamTest, Pool
from worldline_exam.exam_tests.counterfactual import CounterfactualTest
from worldline_exam.scenes.puck import NUM_STEPS, puck

SHOWN_WHOLE = {"C4", "T4"}
"""Tests that show a world whole episodes, and not histories, which have no seed."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Episode]:
    """The episodes that worlds are shown from now on."""
    found: list[Episode] = []

    def noting(verb: str) -> Any:
        asked = getattr(LocalWorld, verb)

        def note(self: LocalWorld, episode: Episode, *rest: Any) -> Any:
            found.append(episode)
            return asked(self, episode, *rest)

        return note

    for verb in ("what_if", "surprise"):
        monkeypatch.setattr(LocalWorld, verb, noting(verb))
    return found


def smallest(code: str) -> ExamTest:
    test: ExamTest = load("test", code)(pool=Pool.DEVELOPMENT)
    counted = [one.name for one in fields(test) if one.name in test.paid]
    few: dict[str, Any] = {name: test.paid[name] for name in counted}
    return replace(test, **few)


def lines_of(test: ExamTest) -> dict[str, World]:
    """Least squares of two episodes of each curriculum."""
    labs = {one.name: (one.make_lab(), one.num_steps) for one in test.datasets()}
    return {
        name: as_world(Linear.fit([explore(lab, n, steps) for n in range(2)], lab.schema))
        for name, (lab, steps) in labs.items()
    }


@pytest.mark.parametrize(
    "code", [pytest.param(code, marks=() if code in SHOWN_WHOLE else pytest.mark.slow) for code in names("test")]
)
def test_no_world_is_told_the_seed_of_a_scene(code: str, shown: list[Episode]) -> None:
    """It fixes what is hidden and drawn: who can build the lab could replay the answer."""
    test = smallest(code)
    worlds = lines_of(test)
    with suppress(UnsupportedError):  # what is not calibrated says so once it has been shown the episode
        test.ask(worlds, test.generate(5))
    assert all(episode.seed is None for episode in shown)
    assert bool(shown) == (code in SHOWN_WHOLE)


@pytest.mark.parametrize(("code", "says"), [("C1", math.nan), ("P3", math.nan), ("T4", math.inf)])
def test_what_is_no_number_is_an_error_and_no_grade(code: str, says: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score of it would be that of something else, or a p-value like any other."""
    said = Linear.path
    monkeypatch.setattr(Linear, "path", lambda *asked: {name: value * says for name, value in said(*asked).items()})
    test = smallest(code)
    with pytest.raises(NoGoodAnswerError, match=r"predicts NaN or infinity|returned (nan|-?inf) for"):
        test.ask(lines_of(test), test.generate(5))


def test_an_answer_of_another_shape_is_an_error() -> None:
    world = as_world(Linear.fit([explore(puck(Pool.REPORT), n, 20) for n in range(2)], puck(Pool.REPORT).schema))
    with pytest.raises(NoGoodAnswerError, match=r"expected shape \(5, 20, 2\) for puck_position, got \(5, 1, 2\)"):
        check_numbers(world, {"puck_position": np.zeros((5, 1, 2))}, {"push": np.zeros((5, 20, 2))})


def test_the_oracle_of_counterfactuals_is_told(shown: list[Episode]) -> None:
    test = CounterfactualTest(pool=Pool.DEVELOPMENT, num_scenes=10)
    scenes, lab = test.generate(5), puck(Pool.DEVELOPMENT)
    logs = [explore(lab, n, NUM_STEPS) for n in range(8)]
    references = test.references(scenes, scenes, {"logs": logs})
    assert {int(seed) for seed in scenes["seed"]} <= {one.seed for one in shown}
    np.testing.assert_allclose(references.oracle["path.puck_position"], scenes["truth.puck_position"], atol=1e-4)


def test_batches_of_windows_change_nothing(
    episodes: list[Episode], worlds: Mapping[str, Callable[..., World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = evenly_spaced_windows(episodes, length=2, horizon=5, per_episode=3)
    world = worlds["error_by_episode"](lambda level: level)
    whole = window_forecasts(world, windows)["place"]
    monkeypatch.setattr(queries, "WINDOW_BATCH", 7)
    parts = window_forecasts(world, windows)["place"]
    for name in ("mean", "low", "high", "horizon"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert whole.mean.shape == (30, 5, 2)
