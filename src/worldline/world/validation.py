"""What a world refuses at its door, and the one form that it works with behind it: arrays with W worlds in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Goal
from worldline.schema import Kind, Schema, Signal

Array = NDArray[np.generic]

_ROUNDING = 1e-5
_NUMBERS = {Kind.VECTOR: "fiu", Kind.IMAGE: "u", Kind.DISCRETE: "iu"}
_WANTED = {Kind.VECTOR: "numbers", Kind.IMAGE: "uint8", Kind.DISCRETE: "integers"}


@dataclass(frozen=True, kw_only=True)
class ValidatedHistory:
    """A checked history.

    Args:
        history: always with the W axis; missing values are 0.
        single: whether it came without one, so that results go back without one.
        num_worlds: W.
    """

    history: History
    single: bool
    num_worlds: int

    @property
    def leading(self) -> tuple[int, ...]:
        """What stands in front of every other argument's axes: (), or (W,)."""
        return () if self.single else (self.num_worlds,)


def check_history(schema: Schema, history: History) -> ValidatedHistory:
    """The history with a W axis, in the schema's dtypes. Observation signals may be left out where the engine allows.

    Raises:
        InputError: names the signal, what is wrong, and what to do.
    """
    if not history.observations:
        names = ", ".join(signal.name for signal in schema.observations)
        raise InputError(f"the history has no observations. Give at least one observation of each signal: {names}.")
    name, value = next(iter(history.observations.items()))
    signal, axes = _signal(schema.observations, name, "observation"), np.ndim(value)
    extra = axes - len(signal.shape)
    if extra not in (1, 2):
        raise InputError(
            f"observation {name!r} has shape {np.shape(value)}. Give [H, *shape] for one world or [W, H, *shape] for "
            f"a batch, with *shape {signal.shape}."
        )
    leading = np.shape(value)[:extra]
    if 0 in leading:
        raise InputError(f"observation {name!r} has shape {np.shape(value)}. Give at least one world and observation.")
    before = (*leading[:-1], leading[-1] - 1)
    observed = _masks(schema, history, leading)
    observations = {
        name: check_values(
            _signal(schema.observations, name, "observation"), value, leading, "observation", observed.get(name)
        )
        for name, value in history.observations.items()
    }
    checked = History(
        observations=observations,
        actions=check_group(schema.actions, history.actions, before, "past action"),
        exogenous=check_group(schema.exogenous, history.exogenous, before, "past exogenous"),
        observed=observed,
    )
    single = extra == 1
    return ValidatedHistory(
        history=add_world_axis(checked) if single else checked, single=single, num_worlds=1 if single else leading[0]
    )


def check_group(signals: Sequence[Signal], arrays: Arrays, leading: tuple[int, ...], role: str) -> dict[str, Array]:
    """The arrays of all `signals`, in the schema's dtypes.

    Args:
        signals: all are needed, and no other is allowed.
        arrays: per signal [*leading, *shape].
        leading: the sizes that are due.
        role: for messages, such as "action".

    Raises:
        InputError: names the signal, what is wrong, and what to do.
    """
    for name in arrays:
        _signal(signals, name, role)
    for signal in signals:
        if signal.name not in arrays:
            due = (*leading, *signal.shape)
            raise InputError(f"{role} {signal.name!r} is missing. Add an array of shape {due} [{signal.unit}].")
    return {s.name: check_values(s, arrays[s.name], leading, role, None) for s in signals}


def check_actions(signals: Sequence[Signal], actions: Arrays, leading: tuple[int | None, ...]) -> dict[str, Array]:
    """The actions, inside their bounds.

    Args:
        signals: the action signals.
        actions: per signal [*leading, *shape].
        leading: the sizes that are due; None where any will do (the same for all signals, at least 1).

    Raises:
        InputError: names the signal, what is wrong, and what to do.
    """
    shape: tuple[int, ...] = ()
    for signal in signals:
        if signal.name in actions:
            shape = np.shape(actions[signal.name])[: len(leading)]
            break
    due = tuple(
        max(1, shape[i]) if size is None and i < len(shape) else size or 1 for i, size in enumerate(leading)
    )  # a wrong number of axes is reported by check_values, against this
    checked = check_group(signals, actions, due, "action")
    for signal in signals:
        for bound, sign, word in ((signal.low, -1.0, "below"), (signal.high, 1.0, "above")):
            if bound is None:
                continue
            edge = np.asarray(bound, dtype=np.float64)
            excess = sign * (checked[signal.name].astype(np.float64) - edge) - _ROUNDING * (1 + np.abs(edge))
            if np.any(excess > 0):
                place = tuple(int(i) for i in np.argwhere(excess > 0)[0])
                raise InputError(
                    f"action {signal.name!r} is {checked[signal.name][place]:.6g} at {list(place)}, {word} its bound "
                    f"{edge[place[-1]]:.6g} {signal.unit}. Clip it to [{signal.low}, {signal.high}]."
                )
    return checked


