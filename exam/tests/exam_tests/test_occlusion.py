from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from exam.tests.grading import examine, logs_of, scores_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Grade, Verdict
from worldline.audit.queries import history_of
from worldline.audit.verdicts import verdict_of
from worldline.engines.fixed_lag import typical_values
from worldline.episode import History
from worldline.world.local import LocalWorld
from worldline_exam.base import Pool
from worldline_exam.exam_tests.occlusion import CURRICULUM, HISTORY, MEMORY, OcclusionOracle, OcclusionTest
from worldline_exam.labs.hidden_mover import GAPS
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
    assert found.flaws == ()
    assert verdict_of(found.oracle) is Verdict.PASS
    assert [one.name for one in found.oracle.cells if one.score is None] == ["lying still"]
    for name, grade in found.must_fail.items():
        assert verdict_of(grade) is not Verdict.PASS
        assert value(grade, 40) < 0.25, name
        assert not all(condition.met for condition in grade.conditions)
    forgetful = found.must_fail["memory of 24 frames"]
    assert [round(value(forgetful, gap), 3) for gap in (5, 10, 20)] == [1, 1, 1]


def test_it_holds_when_small() -> None:
    found = examined()
    assert found.flaws == ()
    assert verdict_of(found.oracle) is Verdict.PASS


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


class LatePushes(LocalWorld):
    """A harness that hands over each push one frame late."""

    def predict(self, history: History, *arguments: object, **options: object) -> object:
        """With the pushes of the history shifted."""
        late = {name: np.roll(done, 1, axis=1) for name, done in history.actions.items()}
        return super().predict(replace(history, actions=late), *arguments, **options)


def test_pushes_that_come_one_frame_late_are_noticed() -> None:
    found, right = examined(), as_world(OcclusionOracle(lab=SMALL.make_lab()))
    late = LatePushes(right.engine, None, right.planner)
    grade = SMALL.grade(found.scenes, SMALL.ask({CURRICULUM: late}, found.scenes), found.references)
    for gap in GAPS:
        (score,) = (cell.score for cell in grade.cells if cell.name == f"hidden {gap} frames")
        assert score is not None
        assert score.high < 0.998
        assert value(found.oracle, gap) > 0.9999


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


def test_half_of_the_way_has_skill_and_no_pass() -> None:
    scenes, position = examined().scenes, examined().references.oracle["position"]
    last = scenes["truth.path"][np.arange(len(position)), HISTORY - 1 - scenes["gap"]]
    grade = regraded(position=(position + last) / 2)
    assert 0.7 < value(grade, 10) < 0.8
    assert not any(condition.met for condition in grade.conditions)
    assert verdict_of(grade) is Verdict.PARTIAL


def test_what_drifts_where_all_is_still_does_not_pass() -> None:
    scenes, position = examined().scenes, examined().references.oracle["position"]
    drifting = np.where(scenes["still"][:, None], position + 0.5, position)
    grade = regraded(position=drifting)
    assert all(condition.met for condition in grade.conditions)
    assert grade.cells[-1].note.endswith("worse")
    assert verdict_of(grade) is Verdict.PARTIAL
    assert verdict_of(regraded()) is Verdict.PASS
