"""A schema from the arrays of some logs, and in words what they could not tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import CONVENTION
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

REWARD_WORDS = ("reward", "return")
EXOGENOUS_WORDS = ("exogenous", "weather", "outdoor", "outside", "ambient", "disturbance", "forecast")
ACTION_WORDS = ("action", "control", "move", "command", "cmd", "actuator", "setpoint", "valve", "motor")
MAX_VALUES = 256
"""Integers above this are taken as measured numbers, not as choices."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What inference needs to know of one array of one episode.

    Args:
        shape: with time in front.
        dtype: of the file.
        low: smallest value of each component (or of the scalar); empty where values were not looked at.
        high: largest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """A guessed schema.

    Args:
        schema: what the arrays suggest.
        unclear: what they could not tell, in full sentences that say what was assumed.
    """

    schema: Schema
    unclear: tuple[str, ...]


def summarise(values: NDArray[np.generic]) -> Summary:
    """The summary of an array with time in front; pictures are not looked into."""
    if values.ndim == 0 or len(values) == 0 or (values.dtype == np.uint8 and values.ndim in (3, 4)):
        return Summary(shape=values.shape, dtype=values.dtype)
    table = values.reshape(len(values), -1).astype(np.float64)
    low, high = table.min(0).tolist(), table.max(0).tolist()
    return Summary(shape=values.shape, dtype=values.dtype, low=tuple(low), high=tuple(high))


def infer_schema(episodes: Mapping[str, Mapping[str, Summary]], step_s: float | None) -> Inferred:
    """The schema that most episodes agree with.

    Roles follow from lengths: arrays of T+1 rows are observations, those of T rows actions, unless their name says
    that they are rewards or exogenous. Kinds follow from dtype and dimensions; bounds of actions are the logged range.

    Args:
        episodes: per file, per array; without masks, end flags, seeds and times. At least one.
        step_s: seconds a step, where something told.

    Raises:
        DataError: in no episode do the arrays have T+1 and T rows.
    """
    steps = {file: _num_steps(arrays) for file, arrays in episodes.items()}
    whole = [(arrays, num) for file, arrays in episodes.items() if (num := steps[file]) is not None]
    if not whole:
        raise _no_lengths(*next(iter(episodes.items())))
    names = Counter(name for arrays, _ in whole for name in arrays)
    signals, unclear = [], [
        "Units are not in the logs: every unit is '?'. Write them into schema.json.",
    ]  # fmt: skip
    if step_s is None:
        unclear.append("The time between two steps is not in the logs (no array is called time): step_s is left empty.")
    for name in (name for name, count in names.items() if 2 * count >= len(whole)):
        seen = [(arrays[name], num) for arrays, num in whole if name in arrays]
        is_observation = Counter(len_of > num for summary, num in seen if (len_of := summary.shape[0])).most_common(1)[
            0
        ][0]
        role, doubt = (Role.OBSERVATION, "") if is_observation else role_of_input(name)
        signal, doubts = infer_signal(name, role, [summary for summary, _ in seen])
        signals.append(signal)
        unclear += [f"{name}: {sentence}" for sentence in (doubt, *doubts) if sentence]
    order = list(Role)
    signals.sort(key=lambda signal: order.index(signal.role))
    return Inferred(schema=Schema(signals=tuple(signals), step_s=step_s), unclear=tuple(unclear))


def _num_steps(arrays: Mapping[str, Summary]) -> int | None:
    """T where the arrays have exactly T+1 and T rows, T at least 1; else None."""
    lengths = {summary.shape[0] if summary.shape else 0 for summary in arrays.values()}
    fits = len(lengths) == 2 and min(lengths) >= 1 and max(lengths) - min(lengths) == 1
    return min(lengths) if fits else None


