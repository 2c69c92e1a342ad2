"""Draws the results of benchmarks/data.py: random windows per second against bytes per frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

OURS, PEER = "#2b6cb0", "#b7791f"
MARKERS = {"store": "o", "lance": "s", "hdf5": "^", "hdf5-zstd": "v", "folder": "D", "video": "P"}
SCENES = {"two-room": "Two-Room", "push-t": "Push-T", "cube": "OGBench cube", "sensor": "noisy camera"}
LABELS = {
    "lance": "Lance (JPEG)",
    "hdf5": "HDF5",
    "hdf5-zstd": "HDF5 with zstd",
    "folder": "folder (JPEG)",
    "video": "video (H.264)",
}


def draw(sets: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel per set: scenes from left to right, sizes from top to bottom."""
    sizes = sorted({one["size"] for one in sets})
    scenes = list(dict.fromkeys(one["scene"] for one in sets))
    figure, panels = plt.subplots(
        len(sizes),
        len(scenes),
        figsize=(2.5 * len(scenes) + 0.6, 2.6 * len(sizes) + 0.9),
        sharex="row",
        sharey="row",
        squeeze=False,
    )
    for one in sets:
        row, column = sizes.index(one["size"]), scenes.index(one["scene"])
        _panel(panels[row][column], one)
        if row == 0:
            panels[row][column].set_title(SCENES[one["scene"]], fontsize=11)
        if column == 0:
            panels[row][column].set_ylabel(f"{one['size']}×{one['size']}\nrandom windows a second")
        if row == len(sizes) - 1:
            panels[row][column].set_xlabel("bytes a frame")
    _legends(figure)
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight() + 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(panel: Axes, one: dict[str, Any]) -> None:
    """The best row of each format, without the in-memory rows."""
    best: dict[tuple[str, int | None], dict[str, Any]] = {}
    for row in one["rows"]:
        key = (row["format"], row.get("max_error"))
        if row["format"] in MARKERS and (key not in best or row["median"] > best[key]["median"]):
            best[key] = row
    for (form, _), row in best.items():
        ours = form == "store"
        colour = OURS if ours else PEER
        panel.plot(
            row["bytes_per_frame"],
            row["median"],
            MARKERS[form],
            markersize=9 if ours else 7,
            color=colour,
            markerfacecolor=colour if row["lossless"] else "white",
            markeredgewidth=1.6,
            zorder=3 if ours else 2,
        )
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.margins(0.14)
    panel.xaxis.set_major_formatter(EngFormatter("B"))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())
    panel.grid(which="major", color="#e2e8f0", linewidth=0.8)
    panel.tick_params(which="both", color="#a0aec0", labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)


def _legends(figure: Figure) -> None:
    """The legend under all panels; filled markers are lossless."""
    ours = [("store", "lossless", True), ("store", "lossy, PSNR as Lance and folder", False)]
    peer = [(form, text, form.startswith("hdf5")) for form, text in LABELS.items()]
    for title, names, place, columns in (
        ("worldline, one thread", ours, (0.2, 0.0), 2),
        ("stable-worldmodel 0.1.1, 0 to 2 workers", peer, (0.66, 0.0), 5),
    ):
        marks = []
        for form, text, lossless in names:
            colour = OURS if form == "store" else PEER
            mark = Line2D([], [], color=colour, marker=MARKERS[form], linestyle="none", markersize=8, label=text)
            mark.set_markerfacecolor(colour if lossless else "white")
            mark.set_markeredgewidth(1.6)
            marks.append(mark)
        legend = figure.legend(
            handles=marks,
            title=title,
            loc="lower center",
            bbox_to_anchor=place,
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            title_fontsize=9.5,
            columnspacing=1.2,
            handletextpad=0.2,
        )
        figure.add_artist(legend)
