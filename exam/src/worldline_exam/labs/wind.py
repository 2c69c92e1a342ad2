"""Lab `wind`: a moored boat, driven by its motor and by a wind that is not logged.

    position' = DECAY * position + motor - 1.5 * wind + noise

position in m; motor, drift by the wind and noise in m per step of 1 s. The explorer observes the wind, which confounds
the logs. With confounding k its motor is `k * wind + sqrt(1 - k**2) * e`, with a standard Gaussian e per step, clipped
to the bounds of the motor. A regression of the drift, `position' - DECAY * position`, on the motor then gives 1 - 1.5 k
instead of 1.

Hidden: the wind, one standard Gaussian draw per episode, and the noise, one per step. Neither depends on actions. The
wind is in the observation *space* for the explorer, but not in the *schema*, so logs and worlds do not contain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils.seeding import np_random
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREY, INK, NoisyLab, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation, unrolled

STEP_S: Final = 1.0
DECAY: Final = 0.8
"""Fraction of the position that remains after a step on the mooring."""
MOTOR_EFFECT: Final = 1.0
WIND_EFFECT: Final = -1.5
MAX_MOTOR: Final = 4.0
"""Bound of the motor, m per step; larger values are clipped."""
FAR: Final = 20.0
"""Half the width of the image, m; a wind of 1 moves the boat to 7.5 m."""


class Wind(ExamLab, NoisyLab):
    """Observation: `boat_position` [m]. Action: `motor` [m/s].

    Options of `reset`: `wind` and `position` [m].

    Args:
        confounding: correlation of the explorer's motor with the wind, from 0 to 1.
        noise: standard deviation, m per step, at least 0.
        pictures: whether to render the image `camera`: boat and mooring from the side.
    """

    step_s = STEP_S

    def __init__(self, confounding: float = 0.0, *, noise: float = 0.5, pictures: bool = False) -> None:
        self.confounding, self.noise = confounding, noise
        self._wind = 0.0
        self._position = 0.0
        super().__init__(pictures=pictures, unlogged={"wind": Box(-np.inf, np.inf, (1,), np.float32)})

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position and motor, without the wind."""
        return (
            observation("boat_position", 1, "m", entity="boat"),
            action("motor", 1, "m/s", entity="boat", ends=(-MAX_MOTOR, MAX_MOTOR)),
        )

    def _start(self, options: Options) -> None:
        initial = read_options(options, {"wind": (), "position": ()})
        wind = self._draw_wind(self.np_random)
        # Stationary for noise and a motor of deviation 1; independent of the wind.
        start = self.np_random.normal(0, np.sqrt((MOTOR_EFFECT**2 + self.noise**2) / (1 - DECAY**2)))
        self._wind, self._position = (float(initial.get(n, v)) for n, v in (("wind", wind), ("position", start)))

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        motor = np.clip(action["motor"], -MAX_MOTOR, MAX_MOTOR)
        noise = self.noise * self.np_random.standard_normal()  # independent of the action
        self._position = float(_drift(np.array([self._position]), motor, np.array([self._wind]))[0] + noise)

    def explorer(self) -> Policy:
        """A motor that is correlated with the wind."""
        return WindExplorer(self.confounding)

    def hidden(self, seed: int) -> Mapping[str, float]:
        """The wind of an episode."""
        return {"wind": self._draw_wind(np_random(seed)[0])}

    def expected(self, start: Arrays, actions: Arrays, hidden: Mapping[str, Floats]) -> Arrays:
        """The mean path: the noise has mean 0."""
        motor = np.clip(actions["motor"].astype(float), -MAX_MOTOR, MAX_MOTOR)
        wind = hidden["wind"][:, None]
        start_at = start["boat_position"].astype(float)
        (path,) = unrolled(lambda at, motor: (_drift(at, motor, wind),), (start_at,), motor)
        return {"boat_position": path.astype(np.float32)}

    def drawn(self, shown: Arrays) -> UInt8[np.ndarray, "64 64 3"] | None:
        """The camera image of an observation."""
        return self.picture(shown["boat_position"]) if "boat_position" in shown else None

    def picture(self, position: NDArray[np.generic]) -> UInt8[np.ndarray, "64 64 3"]:
        """The image of a boat at `position` [1] m, clipped to the edge of the image."""
        x = float(np.clip(position[0], 1.8 - FAR, FAR - 1.8))
        picture = Picture(-FAR, FAR)
        picture.line(-FAR, -1.5, FAR, -1.5, 0.6, GREY)
        picture.line(0.0, -6.0, x, -1.0, 0.4, INK)
        picture.box(x, -0.5, 1.6, 0.9, BLUE)
        picture.line(x, 0.0, x, 4.5, 0.7, INK)
        return picture.pixels()

    def _draw_wind(self, generator: np.random.Generator) -> float:
        return float(generator.standard_normal())

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(np.array([self._position], np.float32))

    def _seen(self) -> dict[str, Any]:
        return {
            "boat_position": np.array([self._position], np.float32),
            "wind": np.array([self._wind], np.float32),
        }


class WindExplorer(Policy):
    """A motor that is correlated with the wind.

    Args:
        confounding: correlation, from 0 to 1.
    """

    def __init__(self, confounding: float) -> None:
        self._confounding = confounding

    def reset(self, generator: np.random.Generator) -> None:
        """The explorer has no state."""

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A motor of standard deviation 1 over all episodes, clipped to its bounds."""
        own = np.sqrt(1 - self._confounding**2) * generator.standard_normal(1)
        motor = self._confounding * np.asarray(observation["wind"], dtype=float) + own
        return {"motor": np.clip(motor, -MAX_MOTOR, MAX_MOTOR).astype(np.float32)}


def _drift(position: Floats, motor: Floats, wind: Floats) -> Floats:
    """The next position without noise, m."""
    return np.asarray(DECAY * position + MOTOR_EFFECT * motor + WIND_EFFECT * wind)
