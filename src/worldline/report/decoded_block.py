"""Imagination as pictures: real frames, imagined ones beneath them, and how far these are off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from worldline.audit import findings
from worldline.audit.report_evidence import Decoded, Image
from worldline.formatting import clock, label, number, plural
from worldline.plots.thumbnails import thumbnail
from worldline.report.blocks import block, note
from worldline.report.images import picture, png
from worldline.report.markup import Html, numbers, tag
from worldline.stats import Curve

_SHARP: Final = 128
"""Pixels a side up to which each pixel of a frame is shown as one; larger frames are shrunk smoothly."""
_LARGEST: Final = 256


def decoded_block(found: Decoded) -> Html:
    """A column for each moment: frames of a few windows, real over imagined, then the errors over all windows."""
    unit, unit_name = clock(found.steps[-1], found.step_s)
    ahead = [number(unit * step) for step in found.steps]
    head = tag("tr", {}, _title(f"{unit_name} ahead"), *(tag("th", {"scope": "col"}, one) for one in ["now", *ahead]))
    moments = ["now", *(f"{one} {unit_name} ahead" for one in ahead)]
    windows = [
        tag("tbody", {}, _frames("real", window.real, moments), _frames("imagined", window.drawn, moments))
        for window in found.windows
    ]
    caption = f"{label(found.camera)}: what was seen, and what was imagined of it"
    whole = tag("table", {"aria-label": caption}, tag("thead", {}, head), *windows, _errors(found))
    figure = tag(
        "figure", {"class": "decoded"}, tag("figcaption", {}, caption), whole, _numbers(found, ahead, unit_name)
    )
    small = (
        "The decoder is for eyes only: it was fitted to the finished model, and planning does not use it. Nothing is "
        "observed after \u201cnow\u201d; the drawing under \u201cnow\u201d is of the latent of that very frame. "
        "Persistence: the last seen frame. Decoder alone: drawn from the latent of the real frame."
    )
    return block(findings.decoded(found), figure, note(small))


def _title(text: str) -> Html:
    """What a row or the columns are."""
    return tag("th", {"scope": "row"}, text)


def _frames(name: str, frames: Image, moments: Sequence[str]) -> Html:
    """One row of pictures."""
    sharp = max(frames.shape[1:3]) <= _SHARP
    kind = "pixels" if sharp else "smooth"
    shown = [
        picture(png(thumbnail(frame, _LARGEST, _LARGEST, enlarge=False)), f"{name}, {moment}", kind=kind)
        for frame, moment in zip(frames, moments, strict=True)
    ]
    return tag("tr", {}, _title(name), *(tag("td", {}, one) for one in shown))


def _errors(found: Decoded) -> Html:
    """The errors, each below the frames of its step."""
    windows, episodes = plural(found.num_windows, "window"), plural(found.num_episodes, "episode")
    text = f"Error (RMSE) in grey levels of 0 to 255, over all {windows} of {episodes} held out"
    top = tag("tr", {}, tag("th", {"scope": "colgroup", "colspan": str(len(found.steps) + 2)}, text))
    rows = [
        tag("tr", {"class": style}, _title(name), tag("td", {}), *(tag("td", {}, number(v)) for v in curve.value))
        for name, style, curve in _curves(found)
    ]
    return tag("tbody", {"class": "errors"}, top, *rows)


def _curves(found: Decoded) -> list[tuple[str, str, Curve]]:
    """Name and style of each row of errors."""
    return [
        ("imagined", "world", found.imagined),
        ("persistence", "other", found.persistence),
        ("decoder alone", "other", found.decoder),
    ]


def _numbers(found: Decoded, ahead: Sequence[str], unit_name: str) -> Html:
    """The errors with their intervals, folded away."""
    curves = [curve for _, _, curve in _curves(found)]
    rows = [
        [one, *(f"{number(c.value[k])} ({number(c.low[k])} to {number(c.high[k])})" for c in curves)]
        for k, one in enumerate(ahead)
    ]
    head = [f"{unit_name} ahead", *(name for name, _, _ in _curves(found))]
    return numbers(head, rows, caption="Error (RMSE) in grey levels, with 95\u00a0% bootstrap intervals over episodes")
