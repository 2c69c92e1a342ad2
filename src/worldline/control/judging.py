"""What logs and a world say about a controller that never ran: figures, their uncertainty, support and stability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.control.controllers import Controller, ControllerCard
from worldline.control.imagination import ImaginedEpisodes, Runs
from worldline.control.linear_loops import NUM_FOLDS, SETTLE, SETTLE_GAINS, STEP, LinearLoops, lasting
from worldline.control.run_goal import RunFigures, RunGoal, run_figures
from worldline.episode import Arrays
from worldline.schema import Kind, Schema

Floats = NDArray[np.float64]

NUM_DRAWS: Final = 400
"""Bootstrap draws of episodes."""
NUM_PLACES: Final = 3
SMALL: Final = 0.02
"""Added to uncertainties before their logarithm."""
MAX_FAR: Final = 0.25
"""Share of the steps beyond twice the distance of the logs above which a controller is refused."""
MAX_OUTSIDE: Final = 1 / 3
"""Share of the steps beyond this distance above which a controller is refused."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps a figure to a scale where errors have a similar size everywhere, and back.

    Args:
        kind: "cost" (logarithmic, near 0 linear), "share" (of steps), or "positive" (logarithmic).
        unit: of a cost or a positive figure, below which its size does not matter.
        least: half the width of an interval on the scale, at least.
    """

    kind: str
    unit: float = 1.0
    least: float = 0.0

    def __call__(self, values: Floats | float) -> Floats:
        """Figures to the scale."""
        values = np.asarray(values, float)
        if self.kind == "share":
            return np.asarray(np.arcsin(np.sqrt(np.clip(values, 0, 1))))
        if self.kind == "cost":
            return np.asarray(np.arcsinh(values / self.unit))
        return np.asarray(np.log(np.maximum(values, 0) + self.unit))

    def back(self, scaled: Floats | float) -> Floats:
        """The scale to figures."""
        scaled = np.asarray(scaled, float)
        if self.kind == "share":
            return np.asarray(np.sin(np.clip(scaled, 0, np.pi / 2)) ** 2)
        if self.kind == "cost":
            return np.asarray(self.unit * np.sinh(scaled))
        return np.asarray(np.maximum(np.exp(scaled) - self.unit, 0))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about one figure under a controller. All values are on its scale.

    Args:
        centre: the mean over the runs that the world imagines.
        logged: of the log.
        folds: [K], as the linear simulators imagine it.
        gain: change in the linear simulators if actions have 1.4 times the effect, magnitude.
        delay: likewise, if actions come one step later.
        sampling: standard deviation of the centre over resampled episodes.
        fresh: likewise, for the mean of `num_fresh` other episodes.
        extra: further features of the factor, by name.
    """

    centre: float
    logged: float
    folds: Floats
    gain: float
    delay: float
    sampling: float
    fresh: float
    extra: Mapping[str, float] = field(default_factory=dict)

    def features(self) -> dict[str, float]:
        """The features of the width factor, by name."""
        spread = float(self.folds.std())
        total = float(np.sqrt(1.2 * spread**2 + self.sampling**2 + 0.03**2))
        return {
            "constant": 1.0,
            "total": float(np.log(total)),
            "folds": float(np.log(spread + SMALL)),
            "models": float(np.log(abs(self.folds.mean() - self.centre) + SMALL)),
            "gain": float(np.log(self.gain + SMALL)),
            "delay": float(np.log(self.delay + SMALL)),
            "move": float(np.log(abs(self.centre - self.logged) + SMALL)),
            **self.extra,
        }


@dataclass(frozen=True, kw_only=True)
class OutsidePlace:
    """A step outside the logs.

    Args:
        run: its number.
        step: in this run.
        signals: that contribute most.
        distance: 1 is the distance that 1 in 100 logged steps exceeds.
    """

    run: int
    step: int
    signals: tuple[str, ...]
    distance: float


@dataclass(frozen=True, kw_only=True)
class Outside:
    """Where imagined runs leave the logs.

    Args:
        share: of the steps beyond the distance that 1 in 100 logged steps exceeds.
        far: share of the steps beyond twice this distance.
        by_step: [T], share of the runs beyond the distance at each step.
        beyond: [W, T], whether a step is.
        places: the most distant step of each of the three most distant runs.
    """

    share: float
    far: float
    by_step: Floats
    beyond: NDArray[np.bool_]
    places: tuple[OutsidePlace, ...]


def too_far(share: float, far: float) -> bool:
    """Whether runs with these shares, as in `Outside`, are refused."""
    return share > MAX_OUTSIDE or far > MAX_FAR


