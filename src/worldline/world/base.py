"""The public contract of a world: `World` and the results of its verbs.

Arrays are NumPy arrays of named signals in physical units. No latents appear. Every verb except `describe`,
`what_if` and `surprise` takes one world or a batch of W worlds. If the arrays of `history` have a leading W axis, all
arguments and results have it too. The shapes below leave W out.

Notation: H observations in the history, T predicted steps, N candidate plans, C constraints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Final, overload

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.formatting import first_of, number, plural, round_percent
from worldline.planning.base import Constraint, Goal
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.plots.result_series import ResultSeries
from worldline.schema import Kind, Schema, Signal
from worldline.world.result import Result, plain_signal, signal_of, trust_text


@dataclass(frozen=True, kw_only=True, repr=False)
class Forecast:
    """The predicted path of one signal.

    Args:
        mean: [T, *shape], mean over the samples, in the signal's unit; the most frequent value if discrete. Mean, band
            and samples are clipped to the bounds that the schema declares.
        low: [T, *shape], lower edge of the prediction band, in the signal's unit. None if uncalibrated or not a vector.
            -inf at steps without a calibrated band: those after the calibrated horizon, and all steps if the
            calibration data observe the signal too rarely for `Prediction.level`. Never NaN.
        high: [T, *shape], upper edge, with +inf and None likewise. The band is simultaneous: the whole path lies inside
            with probability `Prediction.level`, whatever T is. Both edges are further from the mean after an input
            outside its logged range: three times as far at 10 % of the range outside.
        horizon: last step with skill on held-out episodes, 0 to T; also [W] in a batch. 0 means no skill, or unknown.
            A step has skill if its squared error is below that of both persistence and the signal's mean. An
            error below a twentieth of the signal's variance also counts.
        samples: [S, T, *shape], sampled paths in the signal's unit. None if not requested, or not a vector.
    """

    mean: NDArray[np.generic]
    low: NDArray[np.floating] | None
    high: NDArray[np.floating] | None
    horizon: int | NDArray[np.integer]
    samples: NDArray[np.generic] | None = None

    @property
    def half_width(self) -> NDArray[np.floating] | None:
        """Half the width of the band [T, *shape]: the larger distance from the mean, as a bound may cut one side."""
        if self.low is None or self.high is None:
            return None
        return np.asarray(np.abs(np.stack([self.low, self.high]) - self.mean.astype(np.float64)).max(0))

    @staticmethod
    def band(
        signal: Signal, mean: NDArray[np.generic], half: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """The edges of a band around a mean, inside the bounds of the signal where they are finite."""
        edges = (mean.astype(np.float64) - half, mean.astype(np.float64) + half)
        low, high = (np.where(np.isfinite(half), signal.bounded(edge), edge) for edge in edges)
        return low, high

    def __repr__(self) -> str:
        band = "no band" if self.low is None else "with band"
        samples = "" if self.samples is None else f", samples {list(self.samples.shape)}"
        return f"Forecast(mean {list(self.mean.shape)}, {band}{samples})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Prediction(Result):
    """The answer of `World.predict`.

    Args:
        signals: one forecast per predicted signal.
        level: probability of the bands, in (0, 1). The one that was requested; else 0.9, or the highest calibrated
            level if that is lower.
        trust: p-value of the history under the calibration data, 0 to 1; NaN if the world is not calibrated. Small
            values mean out of distribution. It tests the present, and whether the latest steps follow from those
            before them. Histories longer than `Card.context` give a stronger test. It falls if an input is more than
            5 % of its logged range outside of it, to the smallest possible value at 10 %. It also has this value if a
            mean path leaves its range by more than two ranges. The value is 1 / (K + 1) for K calibration episodes.
            Also [W] in a batch.
        calibrated: whether calibrated bands exist. If False, all bands are None.
        images: per image signal the predicted images [T, height, width, channels], uint8 from 0 to 255: the mean of a
            predicted signal, or drawn by a decoder. Empty if not requested.
        schema: the signals, for units and names in plots and tables; None if unknown.
    """

    signals: Mapping[str, Forecast]
    level: float
    trust: float | NDArray[np.floating]
    calibrated: bool
    images: Arrays = field(default_factory=dict)
    schema: Schema | None = None

    def headline(self) -> str:
        """Number of steps, bands and trust."""
        axis = 0 if self.num_worlds() is None else 1
        paths = [*(forecast.mean for forecast in self.signals.values()), *self.images.values()]
        steps = plural(paths[0].shape[axis], "step") if paths else "no signals"
        bands = f"{round_percent(self.level)} bands" if self.calibrated else "not calibrated"
        return f"{steps}, {bands}, {trust_text(self.trust)}"

    def num_worlds(self) -> int | None:
        """W; None without an axis of worlds."""
        return len(self.trust) if isinstance(self.trust, np.ndarray) and self.trust.ndim else None

    def series(self, world: int | None) -> Sequence[ResultSeries]:
        """The signals without images, from step 1."""
        series = list[ResultSeries]()
        for name, forecast in self.signals.items():
            mean = _one(forecast.mean, world)
            signal = signal_of(self.schema, name, mean)
            if signal.kind is Kind.IMAGE:
                continue
            edges, text = {"low": forecast.low, "high": forecast.high}, "predicted observations"
            others = {label: _one(edge, world) for label, edge in edges.items() if edge is not None}
            samples = None if forecast.samples is None else _one(forecast.samples, world)
            series.append(
                ResultSeries(signal=signal, values=mean, others=others, samples=samples, first=1, heading=text)
            )
        return series

    def images_of(self, world: int | None) -> Arrays:
        """The images of one world."""
        return {name: _one(frames, world) for name, frames in self.images.items()}


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores(Result):
    """The answer of `World.score` for N candidate plans.

    Args:
        cost: [N], in the terms of the goal; lower is better.
        violation: [N, C], at least 0. A constraint holds where it is 0.
        trust: the lowest trust in a candidate, as in `Prediction`.
        survival: [N], probability that no step of a candidate ends the episode; None if the world does not predict it.
        schema: as in `Prediction`.
    """

    rows_are: ClassVar[str] = "candidate"

    cost: NDArray[np.floating]
    violation: NDArray[np.floating]
    trust: float | NDArray[np.floating]
    survival: NDArray[np.floating] | None = None
    schema: Schema | None = None

    def headline(self) -> str:
        """Number of candidates, the best one and trust."""
        first = None if self.num_worlds() is None else 0
        cost, feasible = _one(self.cost, first), ~(_one(self.violation, first) > 0).any(-1)
        best = int(np.where(feasible, cost, np.inf).argmin()) if feasible.any() else int(cost.argmin())
        text = plural(len(cost), "candidate")
        text += f", {feasible.sum()} feasible" if self.violation.shape[-1] else ""
        return f"{text}, the best is {best} at cost {number(float(cost[best]))}, {trust_text(self.trust)}"

    def num_worlds(self) -> int | None:
        """W; None without an axis of worlds."""
        return len(self.cost) if self.cost.ndim == 2 else None

    def series(self, world: int | None) -> Sequence[ResultSeries]:
        """Cost and violations of the candidates."""
        cost, violation = _one(self.cost, world), _one(self.violation, world)
        named = {"cost": cost} | {f"violation of constraint {k}": row for k, row in enumerate(violation.T)}
        return [
            ResultSeries(signal=plain_signal(name), values=values[:, None], drawn="points", heading="candidates")
            for name, values in named.items()
        ]


class PlanStatus(StrEnum):
    """How a plan search ended, from the best status to the worst."""

    OPTIMAL = "optimal"
    """No plan costs less than `Plan.bound`, and the cost of this plan is within 0.1 % of it."""
    SEARCHED = "searched"
    """The search ended. There may be better plans."""
    OUT_OF_TIME = "out_of_time"
    """The time was over before the search ended."""
    GOAL_OUTSIDE_LOGS = "goal_outside_logs"
    """The search ended in one of these ways, and a target is more than 10 % of its logged range outside of it.

    The plan approaches the goal as far as the world predicts. `Plan.reason` names the target and its range.
    """
    INFEASIBLE = "infeasible"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Result):
    """The answer of `World.plan`.

    Args:
        actions: per action signal [T, *shape], inside the signal's bounds. T is 0 if the plan was refused.
        status: how the search ended. In a batch, the worst status of the W worlds.
        cost: cost of the plan, in the terms of the goal; NaN if refused. Also [W] in a batch.
        violation: [C], at least 0; NaN if refused.
        trust: that of `prediction`; without one, as in `Prediction` for the history only.
        reason: why the plan was refused or is infeasible, or which target the logs never came near; else empty.
        elapsed_s: planning time in seconds.
        bound: no plan costs less, as far as the world predicts; NaN if not known. Also [W] in a batch.
        prediction: the expected path, with bands if the world is calibrated: D + T steps with D pending actions. None
            if the plan was refused.
        schema: as in `Prediction`.
    """

    actions: Arrays
    status: PlanStatus
    cost: float | NDArray[np.floating]
    violation: NDArray[np.floating]
    trust: float | NDArray[np.floating]
    reason: str
    elapsed_s: float
    bound: float | NDArray[np.floating] = math.nan
    prediction: Prediction | None = None
    schema: Schema | None = None

    def headline(self) -> str:
        """Number of steps, status, cost and trust."""
        axis = 0 if self.num_worlds() is None else 1
        steps = plural(next(iter(self.actions.values())).shape[axis] if self.actions else 0, "step")
        end = f"{self.status.value} ({self.reason})" if self.reason else self.status.value
        return f"{steps}, {end}, cost {number(float(np.ravel(self.cost)[0]))}, {trust_text(self.trust)}"

    def num_worlds(self) -> int | None:
        """W; None without an axis of worlds."""
        return len(self.cost) if isinstance(self.cost, np.ndarray) and self.cost.ndim else None

    def series(self, world: int | None) -> Sequence[ResultSeries]:
        """The actions, after pending ones, and the expected path."""
        path = [] if self.prediction is None else self.prediction.series(world)
        series = list[ResultSeries]()
        for name, value in self.actions.items():
            values = _one(value, world)
            start = max((len(curve.values) for curve in path), default=len(values)) - len(values)
            signal = signal_of(self.schema, name, values)
            series.append(ResultSeries(signal=signal, values=values, first=start, drawn="held", heading="actions"))
        return [*series, *path]


class Abduction(StrEnum):
    """What `World.what_if` inferred from the whole episode before it predicted other actions."""

    FULL = "full"
    """Hidden causes and the noise of each step. The logged actions reproduce the logged observations.

    Exact if the engine replays the episode. Otherwise inferred, for causes that are linear in one step and for additive
    noise (docs/design/abduction.md).
    """
    HIDDEN_CAUSE = "hidden_cause"
    """Hidden causes that are constant during the episode. Noise is drawn anew or left out."""
    NONE = "none"
    """Nothing. The prediction uses the history up to the branch only."""


@dataclass(frozen=True, kw_only=True, repr=False)
class WhatIf(Result):
    """The answer of `World.what_if`: the episode under other actions, all else equal.

    Args:
        signals: per predicted signal [T, *shape], under the other actions.
        factual: per predicted signal [T, *shape], under the logged actions, by the same method.
        abduction: what "all else" covers.
        reason: why `abduction` is not full; empty if it is.
        schema: as in `Prediction`.
    """

    signals: Arrays
    factual: Arrays
    abduction: Abduction
    reason: str = ""
    schema: Schema | None = None

    def headline(self) -> str:
        """Number of steps and abduction."""
        steps = plural(len(next(iter(self.signals.values()), ())), "step")
        return f"{steps} under other actions, abduction {self.abduction.value}"

    def series(self, world: int | None) -> Sequence[ResultSeries]:
        """The signals without images, under other and under logged actions, from step 1."""
        del world
        series = list[ResultSeries]()
        for name, values in self.signals.items():
            signal = signal_of(self.schema, name, values)
            if signal.kind is not Kind.IMAGE:
                logged, text = {"logged": self.factual[name]}, "other actions"
                series.append(ResultSeries(signal=signal, values=values, others=logged, first=1, heading=text))
        return series

    def images_of(self, world: int | None) -> Arrays:
        """The images under the other actions."""
        del world
        return {name: value for name, value in self.signals.items() if value.ndim == 4}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A step with an unexpected outcome.

    Args:
        step: index from 0. Step t leads to observation t + 1.
        signals: the predicted signals, the most unexpected first.
        p_value: p-value of the step, 0 to 1.
    """

    step: int
    signals: tuple[str, ...]
    p_value: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Surprise(Result):
    """The answer of `World.surprise`: calibrated p-values of the steps of an episode.

    A p-value is the share of calibration steps that were at least as surprising, 0 to 1. It is 1 where the value is
    missing.

    Args:
        p_values: per predicted signal [T].
        entities: per entity with a predicted signal [T], over all its signals.
        steps: [T], over all predicted signals.
        moments: at most ten steps, the most surprising first, each with a p-value of at most 0.1.
        schema: as in `Prediction`.
    """

    p_values: Mapping[str, NDArray[np.floating]]
    entities: Mapping[str, NDArray[np.floating]]
    steps: NDArray[np.floating]
    moments: tuple[Moment, ...]
    schema: Schema | None = None

    def headline(self) -> str:
        """Number of steps and the most surprising one."""
        steps = plural(len(self.steps), "step")
        if not self.moments:
            return f"{steps}, none with a p-value of at most 0.1"
        top = self.moments[0]
        return f"{steps}, most surprising is step {top.step} ({', '.join(top.signals)}), p = {number(top.p_value)}"

    def series(self, world: int | None) -> Sequence[ResultSeries]:
        """The p-values of the steps: of all signals, of each entity and of each signal."""
        del world
        entities = {f"entity {name}": value for name, value in self.entities.items()}
        text, named = "p-values of the steps", {"all signals": self.steps, **entities, **self.p_values}
        return [
            ResultSeries(
                signal=plain_signal(name), values=values[:, None], drawn="held", heading=text, logarithmic=True
            )
            for name, values in named.items()
        ]


