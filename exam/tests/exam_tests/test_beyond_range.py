from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from exam.tests import grading
from exam.tests.grading import scores_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Grade
from worldline.audit.queries import history_of
from worldline.audit.verdicts import verdict_of, weakest
from worldline.engines.baselines import Linear
from worldline.episode import Arrays, Episode
from worldline_exam.base import Pool
from worldline_exam.exam_tests.beyond_range import (
    CELLS,
    CLIPPED,
    COLLISIONS,
    COPY,
    HISTORY,
    PASSES,
    POSITIONS,
    PUBLISHED_ERROR_RATIO,
    REBOUND,
    STICKS,
    UNIFORM,
    BeyondRangeTest,
)
from worldline_exam.labs.collision import Collision
from worldline_exam.labs.parabola import FAST, SLOW, STRONG
from worldline_exam.self_check import Examined, examine


@cache
def logs_of(pool: Pool) -> Mapping[str, Sequence[Episode]]:
    return grading.logs_of(BeyondRangeTest(pool=pool), 100, 30)


def test_worlds_that_look_back_on_eight_observations_have_bands_for_what_is_asked() -> None:
    test = BeyondRangeTest()
    assert test.num_steps <= min(one.num_steps for one in test.datasets()) - 8 + 1


@pytest.fixture(scope="module")
def examined() -> Examined:
    test = BeyondRangeTest()
    return examine(test, 0, logs_of(test.pool))


def scores(examined: Examined, answers: Arrays) -> dict[str, float]:
    return scores_of(BeyondRangeTest().grade(examined.scenes, answers, examined.references))


def figures(grade: Grade, kind: str) -> Mapping[str, float]:
    """Raw figures of what decides."""
    return next(cell.raw for cell in grade.cells if cell.name == f"{kind} outside")


def test_the_oracle_passes_and_what_copies_fails_outside_alone(examined: Examined) -> None:
    assert (examined.flaws, verdict_of(examined.oracle)) == ((), "PASS")
    copy, clipped = (examined.must_fail[name] for name in (COPY, CLIPPED))
    for kind in CELLS:
        assert figures(copy, kind)["skill_inside"] > 0.6
        assert figures(copy, kind)["times_inside"] > 3
        assert figures(copy, kind)["times_inside_published"] == pytest.approx(PUBLISHED_ERROR_RATIO, abs=1e-5)
        assert figures(clipped, kind)["skill_unseen"] > 0.999
    for grade in (copy, clipped):
        assert verdict_of(grade) == "FAIL"
        assert all(condition.met for condition in grade.conditions)
        assert all(cell.score.value < 0.2 for cell in grade.cells if cell.score is not None)
    assert COPY not in examined.references.floor_name


@pytest.mark.parametrize("name", [STICKS, PASSES, REBOUND])
def test_who_is_wrong_about_contacts_alone_fails_by_the_collision(examined: Examined, name: str) -> None:
    """Its throws are right, and so is its motion before and without a contact."""
    grade = examined.must_fail[name]
    found = {cell.name: cell.score for cell in grade.cells}
    headline = weakest(grade)
    assert headline is not None
    assert headline.name == "collision outside"
    assert verdict_of(grade) == "FAIL"
    parabola, collision = found["parabola outside"], found["collision outside"]
    assert parabola is not None
    assert collision is not None
    assert parabola.low == 1
    assert collision.value <= 0
    assert next(cell for cell in grade.cells if cell.name == f"collision {UNIFORM}").score is None
    if name != REBOUND:
        assert collision.high < -2


def test_the_floor_of_the_collision_knows_rebounds_at_logged_speeds(examined: Examined) -> None:
    assert f"collision outside: {REBOUND}" in examined.references.floor_name
    assert examined.references.floor_name.count(REBOUND) == 1


def test_a_straight_line_knows_throws_and_no_contact(examined: Examined) -> None:
    """What falls is linear in what is seen and done; so no headline may rest on it alone."""
    test = BeyondRangeTest()
    labs, logs = {one.name: one.make_lab() for one in test.datasets()}, logs_of(test.pool)
    worlds = {name: as_world(Linear.fit(logs[name], lab.schema, context=3)) for name, lab in labs.items()}
    found = scores(examined, test.ask(worlds, examined.scenes))
    assert found["parabola outside"] > 0.99
    assert found["collision outside"] < -2


