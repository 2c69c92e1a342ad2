"""Advice on the deployment of a world, as a function of the measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from worldline.audit.audit_evidence import (
    AGREEMENTS,
    Advice,
    Decision,
    Effect,
    JointCoverage,
    Measured,
    Trusted,
    TwinTest,
)
from worldline.audit.diagnostics import Gap
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.excitation import MIN_EPISODES, MIN_EXCITATION
from worldline.audit.findings import NEGLIGIBLE, ReportFinding, compare_errors, goal_reaching, grown
from worldline.audit.grades import Verdict
from worldline.audit.measures import GATE
from worldline.audit.verdicts import weakest
from worldline.data.quality.predictability import MIN_CHANGES
from worldline.formatting import label, listing, number, percent, plural, quantity, round_percent, span

MAX_COVERAGE_GAP: Final = 0.2
"""Largest shortfall of the measured coverage from the nominal one; below it a world is not deployed."""
MIN_OPPOSITE_SHARE: Final = 0.25
"""Share of identified effects with the opposite sign from which a world is not deployed."""
LINEAR: Final = "linear"
_BASELINE_NAMES: Final = {"action_blind": "an action-blind model", LINEAR: "a linear model"}
_IDENTIFIED: Final = ("agrees", "apart", "opposite")
NO_TWINS: Final = "Causal effects were not tested against twins. Logs alone cannot confirm them."


def decide(found: Measured) -> Decision:
    """Advice on the world, with reasons, limits and the data that would help.

    Args:
        found: all measurements.
    """
    known = cause_of(found) is Verdict.PASS
    graded = _finite(found)
    weak, wrong, reaches = (
        [*_no_skill(graded), *_ignores_actions(graded)],
        _wrong_effects(graded),
        _reaches_goals(found),
    )
    against = [*_broken(found), *_not_finite(found), *_no_goals(found), *([] if reaches else weak), *wrong]
    against += [f"It fails the twin test {one.name} ({one.title})." for one in _failed_tests(found)]
    limits = [*(weak if reaches else []), *_rough_goals(found)]
    limits += [*_horizons(graded), *_bands(found), *_unidentified(found, known), *_unchecked(found, known)]
    limits += [] if wrong or (_ignores_actions(graded) and not reaches) else _different_effects(graded)
    limits += [*found.unchecked, *_weak_twin_tests(found), *_regions(found), *_few(found)]
    wanted = dict.fromkeys([*_data(found, known), *_learning(graded), *_twins(found), *found.data.advice])
    return Decision(
        advice=Advice.NO if against else Advice.LIMITS if limits else Advice.DEPLOY,
        reasons=tuple(against or _good(found)),
        limits=tuple(limits),
        help=tuple(wanted),
        cause=cause_of(found),
    )


def cause_of(found: Measured) -> Verdict:
    """Verdict of the twin test of causal effects; NOT MEASURED without twins."""
    return next((one.verdict for one in found.twins if one.name == "C1"), Verdict.NOT_MEASURED)


def trusted_signals(found: Measured) -> list[Trusted]:
    """The signals that are predicted better than by the baselines for at least one step."""
    return [one for one in found.trusted if one.steps > 0]


def identified_effects(found: Measured) -> list[Effect]:
    """The effects that the logs show, at every lag, and those that only the world has."""
    return [one for one in found.effects if one.agreement in _IDENTIFIED]


def effect_rows(found: Measured) -> list[Effect]:
    """One effect for each pair of action and signal: the largest of those with the worst agreement."""
    return [worst_effect(group) for group in effect_pairs(found)]


def effect_pairs(found: Measured) -> list[list[Effect]]:
    """The effects of each pair of action and signal, at every lag."""
    pairs: dict[tuple[str, str], list[Effect]] = {}
    for one in found.effects:
        pairs.setdefault((one.action, one.signal), []).append(one)
    return list(pairs.values())


def worst_effect(group: Sequence[Effect]) -> Effect:
    """The effect that a pair of action and signal counts by: the largest of those with the worst agreement."""
    worst = min((one.agreement for one in group), key=AGREEMENTS.index)
    return max((one for one in group if one.agreement == worst), key=effect_size)


def effect_size(one: Effect) -> float:
    """The size of an effect in the logs, else in the world."""
    return abs((one.logs or one.world).value)


def identified_rows(found: Measured) -> list[Effect]:
    """The rows of pairs with an effect in the logs; texts count these, as tables show them."""
    return [one for one in effect_rows(found) if one.agreement in _IDENTIFIED]


def not_finite(found: Measured) -> dict[str, int]:
    """The first step, from 1, at which the prediction of a signal is not finite; other signals are left out.

    Steps that were never observed have no known error, neither of the world nor of a baseline. They are ignored.
    """
    errors = found.diagnostics.errors
    first: dict[str, int] = {}
    for own in errors:
        if own.world:
            continue
        others = [one.rmse.value for one in errors if one.world and one.signal == own.signal]
        for step, (value, *theirs) in enumerate(zip(own.rmse.value, *others, strict=True), 1):
            if not isfinite(value) and any(map(isfinite, theirs)):
                first.setdefault(own.signal, step)
    return first


def _finite(found: Measured) -> Measured:
    """The measurements without signals and effects that are not finite, which `_not_finite` reports."""
    lost = not_finite(found)
    return replace(
        found,
        trusted=tuple(one for one in found.trusted if one.signal not in lost),
        effects=tuple(one for one in found.effects if isfinite(one.world.value)),
    )


# Reasons against deployment.


def _not_finite(found: Measured) -> list[str]:
    lost = not_finite(found)
    if lost:
        places = [f"{label(name)} from step {step} on" for name, step in lost.items()]
        return [f"Predictions are not finite: {listing(places)}."]
    values = [one.increase.value for one in found.diagnostics.gaps] + [one.world.value for one in found.effects]
    return [] if all(map(isfinite, values)) else ["Predictions are not finite under changed actions."]


def _broken(found: Measured) -> Iterable[str]:
    leak = found.leak
    if leak.leaks:
        yield (
            f"Predictions depend on later actions: these change {label(leak.signal)} by {percent(leak.worst)}. "
            "This is a bug in the world, and it makes the other figures too good."
        )
    if found.rank.collapsed:
        yield (
            f"Predictions hardly depend on the history: they have {percent(found.rank.spread)} of the variance of the "
            "observations."
        )
    for one in found.coverage:
        if one.inside.high < one.level - MAX_COVERAGE_GAP:
            yield (
                f"Its bands are far too narrow: the {round_percent(one.level)} band of {label(one.signal)} contains "
                f"{one.inside.successes} of {one.inside.trials} trajectories."
            )


def _no_skill(found: Measured) -> list[str]:
    if not found.trusted and not not_finite(found):
        return ["No predicted signal varies in these logs, so nothing could be graded."]
    if trusted_signals(found) or not found.trusted:
        return []
    return [f"No signal can be trusted: {_end_reasons(found.trusted)} from the first step."]


def _no_goals(found: Measured) -> list[str]:
    """A reason if the world cannot plan to logged goals."""
    finding = _goal_reaching(found)
    return [finding.text] if finding is not None and finding.verdict == "bad" else []


def _rough_goals(found: Measured) -> list[str]:
    """A limit if the world plans to logged goals only roughly."""
    finding = _goal_reaching(found)
    if finding is None or finding.verdict != "unclear":
        return []
    return [f"{finding.text} Replan often, and measure success before you rely on its plans."]


def _reaches_goals(found: Measured) -> bool:
    """Whether plans to logged goals are possible.

    Such a world is useful although a baseline predicts better. It also uses its actions: without them, it prefers the
    logged ones to half of the others, as by chance.
    """
    finding = _goal_reaching(found)
    return finding is not None and finding.verdict != "bad"


def _goal_reaching(found: Measured) -> ReportFinding | None:
    """Whether the world can plan to logged goals; None if it was not measured."""
    return None if found.goals is None else goal_reaching(found.goals)


def _wrong_effects(found: Measured) -> list[str]:
    """A reason if many identified effects have the opposite sign."""
    effects = identified_effects(found)
    num_wrong = sum(one.agreement == "opposite" for one in effects)
    if num_wrong < max(2, MIN_OPPOSITE_SHARE * len(effects)):
        return []
    rows = identified_rows(found)
    wrong = [row for row in rows if row.agreement == "opposite"]
    return [
        f"It predicts the wrong direction for {len(wrong)} of {plural(len(rows), 'effect')} in the logs, "
        f"such as {label(wrong[0].action)} on {label(wrong[0].signal)}."
    ]


def _ignores_actions(found: Measured) -> list[str]:
    """A reason if the error does not depend on the actions, unless most effects agree with the logs.

    It is only a limit of a world that plans to logged goals, which needs effects of actions.
    """
    weakest, effects = weakest_gap(found.diagnostics.gaps), identified_effects(found)
    if weakest is None or not (effects or _any_excited(found)):
        return []
    if any(one.increase.high >= NEGLIGIBLE for one in found.diagnostics.gaps if one.change == weakest.change):
        return []  # actions matter overall, or for one signal among many that they do not move
    if sum(one.agreement == "agrees" for one in effects) > len(effects) / 2:
        return []
    how = "set to zero" if weakest.change == "zeroed" else "shuffled across episodes"
    change = percent(weakest.increase.value, signed=True)
    moved = any(abs(one.world.value) >= MIN_EFFECT_SHARE * one.spread for one in found.effects)
    if moved or weakest.increase.high < -NEGLIGIBLE or _reaches_goals(found):
        return [f"Its error does not grow with wrong actions: with actions {how} it changes by {change}."]
    return [f"It ignores its actions: with actions {how} its error changes by {change}."]


def weakest_gap(gaps: Sequence[Gap]) -> Gap | None:
    """The change of the actions with the smallest growth of the error over all signals."""
    overall = [one for one in gaps if one.signal is None and isfinite(one.increase.high)]
    return min(overall, key=lambda one: one.increase.high, default=None)


def baselines_beaten(found: Measured, one: Trusted) -> str:
    """The baselines that the world beats, equals, or is not worse than, up to the trusted horizon, in words."""
    curves = {curve.against: curve.skill for curve in found.diagnostics.skills if curve.signal == one.signal}
    names = [error.world for error in found.diagnostics.errors if error.world and error.signal == one.signal]
    orders = {name: {compare_errors(curves[name].at(step)) for step in range(1, one.steps + 1)} for name in curves}
    groups: dict[str, list[str]] = {"better than": [], "as well as": [], "no worse than": []}
    for name in names:
        found_orders = orders.get(name, {"unclear"})
        if found_orders == {"better"}:
            groups["better than"].append(name)
        elif found_orders <= {"better", "equivalent"}:
            groups["as well as"].append(name)
        else:
            groups["no worse than"].append(name)
    parts = [f"{how} {_names(group)}" for how, group in groups.items() if group]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]},"


def _names(names: Iterable[str]) -> str:
    return listing([_BASELINE_NAMES.get(name, label(name)) for name in names])


def end_reason(name: str) -> str:
    """Why the trusted horizon ends: the linear model is better, or another baseline is as good."""
    return "a linear model is better" if name == LINEAR else f"{_BASELINE_NAMES.get(name, label(name))} is as good"


def _labels(names: Iterable[str]) -> str:
    return listing([label(name) for name in names])


def _end_reasons(trusted: Iterable[Trusted]) -> str:
    return listing(list(dict.fromkeys(end_reason(one.stops) for one in trusted)))


def _any_excited(found: Measured) -> bool:
    return any(one.enough for one in found.excitation)


def _failed_tests(found: Measured) -> list[TwinTest]:
    return [one for one in found.twins if one.verdict is Verdict.FAIL and one.name in ("C1", "T1")]


# Limits of use.


def _horizons(found: Measured) -> Iterable[str]:
    """Signals that must not be used, and the horizons of the others."""
    useless = [one for one in found.trusted if not one.steps]
    shortened = [one for one in trusted_signals(found) if one.steps < one.of]
    for steps in sorted({one.steps for one in shortened}):
        group = [one for one in shortened if one.steps == steps]
        names, longest = _labels(one.signal for one in group), span(steps, found.diagnostics.step_s)
        yield f"Predict {names} for at most {longest}: after that, {_end_reasons(group)}."
    if useless and trusted_signals(found):
        names = _labels(one.signal for one in useless)
        yield f"Do not use predictions of {names}: {_end_reasons(useless)} from the first step."


def _bands(found: Measured) -> Iterable[str]:
    if not found.coverage:
        yield "It has no prediction bands: its uncertainty is unknown, and plans cannot use chance constraints."
    for one in found.coverage:
        count = f"{one.inside.successes} of {one.inside.trials}"
        if narrow(one):
            chance = "" if one.verdict == "narrow" else " With few calibration episodes, this may be chance."
            yield (
                f"Recalibrate the bands of {label(one.signal)} before you rely on them: the "
                f"{round_percent(one.level)} band contains {count} trajectories.{chance}"
            )
        elif one.verdict == "wide":
            yield (
                f"The bands of {label(one.signal)} are wider than necessary: the {round_percent(one.level)} band "
                f"contains {count} trajectories. Constraints may reject safe plans."
            )


def narrow(one: JointCoverage) -> bool:
    """Whether the measured coverage is significantly below the nominal one, for whatever reason."""
    return one.inside.high < one.level


def _unidentified(found: Measured, known: bool) -> Iterable[str]:
    """Actions with unidentified effects; only actions that are constant in the logs if twins confirm the effects."""
    constant = {one.name for one in found.data.actions if one.least == one.greatest}
    dull = [one for one in found.excitation if not one.enough and (not known or one.action in constant)]
    hidden = [] if known else sorted({one.action for one in found.placebo if one.found})
    followed = [one for one in dull if one.num_changes >= MIN_CHANGES]
    if followed:
        names = [f"{label(one.action)} (excitation {number(one.left.value, 2)})" for one in followed]
        yield (
            f"Do not plan with {listing(names)}: the history explains nearly all of the variance, so effects are "
            "NOT IDENTIFIABLE. Forecasts are valid while actions are chosen as in the logs."
        )
    for one in dull:
        if one not in followed:
            yield (
                f"Do not plan with {label(one.action)}: it changes only {_times(one.num_changes)} in these logs, so "
                "effects are NOT IDENTIFIABLE. Forecasts are valid while it stays as in the logs."
            )
    if hidden:
        yield (
            f"Do not treat effects of {_labels(hidden)} as causal: errors of the world predict "
            "the next action, so an unlogged cause may drive both (NOT IDENTIFIABLE)."
        )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _unchecked(found: Measured, known: bool) -> list[str]:
    """A limit if neither logs nor twins could check the predicted effects."""
    if known or any(one.agreement in (*_IDENTIFIED, "none") for one in found.effects):
        return []
    if all(one.agreement == "not identifiable" for one in found.effects) and (found.effects or not _any_excited(found)):
        return []  # `_unidentified` names each action
    if any(one.logs is not None for one in found.effects):
        return ["Effects of actions are not resolved: these logs have too few episodes to show or to exclude them."]
    return ["Effects of actions were not checked: the logs have too few rows or too many signals for a regression."]


def _different_effects(found: Measured) -> Iterable[str]:
    """Effects that differ from the logs, by action and signal."""
    different = [one for one in identified_effects(found) if one.agreement != "agrees"]
    for pair in dict.fromkeys((one.action, one.signal) for one in different):
        wrong = [one for one in different if (one.action, one.signal) == pair]
        worst = max(wrong, key=lambda one: abs(one.world.value - (one.logs.value if one.logs else 0.0)) / one.spread)
        assert worst.logs is not None  # for the type checker
        how = f"{number(worst.world.value / worst.logs.value, 2)} times the effect in the logs"
        if worst.logs.low * worst.logs.high <= 0:
            how = f"{quantity(worst.world.value, worst.unit)}, and the logs show no effect"
        when = span(worst.lag, found.diagnostics.step_s)
        yield (
            f"Check the effect of {label(pair[0])} on {label(pair[1])}: after {when} the world predicts {how}. The "
            "logs are fitted by a linear model; if the effect depends on the state, both may be right."
        )


def _weak_twin_tests(found: Measured) -> list[str]:
    """Tests against twins that were run and not passed, except those that are reasons against deployment."""
    fatal = _failed_tests(found)
    return [
        f"Do not rely on the predicted {one.title}: the twin test {one.name} is {one.verdict}"
        + (f", weakest in {cell.name}." if (cell := weakest(one.grade)) else ".")
        for one in found.twins
        if one.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.ERROR) and one not in fatal
    ]


def _regions(found: Measured) -> Iterable[str]:
    """Parts of an action's range that were never logged."""
    for one in found.data.actions:
        if one.low is None or one.high is None or one.never or one.low >= one.high or one.least == one.greatest:
            continue
        if max(one.least - one.low, one.high - one.greatest) / (one.high - one.low) >= 0.2:
            yield (
                f"Keep {label(one.name)} between {number(one.least)} and {number(one.greatest)}: no other values of "
                f"its range ({number(one.low)} to {number(one.high)}) were logged."
            )
        elif one.used < 0.8:
            yield f"The logs use only {percent(one.used)} of the range of {label(one.name)}."
    for one in found.data.actions:
        if one.never:
            yield f"Do not choose {', '.join(map(str, one.never))} for {label(one.name)}: never logged."


