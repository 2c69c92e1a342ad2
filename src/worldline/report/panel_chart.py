"""The panels of an episode as HTML with inline SVG that scales with the page.

Labels are HTML, placed in per cent.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Final

from worldline.formatting import number, quantity
from worldline.plots.canvas import Frames
from worldline.plots.episode_plot import ROLES, EpisodeView, Strip
from worldline.plots.panels import SignalPanel, TimeAxis, tick_texts
from worldline.plots.thumbnails import fitted, thumbnail
from worldline.report import images
from worldline.report.markup import Html, tag
from worldline.report.svg import GRID, Plane, area, curve, legend, path, svg

_FRAME: Final = (132, 88)
_MAX_STRAIGHT_OFFSET: Final = 6.0
"""Largest distance of a frame from its time, in SVG units, at which their leader is vertical."""
_BOX: Final = 224
"""Largest width and height of an image in pixels."""


def timeline(view: EpisodeView) -> Html:
    """Cameras and signals over a common time axis."""
    parts = [_reel(strip, view) for strip in view.strips]
    if view.strips:
        parts.append(_leaders(view))
    parts.append(_times(view.axis))
    for role, panels in groupby(view.panels, lambda panel: panel.signal.role):
        parts += [tag("h3", {"class": "role"}, ROLES[role]), *(panel_figure(panel, view.axis) for panel in panels)]
    if view.panels:
        parts.append(_times(view.axis))
    parts.append(tag("div", {"class": "x-label"}, view.axis.label))
    return tag("div", {"class": "wide"}, *parts)


def panel_figure(panel: SignalPanel, axis: TimeAxis) -> Html:
    """One signal over time."""
    plane = _plane(panel, axis.span)
    grid = [plane.horizontal("grid", tick) for tick in panel.ticks]
    grid += [plane.vertical("grid", time) for time in axis.ticks]
    texts = zip(panel.ticks, panel.tick_texts, strict=True)
    labels = [plane.y_label("y-tick", tick, text) for tick, text in texts]
    alt = f"{panel.title} over time: {_alt_text(panel)}"
    drawn = [*_gaps(panel, plane), *grid, *_curves(panel, plane)]
    plot = tag("div", {"class": "plot", "role": "img", "aria-label": alt}, svg(*drawn), *labels)
    aside = tag("span", {"class": "aside"}, panel.note) if panel.note else Html("")
    return tag("figure", {"class": "panel"}, tag("figcaption", {}, panel.title, aside), _legend(panel), plot)


def spark(panel: SignalPanel, span: tuple[float, float]) -> Html:
    """A small chart with curves only.

    Args:
        panel: panel of an episode.
        span: ends of the time axis.
    """
    plane = _plane(panel, span)
    drawn = svg(*_gaps(panel, plane), *_curves(panel, plane))
    return tag("div", {"class": "spark", "role": "img", "aria-label": _alt_text(panel)}, drawn)


def still(frame: Frames | None, shape: tuple[int, ...], alt: str) -> Html:
    """A frame as a thumbnail; an empty box of the same shape if it is missing."""
    if frame is None:
        return tag("div", {"class": "lost", "style": f"aspect-ratio:{shape[1]}/{shape[0]}"}, "missing")
    small = thumbnail(frame, _BOX, _BOX, enlarge=False)
    return images.picture(images.png(small), alt, kind="pixels" if max(shape[:2]) < _BOX else "photo")


def _reel(strip: Strip, view: EpisodeView) -> Html:
    """Frames of one camera, evenly spaced."""
    width = f"max-width:{fitted(strip.shape, *_FRAME)[0] / 16:.1f}rem"
    stills = [
        tag("div", {"style": width}, still(frame, strip.shape, f"{strip.name} at {view.axis.text(moment)}"))
        for frame, moment in zip(strip.frames, view.moments, strict=True)
    ]
    columns = f"grid-template-columns:repeat({len(stills)},minmax(0,1fr))"
    row = tag("div", {"class": "reel", "style": columns}, *stills)
    return tag("figure", {"class": "panel"}, tag("figcaption", {}, strip.name), row)


def _leaders(view: EpisodeView) -> Html:
    """Lines from the middle of each frame to its time on the axis."""
    count = len(view.moments)
    paths = []
    for k, moment in enumerate(view.moments):
        frame, time = GRID * (k + 0.5) / count, Plane(view.axis.span).across(float(view.axis.times[moment]))
        frame = time if abs(frame - time) < _MAX_STRAIGHT_OFFSET else frame
        paths.append(path("leader", f"M{frame:.1f} 0V200L{time:.1f} 750V1000"))
    return tag("div", {"class": "leaders"}, svg(*paths))


def _times(axis: TimeAxis) -> Html:
    """Tick labels of the time axis."""
    plane, texts = Plane(axis.span), zip(axis.ticks, tick_texts(axis.ticks), strict=True)
    labels = [plane.x_label("x-tick", time, text) for time, text in texts]
    return tag("div", {"class": "times", "aria-hidden": "true"}, *labels)


def _legend(panel: SignalPanel) -> Html:
    """Names of the components, if there are several."""
    if len(panel.curves) < 2:
        return Html("")
    return legend((one.label, one.colour) for one in panel.curves)


def _alt_text(panel: SignalPanel) -> str:
    unit = panel.signal.unit
    parts = []
    for line, found in zip(panel.curves, panel.ranges, strict=True):
        values = "not observed" if math.isnan(found.mean) else f"{number(found.least)} to {quantity(found.most, unit)}"
        parts.append(f"{line.label} {values}" if len(panel.curves) > 1 else values)
    return "; ".join(parts)


def _plane(panel: SignalPanel, span: tuple[float, float]) -> Plane:
    return Plane(span, (panel.ticks[0], panel.ticks[-1]))


def _curves(panel: SignalPanel, plane: Plane) -> list[Html]:
    """Bands below curves; the first curve on top."""
    bands = [
        area(f"band {one.colour}", plane.runs(one.x, one.high), plane.runs(one.x, one.low))
        for one in panel.curves
        if one.low.size
    ]
    return bands + [curve(f"line {one.colour}", plane.runs(one.x, one.y)) for one in reversed(panel.curves)]


def _gaps(panel: SignalPanel, plane: Plane) -> list[Html]:
    """Stretches without observations."""
    found = []
    for gap in panel.missing:
        start, stop = plane.across(gap.start), plane.across(gap.stop)
        place = {"class": "gap", "x": f"{start:.1f}", "y": "0", "width": f"{stop - start:.1f}", "height": "1000"}
        found.append(tag("rect", place))
    return found
