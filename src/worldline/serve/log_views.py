"""What callers see of logs: episodes, their values as curves, and their pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.checks import grouped
from worldline.data.index import Entry
from worldline.data.store import Store
from worldline.data.store_plot import frame_of
from worldline.errors import InputError
from worldline.plots.images import colours, png, thumbnail
from worldline.plots.signal_chart import elapsed_s
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.problems import NotFoundError

MAX_POINTS: Final = 5000
"""Rows of a curve in one answer."""
MAX_EPISODES: Final = 10_000
"""Episodes in one answer."""
MAX_FRAMES: Final = 64
"""Pictures in one answer."""
MAX_HEIGHT: Final = 1024
"""Height of pictures side by side."""

_MAX_VALUES: Final = 2_000_000
_MAX_SOURCE: Final = 200
_MAX_WIDTH: Final = 65_000  # of a JPEG, in pixels
_CHUNK_BYTES: Final = 2**24
_GREY: Final = 128


@final
@dataclass(frozen=True, kw_only=True)
class LogList:
    """The logs of the service.

    Args:
        logs: names, sorted.
    """

    logs: tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True)
class LogView:
    """A log.

    Args:
        name: in URLs.
        schema: the signals.
        num_episodes: number of episodes.
        num_steps: of all episodes together.
    """

    name: str
    schema: Schema
    num_episodes: int
    num_steps: int


@final
@dataclass(frozen=True, kw_only=True)
class EpisodeSummary:
    """An episode in short.

    Args:
        number: in the log, from 0.
        num_steps: number of steps, one less than observations.
        ending: "terminated", "truncated" or empty.
        source: origin of the episode, such as its file; empty if unknown.
    """

    number: int
    num_steps: int
    ending: str
    source: str


@final
@dataclass(frozen=True, kw_only=True)
class EpisodeList:
    """Some episodes of a log.

    Args:
        total: number of episodes of the log.
        episodes: in the order of the log.
    """

    total: int
    episodes: tuple[EpisodeSummary, ...]


@final
@dataclass(frozen=True, kw_only=True)
class EpisodeCurves:
    """The values of an episode in rows, without images. null is a missing value.

    Each row is a step, if all steps fit. Otherwise two rows per part of the episode hold the minimum and the maximum
    of each component in it.

    Args:
        number: of the episode in the log, from 0.
        num_steps: of the whole episode.
        first: first observation.
        last: last observation.
        step_s: seconds of a step; null if unknown or if steps differ.
        steps: [rows] number of the observation, increasing.
        times: [rows] seconds since the start of the episode; null unless steps differ.
        observations: per signal [rows, *shape].
        actions: per signal [rows, *shape], that lead from this observation to the next; null after the last action.
        exogenous: per signal [rows, *shape], like actions.
        reward: per signal [rows, *shape], like actions.
    """

    number: int
    num_steps: int
    first: int
    last: int
    step_s: float | None
    steps: NDArray[np.integer]
    times: NDArray[np.floating] | None
    observations: Mapping[str, NDArray[np.floating]]
    actions: Mapping[str, NDArray[np.floating]]
    exogenous: Mapping[str, NDArray[np.floating]]
    reward: Mapping[str, NDArray[np.floating]]


def view_log(name: str, store: Store) -> LogView:
    """A log in short."""
    return LogView(name=name, schema=store.schema, num_episodes=len(store), num_steps=int(store.num_steps.sum()))


def list_episodes(store: Store, offset: int, limit: int) -> EpisodeList:
    """The episodes from number `offset` on, at most `limit`."""
    entries = enumerate(store.entries(offset, offset + limit), offset)
    return EpisodeList(total=len(store), episodes=tuple(_summary(number, entry) for number, entry in entries))


def _summary(number: int, entry: Entry) -> EpisodeSummary:
    ending = "terminated" if entry.terminated else "truncated" if entry.truncated else ""
    # The origin in one short line: the values, and their keys unless that is the file.
    source = ", ".join(str(value) if key == "file" else f"{key} {value}" for key, value in entry.source.items())
    return EpisodeSummary(number=number, num_steps=entry.num_steps, ending=ending, source=source[:_MAX_SOURCE])


def num_steps_of(store: Store, number: int) -> int:
    """T of an episode.

    Raises:
        NotFoundError: there is no such episode.
    """
    if not 0 <= number < len(store):
        raise NotFoundError("episode", str(number), [f"0 to {len(store) - 1}"] if len(store) else ())
    return int(store.num_steps[number])


def view_curves(
    store: Store, number: int, first: int, last: int | None, points: int, signals: Sequence[str]
) -> EpisodeCurves:
    """The values of an episode.

    Args:
        store: has the episode.
        number: from 0.
        first: first observation.
        last: last observation; None for that of the episode.
        points: most rows.
        signals: names, or names separated by commas; empty for all without images.

    Raises:
        NotFoundError: there is no such episode.
        InputError: there are no such observations, or the answer would be too large.
        UnknownNameError: there is no such signal.
    """
    num_steps = num_steps_of(store, number)
    last = num_steps if last is None else last
    if not 0 <= first <= last <= num_steps:
        raise InputError(f"first is {first}, last is {last}. Expected 0 <= first <= last <= {num_steps}.")
    chosen = [s for s in _chosen(store.schema, signals) if s.kind is not Kind.IMAGE]
    rows = min(last + 1 - first, points)
    if (count := rows * sum(int(np.prod(signal.shape)) for signal in chosen)) > _MAX_VALUES:
        raise InputError(f"the answer has {count} values, at most {_MAX_VALUES} fit. Choose signals, or fewer points.")
    edges = np.linspace(first, last + 1, (rows if rows == last + 1 - first else max(1, points // 2)) + 1).astype(int)
    steps = edges[:-1] if len(edges) == rows + 1 else np.stack([edges[:-1], edges[1:] - 1], 1).reshape(-1)
    own = store.step_s(number, 0, last) if store.has_step_s() else None
    curves = grouped(chosen, lambda signal: _curve(store, signal, number, edges, len(steps)))
    step_s, times = (store.schema.step_s, None) if own is None else (None, elapsed_s(last, own)[steps])
    place: dict[str, Any] = {"number": number, "num_steps": num_steps, "first": first, "last": last, "step_s": step_s}
    return EpisodeCurves(**place, steps=steps, times=times, reward=curves.pop("rewards"), **curves)


def _chosen(schema: Schema, names: Sequence[str]) -> Sequence[Signal]:
    """The signals with these names, which may hold commas, or several names separated by them; all without names."""
    known = {signal.name for signal in schema.signals}
    parts = [part for name in names for part in ([name] if name in known else name.split(","))]
    return [schema[part] for part in dict.fromkeys(parts)] if names else schema.signals


def _curve(store: Store, signal: Signal, number: int, edges: NDArray[np.integer], rows: int) -> NDArray[np.float64]:
    """The values of a signal in each part of an episode, or their minima and maxima, [rows, *shape]; NaN if missing.

    Args:
        store: has the episode.
        signal: no image.
        number: of the episode.
        edges: first observation of each part, and the end of the last one.
        rows: number of parts, or twice that.
    """
    num_parts, is_observation = len(edges) - 1, signal.role is Role.OBSERVATION
    curve = np.full((num_parts, rows // num_parts, *signal.shape), np.nan)
    stop_row = int(store.num_steps[number]) + is_observation
    width = max(1, int(np.prod(signal.shape))) * 8 * int(np.diff(edges).max())
    for begin in range(0, num_parts, chunk := max(1, _CHUNK_BYTES // width)):
        bounds = np.minimum(edges[begin : begin + chunk + 1], stop_row)
        start, stop = int(bounds[0]), int(bounds[-1])
        values = store.read(signal.name, number, start, stop).astype(np.float64)
        if is_observation:
            values[~store.observed(signal.name, number, start, stop)] = np.nan
        filled = bounds[:-1][np.diff(bounds) > 0] - start  # the last part may be after the last action
        if len(filled):
            low, high = np.fmin.reduceat(values, filled), np.fmax.reduceat(values, filled)
            curve[begin : begin + len(filled), 0], curve[begin : begin + len(filled), -1] = low, high
    return curve.reshape(rows, *signal.shape)


def view_frames(store: Store, number: int, camera: str, steps: str, height: int) -> tuple[bytes, str]:
    """Pictures of an episode side by side, and their media type. A missing one is grey.

    Args:
        store: has the episode.
        number: from 0.
        camera: name of an image signal.
        steps: numbers of observations, separated by commas.
        height: largest height in pixels; 0 for a single picture in its own size.

    Raises:
        NotFoundError: there is no such episode or image signal.
        InputError: the numbers are not valid.
    """
    cameras = {signal.name: signal for signal in store.schema.observations if signal.kind is Kind.IMAGE}
    if camera not in cameras:
        raise NotFoundError("image signal", camera, cameras)
    signal, num_steps = cameras[camera], num_steps_of(store, number)
    numbers = [int(text) if text.isdecimal() and len(text) < 10 else -1 for text in steps.split(",", MAX_FRAMES)]
    most = MAX_FRAMES if height else 1
    if len(numbers) > most or not all(0 <= at <= num_steps for at in numbers):
        raise InputError(
            f"steps is {steps[:100]!r}. Give 1 to {most} numbers from 0 to {num_steps}, separated by commas."
        )
    missing = np.full(signal.shape, _GREY, np.uint8)
    frames = (missing if (frame := frame_of(store, signal, number, at)) is None else frame for at in numbers)
    if not height:
        return png(colours(next(frames))), "image/png"
    small = [thumbnail(frame, _MAX_WIDTH // len(numbers), height, enlarge=False) for frame in frames]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(small, 1)).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue(), "image/jpeg"