@pytest.mark.parametrize("pool", list(Pool))
def test_contacts_are_over_in_what_is_graded(pool: Pool) -> None:
    test = BeyondRangeTest(pool=pool)
    scenes = test.generate(3)
    lab = next(one.make_lab() for one in test.datasets() if one.name.startswith("collision"))
    assert isinstance(lab, Collision)
    counted, cells = scenes["collision.counted"], scenes["collision.cell"]
    left, right = (scenes[f"collision.truth.{name}"][..., 0] for name in POSITIONS["collision"])
    assert (right - left)[counted].min() >= 2 * lab.radius
    assert counted[cells < len(COLLISIONS)].sum(1).min() >= 5
    assert counted[cells == len(COLLISIONS)].all()
    assert scenes["parabola.counted"].all()
    # Balls that part keep their speed, but for the push.
    rates = np.diff(left, axis=1)[:, -4:] / 0.05
    assert np.ptp(rates, axis=1).max() < 0.1
    # No longer than what follows a history in the logs.
    assert test.num_steps + HISTORY - 1 <= min(one.num_steps for one in test.datasets())


def test_who_has_not_learned_what_was_logged_does_not_pass(examined: Examined) -> None:
    """Right outside, and at rest inside."""
    answers = dict(examined.references.oracle)
    for kind, names in POSITIONS.items():
        inside = examined.scenes[f"{kind}.cell"] == CELLS[kind].index("inside")
        seen = history_of(examined.scenes, f"{kind}.history").observations
        for name in names:
            still = np.broadcast_to(seen[name][:, -1:], answers[f"{kind}.{name}"].shape)
            answers[f"{kind}.{name}"] = np.where(inside[:, None, None], still, answers[f"{kind}.{name}"])
    grade = BeyondRangeTest().grade(examined.scenes, answers, examined.references)
    assert [condition.met for condition in grade.conditions] == [False, False]
    assert min(cell.score.low for cell in grade.cells if cell.score is not None) == 1
    assert (verdict_of(grade), figures(grade, "collision")["skill_gap"]) == ("PARTIAL", 1)


def test_faults_are_noticed(examined: Examined) -> None:
    truth = examined.references.oracle
    late = {name: np.concatenate([value[:, :1], value[:, :-1]], 1) for name, value in truth.items()}
    swapped = {**truth, "collision.left_position": truth["collision.right_position"]}
    other = {name: value[np.random.default_rng(0).permutation(len(value))] for name, value in truth.items()}
    for answers in (late, swapped, other):
        assert min(scores(examined, answers).values()) < 0.9
    assert min(scores(examined, other).values()) < 0
    assert max(scores(examined, late).values()) < 0.9


def test_scenes_are_where_they_say_and_stay_in_the_field_of_the_logs(examined: Examined) -> None:
    scenes, logs = examined.scenes, logs_of(Pool.REPORT)
    throw = history_of(scenes, "parabola.history").observations
    number = scenes["parabola.cell"]
    speed, gravity = throw["ball_velocity"][:, 0, 0], throw["gravity"][:, 0, 0]
    outside, unseen = (number == CELLS["parabola"].index(name) for name in ("outside", "unseen"))
    assert speed[outside].min() >= 5
    assert speed[outside].max() <= 7
    assert (speed[unseen] >= FAST[0]).all()
    assert (gravity[unseen] >= STRONG[0]).all()
    meeting = history_of(scenes, "collision.history").observations
    left, right = meeting["left_velocity"][:, 0, 0], -meeting["right_velocity"][:, 0, 0]
    unseen = scenes["collision.cell"] == CELLS["collision"].index("unseen")
    assert (left[unseen] >= FAST[0]).all()
    assert (right[unseen] <= SLOW[1]).all()
    for kind, names in POSITIONS.items():
        logged = logs[f"{kind}-report"]
        for name in names:
            seen = np.concatenate([one.observations[name] for one in logged])
            asked = scenes[f"{kind}.truth.{name}"]
            asked = asked[scenes[f"{kind}.cell"] < len(COLLISIONS)]
            assert (asked.min((0, 1)) >= seen.min(0) - 0.5).all()
            assert (asked.max((0, 1)) <= seen.max(0) + 0.5).all()
