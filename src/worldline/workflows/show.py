"""Pages of a store: its figures with sample images, and the plots of an episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.fsync import name_in_errors
from worldline.data.store import Store, is_store
from worldline.errors import InputError
from worldline.formatting import duration, number, plural
from worldline.plots.episode_plot import EpisodeView, Strip, num_frames
from worldline.plots.panels import (
    MAX_CURVES,
    SignalPanel,
    TimeAxis,
    elapsed_s,
    envelope_note,
    make_panel,
    time_axis,
)
from worldline.progress import OnProgress, tell
from worldline.report.store_figures import KeyFigures, SignalFigures, StoreFigures, drawn_signals
from worldline.report.store_page import Reel, SampleImages, episode_page, index_page
from worldline.schema import Kind, Role, Signal

MAX_PANELS: Final = 12
MAX_CAMERAS: Final = 4
SAMPLE_EPISODES: Final = 8
SAMPLE_MOMENTS: Final = 8
_EXAMPLES: Final = 3
_CHUNK_BYTES: Final = 1 << 24


def show(
    store: Store,
    out: Path,
    *,
    episode: int | None = None,
    signals: Sequence[str] = (),
    progress: OnProgress | None = None,
) -> tuple[StoreFigures, tuple[Path, ...]]:
    """Writes the pages of a store; returns its figures and the written files, the first of which is the start page.

    Args:
        store: the store.
        out: folder for the files; existing files of the same names are replaced.
        episode: number of the episode to plot; default is the first.
        signals: names of the signals to plot; default is the first 12 and 4 cameras, with each role represented.
        progress: called after each step.

    Raises:
        InputError: there is no such episode, or `out` is a file or a store.
        UnknownNameError: there is no such signal.
    """
    if out.is_file() or is_store(out):
        raise InputError(f"{out} is a {'store' if out.is_dir() else 'file'}. Choose another folder.")
    chosen = [store.schema[name] for name in signals]
    number_ = (0 if len(store) else None) if episode is None else episode
    if number_ is not None:
        store.entry(number_)  # raises if it does not exist, before anything is written
    out.mkdir(parents=True, exist_ok=True)
    tell(progress, "measure", 0)
    figures, samples = measure(store), sample_images(store)
    tell(progress, "measure", 1)
    tell(progress, "draw", 0)
    pages: dict[str, str] = {}
    links: dict[str, str] = {}
    if number_ is not None:
        view, name = view_episode(store, number_, chosen), f"episode-{number_}.html"
        pages[name] = episode_page(figures.name, view, _source(store, number_), {"index.html": figures.name})
        links[name] = f"Episode {number_}, signal by signal"
    pages = {"index.html": index_page(figures, samples, links), **pages}
    for name, page in pages.items():
        with name_in_errors(out / name):
            (out / name).write_text(page, encoding="utf-8")
    tell(progress, "draw", 1)
    return figures, tuple(out / name for name in pages)


def measure(store: Store) -> StoreFigures:
    """The figures of a store; reads masks and sources, but no values."""
    sizes, steps = store.num_bytes(), store.num_steps
    rows = int(steps.sum())
    ends, seeded, keys = _tally(store)
    return StoreFigures(
        name=store.path.absolute().name,
        schema=store.schema,
        num_episodes=len(store),
        num_steps=rows,
        time_s=_time_s(store),
        shortest=int(steps.min()) if len(store) else 0,
        median=float(np.median(steps)) if len(store) else 0.0,
        longest=int(steps.max(initial=0)),
        signals=tuple(
            SignalFigures(
                signal=signal,
                num_rows=rows + len(store) * (signal.role is Role.OBSERVATION),
                num_bytes=sizes[signal.name],
                missing=_missing(store, signal, rows + len(store)),
                max_error=store.card.max_error.get(signal.name, 0) if signal.kind is Kind.IMAGE else None,
            )
            for signal in store.schema.signals
        ),
        other_bytes=sizes[""],
        layout=store.card.format,
        notes=dict(store.card.notes),
        keys=keys,
        terminated=ends[True, False],
        truncated=ends[False, True],
        both=ends[True, True],
        neither=ends[False, False],
        seeded=seeded,
    )


def sample_images(store: Store) -> SampleImages | None:
    """Images of up to 8 episodes, evenly spread; None without episodes or cameras."""
    numbers, cameras = _spread(len(store), SAMPLE_EPISODES), _cameras(store)
    if not numbers or not cameras:
        return None
    shown, left = cameras[:MAX_CAMERAS], len(cameras[MAX_CAMERAS:])
    return SampleImages(
        episodes=[(f"episode {number}", _length(store, number), _ending(store, number)) for number in numbers],
        reels=[
            Reel(name=c.name, shape=c.shape, rows=[_moments(store, c, number) for number in numbers]) for c in shown
        ],
        note=f"{plural(left, 'camera')} left out." if left else "",
    )


def view_episode(store: Store, number_: int, signals: Sequence[Signal] = ()) -> EpisodeView:
    """The plot data of an episode; reads only the frames and components that are drawn.

    Args:
        store: the store.
        number_: 0 to len - 1.
        signals: to plot; default is the first 12 and 4 cameras, with each role represented.

    Raises:
        InputError: there is no such episode.
    """
    entry, schema = store.entry(number_), store.schema
    axis = time_axis(entry.num_steps, _step_s(store, number_))
    cameras = [camera for camera in _cameras(store) if not signals or camera in signals]
    shown = cameras if signals else cameras[:MAX_CAMERAS]
    curves = drawn_signals(signals or schema.signals, len(signals) or MAX_PANELS)
    count = num_frames([camera.shape for camera in shown])
    moments = _moments_between(axis, count) if shown else []
    left = len(schema.signals) - len(shown) - len(curves)
    notes = [envelope_note(entry.num_steps + 1)] if any(p.kind is Kind.VECTOR for p in curves) else []
    if left:
        listed = f"{plural(left, 'signal')} of {number(len(schema.signals))}"
        notes.append(f"{listed} left out. Choose with --signals NAME.")
    return EpisodeView(
        title=f"Episode {number_}",
        subtitle=f"{store.path.absolute().name} · {_length(store, number_)} · {_ending(store, number_)}",
        axis=axis,
        moments=moments,
        strips=[
            Strip(name=c.name, shape=c.shape, frames=[_frame(store, c, number_, at) for at in moments]) for c in shown
        ],
        panels=[_panel(store, signal, number_, axis) for signal in curves],
        notes=[note for note in notes if note],
    )


def _cameras(store: Store) -> list[Signal]:
    return [signal for signal in store.schema.observations if signal.kind is Kind.IMAGE]


def _spread(count: int, max_numbers: int) -> list[int]:
    """Up to `max_numbers` evenly spread numbers below `count`, with the first and the last."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, max_numbers)).tolist()})


