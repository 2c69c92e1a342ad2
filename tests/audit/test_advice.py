"""What is advised, on an audit whose figures are changed one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from tests.audit.carts import SCHEMA
from tests.report.test_audit_page import made

from worldline.audit.advice import decide
from worldline.audit.diagnostics import Gap, SkillCurve
from worldline.audit.effect_measurement import effect_rows
from worldline.audit.grades import Verdict
from worldline.audit.measured import Advice, Agreement, Decision, GoalRanking, Measured
from worldline.audit.run import ungraded
from worldline.schema import Kind, Role, Signal
from worldline.stats import Curve, Estimate, wilson


@cache
def good(*, twins: bool) -> Measured:
    return made(twins=twins).measured


def advised(change: Callable[[Measured], Measured], *, twins: bool = False) -> Decision:
    assert decide(good(twins=twins)).advice is Advice.DEPLOY
    return decide(change(good(twins=twins)))


def each(part: str, **values: Any) -> Callable[[Measured], Measured]:
    """Changes all figures of one kind."""
    return lambda found: replace(found, **{part: tuple(replace(one, **values) for one in getattr(found, part))})


@pytest.mark.parametrize(
    ("count", "verdict", "advice", "said"),
    [
        (54, "holds", Advice.NO, "are far too narrow: the 90"),
        (75, "holds", Advice.LIMITS, "75 of 100 trajectories. With few calibration episodes, this may be chance."),
        (75, "narrow", Advice.LIMITS, "contains 75 of 100 trajectories."),
        (85, "holds", Advice.DEPLOY, "at least 85 of 100"),
        (100, "wide", Advice.LIMITS, "wider than necessary"),
    ],
)
def test_bands_count_by_what_they_hold_whoever_is_to_blame(count: int, verdict: str, advice: Advice, said: str) -> None:
    found = advised(each("coverage", inside=wilson(count, 100), verdict=verdict))
    assert found.advice is advice
    assert any(said in text for text in (*found.reasons, *found.limits))


def test_what_was_not_checked_is_a_limit() -> None:
    found = advised(lambda found: replace(found, unchecked=("Not checked.",)))
    assert found.advice is Advice.LIMITS
    assert found.limits == ("Not checked.",)


@pytest.mark.parametrize("constant", [True, False])
def test_twins_tell_nothing_of_an_action_that_none_of_their_branches_changes(constant: bool) -> None:
    def change(found: Measured) -> Measured:
        assert found.causal
        actions = tuple(replace(one, greatest=one.least if constant else one.greatest) for one in found.data.actions)
        return replace(each("excitation", enough=False)(found), data=replace(found.data, actions=actions))

    limits = advised(change, twins=True).limits
    assert any("NOT IDENTIFIABLE" in limit for limit in limits) is constant


def test_an_effect_that_the_logs_deny_is_a_limit_though_twins_pass_on_the_whole() -> None:
    decision = advised(each("effects", agreement="apart"), twins=True)
    assert any("Check the effect of" in limit for limit in decision.limits)
    assert not any("in the logs agree" in reason for reason in decision.reasons)
    assert any("in the logs agree" in reason for reason in advised(lambda found: found, twins=True).reasons)


def test_a_pair_of_action_and_signal_counts_once_and_by_its_worst_lag() -> None:
    found = good(twins=False)
    first, *others = found.effects
    assert len(others) > 1
    changed = replace(found, effects=(replace(first, agreement="apart"), *others))
    assert [(one.lag, one.agreement) for one in effect_rows(changed)] == [(first.lag, "apart")]
    assert "1 of 1\u00a0effect in the logs agrees with the world." in decide(found).reasons
    assert not any("in the logs agree" in one for one in decide(changed).reasons)


def test_bands_that_hold_are_named_where_others_do_not() -> None:
    def change(found: Measured) -> Measured:
        (own,) = found.coverage
        other = replace(own, signal="other", inside=wilson(77, 100))
        return replace(found, coverage=(replace(own, inside=wilson(86, 100)), other))

    reasons = advised(change).reasons
    assert any(
        one.startswith("The bands of place are calibrated: the 90\u00a0% band contains at least 86 of 100")
        for one in reasons
    )


def beats(found: Measured, signal: str, low: float) -> Measured:
    """With a second signal of which every rival is beaten by `low`."""
    told = found.diagnostics
    (place,) = found.trusted

    def of(curve: SkillCurve) -> SkillCurve:
        ends = replace(curve.skill, low=(low,) * told.horizon)
        return replace(curve, signal=signal, skill=ends)

    errors = (*told.errors, *(replace(one, signal=signal) for one in told.errors))
    skills = (*(of(one) for one in told.skills), *told.skills)
    return replace(
        found, trusted=(replace(place, signal=signal), place), diagnostics=replace(told, errors=errors, skills=skills)
    )


def test_what_is_beaten_is_said_of_each_signal_apart() -> None:
    reasons = advised(lambda found: beats(found, "other", 0.5)).reasons
    assert reasons[0].startswith(
        "It predicts other better than persistence, an action-blind model and a linear model at"
    )
    assert reasons[1].startswith(
        "It predicts place better than persistence and an action-blind model, and as well as a linear model, at"
    )
    alike = advised(lambda found: beats(found, "other", -0.01)).reasons
    assert alike[0].startswith(
        "It predicts other as well as a linear model, and no worse than persistence and an action-blind model, at"
    )


def test_the_growth_of_the_error_is_a_reason() -> None:
    def change(found: Measured) -> Measured:
        gaps = (
            Gap(change="zeroed", signal=None, increase=Estimate(value=0.5, low=0.1, high=0.9)),
            Gap(change="shuffled", signal=None, increase=Estimate(value=0.6, low=0.5, high=0.8)),
        )
        return replace(found, diagnostics=replace(found.diagnostics, gaps=gaps))

    said = "its error grows by 50.0\u00a0% when they are set to zero and by 60.0\u00a0% when they are shuffled across"
    assert any(said in reason for reason in advised(change).reasons)


@pytest.mark.parametrize("twins", [True, False])
def test_effects_that_nothing_was_held_against_are_a_limit(twins: bool) -> None:
    limits = advised(each("effects", logs=None, agreement="not resolved"), twins=twins).limits
    assert any("Effects of actions were not checked" in limit for limit in limits) is not twins


def test_effects_that_the_logs_do_not_resolve_are_a_limit() -> None:
    limits = advised(each("effects", agreement="not resolved")).limits
    assert any("Effects of actions are not resolved" in limit for limit in limits)
    assert not any("too many signals" in limit for limit in limits)


def curve(*values: float) -> Curve:
    return Curve(value=values, low=values, high=values)


@pytest.mark.parametrize(("lost", "step"), [(math.nan, 5), (math.inf, 1)])
def test_what_is_not_finite_speaks_against_the_world_and_for_no_rival(lost: float, step: int) -> None:
    def change(found: Measured) -> Measured:
        told = found.diagnostics
        own = curve(*(0.1 if k < step else lost for k in range(1, told.horizon + 1)))
        errors = tuple(one if one.world else replace(one, rmse=own) for one in told.errors)
        gaps = tuple(replace(one, increase=Estimate(value=math.nan, low=math.nan, high=math.nan)) for one in told.gaps)
        trusted = tuple(replace(one, steps=step - 1, stops="persistence") for one in found.trusted)
        return replace(found, trusted=trusted, diagnostics=replace(told, errors=errors, gaps=gaps))

    decision = advised(change)
    assert decision.advice is Advice.NO
    assert decision.reasons == (
        "Predictions of place are not finite.",
        "Predictions are not finite under changed actions.",
    )
    assert not any("persistence" in line or "nan" in line for line in decision.limits)


def test_steps_that_were_never_observed_are_not_held_against_the_world() -> None:
    def change(found: Measured) -> Measured:
        told = found.diagnostics
        own = curve(*([math.nan] + [0.1] * (told.horizon - 1)))
        return replace(found, diagnostics=replace(told, errors=tuple(replace(one, rmse=own) for one in told.errors)))

    assert advised(change).advice is Advice.DEPLOY


def lost(found: Measured) -> Measured:
    gaps = tuple(replace(one, increase=replace(one.increase, value=math.nan)) for one in found.diagnostics.gaps)
    return replace(found, diagnostics=replace(found.diagnostics, gaps=gaps))


def test_what_is_not_finite_under_other_actions_alone_speaks_against_the_world() -> None:
    assert "Predictions are not finite under changed actions." in advised(lost).reasons


def test_predictions_that_no_figure_is_of_are_a_limit() -> None:
    alarm = Signal(name="alarm", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2)
    camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(8, 8, 3))
    graded = SCHEMA.observations
    decision = advised(lambda found: replace(found, unchecked=tuple(ungraded([*graded, alarm, camera], graded))))
    assert decision.advice is Advice.LIMITS
    assert decision.limits[0].startswith("Not graded: alarm (discrete) and camera (image).")


def about(value: float, error: float = 0.0) -> Estimate:
    return Estimate(value=value, low=value - error, high=value + error)


def heard(found: Measured, told: Agreement, moved: float, *, grown: float = 0.03) -> Measured:
    """Its effects are so told and as large as `moved`; on the whole its error grows by `grown`."""
    gaps = tuple(replace(one, increase=about(grown, 0.005)) for one in found.diagnostics.gaps)
    found = each("effects", agreement=told, world=about(moved))(found)
    return replace(found, diagnostics=replace(found.diagnostics, gaps=gaps))


@pytest.mark.parametrize(("grown", "advice"), [(0.02, Advice.NO), (4.0, Advice.DEPLOY)])
def test_who_listens_where_actions_matter_is_not_deaf(grown: float, advice: Advice) -> None:
    """On the whole its error hardly grows, as most of its signals are moved by something else."""

    def change(found: Measured) -> Measured:
        found = heard(found, "none", 0.0)
        own = about(grown, 0.005)
        gaps = tuple(replace(one, increase=own) if one.signal else one for one in found.diagnostics.gaps)
        return replace(found, diagnostics=replace(found.diagnostics, gaps=gaps))

    assert advised(change).advice is advice


@pytest.mark.parametrize(
    ("told", "moved", "grown", "said"),
    [
        ("apart", 0.0, 0.03, "It ignores its actions: with"),
        ("apart", -2.0, 0.03, "Its error does not grow with wrong actions: with"),
        ("none", 0.01, -0.36, "Its error does not grow with wrong actions: with"),
        ("agrees", 0.2, 0.03, ""),
    ],
)
def test_only_who_does_nothing_with_its_actions_is_deaf(told: Agreement, moved: float, grown: float, said: str) -> None:
    decision = advised(lambda found: heard(found, told, moved, grown=grown))
    assert decision.advice is (Advice.NO if said else Advice.DEPLOY)
    assert not said or decision.reasons[0].startswith(said)


@pytest.mark.parametrize(
    ("preferred", "advice"), [(0.95, Advice.LIMITS), (0.8, Advice.LIMITS), (0.55, Advice.NO), (None, Advice.NO)]
)
def test_who_plans_to_logged_goals_is_not_refused_as_deaf(preferred: float | None, advice: Advice) -> None:
    """A world that ignores its actions prefers the logged ones by chance, 0.5."""

    def change(found: Measured) -> Measured:
        found = heard(found, "apart", 0.0)
        if preferred is None:
            return found
        sizes = {"steps": 6, "num_segments": 80, "num_episodes": 20, "num_others": 24}
        goals = GoalRanking(goals=("place",), **sizes, preferred=about(preferred, 0.02))
        return replace(found, goals=goals)

    found = advised(change)
    assert found.advice is advice
    texts = found.limits if advice is Advice.LIMITS else found.reasons
    refused = advice is Advice.NO
    assert any(one.startswith("Its error does not grow with wrong actions") for one in texts) is not refused
    assert any(one.startswith("It ignores its actions") for one in texts) is refused
    assert any("the world ignores its actions" in one for one in found.help) is refused


def test_few_changes_of_an_action_are_named() -> None:
    found = advised(each("excitation", enough=False, num_changes=2))
    assert any("Do not plan with push: it changes only 2 times in these logs" in one for one in found.limits)
    assert any(
        one.startswith("More changes of push, to levels drawn at random: these logs have 2") for one in found.help
    )


def test_help_is_what_helps_against_what_is_wrong() -> None:
    def behind(found: Measured) -> Measured:
        worse = curve(*[-0.2] * found.diagnostics.horizon)
        skills = tuple(replace(one, skill=worse) for one in found.diagnostics.skills)
        return replace(found, diagnostics=replace(found.diagnostics, skills=skills))

    assert len(decide(good(twins=False)).help) == 1
    assert "longer training: a linear model predicts place better." in advised(behind).help[0]
    assert "Another training" in advised(lost).help[0]
    assert "Training logs in which push varies" in advised(lambda found: heard(found, "apart", 0.0)).help[0]
    assert "Correct signs and clocks" in advised(lambda found: heard(found, "opposite", -2.0, grown=0.5)).help[0]
    assert decide(good(twins=True)).help == ()
    assert "the world fails C1" in advised(each("twins", verdict=Verdict.FAIL), twins=True).help[0]
