"""Judgements of controllers: verdicts and intervals from what was imagined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from itertools import combinations
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.control.controllers import ControllerCard
from worldline.control.imagination import Runs
from worldline.control.judging import Evidence, Imagined, Judge, Outside, Scale, figure, too_far
from worldline.episode import Arrays
from worldline.formatting import clock, number, round_percent, with_interval
from worldline.schema import Schema, Signal
from worldline.stats import Estimate

Floats = NDArray[np.float64]

LEVEL: Final = 0.9
SHAKES: Final = 0.2
"""Lasting oscillation without disturbances, in standard deviations of the log, from which a loop is unstable."""
OWN: Final = 1.5
"""Factor on the oscillation without a controller that it must exceed."""
QUANTILES: Final = (0.05, 0.5, 0.95)
"""Quantiles over runs in a fan."""


class RunVerdict(StrEnum):
    """What can be said about a controller."""

    JUDGED = "judged"
    UNSTABLE = "unstable"
    """Its loop keeps oscillating without disturbances."""
    REFUSED = "refused"
    """It leaves the logs too often."""


@dataclass(frozen=True, kw_only=True)
class JudgedFigure:
    """A figure of a controller with its 90 % intervals.

    Args:
        expected: mean over the judged situations, if they came again with other noise.
        fresh: mean over other episodes with other starts, targets and disturbances.
        logged: mean in the log.
        better: "better", "worse" or "not distinguishable". It is better if `expected` lies below `logged` with its
            whole interval.
        scale: on which the intervals are symmetric.
    """

    expected: Estimate
    fresh: Estimate
    logged: float
    better: str
    scale: Scale

    def mean_of(self, count: int, num_fresh: int) -> Estimate:
        """The mean over another number of episodes, with its 90 % interval.

        Args:
            count: number of other episodes.
            num_fresh: number for which `fresh` is.
        """
        centre = float(self.scale(self.expected.value))
        known, whole = (float(self.scale(each.high)) - centre for each in (self.expected, self.fresh))
        drawn = num_fresh * max(0.0, whole**2 - known**2)
        return _interval(centre, math.sqrt(known**2 + drawn / count), self.scale)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Episodes that would settle a judgement.

    Args:
        starts: per observation its range in which they begin, in its unit.
        actions: per action its range, in its unit.
        num_episodes: how many.
        num_steps: of each.
    """

    starts: Mapping[str, tuple[float, float]]
    actions: Mapping[str, tuple[float, float]]
    num_episodes: int
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class Fan:
    """A signal over the steps: quantiles over the runs.

    Args:
        signal: component, such as "temperature".
        unit: its unit.
        logged: [3][T], quantiles 0.05, 0.5 and 0.95.
        imagined: [3][T].
    """

    signal: str
    unit: str
    logged: tuple[tuple[float, ...], ...]
    imagined: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RiskyStep:
    """A step in which a run is unlike the logs or violates a constraint most.

    Args:
        episode: number in the store.
        step: in this episode.
        signals: that differ most from the logs.
        distance: from the logs; 1 is the distance that 1 in 100 logged steps exceeds.
    """

    episode: int
    step: int
    signals: tuple[str, ...]
    distance: float


