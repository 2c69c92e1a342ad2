"""Figures of the examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke

from worldline.labs.two_rooms import DOOR_HALF_HEIGHT, DOT_RADIUS, SIZE, WALL_HALF_WIDTH

Array = np.ndarray[Any, Any]
PAPER, INK, SOFT, RULE, PANEL = "#fcfbf8", "#1b1f27", "#5a6070", "#e9e5db", "#f4f1ea"
CURVES = ("#0b6b74", "#b0632a", "#75679c", "#6f7a3c")
RANGE = "#d8e6e2"


def draw_climate(file: str, courses: Mapping[str, Array]) -> None:
    """Draws air temperature and heating over time, with the target range.

    Args:
        file: file to write, such as "it.png".
        courses: per name [T, 4]: air, lower and upper end of the range [degC], heating [W/m2].
    """
    figure = Figure((8.6, 5.4), dpi=160, facecolor=PAPER)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1), gridspec_kw={"hspace": 0.22})
    course = next(iter(courses.values()))
    edges = np.arange(len(course) + 1) / 2
    low, high = (np.append(course[:, column], course[-1, column]) for column in (1, 2))
    above.fill_between(edges, low, high, step="post", color=RANGE, linewidth=0)
    for (name, each), colour in reversed(list(zip(courses.items(), CURVES, strict=False))):
        above.plot(edges[1:], each[:, 0], color=colour, linewidth=1.8, solid_capstyle="round", label=name)
        below.stairs(each[:, 3], edges, color=colour, linewidth=1.4, fill=False, baseline=None)
    for axes, title in ((above, "Air, °C"), (below, "Heating, W/m²")):
        _style(axes, title)
    above.set_xlim(0, edges[-1])
    below.set_ylim(0, None)
    below.set_xlabel("hours", color=SOFT, fontsize=9)
    handles, names = above.get_legend_handles_labels()
    shade = Rectangle((0, 0), 1, 1, color=RANGE)
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 4, "borderaxespad": 0.3}
    above.legend([*handles[::-1], shade], [*names[::-1], "wanted"], frameon=False, fontsize=9, labelcolor=INK, **place)
    figure.savefig(file, bbox_inches="tight", pad_inches=0.25)


def draw_rooms(file: str, wall: Array, goal: Array, path: Array, title: str) -> None:
    """Draws the rooms from above, with the path and the goal.

    Args:
        file: file to write, such as "it.png".
        wall: wall x and door y, px.
        goal: [2] px.
        path: [T + 1, 2] px.
        title: title of the figure.
    """
    figure = Figure((5.4, 5.6), dpi=160, facecolor=PAPER)
    axes = figure.subplots()
    axes.set_facecolor(PANEL)
    left, top, bottom = wall[0] - WALL_HALF_WIDTH, wall[1] - DOOR_HALF_HEIGHT, wall[1] + DOOR_HALF_HEIGHT
    axes.add_patch(Rectangle((left, 0), 2 * WALL_HALF_WIDTH, top, color=INK, linewidth=0))
    axes.add_patch(Rectangle((left, bottom), 2 * WALL_HALF_WIDTH, SIZE - bottom, color=INK, linewidth=0))
    axes.add_patch(Circle(tuple(goal), DOT_RADIUS + 1.5, facecolor="none", edgecolor=CURVES[1], linewidth=1.6))
    axes.plot(*path.T, color=CURVES[0], linewidth=1.6, marker="o", markersize=3.2, solid_joinstyle="round")
    for place, alpha in ((path[0], 0.35), (path[-1], 1.0)):
        axes.add_patch(Circle(tuple(place), DOT_RADIUS, color="#d64038", alpha=alpha, linewidth=0, zorder=3))
    halo = [withStroke(linewidth=3, foreground=PANEL)]  # the path may cross the text
    for place, beside, word, colour in ((path[0], path[1:2], "start", SOFT), (goal, path[-2:-1], "goal", CURVES[1])):
        room = place[1] < SIZE - 10, place[1] > 10
        below = room[0] and not (room[1] and (beside[:, 1] > place[1]).any())
        axes.text(
            place[0],
            place[1] + (DOT_RADIUS + 4.5 if below else -DOT_RADIUS - 2.5),
            word,
            ha="center",
            color=colour,
            fontsize=9,
            path_effects=halo,
            zorder=4,
        )
    axes.set(xlim=(0, SIZE), ylim=(SIZE, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, loc="left", color=INK, fontsize=10, pad=9)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_linewidth(1.6)
    figure.savefig(file, bbox_inches="tight", pad_inches=0.25)


def _style(axes: Axes, title: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", color=INK, fontsize=10, pad=7)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=SOFT, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(SOFT)
