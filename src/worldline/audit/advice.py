"""From figures to advice: a function of what was measured alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from worldline.audit.audit_evidence import Advice, Decision, Effect, JointCoverage, Measured, Trusted, TwinTest
from worldline.audit.diagnostics import Gap
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.excitation import MIN_EPISODES
from worldline.audit.findings import NEGLIGIBLE
from worldline.audit.grades import Verdict
from worldline.audit.measures import GATE
from worldline.audit.verdicts import weakest
from worldline.formatting import label, listing, number, percent, plural, quantity, round_percent, span

FAR_OFF: Final = 0.2
"""Of the promised share: bands that hold so much less make a world unfit, since it promises what it does not know."""
MOST: Final = 0.5
"""Share of the effects that logs can tell from which on a world that gets them wrong is unfit."""
LINE: Final = "linear"
_RIVALS: Final = {"action_blind": "an action-blind copy", LINE: "a linear model"}
NO_TWINS: Final = "Cause and effect were not tested against twins: logs alone never show that."


def decide(found: Measured) -> Decision:
    """What may be done with the world, why, within which limits, and what data would help.

    Args:
        found: all that was measured.
    """
    known = cause_of(found) is Verdict.PASS
    graded = _finite(found)
    against = [*_broken(found), *_infinite(found), *_worthless(graded), *_unheeded(graded), *_failed(found)]
    limits = [*_horizons(graded), *_bands(found), *_unidentified(found, known), *_unchecked(found, known)]
    limits += [] if _unheeded(graded) else _apart(graded)
    limits += [*found.unchecked, *_unproven(found), *_regions(found), *_few(found)]
    wanted = tuple(dict.fromkeys([*_data(found, known), *_learning(graded), *_twins(found), *found.data.advice]))
    if against:
        return Decision(
            advice=Advice.NO, reasons=tuple(against), limits=tuple(limits), help=wanted, cause=cause_of(found)
        )
    advice = Advice.LIMITS if limits else Advice.DEPLOY
    return Decision(
        advice=advice, reasons=tuple(_good(found)), limits=tuple(limits), help=wanted, cause=cause_of(found)
    )


def cause_of(found: Measured) -> Verdict:
    """The verdict of the test of cause where there are twins; never one from logs alone."""
    return next((one.verdict for one in found.twins if one.name == "C1"), Verdict.NOT_MEASURED)


def usable(found: Measured) -> list[Trusted]:
    """The signals that are predicted better than by anything trivial for at least one step."""
    return [one for one in found.trusted if one.steps > 0]


def judged(found: Measured) -> list[Effect]:
    """The effects that the logs can tell."""
    return [one for one in found.effects if one.told in ("agrees", "apart", "opposite")]


def not_finite(found: Measured) -> dict[str, int]:
    """The first step, from 1, at which what the world says of a signal is not finite; signals without one are left out.

    At a step that was never observed no error is known, of the world and of all that it is compared with.
    """
    curves = [one for one in found.diagnostics.errors if not one.world]
    first: dict[str, int] = {}
    for own in curves:
        others = [one.rmse.value for one in found.diagnostics.errors if one.world and one.signal == own.signal]
        for step, value in enumerate(own.rmse.value, 1):
            if not isfinite(value) and any(isfinite(other[step - 1]) for other in others):
                first.setdefault(own.signal, step)
    return first


def _finite(found: Measured) -> Measured:
    """Without signals and effects that are not finite: what is wrong with them is said, and no rival's merit."""
    lost = not_finite(found)
    return replace(
        found,
        trusted=tuple(one for one in found.trusted if one.signal not in lost),
        effects=tuple(one for one in found.effects if isfinite(one.world.value)),
    )


# What makes a world unfit.


def _infinite(found: Measured) -> list[str]:
    lost = not_finite(found)
    if lost:
        places = [f"{label(name)} from step {step} on" for name, step in lost.items()]
        return [f"It says what is no finite number: of {listing(places)}."]
    values = [one.increase.value for one in found.diagnostics.gaps] + [one.world.value for one in found.effects]
    return (
        [] if all(map(isfinite, values)) else ["Under other actions than the logged it says what is no finite number."]
    )


def _broken(found: Measured) -> list[str]:
    leak = found.leak
    said = []
    if leak.leaks:
        said.append(
            f"It looks into the future: what it predicts of {label(leak.signal)} changes by {percent(leak.worst)} with "
            "actions that come later. That is a bug, and every figure below is flattered by it."
        )
    if found.rank.collapsed:
        said.append(
            f"It says nearly the same whatever it was shown: its predictions vary {percent(found.rank.spread)} as much "
            "as what happened."
        )
    for one in found.coverage:
        if one.inside.high < one.level - FAR_OFF:
            said.append(
                f"It claims more than it knows: its {round_percent(one.level)} band of {label(one.signal)} held "
                f"{one.inside.successes} of {one.inside.trials} trajectories."
            )
    return said


