"""Episode, History and Future: T+1 observations, T actions; action t leads from observation t to t+1."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldline.errors import InputError
from worldline.schema import Role, Schema

if TYPE_CHECKING:
    from worldline.plots.figure import PlotFigure

__all__ = ["Arrays", "Episode", "Future", "History"]

Arrays = Mapping[str, NDArray[np.generic]]


def require_mapping(given: object, what: str, example: str = "NAME") -> None:
    """Checks that arrays are given by name.

    Args:
        given: as in the call.
        what: it is, for the message.
        example: name of a signal, for the message.

    Raises:
        InputError: it is an array, or something else than a mapping.
    """
    if not isinstance(given, Mapping):
        got = f"an array of shape {given.shape}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise InputError(
            f"{what}: expected a mapping of signal names to arrays, got {got}. Give {{{example!r}: array}}."
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class History:
    """The past up to the present: H observations and the inputs between them.

    Either all arrays or none have a leading axis of W worlds. A new history has H-1 inputs. A history that continues
    an earlier belief has H inputs; the first one leads to the first observation.

    Args:
        observations: per signal [H, *shape], physical units.
        actions: per signal [H-1, *shape] (or H). A history of one observation needs none.
        exogenous: per signal [H-1, *shape] (or H); empty if the schema has none.
        observed: per signal [H] bool, False if the value is missing and must be ignored. An absent name means that
            no value is missing.
    """

    observations: Arrays
    actions: Arrays = field(default_factory=dict)
    exogenous: Arrays = field(default_factory=dict)
    observed: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, arrays in vars(self).items():
            if type(arrays) is not dict:  # nearly all are, and each step of a session makes many
                require_mapping(arrays, group)

    def __repr__(self) -> str:
        return f"History({_sizes(vars(self))})"

    @classmethod
    def stack(cls, histories: Sequence[History], axis: int = 0) -> History:
        """Histories of equal length as one, with a new axis; for example W histories [H, *shape] as [W, H, *shape].

        Args:
            histories: at least one, with the same signals. A missing mask counts as fully observed.
            axis: position of the new axis.
        """
        return cls(
            observations=_stacked([history.observations for history in histories], axis),
            actions=_stacked([history.actions for history in histories], axis),
            exogenous=_stacked([history.exogenous for history in histories], axis),
            observed=_stacked_masks([history.observed for history in histories], axis),
        )

    def map(self, function: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> History:
        """The history with `function` applied to every array; for example `lambda value: value[None]`."""
        return History(**{group: _mapped(arrays, function) for group, arrays in vars(self).items()})

    @property
    def num_worlds(self) -> int:
        """W, for a history with an axis of worlds."""
        return len(next(iter(self.observations.values())))

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Where a signal was observed [W, H], for a history with an axis of worlds; everywhere without a mask."""
        shape = next(iter(self.observations.values())).shape[:2]
        return self.observed[name].astype(bool) if name in self.observed else np.ones(shape, bool)

    def worlds(self, index: slice | Sequence[int] | NDArray[np.generic]) -> History:
        """The worlds of a batch with these indices, or where a mask [W] is True."""
        return self.map(lambda value: value[index])

    def select(self, names: Collection[str]) -> History:
        """The history with only the signals `names`, in this order. Names of other signals are ignored."""
        return History(**{group: _selected(arrays, names) for group, arrays in vars(self).items()})

    def window(self, start: int, stop: int, *, axis: int = 0) -> History:
        """The observations `start` to `stop - 1` and the inputs between them.

        Args:
            start: index of the first observation, from 0.
            stop: index after the last observation, from `start + 1` to H.
            axis: axis of time: 0, or 1 after an axis of W worlds.
        """
        states, inputs = slice(start, stop), slice(start, stop - 1)
        return History(
            observations=_sliced(self.observations, states, axis),
            actions=_sliced(self.actions, inputs, axis),
            exogenous=_sliced(self.exogenous, inputs, axis),
            observed=_sliced(self.observed, states, axis),
        )

    def last(self, length: int, *, axis: int = 0) -> History:
        """The last `length` observations and the inputs between them; everything if there are fewer.

        Args:
            length: at least 1.
            axis: axis of time: 0, or 1 after an axis of W worlds.
        """
        stop = next(iter(self.observations.values())).shape[axis]
        return self.window(max(stop - length, 0), stop, axis=axis)

    def step(self, at: int) -> History:
        """Observation `at` of W worlds and the inputs that lead to it, as `Engine.observe` takes them for an update.

        Args:
            at: index of the observation, from 1.
        """
        inputs = self.window(at - 1, at + 1, axis=1)
        return replace(inputs.window(1, 2, axis=1), actions=inputs.actions, exogenous=inputs.exogenous)


