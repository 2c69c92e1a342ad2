"""How often the exam's verdicts are wrong on real tests, over many seeds of their scenes. Used by exam_harness.py.

Tests are examined as in any exam, on the report's pool, whose seeds are their own here. Graded are the oracle, the
models that must fail, and, where their true score is known whatever the seed:

* floor: the references' own answers, or what does not depend on what was seen; 0 in every cell, by definition.
* floor with noise: the same, with Gaussian noise of a tenth of the deviation of the oracle's answers. Below 0.
* half: the oracle's answers to scenes drawn with chance a half, the floor's to the others. 0.5 in every cell, the
  boundary of a PASS, with the spread over scenes that the test's own losses have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from exam_rates import Rng, rate
from numpy.typing import NDArray

from worldline.contracts.episode import Arrays, Episode
from worldline.contracts.evaluation import Grade, Verdict
from worldline.labs.playing import explore
from worldline.understanding.exam.beyond_range import BeyondRange
from worldline.understanding.exam.confounded_log import ConfoundedLog
from worldline.understanding.exam.contract import ExamTest
from worldline.understanding.exam.delay import TWINS, DelayedEffect
from worldline.understanding.exam.examining import Examined, examine
from worldline.understanding.exam.spurious_channel import SpuriousChannel
from worldline.understanding.exam.verdicts import PASS_ABOVE, verdict_of
from worldline.understanding.exam.violation import ViolationOfExpectation

Figures = dict[str, Any]
Floor = Callable[[Examined, Rng], Arrays]

LOG_SETS: Final = 2
"""Logs that the models that must fail are fitted on; seeds take turns."""
LOG_SEED: Final = 500_000
NOISE: Final = 0.1
FIRST_SEED: Final = 50_000
"""Of scenes: far from those of any exam."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test, at the size that is run.

    Args:
        test: with its sizes.
        floor: answers whose true score is 0 in every cell; None where none is known.
        size: in words.
    """

    test: ExamTest
    floor: Floor | None
    size: str


def no_response(examined: Examined, rng: Rng) -> Arrays:
    """A pulse changes nothing."""
    del rng
    return dict.fromkeys(TWINS, examined.references.oracle[TWINS[1]])


def guesses(examined: Examined, rng: Rng) -> Arrays:
    """Surprises that are drawn."""
    oracle = examined.references.oracle
    return {name: rng.random(value.shape) if name.endswith("surprise") else value for name, value in oracle.items()}


def own_floor(examined: Examined, rng: Rng) -> Arrays:
    """The references' floor."""
    del rng
    return examined.references.floor


CASES: Final = (
    Case(test=ConfoundedLog(num_scenes=100), floor=None, size="100 of 400 scenes"),
    Case(test=SpuriousChannel(), floor=None, size="full"),
    Case(test=ViolationOfExpectation(), floor=guesses, size="full"),
    Case(test=BeyondRange(num_scenes=100), floor=own_floor, size="100 of 200 scenes a cell"),
    Case(test=DelayedEffect(), floor=no_response, size="full"),
)


def logs_of(test: ExamTest, number: int) -> Mapping[str, Sequence[Episode]]:
    """The logs that worlds would learn from."""
    return {
        log.name: [
            explore(log.make_lab(), LOG_SEED * (number + 1) + episode, log.num_steps)
            for episode in range(log.num_episodes)
        ]
        for log in test.curricula()
    }


def half(oracle: Arrays, floor: Arrays, rng: Rng) -> Arrays:
    """The oracle's answers to about half of the scenes, the floor's to the others."""
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


def graded(case: Case, examined: Examined, rng: Rng) -> dict[str, Grade]:
    """The grades of a seed, by model."""
    found = {"oracle": examined.oracle, **examined.must_fail}
    if case.floor is None:
        return found
    floor, oracle = case.floor(examined, rng), examined.references.oracle
    asked = {"floor": floor, "floor with noise": noisy(floor, oracle, rng), "half": half(oracle, floor, rng)}
    grades = {name: case.test.grade(examined.scenes, one, examined.references) for name, one in asked.items()}
    return {**found, **grades}


def measure(case: Case, runs: int) -> Figures:
    """The rates of one test over `runs` seeds."""
    begin, voids, reasons = time.perf_counter(), 0, Counter[str]()
    passes, cells, above, surely = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    lows = []
    logs = [logs_of(case.test, number) for number in range(LOG_SETS)]
    for run in range(runs):
        rng = np.random.default_rng([8, run])
        examined = examine(case.test, FIRST_SEED + run, logs[run % LOG_SETS])
        voids += bool(examined.flaws)
        reasons.update(examined.flaws)
        lows.append(min(one.score.low for one in examined.oracle.cells if one.score is not None))
        for name, grade in graded(case, examined, rng).items():
            scores = [one.score for one in grade.cells if one.score is not None]
            passes[name] += verdict_of(grade) is Verdict.PASS
            cells[name] += len(scores)
            above[name] += sum(one.low > PASS_ABOVE for one in scores)
            surely[name] += sum(one.low > 0 for one in scores)
    rows = {
        name: {
            "PASS": rate(passes[name], runs),
            "cells above 0.5": rate(above[name], cells[name]),
            "cells above 0": rate(surely[name], cells[name]),
        }
        for name in cells
    }
    return {
        "test": case.test.code,
        "size": case.size,
        "VOID": rate(voids, runs),
        "why": dict(reasons),
        "oracle's lowest lower end": min(lows),
        "models": rows,
        "seconds": round(time.perf_counter() - begin, 1),
    }
