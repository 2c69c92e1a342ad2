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

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from gymnasium.spaces import MultiBinary
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREY, INK, RED, YELLOW, Colour, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation, unrolled

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


class Lamp(ExamLab):
    """Observations: heat [degC] and lamp (0 or 1) of each of `STATIONS`. Actions: the levers of each, [2].

    Options of `reset`: heats [degC] and lamps (0 or 1) by signal.

    Args:
        effect: effect of the levers on the heat, degC, not 0. If it is negative, levers on the same side cool; a lit
            lamp still announces levers on the same side.
        noise: standard deviation, degC, at least 0.
        pictures: whether to render the image `camera`, with a thermometer and a lamp for each station.
    """

    step_s = STEP_S

    def __init__(self, *, effect: float = 1.0, noise: float = 0.1, pictures: bool = False) -> None:
        self.effect, self.noise = effect, noise
        self._heats: Floats = np.zeros(len(STATIONS))
        self._decisions = np.zeros(len(STATIONS), bool)
        self._lamps = np.zeros(len(STATIONS), bool)
        super().__init__(pictures=pictures, unlogged={"decisions": MultiBinary(len(STATIONS))})

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Heats, lamps and levers, without the decisions."""
        heats = (observation(site.heat, 1, "degC", entity=site.name) for site in STATIONS)
        lamps = (observation(site.lamp, 1, entity=site.name, ends=(0.0, 1.0)) for site in STATIONS)
        sides = ("left", "right")
        levers = (action(site.levers, 2, entity=site.name, ends=(-1.0, 1.0), components=sides) for site in STATIONS)
        return (*heats, *lamps, *levers)

    def _start(self, options: Options) -> None:
        names = (name for site in STATIONS for name in (site.heat, site.lamp))
        state = read_options(options, dict.fromkeys(names, ()))
        # About the stationary distribution under the explorer.
        start = self.np_random.normal(0, abs(self.effect) / np.sqrt(1 - KEEP**2), len(STATIONS))
        self._heats = np.array([float(state.get(site.heat, x)) for site, x in zip(STATIONS, start, strict=True)])
        self._announce()
        self._lamps = np.array([bool(state.get(site.lamp, x)) for site, x in zip(STATIONS, self._lamps, strict=True)])

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        levers = np.stack([action[station.levers] for station in STATIONS])
        noise = self.noise * self.np_random.standard_normal(len(STATIONS))  # independent of the action
        self._heats = self.move(self._heats, levers) + noise
        self._announce()

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
        (path,) = unrolled(lambda heats, levers: (self.move(heats, levers),), (heats,), levers)
        every = path.astype(np.float32)
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
        if not shown.keys() >= {name for site in STATIONS for name in (site.heat, site.lamp)}:
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

    def _seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"decisions": self._decisions.astype(np.int8)}
        for number, station in enumerate(STATIONS):
            seen[station.heat] = self._heats[[number]].astype(np.float32)
            seen[station.lamp] = self._lamps[[number]].astype(np.float32)
        return seen


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
