"""Base class of the exam's labs, and the signals, explorers and rollouts that they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import CAMERA, DrawsImages, Lab, Policy, boxes
from worldline.schema import Kind, Role, Schema, Signal

Floats: TypeAlias = NDArray[np.floating]
Options: TypeAlias = dict[str, Any] | None
"""Options of `reset`."""


class ExamLab(Lab, DrawsImages):
    """A lab without rewards and ends. A subclass calls this constructor last.

    Args:
        pictures: whether to render the image `camera`.
        unlogged: entries of observations that are not in the schema.
    """

    step_s: ClassVar[float]

    def __init__(self, *, pictures: bool, unlogged: Mapping[str, Space[Any]] | None = None) -> None:
        self.pictures = pictures
        logged = boxes(self.schema, Role.OBSERVATION)
        assert isinstance(logged, spaces.Dict)
        self.observation_space = spaces.Dict({**logged.spaces, **(unlogged or {})})
        self.action_space = boxes(self.schema, Role.ACTION)

    @property
    @abstractmethod
    def signals(self) -> tuple[Signal, ...]:
        """The logged signals without the image."""

    @abstractmethod
    def _start(self, options: Options) -> None:
        """Draws the state of a new episode, with `options` in place of drawn values."""

    @abstractmethod
    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        """Moves the state by one step."""

    @abstractmethod
    def _seen(self) -> dict[str, Any]:
        """The present observation without the image."""

    @property
    def schema(self) -> Schema:
        """The logged signals; `camera` only if rendered."""
        return Schema(signals=(*((CAMERA,) if self.pictures else ()), *self.signals), step_s=self.step_s)

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of every draw of the episode.
            options: values that replace drawn ones; the class lists them. All else follows the seed.

        Raises:
            InputError: an option is out of range.
        """
        super().reset(seed=seed)
        self._start(options)
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        self._advance(self._checked(action))
        return self._observe(), 0.0, False, False, {}

    def _observe(self) -> dict[str, Any]:
        seen = self._seen()
        return {CAMERA.name: self._look(), **seen} if self.pictures else seen


def observation(
    name: str,
    size: int,
    unit: str = "1",
    *,
    entity: str | None = None,
    ends: tuple[float, float] | None = None,
    components: tuple[str, ...] = (),
) -> Signal:
    """A vector observation.

    Args:
        name: of the signal.
        size: number of components.
        unit: physical unit.
        entity: object that it belongs to.
        ends: smallest and largest value of every component; None if unbounded.
        components: their names; empty for x and y, or for none unless there are two.
    """
    low, high = (None, None) if ends is None else ((ends[0],) * size, (ends[1],) * size)
    return Signal(
        name=name,
        role=Role.OBSERVATION,
        kind=Kind.VECTOR,
        shape=(size,),
        unit=unit,
        low=low,
        high=high,
        components=components or (("x", "y") if size == 2 else ()),
        entity=entity,
    )


def action(
    name: str, size: int, unit: str = "1", *, entity: str, ends: tuple[float, float], components: tuple[str, ...] = ()
) -> Signal:
    """A vector action; see `observation`."""
    signal = observation(name, size, unit, entity=entity, ends=ends, components=components)
    return replace(signal, role=Role.ACTION)


def rounded(values: Floats) -> Floats:
    """The values rounded to float32, in float64, so that an observation determines a state exactly."""
    return values.astype(np.float32).astype(float)


def unrolled(
    move: Callable[..., tuple[Floats, ...]], state: tuple[Floats, ...], inputs: NDArray[np.generic]
) -> tuple[Floats, ...]:
    """The parts [M, T, ...] of the states after each step.

    Args:
        move: maps the parts of a state and an input to the parts of the next state.
        state: parts [M, ...] of the first state.
        inputs: [M, T, ...].
    """
    path = []
    for step in range(inputs.shape[1]):
        state = move(*state, inputs[:, step].astype(float))
        path.append(state)
    return tuple(np.stack(parts, 1) for parts in zip(*path, strict=True))


class HeldActions(Policy):
    """Random actions that are drawn anew at random steps and held in between.

    Args:
        draw: draws the values by signal.
        renews: draws whether a step has new values.
    """

    def __init__(
        self, draw: Callable[[np.random.Generator], Arrays], renews: Callable[[np.random.Generator], bool]
    ) -> None:
        self._draw, self._renews = draw, renews
        self._held: Arrays = {}

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first values."""
        self._held = self._draw(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The previous values or new ones."""
        del observation
        if self._renews(generator):
            self._held = self._draw(generator)
        return {name: value.astype(np.float32) for name, value in self._held.items()}


class OccasionalActions(Policy):
    """Independent random actions at each step in half of the episodes, zeros in the others.

    Args:
        draw: draws the values by signal.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Arrays]) -> None:
        self._draw, self._acts = draw, False

    def reset(self, generator: np.random.Generator) -> None:
        """Draws whether the episode has actions."""
        self._acts = bool(generator.random() < 0.5)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """New values or zeros."""
        del observation
        drawn = self._draw(generator)
        return {n: (v if self._acts else np.zeros_like(v)).astype(np.float32) for n, v in drawn.items()}