class World(ABC):
    """A world model as applications use it, independent of the engine behind it.

    Every verb tells two kinds of failure apart. After an `UnsupportedError`, another world may answer the same request.
    An `InputError` means that the request is wrong for every world.

    Raises:
        UnavailableError: by any verb, if the world runs in another process and that process cannot be reached.
        UnsupportedError: by `predict`, `score` and `plan`, if a call exceeds `Card.max_batch` or `Card.max_candidates`.
    """

    @abstractmethod
    def describe(self) -> Card:
        """The card of this world: schema, predicted signals, context, abilities and cost of a call."""

    def _repr_html_(self) -> str:
        """For notebooks: the card."""
        return self.describe()._repr_html_()

    def __repr__(self) -> str:
        card = self.describe()
        actions = first_of([signal.name for signal in card.schema.actions]) or "no actions"
        return f"{type(self).__name__}({card.name}: {actions} -> {first_of(card.predicts)}; engine {card.engine})"

    @overload
    @abstractmethod
    def answer(self, call: PredictCall) -> Prediction: ...
    @overload
    @abstractmethod
    def answer(self, call: ScoreCall) -> Scores: ...
    @overload
    @abstractmethod
    def answer(self, call: PlanCall) -> Plan: ...
    @overload
    @abstractmethod
    def answer(self, call: WhatIfCall) -> WhatIf: ...
    @overload
    @abstractmethod
    def answer(self, call: SurpriseCall) -> Surprise: ...
    @abstractmethod
    def answer(self, call: Call) -> Any:
        """The answer to any call. The other verbs build the call, so a world implements only `describe` and this.

        Raises:
            InputError: see the verbs.
            UnsupportedError: see the verbs.
        """

    def predict(
        self,
        history: History,
        actions: Arrays,
        *,
        exogenous: Arrays | None = None,
        level: float | None = None,
        num_samples: int = 0,
        images: bool = False,
    ) -> Prediction:
        """Predicts the signals under `actions`, with prediction bands. `PredictCall` describes the arguments.

        Raises:
            InputError: a signal is missing, has the wrong shape or dtype, or is not finite. Also if an action is
                further outside its bounds.
            UnsupportedError: the calibration has too few episodes for `level`. The message names the highest available
                level.
            UnsupportedError: samples were requested without a calibration, or T exceeds its horizon. Also if images
                were requested without a decoder.
        """
        call = PredictCall(
            history=history, actions=actions, exogenous=exogenous, level=level, num_samples=num_samples, images=images
        )
        return self.answer(call)

    def score(
        self,
        history: History,
        actions: Arrays,
        goal: Goal,
        constraints: Sequence[Constraint] = (),
        *,
        exogenous: Arrays | None = None,
        clip: bool = False,
    ) -> Scores:
        """Evaluates N candidate plans. `ScoreCall` describes the arguments.

        Raises:
            InputError: as in `predict`; or a target, cost or constraint has the wrong shape or range.
            UnsupportedError: the goal needs a distance head that the engine lacks. The message names the head. Also if
                a cost, constraint or target needs a signal or a calibration that the world lacks.
        """
        call = ScoreCall(
            history=history, actions=actions, goal=goal, constraints=constraints, exogenous=exogenous, clip=clip
        )
        return self.answer(call)

    def plan(
        self,
        history: History,
        goal: Goal,
        *,
        constraints: Sequence[Constraint] = (),
        horizon: int,
        exogenous: Arrays | None = None,
        proposals: Arrays | None = None,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        min_trust: float = 0.0,
        clip: bool = False,
        seed: int = 0,
        expected: bool = True,
        planner: str | None = None,
    ) -> Plan:
        """Searches a plan of `horizon` steps towards `goal`. `PlanCall` describes the arguments.

        Raises:
            InputError: as in `score`; or a number is out of range.
            UnsupportedError: as in `score`; or the world is not action-conditioned, or an action signal has no finite
                bounds.
        """
        return self.answer(
            PlanCall(
                history=history,
                goal=goal,
                constraints=constraints,
                horizon=horizon,
                exogenous=exogenous,
                proposals=proposals,
                pending=pending,
                budget_s=budget_s,
                min_trust=min_trust,
                clip=clip,
                seed=seed,
                expected=expected,
                planner=planner,
            )
        )

    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """Predicts how one episode would have continued under other actions. `WhatIfCall` describes the arguments.

        Raises:
            InputError: `at` or T does not fit the episode.
            UnsupportedError: a value of the episode is too large for the arithmetic of the world.
        """
        return self.answer(WhatIfCall(episode=episode, at=at, actions=actions))

    def surprise(self, episode: Episode) -> Surprise:
        """Measures how unexpected each step of one episode is, as calibrated p-values.

        Raises:
            InputError: the episode has no step.
            UnsupportedError: the world is not calibrated.
        """
        return self.answer(SurpriseCall(episode=episode))


ANSWERS: Final[Mapping[type[Call], type[Prediction | Scores | Plan | WhatIf | Surprise]]] = {
    PredictCall: Prediction,
    ScoreCall: Scores,
    PlanCall: Plan,
    WhatIfCall: WhatIf,
    SurpriseCall: Surprise,
}
"""The type of the answer to each call."""


def _one(values: NDArray[Any], world: int | None) -> NDArray[Any]:
    """The values of one world; all of them without an axis of worlds."""
    return values if world is None else values[world]
