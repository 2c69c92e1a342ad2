"""Error rates of the exam's verdicts on real tests, over many seeds of their scenes. Used by exam_harness.py.

Tests are examined as in any exam, on the report's pool with separate seeds. Graded are the oracle, the models that must
fail, and, where their true score is known for every seed:

* floor: the answers of the floor, or answers that ignore the history; 0 in every cell by definition.
* floor with noise: the same with Gaussian noise of a tenth of the deviation of the oracle's answers. Below 0.
* half: the oracle's answers to half of the scenes at random, the floor's to the others. 0.5 in every cell (C4: in
  "noise"), which is the boundary of a PASS, with the spread over scenes of the test's own losses. In C1, P2 and T2 it
  rarely meets the conditions (half of a gain, a path or a slope), so only its cells are informative.

Tests run in the order of their time per seed. If the time of a test is over, the finished seeds count.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from exam_rates import Rng, rate
from numpy.typing import NDArray

from worldline.audit.grades import Grade, Verdict
from worldline.audit.verdicts import PASS_ABOVE, verdict_of
from worldline.episode import Arrays, Episode
from worldline.labs.playing import explore
from worldline_exam import self_check as examining
from worldline_exam.base import ExamTest
from worldline_exam.exam_tests.abstention import AbstentionTest
from worldline_exam.exam_tests.arrow import ArrowOfTimeTest
from worldline_exam.exam_tests.beyond_range import BeyondRangeTest
from worldline_exam.exam_tests.confounded_log import ConfoundedLogTest
from worldline_exam.exam_tests.contact import ContactTest
from worldline_exam.exam_tests.counterfactual import CounterfactualTest
from worldline_exam.exam_tests.coverage import JointCoverageTest
from worldline_exam.exam_tests.delay import TWINS, DelayedEffectTest
from worldline_exam.exam_tests.energy import WorkAndEnergyTest
from worldline_exam.exam_tests.horizon import TrustedHorizonTest
from worldline_exam.exam_tests.influence import InfluenceTest
from worldline_exam.exam_tests.occlusion import OcclusionTest
from worldline_exam.exam_tests.ood_detection import OODDetectionTest
from worldline_exam.exam_tests.spurious_channel import SpuriousChannelTest
from worldline_exam.exam_tests.twin_effect import TwinEffectTest
from worldline_exam.exam_tests.violation import ViolationOfExpectationTest
from worldline_exam.self_check import Examined, examine

Figures = dict[str, Any]
Floor = Callable[[Examined, Rng], Arrays]

LOG_SETS: Final = 2
"""Log sets for fitting the models that must fail; seeds alternate between them."""
LOG_SEED: Final = 500_000
NOISE: Final = 0.1
FIRST_SEED: Final = 50_000
"""First seed of scenes, far from those of any exam."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test at the size of this run.

    Args:
        test: the test with its sizes.
        floor: answers with a true score of 0 in every cell; None if unknown.
        at_half: the cells in which "half" has a true score of 0.5; empty for all.
        piloted: whether references are chosen on pilot scenes; otherwise none are generated.
    """

    test: ExamTest
    floor: Floor | None = None
    at_half: tuple[str, ...] = ()
    piloted: bool = False


def no_response(examined: Examined, rng: Rng) -> Arrays:
    """T3: a pulse has no effect."""
    del rng
    return dict.fromkeys(TWINS, examined.references.oracle[TWINS[1]])


def guesses(examined: Examined, rng: Rng) -> Arrays:
    """P1: knows the time and guesses the outcome, for each cue of a scene."""
    contexts, found = np.arange(4), dict[str, NDArray[np.generic]]()
    for name, value in examined.references.oracle.items():
        wrong = rng.random((len(value), 2))[:, contexts % 2] < 0.5
        taken = np.where(wrong, contexts ^ 1, contexts)
        found[name] = np.take_along_axis(value, taken.reshape(*taken.shape, *[1] * (value.ndim - 2)), 1)
    return found


def own_floor(examined: Examined, rng: Rng) -> Arrays:
    """The floor of the references."""
    del rng
    return examined.references.floor


def known_friction(examined: Examined, rng: Rng) -> Arrays:
    """C4: knows the friction and ignores the gusts."""
    del rng
    return examined.references.ceiling


def one_branch(examined: Examined, rng: Rng) -> Arrays:
    """C1: actions have no effect."""
    del rng
    return {name: np.repeat(value[:, :1], value.shape[1], 1) for name, value in examined.references.oracle.items()}


def lamp_for_levers(examined: Examined, rng: Rng) -> Arrays:
    """C3: attributes the effect of the levers to the lamp."""
    del rng
    return {"heats": examined.references.oracle["heats"].swapaxes(1, 2)}


def logged_slope(examined: Examined, rng: Rng) -> Arrays:
    """C2: the confounded effect of the motors in the log."""
    del rng
    motors, drifts = (examined.scenes[f"seen.{name}"].astype(float) for name in ("motors", "drifts"))
    slopes = (motors * drifts).sum((0, 1)) / (motors**2).sum((0, 1))
    return {"do.mean": examined.scenes["do.motors"] * slopes}


CASES: Final = (
    Case(test=SpuriousChannelTest(), floor=lamp_for_levers),
    Case(test=DelayedEffectTest(), floor=no_response),
    Case(test=ContactTest()),
    Case(test=OcclusionTest(), floor=own_floor, piloted=True),
    Case(test=ViolationOfExpectationTest(), floor=guesses),
    Case(test=BeyondRangeTest(), floor=own_floor, piloted=True),
    Case(test=ConfoundedLogTest(), floor=logged_slope),
    Case(test=AbstentionTest()),
    Case(test=TwinEffectTest(), floor=one_branch),
    Case(test=InfluenceTest()),
    Case(test=CounterfactualTest(), floor=known_friction, at_half=("noise",)),
    Case(test=ArrowOfTimeTest()),
    Case(test=WorkAndEnergyTest(), floor=own_floor),
    Case(test=TrustedHorizonTest(), floor=own_floor, piloted=True),
    Case(test=OODDetectionTest(), piloted=True),
    Case(test=JointCoverageTest(), piloted=True),
)


def logs_of(test: ExamTest, number: int) -> Mapping[str, Sequence[Episode]]:
    """The training logs of the test."""
    return {
        log.name: [
            explore(log.make_lab(), LOG_SEED * (number + 1) + episode, log.num_steps)
            for episode in range(log.num_episodes)
        ]
        for log in test.datasets()
    }


def half(oracle: Arrays, floor: Arrays, rng: Rng) -> Arrays:
    """The oracle's answers to a random half of the scenes, the floor's to the others."""
    coin = rng.random(max(len(value) for value in oracle.values())) < 0.5
    return {
        name: np.where(coin[: len(value)].reshape(-1, *[1] * (value.ndim - 1)), value, floor[name])
        for name, value in oracle.items()
    }


def noisy(floor: Arrays, oracle: Arrays, rng: Rng) -> dict[str, NDArray[np.generic]]:
    """The floor's answers with noise."""
    return {
        name: value + NOISE * oracle[name].astype(float).std() * rng.standard_normal(value.shape)
        for name, value in floor.items()
    }