def _few(found: Measured) -> Iterable[str]:
    if found.diagnostics.num_episodes < MIN_EPISODES:
        count = plural(found.diagnostics.num_episodes, "episode")
        yield f"Only {count} could be graded: monitor the world closely, and audit it again with more."


# Reasons for deployment, and data that would help.


def _good(found: Measured) -> Iterable[str]:
    goals = _goal_reaching(found)
    if goals is not None and goals.verdict != "unclear":
        yield goals.text
    best = max((one.steps for one in trusted_signals(found)), default=0)
    longest: dict[str, list[str]] = {}
    for one in trusted_signals(found):
        if one.steps == best:
            longest.setdefault(baselines_beaten(found, one), []).append(label(one.signal))
    for how, names in longest.items():
        ahead = span(best, found.diagnostics.step_s)
        yield f"It predicts {listing(names)} {how} at every step up to {ahead}."
    growth = min((one.increase.low for one in found.diagnostics.gaps if one.signal is None), default=0.0)
    if growth > 0:
        yield f"It uses its actions: with wrong actions its error grows at least {grown(growth)}."
    effects = identified_rows(found)
    right = sum(one.agreement == "agrees" for one in effects)
    if right:
        verb = "agrees" if right == 1 else "agree"
        yield f"{right} of {plural(len(effects), 'effect')} in the logs {verb} with the world."
    valid = [one for one in found.coverage if not narrow(one)]
    if valid:
        worst = min(valid, key=lambda one: one.inside.value)
        all_valid = len(valid) == len(found.coverage)
        which = "Its bands" if all_valid else f"The bands of {_labels(one.signal for one in valid)}"
        yield (
            f"{which} are calibrated: the {round_percent(worst.level)} band contains at least {worst.inside.successes} "
            f"of {plural(worst.inside.trials, 'trajectory')} of each signal."
        )
    yield f"No prediction depends on later actions ({plural(found.leak.num_checked, 'value')} compared)."


