from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import POOLS, examine, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.audit.baselines import as_world
from worldline.audit.grades import Grade, Verdict
from worldline.audit.verdicts import verdict_of
from worldline.episode import Arrays
from worldline.world.base import World
from worldline_exam.base import Pool
from worldline_exam.exam_tests.energy import WorkAndEnergyTest
from worldline_exam.labs.driven import DAMPINGS
from worldline_exam.references.lab_oracle import oracle_of
from worldline_exam.scenes.driven import SYSTEMS, damped_by, lab_of
from worldline_exam.self_check import Examined


@cache
def examined(pool: Pool, seed: int) -> Examined:
    return examine(WorkAndEnergyTest(pool=pool), seed, 4, 8)


def graded(answers: Arrays, scenes: Arrays | None = None) -> Grade:
    one = examined(Pool.REPORT, 0)
    return WorkAndEnergyTest().grade(one.scenes if scenes is None else scenes, answers, one.references)


@pytest.mark.parametrize("pool", POOLS)
def test_the_oracle_holds_and_the_others_fail(pool: Pool) -> None:
    one = examined(pool, 0)
    assert (one.flaws, verdict_of(one.oracle)) == ((), Verdict.PASS)
    assert min(scores_of(one.oracle).values()) > 0.999
    assert all(verdict_of(grade) is not Verdict.PASS for grade in one.must_fail.values())
    # By their scores, not by the length of their path alone.
    assert max(scores_of(one.must_fail["persistence"]).values()) == 0
    blind, lazy = (scores_of(one.must_fail[name]) for name in ("no damping", "no work"))
    for system in SYSTEMS:
        assert blind[f"{system}, damping 0"] > 0.999
        assert blind[f"{system}, damping 0.2"] < 0.25
        assert blind[f"{system}, damping 0.8"] < -1
        assert lazy[f"{system}, damping 0"] < 1e-3
        assert lazy[f"{system}, damping 0.2"] < 0.25


def test_pushes_that_are_a_step_late_are_noticed() -> None:
    test, one = WorkAndEnergyTest(), examined(Pool.REPORT, 0)
    late = {k: np.roll(v, 1, axis=1) if ".future." in k else v for k, v in one.scenes.items()}
    worlds: dict[str, World] = {s: as_world(oracle_of(lab_of(s, Pool.REPORT))) for s in SYSTEMS}
    found, due = scores_of(graded(test.ask(worlds, late))), scores_of(one.oracle)
    assert all(found[name] < due[name] - 0.003 for name in due)
    assert min(found.values()) < 0.9


def test_energy_of_the_wrong_entity_is_noticed() -> None:
    one = examined(Pool.REPORT, 0)
    swapped = dict(one.references.oracle)
    for body, other in (("driven", "free"), ("free", "driven")):
        for part in ("position", "velocity"):
            swapped[f"two-bodies.{body}_{part}"] = 0.5 * one.references.oracle[f"two-bodies.{other}_{part}"]
    found = scores_of(graded(swapped))
    assert all(found[f"two-bodies, damping {damping:g}"] < 0.5 for damping in DAMPINGS)
    assert all(found[f"pendulum, damping {damping:g}"] > 0.999 for damping in DAMPINGS)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_answers_to_other_scenes_are_worth_nothing(seed: int) -> None:
    one = examined(Pool.REPORT, 0)
    order = np.random.default_rng(seed).permutation(len(one.references.oracle["pendulum.angle"]))
    assert verdict_of(graded({k: v[order] for k, v in one.references.oracle.items()})) is Verdict.FAIL


def test_right_energy_on_a_path_that_hardly_moves_does_not_pass() -> None:
    """The energy of pucks is in their velocities alone, so that it can be had without a path."""
    one = examined(Pool.REPORT, 0)
    still = {k: np.repeat(v[:, :1], v.shape[1], 1) if "position" in k else v for k, v in one.references.oracle.items()}
    grade = graded(still)
    assert scores_of(grade)["elastic-pucks, damping 0"] > 0.999
    assert [one.met for one in grade.conditions] == [True, False, False]  # an angle is no "position"
    assert verdict_of(grade) is not Verdict.PASS


def test_a_path_that_is_too_long_and_one_that_is_too_short_do_not_make_up_for_each_other() -> None:
    one = examined(Pool.REPORT, 0)
    stretch = np.select([damped_by(one.scenes, "elastic-pucks", one_of) for one_of in (0.0, 0.2)], [1.5, 0.6], 1.0)
    found = dict(one.references.oracle)
    for name in (name for name in found if name.startswith("elastic-pucks") and "position" in name):
        start = one.scenes[name.replace(".", ".history.observations.")][:, -1:]
        found[name] = start + stretch[:, None, None] * (found[name] - start)
    assert [condition.met for condition in graded(found).conditions] == [True, True, False]