@dataclass(frozen=True, kw_only=True)
class JudgedController:
    """One controller.

    Args:
        name: in this judgement.
        card: what it is.
        source: content of its TOML file, or module:name; empty if it was given as an object.
        verdict: what can be said.
        reason: why it is unstable or refused; empty if it is judged.
        figures: "cost", "use", "settling" with targets, and "violations.0" and so on; empty unless it is judged.
        outside: share of the imagined steps outside the logs.
        outside_steps: [T] share of the runs at each step.
        risky: the riskiest steps.
        experiment: that would settle the judgement; None if it is judged.
        fans: of targets and actions.
        elapsed_s: seconds.
    """

    name: str
    card: ControllerCard
    source: str
    verdict: RunVerdict
    reason: str
    figures: Mapping[str, JudgedFigure]
    outside: float
    outside_steps: tuple[float, ...]
    risky: tuple[RiskyStep, ...]
    experiment: Experiment | None
    fans: tuple[Fan, ...]
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class ControllerDifference:
    """The cost of one controller minus that of another, on the same situations.

    Args:
        first: name.
        second: name.
        cost: the difference, with its 90 % interval.
        verdict: of the first: "better", "worse" or "not distinguishable".
    """

    first: str
    second: str
    cost: Estimate
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Controllers on the same logged situations, as a world imagines them.

    Args:
        world: its name.
        logs: name of the store.
        num_episodes: judged situations.
        first_step: of the episodes, at which a controller takes over.
        num_steps: in the median situation.
        step_s: seconds of a step; None if they are not known.
        num_fresh: episodes of the means in `JudgedFigure.fresh`.
        goal: as JSON; empty if a cost or constraint is a function.
        constraints: what violates each, such as "temperature above 30".
        logged: figures of the log, as in `JudgedController.figures`.
        controllers: in the order of the call.
        differences: of each pair of judged controllers.
        notes: what limits this judgement, as sentences.
        factor: where the width of the intervals comes from.
    """

    world: str
    logs: str
    num_episodes: int
    first_step: int
    num_steps: int
    step_s: float | None
    num_fresh: int
    goal: str
    constraints: tuple[str, ...]
    logged: Mapping[str, float]
    controllers: tuple[JudgedController, ...]
    differences: tuple[ControllerDifference, ...]
    notes: tuple[str, ...]
    factor: str


class WidthFactor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Half-widths of intervals from features, fitted on random plants.

    Args:
        weights: per kind of figure ("cost", "violations", "settling", "use"), and for the "difference" of two costs,
            the weight of each feature.
        sampling: per kind of figure, half the width of the interval of a mean of other episodes, in units of
            `Evidence.fresh`.
        origin: a sentence about the plants.
    """

    weights: dict[str, dict[str, float]]
    sampling: dict[str, float]
    origin: str

    def half_width(self, name: str, evidence: Evidence) -> float:
        """Half the width of the 90 % interval on the scale of a figure.

        Args:
            name: of the figure.
            evidence: about it.
        """
        weights, features = self.weights[name.partition(".")[0]], evidence.features()
        return math.exp(min(5.0, sum(weight * features[key] for key, weight in weights.items())))


@cache
def shipped_factor() -> WidthFactor:
    """The factor that `benchmarks/judge.py --fit` fitted."""
    data = resources.files("worldline.control").joinpath("width_factor.json").read_bytes()
    return msgspec.json.decode(data, type=WidthFactor)


def judged_figure(name: str, evidence: Evidence, scale: Scale, factor: WidthFactor) -> JudgedFigure:
    """The figure with its intervals."""
    half = max(scale.least, factor.half_width(name, evidence))
    expected = _interval(evidence.centre, half, scale)
    logged = float(scale.back(evidence.logged))
    return JudgedFigure(
        expected=expected,
        fresh=_interval(
            evidence.centre, math.hypot(half, factor.sampling[name.partition(".")[0]] * evidence.fresh), scale
        ),
        logged=logged,
        better=_compared(expected, logged),
        scale=scale,
    )


def _interval(centre: float, half: float, scale: Scale) -> Estimate:
    value, low, high = (float(scale.back(centre + shift)) for shift in (0.0, -half, half))
    return Estimate.around(value, low, high)


def _compared(figure: Estimate, other: float) -> str:
    return "better" if figure.high < other else "worse" if figure.low > other else "not distinguishable"


def paired(first: Evidence, second: Evidence) -> Evidence:
    """Evidence about the difference of two controllers; what both have in common cancels."""
    return Evidence(
        centre=first.centre - second.centre,
        logged=0.0,
        folds=first.folds - second.folds,
        gain=abs(first.gain - second.gain),
        delay=abs(first.delay - second.delay),
        sampling=min(first.sampling, second.sampling),
        fresh=0.0,
        extra={key: max(value, second.extra[key]) for key, value in first.extra.items()},
    )


def judged_difference(
    names: tuple[str, str], pair: tuple[Evidence, Evidence], scale: Scale, factor: WidthFactor
) -> ControllerDifference:
    """The difference in cost of two controllers.

    An error that both have in common cannot change which one is better, but the size of the difference.
    """
    both = paired(*pair)
    middle, half = (pair[0].centre + pair[1].centre) / 2, factor.half_width("difference", both)
    common = max(factor.half_width("cost", each) for each in pair)

    def between(centre: float, apart: float) -> float:
        return float(scale.back(centre + apart / 2) - scale.back(centre - apart / 2))

    value = between(middle, both.centre)
    shared = abs(between(middle + common, both.centre) - value)
    low, high = (math.hypot(between(middle, both.centre + shift) - value, shared) for shift in (-half, half))
    verdict = "better" if both.centre + half < 0 else "worse" if both.centre - half > 0 else "not distinguishable"
    cost = Estimate(value=value, low=value - low, high=value + high)
    if verdict == "better":
        cost = Estimate(value=value, low=cost.low, high=min(cost.high, 0.0))
    elif verdict == "worse":
        cost = Estimate(value=value, low=max(cost.low, 0.0), high=cost.high)
    return ControllerDifference(first=names[0], second=names[1], cost=cost, verdict=verdict)


