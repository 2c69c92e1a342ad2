"""Each sentence for a good, a bad and an undecided outcome."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from tests.audit.toy_reports import flat

from worldline.audit.diagnostics import Band, Diagnostics, ErrorCurve, Gap, SkillCurve
from worldline.audit.errors import ActionUse, BandCoverage, Skill
from worldline.audit.forecast_measurements import Decoded
from worldline.audit.measurement import ReportFinding, compare_errors
from worldline.audit.planning_measurements import GoalOutcome, Planning
from worldline.audit.training_measurements import Learning, Series
from worldline.stats import Estimate, wilson


def plain(finding: ReportFinding) -> str:
    """Its text with ordinary spaces."""
    return finding.text.replace("\u00a0", " ").replace("\u202f", " ")


def planning(planner: int, floor: int = 6, ceiling: int = 200) -> Planning:
    def outcome(name: str, role: Literal["planner", "floor", "ceiling"], successes: int) -> GoalOutcome:
        return GoalOutcome(name=name, role=role, all=wilson(successes, 200), split={})

    rows = (outcome("planner", "planner", planner), outcome("random", "floor", floor), outcome("no move", "floor", 0))
    return Planning(task="t", outcomes=(*rows, outcome("the oracle", "ceiling", ceiling)))


@pytest.mark.parametrize(
    ("planner", "floor", "verdict", "says"),
    [
        (
            197, 6, "good",
            "Planning reaches 197 of 200 goals: 98.5 % (95.7 to 99.5 %). The best baseline, random, reaches 3.0 %. "
            "The upper bound, the oracle, reaches 100 %; the difference is not significant.",
        ),
        (7, 6, "unclear", "The best baseline, random, reaches 3.0 %; the difference is not significant. The upper"),
        (0, 40, "bad", "The best baseline, random, reaches 20.0 %. The upper bound, the oracle, reaches 100 %."),
    ],
)  # fmt: skip
def test_planning(planner: int, floor: int, verdict: str, says: str) -> None:
    found = planning(planner, floor=floor).headline()
    assert found.verdict == verdict
    assert says in plain(found)


def test_planning_without_floor_or_ceiling_judges_nothing() -> None:
    alone = Planning(task="t", outcomes=(planning(100).planner,))
    assert plain(alone.headline()) == "Planning reaches 100 of 200 goals: 50.0 % (43.1 to 56.9 %)."
    assert alone.headline().verdict == "plain"


def learning(*values: float) -> Learning:
    series = Series(name="total", steps=tuple(range(0, 100 * len(values), 100)), values=values)
    return Learning(terms=(series,), validation=series)


def test_learning() -> None:
    good = learning(1.0, 0.2, 0.05).sentence()
    assert plain(good) == "The validation loss fell from 1 to 0.0500, 20 times lower, over 200 steps."
    assert good.verdict == "good"
    rose = learning(1.0, 0.2, 0.4).sentence()
    assert "fell from 1 to 0.200 by step 100, then rose again to 0.400" in plain(rose)
    assert rose.verdict == "unclear"
    stuck = learning(1.0, 1.0, 1.2).sentence()
    assert "did not fall: it went from 1 to 1.20" in plain(stuck)
    assert stuck.verdict == "bad"
    diverged = learning(1.0, 2.0, float("nan")).sentence()
    assert "not finite after 200 steps" in plain(diverged)
    assert diverged.verdict == "bad"


def diagnosis(skills: dict[tuple[str, str], tuple[float, float]], horizon: int = 4) -> Diagnostics:
    """Skill intervals (low, high) per signal and comparison, the same at every step."""
    signals = dict.fromkeys(signal for signal, _ in skills)
    sizes = {"num_episodes": 10, "num_short": 0, "num_windows": 30, "horizon": horizon, "horizons": (1, horizon)}
    errors = tuple(ErrorCurve(world="", signal=signal, rmse=flat(0.9, 1.1, horizon)) for signal in signals)
    curves = {key: flat(*ends, horizon) for key, ends in skills.items()}
    rivals = tuple(SkillCurve(against=name, signal=signal, skill=curve) for (signal, name), curve in curves.items())
    units = dict.fromkeys(signals, "px")
    return Diagnostics(units=units, step_s=None, **sizes, errors=errors, skills=rivals, gaps=(), bands=())


GOOD, BAD, OPEN = (0.4, 0.6), (-0.6, -0.4), (-0.1, 0.3)


@pytest.mark.parametrize(
    ("skills", "says", "verdict"),
    [
        ({("a", "linear"): GOOD, ("b", "linear"): BAD}, "in 1 of 2 comparisons by signal, and larger in 1.", "unclear"),
        ({("a", "linear"): OPEN}, "in 0 of 1 comparison by signal, and larger in 0.", "unclear"),
        ({("a", "linear"): BAD}, "in 0 of 1 comparison by signal, and larger in 1.", "bad"),
        ({("a", "linear"): GOOD}, "in 1 of 1 comparison by signal, and larger in 0.", "good"),
        ({}, "No baseline has an error at every step", "unclear"),
    ],
)
def test_comparisons(skills: dict[tuple[str, str], tuple[float, float]], says: str, verdict: str) -> None:
    found = Skill(diagnosis(skills)).sentence()
    assert says in plain(found)
    assert found.verdict == verdict


def gap(value: float, low: float, high: float) -> Gap:
    return Gap(change="zeroed", signal=None, increase=Estimate(value=value, low=low, high=high))


@pytest.mark.parametrize(
    ("one", "says", "verdict"),
    [
        (gap(6.4, 5.0, 8.0), "The world uses its actions: its error grows by 640 % when they are set to zero.", "good"),
        (gap(23.0, 20.0, 30.0), "The world uses its actions: its error grows to 24 times its value when", "good"),
        (gap(0.0, 0.0, 0.0), "The world does not use its actions: with actions set to zero its error", "bad"),
        (gap(0.006, -0.005, 0.017), "The world does not use its actions: with actions set to zero", "bad"),
        (gap(0.02, 0.01, 0.03), "The world hardly uses its actions", "bad"),
        (gap(0.2, -0.1, 0.5), "It is unclear whether the world uses its actions", "unclear"),
        (gap(-0.2, -0.3, -0.1), "The world uses its actions wrongly", "bad"),
    ],
)
def test_gaps(one: Gap, says: str, verdict: str) -> None:
    found = ActionUse(replace(diagnosis({}), gaps=(one,))).sentence()
    assert plain(found).startswith(says)
    assert found.verdict == verdict


def test_the_smaller_growth_decides() -> None:
    gaps = (gap(0.0, 0.0, 0.0), replace(gap(0.6, 0.5, 0.8), change="shuffled"))
    found = ActionUse(replace(diagnosis({}), gaps=gaps)).sentence()
    assert "set to zero" in found.text
    assert found.verdict == "bad"


@pytest.mark.parametrize(
    ("inside", "says", "verdict"),
    [
        (178, "The bands are calibrated: the 90 % band contains 178 of 200 true trajectories of place, 89.0 %", "good"),
        (120, "The bands are too narrow: the 90 % band contains 120 of 200", "bad"),
        (199, "The bands are too wide: the 90 % band contains 199 of 200", "unclear"),
    ],
)
def test_coverage(inside: int, says: str, verdict: str) -> None:
    band = Band(signal="place", level=0.9, coverage=wilson(inside, 200), width=(1.0,), horizon=1)
    found = BandCoverage(replace(diagnosis({}), bands=(band,))).sentence()
    assert plain(found).startswith(says)
    assert found.verdict == verdict


def decoded(imagined: float, decoder: float, saved: tuple[float, float] | None) -> ReportFinding:
    names = ("imagined", "persistence", "decoder")
    curves = {name: flat(value, value, 2) for name, value in zip(names, (imagined, 12.0, decoder), strict=True)}
    known = None if saved is None else flat(*saved, 2)
    sizes = {"step_s": None, "steps": (4, 8), "num_windows": 40, "num_episodes": 10}
    return Decoded(camera="camera", windows=(), **sizes, **curves, saved=known).sentence()


def test_decoded_imagination() -> None:
    better = decoded(6.0, 4.0, (0.3, 0.6))
    assert plain(better) == (
        "Decoded predictions 8 steps ahead have an error of 6 grey levels. "
        "Persistence has an error of 12, and the decoder alone of 4."
    )
    assert better.verdict == "plain"
    worse = decoded(15.0, 4.0, (-0.4, -0.1))
    assert plain(worse).endswith("The predictions are worse than persistence.")
    assert worse.verdict == "bad"
    open_ = decoded(12.0, 4.0, (-0.1, 0.1))
    assert plain(open_).endswith("The difference from persistence is not significant.")
    assert open_.verdict == "unclear"
    blurred = decoded(15.0, 14.0, (-0.4, -0.1))
    assert plain(blurred).endswith("The decoder error is too large to grade the predictions.")
    assert blurred.verdict == "plain"
    assert decoded(0.0, 0.0, None).verdict == "plain"


@pytest.mark.parametrize(
    ("low", "high", "order"),
    [(0.01, 0.4, "better"), (-0.4, -0.01, "worse"), (-0.04, 0.05, "equivalent"), (-0.06, 0.01, "unclear")],
)
def test_errors_are_equivalent_only_if_their_paired_interval_is_narrow(low: float, high: float, order: str) -> None:
    assert compare_errors(Estimate(value=(low + high) / 2, low=low, high=high)) == order
