"""Pages of a store: its figures with sample images, and the plots of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldline.data.fsync import name_in_errors
from worldline.data.store import Store, is_store
from worldline.data.store_plot import view_episode
from worldline.errors import InputError
from worldline.progress import OnProgress, tell, telling
from worldline.report.store_figures import StoreFigures, measure
from worldline.report.store_page import episode_page, index_page, preview


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
    number = (0 if len(store) else None) if episode is None else episode
    entry = None if number is None else store.entry(number)  # raises if it does not exist, before anything is written
    out.mkdir(parents=True, exist_ok=True)
    with telling(progress, "measure"):
        figures, images = measure(store), preview(store)
    tell(progress, "draw", 0)
    pages, links = dict[str, str](), dict[str, str]()
    if number is not None and entry is not None:
        source = [(key, str(value)) for key, value in entry.source.items()]
        source += [] if entry.seed is None else [("Seed", str(entry.seed))]
        name, view = f"episode-{number}.html", view_episode(store, number, chosen)
        pages[name] = episode_page(figures.name, view, source, {"index.html": figures.name})
        links[name] = f"Episode {number}, signal by signal"
    pages = {"index.html": index_page(figures, images, links), **pages}
    for name, page in pages.items():
        with name_in_errors(out / name):
            (out / name).write_text(page, encoding="utf-8")
    tell(progress, "draw", 1)
    return figures, tuple(out / name for name in pages)
