"""Report block of decoded predictions: true frames, predicted frames and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from worldline.audit import findings
from worldline.audit.report_evidence import Decoded, Image
from worldline.formatting import clock, label, number, plural, with_interval
from worldline.plots.thumbnails import thumbnail
from worldline.report.evidence_blocks import block, note
from worldline.report.images import picture, png
from worldline.report.markup import Html, numbers, tag
from worldline.stats import Curve

_MAX_SHARP_SIZE: Final = 128
"""Largest side in pixels of a frame with visible pixels; larger frames are scaled smoothly."""
_MAX_SIZE: Final = 256


def decoded_block(found: Decoded) -> Html:
    """Frames of a few windows, true above predicted, one column per step, then the errors over all windows."""
    unit, unit_name = clock(found.steps[-1], found.step_s)
    ahead = [number(unit * step) for step in found.steps]
    head = tag("tr", {}, _title(f"{unit_name} ahead"), *(tag("th", {"scope": "col"}, one) for one in ["now", *ahead]))
    moments = ["now", *(f"{one} {unit_name} ahead" for one in ahead)]
    windows = [
        tag("tbody", {}, _frames("true", window.real, moments), _frames("predicted", window.drawn, moments))
        for window in found.windows
    ]
    caption = f"{label(found.camera)}: true and predicted frames"
    body = tag("table", {"aria-label": caption}, tag("thead", {}, head), *windows, _errors(found))
    folded = _numbers(found, ahead, unit_name)
    figure = tag("figure", {"class": "decoded"}, tag("figcaption", {}, caption), body, folded)
    details = (
        "The decoder serves visualisation only: it was fitted to the trained model, and planning does not use it. "
        "There is no observation after \u201cnow\u201d; the predicted frame at \u201cnow\u201d is decoded from the "
        "latent of that frame. Persistence: the last observed frame. Decoder alone: decoded from the latents of the "
        "true frames."
    )
    return block(findings.decoded(found), figure, note(details))


def _title(text: str) -> Html:
    """The title of a row."""
    return tag("th", {"scope": "row"}, text)


def _frames(name: str, frames: Image, moments: Sequence[str]) -> Html:
    """One row of images."""
    sharp = max(frames.shape[1:3]) <= _MAX_SHARP_SIZE
    kind = "pixels" if sharp else "smooth"
    shown = [
        picture(png(thumbnail(frame, _MAX_SIZE, _MAX_SIZE, enlarge=False)), f"{name}, {moment}", kind=kind)
        for frame, moment in zip(frames, moments, strict=True)
    ]
    return tag("tr", {}, _title(name), *(tag("td", {}, one) for one in shown))


def _errors(found: Decoded) -> Html:
    """Errors, each below the frames of its step."""
    windows, episodes = plural(found.num_windows, "window"), plural(found.num_episodes, "episode")
    text = f"Error (RMSE) in grey levels of 0 to 255, over {windows} of {episodes}, held out"
    top = tag("tr", {}, tag("th", {"scope": "colgroup", "colspan": str(len(found.steps) + 2)}, text))
    rows = []
    for name, curve in _curves(found).items():
        cells = [_title(name), tag("td", {}), *(tag("td", {}, number(v)) for v in curve.value)]
        rows.append(tag("tr", {"class": "world" if curve is found.imagined else "other"}, *cells))
    return tag("tbody", {"class": "errors"}, top, *rows)


def _curves(found: Decoded) -> dict[str, Curve]:
    return {"predicted": found.imagined, "persistence": found.persistence, "decoder alone": found.decoder}


def _numbers(found: Decoded, ahead: Sequence[str], unit_name: str) -> Html:
    """Errors with intervals in a collapsed table."""
    curves = _curves(found)
    rows = [[when, *(with_interval(one.at(k + 1)) for one in curves.values())] for k, when in enumerate(ahead)]
    head = [f"{unit_name} ahead", *curves]
    return numbers(head, rows, caption="Error (RMSE) in grey levels, with 95\u00a0% bootstrap intervals over episodes")
