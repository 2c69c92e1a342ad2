"""Validation of the arguments of a world, and their common form: arrays with a leading W axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History, require_mapping
from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.formatting import plural
from worldline.planning.base import Goal
from worldline.schema import Kind, Schema, Signal
from worldline.world.logged_range import MAX_EXCESS, Ranges, check_magnitudes

Array = NDArray[np.generic]

_ROUNDING = 1e-5  # float32 actions may exceed a float64 bound by rounding
_NUMBERS = {Kind.VECTOR: "fiu", Kind.IMAGE: "u", Kind.DISCRETE: "iu"}
_WANTED = {Kind.VECTOR: "numbers", Kind.IMAGE: "uint8", Kind.DISCRETE: "integers"}


def check_history(schema: Schema, history: History, ranges: Ranges | None = None) -> tuple[History, bool]:
    """The history with a W axis in the schema's dtypes, 0 where missing; and whether it had no W axis.

    Observation signals may be missing.

    Args:
        schema: of the signals.
        history: of one world or W worlds.
        ranges: logged ranges, for `check_magnitudes`; None to accept every finite value.

    Raises:
        InputError: an array has an unknown name, the wrong shape or dtype, or is not finite.
        UnsupportedError: as in `check_magnitudes`.
    """
    if not history.observations:
        names = ", ".join(signal.name for signal in schema.observations)
        raise InputError(f"the history has no observations. Give at least one observation of each signal: {names}.")
    name, value = next(iter(history.observations.items()))
    signal = _signal(schema.observations, name, "observation")
    shape = np.shape(value)
    lead = shape[: len(shape) - len(signal.shape)]
    if len(lead) not in (1, 2) or 0 in lead:
        axis = " Add an axis: values[..., None]." if len(shape) == 1 and signal.shape == (1,) else ""
        raise InputError(
            f"observation {name!r}: expected shape [H, *shape] for one world or [W, H, *shape] for a batch, with "
            f"*shape {signal.shape} and at least one world and one observation, got {shape}.{axis}"
        )
    before = (*lead[:-1], lead[-1] - 1)
    observed, observations = dict[str, NDArray[np.bool_]](), dict[str, Array]()
    for name, mask in history.observed.items():
        _signal(schema.observations, name, "observed mask")
        mask = np.asarray(mask)
        if mask.shape != lead or mask.dtype.kind not in "biu":
            raise InputError(f"observed mask {name!r}: expected bool{list(lead)}, got {mask.dtype}{list(mask.shape)}.")
        observed[name] = mask.astype(bool)
    for name, value in history.observations.items():
        signal = _signal(schema.observations, name, "observation")
        observations[name] = check_values(signal, value, lead, "observation", observed.get(name))
    checked = History(
        observations=observations,
        actions=check_group(schema.actions, history.actions, before, "past action"),
        exogenous=check_group(schema.exogenous, history.exogenous, before, "past exogenous"),
        observed=observed,
    )
    if ranges is not None:
        check_magnitudes(schema, ranges, checked)
    return add_world_axis(checked) if len(lead) == 1 else checked, len(lead) == 1


def check_group(signals: Sequence[Signal], arrays: Arrays, leading: tuple[int, ...], role: str) -> dict[str, Array]:
    """The arrays of all `signals`, in the schema's dtypes.

    Args:
        signals: all are needed, and no other is allowed.
        arrays: per signal [*leading, *shape].
        leading: the expected sizes.
        role: for messages, such as "action".

    Raises:
        InputError: an array is missing, unknown, or has the wrong shape, dtype or values.
    """
    require_mapping(arrays, role, signals[0].name if signals else "NAME")
    for name in arrays:
        _signal(signals, name, role)
    checked = dict[str, Array]()
    for signal in signals:
        expected = (*leading, *signal.shape)
        # A history of one observation has no steps, so its inputs may be left out.
        value = arrays.get(signal.name, np.zeros(expected, signal.dtype) if leading[-1:] == (0,) else None)
        if value is None:
            raise InputError(f"{role} {signal.name!r} is missing. Add an array of shape {expected} [{signal.unit}].")
        checked[signal.name] = check_values(signal, value, leading, role, None)
    return checked


def check_actions(
    signals: Sequence[Signal], actions: Arrays, leading: tuple[int | None, ...], *, clip: bool = False
) -> dict[str, Array]:
    """The actions, inside their bounds or at most `MAX_EXCESS` of the range outside of them.

    Args:
        signals: the action signals.
        actions: per signal [*leading, *shape].
        leading: the expected sizes. None accepts any size of at least 1, the same for all signals.
        clip: whether to clip values to their bounds.

    Raises:
        InputError: as in `check_group`; or a value is further outside its bounds and `clip` is False.
    """
    require_mapping(actions, "actions", signals[0].name if signals else "NAME")
    sizes = next((np.shape(actions[signal.name]) for signal in signals if signal.name in actions), ())
    # `check_values` reports a wrong number of axes, and an axis of size 0 where 1 is expected.
    free = [max(1, sizes[i]) if i < len(sizes) else 1 for i in range(len(leading))]
    expected = tuple(own if size is None else size for size, own in zip(leading, free, strict=True))
    checked = check_group(signals, actions, expected, "action")
    for signal in signals:
        value = checked[signal.name]
        if clip and (signal.low is not None or signal.high is not None):
            checked[signal.name] = np.clip(value, signal.low, signal.high).astype(signal.dtype)
        elif not clip:
            _check_bounds(signal, value)
    return checked


def _check_bounds(signal: Signal, value: Array) -> None:
    """Raises if an action [*leading, n] is further outside its bounds than `MAX_EXCESS`."""
    span = np.subtract(signal.high, signal.low) if signal.low and signal.high else np.zeros(signal.size)
    slack = MAX_EXCESS * np.where(np.isfinite(span), span, 0.0)
    for bound, sign, word in ((signal.low, -1.0, "below"), (signal.high, 1.0, "above")):
        if bound is None:
            continue
        edge = np.asarray(bound, dtype=np.float64)
        excess = sign * (value.astype(np.float64) - edge) - _ROUNDING * (1 + np.abs(edge)) - slack
        if np.any(excess > 0):
            place = tuple(int(i) for i in np.argwhere(excess > 0)[0])
            raise InputError(
                f"action {signal.name!r} is {value[place]:.6g} at {list(place)}, {word} its bound "
                f"{edge[place[-1]]:.6g} {signal.unit}. Clip it to [{signal.low}, {signal.high}]; score and plan do "
                f"so with clip=True. Up to {MAX_EXCESS:.0%} of the range outside is accepted, with less trust."
            )


def check_values(signal: Signal, value: Array, leading: tuple[int, ...], role: str, observed: Array | None) -> Array:
    """One signal's array in the schema's dtype, 0 where it was not observed.

    Raises:
        InputError: the array has the wrong shape or dtype, is not finite, or has a value outside its range.
    """
    value, where = np.asarray(value), f"{role} {signal.name!r}"
    expected = (*leading, *signal.shape)
    if value.shape != expected:
        axis = " Add an axis: values[..., None]." if (*value.shape, 1) == expected else ""
        raise InputError(f"{where}: expected shape {expected}, got {value.shape}.{axis}")
    if value.dtype.kind not in _NUMBERS[signal.kind] or (signal.kind is Kind.IMAGE and value.dtype != np.uint8):
        raise InputError(f"{where} has dtype {value.dtype}. Convert it to {_WANTED[signal.kind]} ({signal.dtype}).")
    if observed is not None and not observed.all():
        kept = observed.reshape(observed.shape + (1,) * len(signal.shape))
        value = np.where(kept, value, np.zeros((), value.dtype))
    if (num := signal.num_values) is not None and bool(np.any(np.clip(value, 0, num - 1) != value)):
        raise InputError(f"{where}: expected values in [0, {num - 1}], got {value.min()} to {value.max()}.")
    if value.dtype != signal.dtype:
        with np.errstate(over="ignore"):  # a number beyond the range of the dtype becomes infinite
            value = value.astype(signal.dtype)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        place = [int(i) for i in np.argwhere(~np.isfinite(value))[0]]
        fix = "Mark it as missing in `observed`, or fill it." if role == "observation" else "Replace it."
        raise InputError(f"{where} is {value[tuple(place)]} at {place}. {fix}")
    return value


def check_goal(schema: Schema, goal: Goal, leading: tuple[int, ...]) -> dict[str, Array]:
    """The targets, per signal [W, *shape].

    Raises:
        InputError: the goal has no target, cost or reward, or a target has the wrong name or shape. Also if a
            tolerance, discount or risk is out of range, or a tolerance has no target.
    """
    for group, values in (("targets", goal.targets), ("tolerance", goal.tolerance)):
        require_mapping(values, group, schema.observations[0].name)
    if not (goal.targets or goal.costs or goal.reward):
        raise InputError(
            "the goal has no target, no cost and no reward. Add a target value for at least one observation signal, a "
            "cost, or reward=True."
        )
    for name, share in (("discount", goal.discount), ("risk", goal.risk)):
        if not 0 < share <= 1:
            raise InputError(f"the goal's {name} is {share}. It must be above 0 and at most 1.")
    if goal.reward and goal.risk < 1:
        raise InputError(
            f"the goal's risk is {goal.risk}, but a predicted reward is a mean over samples. Set risk to 1, or leave "
            "out the reward."
        )
    for name, tolerance in goal.tolerance.items():
        if name not in goal.targets or not (np.isfinite(tolerance) and tolerance > 0):
            raise InputError(
                f"the tolerance of {name!r} is {tolerance}. Give a number above 0 for one of the targets: "
                f"{', '.join(goal.targets)}."
            )
    targets = dict[str, Array]()
    for name, target in goal.targets.items():
        signal = _signal(schema.observations, name, "target")
        value = np.reshape(target, 1) if np.ndim(target) == 0 and signal.shape == (1,) else np.asarray(target)
        targets[name] = check_values(signal, value, leading, "target", None)
    return targets if leading else {name: value[None] for name, value in targets.items()}


def check_episode(schema: Schema, episode: Episode, ranges: Ranges | None = None) -> Episode:
    """The episode in the schema's dtypes; 0 where a value was not observed. Rewards are left out.

    Raises:
        InputError: as in `check_history`, which describes the arguments.
        UnsupportedError: as in `check_magnitudes`.
    """
    for name, value in episode.observations.items():
        signal = _signal(schema.observations, name, "observation")
        if np.ndim(value) != 1 + len(signal.shape):
            raise InputError(
                f"observation {name!r}: expected shape [T+1, *shape] of one episode, with *shape {signal.shape}, got "
                f"{np.shape(value)}."
            )
    steps = History(
        observations=episode.observations,
        actions={s.name: episode.actions[s.name] for s in schema.actions if s.name in episode.actions},
        exogenous={s.name: episode.exogenous[s.name] for s in schema.exogenous if s.name in episode.exogenous},
        observed=episode.observed,
    )
    checked, _ = check_history(schema, steps, ranges)
    return replace(episode, **vars(checked.map(lambda value: value[0])), rewards={}, step_s=None)


def check_candidates(card: Card, plans: Arrays, leading: tuple[int, ...]) -> None:
    """Checks the number of plans, per action signal [*leading, N, T, *shape].

    Raises:
        UnsupportedError: there are more than `Card.max_candidates`.
    """
    for value in plans.values():
        check_limit(math.prod(value.shape[: len(leading) + 1]), card.max_candidates, "candidate", "max_candidates")


def check_limit(count: int, most: int, noun: str, name: str) -> None:
    """Checks a size of a call against the card.

    Raises:
        UnsupportedError: it exceeds the limit.
    """
    if count > most:
        raise UnsupportedError(
            f"{plural(count, noun)} in one call, but the card allows {most} ({name}). Split the call."
        )


def add_world_axis(history: History) -> History:
    """The history of one world as a batch of one."""
    return history.map(lambda value: value[None])


def _signal(signals: Sequence[Signal], name: str, role: str) -> Signal:
    for signal in signals:
        if signal.name == name:
            return signal
    raise InputError(f"{role}: {UnknownNameError('signal', name, [signal.name for signal in signals])}")
