"""What tests of the exam that choose a floor among trivial models have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from worldline.audit.baselines import as_world, engines
from worldline.episode import Arrays, Episode
from worldline.labs.playing import explore
from worldline.world.base import World
from worldline_exam.base import ExamTest
from worldline_exam.exam_tests import coverage
from worldline_exam.exam_tests import ood_detection as lost
from worldline_exam.exam_tests.beyond_range import BeyondRangeTest
from worldline_exam.exam_tests.coverage import JointCoverageTest
from worldline_exam.exam_tests.horizon import TrustedHorizonTest
from worldline_exam.exam_tests.occlusion import OcclusionTest
from worldline_exam.exam_tests.ood_detection import OODDetectionTest

Truth = Callable[[Arrays, Arrays], Arrays]
"""Takes scenes and answers to them, gives what of the truth would have to be otherwise for the answers to be right."""

CALIBRATED = {"U1": lambda engine, held: as_world(engine, coverage._calibrated(engine, held)), "U3": lost._trusted}


def paths(scenes: Arrays, answers: Arrays) -> Arrays:
    del scenes
    return {name.replace(".", ".truth."): value for name, value in answers.items()}


def last_places(scenes: Arrays, answers: Arrays) -> Arrays:
    return {"truth.path": np.concatenate([scenes["truth.path"][:, :-1], answers["position"][:, None]], 1)}


def middles_of_bands(scenes: Arrays, answers: Arrays) -> Arrays:
    del scenes
    return {f"truth.{name}": answers[f"mean.{name}"] for name in coverage.SIGNALS}


def shifts_where_trust_is_low(scenes: Arrays, answers: Arrays) -> Arrays:
    del scenes
    return {"kind": np.where(answers["trust"] < np.median(answers["trust"]), 0, -1)}


def member(test: ExamTest, logs: Mapping[str, Sequence[Episode]], name: str) -> dict[str, World]:
    """One of the trivial bank, as the test has it: some calibrate it on half of so few logs."""
    found = {}
    for one in test.datasets():
        episodes, schema = logs[one.name], one.make_lab().schema
        if test.calibrated:
            half = len(episodes) // 2
            found[one.name] = CALIBRATED[test.code](engines(episodes[:half], schema)[name], episodes[half:])
        else:
            found[one.name] = as_world(engines(episodes, schema)[name])
    return found


@pytest.mark.parametrize(
    ("test", "truth", "num_episodes"),
    [
        (TrustedHorizonTest(num_scenes=12, num_steps=6), paths, 12),
        (OcclusionTest(num_scenes=10), last_places, 12),
        (BeyondRangeTest(num_scenes=10), paths, 12),
        (JointCoverageTest(num_scenes=12, num_own=70), middles_of_bands, 140),  # bands of 98 % need 65 to calibrate on
        pytest.param(OODDetectionTest(num_each=6), shifts_where_trust_is_low, 40, marks=pytest.mark.slow),  # 3 s
    ],
    ids=("T1", "T2", "P4", "U1", "U3"),
)
def test_the_floor_is_what_was_best_on_the_pilot_and_not_on_the_scenes(
    test: ExamTest, truth: Truth, num_episodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model is right about all scenes of the pilot, another about all that are graded."""
    monkeypatch.setattr(lost, "NUM_CALIBRATION", 20)  # of the oracle
    num_steps = 60 if test.calibrated else 30
    logs = {one.name: [explore(one.make_lab(), s, num_steps) for s in range(num_episodes)] for one in test.datasets()}
    chosen, other = (member(test, logs, name) for name in ("persistence", "action-blind"))
    scenes, pilot = test.generate(0), test.generate(1)
    scenes = {**scenes, **truth(scenes, test.ask(other, scenes))}
    pilot = {**pilot, **truth(pilot, test.ask(chosen, pilot))}
    floor, due, wrong = test.references(scenes, pilot, logs).floor, test.ask(chosen, scenes), test.ask(other, scenes)
    told = sorted(floor.keys() & due.keys())
    for name in told:
        np.testing.assert_array_equal(floor[name], due[name])
    assert any((wrong[name] != due[name]).any() for name in told)
