from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import POOLS, examine, scores_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.verdicts import verdict_of
from worldline_exam.base import Pool, References
from worldline_exam.exam_tests.violation import HORIZON, NUM_PUSHED, PARTS, ViolationOfExpectationTest
from worldline_exam.labs.occluder import Occluder
from worldline_exam.references.lab_oracle import LabOracle
from worldline_exam.self_check import Examined

NOTHING = References(oracle={}, must_fail={})


@cache
def examined(pool: Pool, seed: int) -> Examined:
    return examine(ViolationOfExpectationTest(pool=pool), seed, 60)


@pytest.mark.parametrize("pool", POOLS)
def test_the_oracle_holds_and_models_that_must_fail_do(pool: Pool) -> None:
    found = examined(pool, 0)
    assert (found.flaws, verdict_of(found.oracle)) == ((), Verdict.PASS)
    assert all(cell.score is not None and cell.score.low == 1 for cell in found.oracle.cells)
    for name, grade in found.must_fail.items():
        assert verdict_of(grade) is Verdict.FAIL, name
        scores = scores_of(grade)
        assert max(scores.values()) <= 0.1, (name, scores)
        assert max(value for cell, value in scores.items() if cell.endswith("right")) <= -0.2, name


@pytest.mark.parametrize("pool", list(Pool))
def test_a_cue_has_one_past_and_two_outcomes(pool: Pool) -> None:
    scenes = ViolationOfExpectationTest(pool=pool).generate(3)
    cues = {"permanence": "wall", "solidity": "door", "support": "pit", "immutability": "ball_brightness"}
    for part in PARTS:
        for name, value in scenes.items():
            if name.startswith(f"{part.name}.history.") and not name.endswith(cues[part.name]):
                np.testing.assert_array_equal(value[:, ::2], value[:, 1::2], err_msg=name)
        cue = scenes[f"{part.name}.history.observations.{cues[part.name]}"]
        assert (np.abs(cue[:, ::2, 0] - cue[:, 1::2, 0]) > 0.1).all()
        outcome = scenes[f"{part.name}.truth.outcome"]
        assert outcome.shape == (100, 4, HORIZON)
        assert (np.abs(outcome[:, ::2] - outcome[:, 1::2]) > 0.05).sum(-1).min() >= 2
    assert not scenes["permanence.history.observed.ball_position"][:, :, -1].any()
    assert not scenes["permanence.history.observed.wall"][:, :, -1].any()
    assert scenes["permanence.history.observed.wall"][:, :, 0].all()
    assert not scenes["immutability.history.observed.ball_brightness"][:, :, -1].any()


@pytest.mark.parametrize("pool", list(Pool))
def test_a_push_has_one_first_sight_and_two_times(pool: Pool) -> None:
    """Pushed on or held back after the first observation: no function of that is right about both."""
    scenes = ViolationOfExpectationTest(pool=pool).generate(3)
    events = {"permanence": [0], "solidity": [0, 1], "support": [1], "immutability": [0, 1]}
    for part in PARTS:
        for name, value in scenes.items():
            if name.startswith(f"{part.name}.history.observ"):
                before = part.length - NUM_PUSHED
                np.testing.assert_array_equal(value[:, :2, :before], value[:, 2:, :before], err_msg=name)
        pushes = scenes[f"{part.name}.history.actions.push"]
        np.testing.assert_array_equal(pushes[:, :2], -pushes[:, 2:])
        outcome = scenes[f"{part.name}.truth.outcome"]
        for cue in events[part.name]:
            assert (np.abs(outcome[:, cue] - outcome[:, cue + 2]) > 0.05).sum(-1).min() >= 2, part.name


def test_whoever_sees_the_first_observation_alone_fails_in_every_part() -> None:
    """Even who answers for each frame of its own, and knows the law: the oracle without the pushes."""
    test = ViolationOfExpectationTest(num_quadruplets=40)
    scenes, lab = test.generate(0), test.datasets()[0].make_lab()
    assert isinstance(lab, Occluder)
    alone = {name: np.zeros_like(value) if ".actions." in name else value for name, value in scenes.items()}
    for name, value in scenes.items():
        part, _, signal = name.partition(".history.observations.")
        if signal:
            first = np.arange(value.shape[2]) == 0
            alone[f"{part}.history.observed.{signal}"] = np.broadcast_to(first, value.shape[:3])
    world = as_world(LabOracle(schema=lab.schema, law=lab.simulate))
    grade = test.grade(scenes, test.ask({"it": world}, alone), NOTHING)
    assert max(scores_of(grade).values()) <= 0


@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("name", ["permanence", "immutability"])
def test_no_constant_answer_is_right_whatever_it_knows(pool: Pool, name: str) -> None:
    """Not even the best one for each context: held back, it comes out later, and that is between the others."""
    test = ViolationOfExpectationTest(pool=pool, num_quadruplets=20)
    scenes = test.generate(0)
    truth = scenes[f"{name}.truth.outcome"].astype(float)
    right = np.zeros(truth.shape[:2])
    for constant in np.linspace(-1.003, 2.003, 601):
        surprise = np.repeat(((constant - truth[:, None]) ** 2).sum(-1), 4, 1)
        other = (truth[:, :, None] != truth[:, None]).any(-1)
        impossible = np.where(other, surprise, np.inf).min(2)
        right = np.maximum(right, np.diagonal(surprise, axis1=1, axis2=2) < impossible - 1e-6)
    assert (right.mean(0) == [1, 1, 0, 1]).all()


def test_wrong_answers_are_noticed() -> None:
    """Cues exchanged, pushes exchanged, one answer to both cues, none: each loses."""
    found, test = examined(Pool.REPORT, 0), ViolationOfExpectationTest()
    good = found.references.oracle
    exchanged = {name: value[:, [1, 0, 3, 2]] for name, value in good.items()}
    untimely = {name: value[:, [2, 3, 0, 1]] for name, value in good.items()}
    blind = {name: value[:, [0, 0, 2, 2]] for name, value in good.items()}
    for answers, of_pairs in ((exchanged, -1), (blind, 0)):
        for name, value in scores_of(test.grade(found.scenes, answers, NOTHING)).items():
            assert value == pytest.approx(of_pairs if name.endswith("pairs") else -1 / 3, abs=1e-6)
    assert max(scores_of(test.grade(found.scenes, untimely, NOTHING)).values()) <= 0
    level = {name: np.zeros_like(value) for name, value in good.items()}
    assert verdict_of(test.grade(found.scenes, level, NOTHING)) is Verdict.FAIL  # all ties
    lost = {name: np.full_like(value, np.nan) for name, value in good.items()}
    assert verdict_of(test.grade(found.scenes, lost, NOTHING)) is Verdict.FAIL