def shaking(imagined: Imagined, still: tuple[float, float], card: ControllerCard) -> float:
    """The lasting oscillation of a loop beyond what the plant has without a controller; 0 if the loop settles.

    Args:
        imagined: the controller.
        still: `Judge.still`.
        card: of the controller. One that switches oscillates by design, and one that reads nothing has no loop.
    """
    if card.switches or card.reads == ():
        return 0.0
    pairs = zip(imagined.shakes, still, strict=True)
    return max(now if now > max(SHAKES, OWN * before) else 0.0 for now, before in pairs)


def judge_controller(
    judge: Judge,
    name: str,
    imagined: Imagined,
    factor: WidthFactor,
    *,
    card: ControllerCard,
    source: str,
    elapsed_s: float,
    numbers: Sequence[int],
) -> JudgedController:
    """The verdict about one controller.

    Args:
        judge: that imagined it.
        name: in the judgement.
        imagined: the result of `judge`.
        factor: of the widths.
        card: of the controller.
        source: as in `JudgedController`.
        elapsed_s: seconds that it took.
        numbers: of the episodes in the store.
    """
    outside, at = imagined.outside, judge.imagination.at
    risky = tuple(
        RiskyStep(
            episode=numbers[place.run], step=at + place.step, signals=place.signals, distance=round(place.distance, 2)
        )
        for place in outside.places
    )
    verdict, reason = _verdict(outside, shaking(imagined, judge.still, card), risky)
    done = verdict is RunVerdict.JUDGED
    return JudgedController(
        name=name,
        card=card,
        source=source,
        verdict=verdict,
        reason=reason,
        figures={
            key: judged_figure(key, evidence, judge.scales[key], factor) for key, evidence in imagined.evidence.items()
        }
        if done
        else {},
        outside=outside.share,
        outside_steps=tuple(outside.by_step.tolist()),
        risky=risky,
        experiment=None
        if verdict is not RunVerdict.REFUSED
        else experiment_outside(judge.schema, imagined.runs, imagined.outside),
        fans=_fans(judge, imagined),
        elapsed_s=elapsed_s,
    )


def _verdict(outside: Outside, shakes: float, risky: Sequence[RiskyStep]) -> tuple[RunVerdict, str]:
    """The verdict with its reason."""
    if shakes:
        size = f"{shakes:.2g} standard deviations of the log"
        return RunVerdict.UNSTABLE, f"without disturbances its loop keeps oscillating by {size}. Reduce its gain."
    if too_far(outside.share, outside.far):
        worst, share = risky[0], round_percent(outside.share)
        return RunVerdict.REFUSED, (
            f"{share} of its steps are outside the logs, most of all {' and '.join(worst.signals)} at step "
            f"{worst.step} of episode {worst.episode}."
        )
    return RunVerdict.JUDGED, ""


def experiment_outside(schema: Schema, runs: Runs, outside: Outside) -> Experiment:
    """Episodes in the region where runs are outside the logs: ten steps for each value that a linear law has there.

    Args:
        schema: of the runs.
        runs: with at least one step outside.
        outside: where.
    """
    beyond = outside.beyond
    first, used = beyond.argmax(1), np.flatnonzero(beyond.any(1))

    def ranges(signals: Sequence[Signal], values: Arrays, at: Any) -> dict[str, tuple[float, float]]:
        ends = {s.name: np.quantile(values[s.name][at].reshape(-1, s.size), (0.1, 0.9), axis=0).T for s in signals}
        named = [zip(labels(name, len(rows)), rows.tolist(), strict=True) for name, rows in ends.items()]
        return {label: (low, high) for pairs in named for label, (low, high) in pairs}

    starts = ranges(schema.observations, runs.observations, (used, first[used]))
    actions = ranges(schema.actions, runs.actions, beyond)
    length = max(20, int(np.median(beyond.sum(1)[used])))
    needed = 10 * (2 * (len(starts) + len(actions)) + 1)
    return Experiment(starts=starts, actions=actions, num_episodes=max(5, math.ceil(needed / length)), num_steps=length)


def labels(name: str, size: int) -> list[str]:
    """Names of the components of a signal."""
    return [name] if size == 1 else [f"{name}.{number}" for number in range(size)]


