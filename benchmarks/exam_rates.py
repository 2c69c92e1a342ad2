"""Error rates of the exam's verdicts on synthetic cells with a known true score. Used by exam_harness.py.

Cells are graded by the exam's own functions. Scene losses are drawn so that their expectations give the true score.
They have heavy tails, as in real scenes: log-normal (log deviation 1), or Pareto with tail index 2.5, whose third
moment is infinite. A model's loss is a share of the floor's, times log-normal noise (log deviation 0.7). Further cells
are pairs (two per scene), both-right, and areas under the curve.

Two compared subjects have log-normal losses in the same scenes. Each training has an individual true score, drawn from
one normal distribution for both.

An oracle's loss is the ceiling's, times log-normal noise (log deviation 0.3). Its true score is 1; the ceiling is not
0, as in labs with noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.grades import Cell, Grade, Score, Verdict
from worldline.audit.scoring import Statistic, accuracy, auroc, cell, skill, skill_cell
from worldline.audit.verdicts import BREAKS_AT, PASS_ABOVE, flaws, holm, p_value, verdict_of
from worldline.stats import draw_clusters, ratio, wilson
from worldline_exam.base import Section
from worldline_exam.comparison import Difference, compared
from worldline_exam.results import SeedGrade, TestResult

Floats = NDArray[np.floating]
Figures = dict[str, Any]
Rng = np.random.Generator

BOUNDARY: Final = 0.5
OWN_NOISE: Final = 0.7
TAIL: Final = 2.5
ORACLE_NOISE: Final = 0.3
KINDS: Final = ("log-normal", "pareto", "pairs", "both right", "areas")
SIZES: Final = (100, 200, 400)
CELLS: Final = (2, 4, 1, 2, 1, 8, 9, 1, 2, 9, 4, 9, 1, 2, 6, 2)
"""Numbers of scored cells in C1 to U3, in this order."""
NUM_MUST_FAIL: Final = 3
COMPARED_AT: Final = 0.7
"""True score of both compared subjects, the mean over trainings."""
SPREADS: Final = (0.0, 0.01, 0.05, 0.1)
"""Standard deviations of a training's true score."""
TRAININGS: Final = (1, 2, 3, 5)

kept_draws: Final = lru_cache(maxsize=16)(draw_clusters)
"""The usual bootstrap draws, made once."""


def rate(count: int, runs: int) -> Figures:
    """A share with its 95 % Wilson interval."""
    found = wilson(count, runs)
    return {"count": count, "runs": runs, "rate": round(found.value, 4), "low": round(found.low, 4),
            "high": round(found.high, 4)}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """One synthetic cell.

    Args:
        statistic: statistic of the cell.
        cell: the graded cell.
        parts: gained and possible [E, 2] if the score is a ratio of sums; otherwise empty.
    """

    statistic: Statistic
    cell: Cell
    parts: Floats


def losses(tail: str, rng: Rng, num: int) -> Floats:
    """Scene losses with expectation 1."""
    if tail == "log-normal":
        return np.exp(rng.standard_normal(num) - 0.5)
    return (1 + rng.pareto(TAIL, num)) * (TAIL - 1) / TAIL


def noise(rng: Rng, num: int, deviation: float) -> Floats:
    """Log-normal noise with expectation 1."""
    return np.asarray(np.exp(deviation * rng.standard_normal(num) - deviation**2 / 2))


def draw(kind: str, true: float, num: int, rng: Rng) -> Drawn:
    """A cell of E scenes with the true score `true`."""
    if kind in ("log-normal", "pareto"):
        floor = losses(kind, rng, num)
        loss = (1 - true) * floor * noise(rng, num, OWN_NOISE)
        parts = np.stack([floor - loss, floor], 1)
        return Drawn(statistic=skill(loss, floor, 0 * floor), cell=skill_cell(kind, loss, floor), parts=parts)
    if kind == "areas":
        positive = np.arange(num) % 2 == 0
        apart = np.sqrt(2) * NormalDist().inv_cdf((1 + true) / 2)
        statistic = auroc(rng.standard_normal(num) + apart * positive, positive)
    else:
        chance = 0.25 if kind == "both right" else 0.5
        hits = rng.random((num, 2 if kind == "pairs" else 1)) < chance + (1 - chance) * true
        statistic = accuracy(hits.mean(1), chance)
    return Drawn(statistic=statistic, cell=cell(kind, statistic, num), parts=np.empty((0, 2)))


