"""What if, in three steps: infer what was hidden in an episode, act otherwise, predict with the same hidden things.

An engine that can abduct is asked to. Of any other only its predictions of one step are used, `f(history, action)`:

* the residual of step t is what was logged next minus what was predicted;
* hidden causes, such as a friction or a wind nobody measured, are taken to stay the same during the episode and to show
  as a part of the residual that is linear in state and input. That part, the correction, is inferred from the whole
  episode: by how many episodes were found to differ when the world was calibrated (`world/hidden_causes.py`), so that one
  cause is one number; for an episode unlike those, or without them, from the episode alone (`world/sparse_bayesian_regression.py`).
  It vanishes where the residuals show nothing of the kind;
* noise is the rest of each residual, and is taken to add to whatever is predicted;
* the other actions are then followed step by step: predicted from what was imagined so far, plus the correction for
  where the other path is, plus the same noise as in the log; the sum is fed back as if it had been observed.

So the actions that were taken lead to exactly what was logged, and a cause that is linear in the one-step law, in state
or input, is carried over once there is evidence enough. What this cannot see: a cause that acts otherwise, such as one
that sets in beyond a threshold that the factual path never crossed; noise that multiplies instead of adding; a contact
that happens on one path and not on the other. "Full" says what was inferred under these assumptions and the engine's
law, not that either is right: how right, `benchmarks/what_if.py` measures where twins can be run.

See docs/design/abduction.md for what else there was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Abducts, Card, Engine, Samples
from worldline.episode import Arrays, Episode, Future
from worldline.errors import ConfigError
from worldline.schema import Kind, Signal
from worldline.world.base import Abduction
from worldline.world.hidden_causes import MIN_EPISODES, HiddenCauses, fit_causes
from worldline.world.pieces import cut, mean_of, num_samples, residuals, vectors_of
from worldline.world.sparse_bayesian_regression import sparse_bayesian_regression
from worldline.world.validation import add_world_axis

Floats = NDArray[np.floating]

AS_GOOD: Final = 1.1
"""Variance of the noise that a line may leave, as a share of what the engine's predictions leave."""

MIN_STEPS: Final = 8
"""Steps with a known residual, below which nothing can be told apart from noise."""


_KINDS = {Kind.IMAGE: "an image", Kind.DISCRETE: "discrete"}


@dataclass(frozen=True, kw_only=True)
class CounterfactualPair:
    """What is imagined of the actions that were taken, and of others.

    Args:
        taken: per predicted signal [S, T, *shape]; S may differ between signals.
        others: likewise.
        abduction: what both have in common.
        reason: why it is not more; empty where it is full.
    """

    taken: Arrays
    others: Arrays
    abduction: Abduction
    reason: str = ""


def twins(
    engine: Engine, episode: Episode, at: int, actions: Arrays, *, causes: HiddenCauses | None = None, seed: int
) -> CounterfactualPair:
    """What follows observation `at` under the actions that were taken and under others, all else as equal as can be.

    Args:
        engine: of any kind. One that cannot abduct is asked to predict each step of the episode, and then each step of
            `actions` in turn.
        episode: checked, see `check_episode`.
        at: of the last observation that both have in common.
        actions: per action signal [T, *shape], T at least 1 and at most what is left.
        causes: from `causes_of` this engine; None to know of hidden causes only what this episode tells.
        seed: of every draw.

    Raises:
        ConfigError: `causes` are those of another engine.
    """
    card = engine.describe()
    num_steps = len(next(iter(actions.values())))
    if isinstance(engine, Abducts):
        belief, noise = engine.abduct(episode, at)
        future = _future(episode, at, actions)
        found = engine.imagine(belief, future, num_samples=num_samples(card), noise=noise, seed=seed)
        return _both(found, Abduction.FULL)
    hindrance = obstacle(card)
    if not hindrance:
        case = _Case(
            engine=engine,
            card=card,
            episode=_needed(card, episode),
            at=at,
            num_steps=num_steps,
            still=causes is not None and causes.still,
            causes=causes,
            seed=seed,
        )
        if case.still and case.inferred is None:  # a line of its own would have to be found in this episode alone
            case = replace(case, still=False, causes=None)
        if not case.unknown:
            return CounterfactualPair(taken=case.logged, others=case.follow(actions), abduction=Abduction.FULL)
        if case.num_known >= MIN_STEPS:
            taken, others = (case.follow(one) for one in (case.taken, actions))
            return CounterfactualPair(taken=taken, others=others, abduction=Abduction.HIDDEN_CAUSE, reason=case.unknown)
        few = f"of {case.num_known} complete steps; a hidden cause takes {MIN_STEPS}"
        hindrance = f"{case.unknown}, and there is no telling hidden causes {few}"
    belief = engine.observe(None, add_world_axis(episode.history(at, min(card.context, at + 1))), seed=seed)
    found = engine.imagine(belief, _future(episode, at, actions), num_samples=num_samples(card), seed=seed)
    return _both(found, Abduction.NONE, f"only the history up to the branch was used: {hindrance}")


