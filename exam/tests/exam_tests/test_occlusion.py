from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import examine, logs_of, scores_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Grade, Verdict
from worldline.audit.queries import history_of
from worldline.audit.verdicts import verdict_of
from worldline.engines.fixed_lag import typical_values
from worldline_exam.base import Pool
from worldline_exam.exam_tests.occlusion import CURRICULUM, HISTORY, MEMORY, OcclusionOracle, OcclusionTest
from worldline_exam.self_check import Examined

SMALL = OcclusionTest(pool=Pool.DEVELOPMENT, num_scenes=30, num_episodes=40)


@cache
def examined() -> Examined:
    return examine(SMALL, 0, 40)


def regraded(**changed: np.ndarray) -> Grade:
    found = examined()
    return SMALL.grade(found.scenes, {**found.references.oracle, **changed}, found.references)


def value(grade: Grade, gap: int) -> float:
    return scores_of(grade)[f"hidden {gap} frames"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("pool", list(Pool))
def test_it_holds_at_full_size(pool: Pool, seed: int) -> None:
    found = examine(OcclusionTest(pool=pool), seed, 300)
    assert (found.flaws, verdict_of(found.oracle)) == ((), Verdict.PASS)
    assert [one.name for one in found.oracle.cells if one.score is None] == ["lying still"]
    for name, grade in found.must_fail.items():
        assert verdict_of(grade) is not Verdict.PASS
        assert value(grade, 40) < 0.25, name
        assert not all(condition.met for condition in grade.conditions)
    forgetful = found.must_fail["memory of 24 frames"]
    assert [round(value(forgetful, gap), 3) for gap in (5, 10, 20)] == [1, 1, 1]


def test_it_holds_when_small() -> None:
    found = examined()
    assert (found.flaws, verdict_of(found.oracle)) == ((), Verdict.PASS)


def test_scenes_end_one_frame_before_it_comes_out() -> None:
    one = SMALL.generate(3)
    history = history_of(one)
    seen = history.observed["puck_position"]
    assert seen.shape == (5 * 30, HISTORY)
    np.testing.assert_array_equal((~seen).sum(1), one["gap"])
    assert not seen[:, -1].any()
    np.testing.assert_array_equal(history.observations["puck_position"][seen], one["truth.path"][:, :HISTORY][seen])
    assert not history.observations["puck_position"][~seen].any()


def test_what_is_hidden_is_not_given_away() -> None:
    """Whatever stands where nothing was observed, the answers are the same."""
    scenes = dict(examined().scenes)
    name = "history.observations.puck_position"
    seen = scenes["history.observed.puck_position"].astype(bool)
    scenes[name] = np.where(seen[..., None], scenes[name], 7.0).astype(np.float32)
    found = SMALL.ask({CURRICULUM: as_world(OcclusionOracle(lab=SMALL.make_lab()))}, scenes)
    np.testing.assert_array_equal(found["position"], examined().references.oracle["position"])


def test_what_forgets_says_the_mean_of_the_logs_and_heeds_no_push() -> None:
    found = examined()
    short, right = (
        found.references.must_fail[f"memory of {MEMORY} frames"]["position"],
        found.references.oracle["position"],
    )
    gone = found.scenes["gap"] > MEMORY
    logs = logs_of(SMALL, 40)[CURRICULUM]
    mean = typical_values(logs, [SMALL.make_lab().schema["puck_position"]])["puck_position"]
    np.testing.assert_array_equal(short[gone], np.broadcast_to(mean, short[gone].shape))
    np.testing.assert_array_equal(short[~gone], right[~gone])


def test_swapped_axes_and_shuffled_scenes_fail() -> None:
    position = examined().references.oracle["position"]
    for wrong in (position[:, ::-1], np.roll(position, 1, axis=0), -position):
        grade = regraded(position=wrong)
        assert verdict_of(grade) is Verdict.FAIL
        assert value(grade, 5) < 0


def test_what_drifts_where_all_is_still_does_not_pass() -> None:
    scenes, position = examined().scenes, examined().references.oracle["position"]
    drifting = np.where(scenes["still"][:, None], position + 0.5, position)
    grade = regraded(position=drifting)
    assert all(condition.met for condition in grade.conditions)
    assert grade.cells[-1].note.endswith("worse")
    assert (verdict_of(grade), verdict_of(regraded())) == (Verdict.PARTIAL, Verdict.PASS)