def _fans(judge: Judge, imagined: Imagined) -> tuple[Fan, ...]:
    """Of the targets, and of the actions; of all observations without targets."""
    logged, runs, schema = judge.imagination.logged, imagined.runs, judge.schema
    targets, inside = judge.goal.targets or {s.name for s in schema.observations}, logged.inside
    fans = list[Fan]()
    for signal in (*(s for s in schema.observations if s.name in targets), *schema.actions):
        shift = signal.name in targets  # observations after each step
        pair = [
            values[signal.name][:, int(shift) :].reshape(*inside.shape, -1).astype(float)
            for values in ((logged.observations, runs.observations) if shift else (logged.actions, runs.actions))
        ]
        for place, label in enumerate(labels(signal.name, pair[0].shape[2])):
            both = [np.nanquantile(np.where(inside, values[:, :, place], np.nan), QUANTILES, axis=0) for values in pair]
            rows = [tuple(tuple(row) for row in quantiles.tolist()) for quantiles in both]
            fans.append(Fan(signal=label, unit=signal.unit, logged=rows[0], imagined=rows[1]))
    return tuple(fans)


def differences(
    judge: Judge, imagined: Mapping[str, Imagined], factor: WidthFactor
) -> tuple[ControllerDifference, ...]:
    """Of each pair of controllers that are judged."""
    return tuple(
        judged_difference(
            names,
            (imagined[names[0]].evidence["cost"], imagined[names[1]].evidence["cost"]),
            judge.scales["cost"],
            factor,
        )
        for names in combinations(imagined, 2)
    )


def logged_figures(judge: Judge) -> dict[str, float]:
    """The means of the log."""
    return {name: float(figure(judge.logged, name).mean()) for name in judge.scales}


def figure_names(judged: Judgement) -> list[str]:
    """All figures, in the order of tables."""
    names = ["cost", *(f"violations.{number}" for number in range(len(judged.constraints)))]
    return names + [name for name in ("settling", "use") if name in judged.logged]


def figure_rows(judged: Judgement, names: Sequence[str], *, fresh: bool = False) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of figures with their intervals: the log, then each controller.

    Args:
        judged: the judgement.
        names: of the figures.
        fresh: whether the means are those of other episodes.
    """
    units = {name: per_unit(name, judged) for name in names}
    rows = [["the log", *(number(unit * judged.logged[name]) for name, unit in units.items())]]
    for each in judged.controllers:
        means = {name: mean.fresh if fresh else mean.expected for name, mean in each.figures.items()}
        cells = [with_interval(means[name].times(unit)) if means else "" for name, unit in units.items()]
        rows.append([each.name, *cells])
    return ["controller", *(figure_title(name, judged) for name in names)], rows


def cost_rows(judged: Judgement) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the verdicts, with the cost in these situations and in other episodes."""
    head = ["controller", "verdict", "against the log", "these situations", f"{judged.num_fresh} other episodes"]
    rows = [["the log", "", "", number(judged.logged["cost"]), ""]]
    for each in judged.controllers:
        cost = each.figures.get("cost")
        cells = ["", "", ""] if cost is None else [cost.better, *map(with_interval, (cost.expected, cost.fresh))]
        rows.append([each.name, each.verdict.value, *cells])
    return head, rows


def figure_title(name: str, judged: Judgement) -> str:
    """What a figure is, with its unit."""
    kind, _, place = name.partition(".")
    if kind == "violations":
        return f"{judged.constraints[int(place)]}, % of steps"
    settling, use = f"settling, {_time(judged)[1]}", "change of actions, % per step"
    return {"cost": "cost per step", "settling": settling, "use": use}[kind]


def _time(judged: Judgement) -> tuple[float, str]:
    """The length of a step in a unit of settling times, and the unit."""
    return clock(math.ceil(judged.logged.get("settling", 0.0)), judged.step_s)  # goals without targets have none


def per_unit(name: str, judged: Judgement) -> float:
    """The factor from a figure to the unit of `figure_title`."""
    kind = name.partition(".")[0]
    return _time(judged)[0] if kind == "settling" else 1.0 if kind == "cost" else 100.0


def experiment_text(experiment: Experiment) -> str:
    """The experiment as a sentence."""

    def ranges(each: Mapping[str, tuple[float, float]]) -> str:
        texts = [
            f"{name} at {low:.3g}" if low == high else f"{name} between {low:.3g} and {high:.3g}"
            for name, (low, high) in each.items()
        ]
        return ", ".join(texts)

    return (
        f"record {experiment.num_episodes} episodes of {experiment.num_steps} steps that begin with "
        f"{ranges(experiment.starts)}; draw actions at random: {ranges(experiment.actions)}."
    )