def _no_lengths(file: str, arrays: Mapping[str, Summary]) -> DataError:
    by_length: dict[int, list[str]] = {}
    for name, summary in arrays.items():
        by_length.setdefault(summary.shape[0] if summary.shape else 0, []).append(name)
    listed = "; ".join(f"{length} rows: {', '.join(names)}" for length, names in sorted(by_length.items()))
    if not arrays:
        return DataError("it holds no array of a signal", fix="Save one array for each signal.", file=file)
    if len(by_length) == 1:
        problem = f"all arrays have the same length ({listed}), so observations and actions cannot be told apart"
        fix = "Add the observation after the last action, or drop the last action, so that lengths are T+1 and T."
    else:
        problem = f"the arrays do not have T+1 and T rows ({listed})"
        fix = "Repeat constants for each step, leave out what is no signal, or write a schema.json beside the logs."
    return DataError(f"{problem}: {CONVENTION}", fix=fix, file=file)


def role_of_column(name: str) -> Role:
    """The role of an array with a row for each observation, as its name tells: an observation unless it says more."""
    role, doubt = role_of_input(name)
    return Role.OBSERVATION if role is Role.ACTION and doubt else role


def role_of_input(name: str) -> tuple[Role, str]:
    """The role of an array of T rows, and a sentence where it is a guess."""
    word = name.lower()
    if any(part in word for part in REWARD_WORDS):
        return Role.REWARD, ""
    if any(part in word for part in EXOGENOUS_WORDS):
        return Role.EXOGENOUS, "taken as exogenous (known but not chosen) because of its name."
    if any(part in word for part in ACTION_WORDS) or word in ("a", "u", "act"):
        return Role.ACTION, ""
    return Role.ACTION, "taken as an action; if nobody chooses it, give it the role exogenous."


def infer_signal(name: str, role: Role, seen: Sequence[Summary]) -> tuple[Signal, list[str]]:
    """The signal that most of the summaries agree with, and what is not sure about it, as ends of a sentence.

    Args:
        name: of the signal.
        role: of the signal.
        seen: one summary an episode, at least one.
    """
    layout = Counter((summary.shape[1:], summary.dtype) for summary in seen).most_common(1)[0][0]
    shape, dtype = layout
    alike = [summary for summary in seen if (summary.shape[1:], summary.dtype) == layout]
    if dtype == np.uint8 and len(shape) in (2, 3):
        doubts = []
        if len(shape) == 2:
            doubts.append(f"taken as a grey picture of {shape[0]} by {shape[1]} pixels.")
        elif shape[2] not in (1, 3, 4):
            doubts.append(f"taken as a picture with {shape[2]} channels; channels come last.")
        return Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*shape, 1)[:3], unit="1"), doubts
    low = np.array([summary.low for summary in alike]).min(0)
    high = np.array([summary.high for summary in alike]).max(0)
    whole = dtype.kind in "iub"
    if whole and not shape and low[0] >= 0 and high[0] < MAX_VALUES:
        num_values = max(int(high[0]) + 1, 2)
        doubt = f"taken as a choice among {num_values} values, the largest that was logged being {int(high[0])}."
        return Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=num_values), [doubt]
    doubts = ["its integers are taken as measured numbers."] if whole else []
    if len(shape) > 1:
        doubts.append(f"its shape {shape} is laid out as one vector.")
    bounds: tuple[tuple[float, ...] | None, tuple[float, ...] | None] = (None, None)
    if role is Role.ACTION and np.isfinite([low, high]).all():
        bounds = tuple(low.tolist()), tuple(high.tolist())
        doubts.append("its bounds are the range that was logged; widen them if the actuator can do more.")
    size = max(1, int(np.prod(shape)))
    signal = Signal(
        name=name,
        role=role,
        kind=Kind.VECTOR,
        shape=(size,),
        unit="?",
        low=bounds[0],
        high=bounds[1],
        precision="float64" if dtype == np.float64 or (whole and dtype.itemsize > 2) else "float32",
    )
    return signal, doubts
