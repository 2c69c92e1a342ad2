"""Lab `lamp`: three stations, each with two levers that heat or cool it and a lamp with a spurious correlation.

    heat' = KEEP * heat + effect * (1 where both levers point the same way, else -1) + noise

The heat is in degC above room temperature. Only the levers cause it. Before each step the operator decides to heat or
to cool and then sets each lever to 0.3 to 1 on one side. The lamp is observed before the levers move. At station_80 it
shows the decision in 80 % of the steps and the opposite otherwise, and likewise at station_95 and station_99.

The lamp comes first and is a single number, while the effect of the levers is an interaction: neither alone predicts
the heat. A model that attributes the heat to the lamp is right in most logged steps. It fails if only the lamp or only
the levers are changed. The logs identify the effect of the levers, since they cause the heat in every step. Given the
levers, the lamp carries no information.

Hidden: the decisions, fair and independent, and the noise. Neither depends on actions. The decisions are in the
observation *space* for the explorer, but not in the *schema*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import (
    BLUE,
    CAMERA,
    GREY,
    INK,
    RED,
    YELLOW,
    Colour,
    Configured,
    DrawsImages,
    Lab,
    Picture,
    Policy,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

STEP_S: Final = 1.0
KEEP: Final = 0.5
"""Fraction of the heat that remains after a step."""
MIN_LEVER: Final = 0.3
"""Smallest magnitude of a lever position of the explorer."""
DARK: Final[Colour] = (96, 92, 84)


@dataclass(frozen=True, kw_only=True)
class Station:
    """One station.

    Args:
        follows: fraction of steps in which the lamp shows the decision.
    """

    follows: float

    @property
    def name(self) -> str:
        """Such as "station_95"."""
        return f"station_{round(100 * self.follows)}"

    @property
    def heat(self) -> str:
        """Name of the heat signal."""
        return f"{self.name}_heat"

    @property
    def lamp(self) -> str:
        """Name of the lamp signal."""
        return f"{self.name}_lamp"

    @property
    def levers(self) -> str:
        """Name of the action signal."""
        return f"{self.name}_levers"


STATIONS: Final = tuple(Station(follows=follows) for follows in (0.8, 0.95, 0.99))
_FOLLOWS: Final = np.array([station.follows for station in STATIONS])


@dataclass(frozen=True, kw_only=True)
class LampSettings:
    """Constructor arguments of `Lamp`."""

    effect: float
    noise: float
    pictures: bool


class Lamp(Lab, Configured, DrawsImages):
    """Observations: heat [degC] and lamp (0 or 1) of each of `STATIONS`. Actions: the levers of each, [2].

    Args:
        effect: effect of the levers on the heat, degC, not 0. If it is negative, levers on the same side cool; a lit
            lamp still announces levers on the same side.
        noise: standard deviation, degC, at least 0.
        pictures: whether to render the image `camera`, with a thermometer and a lamp for each station.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, effect: float = 1.0, noise: float = 0.1, pictures: bool = False) -> None:
        if not (effect != 0 and np.isfinite(effect) and 0 <= noise < np.inf):
            raise InputError(
                f"effect {effect} must not be 0, noise {noise} must be at least 0, and both must be finite."
            )
        self.effect, self.noise, self.pictures = effect, noise, pictures
        box, anywhere = gymnasium.spaces.Box, (-np.inf, np.inf)
        spaces: dict[str, gymnasium.Space[Any]] = {one.heat: box(*anywhere, (1,), np.float32) for one in STATIONS}
        spaces |= {station.lamp: box(0, 1, (1,), np.float32) for station in STATIONS}
        spaces |= {"decisions": gymnasium.spaces.MultiBinary(len(STATIONS))}
        if pictures:
            spaces[CAMERA.name] = box(0, 255, CAMERA.shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict({one.levers: box(-1, 1, (2,), np.float32) for one in STATIONS})
        self._heats: Floats = np.zeros(len(STATIONS))
        self._decisions = np.zeros(len(STATIONS), bool)
        self._lamps = np.zeros(len(STATIONS), bool)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor."""
        return {"effect": self.effect, "noise": self.noise, "pictures": self.pictures}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Lamp:
        """Inverse of `settings`."""
        found = from_json(LampSettings, json.dumps(settings), where="lamp")
        return cls(effect=found.effect, noise=found.noise, pictures=found.pictures)

    @property
    def schema(self) -> Schema:
        """The logged signals, without the decisions."""
        seen, vector, low, high = Role.OBSERVATION, Kind.VECTOR, (0.0,), (1.0,)
        heats = [
            Signal(name=one.heat, role=seen, kind=vector, shape=(1,), unit="degC", entity=one.name) for one in STATIONS
        ]
        lamps = [
            Signal(name=one.lamp, role=seen, kind=vector, shape=(1,), low=low, high=high, entity=one.name)
            for one in STATIONS
        ]
        levers = [
            Signal(name=one.levers, role=Role.ACTION, kind=vector, shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0),
                   components=("left", "right"), entity=one.name)
            for one in STATIONS
        ]  # fmt: skip
        return Schema(signals=(*((CAMERA,) if self.pictures else ()), *heats, *lamps, *levers), step_s=STEP_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of the initial state, the decisions, the lamps and the noise.
            options: heats [degC] and lamps (0 or 1) by signal replace drawn values. All else follows the seed.

        Raises:
            InputError: a lamp is neither 0 nor 1.
        """
        super().reset(seed=seed)
        names = (name for one in STATIONS for name in (one.heat, one.lamp))
        given = read_options(options, dict.fromkeys(names, ()))
        for station in STATIONS:
            if (lit := given.get(station.lamp)) is not None and lit not in (0, 1):
                raise InputError(f"{station.lamp} is {float(lit)}. It must be 0 or 1.")
        # About the stationary distribution under the explorer.
        start = self.np_random.normal(0, abs(self.effect) / np.sqrt(1 - KEEP**2), len(STATIONS))
        self._heats = np.array([float(given.get(one.heat, x)) for one, x in zip(STATIONS, start, strict=True)])
        self._announce()
        self._lamps = np.array([bool(given.get(one.lamp, x)) for one, x in zip(STATIONS, self._lamps, strict=True)])
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        taken = self._checked(action)
        levers = np.stack([taken[station.levers] for station in STATIONS])
        noise = self.noise * self.np_random.standard_normal(len(STATIONS))  # independent of the action
        self._heats = self.move(self._heats, levers) + noise
        self._announce()
        return self._observe(), 0.0, False, False, {}

    def move(self, heats: Float[np.ndarray, "*n K"], levers: Float[np.ndarray, "*n K 2"]) -> Float[np.ndarray, "*n K"]:
        """The heats after a step without noise, degC.

        Args:
            heats: heats of `STATIONS`, degC.
            levers: levers of `STATIONS`.
        """
        return np.asarray(KEEP * heats + self.effect * np.where(together(levers), 1.0, -1.0))

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel without noise, independent of the state of this environment.

        Args:
            start: observation signals [M, *shape]; only heats are used.
            actions: action signals [M, T, *shape].

        Returns:
            The heats [M, T, 1]. The lamps are random and not simulated.
        """
        heats = np.concatenate([start[station.heat] for station in STATIONS], -1).astype(float)
        levers = np.stack([actions[station.levers] for station in STATIONS], -2).astype(float)
        path = []
        for step in range(levers.shape[1]):
            heats = self.move(heats, levers[:, step])
            path.append(heats.astype(np.float32))
        every = np.stack(path, 1)
        return {station.heat: every[..., [number]] for number, station in enumerate(STATIONS)}

    def explorer(self) -> Policy:
        """Sets the levers according to the decisions."""
        return LampExplorer()

    def picture(self, heats: Float[np.ndarray, "K"], lamps: Bool[np.ndarray, "K"]) -> UInt8[np.ndarray, "64 64 3"]:
        """The camera image.

        Args:
            heats: heats of `STATIONS`, degC; the thermometers end at 2.4 times the effect in both directions.
            lamps: whether the lamps are lit.
        """
        drawing = Picture(-3.0, 3.0)
        for number, heat in enumerate(heats):
            x = 2.0 * (number - 1)
            drawing.line(x, -2.2, x, 1.0, 0.7, GREY)
            share = float(np.clip(heat / (2.4 * abs(self.effect)), -1, 1))
            top = -0.6 + 1.5 * share
            drawing.line(x, -2.2, x, top, 0.4, RED if share > 0 else BLUE)
            drawing.disc(x, -2.3, 0.5, RED if share > 0 else BLUE)
            drawing.line(x - 0.5, -0.6, x + 0.5, -0.6, 0.12, INK)
            drawing.disc(x, 2.1, 0.62, INK)
            drawing.disc(x, 2.1, 0.5, YELLOW if lamps[number] else DARK)
        return drawing.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation."""
        if not shown.keys() >= {name for one in STATIONS for name in (one.heat, one.lamp)}:
            return None
        heats = np.concatenate([shown[station.heat] for station in STATIONS]).astype(float)
        return self.picture(heats, np.array([bool(shown[station.lamp][0]) for station in STATIONS]))

    def _announce(self) -> None:
        """Draws the decisions of the next step and sets the lamps."""
        self._decisions = self.np_random.random(len(STATIONS)) < 0.5
        right = self.np_random.random(len(STATIONS)) < _FOLLOWS
        self._lamps = np.where(right, self._decisions, ~self._decisions)

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(self._heats, self._lamps)

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for number, station in enumerate(STATIONS):
            seen[station.heat] = self._heats[[number]].astype(np.float32)
            seen[station.lamp] = self._lamps[[number]].astype(np.float32)
        seen["decisions"] = self._decisions.astype(np.int8)
        return seen | {CAMERA.name: self._look()} if self.pictures else seen


class LampExplorer(Policy):
    """The operator: sets both levers to the same or to opposite sides, as decided, with random magnitudes."""

    def reset(self, generator: np.random.Generator) -> None:
        """The explorer has no state."""

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """Levers according to the decisions."""
        levers = levers_for(np.asarray(observation["decisions"], dtype=bool), generator)
        return {station.levers: levers[number].astype(np.float32) for number, station in enumerate(STATIONS)}


def levers_for(decisions: Bool[np.ndarray, "*n"], generator: np.random.Generator) -> Float[np.ndarray, "*n 2"]:
    """Lever positions of the explorer.

    Args:
        decisions: whether both levers point to the same side.
        generator: source of the magnitudes and of the side of the left lever.
    """
    far = generator.uniform(MIN_LEVER, 1.0, (*decisions.shape, 2))
    left = np.where(generator.random(decisions.shape) < 0.5, 1.0, -1.0)
    return np.asarray(far * np.stack([left, np.where(decisions, left, -left)], -1))


def together(levers: Float[np.ndarray, "*n 2"]) -> Bool[np.ndarray, "*n"]:
    """Whether both levers point to the same side; a lever at 0 counts for both sides."""
    return np.asarray(levers[..., 0] * levers[..., 1] >= 0)
