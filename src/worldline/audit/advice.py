"""Advice on the deployment of a world, as a function of the measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.errors import NEGLIGIBLE, grown
from worldline.audit.excitation import MIN_EPISODES, MIN_EXCITATION
from worldline.audit.grades import Verdict
from worldline.audit.measured import (
    AGREEMENTS,
    Advice,
    Decision,
    Effect,
    JointCoverage,
    Measured,
    Trusted,
    TwinTest,
)
from worldline.audit.measurement import compare_errors
from worldline.audit.measures import GATE
from worldline.audit.verdicts import weakest
from worldline.data.quality.regressions import MIN_CHANGES
from worldline.formatting import label, listing, number, percent, plural, quantity, round_percent, span

MAX_COVERAGE_GAP: Final = 0.2
"""Largest shortfall of the measured coverage from the nominal one; below it a world is not deployed."""
MIN_OPPOSITE_SHARE: Final = 0.25
"""Share of identified effects with the opposite sign from which a world is not deployed."""
LINEAR: Final = "linear"
_BASELINE_NAMES: Final = {"action_blind": "an action-blind model", LINEAR: "a linear model"}
_IDENTIFIED: Final = ("agrees", "apart", "opposite")
NO_TWINS: Final = "Causal effects were not tested against twins. Logs alone cannot confirm them."


def decide(measured: Measured) -> Decision:
    """Advice on the world, with reasons, limits and the data that would help.

    Args:
        measured: all measurements.
    """
    known = cause_of(measured) is Verdict.PASS
    graded, reaches = _finite(measured), _reaches_goals(measured)
    goals = None if measured.goals is None else measured.goals.sentence()
    ignores, wrong = _ignores_actions(graded), _wrong_effects(graded)
    against = [*_broken(measured), *_not_finite(measured)]
    limits: list[str] = []
    if goals is not None and goals.verdict == "bad":
        against.append(goals.text)
    # A world that plans to logged goals is useful although a baseline predicts better, so that is only a limit then.
    (limits if reaches else against).extend([*_no_skill(graded), *ignores])
    against += wrong
    against += [f"It fails the twin test {test.name} ({test.title})." for test in measured.twins if _is_fatal(test)]
    if goals is not None and goals.verdict == "unclear":
        limits.append(f"{goals.text} Replan often, and measure success before you rely on its plans.")
    limits += [*_horizons(graded), *_bands(measured), *_unidentified(measured, known), *_unchecked(measured, known)]
    # If effects are a reason against deployment, a list of their differences adds nothing.
    limits += [] if wrong or (ignores and not reaches) else _different_effects(graded)
    limits += [*measured.unchecked, *_weak_twin_tests(measured), *_regions(measured), *_few(measured)]
    wanted = dict.fromkeys([*_data(measured, known), *_learning(graded), *_twins(measured), *measured.data.advice])
    return Decision(
        advice=Advice.NO if against else Advice.LIMITS if limits else Advice.DEPLOY,
        reasons=tuple(against or _good(measured)),
        limits=tuple(limits),
        help=tuple(wanted),
        cause=cause_of(measured),
    )


def cause_of(measured: Measured) -> Verdict:
    """Verdict of the twin test of causal effects; NOT MEASURED without twins."""
    return next((test.verdict for test in measured.twins if test.name == "C1"), Verdict.NOT_MEASURED)


def trusted_signals(measured: Measured) -> list[Trusted]:
    """The signals that are predicted better than by the baselines for at least one step."""
    return [horizon for horizon in measured.trusted if horizon.steps > 0]


def identified_effects(measured: Measured) -> list[Effect]:
    """The effects that the logs show, at every lag, and those that only the world has."""
    return [effect for effect in measured.effects if effect.agreement in _IDENTIFIED]


def effect_rows(measured: Measured) -> list[Effect]:
    """One effect for each pair of action and signal: the largest of those with the worst agreement."""
    return [worst_effect(group) for group in effect_pairs(measured)]


def effect_pairs(measured: Measured) -> list[list[Effect]]:
    """The effects of each pair of action and signal, at every lag."""
    pairs: dict[tuple[str, str], list[Effect]] = {}
    for effect in measured.effects:
        pairs.setdefault((effect.action, effect.signal), []).append(effect)
    return list(pairs.values())


def worst_effect(group: Sequence[Effect]) -> Effect:
    """The effect that a pair of action and signal counts by: the largest of those with the worst agreement."""
    worst = min((effect.agreement for effect in group), key=AGREEMENTS.index)
    return max((effect for effect in group if effect.agreement == worst), key=effect_size)


def effect_size(effect: Effect) -> float:
    """The size of an effect in the logs, else in the world."""
    return abs((effect.logs or effect.world).value)


def confounded_actions(measured: Measured) -> list[str]:
    """The actions that the errors of the world predict, sorted."""
    return sorted({placebo.action for placebo in measured.placebo if placebo.found})


def identified_rows(measured: Measured) -> list[Effect]:
    """The rows of pairs with an effect in the logs; texts count these, as tables show them."""
    return [effect for effect in effect_rows(measured) if effect.agreement in _IDENTIFIED]


def share_that_agrees(effects: Sequence[Effect]) -> str:
    """How many effects in the logs agree with the world, in words."""
    right = sum(effect.agreement == "agrees" for effect in effects)
    verb = "agrees" if right == 1 else "agree"
    return f"{right} of {plural(len(effects), 'effect')} in the logs {verb} with the world"


def not_finite(measured: Measured) -> dict[str, int]:
    """The first step, from 1, at which the prediction of a signal is not finite; other signals are left out.

    Steps that were never observed have no known error, neither of the world nor of a baseline. They are ignored.
    """
    first: dict[str, int] = {}
    for signal in (error.signal for error in measured.diagnostics.own):
        errors = measured.diagnostics.errors_of(signal)
        values = [errors.pop("").value, *(theirs.value for theirs in errors.values())]
        for step, (own, *others) in enumerate(zip(*values, strict=True), 1):
            if not isfinite(own) and any(map(isfinite, others)):
                first.setdefault(signal, step)
    return first


def _finite(measured: Measured) -> Measured:
    """The measurements without signals and effects that are not finite, which `_not_finite` reports."""
    lost = not_finite(measured)
    return replace(
        measured,
        trusted=tuple(horizon for horizon in measured.trusted if horizon.signal not in lost),
        effects=tuple(effect for effect in measured.effects if isfinite(effect.world.value)),
    )


# Reasons against deployment.


def _not_finite(measured: Measured) -> list[str]:
    lost = not_finite(measured)
    if lost:
        places = [f"{name} from step {step} on" for name, step in lost.items()]
        return [f"Predictions are not finite: {listing(places)}."]
    values = [gap.increase.value for gap in measured.diagnostics.gaps] + [
        effect.world.value for effect in measured.effects
    ]
    return [] if all(map(isfinite, values)) else ["Predictions are not finite under changed actions."]


def _broken(measured: Measured) -> Iterable[str]:
    leak = measured.leak
    if leak.leaks:
        yield (
            f"Predictions depend on later actions: these change {leak.signal} by {percent(leak.worst)}. "
            "This is a bug in the world, and it makes the other figures too good."
        )
    if measured.rank.collapsed:
        yield (
            f"Predictions hardly depend on the history: they have {percent(measured.rank.spread)} of the variance of "
            "the observations."
        )
    for band in measured.coverage:
        if band.inside.high < band.level - MAX_COVERAGE_GAP:
            yield (
                f"Its bands are far too narrow: the {round_percent(band.level)} band of {band.signal} contains "
                f"{band.inside.successes} of {band.inside.trials} trajectories."
            )


def _no_skill(measured: Measured) -> list[str]:
    if not measured.trusted and not not_finite(measured):
        return ["No predicted signal varies in these logs, so nothing could be graded."]
    if trusted_signals(measured) or not measured.trusted:
        return []
    return [f"No signal can be trusted: {_end_reasons(measured.trusted)} from the first step."]


def _reaches_goals(measured: Measured) -> bool:
    """Whether plans to logged goals are possible.

    Such a world is useful although a baseline predicts better. It also uses its actions: without them, it prefers the
    logged ones to half of the others, as by chance.
    """
    return measured.goals is not None and measured.goals.verdict != "bad"


def _wrong_effects(measured: Measured) -> list[str]:
    """A reason if many identified effects have the opposite sign."""
    effects = identified_effects(measured)
    num_wrong = sum(effect.agreement == "opposite" for effect in effects)
    if num_wrong < max(2, MIN_OPPOSITE_SHARE * len(effects)):
        return []
    rows = identified_rows(measured)
    wrong = [row for row in rows if row.agreement == "opposite"]
    return [
        f"It predicts the wrong direction for {len(wrong)} of {plural(len(rows), 'effect')} in the logs, "
        f"such as {wrong[0].action} on {wrong[0].signal}."
    ]


def _ignores_actions(measured: Measured) -> list[str]:
    """A reason if the error does not depend on the actions, unless most effects agree with the logs.

    It is only a limit of a world that plans to logged goals, which needs effects of actions.
    """
    overall = [gap for gap in measured.diagnostics.gaps if gap.signal is None and isfinite(gap.increase.high)]
    weakest = min(overall, key=lambda gap: gap.increase.high, default=None)
    effects = identified_effects(measured)
    if weakest is None or not (effects or _any_excited(measured)):
        return []
    if any(gap.increase.high >= NEGLIGIBLE for gap in measured.diagnostics.gaps if gap.change == weakest.change):
        return []  # actions matter overall, or for one signal among many that they do not move
    if sum(effect.agreement == "agrees" for effect in effects) > len(effects) / 2:
        return []
    how = "set to zero" if weakest.change == "zeroed" else "shuffled across episodes"
    change = percent(weakest.increase.value, signed=True)
    moved = any(abs(effect.world.value) >= MIN_EFFECT_SHARE * effect.spread for effect in measured.effects)
    if moved or weakest.increase.high < -NEGLIGIBLE or _reaches_goals(measured):
        return [f"Its error does not grow with wrong actions: with actions {how} it changes by {change}."]
    return [f"It ignores its actions: with actions {how} its error changes by {change}."]


def baselines_beaten(measured: Measured, horizon: Trusted) -> str:
    """The baselines that the world beats, equals, or is not worse than, up to the trusted horizon, in words."""
    curves = measured.diagnostics.skills_of(horizon.signal)
    groups: dict[str, list[str]] = {"better than": [], "as well as": [], "no worse than": []}
    for name in filter(None, measured.diagnostics.errors_of(horizon.signal)):
        skills = [curves[name].at(step) for step in range(1, horizon.steps + 1)] if name in curves else []
        outcomes = set(map(compare_errors, skills)) or {"unclear"}
        equal = "as well as" if outcomes <= {"better", "equivalent"} else "no worse than"
        groups["better than" if outcomes == {"better"} else equal].append(_BASELINE_NAMES.get(name, label(name)))
    parts = [f"{how} {listing(names)}" for how, names in groups.items() if names]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]},"


def _end_reasons(trusted: Iterable[Trusted]) -> str:
    """Why trusted horizons end: the linear model is better, or another baseline is as good."""
    reasons = {LINEAR: "a linear model is better"}
    names = dict.fromkeys(horizon.stops for horizon in trusted)
    return listing([reasons.get(name, f"{_BASELINE_NAMES.get(name, label(name))} is as good") for name in names])


def _any_excited(measured: Measured) -> bool:
    return any(excitation.enough for excitation in measured.excitation)


def _is_fatal(test: TwinTest) -> bool:
    """Whether the failure of the test is a reason against deployment."""
    return test.verdict is Verdict.FAIL and test.name in ("C1", "T1")


# Limits of use.


def _horizons(measured: Measured) -> Iterable[str]:
    """Signals that must not be used, and the horizons of the others."""
    useless = [horizon for horizon in measured.trusted if not horizon.steps]
    shortened = [horizon for horizon in trusted_signals(measured) if horizon.steps < horizon.of]
    for steps in sorted({horizon.steps for horizon in shortened}):
        group = [horizon for horizon in shortened if horizon.steps == steps]
        names, longest = listing([horizon.signal for horizon in group]), span(steps, measured.diagnostics.step_s)
        yield f"Predict {names} for at most {longest}: after that, {_end_reasons(group)}."
    if useless and trusted_signals(measured):
        names = listing([horizon.signal for horizon in useless])
        yield f"Do not use predictions of {names}: {_end_reasons(useless)} from the first step."


def _bands(measured: Measured) -> Iterable[str]:
    if not measured.coverage:
        yield "It has no prediction bands: its uncertainty is unknown, and plans cannot use chance constraints."
    for band in measured.coverage:
        count = f"{band.inside.successes} of {band.inside.trials}"
        if narrow(band):
            chance = "" if band.verdict == "narrow" else " With few calibration episodes, this may be chance."
            yield (
                f"Recalibrate the bands of {band.signal} before you rely on them: the "
                f"{round_percent(band.level)} band contains {count} trajectories.{chance}"
            )
        elif band.verdict == "wide":
            yield (
                f"The bands of {band.signal} are wider than necessary: the {round_percent(band.level)} band "
                f"contains {count} trajectories. Constraints may reject safe plans."
            )


def narrow(band: JointCoverage) -> bool:
    """Whether the measured coverage is significantly below the nominal one, for whatever reason."""
    return band.inside.high < band.level


def _unidentified(measured: Measured, known: bool) -> Iterable[str]:
    """Actions with unidentified effects; only actions that are constant in the logs if twins confirm the effects."""
    constant = {action.name for action in measured.data.actions if action.least == action.greatest}
    dull = [row for row in measured.excitation if not row.enough and (not known or row.action in constant)]
    followed = [row for row in dull if row.num_changes >= MIN_CHANGES]
    if followed:
        names = [f"{row.action} (excitation {number(row.left.value, 2)})" for row in followed]
        yield (
            f"Do not plan with {listing(names)}: the history explains nearly all of the variance, so effects are "
            "NOT IDENTIFIABLE. Forecasts are valid while actions are chosen as in the logs."
        )
    for row in dull:
        if row.num_changes < MIN_CHANGES:
            times = "once" if row.num_changes == 1 else f"{row.num_changes} times"
            yield (
                f"Do not plan with {row.action}: it changes only {times} in these logs, so effects are NOT "
                "IDENTIFIABLE. Forecasts are valid while it stays as in the logs."
            )
    if not known and (hidden := confounded_actions(measured)):
        yield (
            f"Do not treat effects of {listing(hidden)} as causal: errors of the world predict "
            "the next action, so an unlogged cause may drive both (NOT IDENTIFIABLE)."
        )


def _unchecked(measured: Measured, known: bool) -> list[str]:
    """A limit if neither logs nor twins could check the predicted effects."""
    if known or any(effect.agreement in (*_IDENTIFIED, "none") for effect in measured.effects):
        return []
    if all(effect.agreement == "not identifiable" for effect in measured.effects) and (
        measured.effects or not _any_excited(measured)
    ):
        return []  # `_unidentified` names each action
    if any(effect.logs is not None for effect in measured.effects):
        return ["Effects of actions are not resolved: these logs have too few episodes to show or to exclude them."]
    return ["Effects of actions were not checked: the logs have too few rows or too many signals for a regression."]


def _different_effects(measured: Measured) -> Iterable[str]:
    """Effects that differ from the logs, by action and signal."""
    for pair in effect_pairs(measured):
        different = [(row, row.logs) for row in pair if row.agreement in ("apart", "opposite") and row.logs is not None]
        if not different:
            continue
        worst, logs = max(different, key=lambda row: abs(row[0].world.value - row[1].value) / row[0].spread)
        how = f"{number(worst.world.value / logs.value, 2)} times the effect in the logs"
        if logs.low * logs.high <= 0:
            how = f"{quantity(worst.world.value, worst.unit)}, and the logs show no effect"
        when = span(worst.lag, measured.diagnostics.step_s)
        yield (
            f"Check the effect of {worst.action} on {worst.signal}: after {when} the world predicts {how}. The "
            "logs are fitted by a linear model; if the effect depends on the state, both may be right."
        )


def _weak_twin_tests(measured: Measured) -> list[str]:
    """Tests against twins that were run and not passed, except those that are reasons against deployment."""
    return [
        f"Do not rely on the predicted {test.title}: the twin test {test.name} is {test.verdict}"
        + (f", weakest in {cell.name}." if (cell := weakest(test.grade)) else ".")
        for test in measured.twins
        if test.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.ERROR) and not _is_fatal(test)
    ]


def _regions(measured: Measured) -> Iterable[str]:
    """Parts of an action's range that were never logged."""
    for action in measured.data.actions:
        low, high, least, greatest = action.low, action.high, action.least, action.greatest
        if low is None or high is None or action.never or low >= high or least == greatest:
            continue
        if max(least - low, high - greatest) / (high - low) >= 0.2:
            yield (
                f"Keep {action.name} between {number(least)} and {number(greatest)}: no other values of its "
                f"range ({number(low)} to {number(high)}) were logged."
            )
        elif action.used < 0.8:
            yield f"The logs use only {percent(action.used)} of the range of {action.name}."
    for action in measured.data.actions:
        if action.never:
            yield f"Do not choose {', '.join(map(str, action.never))} for {action.name}: never logged."


