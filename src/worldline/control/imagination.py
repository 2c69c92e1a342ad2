"""Imagined runs: how logged episodes would have gone under a controller, as a world predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from worldline.control.controller import ReplanningController
from worldline.control.controllers import Controller, ControllerActor
from worldline.episode import Arrays, Episode, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.calls import PredictCall
from worldline.schema import Kind, Schema, Signal
from worldline.world.base import World
from worldline.world.local import LocalWorld

Act = Callable[[int, Arrays], Arrays]
"""Maps the step, and the simulated observations [W, *shape], to the actions [W, *shape]."""


def imagined_schema(world: World, controller: Controller | None = None) -> Schema:
    """The signals of imagined runs: what the world predicts, the actions and the exogenous inputs.

    Raises:
        UnsupportedError: the world or the controller reads a signal that the world does not predict, or an image.
    """
    card = world.describe()
    vectors = {signal.name for signal in card.schema.observations if signal.kind is Kind.VECTOR}
    predicted, readers = vectors.intersection(card.predicts), [(card.name, card.inputs)]
    if controller is not None:
        readers.append((f"controller {controller.card.name!r}", controller.card.reads or ()))
    for who, reads in readers:
        if missing := [name for name in reads if name not in predicted]:
            raise UnsupportedError(
                f"{who} reads {missing[0]!r}, which the world {card.name} does not predict as a vector. Learn a world "
                "that predicts it."
            )
    kept = predicted | {signal.name for signal in (*card.schema.actions, *card.schema.exogenous)}
    return replace(card.schema, signals=tuple(signal for signal in card.schema.signals if signal.name in kept))


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """W runs from a present on; after the end of a run its last values.

    Args:
        lengths: [W] steps of each run; T is the largest.
        observations: per signal [W, T + 1, *shape]; nothing is missing.
        actions: per signal [W, T, *shape].
        exogenous: per signal [W, T, *shape].
        goals: per observation signal the target [W, T, *shape] of each step; empty without targets.
        before: per action signal [W, *shape] the action before the present; empty if there is none.
        rewards: [W, T] of all reward signals; None if they are not known.
    """

    lengths: NDArray[np.int64]
    observations: Arrays
    actions: Arrays
    exogenous: Arrays
    goals: Arrays
    before: Arrays
    rewards: NDArray[np.float64] | None = None

    @property
    def inside(self) -> NDArray[np.bool_]:
        """[W, T]: whether a step belongs to its run."""
        longest = next(iter(self.actions.values())).shape[1]
        return np.asarray(np.arange(longest) < self.lengths[:, None])

    def episodes(self) -> list[Episode]:
        """The runs as episodes."""
        return [
            Episode(
                observations={name: value[w, : length + 1] for name, value in self.observations.items()},
                actions={name: value[w, :length] for name, value in self.actions.items()},
                exogenous={name: value[w, :length] for name, value in self.exogenous.items()},
            )
            for w, length in enumerate(self.lengths.tolist())
        ]


def logged_runs(
    schema: Schema, episodes: Sequence[Episode], goals: Sequence[Arrays] = (), *, at: int, max_steps: int | None = None
) -> Runs:
    """Logged episodes from observation `at` on. Missing values count as unchanged.

    Args:
        schema: of the runs.
        episodes: logged ones, with its signals.
        goals: per episode the targets [T, *shape] of its steps; none without targets.
        at: the present.
        max_steps: T, at most; None for the whole episodes.

    Raises:
        InputError: an episode has too few steps, or a signal is missing in a whole episode.
    """
    lengths = [min(episode.num_steps - at, max_steps or episode.num_steps) for episode in episodes]
    if not episodes or min(lengths) < 1:
        raise InputError(f"an episode has fewer than {at + 1} steps, which are needed. Leave it out.")

    def padded(values: Sequence[NDArray[Any]], extra: int) -> NDArray[Any]:
        rows = [np.minimum(at + np.arange(max(lengths) + extra), at + length + extra - 1) for length in lengths]
        return np.stack([value[row] for value, row in zip(values, rows, strict=True)])

    return Runs(
        lengths=np.array(lengths),
        observations={s.name: padded([_filled(one, s.name) for one in episodes], 1) for s in schema.observations},
        actions={s.name: padded([one.actions[s.name] for one in episodes], 0) for s in schema.actions},
        exogenous={s.name: padded([one.exogenous[s.name] for one in episodes], 0) for s in schema.exogenous},
        goals={name: padded([each[name] for each in goals], 0) for name in (goals[0] if goals else ())},
        before={s.name: np.stack([one.actions[s.name][at - 1] for one in episodes]) for s in schema.actions if at},
        rewards=padded([np.sum([*one.rewards.values()], 0, float) for one in episodes], 0).reshape(len(lengths), -1)
        if all(one.rewards for one in episodes)
        else None,
    )


def imagine(
    world: World, controller: Controller, episodes: Sequence[Episode], *, max_steps: int | None = None
) -> list[Episode]:
    """Each logged episode from its first usable present on, as it would have gone under the controller.

    See `ImaginedEpisodes`.

    Args:
        world: predicts everything that it and the controller read.
        controller: takes over after the first `Card.context` observations.
        episodes: logged ones, in the signals of the world. Missing values count as unchanged.
        max_steps: T, at most; None for the whole episodes.

    Returns:
        Per episode its observations [T + 1] from the present on, actions [T] and exogenous inputs [T].

    Raises:
        InputError: an episode has too few steps, or the controller returned no valid action.
        UnsupportedError: as in `imagined_schema`; or a run leaves the arithmetic of the world.
    """
    imagined_schema(world, controller)
    return ImaginedEpisodes(world, episodes, max_steps=max_steps).run(controller).episodes()


@final
class ImaginedEpisodes:
    """Logged episodes that a world can repeat under any controller.

    The world is simulated under the logged actions, and under a controller with the same exogenous inputs. The
    differences between the log and the first simulation (disturbances, noise, errors of the world) are added to the
    second. The controller sees the sums, within the bounds of the signals. So the logged actions give the logged
    episode.

    Args:
        world: predicts everything that it reads.
        episodes: as in `imagine`.
        goals: as in `logged_runs`.
        max_steps: as in `imagine`.

    Attributes:
        schema: of the runs.
        logged: the episodes from the present on.

    Raises:
        InputError, UnsupportedError: as in `imagine`.
    """

    def __init__(
        self,
        world: World,
        episodes: Sequence[Episode],
        goals: Sequence[Arrays] = (),
        *,
        max_steps: int | None = None,
    ) -> None:
        self._world, self.schema, card = world, imagined_schema(world), world.describe()
        self.at, names = card.context - 1, [signal.name for signal in self.schema.signals]
        self.logged = logged_runs(self.schema, episodes, goals, at=self.at, max_steps=max_steps)
        self._starts = History.stack([one.history(at=self.at, length=card.context).select(names) for one in episodes])
        logged = self.logged
        for signal in self.schema.observations:  # a world ignores missing values, a controller sees the last known ones
            self._starts.observations[signal.name][:, -1] = logged.observations[signal.name][:, 0]
        self._steps = int(logged.lengths.max())
        self._known: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        replayed = self._simulated(
            self._starts,
            lambda step, _: {name: value[:, step] for name, value in logged.actions.items()},
            logged.exogenous,
            self._steps,
        )
        self._errors = {
            s.name: s.difference(logged.observations[s.name], replayed[s.name]) for s in self.schema.observations
        }

    @property
    def unexplained(self) -> float:
        """The share of the variance of the log that the simulation under the logged actions misses, 0 or more."""
        shares, inside = list[float](), self.logged.inside
        for name, error in self._errors.items():
            values = self.logged.observations[name][:, 1:][inside]
            spread = values.var(0, dtype=float)
            missed = np.square(error[:, 1:][inside], dtype=float).mean(0)
            shares.append(float(np.mean(missed / np.where(spread > 0, spread, np.inf))))
        return float(np.mean(shares))

    def run(self, controller: Controller) -> Runs:
        """The episodes under a controller.

        Raises:
            InputError: the controller returned no valid action.
            UnsupportedError: a run leaves the arithmetic of the world.
        """
        loop, starts = loop_of(controller, self.schema, self._world.describe().context), self._starts
        past = History(
            observations={name: value[:, :-1] for name, value in starts.observations.items()},
            actions=starts.actions,
            exogenous=starts.exogenous,
        )
        loop.reset({}, past if self.at else None)
        logged, seen, taken = self.logged, list[Arrays](), list[Arrays]()

        def act(step: int, simulated: Arrays) -> Arrays:
            sums = {s.name: simulated[s.name] + self._errors[s.name][:, step] for s in self.schema.observations}
            seen.append({s.name: s.bounded(s.wrapped(sums[s.name])).astype(s.dtype) for s in self.schema.observations})
            if step < self._steps:
                before = {name: value[:, max(0, step - 1)] for name, value in logged.exogenous.items()}
                goals = {name: value[:, step] for name, value in logged.goals.items()}
                taken.append(loop.act(seen[-1], exogenous=before, goals=goals))
            return taken[-1]

        last = self._simulated(self._starts, act, logged.exogenous, self._steps)
        act(self._steps, {name: value[:, -1] for name, value in last.items()})
        return replace(logged, observations=_joined(seen), actions=_joined(taken))

    def with_rewards(self, several: Sequence[Runs]) -> list[Runs]:
        """Runs of the same episodes with their rewards: predicted ones, plus what the prediction misses in the log.

        A reward is multiplied by the probability that no earlier step of the run ends the episode, if the world
        predicts that. It is relative to the probability that is predicted for the log, and at most 1.

        Raises:
            ConfigError: the log has no rewards.
            UnsupportedError: the world has no reward head.
        """
        if self.logged.rewards is None:
            raise ConfigError("the goal counts rewards, but the logs have none. Give a target or a cost.")
        self._known = self._known or self._outcomes([self.logged])
        logged, (rewards, goes_on) = self._known, self._outcomes(several)
        relative = np.minimum(goes_on / np.maximum(logged[1], 1e-6), 1.0).cumprod(-1)
        before = np.concatenate([np.ones_like(relative[..., :1]), relative[..., :-1]], -1)
        earned = before * (self.logged.rewards - logged[0] + rewards)
        return [replace(runs, rewards=values) for runs, values in zip(several, earned, strict=True)]

    def _outcomes(self, several: Sequence[Runs]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted rewards [runs, W, T] from the observations of the runs, and probabilities to go on."""

        def joined(before: Arrays, group: str, cut: int) -> dict[str, NDArray[Any]]:
            values = {name: np.concatenate([getattr(runs, group)[name] for runs in several]) for name in before}
            past = {
                name: np.concatenate([value[:, : value.shape[1] - cut]] * len(several))
                for name, value in before.items()
            }
            return {name: np.concatenate([past[name], value], 1) for name, value in values.items()}

        whole = History(
            observations=joined(self._starts.observations, "observations", 1),
            actions=joined(self._starts.actions, "actions", 0),
            exogenous=joined(self._starts.exogenous, "exogenous", 0),
        )
        outcomes = list[NDArray[Any]]()
        for step in range(self._steps):
            history = whole.window(step, step + self.at + 1, axis=1)
            actions = {name: value[:, None, self.at + step, None] for name, value in whole.actions.items()}
            outside = {name: value[:, self.at + step, None] for name, value in whole.exogenous.items()}
            scores = self._world.score(history, actions, Goal(reward=True), exogenous=outside or None)
            survival = np.ones_like(scores.cost) if scores.survival is None else scores.survival
            outcomes.append(np.stack([-scores.cost[:, 0], survival[:, 0]]).astype(float))
        rewards, survivals = np.stack(outcomes, 2).reshape(2, len(several), -1, self._steps)
        return rewards, survivals

    def calm(
        self, controller: Controller, *, gains: Sequence[float], offset: Mapping[str, NDArray[Any]], steps: int
    ) -> Runs:
        """Runs without disturbances from the first start, with constant exogenous inputs and targets.

        Args:
            controller: chooses the actions.
            gains: [W], of the world, on the difference of the actions to the mean logged ones.
            offset: per observation signal [*shape], what the measured values differ from the second half on.
            steps: number of steps.
        """
        logged, size, observed = self.logged, len(gains), self.schema.observations
        loop, inside = loop_of(controller, self.schema, self._world.describe().context), logged.inside
        seen, taken = list[Arrays](), list[Arrays]()
        constant = {name: np.tile(value[:1, :1], (size, steps, 1)) for name, value in logged.exogenous.items()}
        goals = {
            name: np.repeat(value[inside].mean(0, dtype=float)[None].astype(value.dtype), size, 0)
            for name, value in logged.goals.items()
        }

        def act(step: int, simulated: Arrays) -> Arrays:
            later = step >= steps // 2
            sums: dict[str, NDArray[Any]] = {s.name: simulated[s.name] + offset[s.name] * later for s in observed}
            seen.append({s.name: s.bounded(s.wrapped(sums[s.name])).astype(s.dtype) for s in observed})
            inputs = {name: value[:, 0] for name, value in constant.items()}
            taken.append(loop.act(seen[-1], exogenous=inputs, goals=goals))
            return {s.name: _amplified(s, taken[-1][s.name], logged, np.array(gains)) for s in self.schema.actions}

        path = self._simulated(self._starts.worlds([0] * size), act, constant, steps)
        return replace(
            logged,
            lengths=np.full(size, steps),
            observations=path,
            actions=_joined(taken),
            exogenous=constant,
            goals={name: np.repeat(value[:, None], steps, 1) for name, value in goals.items()},
        )

    def _simulated(self, history: History, act: Act, exogenous: Arrays, steps: int) -> dict[str, NDArray[Any]]:
        """Predicted observations [W, T + 1, *shape], one step after the other, each from those before."""
        simulated = {name: value[:, -1] for name, value in history.observations.items()}
        rows, local = [simulated], self._world if isinstance(self._world, LocalWorld) else None
        belief = local and local.encode(history)
        for step in range(steps):
            actions = {name: np.asarray(value)[:, None] for name, value in act(step, simulated).items()}
            inputs = {name: value[:, step : step + 1] for name, value in exogenous.items()}
            call = PredictCall(history=history, actions=actions, exogenous=inputs or None)
            signals = (local.answer(call, belief) if local else self._world.answer(call)).signals
            simulated = {name: signals[name].mean[:, 0] for name in simulated}
            rows.append(simulated)
            history = _after(history, actions, inputs, simulated)
            belief = local and belief and local.update(belief, history.last(2, axis=1))
        return _joined(rows)


