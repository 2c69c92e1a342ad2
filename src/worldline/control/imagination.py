"""Imagined runs: how logged episodes would have gone under a controller, as a world predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.control.controller import ReplanningController
from worldline.control.controllers import Controller, ControllerActor
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnsupportedError
from worldline.schema import Kind, Schema
from worldline.world.base import World

Act = Callable[[int, Arrays], Arrays]
"""Maps the step, and the simulated observations [W, *shape], to the actions [W, *shape]."""


def imagined_schema(world: World, controller: Controller) -> Schema:
    """The signals of imagined runs: what the world predicts, the actions and the exogenous inputs.

    Raises:
        UnsupportedError: the world or the controller reads a signal that the world does not predict, or an image.
    """
    card = world.describe()
    vectors = {signal.name for signal in card.schema.observations if signal.kind is Kind.VECTOR}
    predicted = vectors.intersection(card.predicts)
    for who, reads in ((card.name, card.inputs), (f"controller {controller.card.name!r}", controller.card.reads or ())):
        if missing := [name for name in reads if name not in predicted]:
            raise UnsupportedError(
                f"{who} reads {missing[0]!r}, which the world {card.name} does not predict as a vector. Learn a world "
                "that predicts it."
            )
    kept = predicted | {signal.name for signal in (*card.schema.actions, *card.schema.exogenous)}
    return replace(card.schema, signals=tuple(signal for signal in card.schema.signals if signal.name in kept))


def imagine(
    world: World, controller: Controller, episodes: Sequence[Episode], *, max_steps: int | None = None
) -> list[Episode]:
    """Each logged episode from its first usable present on, as it would have gone under the controller.

    The world is simulated twice in every episode: under the logged actions and under the controller, with the same
    exogenous inputs. The differences between the log and the first simulation (disturbances, noise, errors of the
    world) are added to the second. The controller sees the sums, within the bounds of the signals. So the logged
    actions give the logged episode.

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
    schema, card = imagined_schema(world, controller), world.describe()
    logged = _logged(schema, card, episodes, max_steps)

    def replay(step: int, _: Arrays) -> Arrays:
        return {name: value[:, step] for name, value in logged.actions.items()}

    replayed = _simulated(world, logged, replay)
    errors = {s.name: s.difference(logged.observations[s.name], replayed[s.name]) for s in schema.observations}
    actor, context = ControllerActor(controller, schema), max(2, card.context)
    loop = ReplanningController(actor, schema, context=context, replan_every=1, seed=0)
    seen, taken = list[Arrays](), list[Arrays]()

    def act(step: int, simulated: Arrays) -> Arrays:
        sums = {s.name: simulated[s.name] + errors[s.name][:, step] for s in schema.observations}
        seen.append({s.name: s.bounded(s.wrapped(sums[s.name])).astype(s.dtype) for s in schema.observations})
        if step < max(logged.lengths):
            before = {name: value[:, max(0, step - 1)] for name, value in logged.exogenous.items()}
            taken.append(loop.act(seen[-1], exogenous=before))
        return taken[-1]

    last = _simulated(world, logged, act)
    act(max(logged.lengths), {name: value[:, -1] for name, value in last.items()})
    return [
        Episode(
            observations={name: np.stack([row[name][w] for row in seen[: length + 1]]) for name in seen[0]},
            actions={name: np.stack([row[name][w] for row in taken[:length]]) for name in taken[0]},
            exogenous={name: value[w, :length] for name, value in logged.exogenous.items()},
        )
        for w, length in enumerate(logged.lengths)
    ]


@dataclass(frozen=True, kw_only=True)
class _Logged:
    """W logged episodes from the present on; after the end of an episode its last values.

    Args:
        start: the histories up to the present.
        lengths: steps of each episode; T is the largest.
        observations: [W, T + 1, *shape], where nothing is missing.
        actions: [W, T, *shape].
        exogenous: [W, T, *shape].
    """

    start: History
    lengths: list[int]
    observations: Arrays
    actions: Arrays
    exogenous: Arrays


def _logged(schema: Schema, card: Card, episodes: Sequence[Episode], max_steps: int | None) -> _Logged:
    at = card.context - 1
    lengths = [min(episode.num_steps - at, max_steps or episode.num_steps) for episode in episodes]
    if not episodes or min(lengths) < 1:
        raise InputError(f"an episode has fewer than {card.context} steps, which {card.name} needs. Leave it out.")
    names = [signal.name for signal in schema.signals]

    def padded(values: Sequence[NDArray[Any]], extra: int) -> NDArray[Any]:
        rows = [np.minimum(at + np.arange(max(lengths) + extra), at + length + extra - 1) for length in lengths]
        return np.stack([value[row] for value, row in zip(values, rows, strict=True)])

    return _Logged(
        start=History.stack([one.history(at=at, length=card.context).select(names) for one in episodes]),
        lengths=lengths,
        observations={s.name: padded([_filled(one, s.name) for one in episodes], 1) for s in schema.observations},
        actions={s.name: padded([one.actions[s.name] for one in episodes], 0) for s in schema.actions},
        exogenous={s.name: padded([one.exogenous[s.name] for one in episodes], 0) for s in schema.exogenous},
    )


def _filled(episode: Episode, name: str) -> NDArray[Any]:
    """The observations [T + 1, *shape] of a signal; where one is missing, the last known value, or the first one."""
    known = np.flatnonzero(episode.mask(name))
    if not len(known):
        raise InputError(f"{name!r} is missing in a whole episode. Leave the episode out.")
    values, rows = episode.observations[name], np.arange(episode.num_steps + 1)
    return values[known[np.maximum(np.searchsorted(known, rows, side="right") - 1, 0)]]


def _simulated(world: World, logged: _Logged, act: Act) -> dict[str, NDArray[Any]]:
    """Predicted observations [W, T + 1, *shape], one step after the other, each from those before."""
    history, simulated = logged.start, {name: value[:, 0] for name, value in logged.observations.items()}
    rows = [simulated]
    for step in range(max(logged.lengths)):
        actions = {name: np.asarray(value)[:, None] for name, value in act(step, simulated).items()}
        inputs = {name: value[:, step : step + 1] for name, value in logged.exogenous.items()}
        signals = world.predict(history, actions, exogenous=inputs or None).signals
        simulated = {name: signals[name].mean[:, 0] for name in simulated}
        rows.append(simulated)
        history = _after(history, actions, inputs, simulated)
    return {name: np.stack([row[name] for row in rows], 1) for name in simulated}


def _after(history: History, actions: Arrays, exogenous: Arrays, observations: Arrays) -> History:
    """The history of the same length one step later; nothing that was simulated is missing."""

    def joined(before: Arrays, step: Arrays) -> dict[str, NDArray[Any]]:
        return {name: np.concatenate([before[name][:, 1:], value], 1) for name, value in step.items()}

    seen = {name: value[:, None] for name, value in observations.items()}
    length = next(iter(history.observations.values())).shape[1]
    return History(
        observations=joined(history.observations, seen),
        actions=joined(history.actions, actions) if length > 1 else history.actions,
        exogenous=joined(history.exogenous, exogenous) if length > 1 else history.exogenous,
        observed=joined(history.observed, {name: np.ones((len(seen[name]), 1), bool) for name in history.observed}),
    )
