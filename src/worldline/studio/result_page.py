"""The page of one result of a world: a file that needs no service."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.plots.images import colours, png
from worldline.plots.result_plot import MAX_SAMPLES
from worldline.plots.result_series import ResultSeries, columns
from worldline.schema import Kind
from worldline.studio.pages import saved_page
from worldline.world.base import Surprise, WhatIf
from worldline.world.result import Result

MAX_FRAMES: Final = 24
"""Largest number of frames per camera."""
MAX_NUMBERS: Final = 100_000
"""Largest number of values of all curves together, so that a page has at most 2 MB without pictures."""


def save_page(result: Result, path: Path | str, *, world: int = 0) -> Path:
    """Writes a result of a world as one HTML file with charts, tables and pictures. Returns its path.

    The file needs no other file and no network. It has at most 2 MB without pictures: long results are reduced to every
    n-th step, and the page states n. Per camera it has at most 24 frames, and at most 24 samples per signal.

    Args:
        result: a `Prediction`, `Plan`, `WhatIf`, `Surprise` or `Scores`.
        path: of the file. An existing file is replaced.
        world: index of the world in a batch.

    Raises:
        InputError: there is no such world.
    """
    shown = result.axis_index(world)
    title = "What if" if isinstance(result, WhatIf) else type(result).__name__
    title = title if shown is None else f"{title} of world {shown}"
    answers = {"v1/worlds": {"worlds": []}, "v1/logs": {"logs": []}, "result": _content(result, title, shown)}
    saved = {"title": title, "place": "#/result", "answers": {f"GET {name}": value for name, value in answers.items()}}
    Path(path).write_text(saved_page(title, saved), encoding="utf-8")
    return Path(path)


def _content(result: Result, title: str, world: int | None) -> dict[str, Any]:
    """What the view `result` shows."""
    series, trust = result.series(world), getattr(result, "trust", math.nan)
    stride = max(1, math.ceil(sum(map(_num_values, series)) / MAX_NUMBERS))
    return {
        "title": title,
        "headline": result.headline(),
        "reason": result.reason if isinstance(result, WhatIf) else "",
        "trust": _numbers(np.ravel(trust)[[world or 0]])[0],
        "rows": result.rows_are,
        "step_s": None if result.schema is None else result.schema.step_s,
        "stride": stride,
        "series": [_series(curve, stride) for curve in series],
        "images": {name: _frames(frames) for name, frames in result.images_of(world).items()},
        "moments": [
            {"step": moment.step, "signals": moment.signals, "p": moment.p_value}
            for moment in (result.moments if isinstance(result, Surprise) else ())
        ],
    }


def _num_values(series: ResultSeries) -> int:
    """The numbers of a series in the page, with the step of each row."""
    num_curves = 1 + len(series.others) + min(MAX_SAMPLES, 0 if series.samples is None else len(series.samples))
    return len(series.values) + series.values.size * num_curves


def _series(series: ResultSeries, stride: int) -> dict[str, Any]:
    """A series with every n-th row and the last one."""
    signal, count = series.signal, len(series.values)
    rows = np.unique(np.append(np.arange(0, count, stride), np.arange(max(0, count - 1), count)))

    def table(values: NDArray[np.generic]) -> list[Any]:
        flat = columns(values)[rows]
        return _numbers(flat[:, 0]) if signal.kind is Kind.DISCRETE else [_numbers(row) for row in flat]

    return {
        "signal": {name: getattr(signal, name) for name in ("name", "role", "kind", "shape", "unit", "components")}
        | {"num_values": signal.num_values},
        "steps": (series.first + rows).tolist(),
        "end": series.first + count,
        "values": table(series.values),
        "others": {name: table(values) for name, values in series.others.items()},
        "samples": [] if series.samples is None else [table(path) for path in series.samples[:MAX_SAMPLES]],
        "drawn": series.drawn,
        "heading": series.heading,
        "logarithmic": series.logarithmic,
    }


def _numbers(values: NDArray[np.generic]) -> list[float | None]:
    """Plain numbers of 6 digits; None if they are not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def _frames(frames: NDArray[np.generic]) -> dict[str, Any]:
    """Evenly spread frames as data URLs, the first one of step 1."""
    rows = np.unique(np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round().astype(int))
    pictures = [png(colours(np.asarray(frames[row], np.uint8))) for row in rows]
    urls = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
    return {"steps": (rows + 1).tolist(), "total": len(frames), "frames": urls}
