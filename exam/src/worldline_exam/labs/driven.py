"""Base class of the labs of energy tests: pushed bodies in a damping medium, fully observed.

    mass * acceleration = push + forces of the lab - mass * damping * velocity

The damping, 1/s, has one of three values per episode and is observed. Nothing is hidden, and there is no noise. A push
is constant during a step of 0.1 s. The state is rounded to float32 at each step, so a simulation from an observation
equals the lab.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import PAPER, Colour, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, HeldActions, Options, action, observation, rounded, unrolled

STEP_S: Final = 0.1
DAMPINGS: Final = (0.0, 0.2, 0.8)
"""Values with equal probability, 1/s."""
DAMPING: Final = observation("damping", 1, "1/s", entity="medium")
HOLDS: Final = 0.8
"""Probability per step that the explorer keeps its push."""
THICK: Final[Colour] = (150, 186, 214)
"""Background of the image at the largest damping."""

_OUTER: Final = 1 / (2 - 2 ** (1 / 3))
_STAGES: Final = (_OUTER, 1 - 2 * _OUTER, _OUTER)


class Driven(ExamLab):
    """A lab whose vector observations are its full state, with `damping` and optionally `camera`.

    Options of `reset`: vector observations [*shape] by name. The damping is at least 0.

    Args:
        moving: vector observations without `damping`, in the order of a state [..., D].
        pushes: action signals, in the order of a force [..., A]; values beyond their bounds are clipped.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(self, moving: tuple[Signal, ...], pushes: tuple[Signal, ...], *, pictures: bool) -> None:
        self.moving, self.pushes = moving, pushes
        self._state: Floats = np.zeros((1, sum(signal.size for signal in moving)))
        self._damping: Floats = np.zeros(1)
        super().__init__(pictures=pictures)

    @abstractmethod
    def draw_states(self, generator: np.random.Generator, num: int) -> Float[np.ndarray, "M D"]:
        """Initial states of episodes."""

    @abstractmethod
    def advance(
        self, state: Float[np.ndarray, "M D"], force: Float[np.ndarray, "M A"], damping: Float[np.ndarray, "M"]
    ) -> Float[np.ndarray, "M D"]:
        """The states after one step, float64, without rounding."""

    @abstractmethod
    def energy(self, observations: Arrays) -> Floats:
        """Total energy [...] in J of observation signals [..., *shape], float64."""

    @abstractmethod
    def places(self, observations: Arrays) -> Floats:
        """Positions of the bodies [..., bodies, 2] in m for observation signals [..., *shape]."""

    @abstractmethod
    def paint(self, state: Float[np.ndarray, "D"], paper: Colour) -> UInt8[np.ndarray, "64 64 3"]:
        """The image of a state."""

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Moving signals, damping and pushes."""
        return (*self.moving, DAMPING, *self.pushes)

    def _start(self, options: Options) -> None:
        damping = self.np_random.choice(DAMPINGS)
        drawn = self.split(self.draw_states(self.np_random, 1))
        shapes = {signal.name: signal.shape for signal in (*self.moving, DAMPING)}
        initial = {name: value[None] for name, value in read_options(options, shapes).items()}
        self._damping = np.asarray(initial.get("damping", np.array([[damping]]))[:, 0], np.float32).astype(float)
        self._state = rounded(self.join({**drawn, **{name: v for name, v in initial.items() if name in drawn}}))

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        force = self._force({name: value[None] for name, value in action.items()})
        self._state = rounded(self.advance(self._state, force, self._damping))

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: vector observations [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observations [M, T, *shape], without images.
        """
        state, damping = rounded(self.join(start)), start["damping"][:, 0].astype(float)
        forces = self._force(actions)
        (path,) = unrolled(lambda at, force: (rounded(self.advance(at, force, damping)),), (state,), forces)
        dampings = np.broadcast_to(damping[:, None, None], (*path.shape[:2], 1))
        return {name: value.astype(np.float32) for name, value in {**self.split(path), "damping": dampings}.items()}

    def explorer(self) -> Policy:
        """Uniform pushes, held for five steps on average."""
        return HeldActions(
            lambda generator: {signal.name: generator.uniform(*bounds(signal)) for signal in self.pushes},
            lambda generator: generator.random() > HOLDS,
        )

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation. The background is bluer for larger damping."""
        if not shown.keys() >= {signal.name for signal in (*self.moving, DAMPING)}:
            return None
        return self._painted(self.join(shown), float(shown["damping"][0]))

    def split(self, state: Float[np.ndarray, "*M D"]) -> dict[str, Floats]:
        """A state as vector observations, without the damping."""
        ends = np.cumsum([signal.size for signal in self.moving])[:-1]
        return {signal.name: part for signal, part in zip(self.moving, np.split(state, ends, -1), strict=True)}

    def join(self, observations: Arrays) -> Float[np.ndarray, "*M D"]:
        """The state of vector observations [*M, *shape]."""
        return np.concatenate([observations[signal.name].astype(float) for signal in self.moving], -1)

    def _force(self, actions: Arrays) -> Floats:
        parts = [np.clip(np.asarray(actions[signal.name], float), *bounds(signal)) for signal in self.pushes]
        return np.concatenate(parts, -1)

    def _look(self) -> NDArray[np.uint8]:
        return self._painted(self._state[0], float(self._damping[0]))

    def _painted(self, state: Floats, damping: float) -> NDArray[np.uint8]:
        share = damping / DAMPINGS[-1]
        paper = tuple(round(a + share * (b - a)) for a, b in zip(PAPER, THICK, strict=True))
        return self.paint(state, (paper[0], paper[1], paper[2]))

    def _seen(self) -> dict[str, Any]:
        seen = {name: value[0].astype(np.float32) for name, value in self.split(self._state).items()}
        return {**seen, "damping": self._damping.astype(np.float32)}


def body_signals(name: str) -> tuple[Signal, Signal]:
    """Position and velocity of a body in the plane."""
    return (
        observation(f"{name}_position", 2, "m", entity=name),
        observation(f"{name}_velocity", 2, "m/s", entity=name),
    )


def push_signal(name: str, bound: float) -> Signal:
    """A push on a body in the plane, at most `bound` N along each axis."""
    return action(f"{name}_push", 2, "N", entity=name, ends=(-bound, bound))


def bounds(push: Signal) -> tuple[Floats, Floats]:
    """Lower and upper bound of a push [*shape]; infinite if the signal has none."""
    endless = np.full(push.shape, np.inf)
    return (
        -endless if push.low is None else np.array(push.low),
        endless if push.high is None else np.array(push.high),
    )


def leap(
    position: Floats,
    velocity: Floats,
    acceleration: Callable[[Floats], Floats],
    damping: Floats,
    num_leaps: int,
) -> tuple[Floats, Floats]:
    """Position and velocity after one step of a fourth-order integrator, symplectic without damping.

    Args:
        position: [M, ...].
        velocity: [M, ...].
        acceleration: acceleration without damping, as a function of position.
        damping: [M, 1], 1/s.
        num_leaps: number of substeps.

    Source: Yoshida (1990), "Construction of higher order symplectic integrators", applied to symmetric substeps with
    half of the damping before and half after.
    """
    durations = [stage * STEP_S / num_leaps for stage in _STAGES]
    fades = [np.exp(-damping * duration / 2) for duration in durations]
    pull = acceleration(position)
    for duration, fade in list(zip(durations, fades, strict=True)) * num_leaps:
        velocity = fade * velocity + duration / 2 * pull
        position = position + duration * velocity
        pull = acceleration(position)
        velocity = fade * (velocity + duration / 2 * pull)
    return position, velocity