def loop_of(controller: Controller, schema: Schema, context: int) -> ReplanningController:
    """A loop that asks the controller at every step; it sees at least two observations."""
    actor, context = ControllerActor(controller, schema), max(2, context)
    return ReplanningController(actor, schema, context=context, replan_every=1, seed=0)


def _amplified(signal: Signal, action: NDArray[Any], logged: Runs, gains: NDArray[np.float64]) -> NDArray[Any]:
    """Actions [W, *shape] with a larger difference to the mean logged one, within their bounds."""
    if signal.kind is Kind.DISCRETE:
        return action
    centre = logged.actions[signal.name][logged.inside].mean(0, dtype=float)
    change = gains.reshape(-1, *[1] * len(signal.shape)) * (action - centre)
    return np.asarray(signal.bounded(centre + change).astype(signal.dtype))


def _joined(rows: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Stacks steps [W, *shape] to [W, T, *shape]."""
    return {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}


def _filled(episode: Episode, name: str) -> NDArray[Any]:
    """The observations [T + 1, *shape] of a signal; where one is missing, the last known value, or the first one."""
    known = np.flatnonzero(episode.mask(name))
    if not len(known):
        raise InputError(f"{name!r} is missing in a whole episode. Leave the episode out.")
    values, rows = episode.observations[name], np.arange(episode.num_steps + 1)
    return values[known[np.maximum(np.searchsorted(known, rows, side="right") - 1, 0)]]


def _after(history: History, actions: Arrays, exogenous: Arrays, observations: Arrays) -> History:
    """The history of the same length, at least 2, one step later; nothing that was simulated is missing."""
    length = max(2, next(iter(history.observations.values())).shape[1])

    def joined(before: Arrays, step: Arrays, kept: int) -> dict[str, NDArray[Any]]:
        return {name: np.concatenate([before[name], value], 1)[:, -kept:] for name, value in step.items()}

    seen = {name: value[:, None] for name, value in observations.items()}
    known = {name: np.ones((len(seen[name]), 1), bool) for name in history.observed}
    return History(
        observations=joined(history.observations, seen, length),
        actions=joined(history.actions, actions, length - 1),
        exogenous=joined(history.exogenous, exogenous, length - 1),
        observed=joined(history.observed, known, length),
    )
