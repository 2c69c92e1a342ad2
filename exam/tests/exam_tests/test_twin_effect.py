from __future__ import annotations

import numpy as np
import pytest
from exam.tests.altered import Altered
from exam.tests.grading import examine, score_of, scores_of
from numpy.typing import NDArray

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.queries import unpacked
from worldline.audit.verdicts import verdict_of
from worldline.engines.base import Engine
from worldline.episode import Arrays
from worldline.labs.playing import replay
from worldline_exam.base import Pool, References
from worldline_exam.exam_tests.twin_effect import MIN_EFFECT, PARTS, TwinEffectTest
from worldline_exam.labs.pusher_block import STATE
from worldline_exam.references.lab_oracle import oracle_of
from worldline_exam.scenes.pusher import HISTORY, make_lab
from worldline_exam.self_check import Examined

SMALL = TwinEffectTest(num_scenes=20, num_branches=4, num_steps=12)
NOTHING = References(oracle={}, must_fail={})


def asked(test: TwinEffectTest, engine: Engine, scenes: Arrays) -> Arrays:
    return test.ask({test.datasets()[0].name: as_world(engine)}, scenes)


@pytest.fixture(scope="module")
def small() -> Examined:
    return examine(SMALL, 5, 12, 30)


def values(test: TwinEffectTest, scenes: Arrays, answers: Arrays) -> dict[str, float]:
    return scores_of(test.grade(scenes, answers, NOTHING))


def own(scenes: Arrays, times: float, offset: float = 0.0) -> dict[str, NDArray[np.floating]]:
    """The truth, what each branch has of its own multiplied."""
    truth = unpacked(scenes, "truth")
    means = {name: value.astype(float).mean(1, keepdims=True) for name, value in truth.items()}
    return {name: means[name] + offset + times * (value - means[name]) for name, value in truth.items()}


@pytest.mark.parametrize(("times", "due"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.75), (-1.0, -3.0)])
def test_reference_points(small: Examined, times: float, due: float) -> None:
    """Right, none, half, opposite; an error that all branches share is not held against a world."""
    for offset in (0.0, 0.3):
        found = values(SMALL, small.scenes, own(small.scenes, times, offset))
        assert found == pytest.approx(dict.fromkeys(PARTS, due), abs=1e-5)


def test_the_small_test_holds(small: Examined) -> None:
    assert small.flaws == ()
    assert values(SMALL, small.scenes, small.references.oracle) == dict.fromkeys(PARTS, 1.0)
    must_fail = {name: values(SMALL, small.scenes, said) for name, said in small.references.must_fail.items()}
    assert must_fail["action-blind"] == pytest.approx(dict.fromkeys(PARTS, 0.0), abs=1e-6)
    assert must_fail["block never moves"] == {"pusher": 1.0, "block": 0.0}
    assert max(must_fail["shuffled action"].values()) < -0.1
    assert all(verdict_of(grade) is Verdict.FAIL for grade in small.must_fail.values())


def test_scenes_are_as_they_say(small: Examined) -> None:
    scenes = small.scenes
    assert scenes["touching"].mean() == 0.5
    assert scenes["history.observations.block_position"].shape == (20, HISTORY, 2)
    assert scenes["truth.block_angle"].shape == scenes["actions.velocity"].shape == (20, 4, 12, 2)
    for name in ("truth.pusher_position", "truth.block_position"):
        away = scenes[name].astype(float) - scenes[name].astype(float).mean(1, keepdims=True)
        assert (np.sqrt((away**2).sum(-1).mean((1, 2))) > MIN_EFFECT - 1e-6).all()


def test_twins_are_the_labs_own_by_replay_from_the_seed(small: Examined) -> None:
    lab, scenes = make_lab(Pool.REPORT), small.scenes
    for scene in (0, 13):
        for branch in (0, 3):
            done = np.concatenate([scenes["prelude"][scene], scenes["actions.velocity"][scene, branch]])
            path = replay(lab, int(scenes["seed"][scene]), {"velocity": done}).observations
            for name in STATE:
                shown, truth = scenes[f"history.observations.{name}"], scenes[f"truth.{name}"]
                np.testing.assert_array_equal(path[name][:-12][-HISTORY:], shown[scene])
                np.testing.assert_array_equal(path[name][-12:], truth[scene, branch])


def test_planted_faults_are_noticed(small: Examined) -> None:
    lab, scenes = make_lab(Pool.REPORT), small.scenes
    for by in (1, -1):
        late = asked(SMALL, Altered(inner=oracle_of(lab), by=by), scenes)
        # Headings drift slowly, so a step costs little; but the oracle is exact.
        assert max(values(SMALL, scenes, late).values()) < 0.9995
    right = dict(small.references.oracle)
    swapped = {**right, "pusher_position": right["block_position"], "block_position": right["pusher_position"]}
    shuffled = {name: np.roll(value, 1, 0) for name, value in right.items()}
    branches = {name: np.roll(value, 1, 1) for name, value in right.items()}
    for faulty in (swapped, shuffled, branches):
        assert score_of(SMALL.grade(scenes, faulty, NOTHING)).high < 0
