"""Conversion of logged arrays to an `Episode` with the shapes and dtypes of the schema, and scaling of its images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.checks import arrays_of, check_episode, grouped, raise_errors, with_values
from worldline.episode import Arrays, Episode
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal

Array = NDArray[np.generic]


def to_episode(
    arrays: Arrays,
    schema: Schema,
    *,
    observed: Arrays | None = None,
    terminated: bool = False,
    truncated: bool = True,
    seed: int | None = None,
    step_s: NDArray[np.float32] | None = None,
) -> Episode:
    """The episode in `arrays`, grouped by role and converted to the dtypes of the schema.

    Arrays that do not fit the schema are not converted; `check_episode` reports them.

    Args:
        arrays: by signal name, T+1 rows of observations and T rows of the others; unknown names are ignored.
        schema: of the episode.
        observed: see `Episode`.
        terminated: see `Episode`.
        truncated: see `Episode`.
        seed: see `Episode`.
        step_s: see `Episode`.
    """
    known = (signal for signal in schema.signals if signal.name in arrays)
    return Episode(
        **grouped(known, lambda signal: convert(arrays[signal.name], signal)),
        observed=observed or {},
        terminated=terminated,
        truncated=truncated,
        seed=seed,
        step_s=step_s,
    )


def steps_s(times: Array, step_s: float | None) -> NDArray[np.float32] | None:
    """Duration of each step in seconds, [T]; None if all are within 1 % of the schema's `step_s`.

    Args:
        times: [T+1] seconds.
        step_s: of the schema; None if it has none.
    """
    gaps = np.diff(times.reshape(-1).astype(np.float64))
    if step_s is not None and (np.abs(gaps - step_s) <= 0.01 * step_s).all():
        return None
    return gaps.astype(np.float32)


def with_moved_actions(episode: Episode, lag: int) -> Episode:
    """The episode with action t+lag in the place of action t, without the steps that have no action then.

    Args:
        episode: of more than `lag` steps, as logged.
        lag: steps by which actions are logged too late, above 0: the last `lag` observations are dropped. Below 0 if
            they are logged too early: the first ones are dropped.
    """
    kept = episode.window(max(-lag, 0), episode.num_steps + 1 - max(lag, 0))
    moved = slice(max(lag, 0), episode.num_steps + min(lag, 0))
    return replace(kept, actions={name: values[moved] for name, values in episode.actions.items()})


def convert(values: Array, signal: Signal) -> Array:
    """`values` in the shape and dtype of `signal`, or unchanged if that would do more than round them.

    Args:
        values: [rows, ...] as logged.
        signal: gives the wanted shape and dtype.
    """
    if signal.kind is Kind.IMAGE and signal.shape[2] == 1 and values.ndim == 3:
        return values[..., None]
    shape = values.shape[1:]
    same = (*shape, 1) == signal.shape if signal.kind is Kind.IMAGE else np.prod(shape) == np.prod(signal.shape)
    if values.ndim and same and shape != signal.shape:
        values = values.reshape(len(values), *signal.shape)
    if signal.kind is Kind.DISCRETE and values.dtype.kind in "iub":
        return values.astype(np.int64)
    if signal.kind is Kind.VECTOR and values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values that overflow become infinite, which the checks report
            return values.astype(signal.dtype)
    if signal.kind is Kind.VECTOR and values.dtype.kind in "iub":
        exact = values.astype(signal.dtype)
        with np.errstate(invalid="ignore"):  # a value out of range differs after the round trip, as intended
            return exact if np.array_equal(exact.astype(values.dtype), values) else values
    return values


def refitted(episode: Episode, old: Schema, new: Schema, *, file: Path, number: int) -> Episode:
    """The episode with other roles and kinds of its signals, checked.

    A signal that becomes an observation has no value after the last step: it is marked as missing there. A signal that
    was an observation loses its last row.

    Args:
        episode: that fits `old`.
        old: schema of the episode.
        new: with some of its signals, in any order.
        file: for errors.
        number: of the episode, for errors.

    Raises:
        DataError: an observation with missing values would become an input, or a value does not fit the new schema.
    """
    observed, arrays = dict(episode.observed), dict[str, Array]()
    for signal in new.signals:
        before, mask = old[signal.name], observed.get(signal.name)
        values: Array = arrays_of(episode, before.role)[signal.name]
        failed = partial(DataError, file=file, episode=number, signal=signal.name)
        was_seen, is_seen = before.role is Role.OBSERVATION, signal.role is Role.OBSERVATION
        if was_seen and not is_seen:
            values, _ = values[:-1], observed.pop(signal.name, None)
            if mask is not None and not mask[:-1].all():
                fix = f"It must stay an observation, because inputs (here: {signal.role}) must be known at every step."
                raise failed("it has missing values", fix=fix, step=int(np.argmin(mask[:-1])))
        elif is_seen and not was_seen:
            values = np.concatenate([values, values[-1:]])
            observed[signal.name] = np.arange(len(values)) < len(values) - 1
        if signal.kind is Kind.DISCRETE and before.kind is Kind.VECTOR:
            if (values % 1 != 0).any():
                problem = f"it has the value {values[values % 1 != 0][0]:g}"
                raise failed(problem, fix="Only whole numbers can be discrete.")
            values = values.astype(np.int64)
        arrays[signal.name] = convert(values, signal)
    fitted = replace(episode, **grouped(new.signals, lambda signal: arrays[signal.name]), observed=observed)
    raise_errors(check_episode(fitted, new, file=str(file), number=number))
    return fitted


def layout_of(schema: Schema) -> list[tuple[str, bool, str, tuple[int, ...]]]:
    """What blocks and digests of a store depend on: names in order, rows per episode, dtypes and shapes."""
    return [(signal.name, signal.role is Role.OBSERVATION, signal.dtype, signal.shape) for signal in schema.signals]


def bounds_of(schema: Schema) -> list[tuple[object, ...]]:
    """The limits of the values of each signal."""
    return [(signal.low, signal.high, signal.num_values) for signal in schema.signals]


def scaled_schema(schema: Schema, size: tuple[int, int]) -> Schema:
    """The schema with every image signal in `size` (height, width).

    Raises:
        InputError: a side is below 1 pixel.
    """
    if min(size) < 1:
        raise InputError(f"size is {size[0]}x{size[1]}. Height and width must be at least 1 pixel.")
    signals = (replace(s, shape=(*size, s.shape[2])) if s.kind is Kind.IMAGE else s for s in schema.signals)
    return replace(schema, signals=tuple(signals))


def scale(episode: Episode, schema: Schema) -> Episode:
    """The episode with its images scaled to the sizes in `schema`; other signals are unchanged."""
    shapes = {signal.name: signal.shape for signal in schema.signals if signal.kind is Kind.IMAGE}
    return with_values(episode, lambda name, values: _scale(values, shapes[name]) if name in shapes else values)


def _scale(pictures: Array, shape: tuple[int, ...]) -> Array:
    """Images [rows, height, width, channels] in another size; other arrays, and images that fit, are unchanged."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or 0 in pictures.shape or pictures.shape[1:] == shape:
        return pictures
    scaled = np.empty((len(pictures), *shape[:2], pictures.shape[3]), np.uint8)
    for picture, out in zip(pictures.astype(np.uint8, copy=False), scaled, strict=True):
        for channel in range(out.shape[2]):  # one by one, because Pillow has no images of two or five channels
            plane = Image.fromarray(np.ascontiguousarray(picture[:, :, channel]))
            out[:, :, channel] = np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.BOX))
    return scaled
