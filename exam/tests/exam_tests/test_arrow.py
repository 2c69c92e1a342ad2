from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from exam.tests import grading

from worldline.audit.baselines import as_world
from worldline.audit.grades import Cell, Verdict
from worldline.audit.verdicts import verdict_of
from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.errors import InputError
from worldline_exam.base import Pool, References
from worldline_exam.exam_tests.arrow import TABLES, ArrowOfTimeTest
from worldline_exam.self_check import Examined, examine

NOTHING = References(oracle={}, must_fail={})
SMALL = ArrowOfTimeTest(num_pairs=20)


@cache
def logs_of(pool: Pool, pixels: bool) -> Mapping[str, Sequence[Episode]]:
    """By the names of the exam; in pictures without any, which no reference looks at."""
    names = [one.name for one in ArrowOfTimeTest(pool=pool, pixels=pixels).datasets()]
    return dict(zip(names, grading.logs_of(ArrowOfTimeTest(pool=pool), 40).values(), strict=True))


@cache
def small() -> Examined:
    return grading.examine(SMALL, 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("pixels", [False, True])
def test_the_oracle_holds_and_models_that_must_fail_do(pool: Pool, seed: int, pixels: bool) -> None:
    """In pictures too, where another question is asked."""
    found = examine(ArrowOfTimeTest(pool=pool, pixels=pixels), seed, logs_of(pool, pixels))
    assert (found.flaws, verdict_of(found.oracle)) == ((), Verdict.PASS)
    for name, grade in found.must_fail.items():
        assert verdict_of(grade) is Verdict.FAIL, name


def test_it_holds_in_small_too() -> None:
    oracle, *_ = small().oracle.cells
    assert grading.score_of(small().oracle).value > 0.85
    assert oracle.raw["told_frictionless"] < 0.25
    for name, grade in small().must_fail.items():
        assert verdict_of(grade) is Verdict.FAIL, name


def test_only_friction_slows_the_balls_down() -> None:
    one = ArrowOfTimeTest(num_pairs=10).generate(0)
    speed = np.linalg.norm(one["dissipative.red_velocity"], axis=-1).mean(0)
    assert speed[-1] < 0.7 * speed[0]
    speed = np.linalg.norm(one["frictionless.red_velocity"], axis=-1).mean(0)
    np.testing.assert_allclose(speed[-1], speed[0], rtol=0.05)


def test_wrong_answers_are_noticed() -> None:
    good, scenes = dict(small().references.oracle), small().scenes

    def score(answers: Mapping[str, np.ndarray]) -> float:
        return grading.score_of(SMALL.grade(scenes, answers, NOTHING)).value

    ways = {"forward": "backward", "backward": "forward"}
    exchanged = {f"{t}.{way}": good[f"{t}.{ways[way]}"] for t in TABLES for way in ways}
    assert score(exchanged) < -0.85
    half = {name: exchanged[name] if name.startswith("dissipative") else value for name, value in good.items()}
    assert score(half) < -0.85
    arrow_where_none_is = {
        **good,
        **{name.replace("dissipative", "frictionless"): v for name, v in good.items() if name.startswith("diss")},
    }
    assert score(arrow_where_none_is) < 0.1
    rng = np.random.default_rng(0)
    shuffled = {name: rng.permuted(value, axis=0) for name, value in good.items()}
    assert score(shuffled) < score(good)
    level = {name: np.ones_like(value) for name, value in good.items()}
    assert score(level) == 0


def test_not_telling_gains_nothing() -> None:
    """Where there is an arrow it costs half of a hit; where there is none it is the right answer, and no more."""
    good, scenes = small().references.oracle, small().scenes
    level = {name: np.ones_like(value) for name, value in good.items()}

    def graded(prefix: str) -> Cell:
        mixed = {name: value if name.startswith(prefix) else level[name] for name, value in good.items()}
        return SMALL.grade(scenes, mixed, NOTHING).cells[0]

    silent, mute = graded("dissipative"), graded("frictionless")
    assert silent.score is not None
    assert silent.score.value == pytest.approx(2 * silent.raw["acc_dissipative"] - 1, abs=1e-6)
    assert mute.score is not None
    assert mute.score.value <= 0
    assert 0.25 < mute.raw["forced_acc_frictionless"] < 0.75
    assert silent.raw["forced_acc_dissipative"] >= silent.raw["acc_dissipative"]


def test_a_world_for_each_table_is_needed() -> None:
    (first, *_) = SMALL.datasets()
    with pytest.raises(InputError, match="frictionless"):
        SMALL.ask({first.name: as_world(Persistence.fit([], first.make_lab().schema))}, small().scenes)
