"""A world in this process: the verbs of `World`, implemented once over any engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import CallCost, Card, Engine, EngineBelief, Novelty
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.planning.base import Constraint, Goal, PlanRequest
from worldline.planning.planners.base import Planner
from worldline.schema import Kind, Signal
from worldline.world.base import Forecast, Plan, Prediction, Scores, Surprise, WhatIf, World
from worldline.world.calibration import Calibration
from worldline.world.objective import objective
from worldline.world.pieces import cut, errors, mean_of, num_samples
from worldline.world.plan_search import Search
from worldline.world.surprise import surprise_of
from worldline.world.validation import (
    ValidatedHistory,
    check_actions,
    check_episode,
    check_goal,
    check_group,
    check_history,
)
from worldline.world.what_if import obstacle, twins

SEED = 0
"""Seed of the draws of verbs without a seed argument, so that equal calls give equal answers."""


@final
@dataclass(frozen=True, eq=False)
class LocalWorld(World):
    """A world in this process.

    Args:
        engine: makes the predictions.
        calibration: calibration of this engine. None: predictions have no bands, and trust is NaN.
        planner: searches for plans.
        num_proposals: number of sequences that the engine proposes, if it can; 0 for none.
        call: cost of a prediction, from `measure_call`, if the engine's card does not state it; None if not measured.
    """

    engine: Engine
    calibration: Calibration | None
    planner: Planner
    num_proposals: int = 32
    call: CallCost | None = None

    def __post_init__(self) -> None:
        by_engine = self.calibration is not None and self.calibration.input_novelty is None
        if by_engine and not isinstance(self.engine, Novelty):
            raise ConfigError("the calibration belongs to an engine that measures novelty. Calibrate this engine.")

    def describe(self) -> Card:
        """The engine's card with the cost of a call. Adds 'abducts' if `what_if` can infer over this engine."""
        card = self.engine.describe()
        abducts = () if "abducts" in card.abilities or obstacle(card) else ("abducts",)
        return replace(card, call=card.call or self.call, abilities=(*card.abilities, *abducts))

    def predict(
        self, history: History, actions: Arrays, *, exogenous: Arrays | None = None, level: float = 0.9
    ) -> Prediction:
        """See `World`. Bands hold for histories of `Card.context` observations and up to the calibrated horizon."""
        if not 0 < level < 1:
            raise InputError(f"level is {level}. Give a probability between 0 and 1, such as 0.9.")
        card = self.describe()
        present = check_history(card.schema, history)
        checked = check_actions(card.schema.actions, actions, (*present.leading, None))
        future = self._future(present, checked, exogenous, axes_between=0)
        belief = self.engine.observe(None, present.history, seed=SEED)
        samples = self.engine.imagine(belief, future, num_samples=num_samples(card), seed=SEED).signals
        return Prediction(
            signals={n: self._forecast(card.schema[n], samples[n], present, level) for n in card.predicts},
            level=level,
            trust=self._trust(belief, present),
            calibrated=self.calibration is not None and self.calibration.has_error_scores,
        )

    def score(
        self,
        history: History,
        actions: Arrays,
        goal: Goal,
        constraints: Sequence[Constraint] = (),
        *,
        exogenous: Arrays | None = None,
    ) -> Scores:
        """See `World`."""
        schema = self.describe().schema
        present = check_history(schema, history)
        targets = check_goal(schema, goal, present.leading)
        checked = check_actions(schema.actions, actions, (*present.leading, None, None))
        future = self._future(present, checked, exogenous, axes_between=1)
        belief = self.engine.observe(None, present.history, seed=SEED)
        costs = objective(
            self.engine,
            belief,
            self.calibration,
            goal,
            targets,
            constraints,
            future.exogenous,
            _now(present),
            seed=SEED,
        ).evaluate(future.actions)
        single = present.single
        return Scores(
            cost=costs.cost[0] if single else costs.cost,
            violation=costs.violation[0] if single else costs.violation,
            trust=self._trust(belief, present),
        )

    def answer_plan(self, history: History, request: PlanRequest) -> Plan:
        """See `World`. A batch is refused as a whole if the trust of one of its worlds is too small.

        Raises:
            UnsupportedError: also if an action signal is discrete and the planner searches only continuous values.
        """
        card = self.describe()
        schema = card.schema
        search = Search.begin(schema, request)
        present = check_history(schema, history)
        targets = check_goal(schema, request.goal, present.leading)
        sent = (
            {} if request.pending is None else check_actions(schema.actions, request.pending, (*present.leading, None))
        )
        if present.single:
            sent = {name: value[None] for name, value in sent.items()}
        num_sent = next(iter(sent.values())).shape[1] if sent else 0
        given = self._exogenous(present, request.exogenous, num_sent + request.horizon)
        started = None if request.proposals is None else search.check_proposals(request.proposals, present)
        belief = self.engine.observe(None, present.history, seed=request.seed)
        aim = objective(
            self.engine,
            belief,
            self.calibration,
            request.goal,
            targets,
            request.constraints,
            given,
            _now(present),
            seed=request.seed,
        )
        trust = self._trust(belief, present)
        reason = search.refusal_reason(trust)
        if reason:
            return search.refused(reason, present, trust)
        if not card.action_conditioned:
            raise UnsupportedError(
                f"{card.name} is not action-conditioned, so it cannot compare plans. Plan with an action-conditioned "
                "world: a learned one, a simulator or a language model."
            )
        return search.run(self.planner, aim, present, trust, started, self.num_proposals, sent)

    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """See `World`."""
        card = self.describe()
        checked = check_episode(card.schema, episode)
        others = check_actions(card.schema.actions, actions, (None,))
        num_steps = len(next(iter(others.values())))
        left = checked.num_steps - at
        if at < 0 or num_steps > left:
            raise InputError(
                f"{num_steps} steps from observation {at} exceed the episode of {checked.num_steps} steps. "
                "Branch earlier, or pass fewer actions."
            )
        causes = None if self.calibration is None else self.calibration.causes
        found = twins(self.engine, checked, at, others, causes=causes, seed=SEED)
        signals, factual = (
            {name: _mean(card.schema[name], samples[name][None])[0] for name in card.predicts}
            for samples in (found.others, found.taken)
        )
        return WhatIf(signals=signals, factual=factual, abduction=found.abduction, reason=found.reason)

    def surprise(self, episode: Episode) -> Surprise:
        """See `World`."""
        if self.calibration is None or not self.calibration.has_error_scores:
            raise UnsupportedError("surprise needs a calibration. Run `calibrate` on held-out episodes.")
        card = self.describe()
        checked = check_episode(card.schema, episode)
        if checked.num_steps < 1:
            raise InputError("the episode has one observation and no step. surprise needs at least two observations.")
        logged = [name for name in card.predicts if name in checked.observations]
        parts: list[dict[str, NDArray[np.floating]]] = []
        known: list[dict[str, NDArray[np.bool_]]] = []
        # Steps before `context` have shorter histories; each of these lengths is a separate batch.
        short = [[at] for at in range(min(card.context - 1, checked.num_steps))]
        for batch in [*short, list(range(len(short), checked.num_steps))]:
            if not batch:
                continue
            places = [(checked, at) for at in batch]
            length = min(card.context, batch[0] + 1)
            pieces = cut(card.schema, places, length=length, horizon=1, truth=logged)
            found = errors(self.engine, pieces, seed=SEED)
            parts.append({name: error[:, 0] for name, error in found.items()})
            known.append({name: pieces.known[name][:, 0].astype(bool) for name in found})
        nothing = dict.fromkeys(card.predicts, np.zeros((checked.num_steps, 1)))
        every = nothing | {name: np.concatenate([part[name] for part in parts]) for name in logged}
        unknown = dict.fromkeys(card.predicts, np.zeros(checked.num_steps, bool))
        seen = unknown | {name: np.concatenate([part[name] for part in known]) for name in logged}
        return surprise_of(card.schema, self.calibration.surprise(card.schema, every), seen)

    def _exogenous(self, present: ValidatedHistory, exogenous: Arrays | None, horizon: int) -> Arrays:
        """The validated exogenous inputs, per signal [W, T, *shape]."""
        signals = self.describe().schema.exogenous
        checked = check_group(signals, exogenous or {}, (*present.leading, horizon), "exogenous")
        return {name: value[None] for name, value in checked.items()} if present.single else checked

    def _future(
        self, present: ValidatedHistory, actions: Arrays, exogenous: Arrays | None, *, axes_between: int
    ) -> Future:
        """The validated inputs with the W and the N axis."""
        front = len(present.leading)
        horizon = next(iter(actions.values())).shape[front + axes_between] if actions else 1
        if axes_between == 0:
            actions = {name: np.expand_dims(value, front) for name, value in actions.items()}
        if present.single:
            actions = {name: value[None] for name, value in actions.items()}
        return Future(actions=actions, exogenous=self._exogenous(present, exogenous, horizon))

    def _trust(self, belief: EngineBelief, present: ValidatedHistory) -> float | NDArray[np.floating]:
        """The p-value of the history; NaN without a calibration."""
        if self.calibration is None:
            trust: NDArray[np.floating] = np.full(present.num_worlds, np.nan)
        else:
            trust = self.calibration.trust_in(self.engine, belief, present.history, seed=SEED)
        return float(trust[0]) if present.single else trust

    def _forecast(
        self, signal: Signal, samples: NDArray[np.generic], present: ValidatedHistory, level: float
    ) -> Forecast:
        """The forecast from samples [W, 1, S, T, *shape]."""
        mean, low, high, horizon = _mean(signal, samples[:, 0]), None, None, 0
        if self.calibration is not None and signal.name in self.calibration.scale:
            half = self.calibration.band_half_width(signal.name, mean.shape[1], level)
            low, high = mean.astype(np.float64) - half, mean.astype(np.float64) + half
            horizon = self.calibration.horizon_of(signal.name, mean.shape[1])
        if not present.single:
            return Forecast(mean=mean, low=low, high=high, horizon=np.full(present.num_worlds, horizon))
        return Forecast(
            mean=mean[0],
            low=None if low is None else low[0],
            high=None if high is None else high[0],
            horizon=horizon,
        )


def _now(present: ValidatedHistory) -> Arrays:
    """See `Rollout.present`."""
    history, found = present.history, dict[str, NDArray[np.generic]]()
    for name, value in {**history.observations, **history.actions, **history.exogenous}.items():
        if not value.shape[1]:
            continue
        seen = history.observed[name][:, -1] if name in history.observed else np.ones(len(value), bool)
        if seen.all():
            found[name] = value[:, -1]
        elif np.issubdtype(value.dtype, np.floating):
            found[name] = np.where(seen[:, None], value[:, -1], np.nan)
    return found


def _mean(signal: Signal, samples: NDArray[np.generic]) -> NDArray[np.generic]:
    """The mean over samples in the signal's dtype; the most frequent label if discrete."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    if signal.kind is Kind.DISCRETE:
        return np.asarray(np.eye(signal.size)[samples].sum(1).argmax(-1))
    mean = mean_of(signal, samples)
    return np.asarray(np.rint(mean) if signal.kind is Kind.IMAGE else mean).astype(signal.dtype)