def examined_at(case: Case, seed: int, logs: Mapping[str, Sequence[Episode]]) -> Examined:
    """Like `examine`, without pilot scenes if nothing is chosen on them."""
    if case.piloted:
        return examine(case.test, seed, logs)
    scenes = case.test.generate(seed)
    return examining.graded(case.test, scenes, case.test.references(scenes, {}, logs))


def graded(case: Case, examined: Examined, rng: Rng) -> dict[str, Grade]:
    """The grades of one seed, by model."""
    found = {"oracle": examined.oracle, **examined.must_fail}
    if case.floor is None:
        return found
    oracle = examined.references.oracle
    floor = {**oracle, **case.floor(examined, rng)}  # values that no score uses stay
    asked = {"floor": floor, "floor with noise": noisy(floor, oracle, rng), "half": half(oracle, floor, rng)}
    grades = {name: case.test.grade(examined.scenes, one, examined.references) for name, one in asked.items()}
    return {**found, **grades}


@dataclass(kw_only=True)
class Tally:
    """Results of one model over seeds.

    Args:
        passes: seeds with the verdict PASS.
        cells: scored cells.
        above: scored cells with a lower bound above 0.5.
        surely: scored cells with a lower bound above 0.
        weakest: the lower bounds of the weakest cells, by seed.
    """

    passes: int = 0
    cells: int = 0
    above: int = 0
    surely: int = 0
    weakest: list[float] = field(default_factory=list)

    def add(self, grade: Grade, names: tuple[str, ...] = ()) -> None:
        """Adds a seed: the cells with these names, or all."""
        cells = [one for one in grade.cells if one.score is not None and (not names or one.name in names)]
        scores = [one.score for one in cells if one.score is not None]
        self.passes += verdict_of(grade) is Verdict.PASS
        self.cells += len(scores)
        self.above += sum(one.low > PASS_ABOVE for one in scores)
        self.surely += sum(one.low > 0 for one in scores)
        self.weakest.append(min((one.value for one in scores), default=float("nan")))

    def told(self, runs: int) -> Figures:
        """The entry of the result."""
        return {
            "PASS": rate(self.passes, runs),
            "cells above 0.5": rate(self.above, self.cells),
            "cells above 0": rate(self.surely, self.cells),
            "weakest cell, lowest and highest": [min(self.weakest), max(self.weakest)],
        }


def measure(case: Case, runs: int, seconds: float) -> Figures:
    """Rates of one test over `runs` seeds, or over the seeds begun within `seconds`."""
    begin, start, voids, reasons = time.process_time(), time.monotonic(), 0, Counter[str]()
    found: dict[str, Tally] = {}
    lows = []
    logs = [logs_of(case.test, number) for number in range(LOG_SETS)]
    done = 0
    for run in range(runs):
        if run and time.monotonic() - start > seconds:
            break
        rng = np.random.default_rng([8, run])
        examined = examined_at(case, FIRST_SEED + run, logs[run % LOG_SETS])
        voids += bool(examined.flaws)
        reasons.update(examined.flaws)
        lows.append(min(one.score.low for one in examined.oracle.cells if one.score is not None))
        for name, grade in graded(case, examined, rng).items():
            found.setdefault(name, Tally()).add(grade, case.at_half if name == "half" else ())
        done = run + 1
    return {
        "test": case.test.code,
        "scenes": len(next(iter(examined.scenes.values()))),
        "seeds": [FIRST_SEED, FIRST_SEED + done - 1],
        "VOID": rate(voids, done),
        "why": dict(reasons),
        "oracle's lowest lower end": min(lows),
        "models": {name: one.told(done) for name, one in found.items()},
        "CPU seconds": round(time.process_time() - begin, 1),
    }