def bca_low(drawn: Drawn, num: int) -> float:
    """The lower end by bias-corrected and accelerated percentiles (Efron 1987), for comparison."""
    score = drawn.cell.score
    assert score is not None
    draws, normal = np.sort(score.draws), NormalDist()
    below = (np.searchsorted(draws, score.value) + np.searchsorted(draws, score.value, "right")) / 2 / len(draws)
    shift = normal.inv_cdf(float(np.clip(below, 1e-3, 1 - 1e-3)))
    left_out = drawn.statistic(1 - np.eye(num))
    bent = left_out.mean() - left_out
    size = float((bent**2).sum())
    skew = float((bent**3).sum()) / (6 * size**1.5) if size > 0 else 0.0
    z = shift + normal.inv_cdf(0.025)
    return float(np.quantile(draws, normal.cdf(shift + z / (1 - skew * z)), method="inverted_cdf"))


def studentised_low(drawn: Drawn) -> float:
    """The lower end by the bootstrap of the studentised ratio (Davison and Hinkley 1997, 5.2.1), for comparison."""
    gained, possible = drawn.parts.T
    moments = np.stack([gained, possible, gained**2, gained * possible, possible**2], 1)

    def told(weights: Floats) -> tuple[Floats, Floats]:
        a, b, aa, ab, bb = (weights @ moments).T
        value = ratio(a, b)
        return value, np.sqrt(np.maximum(aa - 2 * value * ab + value**2 * bb, 0)) / b

    num = len(gained)
    value, error = (one[0] for one in told(np.ones((1, num))))
    values, errors = told(kept_draws(num, 0))
    return float(value - error * np.quantile(ratio(values - value, errors), 0.975))


def draw_oracle(apart: float, num: int, rng: Rng) -> Cell:
    """A cell of an oracle with true score 1; the floor's loss is on average `apart` times the ceiling's."""
    ceiling = losses("log-normal", rng, num)
    floor = ceiling * (1 + (apart - 1) * losses("log-normal", rng, num))
    return skill_cell("oracle", ceiling * noise(rng, num, ORACLE_NOISE), floor, ceiling)


def nulls(runs: int, rng: Rng) -> list[Figures]:
    """Rates of models with true score 0 and of models at the boundary of a PASS, per kind and number of scenes."""
    rows = []
    for kind in KINDS:
        for num in SIZES:
            at_zero = [_score(draw(kind, 0.0, num, rng)) for _ in range(runs)]
            at_half = [draw(kind, BOUNDARY, num, rng) for _ in range(runs)]
            lows = [_score(one).low for one in at_half]
            row = {
                "kind": kind,
                "scenes": num,
                "true 0: PASS": rate(sum(one.low > PASS_ABOVE for one in at_zero), runs),
                "true 0: low above 0": rate(sum(one.low > 0 for one in at_zero), runs),
                "true 0: breaks a test": rate(sum(one.surely > 0 or one.value >= BREAKS_AT for one in at_zero), runs),
                "true 0.5: PASS": rate(sum(low > PASS_ABOVE for low in lows), runs),
                "true 0.5: PASS at 1 % a side": rate(sum(_low(one, 0.01) > PASS_ABOVE for one in at_half), runs),
                "true 0.5: PASS at 0.5 % a side": rate(sum(_low(one, 0.005) > PASS_ABOVE for one in at_half), runs),
                "true 0.5: PASS by BCa": rate(sum(bca_low(one, num) > PASS_ABOVE for one in at_half), runs),
            }
            if len(at_half[0].parts):
                others = [studentised_low(one) for one in at_half]
                row["true 0.5: PASS by studentised"] = rate(sum(low > PASS_ABOVE for low in others), runs)
            rows.append(row)
    return rows


