"""Counterfactuals: infer the hidden causes of an episode, change the actions, predict with the same causes.

An engine with the ability `Abducts` does this itself. Of any other engine only one-step predictions
`f(history, action)` are used:

* The residual of step t is the observation after the step minus its prediction.
* Hidden causes, such as a friction or an unmeasured wind, are assumed constant during the episode. They add a
  correction to the prediction that is linear in state and input, inferred from the whole episode. The calibration knows
  by which directions episodes differ (`world/hidden_causes.py`), so one cause is one number. Without these directions,
  or for an episode out of their range, the correction is inferred from this episode alone
  (`sparse_bayesian_regression`). It is 0 if the residuals show no such cause.
* Noise is the rest of each residual, and is assumed additive.
* The other actions are followed step by step. Each prediction adds the correction at the state of the other path
  and the noise of the log. The sum is fed back as if it had been observed.

The logged actions thus reproduce the log exactly. A cause that is linear in state or input transfers if there is enough
evidence. Other causes do not: thresholds that the logged path never crossed, multiplicative noise, contacts on one
path only. `Abduction.FULL` means that everything was inferred under these assumptions, not that they are true.
`benchmarks/what_if.py` measures the accuracy on ground-truth twins. Alternatives: docs/design/abduction.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import forecast_windows
from worldline.engines.base import Abducts, Card, Engine
from worldline.engines.validation import check_answer
from worldline.episode import Arrays, Episode, Future
from worldline.errors import ConfigError
from worldline.progress import check_interrupted
from worldline.schema import Kind, Signal
from worldline.world.base import Abduction, WhatIf
from worldline.world.hidden_causes import MIN_EPISODES, HiddenCauses, fit_causes, sparse_bayesian_regression
from worldline.world.prediction_errors import mean_of, num_samples, point_of, residuals, vectors_of
from worldline.world.validation import add_world_axis

Floats = NDArray[np.floating]

MAX_NOISE_RATIO: Final = 1.1
"""Largest noise variance of the linear model, relative to that of the engine's predictions."""

MIN_STEPS: Final = 8
"""Smallest number of known residuals. With fewer, causes cannot be separated from noise."""

_KINDS = {Kind.IMAGE: "an image", Kind.DISCRETE: "discrete"}


def twins(
    engine: Engine, episode: Episode, at: int, actions: Arrays, *, causes: HiddenCauses | None = None, seed: int
) -> WhatIf:
    """Predicts what follows observation `at` under the logged actions and under others, all else equal.

    Args:
        engine: any engine. Without `Abducts`, it predicts each step of the episode, and then each step of `actions`.
        episode: validated by `check_episode`.
        at: index of the last common observation.
        actions: per action signal [T, *shape], T at least 1 and at most the number of remaining steps.
        causes: from `causes_of` this engine. None infers hidden causes from this episode alone.
        seed: seed of every draw.

    Raises:
        ConfigError: `causes` belong to another engine.
    """
    card, reason = engine.describe(), ""
    stop = at + len(next(iter(actions.values())))
    if isinstance(engine, Abducts):
        belief, noise = engine.abduct(episode, at)
    else:
        inferred, problem = _inferred_pair(engine, card, episode, at, actions, causes, seed)
        if inferred is not None:
            return inferred
        reason = f"only the history up to the branch was used: {problem}"
        past = add_world_axis(episode.history(at, min(card.context, at + 1)))
        belief, noise = engine.observe(None, past, seed=seed), None
    # The logged actions and the others are two versions of one future.
    future = Future(
        actions={name: np.stack([episode.actions[name][at:stop], value])[None] for name, value in actions.items()},
        exogenous={name: value[None, at:stop] for name, value in episode.exogenous.items()},
    )
    samples = engine.imagine(belief, future, num_samples=num_samples(card), noise=noise, seed=seed).signals
    check_answer(samples, card.name, axis=3)
    taken, others = ({name: value[0, version] for name, value in samples.items()} for version in (0, 1))
    abduction = Abduction.NONE if reason else Abduction.FULL
    return _answer(card, taken, others, abduction, reason)