def _worthless(found: Measured) -> list[str]:
    if not found.trusted and not not_finite(found):
        return ["Nothing that it predicts moves in these logs, so nothing could be graded."]
    if usable(found) or not found.trusted:
        return []
    stops = listing(list(dict.fromkeys(does(one.stops) for one in found.trusted)))
    return [f"It is to be trusted on no signal: {stops}, from the first step."]


def _unheeded(found: Measured) -> list[str]:
    """Whether it heeds no actions, or those effects that the logs show are mostly wrong in it."""
    said, seen = _deaf(found), judged(found)
    wrong = [one for one in seen if one.told == "opposite"]
    if wrong and len(wrong) >= max(2, MOST / 2 * len(seen)):
        one = wrong[0]
        said.append(
            f"It gets the direction of effects wrong: in {len(wrong)} of {plural(len(seen), 'effect')} that the logs "
            f"show, such as {label(one.action)} on {label(one.signal)}, it says the opposite."
        )
    return said


def _deaf(found: Measured) -> list[str]:
    """That its error does not need the actions, unless its effects are those of the logs; deaf where it has none."""
    weakest, seen = weakest_gap(found.diagnostics.gaps), judged(found)
    if weakest is None or not (seen or _enough(found)):
        return []
    if any(one.increase.high >= NEGLIGIBLE for one in found.diagnostics.gaps if one.change == weakest.change):
        return []  # on the whole, or of one signal among many that actions do not move
    if sum(one.told == "agrees" for one in seen) > len(seen) / 2:
        return []
    done = "set to zero" if weakest.change == "zeroed" else "swapped with another episode's"
    grown = percent(weakest.increase.value, signed=True)
    moved = any(abs(one.world.value) >= MIN_EFFECT_SHARE * one.spread for one in found.effects)
    if moved or weakest.increase.high < -NEGLIGIBLE:
        return [f"Its error does not grow without its actions: with actions {done} it changes by {grown}."]
    return [f"It does not listen to its actions: with actions {done} its error changes by {grown}."]


def weakest_gap(gaps: Sequence[Gap]) -> Gap | None:
    """The change of the actions, over all signals, that matters least to the world's error."""
    overall = [one for one in gaps if one.signal is None and isfinite(one.increase.high)]
    return min(overall, key=lambda one: one.increase.high, default=None)


def beaten(found: Measured, one: Trusted) -> str:
    """What is beaten on a signal up to where it is trusted, in words; some rivals need only not be better."""
    curves = {curve.against: curve.skill for curve in found.diagnostics.skills if curve.signal == one.signal}
    rivals = [error.world for error in found.diagnostics.errors if error.world and error.signal == one.signal]
    better = [name for name in rivals if name in curves and not any(low <= 0 for low in curves[name].low[: one.steps])]
    parts = [f"better than {_names(better)}"] if better else []
    if len(better) < len(rivals):
        parts.append(f"no worse than {_names(name for name in rivals if name not in better)}")
    return ", and ".join(parts) + ("," if len(parts) > 1 else "")


def _names(rivals: Iterable[str]) -> str:
    return listing([_RIVALS.get(name, label(name)) for name in rivals])


def does(name: str) -> str:
    """What ends trust in the world: a line that does better, or something trivial that does as well."""
    return "a linear model does better" if name == LINE else f"{_RIVALS.get(name, label(name))} does as well"


def _enough(found: Measured) -> bool:
    return any(one.enough for one in found.excitation)


def _failed(found: Measured) -> list[str]:
    return [f"Against twins it fails {one.name} ({one.title})." for one in _failed_tests(found)]


def _failed_tests(found: Measured) -> list[TwinTest]:
    return [one for one in found.twins if one.verdict is Verdict.FAIL and one.name in ("C1", "T1")]


# Within which limits it may be used.


