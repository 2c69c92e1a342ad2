"""Lab `delayed-actuator`: five tanks, each heated by its valve with a delay.

    excess' = FADE * excess + GAIN * valve[t - lag]        temperature = AMBIENT + excess

Temperatures in degC, valves from 0 (shut) to 1 (open), one step per minute. A valve action takes effect after `lag`
steps. Until then no observation depends on it, so a world must remember past actions. The tanks do not interact, and
there is no noise.

Hidden: the lags, which are settings of the lab, and the actions before an episode that are still in the pipes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import (
    CAMERA,
    GREY,
    INK,
    PAPER,
    RED,
    YELLOW,
    Configured,
    DrawsImages,
    Lab,
    Picture,
    Policy,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

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


@dataclass(frozen=True, kw_only=True)
class DelayedActuatorSettings:
    """Constructor arguments of `DelayedActuator`."""

    lags: tuple[int, ...]
    fade: float
    pictures: bool


class DelayedActuator(Lab, Configured, DrawsImages):
    """Observations: `temperatures` [degC], and with pictures `camera`. Action: `valves` [1].

    Args:
        lags: lag of each of the five tanks, 0 to `SETTLED` steps.
        fade: fraction of the excess over the ambient temperature that remains after a step, in [0, 1).
        pictures: whether to render the image `camera`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, lags: tuple[int, ...] = LAGS, *, fade: float = 0.75, pictures: bool = False) -> None:
        valid = all(lag in range(SETTLED + 1) for lag in lags)
        if not (len(lags) == len(NAMES) and valid and 0 <= fade < 1):
            raise InputError(
                f"lags {lags} must be {len(NAMES)} integers from 0 to {SETTLED}, and fade {fade} must be in [0, 1)."
            )
        self.lags, self.fade, self.pictures = tuple(int(lag) for lag in lags), fade, pictures
        box = gymnasium.spaces.Box
        spaces: dict[str, gymnasium.Space[Any]] = {"temperatures": box(-np.inf, np.inf, (len(NAMES),), np.float32)}
        if pictures:
            spaces["camera"] = box(0, 255, CAMERA.shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict({"valves": box(0, 1, (len(NAMES),), np.float32)})
        self._excess: Floats = np.zeros(len(NAMES))
        self._pipe: Floats = np.zeros((max(self.lags), len(NAMES)))
        self._valves: Floats = np.zeros(len(NAMES))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor."""
        return {"lags": list(self.lags), "fade": self.fade, "pictures": self.pictures}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DelayedActuator:
        """Inverse of `settings`."""
        found = from_json(DelayedActuatorSettings, json.dumps(settings), where="delayed-actuator")
        return cls(found.lags, fade=found.fade, pictures=found.pictures)

    @property
    def schema(self) -> Schema:
        """Temperatures and valves; `camera` only if rendered."""
        size, zeros, ones = (len(NAMES),), (0.0,) * len(NAMES), (1.0,) * len(NAMES)
        signals = (
            Signal(name="temperatures", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=size, unit="degC",
                   components=NAMES, entity="tanks"),
            Signal(name="valves", role=Role.ACTION, kind=Kind.VECTOR, shape=size, unit="1",
                   low=zeros, high=ones, components=NAMES, entity="tanks"),
        )  # fmt: skip
        return Schema(signals=(CAMERA, *signals) if self.pictures else signals, step_s=STEP_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of the actions before the episode.
            options: `before` [n, 5], past actions in order of time, replaces the drawn ones. Before them all tanks
                are at ambient temperature and the pipes are empty.
        """
        super().reset(seed=seed)
        given = read_options(options, {"before": (None, len(NAMES))})
        before = use_valves(self.np_random, SETTLED)
        self._excess = np.zeros(len(NAMES))
        self._pipe = np.zeros((max(self.lags), len(NAMES)))
        self._valves = np.zeros(len(NAMES))
        for valves in given.get("before", before):
            self._set(valves)
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        self._set(self._checked(action)["valves"])
        return self._observe(), 0.0, False, False, {}

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
        pipe, path = before[:, before.shape[1] - max(self.lags) :], list[Floats]()
        for valves in np.moveaxis(actions["valves"].astype(float), 1, 0):
            excess, pipe = self.move(excess, pipe, valves)
            path.append(excess + AMBIENT)
        return {"temperatures": np.stack(path, 1)}

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

    def _observe(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"temperatures": (self._excess + AMBIENT).astype(np.float32)}
        if self.pictures:
            shown["camera"] = self._look()
        return shown


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