def _few(measured: Measured) -> Iterable[str]:
    if measured.diagnostics.num_episodes < MIN_EPISODES:
        count = plural(measured.diagnostics.num_episodes, "episode")
        yield f"Only {count} could be graded: monitor the world closely, and audit it again with more."


# Reasons for deployment, and data that would help.


def _good(measured: Measured) -> Iterable[str]:
    if measured.goals is not None and measured.goals.verdict != "unclear":
        yield measured.goals.sentence().text
    best = max((horizon.steps for horizon in trusted_signals(measured)), default=0)
    longest: dict[str, list[str]] = {}
    for horizon in trusted_signals(measured):
        if horizon.steps == best:
            longest.setdefault(baselines_beaten(measured, horizon), []).append(horizon.signal)
    for how, names in longest.items():
        ahead = span(best, measured.diagnostics.step_s)
        yield f"It predicts {listing(names)} {how} at every step up to {ahead}."
    growth = min((gap.increase.low for gap in measured.diagnostics.gaps if gap.signal is None), default=0.0)
    if growth > 0:
        yield f"It uses its actions: with wrong actions its error grows at least {grown(growth)}."
    effects = identified_rows(measured)
    if any(effect.agreement == "agrees" for effect in effects):
        yield f"{share_that_agrees(effects)}."
    valid = [band for band in measured.coverage if not narrow(band)]
    if valid:
        worst = min(valid, key=lambda band: band.inside.value)
        all_valid = len(valid) == len(measured.coverage)
        which = "Its bands" if all_valid else f"The bands of {listing([band.signal for band in valid])}"
        yield (
            f"{which} are calibrated: the {round_percent(worst.level)} band contains at least {worst.inside.successes} "
            f"of {plural(worst.inside.trials, 'trajectory')} of each signal."
        )
    yield f"No prediction depends on later actions ({plural(measured.leak.num_checked, 'value')} compared)."


