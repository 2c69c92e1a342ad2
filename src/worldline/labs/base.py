"""What a lab adds to a Gymnasium environment: a schema, exact replay, and the truth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.schema import Schema

Observation = Mapping[str, NDArray[np.generic]]

RENDERS: Final[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
"""The Gymnasium metadata of labs."""


class Policy(ABC):
    """Chooses actions from observations; used to record logs."""

    @abstractmethod
    def reset(self, generator: np.random.Generator) -> None:
        """Starts an episode; draws whatever stays fixed during it."""

    @abstractmethod
    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The next action, inside the environment's action space."""


class Lab(gymnasium.Env[dict[str, Any], dict[str, Any]], ABC):
    """An environment whose reset seed holds every draw of an episode, so that a twin can be run with one thing changed.

    Where noise acts at each step it comes from a stream of its own, which actions do not touch. Options of `reset` that
    the lab does not know, or that do not fit, are refused; see `read_options`. So are actions; see `read_action`.
    """

    metadata = RENDERS
    render_mode: str | None = "rgb_array"

    _begun = False
    """Whether there is an episode to go on with."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The signals that it shows and takes."""

    @abstractmethod
    def explorer(self) -> Policy:
        """A policy whose logs cover what the lab can do."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Nothing yet: seeds the draws. A lab goes on from here, and ends with `_begin`."""
        self._begun = False
        super().reset(seed=seed, options=options)
        return {}, {}

    def render(self) -> NDArray[np.uint8]:
        """The camera's picture of now, whether observations hold it or not.

        Raises:
            InputError: no episode was begun.
            UnsupportedError: the lab draws none.
        """
        self._check_begun()
        return self._look()

    def _look(self) -> NDArray[np.uint8]:
        """What `render` returns."""
        raise UnsupportedError(f"{type(self).__name__} draws no pictures. Look at its observations instead.")

    def _begin(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The first observation; from here on `step` goes on.

        Raises:
            InputError: options led out of the observation space.
        """
        for name, part in _parts(self.observation_space).items():
            if isinstance(part, spaces.Box) and part.dtype != np.uint8:
                shown = observation[name]
                if not ((part.low <= shown) & (shown <= part.high)).all():
                    raise InputError(
                        f"{name} would be {shown.tolist()!r:.200} at first. Give options of reset that keep it from "
                        f"{part.low.tolist()!r:.200} to {part.high.tolist()!r:.200}."
                    )
        self._begun = True
        return observation

    def _checked(self, action: Any) -> dict[str, NDArray[Any]]:
        """What `step` was given, by name; see `read_action`.

        Raises:
            UnknownNameError, InputError: it does not fit, or no episode was begun.
        """
        self._check_begun()
        return read_action(action, self.action_space)

    def _check_begun(self) -> None:
        if not self._begun:
            raise InputError(f"{type(self).__name__} has no episode to go on with. Call reset first.")


class SolvedLab(Lab):
    """A lab without noise or hidden causes.

    Its vector observations are its whole state, and it knows the shortest path to a goal.
    """

    @abstractmethod
    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """The true consequence of many action sequences at once, leaving this environment as it is.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape]; no images.
        """

    @abstractmethod
    def steps_to_goal(self, observations: Arrays, goal: Arrays) -> NDArray[np.floating]:
        """The least number of steps (not rounded) from each state to its goal.

        Args:
            observations: observation signals [M, *shape].
            goal: observation signals [M, *shape].

        Returns:
            Steps [M].
        """

    @abstractmethod
    def expert(self, observations: Arrays, goal: Arrays, num_steps: int) -> Arrays:
        """Action signals [M, num_steps, *shape] of a shortest path from each state to its goal."""


class NoisyLab(Lab):
    """A lab with a hidden cause, which stays the same during an episode, and with noise at each step."""

    @abstractmethod
    def hidden(self, seed: int) -> Mapping[str, float]:
        """The hidden causes of the episode with this reset seed, by name. `reset` takes them as `options` too."""

    @abstractmethod
    def expected(self, start: Arrays, actions: Arrays, hidden: Mapping[str, NDArray[np.floating]]) -> Arrays:
        """What is expected of many action sequences where the hidden causes are known and the noise is not.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].
            hidden: per hidden cause [M].

        Returns:
            Observation signals [M, T, *shape].
        """


def read_options(
    options: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, NDArray[np.float64]]:
    """The options of a reset by name, copied; empty where there are none.

    Args:
        options: as `reset` was given them.
        shapes: of every option that the lab knows; None stands for any number.

    Raises:
        UnknownNameError: the lab does not know one.
        InputError: one has another shape, or a value that is not finite.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for name, value in (options or {}).items():
        if name not in shapes:
            raise UnknownNameError("option of reset", name, shapes)
        due = shapes[name]
        try:
            given = np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"option {name!r} is {value!r:.200}. Give numbers.") from error
        if not given.size and None in due:  # an empty list does not tell how wide its rows are
            given = given.reshape([size or 0 for size in due])
        fits = given.ndim == len(due) and all(b in (None, a) for a, b in zip(given.shape, due, strict=True))
        if not fits or not np.isfinite(given).all():
            wanted = ", ".join("any number" if size is None else str(size) for size in due)
            raise InputError(f"option {name!r} is {value!r:.200}. Give finite numbers of shape [{wanted}].")
        found[name] = given
    return found


def read_action(action: Any, space: gymnasium.Space[Any]) -> dict[str, NDArray[Any]]:
    """An action by name: float64, or int64 where it is discrete; not copied where it is that already.

    What is beyond the bounds of a box is left to the lab, which cuts it. This is called at every step: it is quick.

    Args:
        action: as `step` was given it.
        space: a `Dict` of boxes and discrete spaces.

    Raises:
        UnknownNameError: the lab does not know one.
        InputError: one is missing, of another shape or not finite, or no value of a discrete space.
    """
    parts = _parts(space)
    if not isinstance(action, Mapping):
        raise InputError(f"the action is {action!r:.200}. Give a dictionary of {', '.join(map(repr, parts))}.")
    if action.keys() != parts.keys():
        for name in action:
            if name not in parts:
                raise UnknownNameError("action", str(name), parts)
        lacks = ", ".join(repr(name) for name in parts if name not in action)
        raise InputError(f"the action lacks {lacks}; it holds {', '.join(map(repr, action)) or 'nothing'}. Add it.")
    found: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        try:
            given = np.asarray(action[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"action {name!r} is {action[name]!r:.200}. Give numbers.") from error
        if given.shape != part.shape or not all(map(math.isfinite, given.ravel().tolist())):
            shape = list(part.shape or ())
            raise InputError(f"action {name!r} is {action[name]!r:.200}. Give finite numbers of shape {shape}.")
        found[name] = given
        if isinstance(part, spaces.Discrete):
            first, number = int(part.start), float(given)
            last = first + int(part.n) - 1
            if not (first <= number <= last and number.is_integer()):
                raise InputError(f"action {name!r} is {action[name]!r:.200}. Give a whole one from {first} to {last}.")
            found[name] = given.astype(np.int64)
    return found


def _parts(space: gymnasium.Space[Any]) -> Mapping[str, gymnasium.Space[Any]]:
    """The spaces of a `Dict` by name; none of any other."""
    return space.spaces if isinstance(space, spaces.Dict) else {}