@dataclass(frozen=True, kw_only=True, repr=False)
class Episode:
    """One logged episode.

    Args:
        observations: per signal [T+1, *shape], physical units.
        actions: per signal [T, *shape].
        exogenous: per signal [T, *shape]: known inputs during step t.
        rewards: per signal [T, *shape].
        observed: per observation signal [T+1] bool; an absent name means that no value is missing.
        terminated: whether the last observation is a terminal state.
        truncated: whether a limit ended the episode.
        seed: the reset seed from which a simulator can replay the episode; None if unknown.
        step_s: [T] float32, duration of each step in seconds; None if all took the schema's `step_s`.
    """

    observations: Arrays
    actions: Arrays
    exogenous: Arrays = field(default_factory=dict)
    rewards: Arrays = field(default_factory=dict)
    observed: Arrays = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = True
    seed: int | None = None
    step_s: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for group in _GROUPS:
            if type(getattr(self, group)) is not dict:
                require_mapping(getattr(self, group), group)

    def __repr__(self) -> str:
        sizes = _sizes({group: getattr(self, group) for group in _GROUPS})
        return f"Episode({self.num_steps} steps, {self._end()}; {sizes})"

    def _end(self) -> str:
        return "terminated" if self.terminated else "truncated" if self.truncated else "no end"

    @property
    def num_steps(self) -> int:
        """T, the number of transitions."""
        return len(next(iter(self.observations.values()))) - 1

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Where a signal was observed [T + 1]; everywhere without a mask."""
        return self.observed[name].astype(bool) if name in self.observed else np.ones(self.num_steps + 1, bool)

    def plot(self, schema: Schema | None = None, *, signals: Sequence[str] = ()) -> PlotFigure:
        """A figure of matplotlib: one panel per signal over time, and the images of cameras. Notebooks show it.

        Args:
            schema: gives units, names of components, and the time; None to draw the arrays over steps.
            signals: names of the signals; default is the first 12 and 4 cameras.

        Raises:
            UnknownNameError: there is no such signal.
        """
        from worldline.plots.episode_view import drawn, schema_of_arrays, view_rows
        from worldline.plots.figure import episode_figure
        from worldline.plots.signal_chart import time_axis

        groups = {role: getattr(self, group) for role, group in zip(Role, _GROUPS, strict=False)}
        schema = schema_of_arrays(groups) if schema is None else schema
        view = view_rows(
            "Episode",
            f"{self.num_steps} steps, {self._end()}",
            time_axis(self.num_steps, schema.step_s if self.step_s is None else self.step_s),
            schema,
            [schema[name] for name in signals],
            rows=lambda signal: (
                drawn(groups[signal.role][signal.name]),
                self.mask(signal.name)[: len(groups[signal.role][signal.name])],
            ),
            frame=lambda camera, at: self.observations[camera.name][at] if self.mask(camera.name)[at] else None,
        )
        return episode_figure(view)

    def history(self, at: int | None = None, length: int | None = None) -> History:
        """The `length` observations that end with observation `at`, and the inputs between them.

        Args:
            at: index of the last observation, in [length - 1, T]; None for the last of the episode.
            length: H, at least 1; None for all observations up to `at`.

        Raises:
            InputError: the episode has no such observations.
        """
        stop = (self.num_steps if at is None else at) + 1
        if not 0 <= stop - (stop if length is None else length) < stop <= self.num_steps + 1:
            arguments = f"at is {stop - 1}{'' if length is None else f', length is {length}'}"
            limits = f"Give at from 0 to {self.num_steps}, and length from 1 to at + 1."
            raise InputError(f"{arguments}, but the episode has {self.num_steps + 1} observations. {limits}")
        whole = History(
            observations=self.observations, actions=self.actions, exogenous=self.exogenous, observed=self.observed
        )
        return whole.window(0 if length is None else stop - length, stop)

    def map(self, function: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Episode:
        """The episode with `function` applied to every array, `step_s` included."""
        groups: dict[str, Any] = {group: _mapped(getattr(self, group), function) for group in _GROUPS}
        step_s = None if self.step_s is None else function(self.step_s).astype(np.float32, copy=False)
        return replace(self, **groups, step_s=step_s)

    def select(self, names: Collection[str]) -> Episode:
        """The episode with only the signals `names`, in this order. Names of other signals are ignored."""
        groups: dict[str, Any] = {group: _selected(getattr(self, group), names) for group in _GROUPS}
        return replace(self, **groups)

    def window(self, start: int, stop: int) -> Episode:
        """The observations `start` to `stop - 1` and the steps between them, as an episode.

        A window that starts later has no seed. A window that stops earlier is truncated and not terminated.

        Args:
            start: index of the first observation, from 0.
            stop: index after the last observation, from `start + 1` to T + 1.
        """
        states, steps, at_end = slice(start, stop), slice(start, stop - 1), stop > self.num_steps
        return Episode(
            observations=_sliced(self.observations, states),
            actions=_sliced(self.actions, steps),
            exogenous=_sliced(self.exogenous, steps),
            rewards=_sliced(self.rewards, steps),
            observed=_sliced(self.observed, states),
            terminated=self.terminated and at_end,
            truncated=self.truncated or not at_end,
            seed=None if start else self.seed,
            step_s=None if self.step_s is None else self.step_s[steps],
        )

    def last(self, length: int) -> Episode:
        """The last `length` observations and the steps between them, as an episode; all if there are fewer."""
        return self.window(max(self.num_steps + 1 - length, 0), self.num_steps + 1)


@dataclass(frozen=True, kw_only=True)
class Future:
    """N candidate sequences of T future inputs.

    Args:
        actions: per signal [W, N, T, *shape].
        exogenous: per signal [W, T, *shape]; empty if the schema has none.
    """

    actions: Arrays
    exogenous: Arrays = field(default_factory=dict)


_GROUPS = ("observations", "actions", "exogenous", "rewards", "observed")


def _sizes(groups: Mapping[str, Arrays]) -> str:
    """The shapes of the first arrays of each group without masks: "observations: speed [12, 1]; actions: ..."."""
    texts = []
    for group, arrays in groups.items():
        if arrays and group != "observed":
            shown = [f"{name} {list(np.shape(value))}" for name, value in list(arrays.items())[:4]]
            more = f" and {len(arrays) - len(shown)} more" if len(arrays) > len(shown) else ""
            texts.append(f"{group}: {', '.join(shown)}{more}")
    return "; ".join(texts)


def _mapped(
    arrays: Arrays, function: Callable[[NDArray[np.generic]], NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    return {name: function(value) for name, value in arrays.items()}


def _selected(arrays: Arrays, names: Collection[str]) -> dict[str, NDArray[np.generic]]:
    return {name: arrays[name] for name in names if name in arrays}


def _sliced(arrays: Arrays, part: slice, axis: int = 0) -> dict[str, NDArray[np.generic]]:
    return {name: value[(slice(None),) * axis + (part,)] for name, value in arrays.items()}


def _stacked(parts: Sequence[Arrays], axis: int) -> dict[str, NDArray[np.generic]]:
    return {name: np.stack([part[name] for part in parts], axis) for name in parts[0]}


def _stacked_masks(parts: Sequence[Arrays], axis: int) -> dict[str, NDArray[np.generic]]:
    """A mask that a part lacks is True."""
    shapes = {name: mask.shape for part in parts for name, mask in part.items()}
    return {
        name: np.stack([part.get(name, np.ones(shape, bool)) for part in parts], axis) for name, shape in shapes.items()
    }