def _data(found: Measured, known: bool) -> Iterable[str]:
    for one in found.excitation:
        if not known and not one.enough and one.num_changes < MIN_CHANGES:
            yield (
                f"More changes of {label(one.action)}, to levels drawn at random: these logs have {one.num_changes}, "
                f"and at least {MIN_CHANGES} are needed."
            )
        elif not known and not one.enough:
            yield (
                f"Randomise {label(one.action)} in 10\u00a0% of steps, and flag them in a signal 'randomised': its "
                f"excitation is {number(one.left.value, 2)} and must be at least {number(MIN_EXCITATION)}."
            )
    for action in sorted({one.action for one in found.placebo if one.found}):
        yield (
            f"Log everything that determines {label(action)}, or randomise it in 10\u00a0% of steps and flag them in a "
            "signal 'randomised'. Check the clocks with `worldline check`."
        )
    if found.diagnostics.num_episodes < MIN_EPISODES:
        yield f"More held-out episodes: at least {MIN_EPISODES}, and 100 for narrow intervals."
    short = [label(one.signal) for one in found.coverage if narrow(one)]
    if short:
        yield f"New episodes, logged as in later use, to recalibrate the bands of {listing(short)}."


def _learning(found: Measured) -> Iterable[str]:
    """Training data or settings that would help."""
    if _not_finite(found):
        yield "Another training, with another seed or a smaller learning rate: predictions are not finite."
    linear = [one for one in found.diagnostics.skills if one.against == LINEAR]
    behind = [label(one.signal) for one in linear if any(high < -GATE for high in one.skill.high)]
    if behind:
        yield f"More training episodes, or a longer training: a linear model predicts {listing(behind)} better."
    varied = listing([label(one.action) for one in found.excitation if one.enough])
    if any(one.agreement == "opposite" for one in identified_effects(found)):
        yield "Correct signs and clocks in the training logs (`worldline check`): effects have the opposite direction."
    elif varied and _ignores_actions(found) and not _reaches_goals(found):
        yield f"Training logs in which {varied} varies as in these logs: the world ignores its actions."


def _twins(found: Measured) -> Iterable[str]:
    if cause_of(found) is Verdict.FAIL:
        yield "Training logs in which each action is random in 10\u00a0% of steps: the world fails C1."
    if not found.twins:
        yield "A resettable environment (--env ID), or an experiment with twins: only these test causal effects."
