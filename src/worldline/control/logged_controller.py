"""The logged behaviour as a controller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.spatial import cKDTree

from worldline.control.controller import Situation
from worldline.control.controllers import Controller, ControllerCard
from worldline.episode import Arrays, Episode, History
from worldline.errors import ConfigError, InputError
from worldline.schema import Kind, Schema
from worldline.training.batches import join, split

Floats = NDArray[np.float64]

MEMORIES: Final = (2, 8, 32)
"""Time constants of the moving averages, in steps."""
NUM_SIMILAR: Final = 50
"""Number of similar situations that decide what the linear fit misses."""
RIDGE: Final = 1e-3
"""Penalty of the linear fit, in variances of the features."""


@final
class LoggedController(Controller):
    """Takes the actions that were logged in similar situations, without their noise.

    A situation has the observations, the targets, the exogenous inputs and the action before it, and moving averages
    of them. So it knows about integrals. An action is that of a linear fit of the logs, plus the mean of what this fit
    misses in similar situations, and stays in the logged range. A discrete action is the most frequent one there. A
    missing value counts as the mean.

    Args:
        episodes: logged ones.
        schema: of the plants.
        goals: per episode the targets [T, *shape] of its steps; none without targets.
        reads: names of the observations that decide; None for all except images.

    Raises:
        ConfigError: there is no such observation, or the logs lack a signal.
        InputError: no episode has two steps.

    Source: Atkeson, Moore, Schaal, "Locally weighted learning for control", Artificial Intelligence Review 11, 1997.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        schema: Schema,
        goals: Sequence[Arrays] = (),
        *,
        reads: Sequence[str] | None = None,
    ) -> None:
        known = {signal.name: signal for signal in schema.observations if signal.kind is not Kind.IMAGE}
        if unknown := [name for name in reads or () if name not in known]:
            raise ConfigError(f"there is no observation {unknown[0]!r}. Choose among {', '.join(known)}.")
        self._schema, self._reads = schema, [known[name] for name in known if reads is None or name in reads]
        pairs = [*zip(episodes, goals or [{}] * len(episodes), strict=True)]
        pairs = [(episode, targets) for episode, targets in pairs if episode.num_steps > 1]
        if not pairs:
            raise InputError("the logged behaviour needs an episode of at least two steps. Name a store that has one.")
        first, targets = pairs[0]
        self._targets, logged = tuple(targets), {*first.observations, *first.exogenous, *first.actions}
        needed = (*self._reads, *schema.exogenous, *schema.actions)
        if lacking := [signal.name for signal in needed if signal.name not in logged]:
            raise ConfigError(f"the logs have no signal {lacking[0]!r}. Name logs of the same plant.")
        values = [
            self._values(_history(episode), {name: value[None] for name, value in targets.items()})[0]
            for episode, targets in pairs
        ]
        joined = np.concatenate(values)
        self._mean, spread = np.nanmean(joined, 0), np.nanstd(joined, 0)
        self._spread = np.where(spread > 0, spread, np.inf)
        rows = np.concatenate([_with_averages(self._scaled(value))[1:] for value in values])
        taken = np.concatenate([join(schema.actions, episode.actions).numpy()[1:] for episode, _ in pairs])
        self._tree, self._near = cKDTree(rows), range(1, min(NUM_SIMILAR, len(rows)) + 1)
        self._low, self._high = taken.min(0), taken.max(0)
        centred = rows - rows.mean(0)
        gram = rows.T @ centred + RIDGE * len(rows) * np.eye(rows.shape[1])
        self._slopes = np.linalg.solve(gram, centred.T @ taken)
        self._missed = taken - rows @ self._slopes
        self.card = ControllerCard(
            name="logged",
            reads=tuple(signal.name for signal in self._reads),
            settings=(f"actions of {len(rows)} logged situations",),
        )
        self.reset()

    def reset(self) -> None:
        """Forgets the averages."""
        self._averages: list[Floats] | None = None

    def act(self, session: Situation) -> Arrays:
        """The fitted actions."""
        if missing := [name for name in self._targets if name not in session.goals]:
            raise InputError(f"the run has no goal for {missing[0]!r}, which the logged behaviour follows. Give it.")
        goals = {name: value[:, None] for name, value in session.goals.items()}
        scaled = self._scaled(self._values(session.history, goals))  # [W, H, F]
        fresh = scaled[:, 1:] if self._averages is None else scaled[:, -1:]
        averages = self._averages or [scaled[:, 0]] * len(MEMORIES)
        for value in np.moveaxis(fresh, 1, 0):
            averages = [old + (value - old) / memory for old, memory in zip(averages, MEMORIES, strict=True)]
        self._averages = averages
        rows = np.concatenate([scaled[:, -1], *averages], 1)
        distance, near = self._tree.query(rows, self._near)
        weight = np.clip(1 - (distance / np.maximum(distance[:, -1:], 1e-12)) ** 3, 1e-3, 1) ** 3
        missed = np.einsum("wk,wka->wa", weight / weight.sum(1, keepdims=True), self._missed[near])
        value = torch.as_tensor(np.clip(rows @ self._slopes + missed, self._low, self._high))
        parts = split(self._schema.actions, value)
        return {s.name: parts[s.name].numpy().reshape(-1, *s.shape).astype(s.dtype) for s in self._schema.actions}

    def _values(self, history: History, goals: Arrays) -> Floats:
        """Features [W, H, F] of H observations, their targets, and the inputs before them; NaN where one is missing."""
        shape = next(iter(history.observations.values())).shape[:2]
        columns = list[Floats]()
        for signal in self._reads:
            values = join([signal], history.observations).numpy().astype(float)
            if signal.period is not None:
                angles = values * 2 * np.pi / signal.period
                values = np.concatenate([np.cos(angles), np.sin(angles)], 2)
            columns.append(np.where(history.mask(signal.name)[..., None], values, np.nan))
        for name in self._targets:
            wanted = goals[name].reshape(*goals[name].shape[:2], -1)
            columns.append(np.broadcast_to(wanted, (*shape, wanted.shape[2])))
        inputs = join((*self._schema.exogenous, *self._schema.actions), {**history.exogenous, **history.actions})
        before = np.full((*shape, inputs.shape[2]), np.nan)
        before[:, 1:] = inputs[:, : shape[1] - 1]
        return np.concatenate([*columns, before], 2)

    def _scaled(self, values: Floats) -> Floats:
        return np.asarray(np.nan_to_num((values - self._mean) / self._spread))


def _with_averages(values: Floats) -> Floats:
    """Values [T, F], followed by their moving averages, as in `LoggedController.act`."""
    averages = [
        lfilter([1 / memory], [1, 1 / memory - 1], values, axis=0, zi=(1 - 1 / memory) * values[:1])[0]
        for memory in MEMORIES
    ]
    return np.concatenate([values, *averages], 1)


def _history(episode: Episode) -> History:
    """The episode without its last observation, as one world."""
    groups = ("observations", "actions", "exogenous", "observed")
    return History(
        **{group: {name: value[None, :-1] for name, value in vars(episode)[group].items()} for group in groups}
    )