def _answer(card: Card, taken: Arrays, others: Arrays, abduction: Abduction, reason: str = "") -> WhatIf:
    """The answer from samples [S, T, *shape] under the logged actions and under others; S may differ by signal."""
    paths = taken, others
    factual, signals = ({n: point_of(card.schema[n], path[n][None])[0] for n in card.predicts} for path in paths)
    return WhatIf(signals=signals, factual=factual, abduction=abduction, reason=reason, schema=card.schema)


def _inferred_pair(
    engine: Engine, card: Card, episode: Episode, at: int, actions: Arrays, causes: HiddenCauses | None, seed: int
) -> tuple[WhatIf | None, str]:
    """The samples with inferred causes and noise; or None and the reason why nothing can be inferred."""
    if problem := obstacle(card):
        return None, problem
    case = _Case(
        engine=engine,
        card=card,
        episode=_relevant(card, episode),
        at=at,
        num_steps=len(next(iter(actions.values()))),
        still=causes is not None and causes.still,
        causes=causes,
        seed=seed,
    )
    if case.still and case.inferred is None:  # one episode is not enough to fit the whole linear model
        case = replace(case, still=False, causes=None)
    if not case.unknown:
        return _answer(card, case.logged, case.follow(actions), Abduction.FULL), ""
    if case.num_known < MIN_STEPS:
        few = f"what_if needs at least {MIN_STEPS} complete steps; the episode has {case.num_known}"
        return None, f"{case.unknown}, and {few}"
    taken, others = (case.follow(plan) for plan in (case.taken, actions))
    return _answer(card, taken, others, Abduction.HIDDEN_CAUSE, case.unknown), ""


def causes_of(engine: Engine, episodes: Sequence[Episode], *, seed: int) -> HiddenCauses | None:
    """Learns how episodes differ from the predictions of the engine; None if nothing is found.

    The engine predicts each step of each episode. A linear model in state and inputs is fitted as well, with
    coefficients that differ between episodes by the causes. If it leaves about as little noise as the engine, it
    replaces the engine in `what_if`: it transfers a cause exactly, while errors of a network add up over the steps.
    With fewer than `MIN_EPISODES` episodes nothing is learned.

    Args:
        engine: frozen. A later change of it invalidates the result.
        episodes: in the schema's dtypes.
        seed: seed of every draw.
    """
    card = engine.describe()
    if isinstance(engine, Abducts) or obstacle(card) or len(episodes) < MIN_EPISODES:
        return None
    tables, lines = (_tables(engine, card, episodes, still, seed) for still in (False, True))
    causes, line = fit_causes(tables), fit_causes(lines)
    if line is None or any(card.schema[name].kind is not Kind.VECTOR for name in card.predicts):
        return causes
    left = np.diag(causes.noise) if causes else np.mean(np.concatenate([rest for _, rest in tables]) ** 2, 0)
    return replace(line, still=True) if (np.diag(line.noise) <= MAX_NOISE_RATIO * left).all() else causes


def _tables(
    engine: Engine, card: Card, episodes: Sequence[Episode], still: bool, seed: int
) -> list[tuple[Floats, Floats]]:
    """Features [n, P] and residuals [n, D] of each episode with enough complete steps."""
    tables = []
    for episode in episodes:
        case = _Case(engine=engine, card=card, episode=_relevant(card, episode), still=still, seed=seed)
        if case.logged_signals and case.logged_signals == case.signals and case.complete.sum() >= MIN_STEPS:
            tables.append((case.table[case.complete], case.joined[case.complete]))
    return tables


def obstacle(card: Card) -> str:
    """The reason why nothing can be inferred with such an engine, and a fix; empty if it can."""
    if not card.action_conditioned:
        return f"{card.name} is not action-conditioned, so other actions change nothing. Use a world that is"
    fix = "Use a simulator that replays the episode, or a world that takes only vectors that it predicts"
    for name in card.inputs:
        kind = card.schema[name].kind
        if kind is not Kind.VECTOR:
            return f"{card.name} takes {name!r}, which is {_KINDS[kind]}, so noise cannot be inferred. {fix}"
        if name not in card.predicts:
            return f"{card.name} takes {name!r} and does not predict it, so other actions cannot be followed. {fix}"
    return ""


