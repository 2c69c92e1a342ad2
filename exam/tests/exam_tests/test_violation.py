from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import POOLS, examine, scores_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.verdicts import verdict_of
from worldline.engines.base import Card, EngineBelief, Noise, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Future, History
from worldline.schema import Schema
from worldline_exam.base import Pool, References
from worldline_exam.exam_tests.violation import HORIZON, NUM_PUSHED, PARTS, SIGNALS, ViolationOfExpectationTest
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
    assert found.flaws == ()
    assert verdict_of(found.oracle) is Verdict.PASS
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


def test_the_brighter_outcome_is_the_nearer_one_to_what_was_last_seen() -> None:
    for pool in Pool:
        scenes = ViolationOfExpectationTest(pool=pool).generate(0)
        seen = scenes["immutability.history.observations.ball_brightness"][:, :, 0, 0].astype(float)
        late = scenes["immutability.truth.outcome"][:, :, -1].astype(float)
        for bright, dull in ((0, 1), (2, 3)):
            assert (np.abs(seen - late[:, [bright]]) < np.abs(seen - late[:, [dull]])).all()


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


def test_who_forgets_what_was_seen_before_the_screen_fails_there() -> None:
    """An oracle that is shown the last observation only."""
    test = ViolationOfExpectationTest(num_quadruplets=40)
    scenes, lab = test.generate(0), test.datasets()[0].make_lab()
    assert isinstance(lab, Occluder)
    short = {
        name: value[:, :, -1:] if ".history.observ" in name else value[:, :, :0] if ".actions." in name else value
        for name, value in scenes.items()
    }
    world = as_world(LabOracle(schema=lab.schema, law=lab.simulate))
    grade = test.grade(scenes, test.ask({"it": world}, short), NOTHING)
    values = scores_of(grade)
    assert values["permanence, pairs"] <= 0
    assert values["immutability, pairs"] <= 0
    assert values["solidity, both right"] == values["support, both right"] == 1


class Looks(NumpyEngine):
    """Keeps what it is shown, and predicts 0."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.shown = schema, list[History]()

    def describe(self) -> Card:
        return Card(
            name="looks", engine="looks", schema=self.schema, inputs=("camera",), predicts=SIGNALS, context=1,
            deterministic=True,
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        self.shown.append(steps)
        return None

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        lead = next(iter(future.actions.values())).shape[:3]
        shapes = {name: (*lead[:2], 1, lead[2], *self.schema[name].shape) for name in SIGNALS}
        return Samples(signals={name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


@pytest.mark.slow
def test_who_sees_pictures_gets_them_and_no_vectors() -> None:
    test = ViolationOfExpectationTest(num_quadruplets=4, pixels=True)
    engine = Looks(test.datasets()[0].make_lab().schema)
    answers = test.ask({test.datasets()[0].name: as_world(engine)}, test.generate(0))
    assert answers["support.surprise"].shape == (4, 4, 4, HORIZON)
    permanence = engine.shown[0].observations["camera"].astype(int).reshape(4, 4, 9, 64, 64, 3)
    assert (np.abs(permanence[:, 0, 0] - permanence[:, 1, 0]).sum((1, 2, 3)) > 1000).all()  # the wall is seen
    np.testing.assert_array_equal(permanence[:, 0, -1], permanence[:, 1, -1])  # and then it is not
