"""Base classes of labs, Gymnasium environments with a schema, exact replay and ground truth, and their abilities."""

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


class Hides(ABC):
    """Optional: signals can be unobserved at some steps. Callers must then ignore their values."""

    @abstractmethod
    def seen(self, observation: Mapping[str, Any]) -> Mapping[str, bool]:
        """Returns whether each signal that can be hidden is observed; all other signals always are.

        Args:
            observation: as `reset` and `step` return it, with entries that are not in the schema.
        """


class DrawsImages(ABC):
    """Optional: the camera image of a step can be drawn from the other signals."""

    pictures: bool
    """Whether observations contain the camera image."""

    @abstractmethod
    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """Returns the image [64, 64, 3] of a step; None if the known signals do not determine it.

        Args:
            shown: by name [*shape]: the observed vector observations and the action of the previous step; unknown
                signals are left out.
        """


Observation = Mapping[str, NDArray[np.generic]]

RENDERS: Final[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
"""The Gymnasium metadata of labs."""


class Policy(ABC):
    """Chooses actions from observations; used to record logs."""

    @abstractmethod
    def reset(self, generator: np.random.Generator) -> None:
        """Starts an episode; draws the values that stay fixed during it."""

    @abstractmethod
    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """Returns the next action, inside the environment's action space."""


class Lab(gymnasium.Env[dict[str, Any], dict[str, Any]], ABC):
    """An environment whose reset seed fixes every draw of an episode, so that twins with one change can be run.

    Step noise comes from a separate random stream that does not depend on the actions. Unknown or invalid options of
    `reset` are refused (`read_options`), and so are invalid actions (`read_action`).
    """

    metadata = RENDERS
    render_mode: str | None = "rgb_array"

    _begun = False
    """Whether `reset` has started an episode."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The observation and action signals."""

    @abstractmethod
    def explorer(self) -> Policy:
        """Returns a policy whose logs cover the lab's dynamics."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Seeds the draws and returns nothing yet; subclasses call this first and `_begin` last."""
        self._begun = False
        super().reset(seed=seed, options=options)
        return {}, {}

    def render(self) -> NDArray[np.uint8]:
        """Returns the current camera image, even if observations do not contain it.

        Raises:
            InputError: `reset` was not called.
            UnsupportedError: the lab draws no images.
        """
        self._check_begun()
        return self._look()

    def _look(self) -> NDArray[np.uint8]:
        raise UnsupportedError(f"{type(self).__name__} draws no images. Use its observations instead.")

    def _begin(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Checks that the options led into the observation space, and returns the first observation."""
        for name, part in _parts(self.observation_space).items():
            if isinstance(part, spaces.Box) and part.dtype != np.uint8:
                value = observation[name]
                if not ((part.low <= value) & (value <= part.high)).all():
                    raise InputError(
                        f"the first {name} would be {value.tolist()!r:.200}. Give reset options that keep it between "
                        f"{part.low.tolist()!r:.200} and {part.high.tolist()!r:.200}."
                    )
        self._begun = True
        return observation

    def _checked(self, action: Any) -> dict[str, NDArray[Any]]:
        """Returns the action of `step` by name; raises if it does not fit or `reset` was not called."""
        self._check_begun()
        return read_action(action, self.action_space)

    def _check_begun(self) -> None:
        if not self._begun:
            raise InputError(f"{type(self).__name__} has no running episode. Call reset first.")


class SolvedLab(Lab):
    """A lab without noise or hidden causes, with a known shortest path to each goal.

    Its vector observations are its complete state.
    """

    @abstractmethod
    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Returns the ground-truth rollouts of many action sequences; does not change this environment's state.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape]; no images.
        """

    @abstractmethod
    def steps_to_goal(self, observations: Arrays, goal: Arrays) -> NDArray[np.floating]:
        """Returns the minimum number of steps (not rounded) from each state to its goal.

        Args:
            observations: observation signals [M, *shape].
            goal: observation signals [M, *shape].

        Returns:
            Steps [M].
        """

    @abstractmethod
    def expert(self, observations: Arrays, goal: Arrays, num_steps: int) -> Arrays:
        """Returns action signals [M, num_steps, *shape] of a shortest path from each state to its goal."""


class NoisyLab(Lab):
    """A lab with noise at each step and a hidden cause that is constant during an episode."""

    @abstractmethod
    def hidden(self, seed: int) -> Mapping[str, float]:
        """Returns the hidden causes of the episode with this reset seed, by name; `reset` accepts them as options."""

    @abstractmethod
    def expected(self, start: Arrays, actions: Arrays, hidden: Mapping[str, NDArray[np.floating]]) -> Arrays:
        """Returns expected observations of many action sequences, given the hidden causes but not the noise.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].
            hidden: values of each hidden cause [M].

        Returns:
            Observation signals [M, T, *shape].
        """


def read_options(
    options: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, NDArray[np.float64]]:
    """Returns copies of the options of `reset` by name; empty if there are none.

    Args:
        options: as passed to `reset`.
        shapes: of every option that the lab has; None stands for any size.

    Raises:
        UnknownNameError: the lab has no option of this name.
        InputError: an option has another shape, or a value that is not finite.
    """
    arrays: dict[str, NDArray[np.float64]] = {}
    for name, value in (options or {}).items():
        if name not in shapes:
            raise UnknownNameError("option of reset", name, shapes)
        shape = shapes[name]
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"option {name!r} is {value!r:.200}. Give numbers.") from error
        if not array.size and None in shape:  # an empty list has shape (0,), whatever the width of its rows
            array = array.reshape([size or 0 for size in shape])
        fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
        if not fits or not np.isfinite(array).all():
            sizes = ", ".join("any number" if size is None else str(size) for size in shape)
            raise InputError(f"option {name!r} is {value!r:.200}. Give finite numbers of shape [{sizes}].")
        arrays[name] = array
    return arrays


def read_action(action: Any, space: gymnasium.Space[Any]) -> dict[str, NDArray[Any]]:
    """Returns an action by name: float64, or int64 if it is discrete; float64 arrays are not copied.

    Values outside the bounds of a box pass; the lab clips them. Called at every step, so it must be fast.

    Args:
        action: as passed to `step`.
        space: a `Dict` of boxes and discrete spaces.

    Raises:
        UnknownNameError: the lab has no action of this name.
        InputError: an action is missing, has another shape, is not finite, or is not in its discrete space.
    """
    parts = _parts(space)
    if not isinstance(action, Mapping):
        raise InputError(f"the action is {action!r:.200}. Give a dictionary of {', '.join(map(repr, parts))}.")
    if action.keys() != parts.keys():
        for name in action:
            if name not in parts:
                raise UnknownNameError("action", str(name), parts)
        lacks = ", ".join(repr(name) for name in parts if name not in action)
        raise InputError(f"the action lacks {lacks}; it has {', '.join(map(repr, action)) or 'no entries'}. Add it.")
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        try:
            array = np.asarray(action[name], dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array(np.nan)
        discrete = isinstance(part, spaces.Discrete)
        if array.shape == part.shape and all(map(math.isfinite, array.ravel().tolist())):
            arrays[name] = array.astype(np.int64) if discrete else array
        if name not in arrays or (discrete and not (arrays[name] == array and part.contains(arrays[name]))):
            raise InputError(f"action {name!r} is {action[name]!r:.200}. Give finite numbers of {part}.")
    return arrays


def _parts(space: gymnasium.Space[Any]) -> Mapping[str, gymnasium.Space[Any]]:
    """Returns the spaces of a `Dict` by name; empty for any other space."""
    return space.spaces if isinstance(space, spaces.Dict) else {}