def _moments_between(axis: TimeAxis, count: int) -> list[int]:
    """Indices of up to `count` observations, nearest to the middles of `count` equal parts of the axis."""
    if len(axis.times) <= count:
        return list(range(len(axis.times)))
    middles = axis.span[1] * (np.arange(count) + 0.5) / count
    return sorted({int(np.abs(axis.times - middle).argmin()) for middle in middles})


def _step_s(store: Store, number_: int) -> float | NDArray[np.float32] | None:
    """Seconds per step of an episode: a number, an array over steps, or None if unknown."""
    own = store.step_s(number_, 0, int(store.num_steps[number_]))
    return store.schema.step_s if own is None else own


def _time_s(store: Store) -> float | None:
    """Seconds of all episodes; None if unknown for one."""
    if not store.has_step_s():
        return None if store.schema.step_s is None else store.schema.step_s * int(store.num_steps.sum())
    times_s = [_duration_s(store, k) for k in range(len(store))]
    return None if None in times_s else sum(time_s for time_s in times_s if time_s is not None)


def _duration_s(store: Store, number_: int) -> float | None:
    """Seconds of an episode; None if unknown."""
    step_s = _step_s(store, number_)
    return None if step_s is None else float(elapsed_s(int(store.num_steps[number_]), step_s)[-1])


