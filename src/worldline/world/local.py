"""A world in this process: the verbs of `World`, implemented once over any engine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.engines.base import CallCost, Card, Engine, EngineBelief, Novelty
from worldline.engines.validation import check_answer
from worldline.episode import Arrays, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.planning.base import Rollout
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.planning.planners.base import Planner
from worldline.registry import load
from worldline.schema import Kind, Schema, Signal
from worldline.training.batches import join, split, to_inputs
from worldline.world.base import Forecast, Moment, Plan, PlanStatus, Prediction, Scores, Surprise, WhatIf, World
from worldline.world.calibration import DEFAULT_LEVEL, Calibration, Floats, StepPValues
from worldline.world.logged_range import excess_of, far_value, history_excess, leaves_range, lowered, widening_of
from worldline.world.objective import Objective, objective, survivals
from worldline.world.ood import StepErrors, errors_of, novelty_of, step_errors
from worldline.world.plan_search import SearchBudget, action_space, outcome, refusal_reason, search
from worldline.world.prediction_errors import num_samples as samples_of
from worldline.world.prediction_errors import point_of, step_differences
from worldline.world.validation import (
    Array,
    add_world_axis,
    check_actions,
    check_candidates,
    check_episode,
    check_goal,
    check_group,
    check_history,
    check_limit,
)
from worldline.world.what_if import obstacle, twins

SEED = 0
"""Seed of the draws of verbs without a seed argument, so that equal calls give equal answers."""

MAX_SAMPLES = 10_000
"""Largest number of sampled paths; bounds the memory for a request."""


MAX_MOMENTS: Final = 10
"""Largest number of reported moments."""

LARGEST_P_VALUE: Final = 0.1
"""Largest p-value of a reported moment."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldBelief:
    """The belief of W worlds after a history; made by `LocalWorld.encode` and `LocalWorld.update`.

    Args:
        single: whether the history had no W axis, so results have none either.
        belief: of the engine.
        trust: p-value [W] of the history; NaN without a calibration.
        values: per signal its last known value, as in `Rollout.present`.
        num_tested: [W], number of observations at the end of the history that trust tests.
        errors: one-step errors of the last steps; None if there are none.
        p_value: of the last step, as in `Surprise.steps`; None if it is not evidence.
        num_observed: number of observations since the history began.
        excess: [W, C], of the last observations, at most `Card.context`, over the logged range; see `history_excess`.
    """

    single: bool
    belief: EngineBelief
    trust: NDArray[np.floating]
    values: Arrays
    num_tested: NDArray[np.integer]
    errors: StepErrors | None
    p_value: float | None
    num_observed: int
    excess: NDArray[np.floating]

    @property
    def num_worlds(self) -> int:
        """W."""
        return len(self.trust)

    @property
    def leading(self) -> tuple[int, ...]:
        """The leading axes of arguments and results: () or (W,)."""
        return () if self.single else (self.num_worlds,)

    @property
    def shown_trust(self) -> float | NDArray[np.floating]:
        """The trust as in results."""
        return float(self.trust[0]) if self.single else self.trust

    def shown(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays [W, ...] as in results."""
        return {name: value[0] if self.single else value for name, value in arrays.items()}

    def batch(self, arrays: Arrays) -> Arrays:
        """Arrays of a call with the W axis."""
        return {name: value[None] for name, value in arrays.items()} if self.single else arrays


@final
@dataclass(frozen=True, eq=False, repr=False)
class LocalWorld(World):
    """A world in this process.

    Args:
        engine: makes the predictions.
        calibration: calibration of this engine. None: predictions have no bands, and trust is NaN.
        planner: searches for plans.
        num_proposals: number of sequences that the engine proposes, if it can; 0 for none.
        call: cost of a prediction, from `measure_call`, if the engine's card does not state it; None if not measured.
        bytes_per_candidate: as on the card, from `candidate_bytes`; 0 if unknown.
        windows: held-out windows [W, context + T, *shape] that a bundle stores for the smoke test; None for none.
    """

    engine: Engine
    calibration: Calibration | None
    planner: Planner
    num_proposals: int = 32
    call: CallCost | None = None
    bytes_per_candidate: int = 0
    windows: History | None = None

    def __post_init__(self) -> None:
        by_engine = self.calibration is not None and self.calibration.input_novelty is None
        if by_engine and not isinstance(self.engine, Novelty):
            raise ConfigError("the calibration belongs to an engine that measures novelty. Calibrate this engine.")

    def describe(self) -> Card:
        """The engine's card with the cost of a call and the limits of bands.

        Adds 'abducts' if `what_if` can infer over this engine.
        """
        return self._card

    @cached_property
    def _card(self) -> Card:
        card = self.engine.describe()
        abducts = () if "abducts" in card.abilities or obstacle(card) else ("abducts",)
        calibration = self.calibration if self._has_bands else None
        horizon = 0 if calibration is None else calibration.horizon
        return replace(
            card,
            call=card.call or self.call,
            abilities=(*card.abilities, *abducts),
            band_horizon=horizon,
            band_level=calibration.highest_level if calibration is not None and horizon else 0.0,
            bytes_per_candidate=card.bytes_per_candidate or self.bytes_per_candidate,
        )

    def __repr__(self) -> str:
        bands = f"bands {self._card.facts()['bands']}" if self._has_bands else "not calibrated"
        return f"{super().__repr__().removesuffix(')')}, {bands})"

    def answer(self, call: Call, belief: WorldBelief | None = None) -> Any:
        """See `World`. `belief` replaces the history of a call, which is then not encoded."""
        match call:
            case PredictCall():
                return self._predict(call, self.encode(call.history) if belief is None else belief)
            case ScoreCall():
                return self._score(call, self.encode(call.history) if belief is None else belief)
            case PlanCall():
                return self._plan(call, belief)
            case WhatIfCall():
                return self._what_if(call)
            case SurpriseCall():
                return self._surprise(call)

    def encode(self, history: History, *, seed: int = SEED) -> WorldBelief:
        """The belief after a history of one world or W worlds. Encodes every observation once, trust included.

        Raises:
            InputError: as in `World.predict`.
            UnsupportedError: there are more than `Card.max_batch` worlds, or a value is too large.
        """
        card, calibration = self._card, self.calibration
        past, single = check_history(card.schema, history, self._ranges)
        errors, num_worlds = None, past.num_worlds
        check_limit(num_worlds, card.max_batch, "world", "max_batch")
        num_tested = np.zeros(num_worlds, int)
        if calibration is None:
            belief = self.engine.observe(None, past, seed=seed)
        else:
            # Trust uses the one-step errors that arise while the history is encoded.
            num_tested = calibration.tested_lengths(card.schema, past)
            num_steps = calibration.ood.scored_steps(num_tested - card.context)
            errors, belief = step_errors(self.engine, past, num_steps, seed=seed)
        excess = history_excess(self._ranges, card.inputs, past)
        encoded = WorldBelief(
            single=single,
            belief=belief,
            trust=np.full(num_worlds, np.nan),
            values=values_of(past),
            num_tested=num_tested,
            errors=errors,
            p_value=None,
            num_observed=next(iter(past.observations.values())).shape[1],
            excess=excess[:, -card.context :],
        )
        return self._with_trust(encoded, past)

    def update(self, before: WorldBelief, recent: History) -> WorldBelief:
        """The belief one step later, which encodes one observation. Its trust and errors are still those of `before`.

        Args:
            before: the belief at the first observation of `recent`.
            recent: two observations and the input between them, of the same worlds.

        Raises:
            InputError: as in `World.predict`.
            UnsupportedError: a value is too large.
        """
        card = self._card
        history = check_history(card.schema, recent, self._ranges)[0]
        belief = self.engine.observe(before.belief, history.step(1), seed=_seed_after(before))
        added = history_excess(self._ranges, card.inputs, history)[:, 1:]
        excess, count = np.concatenate([before.excess, added], 1)[:, -card.context :], before.num_observed + 1
        return replace(before, belief=belief, values=values_of(history), num_observed=count, excess=excess)

    def test(self, before: WorldBelief, now: WorldBelief, recent: History) -> WorldBelief:
        """`now`, which `update` returned for the same arguments, with its own trust, errors and p-value.

        Compares the last step with its prediction from `before`.
        """
        calibration, card = self.calibration, self._card
        if calibration is None:
            return now
        history = check_history(card.schema, recent)[0]
        without_gap = calibration.tested_lengths(card.schema, history)  # 2 without a gap
        num_tested = np.where(without_gap == 2, before.num_tested + 1, without_gap)
        errors, p_value = None, None
        if calibration.has_error_scores:
            inputs = {name: value[:, None] for name, value in history.actions.items()}
            future, seed = Future(actions=inputs, exogenous=history.exogenous), _seed_after(before)
            samples = self.engine.imagine(before.belief, future, num_samples=samples_of(card), seed=seed).signals
            check_answer(samples, card.name, axis=3)
            predicted = {name: value[:, 0, :, 0][:, None] for name, value in samples.items()}
            differences, known = step_differences(card, history, predicted)
            last = {name: value[:, 0] for name, value in differences.items()}
            steps = calibration.at(before.num_observed).surprise(card.schema, last).steps
            p_value = float(steps[0]) if any(flags.any() for flags in known.values()) else None
            if num_tested.any():
                latest = errors_of(card, history, predicted)
                errors = latest if before.errors is None else before.errors.then(latest)
        return self._with_trust(replace(now, num_tested=num_tested, errors=errors, p_value=p_value), history)

    def _with_trust(self, belief: WorldBelief, history: History) -> WorldBelief:
        """`belief` with the trust in it, and in inputs of the history outside the logged range."""
        if self.calibration is None:
            return belief
        novelty = novelty_of(self.engine, self.calibration.input_novelty, history, belief.belief)
        num_steps = belief.num_tested - self._card.context
        trust = self.calibration.trust_in(novelty, belief.errors, num_steps, belief.num_observed)
        return self._lowered(replace(belief, trust=trust), belief.excess.max(1))

    def _predict(self, call: PredictCall, start: WorldBelief) -> Prediction:
        level, card, schema = self._checked_level(call), self._card, self._card.schema
        # Roll out, and read the mean of each signal.
        actions = check_actions(schema.actions, call.actions, (*start.leading, None))
        future = self._future(start, {n: np.expand_dims(v, len(start.leading)) for n, v in actions.items()}, call)
        samples = self.engine.imagine(start.belief, future, num_samples=samples_of(card), seed=SEED).signals
        check_answer(samples, card.name, axis=3)
        paths = {name: point_of(schema[name], samples[name][:, 0]) for name in card.predicts}
        # Inputs and paths outside the logged range lower the trust, and inputs widen the bands.
        outside = self._excess(start, {**future.exogenous, **{n: v[:, 0] for n, v in future.actions.items()}})
        leaves = leaves_range(self._ranges, paths, start.trust.shape)
        trusted = self._lowered(start, np.where(leaves, np.inf, outside.max(1)))
        widening = widening_of(start.excess, outside)
        means = {name: schema[name].bounded(path) for name, path in paths.items()}
        images = self._images(start, future, means) if call.images else {}
        drawn: Arrays = {}
        if self.calibration is not None and call.num_samples:
            vectors = {name: mean for name, mean in means.items() if name in self.calibration.scale}
            if vectors:
                drawn = self.calibration.sample_paths(
                    schema, vectors, call.num_samples, num_observations=start.num_observed, seed=SEED
                )
        return Prediction(
            signals={
                name: self._forecast(schema[name], mean, level, drawn.get(name), start, widening)
                for name, mean in means.items()
            },
            level=level,
            trust=trusted.shown_trust,
            calibrated=self._has_bands,
            images=start.shown(images),
            schema=schema,
        )

    def _score(self, call: ScoreCall, start: WorldBelief) -> Scores:
        card, schema = self._card, self._card.schema
        targets = check_goal(schema, call.goal, start.leading)
        actions = check_actions(schema.actions, call.actions, (*start.leading, None, None), clip=call.clip)
        check_candidates(card, actions, start.leading)
        future = self._future(start, actions, call)
        leaves, survival = np.zeros(start.num_worlds, bool), list[NDArray[np.floating]]()

        def watch(rollout: Rollout) -> None:
            """Notes survival, and where a mean path leaves the logged range. Only its ends leave the device."""
            signals, ends = rollout.signals, dict[str, NDArray[np.floating]]()
            for name in self._ranges.keys() & set(card.predicts):
                path = signals[name][:, :, 0] if signals[name].shape[2] == 1 else signals[name].mean(2)
                ends[name] = torch.stack([path.amin(2), path.amax(2)], 2).cpu().numpy()
            leaves[:] |= leaves_range(self._ranges, ends, (start.num_worlds, 1)).any(1)
            survival.extend(survivals(rollout))

        costs_of = replace(self._objective(call, start, targets, future.exogenous, SEED), all_finite=True, watch=watch)
        costs = costs_of(join(schema.actions, future.actions, self.engine.device))
        inputs = {**future.actions, **{name: value[:, None] for name, value in future.exogenous.items()}}
        ends = {name: np.stack([value.min((1, 2)), value.max((1, 2))], 1) for name, value in inputs.items()}
        outside = self._excess(start, ends).max(1)
        return Scores(
            **start.shown({"cost": costs.cost.cpu().numpy(), "violation": costs.violation.cpu().numpy()}),
            trust=self._lowered(start, np.where(leaves, np.inf, outside)).shown_trust,
            survival=start.shown({"survival": np.concatenate(survival, 1)})["survival"] if survival else None,
            schema=schema,
        )

    def _plan(self, call: PlanCall, belief: WorldBelief | None) -> Plan:
        """A batch is refused as a whole if the trust of one of its worlds is too small.

        Raises:
            UnsupportedError: also if an action signal is discrete and the planner searches only continuous values.
        """
        card, schema, device = self._card, self._card.schema, self.engine.device
        planner = self.planner if call.planner is None else load("planner", call.planner)()
        latency_s = 0.0 if card.call is None or not call.expected else card.call.latency_s
        budget = SearchBudget(started_s=time.monotonic(), budget_s=call.budget_s, prediction_s=latency_s)
        space = action_space(schema.actions, device)
        start = self.encode(call.history, seed=call.seed) if belief is None else belief
        # Check the call. Pending actions are the first steps of every candidate.
        targets = check_goal(schema, call.goal, start.leading)
        pending = self._sequences(call.pending, (*start.leading, None), call, start)
        proposals = self._sequences(call.proposals, (*start.leading, None, call.horizon), call, start)
        check_candidates(card, proposals, (start.num_worlds,))
        num_pending = next(iter(pending.values())).shape[1] if pending else 0
        exogenous = self._exogenous(start, call.exogenous, num_pending + call.horizon)
        costs = self._objective(call, start, targets, exogenous, call.seed)
        if pending:
            costs = replace(costs, pending=join(schema.actions, pending, device))
        # Refuse if the trust in the present is too small, before anything is searched.
        trust = self._lowered(start, self._excess(start, exogenous).max(1)).shown_trust
        outside = self._outside(start, {name: value for name, value in exogenous.items() if value.size})
        if reason := refusal_reason(call.min_trust, trust, "history"):
            return self._refused(call, start, trust, "; ".join(filter(None, (reason, outside))), budget)
        if not card.action_conditioned:
            raise UnsupportedError(
                f"{card.name} is not action-conditioned, so it cannot compare plans. Plan with an action-conditioned "
                "world: a learned one, a simulator or a language model."
            )
        planned = search(
            planner,
            costs,
            call,
            join(schema.actions, proposals, device) if proposals else None,
            num_proposals=self.num_proposals,
            space=space,
            budget=budget,
        )
        status, reason = outcome(costs, planned, single=start.single)
        far = far_value(schema, self._ranges, targets, "goal")
        if far and status is not PlanStatus.INFEASIBLE:
            status, reason = PlanStatus.GOAL_OUTSIDE_LOGS, far
        actions = {name: value.cpu().numpy() for name, value in split(schema.actions, planned.actions).items()}
        plan = Plan(
            actions=start.shown(actions),
            status=status,
            cost=_single(planned.cost, start),
            violation=planned.violation.cpu().numpy()[0 if start.single else slice(None)],
            trust=trust,
            reason=reason or outside,
            elapsed_s=budget.elapsed_s(),
            bound=_single(planned.bound, start) if planned.bound is not None else math.nan,
            schema=schema,
        )
        whole = {n: np.concatenate([pending[n], v], 1) if pending else v for n, v in actions.items()}
        return self._expected(plan, call, start, whole, budget) if call.expected else plan

    def _expected(self, plan: Plan, call: PlanCall, start: WorldBelief, whole: Arrays, budget: SearchBudget) -> Plan:
        """The plan with its predicted path under pending and planned actions [W, D + T, *shape], whose trust counts."""
        path = PredictCall(history=call.history, actions=start.shown(whole), exogenous=call.exogenous)
        expected = self._predict(path, start)
        if reason := refusal_reason(call.min_trust, expected.trust, "expected path of the plan"):
            return self._refused(call, start, expected.trust, reason, budget)
        return replace(plan, prediction=expected, trust=expected.trust, elapsed_s=budget.elapsed_s())

    def _refused(
        self, call: PlanCall, start: WorldBelief, trust: float | NDArray[np.floating], reason: str, budget: SearchBudget
    ) -> Plan:
        """The empty plan of a refusal."""
        leading, schema = start.leading, self._card.schema
        return Plan(
            actions={s.name: np.zeros((*leading, 0, *s.shape), s.dtype) for s in schema.actions},
            status=PlanStatus.REFUSED,
            cost=float("nan") if start.single else np.full(leading, np.nan),
            violation=np.full((*leading, len(call.constraints)), np.nan),
            trust=trust,
            reason=reason,
            elapsed_s=budget.elapsed_s(),
            schema=schema,
        )

    def _what_if(self, call: WhatIfCall) -> WhatIf:
        card = self._card
        episode = check_episode(card.schema, call.episode, self._ranges)
        actions = check_actions(card.schema.actions, call.actions, (None,))
        num_steps = len(next(iter(actions.values())))
        if call.at < 0 or num_steps > episode.num_steps - call.at:
            raise InputError(
                f"{num_steps} steps from observation {call.at} exceed the episode of {episode.num_steps} steps. "
                "Branch earlier, or pass fewer actions."
            )
        causes = None if self.calibration is None else self.calibration.causes
        return twins(self.engine, episode, call.at, actions, causes=causes, seed=SEED)

    def _surprise(self, call: SurpriseCall) -> Surprise:
        card, calibration = self._card, self.calibration
        if calibration is None or not calibration.has_error_scores:
            raise UnsupportedError("surprise needs a calibration. Run `calibrate` on held-out episodes.")
        episode = check_episode(card.schema, call.episode, self._ranges)
        if episode.num_steps < 1:
            raise InputError("the episode has one observation and no step. surprise needs at least two observations.")
        history = add_world_axis(episode.history())
        replayed = self.engine.replay(history, episode.num_steps, num_samples=samples_of(card), seed=SEED)
        check_answer(replayed.signals, card.name, axis=1)
        differences, known = step_differences(card, history, replayed.signals)
        p_values = calibration.surprise(card.schema, {name: value[0] for name, value in differences.items()})
        return surprise_of(card.schema, p_values, {name: flags[0] for name, flags in known.items()})

    @property
    def _has_bands(self) -> bool:
        return self.calibration is not None and self.calibration.has_error_scores

    @property
    def _ranges(self) -> Mapping[str, NDArray[np.floating]]:
        """The logged ranges; empty if unknown."""
        return {} if self.calibration is None else self.calibration.logged_range

    def _excess(self, start: WorldBelief, inputs: Arrays) -> NDArray[np.floating]:
        """The excess [W, T] of inputs [W, T, *shape] over the logged range; [W, 1] if it is 0 at all steps."""
        return excess_of(self._ranges, inputs, (start.num_worlds, 1))

    def _outside(self, start: WorldBelief, exogenous: Arrays) -> str:
        """Names an input of the present or an exogenous one [W, T, n] far outside its range; empty for none."""
        card = self._card
        read = {*card.inputs, *(signal.name for signal in (*card.schema.actions, *card.schema.exogenous))}
        present = {name: value for name, value in start.values.items() if name in read}
        reason = far_value(card.schema, self._ranges, present, "history")
        return reason or far_value(card.schema, self._ranges, exogenous, "exogenous")

    def _lowered(self, belief: WorldBelief, excess: NDArray[np.floating]) -> WorldBelief:
        """`belief` with the trust in predictions from inputs of this excess [W]."""
        smallest = 0.0 if self.calibration is None else self.calibration.smallest_trust
        return replace(belief, trust=lowered(belief.trust, smallest, excess))

    def _checked_level(self, call: PredictCall) -> float:
        """The level of the bands, after it and the number of samples were checked."""
        if call.num_samples > MAX_SAMPLES:
            raise UnsupportedError(
                f"num_samples is {call.num_samples}. Give 1 to {MAX_SAMPLES} sampled paths, or 0 for none."
            )
        if call.num_samples and not self._has_bands:
            raise UnsupportedError("sampled paths need a calibration. Run `calibrate` on held-out episodes.")
        if call.level is None:
            return DEFAULT_LEVEL if self.calibration is None else self.calibration.default_level
        if self.calibration is not None and self.calibration.scale:
            self.calibration.check_available(call.level)
        return call.level

    def _future(self, start: WorldBelief, actions: Arrays, call: PredictCall | ScoreCall) -> Future:
        """The inputs with the W axis, from checked actions [N, T, *shape] or [W, N, T, *shape]."""
        batch = start.batch(actions)
        horizon = next(iter(batch.values())).shape[2] if batch else 1
        return Future(actions=batch, exogenous=self._exogenous(start, call.exogenous, horizon))

    def _exogenous(self, start: WorldBelief, exogenous: Arrays | None, horizon: int) -> Arrays:
        """The checked exogenous inputs, per signal [W, T, *shape]."""
        signals = self._card.schema.exogenous
        checked = check_group(signals, {} if exogenous is None else exogenous, (*start.leading, horizon), "exogenous")
        return start.batch(checked)

    def _sequences(
        self, actions: Arrays | None, leading: tuple[int | None, ...], call: PlanCall, start: WorldBelief
    ) -> Arrays:
        """Checked pending actions or proposals with the W axis; empty for none."""
        if actions is None:
            return {}
        checked = check_actions(self._card.schema.actions, actions, leading, clip=call.clip)
        return start.batch(checked)

    def _objective(
        self, call: PlanCall | ScoreCall, start: WorldBelief, targets: Arrays, exogenous: Arrays, seed: int
    ) -> Objective:
        """The costs of candidate plans. Inputs outside the logged range widen the bands of constraints."""
        costs = objective(
            self.engine,
            start.belief,
            self.calibration,
            call.goal,
            targets,
            call.constraints,
            exogenous,
            start.values,
            num_observed=start.num_observed,
            seed=seed,
        )
        widening = widening_of(start.excess, self._excess(start, exogenous))
        return replace(costs, widening=widening.max(0)[:, None], num_worlds=start.num_worlds)

    def _images(self, start: WorldBelief, future: Future, means: Arrays) -> Arrays:
        """Per image signal its predicted or decoded images [W, T, *shape]."""
        card = self._card
        images = {name: mean for name, mean in means.items() if card.schema[name].kind is Kind.IMAGE}
        if "decodes" in card.abilities:
            inputs = to_inputs(future.actions, future.exogenous, card.schema, self.engine.device)
            count = samples_of(card)
            rollout = self.engine.rollout(start.belief, inputs.actions, inputs.exogenous, num_samples=count, seed=SEED)
            decoded = {} if rollout.images is None else rollout.images()
            images = {name: value[:, 0].cpu().numpy() for name, value in decoded.items()} | images
        if not images:
            raise UnsupportedError(
                f"{card.name} predicts no images and has no decoder. Learn it from images with a recipe that fits a "
                "decoder, such as 'pixels'."
            )
        return images

    def _forecast(
        self, signal: Signal, mean: Array, level: float, paths: Array | None, start: WorldBelief, widening: Floats
    ) -> Forecast:
        """The forecast from means [W, T, *shape], sampled paths [W, S, T, *shape] and the factor [W, T] on bands."""
        low, high, horizon = None, None, 0
        if paths is not None:
            if (widening > 1).any():
                apart = signal.difference(paths, mean[:, None])
                paths = signal.wrapped(mean[:, None] + widening[:, None, :, None] * apart)
            paths = signal.bounded(paths)
        if self.calibration is not None and signal.name in self.calibration.scale:
            calibration = self.calibration.at(start.num_observed)
            half = calibration.padded_half_width(signal.name, mean.shape[1], level) * widening[..., None]
            low, high = Forecast.band(signal, mean, half)
            horizon = calibration.horizon_of(signal.name, mean.shape[1])
        edges = {"low": low, "high": high, "samples": paths}
        shown: dict[str, Any] = start.shown({name: value for name, value in edges.items() if value is not None})
        return Forecast(
            mean=mean[0] if start.single else mean,
            low=shown.get("low"),
            high=shown.get("high"),
            horizon=horizon if start.single else np.full(start.num_worlds, horizon),
            samples=shown.get("samples"),
        )


def _single(values: Tensor, start: WorldBelief) -> float | NDArray[np.floating]:
    """A number per world [W], as in results."""
    return float(values[0]) if start.single else values.cpu().numpy()


def _seed_after(belief: WorldBelief) -> int:
    """The seed of the next step; equal draws at every step would be correlated."""
    return SEED + belief.num_observed


def values_of(history: History) -> Arrays:
    """The last known values of W worlds, as in `Rollout.present`."""
    values = dict[str, NDArray[np.generic]]()
    for name, value in {**history.observations, **history.actions, **history.exogenous}.items():
        if not value.shape[1]:
            continue
        seen = history.observed[name][:, -1] if name in history.observed else np.ones(len(value), bool)
        if seen.all():
            values[name] = value[:, -1]
        elif np.issubdtype(value.dtype, np.floating):
            values[name] = np.where(seen[:, None], value[:, -1], np.nan)
    return values


def surprise_of(schema: Schema, p_values: StepPValues, known: Mapping[str, NDArray[np.bool_]]) -> Surprise:
    """The surprise of an episode of T steps.

    Args:
        schema: schema of the world.
        p_values: p-values [T].
        known: per predicted signal [T], whether the outcome was observed.
    """
    # An outcome that was not observed is no surprise: its p-value is 1.
    signals = {name: np.where(known[name], value, 1.0) for name, value in p_values.signals.items()}
    any_known = np.logical_or.reduce([known[name] for name in signals])
    entities = {}
    for entity, value in p_values.entities.items():
        seen = np.logical_or.reduce([known[name] for name in signals if schema[name].entity == entity])
        entities[entity] = np.where(seen, value, 1.0)
    steps = np.where(any_known, p_values.steps, 1.0)
    order = np.argsort(steps, kind="stable")[:MAX_MOMENTS]
    unlikely = [int(step) for step in order if steps[step] <= LARGEST_P_VALUE]
    names = [tuple(sorted(signals, key=lambda name: float(signals[name][step]))) for step in unlikely]
    pairs = zip(unlikely, names, strict=True)
    moments = tuple(Moment(step=step, signals=least, p_value=float(steps[step])) for step, least in pairs)
    return Surprise(p_values=signals, entities=entities, steps=steps, moments=moments, schema=schema)
