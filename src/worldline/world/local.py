"""A world in this process: the verbs of `World`, implemented once over any engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.engines.base import CallCost, Card, Decodes, Engine, Novelty
from worldline.engines.tensors import tensor_engine
from worldline.engines.validation import check_answer
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.formatting import plural, round_percent
from worldline.planning.base import Constraint, Goal, PlanRequest
from worldline.planning.planners.base import Planner
from worldline.schema import Kind, Schema, Signal
from worldline.training.batches import join
from worldline.world.base import Forecast, Plan, PlanStatus, Prediction, Scores, Surprise, WhatIf, World, band_around
from worldline.world.calibration import DEFAULT_LEVEL, Calibration
from worldline.world.logged_range import excess_of, far_target, history_excess, leaves_range, lowered, widening_of
from worldline.world.objective import Objective, objective
from worldline.world.ood import errors_of
from worldline.world.plan_search import Search
from worldline.world.prediction_errors import mean_of, step_differences
from worldline.world.prediction_errors import num_samples as samples_of
from worldline.world.present import Present, values_of
from worldline.world.surprise import surprise_of
from worldline.world.validation import (
    add_world_axis,
    check_actions,
    check_candidates,
    check_episode,
    check_goal,
    check_group,
    check_history,
    check_level,
    check_limit,
)
from worldline.world.what_if import obstacle, twins

SEED = 0
"""Seed of the draws of verbs without a seed argument, so that equal calls give equal answers."""

MAX_SAMPLES = 10_000
"""Largest number of sampled paths; bounds the memory for a request."""


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
        card = self.engine.describe()
        abducts = () if "abducts" in card.abilities or obstacle(card) else ("abducts",)
        held = self.calibration if self._has_bands else None
        horizon = 0 if held is None else held.horizon
        return replace(
            card,
            call=card.call or self.call,
            abilities=(*card.abilities, *abducts),
            band_horizon=horizon,
            band_level=held.highest_level if held is not None and horizon else 0.0,
            bytes_per_candidate=card.bytes_per_candidate or self.bytes_per_candidate,
        )

    def __repr__(self) -> str:
        held = self.calibration
        bands = "not calibrated"
        if held is not None and held.has_error_scores:
            bands = f"bands up to {round_percent(held.highest_level)} and {plural(held.horizon, 'step')}"
        text = super().__repr__().removesuffix(")")
        return f"{text}, {bands})"

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
        """See `World`. Bands hold for histories of any length."""
        level = self._checked_level(level, num_samples)  # before the history is encoded
        present = self.look(history)
        return self.predict_from(
            present, actions, exogenous=exogenous, level=level, num_samples=num_samples, images=images
        )

    def look(self, history: History, *, seed: int = SEED) -> Present:
        """The present after a history of one world or W worlds. Encodes every observation once.

        Raises:
            InputError: as in `World.predict`.
            UnsupportedError: there are more than `Card.max_batch` worlds.
        """
        card = self.engine.describe()
        checked = check_history(card.schema, history)
        check_limit(checked.num_worlds, card.max_batch, "world", "max_batch")
        past = checked.history
        belief, seen, lengths = None, None, np.zeros(checked.num_worlds, int)
        trust: NDArray[np.floating] = np.full(checked.num_worlds, np.nan)
        if self.calibration is None:
            belief = self.engine.observe(None, past, seed=seed)
        else:
            belief, seen, lengths = self.calibration.encode(self.engine, past, seed=seed)
            num_observed = next(iter(past.observations.values())).shape[1]
            trust = self.calibration.trust_in(self.engine, belief, past, seen, lengths, num_observed)
        excess = history_excess(self._ranges, card.inputs, past)[:, -card.context :]
        present = Present(
            single=checked.single,
            belief=belief,
            trust=trust,
            values=values_of(past),
            num_tested=lengths,
            errors=seen,
            p_value=None,
            num_observed=next(iter(past.observations.values())).shape[1],
            excess=excess,
        )
        return self._doubting(present, excess.max(1))

    def follow(self, before: Present, recent: History) -> Present:
        """The present one step later: one update of the belief, which encodes one observation.

        Trust and errors are still those of `before`; see `test_step`.

        Args:
            before: the present at the first observation of `recent`.
            recent: two observations and the input between them, of the same worlds.

        Raises:
            InputError: as in `World.predict`.
        """
        card, seen = self.engine.describe(), before.num_observed + 1
        history = check_history(card.schema, recent).history
        belief = self.engine.observe(before.belief, history.step(1), seed=_seed_after(before))
        excess = np.concatenate([before.excess, history_excess(self._ranges, card.inputs, history)[:, 1:]], 1)
        excess = excess[:, -card.context :]
        return replace(before, belief=belief, values=values_of(history), num_observed=seen, excess=excess)

    def test_step(self, before: Present, now: Present, recent: History) -> Present:
        """`now` with its own trust, errors and p-value: compares the last step with its prediction.

        Args:
            before: as in `follow`.
            now: the answer of `follow`.
            recent: as in `follow`.
        """
        calibration = self.calibration
        if calibration is None:
            return now
        card = self.engine.describe()
        history = check_history(card.schema, recent).history
        whole = calibration.tested_lengths(card.schema, history)  # 2 without a gap
        lengths = np.where(whole == 2, before.num_tested + 1, whole)
        errors, p_value = None, None
        if calibration.has_error_scores:
            inputs = {name: value[:, None] for name, value in history.actions.items()}
            future, seed = Future(actions=inputs, exogenous=history.exogenous), _seed_after(before)
            samples = self.engine.imagine(before.belief, future, num_samples=samples_of(card), seed=seed).signals
            check_answer(samples, card.name, axis=3)
            predicted = {name: value[:, 0, :, 0][:, None] for name, value in samples.items()}
            found, known = step_differences(card, history, predicted)
            step_errors = {name: value[:, 0] for name, value in found.items()}
            steps = calibration.at(before.num_observed).surprise(card.schema, step_errors).steps
            p_value = float(steps[0]) if any(flags.any() for flags in known.values()) else None
            if lengths.any():
                one = errors_of(card, history, predicted)
                errors = one if before.errors is None else before.errors.then(one)
        trust = calibration.trust_in(self.engine, now.belief, history, errors, lengths, now.num_observed)
        now = replace(now, trust=trust, num_tested=lengths, errors=errors, p_value=p_value)
        return self._doubting(now, now.excess.max(1))

    def predict_from(
        self,
        present: Present,
        actions: Arrays,
        *,
        exogenous: Arrays | None = None,
        level: float | None = None,
        num_samples: int = 0,
        images: bool = False,
    ) -> Prediction:
        """As `World.predict`, from a present."""
        level = self._checked_level(level, num_samples)
        card = self.engine.describe()
        schema = card.schema
        checked = check_actions(schema.actions, actions, (*present.leading, None))
        future = self._future(present, checked, exogenous, axes_between=0)
        drawn = self.engine.imagine(present.belief, future, num_samples=samples_of(card), seed=SEED).signals
        check_answer(drawn, card.name, axis=3)
        means = {name: _mean(schema[name], drawn[name][:, 0]) for name in card.predicts}
        outside = self._excess(present, {**future.exogenous, **{n: v[:, 0] for n, v in future.actions.items()}})
        far = leaves_range(self._ranges, means, present.trust.shape)
        present = self._doubting(present, np.where(far, np.inf, outside.max(1)))
        means = {name: schema[name].bounded(mean) for name, mean in means.items()}
        paths, widening = self._paths(schema, means, num_samples, present), widening_of(present.excess, outside)
        shown = self._images(present, future, means) if images else {}
        return Prediction(
            signals={
                name: self._forecast(mean, schema[name], level, paths.get(name), present, widening)
                for name, mean in means.items()
            },
            level=level,
            trust=present.shown_trust,
            calibrated=self._has_bands,
            images={name: value[0] if present.single else value for name, value in shown.items()},
            schema=schema,
        )

    @property
    def _ranges(self) -> Mapping[str, NDArray[np.floating]]:
        """The logged ranges; empty if unknown."""
        return {} if self.calibration is None else self.calibration.logged_range

    def _excess(self, present: Present, inputs: Arrays) -> NDArray[np.floating]:
        """The excess [W, T] of inputs [W, T, *shape] over the logged range; [W, 1] if it is 0 at all steps."""
        return excess_of(self._ranges, inputs, (present.num_worlds, 1))

    def _doubting(self, present: Present, excess: NDArray[np.floating]) -> Present:
        """`present` with the trust in predictions from inputs of this excess [W]."""
        smallest = 0.0 if self.calibration is None else self.calibration.smallest_trust
        return replace(present, trust=lowered(present.trust, smallest, excess))

    @property
    def _has_bands(self) -> bool:
        return self.calibration is not None and self.calibration.has_error_scores

    def _checked_level(self, level: float | None, num_samples: int) -> float:
        """The level of the bands, after both arguments were checked."""
        if not 0 <= num_samples <= MAX_SAMPLES:
            kind = InputError if num_samples < 0 else UnsupportedError
            raise kind(f"num_samples is {num_samples}. Give 1 to {MAX_SAMPLES} sampled paths, or 0 for none.")
        if num_samples and not self._has_bands:
            raise UnsupportedError("sampled paths need a calibration. Run `calibrate` on held-out episodes.")
        if level is None:
            return DEFAULT_LEVEL if self.calibration is None else self.calibration.default_level
        check_level(level)
        if self.calibration is not None and self.calibration.scale:
            self.calibration.check_available(level)
        return level

    def _paths(self, schema: Schema, means: Arrays, num_samples: int, present: Present) -> Arrays:
        """The sampled paths [W, S, T, *shape] of the vector signals."""
        if self.calibration is None or not num_samples:
            return {}
        vectors = {name: mean for name, mean in means.items() if name in self.calibration.scale}
        if not vectors:
            return {}
        return self.calibration.sample_paths(
            schema, vectors, num_samples, num_observations=present.num_observed, seed=SEED
        )

    def _images(self, present: Present, future: Future, means: Arrays) -> Arrays:
        """Per image signal its predicted or decoded images [W, T, *shape]."""
        card = self.engine.describe()
        found = {name: mean for name, mean in means.items() if card.schema[name].kind is Kind.IMAGE}
        if "decodes" in card.abilities and isinstance(self.engine, Decodes):
            decoded = self.engine.decode(present.belief, future, seed=SEED)
            found = {name: value[:, 0] for name, value in decoded.items()} | found
        if not found:
            raise UnsupportedError(
                f"{card.name} predicts no images and has no decoder. Learn it from images with a recipe that fits a "
                "decoder, such as 'pixels'."
            )
        return found

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
        """See `World`."""
        card, present = self.engine.describe(), self.look(history)
        schema = card.schema
        targets = check_goal(schema, goal, present.leading)
        checked = check_actions(schema.actions, actions, (*present.leading, None, None), clip=clip)
        check_candidates(card, checked, present.leading)
        future = self._future(present, checked, exogenous, axes_between=1)
        far = np.zeros(present.num_worlds, bool)

        def watch(signals: Mapping[str, Tensor]) -> None:
            ends = dict[str, NDArray[np.floating]]()  # of the mean paths, which are as large as the rollout
            for name in self._ranges.keys() & set(card.predicts):
                path = signals[name][:, :, 0] if signals[name].shape[2] == 1 else signals[name].mean(2)
                ends[name] = torch.stack([path.amin(2), path.amax(2)], 2).cpu().numpy()
            far[:] |= leaves_range(self._ranges, ends, (present.num_worlds, 1)).any(1)

        aim = self._objective(present, goal, targets, constraints, future.exogenous, SEED)
        aim = replace(aim, all_finite=True, watch=watch)
        inputs = {**future.actions, **{name: value[:, None] for name, value in future.exogenous.items()}}
        ends = {name: np.stack([value.min((1, 2)), value.max((1, 2))], 1) for name, value in inputs.items()}
        outside = excess_of(self._ranges, ends, (present.num_worlds, 1)).max(1)
        costs = aim.evaluate(join(schema.actions, future.actions, aim.engine.device))
        cost, violation = costs.cost.cpu().numpy(), costs.violation.cpu().numpy()
        return Scores(
            cost=cost[0] if present.single else cost,
            violation=violation[0] if present.single else violation,
            trust=self._doubting(present, np.where(far, np.inf, outside)).shown_trust,
            schema=schema,
        )

    def answer_plan(self, history: History, request: PlanRequest) -> Plan:
        """See `World`. A batch is refused as a whole if the trust of one of its worlds is too small.

        Raises:
            UnsupportedError: also if an action signal is discrete and the planner searches only continuous values.
        """
        search = self._begin(request)
        return self._search(search, self.look(history, seed=request.seed), request)

    def plan_from(self, present: Present, request: PlanRequest, *, expected: bool = True) -> Plan:
        """As `World.plan`, from a present; without `Plan.prediction` if `expected` is False."""
        return self._search(self._begin(request, expected=expected), present, request, expected=expected)

    def _begin(self, request: PlanRequest, *, expected: bool = True) -> Search:
        card = self.describe()
        latency_s = 0.0 if card.call is None or not expected else card.call.latency_s
        return Search.begin(card.schema, request, tensor_engine(self.engine).device, prediction_s=latency_s)

    def _search(self, search: Search, present: Present, request: PlanRequest, *, expected: bool = True) -> Plan:
        card = self.engine.describe()
        schema, leading = card.schema, present.leading
        targets = check_goal(schema, request.goal, leading)
        pending: Arrays = {}
        if request.pending is not None:
            pending = check_actions(schema.actions, request.pending, (*leading, None), clip=request.clip)
        sent = {name: value[None] for name, value in pending.items()} if present.single else pending
        num_sent = next(iter(sent.values())).shape[1] if sent else 0
        given = self._exogenous(present, request.exogenous, num_sent + request.horizon)
        started = None if request.proposals is None else search.check_proposals(request.proposals, present)
        check_candidates(card, started or {}, (present.num_worlds,))
        aim = self._objective(present, request.goal, targets, request.constraints, given, request.seed)
        doubting = self._doubting(present, self._excess(present, given).max(1))
        reason = search.refusal_reason(doubting.shown_trust, "history")
        if reason:
            return search.refused(reason, doubting.shown_trust, present)
        if not card.action_conditioned:
            raise UnsupportedError(
                f"{card.name} is not action-conditioned, so it cannot compare plans. Plan with an action-conditioned "
                "world: a learned one, a simulator or a language model."
            )
        found = search.run(self.planner, aim, doubting, started, self.num_proposals, sent)
        far = far_target(schema, self._ranges, targets)
        if far and found.status is not PlanStatus.INFEASIBLE:
            found = replace(found, status=PlanStatus.GOAL_OUTSIDE_LOGS, reason=far)
        if not expected:
            return found
        axis = len(leading)
        whole = found.actions
        if pending:
            whole = {name: np.concatenate([pending[name], value], axis) for name, value in found.actions.items()}
        expectation = self.predict_from(present, whole, exogenous=request.exogenous)
        reason = search.refusal_reason(expectation.trust, "expected path of the plan")
        return search.refused(reason, expectation.trust, present) if reason else search.finished(found, expectation)

    def _objective(
        self,
        present: Present,
        goal: Goal,
        targets: Arrays,
        constraints: Sequence[Constraint],
        exogenous: Arrays,
        seed: int,
    ) -> Objective:
        found = objective(
            self.engine,
            present.belief,
            self.calibration,
            goal,
            targets,
            constraints,
            exogenous,
            present.values,
            num_observed=present.num_observed,
            seed=seed,
        )
        return replace(found, widening=widening_of(present.excess, self._excess(present, exogenous)).max(0)[:, None])

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
        return WhatIf(
            signals=signals, factual=factual, abduction=found.abduction, reason=found.reason, schema=card.schema
        )

    def surprise(self, episode: Episode) -> Surprise:
        """See `World`."""
        if self.calibration is None or not self.calibration.has_error_scores:
            raise UnsupportedError("surprise needs a calibration. Run `calibrate` on held-out episodes.")
        card = self.describe()
        checked = check_episode(card.schema, episode)
        if checked.num_steps < 1:
            raise InputError("the episode has one observation and no step. surprise needs at least two observations.")
        history = add_world_axis(checked.history())
        replayed = self.engine.replay(history, checked.num_steps, num_samples=samples_of(card), seed=SEED)
        check_answer(replayed.signals, card.name, axis=1)
        found, known = step_differences(card, history, replayed.signals)
        p_values = self.calibration.surprise(card.schema, {name: value[0] for name, value in found.items()})
        return surprise_of(card.schema, p_values, {name: flags[0] for name, flags in known.items()})

    def _exogenous(self, present: Present, exogenous: Arrays | None, horizon: int) -> Arrays:
        """The validated exogenous inputs, per signal [W, T, *shape]."""
        signals = self.describe().schema.exogenous
        checked = check_group(signals, {} if exogenous is None else exogenous, (*present.leading, horizon), "exogenous")
        return {name: value[None] for name, value in checked.items()} if present.single else checked

    def _future(self, present: Present, actions: Arrays, exogenous: Arrays | None, *, axes_between: int) -> Future:
        """The validated inputs with the W and the N axis."""
        front = len(present.leading)
        horizon = next(iter(actions.values())).shape[front + axes_between] if actions else 1
        if axes_between == 0:
            actions = {name: np.expand_dims(value, front) for name, value in actions.items()}
        if present.single:
            actions = {name: value[None] for name, value in actions.items()}
        return Future(actions=actions, exogenous=self._exogenous(present, exogenous, horizon))

    def _forecast(
        self,
        mean: NDArray[np.generic],
        signal: Signal,
        level: float,
        paths: NDArray[np.generic] | None,
        present: Present,
        widening: NDArray[np.floating],
    ) -> Forecast:
        """The forecast from means [W, T, *shape], sampled paths [W, S, T, *shape] and the factor [W, T] on bands."""
        low, high, horizon, name = None, None, 0, signal.name
        if paths is not None and (widening > 1).any():
            apart = signal.difference(paths, mean[:, None])
            paths = signal.wrapped(mean[:, None] + widening[:, None, :, None] * apart)
        paths = None if paths is None else signal.bounded(paths)
        if self.calibration is not None and name in self.calibration.scale:
            calibration = self.calibration.at(present.num_observed)
            half = calibration.padded_half_width(name, mean.shape[1], level) * widening[..., None]
            low, high = band_around(signal, mean, half)
            horizon = calibration.horizon_of(name, mean.shape[1])
        if not present.single:
            return Forecast(mean=mean, low=low, high=high, horizon=np.full(present.num_worlds, horizon), samples=paths)
        return Forecast(
            mean=mean[0],
            low=None if low is None else low[0],
            high=None if high is None else high[0],
            horizon=horizon,
            samples=None if paths is None else paths[0],
        )


def _seed_after(present: Present) -> int:
    """The seed of the next step; equal draws at every step would be correlated."""
    return SEED + present.num_observed


def _mean(signal: Signal, samples: NDArray[np.generic]) -> NDArray[np.generic]:
    """The mean over samples in the signal's dtype; the most frequent label if discrete."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    if signal.kind is Kind.DISCRETE:
        return np.asarray(np.eye(signal.size)[samples].sum(1).argmax(-1))
    mean = mean_of(signal, samples)
    return np.asarray(np.rint(mean) if signal.kind is Kind.IMAGE else mean).astype(signal.dtype)
