"""Small chart of an effect over its lags: the logs as a band, the world as a line with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from worldline.audit.audit_evidence import Effect
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.formatting import number, pretty_unit
from worldline.report.markup import Html, tag

_GRID: Final = 1000.0
_SVG: Final = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "aria-hidden": "true", "focusable": "false"}


def effect_picture(effects: Sequence[Effect]) -> Html:
    """The chart; lags are equally spaced.

    Args:
        effects: effects of one action on one signal, by lag.
    """
    least = MIN_EFFECT_SHARE * effects[0].spread  # a negligible effect must look negligible
    ends = [-least, least]
    for one in effects:
        ends += [one.world.low, one.world.high]
        ends += [] if one.logs is None else [one.logs.low, one.logs.high]
    low, high = min(ends), max(ends)
    margin = 0.06 * ((high - low) or 1.0)
    low, high = low - margin, high + margin

    def down(value: float) -> float:
        return _GRID * (1 - (value - low) / (high - low))

    across = [_GRID * (k + 0.5) / len(effects) for k in range(len(effects))]
    logs = [(x, one.logs) for x, one in zip(across, effects, strict=True) if one.logs is not None]
    drawn = [_path("level", [(0.0, down(0.0)), (_GRID, down(0.0))])]
    if logs:
        upper, lower = [(x, down(one.high)) for x, one in logs], [(x, down(one.low)) for x, one in reversed(logs)]
        drawn.append(_path("band logs", [*upper, *lower], closed=True))
        drawn.append(_path("line logs", [(x, down(one.value)) for x, one in logs]))
    drawn.append(_path("line world", [(x, down(one.world.value)) for x, one in zip(across, effects, strict=True)]))
    for x, one in zip(across, effects, strict=True):
        drawn.append(_path("whisker world", [(x, down(one.world.low)), (x, down(one.world.high))]))
        drawn.append(_path("dot world", [(x, down(one.world.value)), (x, down(one.world.value))]))
    unknown = " unknown" if effects[0].agreement == "not identifiable" else ""
    attributes = {"class": f"mini{unknown}", "role": "img", "aria-label": _alt_text(effects)}
    return tag("div", attributes, tag("svg", _SVG, *drawn))


def _alt_text(effects: Sequence[Effect]) -> str:
    unit = pretty_unit(effects[0].unit)
    parts = [
        f"after {one.lag}: {number(one.world.value)} {unit}".rstrip()
        + ("" if one.logs is None else f", logs {number(one.logs.value)}")
        for one in effects
    ]
    return f"Effect of {effects[0].action} on {effects[0].signal}, {'; '.join(parts)}"


def _path(style: str, points: Sequence[tuple[float, float]], *, closed: bool = False) -> Html:
    moves = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", {"class": style, "d": f"M{moves}{'Z' if closed else ''}"})