def _horizons(found: Measured) -> list[str]:
    """Signals that are not to be used, and how far the others reach."""
    step_s = found.diagnostics.step_s
    useless = [one for one in found.trusted if not one.steps]
    said = []
    short = [one for one in usable(found) if one.steps < one.of]
    for steps in sorted({one.steps for one in short}):
        names = [label(one.signal) for one in short if one.steps == steps]
        stops = listing(list(dict.fromkeys(does(one.stops) for one in short if one.steps == steps)))
        said.append(f"Predict {listing(names)} no further than {span(steps, step_s)}: beyond, {stops}.")
    if useless and usable(found):
        names = [label(one.signal) for one in useless]
        stops = listing(list(dict.fromkeys(does(one.stops) for one in useless)))
        said.append(f"Do not use what it says of {listing(names)}: {stops}, from the first step.")
    return said


def _bands(found: Measured) -> list[str]:
    if not found.coverage:
        return ["It has no bands: do not act on how sure it is, and do not plan with chances."]
    said = []
    for one in found.coverage:
        count = f"{one.inside.successes} of {one.inside.trials}"
        if narrow(one):
            chance = "" if one.verdict == "narrow" else ", as few calibration episodes may leave it by chance"
            said.append(
                f"Do not rely on the bands of {label(one.signal)} before they are calibrated anew: the "
                f"{round_percent(one.level)} band held {count} trajectories{chance}."
            )
        elif one.verdict == "wide":
            said.append(
                f"The bands of {label(one.signal)} are wider than they need be: the {round_percent(one.level)} band "
                f"held {count} trajectories. What is refused because of them may be fine."
            )
    return said


def narrow(one: JointCoverage) -> bool:
    """Whether fewer trajectories lie inside the band than it promises, whoever is to blame: it or its calibration."""
    return one.inside.high < one.level


def _unidentified(found: Measured, known: bool) -> list[str]:
    """Actions whose effects these logs cannot tell; where twins do, those alone that no branch of them changes."""
    constant = {one.name for one in found.data.actions if one.least == one.greatest}
    dull = [one for one in found.excitation if not one.enough and (not known or one.action in constant)]
    hidden = [] if known else sorted({one.action for one in found.placebo if one.found})
    said = []
    if dull:
        names = [f"{label(one.action)} ({number(one.left.value, 2)})" for one in dull]
        said.append(
            f"Do not plan with {listing(names)}: the logs leave no more than that share of it to chance, so its "
            "effects are NOT IDENTIFIABLE. Forecasts hold as long as actions are chosen as they were."
        )
    if hidden:
        said.append(
            f"Do not take the effects of {listing([label(one) for one in hidden])} for causes: errors of the world "
            "foretell the next action, as they do where something that is not logged drives both: NOT IDENTIFIABLE."
        )
    return said


def _unchecked(found: Measured, known: bool) -> list[str]:
    """Where neither logs nor twins could be held against what the world says of its actions."""
    if known or any(one.told in ("agrees", "apart", "opposite", "none") for one in found.effects):
        return []
    if all(one.told == "not identifiable" for one in found.effects) and (found.effects or not _enough(found)):
        return []  # said for each action
    return ["What its actions do was not checked: these logs are too few, or too wide, for a regression to tell."]


def _apart(found: Measured) -> list[str]:
    """Effects that differ from what the logs tell, by action and signal."""
    said = []
    seen = judged(found)
    for pair in dict.fromkeys((one.action, one.signal) for one in seen if one.told != "agrees"):
        wrong = [one for one in seen if (one.action, one.signal) == pair and one.told != "agrees"]
        worst = max(wrong, key=lambda one: abs(one.world.value - (one.logs.value if one.logs else 0.0)) / one.spread)
        assert worst.logs is not None  # for the type checker
        how = f"{number(worst.world.value / worst.logs.value, 2)} times what the logs say"
        if worst.logs.low * worst.logs.high <= 0:
            how = f"{quantity(worst.world.value, worst.unit)} where the logs show none"
        when = span(worst.lag, found.diagnostics.step_s)
        said.append(
            f"Mind the effect of {label(pair[0])} on {label(pair[1])}: after {when} the world says {how}. The logs "
            "are fitted by a line: where the effect depends on the state, both may be right."
        )
    return said


def _unproven(found: Measured) -> list[str]:
    """Tests against twins that were asked and not passed, and whose failing alone does not speak against the world."""
    fatal = _failed_tests(found)
    return [
        f"Do not rely on {one.title} where it counts: against twins {one.name} is {one.verdict}"
        + (f", weakest in {cell.name}." if (cell := weakest(one.grade)) else ".")
        for one in found.twins
        if one.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.ERROR) and one not in fatal
    ]