@dataclass(frozen=True, kw_only=True)
class Imagined:
    """A controller in imagination.

    Args:
        runs: that the world imagines.
        figures: of these runs.
        evidence: per figure, by name.
        outside: where the runs leave the logs.
        shakes: largest lasting oscillation without disturbances, in standard deviations of the log, in the world and
            in the linear simulators; 0 if every loop settles.
    """

    runs: Runs
    figures: RunFigures
    evidence: Mapping[str, Evidence]
    outside: Outside
    shakes: tuple[float, float]


@final
class Judge:
    """Imagines controllers on the same logged episodes.

    Args:
        imagination: the episodes, with the targets of the goal.
        goal: of the runs.
        num_fresh: number of other episodes for which a mean is predicted, too.
        seed: of the bootstrap.

    Attributes:
        schema: of the runs.
        logged: figures of the log.
        scales: per figure, by name.
    """

    def __init__(self, imagination: ImaginedEpisodes, goal: RunGoal, *, num_fresh: int = 20, seed: int = 0) -> None:
        self.imagination, self.goal, self.num_fresh = imagination, goal, num_fresh
        self.schema, self._seed = imagination.schema, seed
        self.loops = LinearLoops(self.schema, imagination.logged, imagination.at + 1)
        self.logged = run_figures(imagination.logged, goal, self.schema)
        unit = 0.1 * float(np.abs(self.logged.cost).mean()) or 1.0
        scales = {"cost": Scale(kind="cost", unit=unit), "use": Scale(kind="positive", unit=1e-3)}
        # Without a single violation in n independent steps, their share is below 2.3 / n with a probability of 90 %.
        least = float(np.arcsin(np.sqrt(min(1.0, 2.3 / imagination.logged.lengths.sum()))))
        share = Scale(kind="share", least=least)
        scales |= {f"violations.{number}": share for number in range(len(goal.constraints))}
        if goal.targets:
            scales["settling"] = Scale(kind="positive")
        self.scales = scales
        self._support = Support(self.schema, imagination.logged)

    def imagine(self, controller: Controller) -> Imagined:
        """The controller on all episodes.

        Raises:
            InputError: the controller returned no valid action.
            UnsupportedError: a run leaves the arithmetic of the world.
        """
        several = [self.imagination.run(controller), *self.loops.run(controller)]
        several = self.imagination.with_rewards(several) if self.goal.reward else several
        runs, (figures, *others) = several[0], [run_figures(each, self.goal, self.schema) for each in several]
        outside, fit = self._support.outside(runs), self.imagination.unexplained
        extra = {
            "outside": outside.share,
            "far": outside.far,
            "world": float(np.log(fit + SMALL)),
            "linear": float(np.log(self.loops.unexplained + SMALL)),
        }
        evidence = {
            name: self._evidence(scale, [figure(each, name) for each in (figures, self.logged, *others)], extra)
            for name, scale in self.scales.items()
        }
        shakes = self._shakes(controller), float(self.loops.shakes(controller).max())
        return Imagined(runs=runs, figures=figures, evidence=evidence, outside=outside, shakes=shakes)

    def _evidence(self, scale: Scale, values: Sequence[Floats], extra: Mapping[str, float]) -> Evidence:
        """From the figure of each run: in the world, in the log, and in each variant and fold."""
        here, logged, others = values[0], values[1], np.array([scale(each.mean()) for each in values[2:]])
        variants, draw = others.reshape(-1, NUM_FOLDS), np.random.default_rng(self._seed)
        every, some = (
            float(scale(draw.choice(here, (NUM_DRAWS, size)).mean(1)).std()) for size in (len(here), self.num_fresh)
        )
        return Evidence(
            centre=float(scale(here.mean())),
            logged=float(scale(logged.mean())),
            folds=variants[0],
            gain=float(np.abs((variants[1] - variants[0]).mean())),
            delay=float(np.abs((variants[2] - variants[0]).mean())),
            sampling=every,
            fresh=float(np.hypot(every, some)),
            extra=extra,
        )

    @cached_property
    def still(self) -> tuple[float, float]:
        """The lasting oscillation without a controller, as in `Imagined.shakes`."""
        controller = Still(self.schema, self.imagination.logged)
        return self._shakes(controller), float(self.loops.shakes(None).max())

    def _shakes(self, controller: Controller) -> float:
        """The largest lasting oscillation in the world."""
        logged, parts = self.imagination.logged, list[Floats]()
        spread = {s.name: logged.observations[s.name][:, 1:][logged.inside].std(0) for s in self.schema.observations}
        offset = {name: np.asarray(STEP * value) for name, value in spread.items()}
        runs = self.imagination.calm(controller, gains=SETTLE_GAINS, offset=offset, steps=2 * SETTLE)
        for signal in self.schema.observations:
            path, unit = runs.observations[signal.name], spread[signal.name].reshape(-1)
            moved = signal.difference(path[:, SETTLE + 1 :], path[:, :1]).reshape(len(path), SETTLE, -1)
            parts.append(moved / np.where(unit > 0, unit, 1.0))
        return float(lasting(np.concatenate(parts, 2)).max())


