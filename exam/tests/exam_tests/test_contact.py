from __future__ import annotations

import numpy as np
import pytest
from exam.tests.grading import examine, score_of

from worldline.audit.baselines import as_world
from worldline.audit.queries import history_of
from worldline.audit.verdicts import verdict_of
from worldline.episode import Arrays
from worldline.planning.base import Goal
from worldline.planning.costs import AtLeast, AtMost, KeepApart, KeepClear
from worldline_exam.exam_tests.contact import ContactTest
from worldline_exam.labs.containers import WALL_HALF_WIDTH
from worldline_exam.references.lab_oracle import LabOracle
from worldline_exam.scenes.contact_detection import depth
from worldline_exam.self_check import Examined


@pytest.fixture(scope="module")
def examined() -> Examined:
    """On a few logs: only trivial models that fit nothing are fitted to them."""
    return examine(ContactTest(), 0, 3, 10)


def score(examined: Examined, answers: Arrays) -> float:
    return score_of(ContactTest().grade(examined.scenes, answers, examined.references)).value


def test_the_oracle_passes_and_its_figures_are_those_of_the_design(examined: Examined) -> None:
    assert (examined.flaws, verdict_of(examined.oracle)) == ((), "PASS")
    raw = examined.oracle.cells[0].raw
    assert raw["f1"] == 1
    assert raw["penetration"] == raw["wrong_counts"] == 0
    assert 0.35 < raw["f1_floor"] < 0.55
    assert raw["contacts_a_rollout"] > 4
    assert raw["later_contacts_a_rollout"] > 2
    assert all(verdict_of(grade) == "FAIL" for grade in examined.must_fail.values())


def test_discs_alone_score_nothing_but_their_penetration(examined: Examined) -> None:
    cell = examined.must_fail["each disc alone"].cells[0]
    assert cell.score is not None
    assert cell.raw["f1"] == cell.raw["f1_floor"]
    assert cell.score.value == pytest.approx(-cell.raw["penetration"] - cell.raw["wrong_counts"], abs=2e-6)


def test_faults_are_noticed(examined: Examined) -> None:
    truth = examined.references.oracle
    late = {name: np.roll(value, 4, axis=1) for name, value in truth.items()}
    swapped = dict(zip(truth, reversed(truth.values()), strict=True))
    other = {name: value[np.random.default_rng(0).permutation(len(value))] for name, value in truth.items()}
    merged = dict.fromkeys(truth, truth["disc_0_position"])
    noisy = {n: v + 0.1 * np.random.default_rng(1).standard_normal(v.shape) for n, v in truth.items()}
    for answers in (late, swapped, other, merged, noisy):
        assert score(examined, answers) < 0.5
    assert score(examined, {name: np.full_like(value, np.nan) for name, value in truth.items()}) < -1


def test_actions_that_come_late_are_noticed(examined: Examined) -> None:
    test = ContactTest()
    lab = test.datasets()[0].make_lab()

    def law(start: Arrays, actions: Arrays) -> Arrays:
        return lab.simulate(start, {"tilt": np.roll(actions["tilt"], 3, axis=1)})

    late = test.ask({"it": as_world(LabOracle(schema=lab.schema, law=law))}, examined.scenes)
    assert score(examined, late) < 0.9


def test_the_same_predicates_hold_plans(examined: Examined) -> None:
    """A plan's violation of solidity is how deep the exam finds its discs."""
    test = ContactTest()
    lab = test.datasets()[0].make_lab()
    edge, discs = (lab.radius, lab.size - lab.radius), [f"disc_{disc}_position" for disc in range(2)]
    reach = lab.radius + WALL_HALF_WIDTH
    wall = [KeepClear(signal=name, start=(lab.pen[0], 0.0), end=lab.pen, distance=reach) for name in discs]
    rims = [make(signal=name, bound=end) for name in discs for make, end in zip((AtLeast, AtMost), edge, strict=True)]
    apart = KeepApart(first=discs[0], second=discs[1], distance=2 * lab.radius)
    rules, table = [*wall, *rims, apart], test._table()

    def alone(start: Arrays, actions: Arrays) -> Arrays:
        return lab.simulate(start, actions, alone=True)

    history = history_of(examined.scenes)
    plans = {"tilt": np.stack([examined.scenes["actions.tilt"], np.zeros_like(examined.scenes["actions.tilt"])], 1)}
    worst = {}
    for law in (alone, lab.simulate):
        world = as_world(LabOracle(schema=lab.schema, law=law))
        goal = Goal(targets={discs[0]: np.ones((len(plans["tilt"]), 2), np.float32)}, tolerance={discs[0]: 1.0})
        found = world.score(history, plans, goal, rules).violation.max(-1)
        means = {n: value.mean for n, value in world.predict(history, {"tilt": plans["tilt"][:, 0]}).signals.items()}
        due = depth(np.stack([means[name] for name in discs], 2).astype(float), table).max(1)
        np.testing.assert_allclose(found[:, 0], due, atol=1e-5)
        worst[law] = found.mean()
    assert worst[alone] > 2 * worst[lab.simulate]