def _regions(found: Measured) -> list[str]:
    """Parts of an action's range that were never logged."""
    said = []
    for one in found.data.actions:
        if one.low is None or one.high is None or one.never or one.low >= one.high or one.least == one.greatest:
            continue
        span_ = one.high - one.low
        if (one.least - one.low) / span_ >= 0.2 or (one.high - one.greatest) / span_ >= 0.2:
            said.append(
                f"Keep {label(one.name)} between {number(one.least)} and {number(one.greatest)}: of the range from "
                f"{number(one.low)} to {number(one.high)} nothing else was logged."
            )
        elif one.used < 0.8:
            said.append(f"Of the range of {label(one.name)} only {percent(one.used)} was ever used in the logs.")
    said += [
        f"Do not choose {', '.join(map(str, one.never))} for {label(one.name)}: it was never logged."
        for one in found.data.actions
        if one.never
    ]
    return said


def _few(found: Measured) -> list[str]:
    count = found.diagnostics.num_episodes
    if count >= MIN_EPISODES:
        return []
    return [f"Only {plural(count, 'episode')} could be graded: watch it closely at first, and audit again."]


# What speaks for it, and what would help.


def _good(found: Measured) -> list[str]:
    """The reasons for a world that may be used."""
    step_s, said = found.diagnostics.step_s, []
    best = max((one.steps for one in usable(found)), default=0)
    furthest = [(label(one.signal), beaten(found, one)) for one in usable(found) if one.steps == best]
    for how in dict.fromkeys(how for _, how in furthest):
        names = listing([name for name, other in furthest if other == how])
        said.append(f"It predicts {names} {how} at every step up to {span(best, step_s)}.")
    grown = min((one.increase.low for one in found.diagnostics.gaps if one.signal is None), default=0.0)
    if grown > 0:
        said.append(f"It listens to its actions: with others its error grows by at least {percent(grown)}.")
    seen = judged(found)
    right = sum(one.told == "agrees" for one in seen)
    if right:
        said.append(f"{right} of {plural(len(seen), 'effect')} that the logs can tell are as the world says.")
    holds = [one for one in found.coverage if not narrow(one)]
    if holds:
        worst = min(holds, key=lambda one: one.inside.value)
        which = (
            "Its bands" if len(holds) == len(found.coverage) else f"The bands of {_names(one.signal for one in holds)}"
        )
        said.append(
            f"{which} hold: at {round_percent(worst.level)} at least {worst.inside.successes} of "
            f"{plural(worst.inside.trials, 'trajectory')} of each signal lay inside."
        )
    said.append(f"No prediction depends on later actions ({plural(found.leak.num_checked, 'value')} compared).")
    return said


def _data(found: Measured, known: bool) -> Iterable[str]:
    """What to log."""
    if not known:
        for one in found.excitation:
            if not one.enough:
                yield (
                    f"Randomise {label(one.action)} in 10\u00a0% of steps, and flag them in a signal 'randomised': its "
                    f"excitation is {number(one.left.value, 2)}, {number(0.05)} is needed."
                )
    for action in sorted({one.action for one in found.placebo if one.found}):
        yield (
            f"Log what {label(action)} was chosen by, or draw it at random in 10\u00a0% of steps and flag them in a "
            "signal 'randomised'; check the clocks with `worldline check`."
        )
    if found.diagnostics.num_episodes < MIN_EPISODES:
        yield f"More held-out episodes: {MIN_EPISODES} at least, 100 for sharp intervals."
    short = [label(one.signal) for one in found.coverage if narrow(one)]
    if short:
        yield f"Fresh episodes to calibrate the bands of {listing(short)} on, logged as the world will be used."


def _learning(found: Measured) -> Iterable[str]:
    """What to learn it from, or how, where what it learned is at fault."""
    if _infinite(found):
        yield "Another training, from another seed or with smaller steps: it says what is no finite number."
    lines = [one for one in found.diagnostics.skills if one.against == LINE]
    behind = [label(one.signal) for one in lines if any(high < -GATE for high in one.skill.high)]
    if behind:
        yield f"More episodes to learn from, or a longer training: on {listing(behind)} a linear model does better."
    varied = listing([label(one.action) for one in found.excitation if one.enough])
    if any(one.told == "opposite" for one in judged(found)):
        yield "Signs and clocks of the logs it was learned from (`worldline check`): effects go the other way in it."
    elif varied and _deaf(found):
        yield f"Logs to learn it from in which {varied} varies as in these: it does without its actions."


def _twins(found: Measured) -> Iterable[str]:
    if cause_of(found) is Verdict.FAIL:
        yield "Logs to learn it from in which each action is drawn at random in 10\u00a0% of steps: it fails C1."
    if not found.twins:
        yield "A resettable environment (--env ID), or an experiment with twins: only those test cause and effect."
