"""Lab `delayed-actuator`: five tanks, each heated by its valve with a delay.

    excess' = FADE * excess + GAIN * valve[t - lag]        temperature = AMBIENT + excess

Temperatures in degC, valves from 0 (shut) to 1 (open), one step per minute. A valve action takes effect after `lag`
steps. Until then no observation depends on it, so a world must remember past actions. The tanks do not interact, and
there is no noise.

Hidden: the lags, which are settings of the lab, and the actions before an episode that are still in the pipes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import GREY, INK, PAPER, RED, YELLOW, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation, unrolled

STEP_S: Final = 60.0
AMBIENT: Final = 20.0
"""degC."""
GAIN: Final = 6.0
"""Temperature that an open valve adds per step, degC."""
LAGS: Final = (0, 2, 5, 10, 20)
NAMES: Final = ("a", "b", "c", "d", "e")
"""Names of the tanks; they do not reveal the lags."""
SCALE_TOP: Final = 45.0
"""Temperature at the top of a drawn thermometer, degC."""
OPEN_PROBABILITY: Final = 0.06
"""Probability per step that the explorer opens a shut valve."""
SHUT_PROBABILITY: Final = 0.5
"""Probability per step that the explorer shuts an open valve."""
SETTLED: Final = 40
"""Number of explorer steps before the first observation."""


class DelayedActuator(ExamLab):
    """Observations: `temperatures` [degC], and with pictures `camera`. Action: `valves` [1].

    Option of `reset`: `before` [n, 5], past actions in order of time. Before them all tanks are at ambient temperature
    and the pipes are empty.

    Args:
        lags: lag of each of the five tanks, 0 to `SETTLED` steps.
        fade: fraction of the excess over the ambient temperature that remains after a step, in [0, 1).
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(self, lags: tuple[int, ...] = LAGS, *, fade: float = 0.75, pictures: bool = False) -> None:
        self.lags, self.fade = tuple(int(lag) for lag in lags), fade
        self._excess: Floats = np.zeros(len(NAMES))
        self._pipe: Floats = np.zeros((max(self.lags), len(NAMES)))
        self._valves: Floats = np.zeros(len(NAMES))
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Temperatures and valves."""
        size = len(NAMES)
        return (
            observation("temperatures", size, "degC", entity="tanks", components=NAMES),
            action("valves", size, entity="tanks", ends=(0.0, 1.0), components=NAMES),
        )

    def _start(self, options: Options) -> None:
        initial = read_options(options, {"before": (None, len(NAMES))})
        before = use_valves(self.np_random, SETTLED)
        self._excess = np.zeros(len(NAMES))
        self._pipe = np.zeros((max(self.lags), len(NAMES)))
        self._valves = np.zeros(len(NAMES))
        for valves in initial.get("before", before):
            self._set(valves)

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        self._set(action["valves"])

    def move(self, excess: Floats, pipe: Floats, valves: Floats) -> tuple[Floats, Floats]:
        """Excess temperatures and pipe contents after one step.

        Args:
            excess: [..., 5] degC.
            pipe: [..., longest lag, 5], past actions in order of time.
            valves: [..., 5].
        """
        line = np.concatenate([pipe, np.clip(valves, 0, 1)[..., None, :]], -2)
        arrives = np.stack([line[..., -1 - lag, tank] for tank, lag in enumerate(self.lags)], -1)
        return self.fade * excess + GAIN * arrives, line[..., 1:, :]

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: `temperatures` [M, 5] degC, and `before` [M, n, 5], past actions in order of time; n is at least the
                longest lag.
            actions: `valves` [M, T, 5].

        Returns:
            `temperatures` [M, T, 5], in float64.
        """
        excess: Floats = start["temperatures"].astype(float) - AMBIENT
        before: Floats = start["before"].astype(float)
        pipe = before[:, before.shape[1] - max(self.lags) :]
        excess, _ = unrolled(self.move, (excess, pipe), actions["valves"])
        return {"temperatures": excess + AMBIENT}

    def explorer(self) -> Policy:
        """Opens each valve at random times."""
        return DelayedActuatorExplorer()

    def draw(self, temperatures: Floats, valves: Floats) -> UInt8[np.ndarray, "64 64 3"]:
        """The image: five thermometers above their valves, dark if shut and yellow if open.

        Args:
            temperatures: [5] degC.
            valves: [5], 0 to 1.
        """
        picture = Picture(0.0, 1.0)
        for tank in range(len(NAMES)):
            place = (tank + 0.5) / len(NAMES)
            picture.box(place, 0.58, 0.07, 0.38, INK)
            picture.box(place, 0.58, 0.05, 0.36, PAPER)
            height = 0.36 * float(np.clip((temperatures[tank] - AMBIENT) / (SCALE_TOP - AMBIENT), 0.01, 1))
            picture.box(place, 0.22 + height, 0.05, height, RED)
            picture.disc(place, 0.1, 0.065, GREY)
            opened = tuple(round(dark + valves[tank] * (light - dark)) for dark, light in zip(INK, YELLOW, strict=True))
            picture.disc(place, 0.1, 0.05, (opened[0], opened[1], opened[2]))
        return picture.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation and the last action."""
        if not shown.keys() >= {"temperatures", "valves"}:
            return None
        return self.draw(shown["temperatures"].astype(float), shown["valves"].astype(float))

    def _set(self, valves: Floats) -> None:
        self._excess, self._pipe = self.move(self._excess, self._pipe, valves)
        self._valves = np.clip(valves, 0, 1)

    def _look(self) -> NDArray[np.uint8]:
        return self.draw(self._excess + AMBIENT, self._valves)

    def _seen(self) -> dict[str, Any]:
        return {"temperatures": (self._excess + AMBIENT).astype(np.float32)}


class DelayedActuatorExplorer(Policy):
    """Opens each valve independently and partly, for two steps on average."""

    def __init__(self) -> None:
        self._valves: Floats = np.zeros(len(NAMES))

    def reset(self, generator: np.random.Generator) -> None:
        """Shuts all valves."""
        del generator
        self._valves = np.zeros(len(NAMES))

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """Valve positions from 0 to 1."""
        del observation
        self._valves = _turned(self._valves, generator)
        return {"valves": self._valves.astype(np.float32)}


def use_valves(generator: np.random.Generator, num_steps: int, lead: tuple[int, ...] = ()) -> Floats:
    """Explorer actions [*lead, num_steps, 5], starting with all valves shut."""
    valves: Floats = np.zeros((*lead, len(NAMES)))
    path = list[Floats]()
    for _ in range(num_steps):
        valves = _turned(valves, generator)
        path.append(valves)
    return np.stack(path, -2)


def _turned(valves: Floats, generator: np.random.Generator) -> Floats:
    chance, wanted = generator.random(valves.shape), generator.uniform(0.3, 1.0, valves.shape)
    opened = np.where(chance < OPEN_PROBABILITY, wanted, 0.0)
    return np.where(valves > 0, np.where(chance < SHUT_PROBABILITY, 0.0, valves), opened)