def causes_of(engine: Engine, episodes: Sequence[Episode], *, seed: int) -> HiddenCauses | None:
    """How episodes differ from what the engine expects; None where they are too few, or nothing can be inferred.

    Asks the engine to predict each step of each episode. Where a line in state and inputs, that differs between
    episodes by the causes, leaves about as little noise as the engine does, it is the law that other actions are
    followed by: it carries a cause over exactly, and what a network errs by adds up from step to step.

    Args:
        engine: frozen; whatever is changed in it afterwards makes the result void.
        episodes: in the schema's dtypes.
        seed: of every draw.
    """
    card = engine.describe()
    if isinstance(engine, Abducts) or obstacle(card) or len(episodes) < MIN_EPISODES:
        return None
    tables, lines = (_tables(engine, card, episodes, still, seed) for still in (False, True))
    found, line = fit_causes(tables), fit_causes(lines)
    if line is None or any(card.schema[name].kind is not Kind.VECTOR for name in card.predicts):
        return found
    left = np.diag(found.noise) if found else np.mean(np.concatenate([rest for _, rest in tables]) ** 2, 0)
    return replace(line, still=True) if (np.diag(line.noise) <= AS_GOOD * left).all() else found


def _tables(
    engine: Engine, card: Card, episodes: Sequence[Episode], still: bool, seed: int
) -> list[tuple[Floats, Floats]]:
    """Features [n, P] and residuals [n, D] of each episode that is complete enough."""
    found = []
    for episode in episodes:
        whole = _Case(
            engine=engine,
            card=card,
            episode=_needed(card, episode),
            at=0,
            num_steps=0,
            still=still,
            causes=None,
            seed=seed,
        )
        if whole.held and whole.held == whole.signals and whole.complete.sum() >= MIN_STEPS:
            found.append((whole.table[whole.complete], whole.joined[whole.complete]))
    return found


def _future(episode: Episode, at: int, actions: Arrays) -> Future:
    """The actions that were taken, and the others, as two versions."""
    stop = at + len(next(iter(actions.values())))
    return Future(
        actions={name: np.stack([episode.actions[name][at:stop], value])[None] for name, value in actions.items()},
        exogenous={name: value[None, at:stop] for name, value in episode.exogenous.items()},
    )


def _both(found: Samples, abduction: Abduction, reason: str = "") -> CounterfactualPair:
    taken, others = ({name: value[0, version] for name, value in found.signals.items()} for version in (0, 1))
    return CounterfactualPair(taken=taken, others=others, abduction=abduction, reason=reason)


def obstacle(card: Card) -> str:
    """Why nothing can be inferred with an engine like this, and what would help; empty where it can."""
    if not card.action_conditioned:
        return f"{card.name} does not heed actions, so to it others change nothing. Ask a world that does"
    fix = "A simulator that replays the episode can do more, or a world that takes only vectors that it predicts"
    for name in card.inputs:
        kind = card.schema[name].kind
        if kind is not Kind.VECTOR:
            return f"{card.name} takes {name!r}, which is {_KINDS[kind]}, so that no noise can be inferred. {fix}"
        if name not in card.predicts:
            return f"{card.name} takes {name!r} and does not predict it, so other actions cannot be followed. {fix}"
    return ""