def _relevant(card: Card, episode: Episode) -> Episode:
    """The episode with only the signals taken or predicted; gaps in a vector hold the nearest value.

    Filled values serve as features of the correction. The masks still mark them as missing for the engine.
    """
    kept: dict[str, NDArray[np.generic]] = {}
    for name, value in episode.observations.items():
        if name in card.inputs or (name in card.predicts and card.schema[name].kind is Kind.VECTOR):
            kept[name] = _filled(value, _observed(episode, name))
    masks = {name: mask for name, mask in episode.observed.items() if name in kept}
    return replace(episode, observations=kept, observed=masks)


def _observed(episode: Episode, name: str) -> NDArray[np.bool_]:
    """Where [T + 1] a signal was observed; nowhere if it was not logged."""
    return episode.mask(name) if name in episode.observations else np.zeros(episode.num_steps + 1, bool)


def _filled(values: NDArray[np.generic], seen: NDArray[np.bool_]) -> NDArray[np.generic]:
    """`values` with each gap filled by the nearest observed value; ties take the earlier one."""
    if seen.all() or not seen.any():
        return values
    places, at = np.flatnonzero(seen), np.arange(len(values))
    later = np.searchsorted(places, at).clip(max=len(places) - 1)
    before, after = places[np.maximum(later - 1, 0)], places[later]
    return np.asarray(values[np.where(np.abs(at - before) <= np.abs(after - at), before, after)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """One counterfactual for an engine that takes only vectors and predicts them.

    Args:
        engine: without `Abducts`.
        card: card of the engine.
        episode: from `_relevant`.
        at: index of the branch.
        num_steps: number of predicted steps.
        still: whether residuals are those of persistence, so that the causes hold the whole linear model.
        causes: causes of the engine; None if not learned.
        seed: seed of every draw.
    """

    engine: Engine
    card: Card
    episode: Episode
    at: int = 0
    num_steps: int = 0
    still: bool
    causes: HiddenCauses | None = None
    seed: int

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The predicted vectors."""
        return vectors_of(self.card)

    @property
    def logged_signals(self) -> tuple[Signal, ...]:
        """The predicted vectors in the episode."""
        return tuple(signal for signal in self.signals if signal.name in self.episode.observations)

    @property
    def logged(self) -> Arrays:
        """The logged outcome per vector [1, num_steps, *shape]."""
        after = slice(self.at + 1, self.at + 1 + self.num_steps)
        return {signal.name: self.episode.observations[signal.name][None, after] for signal in self.logged_signals}

    @property
    def taken(self) -> Arrays:
        """The logged actions per signal [num_steps, *shape]."""
        return {name: value[self.stretch] for name, value in self.episode.actions.items()}

    @cached_property
    def known(self) -> Mapping[str, NDArray[np.bool_]]:
        """Per vector the steps [T] with a known residual: all inputs observed before, the vector after."""
        start = np.ones(self.episode.num_steps, bool)
        for name in self.card.inputs:
            start &= _observed(self.episode, name)[:-1]
        return {signal.name: start & _observed(self.episode, signal.name)[1:] for signal in self.signals}

    @property
    def stretch(self) -> slice:
        """The predicted steps."""
        return slice(self.at, self.at + self.num_steps)

    @property
    def num_known(self) -> int:
        """The number of steps with a known residual for at least one vector."""
        return int(np.logical_or.reduce(list(self.known.values())).sum()) if self.signals else 0

    @property
    def unknown(self) -> str:
        """The first unknown noise, in words; empty if all noise is known."""
        for name in self.card.predicts:
            if self.card.schema[name].kind is not Kind.VECTOR:
                return f"{name!r} is {_KINDS[self.card.schema[name].kind]}, so its own noise is not known"
        for step in range(self.episode.num_steps)[self.stretch]:
            after = [signal.name for signal in self.signals]
            for place, names in ((step, self.card.inputs), (step + 1, after)):
                for name in names:
                    if not _observed(self.episode, name)[place]:
                        what = f"{name!r} is missing at observation {place}"
                        return f"{what}, so the noise of step {step} is not known"
        return ""

    @cached_property
    def residuals(self) -> Mapping[str, Floats]:
        """Per logged vector [T, size]: observed minus predicted."""
        if self.still:
            changes = {s.name: self._change(s) for s in self.logged_signals}
            return {name: np.where(self.known[name][:, None], value, 0.0) for name, value in changes.items()}
        errors = {s.name: np.zeros((self.episode.num_steps, s.size)) for s in self.logged_signals}
        schema, targets = self.card.schema, list(errors)
        for steps in self._batches():
            check_interrupted()
            places, length = [(self.episode, step) for step in steps], min(self.card.context, steps[0] + 1)
            windows = forecast_windows(places, length=length, horizon=1, schema=schema, targets=targets)
            for name, value in residuals(self.engine, windows, seed=self.seed).items():
                errors[name][steps] = value[:, 0]
        return errors

    @cached_property
    def table(self) -> Floats:
        """The features [T, P] of every step."""
        return self._features(self.episode, slice(0, self.episode.num_steps))

    @property
    def joined(self) -> Floats:
        """The residuals [T, D], concatenated."""
        return np.concatenate([self.residuals[signal.name] for signal in self.logged_signals], 1)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """The steps [T] with all residuals known and with a full context."""
        known = np.logical_and.reduce([self.known[signal.name] for signal in self.logged_signals])
        return np.asarray(known & self.settled)

    @cached_property
    def settled(self) -> NDArray[np.bool_]:
        """The steps [T] with a full context, if there are enough of them; else all steps.

        With less context, an engine has different errors.
        """
        late = np.arange(self.episode.num_steps) >= (0 if self.still else self.card.context - 1)
        usable = np.logical_or.reduce(list(self.known.values())) & late
        return late if usable.sum() >= MIN_STEPS else np.ones_like(late)

    @cached_property
    def inferred(self) -> Floats | None:
        """The correction [P, D] by the learned causes; None if they do not apply.

        Raises:
            ConfigError: the causes belong to another engine.
        """
        if self.causes is None or self.logged_signals != self.signals:
            return None
        if self.causes.mean.shape != (self.table.shape[1], self.joined.shape[1]):
            raise ConfigError("the hidden causes of the calibration belong to another engine. Calibrate this engine.")
        return self.causes.infer(self.table[self.complete], self.joined[self.complete])

    @cached_property
    def weights(self) -> Mapping[str, Floats]:
        """Per logged vector the correction [P, size].

        It uses the learned causes if they apply, else this episode alone.
        """
        if self.inferred is not None:
            ends = np.cumsum([signal.size for signal in self.logged_signals])[:-1]
            return {s.name: part for s, part in zip(self.logged_signals, np.split(self.inferred, ends, 1), strict=True)}
        weights = {}
        for signal in self.logged_signals:
            rows = self.known[signal.name] & self.settled
            weights[signal.name] = sparse_bayesian_regression(self.table[rows], self.residuals[signal.name][rows])
        return weights

    @cached_property
    def noise(self) -> Mapping[str, Floats]:
        """Per logged vector the rest of the residuals [num_steps, size]; 0 where unknown.

        After a missing input the two paths differ, so noise inferred later does not belong to the other path.
        """
        table = self.table[self.stretch]
        taken = [self.known[name][self.stretch] for name in self.card.inputs]
        unbroken = np.logical_and.accumulate(np.logical_and.reduce(taken)) if taken else np.ones(self.num_steps, bool)
        rest = {n: value[self.stretch] - table @ self.weights[n] for n, value in self.residuals.items()}
        return {n: np.where((unbroken & self.known[n][self.stretch])[:, None], value, 0.0) for n, value in rest.items()}

    def follow(self, actions: Arrays) -> Arrays:
        """The outcome of `actions` with the same causes and noise, per predicted signal [S, num_steps, *shape]."""
        stop = self.at + self.num_steps
        path = {name: np.array(value[: stop + 1]) for name, value in self.episode.observations.items()}
        masks = {name: np.array(_observed(self.episode, name)[: stop + 1]) for name in path}
        inputs = {n: np.concatenate([self.episode.actions[n][: self.at], v]) for n, v in actions.items()}
        twin = replace(self.episode, observations=path, actions=inputs, observed=masks)
        drawn: dict[str, list[NDArray[np.generic]]] = {name: [] for name in self.card.predicts}
        for number in range(self.num_steps):
            check_interrupted()
            step = self.at + number
            samples = {s.name: path[s.name][None, None, None, step] for s in self.logged_signals}
            if not self.still:
                samples = dict(self._expected(twin, step))
            row = self._features(twin, slice(step, step + 1))[0]
            for name in self.card.predicts:
                drawn[name].append(samples[name][0, 0])
            for signal in self.signals:
                value = mean_of(signal, samples[signal.name][:, 0, :, None])[0, 0]
                if signal in self.logged_signals:
                    value = value + row @ self.weights[signal.name] + self.noise[signal.name][number]
                    path[signal.name][step + 1] = self._in_bounds(signal, value, step + 1)
                    masks[signal.name][step + 1] = True
                    value = path[signal.name][step + 1]
                drawn[signal.name][-1] = value[None].astype(signal.dtype)
        return {name: np.stack(values, 1) for name, values in drawn.items()}

    def _expected(self, twin: Episode, step: int) -> Arrays:
        """The prediction of one step of a path, per predicted signal [1, 1, S, *shape]."""
        length = min(self.card.context, step + 1)
        window = forecast_windows([(twin, step)], length=length, horizon=1, schema=self.card.schema, targets=())
        belief = self.engine.observe(None, window.history, seed=self.seed)
        samples = self.engine.imagine(belief, window.future(), num_samples=num_samples(self.card), seed=self.seed)
        check_answer(samples.signals, self.card.name, axis=3)
        return {name: value[:, :, :, 0] for name, value in samples.signals.items()}

    def _change(self, signal: Signal) -> Floats:
        """The change of a vector in each step [T, size]."""
        value = self.episode.observations[signal.name].astype(np.float64)
        return np.asarray(signal.difference(value[1:], value[:-1]))

    def _batches(self) -> Sequence[list[int]]:
        """The steps whose residuals are needed, in batches of equal context.

        Stochastic engines may draw differently for each world of a batch. The predicted steps are therefore
        separate batches, as in `follow`, so that both use the same draws.
        """
        steps = range(self.episode.num_steps)
        branch, first = steps[self.stretch], self.card.context - 1
        alone = branch if not self.card.deterministic else range(0)
        needed = [step for step in steps if self.settled[step] or step in branch]
        together = [step for step in needed if step >= first and step not in alone]
        single = [[step] for step in needed if step < first or step in alone]
        return [*single, together] if together else single

    def _features(self, episode: Episode, steps: slice) -> Floats:
        """The features of the correction [n, P]: a constant, the observations taken, and the inputs of each step."""
        schema = self.card.schema
        columns: list[Floats] = [np.ones((len(range(episode.num_steps)[steps]), 1))]
        for name in self.card.inputs:
            columns += _columns(schema[name], episode.observations[name][:-1][steps])
        for signals, arrays in ((schema.actions, episode.actions), (schema.exogenous, episode.exogenous)):
            for signal in signals:
                columns += _columns(signal, arrays[signal.name][steps])
        return np.concatenate(columns, 1)

    def _in_bounds(self, signal: Signal, value: Floats, place: int) -> Floats:
        """`value` inside the bounds of the schema, widened to those of the log; angles in the turn of the log."""
        log = self.episode.observations[signal.name].astype(np.float64)
        if signal.period is not None:
            near = log[place] + signal.difference(value, log[place])
            if signal.low is None:
                return np.asarray(near)
            turned = np.mod(near - np.asarray(signal.low), signal.period)
            # The path is in single precision, in which a value just below the end of the turn is the end.
            return np.asarray(signal.low + np.where(np.float32(turned) < np.float32(signal.period), turned, 0.0))
        low = np.full(signal.shape, -np.inf) if signal.low is None else np.minimum(signal.low, log.min(0))
        high = np.full(signal.shape, np.inf) if signal.high is None else np.maximum(signal.high, log.max(0))
        return np.clip(value, low, high)


def _columns(signal: Signal, values: NDArray[np.generic]) -> list[Floats]:
    """A signal [n, *shape] as columns: sine and cosine of an angle, one-hot without the first value if discrete."""
    if signal.kind is Kind.IMAGE:
        return []
    if signal.kind is Kind.DISCRETE:
        return [np.eye(signal.size)[values][:, 1:]]
    numbers = values.astype(np.float64)
    if signal.period is None:
        return [numbers]
    turn = numbers * (2 * np.pi / signal.period)
    return [np.sin(turn), np.cos(turn)]