def _missing(store: Store, signal: Signal, num_rows: int) -> float | None:
    if signal.role is not Role.OBSERVATION:
        return None
    if not num_rows or not store.has_missing():
        return 0.0
    lengths = store.num_steps.tolist()
    known = sum(int(store.observed(signal.name, k, 0, steps + 1).sum()) for k, steps in enumerate(lengths))
    return 1 - known / num_rows


def _tally(store: Store) -> tuple[Counter[tuple[bool, bool]], int, tuple[KeyFigures, ...]]:
    """Counts of episode ends (terminated, truncated), number of seeds, and values per key of the sources."""
    ends, seeded = Counter[tuple[bool, bool]](), 0
    values: dict[str, Counter[str]] = {}
    for k in range(len(store)):
        entry = store.entry(k)
        ends[entry.terminated, entry.truncated] += 1
        seeded += entry.seed is not None
        for key, value in entry.source.items():
            values.setdefault(key, Counter())[str(value)] += 1
    keys = [
        KeyFigures(name=key, num_episodes=counts.total(), num_values=len(counts), examples=tuple(counts)[:_EXAMPLES])
        for key, counts in values.items()
    ]
    return ends, seeded, tuple(keys)


def _source(store: Store, number_: int) -> list[tuple[str, str]]:
    entry = store.entry(number_)
    seed = [] if entry.seed is None else [("Seed", str(entry.seed))]
    return [(key, str(value)) for key, value in entry.source.items()] + seed


def _length(store: Store, number_: int) -> str:
    counted, time_s = plural(int(store.num_steps[number_]), "step"), _duration_s(store, number_)
    return counted if time_s is None else f"{counted}, {duration(time_s)}"


def _ending(store: Store, number_: int) -> str:
    entry = store.entry(number_)
    words = [text for text, holds in (("terminated", entry.terminated), ("truncated", entry.truncated)) if holds]
    return " and ".join(words) or "open end"


def _moments(store: Store, camera: Signal, number_: int) -> list[tuple[str, NDArray[np.uint8] | None]]:
    """The time and the frame of up to 8 evenly spread observations."""
    steps = int(store.num_steps[number_])
    axis = time_axis(steps, _step_s(store, number_))
    return [(axis.text(at), _frame(store, camera, number_, at)) for at in _spread(steps + 1, SAMPLE_MOMENTS)]


def _frame(store: Store, camera: Signal, number_: int, at: int) -> NDArray[np.uint8] | None:
    """One frame; None if it was not observed."""
    if not store.observed(camera.name, number_, at, at + 1)[0]:
        return None
    frame: NDArray[np.uint8] = store.read(camera.name, number_, at, at + 1)[0]
    return frame


def _panel(store: Store, signal: Signal, number_: int, axis: TimeAxis) -> SignalPanel:
    """One signal of an episode; only drawn components of a wide vector stay in memory."""
    rows = int(store.num_steps[number_]) + (signal.role is Role.OBSERVATION)
    width = signal.shape[0] if signal.kind is Kind.VECTOR else 1
    chunk = max(1, _CHUNK_BYTES // (8 * width))
    # Copies, because a view would keep the whole array in memory.
    parts = [
        store.read(signal.name, number_, k, min(k + chunk, rows)).reshape(-1, width)[:, :MAX_CURVES].copy()
        for k in range(0, rows, chunk)
    ]
    known = signal.role is not Role.OBSERVATION
    observed = np.ones(rows, np.bool_) if known else store.observed(signal.name, number_, 0, rows)
    return make_panel(signal, np.concatenate(parts), observed, axis)