def oracles(runs: int, rng: Rng) -> list[Figures]:
    """VOID rates of valid tests: an oracle at 1 and must-fail models at 0, two cells each."""
    rows = []
    for apart in (2.0, 5.0, 20.0):
        for num in SIZES:
            verdicts, voids = [], {"oracle": 0, "must fail": 0}
            for _ in range(runs):
                oracle = Grade(cells=tuple(draw_oracle(apart, num, rng) for _ in range(2)))
                fails = {
                    f"null {number}": Grade(cells=tuple(draw("log-normal", 0.0, num, rng).cell for _ in range(2)))
                    for number in range(NUM_MUST_FAIL)
                }
                verdicts.append(verdict_of(oracle))
                voids["oracle"] += bool(flaws(oracle, {}, 1.0))
                found = flaws(oracle, fails, 1.0)
                voids["must fail"] += any("must fail" in one for one in found)
            row: Figures = {"floor over ceiling": apart, "scenes": num}
            row |= {f"VOID by {name}": rate(count, runs) for name, count in voids.items()}
            row["oracle: PASS"] = rate(sum(one is Verdict.PASS for one in verdicts), runs)
            rows.append(row)
    return rows


def exams(runs: int, rng: Rng) -> list[Figures]:
    """Exams of sixteen tests with models at the boundary or at 0: share with any false pass, without and with Holm."""
    rows = []
    for name, cells, good, true in (
        ("all at 0.5, one cell a test", (1,) * 16, 0, BOUNDARY),
        ("all at 0.5, cells as in the exam", CELLS, 0, BOUNDARY),
        ("half at 1 and half at 0.5, one cell a test", (1,) * 16, 8, BOUNDARY),
        ("all at 0, one cell a test", (1,) * 16, 0, 0.0),
    ):
        alone = together = 0
        for _ in range(runs):
            bad = {}
            p_values = dict.fromkeys(map(str, range(good)), 1 / 2001)  # passes with the smallest p-value
            for number, count in enumerate(cells[good:], good):
                num, kind = SIZES[number % 3], KINDS[number % len(KINDS)]
                grade = Grade(cells=tuple(draw(kind, true, num, rng).cell for _ in range(count)))
                bad[str(number)] = verdict_of(grade) is Verdict.PASS
                p_values[str(number)] = p_value(grade)
            alone += any(bad.values())
            together += any(one in bad for one in holm(p_values))
        rows.append({"exams": name, "any PASS": rate(alone, runs), "any by Holm": rate(together, runs)})
    return rows


def comparisons(runs: int, rng: Rng) -> list[Figures]:
    """How often `worldline compare` reports a difference between two equally good subjects."""
    rows = []
    for spread in SPREADS:
        for trainings in TRAININGS:
            found = [_comparison(spread, trainings, SIZES[run % 3], rng) for run in range(runs)]
            rows.append(
                {
                    "deviation over trainings": spread,
                    "trainings": trainings,
                    "seem to differ": rate(sum(not one.includes_zero for one in found), runs),
                    "median width": round(float(np.median([one.high - one.low for one in found])), 4),
                }
            )
    return rows


def _comparison(spread: float, trainings: int, num: int, rng: Rng) -> Difference:
    floor = losses("log-normal", rng, num)
    exams = []
    for _ in range(2):
        true = COMPARED_AT + spread * rng.standard_normal(trainings)
        cells = [skill_cell("", (1 - one) * floor * noise(rng, num, OWN_NOISE), floor) for one in true]
        seeds = [
            SeedGrade(seed=seed, verdict=Verdict.PASS, grade=Grade(cells=(one,))) for seed, one in enumerate(cells)
        ]
        result = TestResult(
            code="", section=Section.CAUSE, title="", claim="", verdict=Verdict.PASS, seeds=tuple(seeds), oracle=None,
            must_fail={}, flaws=(), floor="", scenes="", elapsed_s=0.0, figure=None,
        )  # fmt: skip
        exams.append({"": result})
    (found,) = compared(exams[0], exams[1]).differences
    return found


def _low(drawn: Drawn, share: float) -> float:
    """The lower percentile bound, as in the exam, with `share` of the draws below it."""
    return float(np.quantile(_score(drawn).draws, share, method="inverted_cdf"))


def _score(drawn: Drawn) -> Score:
    assert drawn.cell.score is not None
    return drawn.cell.score