def figure(figures: RunFigures, name: str) -> Floats:
    """A figure [W] by its name, such as "cost" or "violations.0"."""
    kind, _, number = name.partition(".")
    values: Floats = getattr(figures, kind)
    return values[int(number)] if number else values


@final
class Still(Controller):
    """The mean of the logged actions.

    Args:
        schema: of the runs.
        logged: the log.
        fixed: other values [*shape] by action.
    """

    def __init__(self, schema: Schema, logged: Runs, fixed: Mapping[str, Floats] | None = None) -> None:
        self.card = ControllerCard(name="no control", reads=())
        self._actions = dict[str, NDArray[Any]]()
        for signal in schema.actions:
            values = logged.actions[signal.name][logged.inside]
            centre = (
                np.median(np.asarray(values, float), axis=0)
                if signal.kind is Kind.DISCRETE
                else values.mean(0, dtype=float)
            )
            self._actions[signal.name] = signal.bounded(np.asarray(centre)).astype(signal.dtype)
        self._actions |= {name: value.astype(schema[name].dtype) for name, value in (fixed or {}).items()}

    def reset(self) -> None:
        """Nothing is kept."""

    def act(self, session: Any) -> Arrays:
        """The mean for each plant."""
        return {name: np.stack([value] * session.history.num_worlds) for name, value in self._actions.items()}


@final
class Support:
    """The distance of steps from logged ones: of values and inputs, and of those one step before.

    Args:
        schema: of the runs.
        logged: the log.
    """

    def __init__(self, schema: Schema, logged: Runs) -> None:
        self._schema = schema
        table, self._names = self._table(logged)
        rows = table[logged.inside]
        spread, size = rows.std(0), np.abs(rows).max(0)
        self._mean, self._spread = rows.mean(0), np.where(spread > 1e-9 * size, spread, 1e-3 * np.maximum(size, 1e-3))
        scores = (rows - self._mean) / self._spread
        shape = scores.T @ scores / len(scores) + 1e-3 * np.eye(scores.shape[1])
        self._inverse = np.linalg.inv(shape)
        self._limit = float(np.quantile(self._distance(scores), 0.99))

    def _table(self, runs: Runs) -> tuple[Floats, list[str]]:
        """Columns [W, T, F], and the signal of each."""
        parts, names = list[Floats](), list[str]()
        count, steps = runs.inside.shape
        groups: list[tuple[Any, Arrays]] = [(self._schema.observations, runs.observations)]
        groups += [(self._schema.actions, runs.actions), (self._schema.exogenous, runs.exogenous)]
        for signals, values in groups:
            for signal in signals:
                if signal.kind is Kind.IMAGE:
                    continue
                value = np.asarray(values[signal.name][:, :steps], float).reshape(count, steps, -1)
                before = np.concatenate([value[:, :1], value[:, :-1]], 1)
                parts += [value, before]
                names += [signal.name] * (2 * value.shape[2])
        return np.concatenate(parts, 2), names

    def _distance(self, scores: Floats) -> Floats:
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j->...", scores, self._inverse, scores)))

    def outside(self, runs: Runs) -> Outside:
        """See `Outside`."""
        table, inside = self._table(runs)[0], runs.inside
        scores = (table - self._mean) / self._spread
        distance = np.where(inside, self._distance(scores), 0.0)
        distance, beyond = distance / self._limit, distance > self._limit
        places = list[OutsidePlace]()
        for run in np.argsort(-distance.max(1))[:NUM_PLACES].tolist():
            step = int(distance[run].argmax())
            parts = np.abs(scores[run, step] * (self._inverse @ scores[run, step]))
            signals = tuple(dict.fromkeys(self._names[n] for n in np.argsort(-parts)))[:2]
            places.append(OutsidePlace(run=run, step=step, signals=signals, distance=float(distance[run, step])))
        return Outside(
            share=float(beyond[inside].mean()),
            far=float((distance[inside] > 2).mean()),
            by_step=np.asarray(beyond.sum(0) / np.maximum(inside.sum(0), 1)),
            beyond=beyond,
            places=tuple(places),
        )