def _needed(card: Card, episode: Episode) -> Episode:
    """The episode without what is neither taken nor predicted, each gap in a vector filled with the nearest value.

    What fills a gap serves where the correction depends on it; engines are told that it was not observed.
    """
    kept: dict[str, NDArray[np.generic]] = {}
    for name, value in episode.observations.items():
        if name in card.inputs or (name in card.predicts and card.schema[name].kind is Kind.VECTOR):
            kept[name] = _filled(value, _seen(episode, name))
    masks = {name: mask for name, mask in episode.observed.items() if name in kept}
    return replace(episode, observations=kept, observed=masks)


def _seen(episode: Episode, name: str) -> NDArray[np.bool_]:
    """Where [T + 1] a signal was observed; nowhere if it was not logged."""
    if name not in episode.observations:
        return np.zeros(episode.num_steps + 1, bool)
    return np.asarray(episode.observed.get(name, np.ones(episode.num_steps + 1, bool)), dtype=bool)


def _filled(values: NDArray[np.generic], seen: NDArray[np.bool_]) -> NDArray[np.generic]:
    """`values` with each gap filled by the nearest value that was seen, of two the earlier."""
    if seen.all() or not seen.any():
        return values
    places, at = np.flatnonzero(seen), np.arange(len(values))
    later = np.searchsorted(places, at).clip(max=len(places) - 1)
    before, after = places[np.maximum(later - 1, 0)], places[later]
    return np.asarray(values[np.where(np.abs(at - before) <= np.abs(after - at), before, after)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """One question to an engine that takes vectors only, and predicts them.

    Args:
        engine: cannot abduct.
        card: of it.
        episode: from `_needed`.
        at: of the branch.
        num_steps: that are asked about.
        still: whether residuals are those of standing still, all of the law being in the causes.
        causes: of the engine; None where they were not learned.
        seed: of every draw.
    """

    engine: Engine
    card: Card
    episode: Episode
    at: int
    num_steps: int
    still: bool
    causes: HiddenCauses | None
    seed: int

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The vectors that are predicted."""
        return vectors_of(self.card)

    @property
    def held(self) -> tuple[Signal, ...]:
        """Those that the episode holds."""
        return tuple(signal for signal in self.signals if signal.name in self.episode.observations)

    @property
    def logged(self) -> Arrays:
        """What came of the actions that were taken, per vector [1, num_steps, *shape]."""
        after = slice(self.at + 1, self.at + 1 + self.num_steps)
        return {signal.name: self.episode.observations[signal.name][None, after] for signal in self.held}

    @property
    def taken(self) -> Arrays:
        """These actions, per signal [num_steps, *shape]."""
        return {name: value[self.stretch] for name, value in self.episode.actions.items()}

    @cached_property
    def known(self) -> Mapping[str, NDArray[np.bool_]]:
        """Per vector the steps [T] whose residual is known: all that is taken was seen before it, the vector after."""
        start = np.ones(self.episode.num_steps, bool)
        for name in self.card.inputs:
            start &= _seen(self.episode, name)[:-1]
        return {signal.name: start & _seen(self.episode, signal.name)[1:] for signal in self.signals}

    @property
    def stretch(self) -> slice:
        """The steps that are asked about."""
        return slice(self.at, self.at + self.num_steps)

    @property
    def num_known(self) -> int:
        """The steps whose residual is known for at least one vector."""
        return int(np.logical_or.reduce(list(self.known.values())).sum()) if self.signals else 0

    @property
    def unknown(self) -> str:
        """The first noise that cannot be told, in words; empty where all can."""
        for name in self.card.predicts:
            if self.card.schema[name].kind is not Kind.VECTOR:
                return f"{name!r} is {_KINDS[self.card.schema[name].kind]}, so its own noise is not known"
        for step in range(self.episode.num_steps)[self.stretch]:
            after = [signal.name for signal in self.signals]
            for place, names in ((step, self.card.inputs), (step + 1, after)):
                for name in names:
                    if not _seen(self.episode, name)[place]:
                        what = f"{name!r} is missing at observation {place}"
                        return f"{what}, so the noise of step {step} is not known"
        return ""

    @cached_property
    def residuals(self) -> Mapping[str, Floats]:
        """Per vector that the episode holds [T, size]: by how much each step came out above its prediction."""
        if self.still:
            changes = {s.name: self._change(s) for s in self.held}
            return {name: np.where(self.known[name][:, None], value, 0.0) for name, value in changes.items()}
        found = {s.name: np.zeros((self.episode.num_steps, s.size)) for s in self.held}
        for steps in self._batches():
            pieces = cut(
                self.card.schema,
                [(self.episode, step) for step in steps],
                length=min(self.card.context, steps[0] + 1),
                horizon=1,
                truth=[signal.name for signal in self.held],
            )
            for name, value in residuals(self.engine, pieces, seed=self.seed).items():
                found[name][steps] = value[:, 0]
        return found

    @cached_property
    def table(self) -> Floats:
        """The features [T, P] of every step."""
        return self._features(self.episode, slice(0, self.episode.num_steps))

    @property
    def joined(self) -> Floats:
        """The residuals [T, D], side by side."""
        return np.concatenate([self.residuals[signal.name] for signal in self.held], 1)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """The steps [T] at which all residuals are known, of an engine that has seen as much as it wants."""
        known = np.logical_and.reduce([self.known[signal.name] for signal in self.held])
        return np.asarray(known & self.settled)

    @cached_property
    def settled(self) -> NDArray[np.bool_]:
        """The steps [T] that tell of hidden causes: with as much behind them as the engine wants, if these are enough.

        With less behind it an engine errs in a way of its own.
        """
        late = np.arange(self.episode.num_steps) >= (0 if self.still else self.card.context - 1)
        told = np.logical_or.reduce(list(self.known.values())) & late
        return late if told.sum() >= MIN_STEPS else np.ones_like(late)

    @cached_property
    def inferred(self) -> Floats | None:
        """The correction [P, D] by the size of each cause; None where that cannot be told.

        Raises:
            ConfigError: the causes are those of another engine.
        """
        if self.causes is None or self.held != self.signals:
            return None
        if self.causes.mean.shape != (self.table.shape[1], self.joined.shape[1]):
            raise ConfigError(
                "the hidden causes of the calibration are those of another engine. Calibrate this engine."
            )
        return self.causes.infer(self.table[self.complete], self.joined[self.complete])

    @cached_property
    def weights(self) -> Mapping[str, Floats]:
        """Per vector that the episode holds the correction [P, size], from every step whose residual is known.

        By the size of each cause, where it is known how episodes differ and this one is like them; else by what this
        episode shows of each signal.
        """
        if self.inferred is not None:
            ends = np.cumsum([signal.size for signal in self.held])[:-1]
            return {s.name: part for s, part in zip(self.held, np.split(self.inferred, ends, 1), strict=True)}
        weights = {}
        for signal in self.held:
            rows = self.known[signal.name] & self.settled
            weights[signal.name] = sparse_bayesian_regression(self.table[rows], self.residuals[signal.name][rows])
        return weights

    @cached_property
    def noise(self) -> Mapping[str, Floats]:
        """Per vector that the episode holds what is left of the residuals [num_steps, size]; 0 where not known.

        Where an input is missing the paths part, and noise inferred after it is not that of the other path.
        """
        table = self.table[self.stretch]
        taken = [self.known[name][self.stretch] for name in self.card.inputs]
        whole = np.logical_and.accumulate(np.logical_and.reduce(taken)) if taken else np.ones(self.num_steps, bool)
        return {
            s.name: np.where(
                (whole & self.known[s.name][self.stretch])[:, None],
                self.residuals[s.name][self.stretch] - table @ self.weights[s.name],
                0.0,
            )
            for s in self.held
        }

    def follow(self, actions: Arrays) -> Arrays:
        """What `actions` lead to with this hidden cause and noise, per predicted signal [S, num_steps, *shape]."""
        stop = self.at + self.num_steps
        path = {name: np.array(value[: stop + 1]) for name, value in self.episode.observations.items()}
        masks = {name: np.array(_seen(self.episode, name)[: stop + 1]) for name in path}
        inputs = {
            name: np.concatenate([self.episode.actions[name][: self.at], value]) for name, value in actions.items()
        }
        twin = replace(self.episode, observations=path, actions=inputs, observed=masks)
        drawn: dict[str, list[NDArray[np.generic]]] = {name: [] for name in self.card.predicts}
        for number in range(self.num_steps):
            step = self.at + number
            samples = {s.name: path[s.name][None, None, None, step] for s in self.held}
            if not self.still:
                samples = dict(self._expected(twin, step))
            row = self._features(twin, slice(step, step + 1))[0]
            for name in self.card.predicts:
                drawn[name].append(samples[name][0, 0])
            for signal in self.signals:
                value = mean_of(signal, samples[signal.name][:, 0, :, None])[0, 0]
                if signal in self.held:
                    value = value + row @ self.weights[signal.name] + self.noise[signal.name][number]
                    path[signal.name][step + 1] = self._possible(signal, value, step + 1)
                    masks[signal.name][step + 1] = True
                    value = path[signal.name][step + 1]
                drawn[signal.name][-1] = value[None].astype(signal.dtype)
        return {name: np.stack(values, 1) for name, values in drawn.items()}

    def _expected(self, twin: Episode, step: int) -> Arrays:
        """What the engine says of one step of a path, per predicted signal [1, 1, S, *shape]."""
        length = min(self.card.context, step + 1)
        pieces = cut(self.card.schema, [(twin, step)], length=length, horizon=1, truth=())
        return self._imagine(self.engine.observe(None, pieces.history, seed=self.seed), pieces.future)

    def _change(self, signal: Signal) -> Floats:
        """By how much a vector changes in each step [T, size]."""
        value = self.episode.observations[signal.name].astype(np.float64)
        return np.asarray(signal.difference(value[1:], value[:-1]))

    def _batches(self) -> Sequence[list[int]]:
        """The steps whose residuals are needed, those with as much behind them together.

        Engines that draw may draw differently for each world of a batch: the steps that noise is inferred of go by
        themselves, as they do when other actions are followed, so that both see the same draws.
        """
        steps = range(self.episode.num_steps)
        asked, first = steps[self.stretch], self.card.context - 1
        alone = asked if not self.card.deterministic else range(0)
        needed = [step for step in steps if self.settled[step] or step in asked]
        together = [step for step in needed if step >= first and step not in alone]
        single = [[step] for step in needed if step < first or step in alone]
        return [*single, together] if together else single

    def _imagine(self, belief: object, future: Future) -> Arrays:
        """Samples of one step, per predicted signal [W, N, S, *shape]."""
        found = self.engine.imagine(belief, future, num_samples=num_samples(self.card), seed=self.seed)
        return {name: value[:, :, :, 0] for name, value in found.signals.items()}

    def _features(self, episode: Episode, steps: slice) -> Floats:
        """What a correction may depend on [n, P]: a constant, what is taken, and the inputs of each step."""
        schema = self.card.schema
        columns: list[Floats] = [np.ones((len(range(episode.num_steps)[steps]), 1))]
        for name in self.card.inputs:
            columns += _columns(schema[name], episode.observations[name][:-1][steps])
        for signals, arrays in ((schema.actions, episode.actions), (schema.exogenous, episode.exogenous)):
            for signal in signals:
                columns += _columns(signal, arrays[signal.name][steps])
        return np.concatenate(columns, 1)

    def _possible(self, signal: Signal, value: Floats, place: int) -> Floats:
        """`value` inside the bounds that the schema declares and the log keeps; of an angle the turn of the log's."""
        log = self.episode.observations[signal.name].astype(np.float64)
        if signal.period is not None:
            near = log[place] + signal.difference(value, log[place])
            if signal.low is None:
                return np.asarray(near)
            return np.asarray(signal.low + np.mod(near - np.asarray(signal.low), signal.period))
        low = np.full(signal.shape, -np.inf) if signal.low is None else np.minimum(signal.low, log.min(0))
        high = np.full(signal.shape, np.inf) if signal.high is None else np.maximum(signal.high, log.max(0))
        return np.clip(value, low, high)


def _columns(signal: Signal, values: NDArray[np.generic]) -> list[Floats]:
    """A signal [n, *shape] as columns: an angle by sine and cosine, a choice by one column for each but its first."""
    if signal.kind is Kind.IMAGE:
        return []
    if signal.kind is Kind.DISCRETE:
        return [np.eye(signal.size)[values][:, 1:]]
    numbers = values.astype(np.float64)
    if signal.period is None:
        return [numbers]
    turn = numbers * (2 * np.pi / signal.period)
    return [np.sin(turn), np.cos(turn)]
