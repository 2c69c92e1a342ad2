"""Lab `fleet`: moored boats, each driven by its motor and by a separate wind that is not logged.

    drift' = MOTOR * motor + WIND * wind + noise

The drift is the displacement of a boat from its buoy in m at the end of a step of 1 s; motor in m/s. Only steady winds
persist between steps. The explorer observes the wind, which confounds the logs. With confounding k its motor is
`k * wind + sqrt(1 - k**2) * e`, with a standard Gaussian e per step, clipped to the bounds of the motor. A regression
of drift on motor then gives MOTOR + WIND * k instead of MOTOR.

There are three kinds of boats, with 100 k in their names, and a steady one with k = 0:

* steady: one wind per episode, which past drifts identify;
* drilled: a new wind at each step, which is not predictable. In one of ten steps the flag `drill` is up, and the motors
  of all drilled boats are drawn uniformly between their bounds;
* gusty: a new wind at each step and no drills, so the logs do not identify the effect of the motor.

Hidden: the winds, standard Gaussian draws, and the noise. Neither depends on actions. As in the lab `wind`, the winds
are in the observation *space* for the explorer, but not in the *schema*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils.seeding import np_random
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREEN, GREY, INK, RED, YELLOW, NoisyLab, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation

STEP_S: Final = 1.0
MAX_MOTOR: Final = 4.0
"""Bound of each motor, m/s; larger values are clipped."""
DRILL_SHARE: Final = 0.1
"""Fraction of steps with random motors of drilled boats."""
FAR: Final = 8.0
"""Half the width of the image, m."""


class Weather(StrEnum):
    """Kind of a boat; see the module."""

    STEADY = "steady"
    DRILLED = "drilled"
    GUSTY = "gusty"


@dataclass(frozen=True, kw_only=True)
class Boat:
    """One boat.

    Args:
        weather: kind of the boat.
        confounding: correlation of the explorer's motor with the wind, from 0 to 1.
    """

    weather: Weather
    confounding: float

    @property
    def name(self) -> str:
        """Such as "steady_90"."""
        return f"{self.weather.value}_{round(100 * self.confounding):02d}"

    @property
    def drift(self) -> str:
        """Name of the drift signal."""
        return f"{self.name}_drift"

    @property
    def motor(self) -> str:
        """Name of the action signal."""
        return f"{self.name}_motor"


BOATS: Final = (
    Boat(weather=Weather.STEADY, confounding=0.0),
    *(Boat(weather=weather, confounding=k) for weather in Weather for k in (0.6, 0.9)),
)
STEADY: Final = np.array([boat.weather is Weather.STEADY for boat in BOATS])
DRILLED: Final = np.array([boat.weather is Weather.DRILLED for boat in BOATS])
CONFOUNDING: Final = np.array([boat.confounding for boat in BOATS])
_COLOURS: Final = {Weather.STEADY: BLUE, Weather.DRILLED: GREEN, Weather.GUSTY: RED}


class Fleet(ExamLab, NoisyLab):
    """Observations: a drift [m] for each of `BOATS`, and `drill`. Actions: a motor [m/s] for each.

    Options of `reset`: winds by their names in `hidden`, and drifts [m] by signal.

    Args:
        motor_effect: drift by the motor, m per m/s.
        wind_effect: drift by a wind of 1, m.
        noise: standard deviation, m, at least 0.
        pictures: whether to render the image `camera`. It has a lane for each boat with its buoy in the middle, and
            pennants over drilled boats if `drill` is up.
    """

    step_s = STEP_S

    def __init__(
        self,
        *,
        motor_effect: float = 1.0,
        wind_effect: float = -1.5,
        noise: float = 0.5,
        pictures: bool = False,
    ) -> None:
        self.motor_effect, self.wind_effect, self.noise = motor_effect, wind_effect, noise
        self._winds: Floats = np.zeros(len(BOATS))
        self._drifts: Floats = np.zeros(len(BOATS))
        self._drill = False
        winds = Box(-np.inf, np.inf, (len(BOATS),), np.float64)
        super().__init__(pictures=pictures, unlogged={"winds": winds})

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Drifts, drill and motors, without the winds."""
        ends = (-MAX_MOTOR, MAX_MOTOR)
        return (
            *(observation(boat.drift, 1, "m", entity=boat.name) for boat in BOATS),
            observation("drill", 1, ends=(0.0, 1.0)),
            *(action(boat.motor, 1, "m/s", entity=boat.name, ends=ends) for boat in BOATS),
        )

    def _start(self, options: Options) -> None:
        names = (*(_wind(boat) for boat in BOATS if _steady(boat)), *(boat.drift for boat in BOATS))
        initial = read_options(options, dict.fromkeys(names, ()))
        steady = self.np_random.standard_normal(len(BOATS))
        known = [float(initial.get(_wind(boat), wind)) for boat, wind in zip(BOATS, steady, strict=True)]
        before, own, noise = self.np_random.standard_normal((3, len(BOATS)))
        # The initial drifts follow one earlier step with its own gusts.
        winds = np.where(STEADY, steady, before)
        drilled = DRILLED & (self.np_random.random() < DRILL_SHARE)
        motors = np.where(drilled, self.np_random.uniform(-MAX_MOTOR, MAX_MOTOR, len(BOATS)), leaning(winds, own))
        drifts = self.move(motors, winds) + self.noise * noise
        self._drifts = np.array([float(initial.get(boat.drift, x)) for boat, x in zip(BOATS, drifts, strict=True)])
        self._winds = np.array(known)
        self._turn()

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        motors = np.concatenate([action[boat.motor] for boat in BOATS])
        noise = self.noise * self.np_random.standard_normal(len(BOATS))  # independent of the action
        self._drifts = self.move(motors, self._winds) + noise
        self._turn()

    def move(self, motors: Float[np.ndarray, "*n B"], winds: Float[np.ndarray, "*n B"]) -> Float[np.ndarray, "*n B"]:
        """The drifts without noise, m.

        Args:
            motors: motors of `BOATS`, m/s, clipped to their bounds.
            winds: winds of `BOATS`.
        """
        return np.asarray(self.motor_effect * np.clip(motors, -MAX_MOTOR, MAX_MOTOR) + self.wind_effect * winds)

    def explorer(self) -> Policy:
        """Motors that are correlated with the winds, except in drills."""
        return FleetExplorer()

    def hidden(self, seed: int) -> Mapping[str, float]:
        """The winds of steady boats, constant for an episode."""
        winds = np_random(seed)[0].standard_normal(len(BOATS))
        return {_wind(boat): float(wind) for boat, wind in zip(BOATS, winds, strict=True) if _steady(boat)}

    def expected(self, start: Arrays, actions: Arrays, hidden: Mapping[str, Floats]) -> Arrays:
        """The mean drifts: noise and gusts have mean 0."""
        del start  # nothing is carried over
        motors = np.concatenate([actions[boat.motor] for boat in BOATS], -1).astype(float)
        calm = np.zeros(len(motors))
        winds = np.stack([hidden[_wind(boat)] if _steady(boat) else calm for boat in BOATS], -1)
        drifts = self.move(motors, np.broadcast_to(winds[:, None], motors.shape)).astype(np.float32)
        return {boat.drift: drifts[..., [number]] for number, boat in enumerate(BOATS)}

    def picture(self, drifts: Float[np.ndarray, "B"], drill: bool) -> UInt8[np.ndarray, "64 64 3"]:
        """The camera image.

        Args:
            drifts: drifts of `BOATS`, m, clipped to `FAR` less 1.2 m.
            drill: whether the flag is up.
        """
        drawing, gap = Picture(-FAR, FAR), 2 * FAR / len(BOATS)
        drawing.line(0.0, -FAR, 0.0, FAR, 0.15, GREY)
        for number, boat in enumerate(BOATS):
            y = FAR - gap * (number + 0.6)
            x = float(np.clip(drifts[number], 1.2 - FAR, FAR - 1.2))
            drawing.line(-FAR, y - 0.55, FAR, y - 0.55, 0.12, GREY)
            drawing.box(x, y - 0.2, 0.75, 0.36, _COLOURS[boat.weather])
            drawing.disc(x + 0.75, y - 0.2, 0.36, _COLOURS[boat.weather])
            drawing.line(x, y, x, y + 1.1, 0.25, INK)
            if drill and boat.weather is Weather.DRILLED:
                drawing.box(x + 0.6, y + 0.8, 0.6, 0.4, YELLOW)
        return drawing.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation."""
        if not shown.keys() >= {"drill", *(boat.drift for boat in BOATS)}:
            return None
        drifts = np.concatenate([shown[boat.drift] for boat in BOATS]).astype(float)
        return self.picture(drifts, bool(shown["drill"][0]))

    def _turn(self) -> None:
        """Draws the winds of the next step and whether it is a drill."""
        gusts = self.np_random.standard_normal(len(BOATS))
        self._winds = np.where(STEADY, self._winds, gusts)
        self._drill = bool(self.np_random.random() < DRILL_SHARE)

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(self._drifts, self._drill)

    def _seen(self) -> dict[str, Any]:
        drifts = {boat.drift: np.array([drift], np.float32) for boat, drift in zip(BOATS, self._drifts, strict=True)}
        return {**drifts, "drill": np.array([self._drill], np.float32), "winds": self._winds.copy()}


class FleetExplorer(Policy):
    """Motors that are correlated with the winds; in a drill, drilled boats have random motors."""

    def reset(self, generator: np.random.Generator) -> None:
        """The explorer has no state."""

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """Motors with standard deviation 1 over all episodes, clipped to their bounds; uniform in drills."""
        own, drill = generator.standard_normal(len(BOATS)), generator.uniform(-MAX_MOTOR, MAX_MOTOR, len(BOATS))
        motors = leaning(np.asarray(observation["winds"]), own)
        motors = np.where(DRILLED & bool(observation["drill"][0]), drill, motors)
        return {boat.motor: motors[[number]].astype(np.float32) for number, boat in enumerate(BOATS)}


def leaning(winds: Float[np.ndarray, "*n B"], own: Float[np.ndarray, "*n B"]) -> Float[np.ndarray, "*n B"]:
    """The motors of the explorer, m/s.

    Args:
        winds: winds of `BOATS`.
        own: standard Gaussian draws.
    """
    return np.asarray(np.clip(CONFOUNDING * winds + np.sqrt(1 - CONFOUNDING**2) * own, -MAX_MOTOR, MAX_MOTOR))


def _steady(boat: Boat) -> bool:
    return boat.weather is Weather.STEADY


def _wind(boat: Boat) -> str:
    return f"{boat.name}_wind"
