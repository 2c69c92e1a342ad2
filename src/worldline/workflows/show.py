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
from worldline.data.store_plot import (
    duration_s_of,
    ending_of,
    frame_of,
    length_of,
    spread,
    step_s_of,
    view_episode,
)
from worldline.errors import InputError
from worldline.formatting import plural
from worldline.plots.episode_view import MAX_CAMERAS
from worldline.plots.signal_chart import time_axis
from worldline.progress import OnProgress, tell
from worldline.report.store_figures import KeyFigures, SignalFigures, StoreFigures
from worldline.report.store_page import Reel, SampleImages, episode_page, index_page
from worldline.schema import Kind, Role, Signal

SAMPLE_EPISODES: Final = 8
SAMPLE_MOMENTS: Final = 8
_EXAMPLES: Final = 3


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
    numbers, cameras = (
        spread(len(store), SAMPLE_EPISODES),
        [signal for signal in store.schema.observations if signal.kind is Kind.IMAGE],
    )
    if not numbers or not cameras:
        return None
    shown, left = cameras[:MAX_CAMERAS], len(cameras[MAX_CAMERAS:])
    return SampleImages(
        episodes=[(f"episode {number}", length_of(store, number), ending_of(store, number)) for number in numbers],
        reels=[
            Reel(name=c.name, shape=c.shape, rows=[_moments(store, c, number) for number in numbers]) for c in shown
        ],
        note=f"{plural(left, 'camera')} left out." if left else "",
    )


def _time_s(store: Store) -> float | None:
    """Seconds of all episodes; None if unknown for one."""
    if not store.has_step_s():
        return None if store.schema.step_s is None else store.schema.step_s * int(store.num_steps.sum())
    times_s = [duration_s_of(store, k) for k in range(len(store))]
    return None if None in times_s else sum(time_s for time_s in times_s if time_s is not None)


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


def _moments(store: Store, camera: Signal, number_: int) -> list[tuple[str, NDArray[np.uint8] | None]]:
    """The time and the frame of up to 8 evenly spread observations."""
    steps = int(store.num_steps[number_])
    axis = time_axis(steps, step_s_of(store, number_))
    return [(axis.text(at), frame_of(store, camera, number_, at)) for at in spread(steps + 1, SAMPLE_MOMENTS)]