def _data(measured: Measured, known: bool) -> Iterable[str]:
    for row in [] if known else [row for row in measured.excitation if not row.enough]:
        if row.num_changes < MIN_CHANGES:
            yield (
                f"More changes of {row.action}, to levels drawn at random: these logs have {row.num_changes}, and at "
                f"least {MIN_CHANGES} are needed."
            )
        else:
            yield (
                f"Randomise {row.action} in 10\u00a0% of steps, and flag them in a signal 'randomised': its excitation "
                f"is {number(row.left.value, 2)} and must be at least {number(MIN_EXCITATION)}."
            )
    for action in confounded_actions(measured):
        yield (
            f"Log everything that determines {action}, or randomise it in 10\u00a0% of steps and flag them in a "
            "signal 'randomised'. Check the clocks with `worldline check`."
        )
    if measured.diagnostics.num_episodes < MIN_EPISODES:
        yield f"More held-out episodes: at least {MIN_EPISODES}, and 100 for narrow intervals."
    short = [band.signal for band in measured.coverage if narrow(band)]
    if short:
        yield f"New episodes, logged as in later use, to recalibrate the bands of {listing(short)}."


def _learning(measured: Measured) -> Iterable[str]:
    """Training data or settings that would help."""
    if _not_finite(measured):
        yield "Another training, with another seed or a smaller learning rate: predictions are not finite."
    linear = [curve for curve in measured.diagnostics.skills if curve.against == LINEAR]
    behind = [curve.signal for curve in linear if any(high < -GATE for high in curve.skill.high)]
    if behind:
        yield f"More training episodes, or a longer training: a linear model predicts {listing(behind)} better."
    varied = listing([excitation.action for excitation in measured.excitation if excitation.enough])
    if any(effect.agreement == "opposite" for effect in identified_effects(measured)):
        yield "Correct signs and clocks in the training logs (`worldline check`): effects have the opposite direction."
    elif varied and _ignores_actions(measured) and not _reaches_goals(measured):
        yield f"Training logs in which {varied} varies as in these logs: the world ignores its actions."


def _twins(measured: Measured) -> Iterable[str]:
    if cause_of(measured) is Verdict.FAIL:
        yield "Training logs in which each action is random in 10\u00a0% of steps: the world fails C1."
    if not measured.twins:
        yield "A resettable environment (--env ID), or an experiment with twins: only these test causal effects."