def check_values(
    signal: Signal, value: Array, leading: tuple[int, ...], role: str, observed: Array | None
) -> NDArray[np.generic]:
    """One signal's array in the schema's dtype, 0 where it was not observed.

    Raises:
        InputError: names the signal, what is wrong, and what to do.
    """
    value, where = np.asarray(value), f"{role} {signal.name!r}"
    due = (*leading, *signal.shape)
    if value.shape != due:
        raise InputError(f"{where} has shape {value.shape}. Give it shape {due}.")
    if value.dtype.kind not in _NUMBERS[signal.kind] or (signal.kind is Kind.IMAGE and value.dtype != np.uint8):
        raise InputError(f"{where} has dtype {value.dtype}. Convert it to {_WANTED[signal.kind]} ({signal.dtype}).")
    if observed is not None and not observed.all():
        kept = observed.reshape(observed.shape + (1,) * len(signal.shape))
        value = np.where(kept, value, np.zeros((), value.dtype))
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        place = [int(i) for i in np.argwhere(~np.isfinite(value))[0]]
        fix = "Mark it as missing in `observed`, or fill it." if role == "observation" else "Replace it."
        raise InputError(f"{where} is {value[tuple(place)]} at {place}. {fix}")
    if signal.num_values is not None and bool(np.any(np.clip(value, 0, signal.num_values - 1) != value)):
        raise InputError(
            f"{where} holds {value.min()} to {value.max()}. Its values lie in [0, {signal.num_values - 1}]."
        )
    return value.astype(signal.dtype, copy=False)


def check_goal(schema: Schema, goal: Goal, leading: tuple[int, ...]) -> dict[str, Array]:
    """The targets, per signal [W, *shape].

    Raises:
        InputError: no target and no cost, a target that is no observation signal or has another shape, or a
            tolerance, discount or risk out of range or a tolerance that belongs to nothing.
    """
    if not goal.targets and not goal.costs:
        raise InputError(
            "the goal has no target and no cost. Name at least one observation signal and the value that it should "
            "have, or add a cost."
        )
    for name, share in (("discount", goal.discount), ("risk", goal.risk)):
        if not 0 < share <= 1:
            raise InputError(f"the goal's {name} is {share}. It must be above 0 and at most 1.")
    targets = {
        name: check_values(_signal(schema.observations, name, "target"), value, leading, "target", None)
        for name, value in goal.targets.items()
    }
    for name, tolerance in goal.tolerance.items():
        if name not in targets:
            raise InputError(f"tolerance for {name!r}, which is no target. Targets: {', '.join(targets)}.")
        if not (np.isfinite(tolerance) and tolerance > 0):
            raise InputError(f"the tolerance of {name!r} is {tolerance}. Give a number above 0.")
    return targets if leading else {name: value[None] for name, value in targets.items()}


def check_episode(schema: Schema, episode: Episode) -> Episode:
    """The episode in the schema's dtypes; 0 where a value was not observed. Rewards are left out.

    Raises:
        InputError: names the signal, what is wrong, and what to do.
    """
    for name, value in episode.observations.items():
        signal = _signal(schema.observations, name, "observation")
        if np.ndim(value) != 1 + len(signal.shape):
            raise InputError(
                f"observation {name!r} has shape {np.shape(value)}. Give one episode: [T+1, *shape] with *shape "
                f"{signal.shape}."
            )
    whole = History(
        observations=episode.observations,
        actions={s.name: episode.actions[s.name] for s in schema.actions if s.name in episode.actions},
        exogenous={s.name: episode.exogenous[s.name] for s in schema.exogenous if s.name in episode.exogenous},
        observed=episode.observed,
    )
    present = check_history(schema, whole)
    checked = {
        group: {name: value[0] for name, value in arrays.items()} for group, arrays in vars(present.history).items()
    }
    return Episode(
        observations=checked["observations"],
        actions=checked["actions"],
        exogenous=checked["exogenous"],
        observed=checked["observed"],
        terminated=episode.terminated,
        truncated=episode.truncated,
        seed=episode.seed,
    )


def add_world_axis(history: History) -> History:
    """`history` of one world as a batch of one."""
    return History(
        observations={name: value[None] for name, value in history.observations.items()},
        actions={name: value[None] for name, value in history.actions.items()},
        exogenous={name: value[None] for name, value in history.exogenous.items()},
        observed={name: value[None] for name, value in history.observed.items()},
    )


def _masks(schema: Schema, history: History, leading: tuple[int, ...]) -> Mapping[str, NDArray[np.bool_]]:
    masks = {}
    for name, mask in history.observed.items():
        _signal(schema.observations, name, "observed mask")
        mask = np.asarray(mask)
        if mask.shape != leading or mask.dtype.kind not in "biu":
            raise InputError(f"observed mask {name!r} is {mask.dtype}{list(mask.shape)}. Give bool{list(leading)}.")
        masks[name] = mask.astype(bool)
    return masks


def _signal(signals: Sequence[Signal], name: str, role: str) -> Signal:
    for signal in signals:
        if signal.name == name:
            return signal
    raise InputError(f"{role}: {UnknownNameError('signal', name, [signal.name for signal in signals])}")
