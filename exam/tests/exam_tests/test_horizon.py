from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import POOLS, examine, logs_of, scores_of

from worldline.audit.baselines import as_world, bank
from worldline.audit.grades import Grade, Verdict
from worldline.audit.verdicts import verdict_of
from worldline.episode import Arrays
from worldline.world.base import World
from worldline_exam.base import Pool
from worldline_exam.exam_tests.horizon import TrustedHorizonTest
from worldline_exam.labs.driven import DAMPINGS
from worldline_exam.references.lab_oracle import oracle_of
from worldline_exam.scenes.driven import SYSTEMS, lab_of
from worldline_exam.self_check import Examined

SCENES = 30


@cache
def examined(pool: Pool, seed: int, num_scenes: int = SCENES) -> Examined:
    return examine(TrustedHorizonTest(pool=pool, num_scenes=num_scenes), seed, 15, 40)


def graded(answers: Arrays) -> Grade:
    one = examined(Pool.REPORT, 0)
    return TrustedHorizonTest(num_scenes=SCENES).grade(one.scenes, answers, one.references)


@pytest.mark.parametrize("pool", POOLS)
def test_the_oracle_holds_and_the_others_fail(pool: Pool) -> None:
    one = examined(pool, 0)
    assert (one.flaws, verdict_of(one.oracle)) == ((), Verdict.PASS)
    assert min(scores_of(one.oracle).values()) > 0.999
    assert list(one.must_fail) == ["persistence", "constant velocity"]
    for grade in one.must_fail.values():
        assert verdict_of(grade) is Verdict.FAIL
        assert max(scores_of(grade).values()) < 0


def test_the_floor_is_no_worse_than_any_member_where_it_was_chosen() -> None:
    """At every step of every cell, though no member is the best at all of them."""
    test = TrustedHorizonTest(num_scenes=24, num_steps=12)
    logs = logs_of(test, 15, 30)
    scenes = test.generate(0)
    references = test.references(scenes, scenes, logs)
    banks = {system: bank(logs[system], test.lab(system).schema) for system in SYSTEMS}
    members = {name: test.ask({s: banks[s][name] for s in SYSTEMS}, scenes) for name in banks["pendulum"]}
    always = set(members)
    for system in SYSTEMS:
        for damping in DAMPINGS:
            floor = test._error(scenes, references.floor, system, damping).mean(0)
            for name, answers in members.items():
                loss = test._error(scenes, answers, system, damping).mean(0)
                assert (floor <= loss).all(), (system, damping, name)
                if (floor < loss).any():
                    always.discard(name)
    assert not always
    assert "action-blind" in references.floor_name


def test_the_horizon_is_where_a_twin_is_lost() -> None:
    """A twin that is the truth for ten steps and elsewhere afterwards; and one that never leaves."""
    one, test = examined(Pool.REPORT, 0), TrustedHorizonTest(num_scenes=SCENES)
    scenes = dict(one.scenes)
    for key in list(scenes):
        if ".twin." in key:
            scenes[key] = one.scenes[key.replace(".twin.", ".truth.")].copy()
    assert test.horizon(scenes, "pendulum", 0.2) == 100
    for key in ("pendulum.twin.angle", "pendulum.twin.angular_velocity"):
        scenes[key][:, 10:] += 5.0
    assert test.horizon(scenes, "pendulum", 0.2) == 11
    cell = test.grade(scenes, one.references.oracle, one.references).cells[1]
    assert cell.raw["horizon"] == 11


def test_a_known_share_of_the_floors_error_is_a_known_score() -> None:
    """Answers between the truth and the floor: the square of the share is what is missing."""
    one = examined(Pool.REPORT, 0)
    between = {key: 0.5 * value + 0.5 * one.references.oracle[key] for key, value in one.references.floor.items()}
    np.testing.assert_allclose(list(scores_of(graded(between)).values()), 0.75, atol=1e-3)


def test_pushes_that_are_a_step_late_are_noticed() -> None:
    test, one = TrustedHorizonTest(num_scenes=SCENES), examined(Pool.REPORT, 0)
    late = {k: np.roll(v, 1, axis=1) if ".future." in k else v for k, v in one.scenes.items()}
    worlds: dict[str, World] = {s: as_world(oracle_of(lab_of(s, Pool.REPORT))) for s in SYSTEMS}
    found = scores_of(graded(test.ask(worlds, late)))
    assert all(value < 0.985 for value in found.values())
    assert min(found.values()) < 0.8


@pytest.mark.parametrize("wrong", [50.0, np.nan])
def test_a_step_that_is_not_scored_may_not_be_worse(wrong: float) -> None:
    """The first steps, at which standing still is nearly right."""
    one = examined(Pool.REPORT, 0)
    good = {name: value.copy() for name, value in one.references.oracle.items()}
    assert graded(good).conditions[0].met
    spoiled = {name: value.copy() for name, value in good.items()}
    spoiled["pendulum.angular_velocity"][:, 0] += wrong
    grade = graded(spoiled)
    assert not grade.conditions[0].met
    assert "pendulum" in grade.conditions[0].found
    assert verdict_of(grade) is not Verdict.PASS
