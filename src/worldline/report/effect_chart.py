"""Small chart of an effect over its lags: the logs as a band, the world as a line with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from worldline.audit.audit_evidence import Effect
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.formatting import number, pretty_unit
from worldline.report.markup import Html, tag
from worldline.report.svg import GRID, area, curve, rule, svg


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
        return GRID * (1 - (value - low) / (high - low))

    across = [GRID * (k + 0.5) / len(effects) for k in range(len(effects))]
    logs = [(x, one.logs) for x, one in zip(across, effects, strict=True) if one.logs is not None]
    drawn = [rule("level", 0.0, down(0.0), GRID, down(0.0))]

    def points(values: Iterable[tuple[float, float]]) -> list[list[str]]:
        return [[f"{x:.1f} {down(y):.1f}" for x, y in values]]

    if logs:
        edges = [points((x, one.high) for x, one in logs), points((x, one.low) for x, one in logs)]
        drawn.append(area("band logs", *edges))
        drawn.append(curve("line logs", points((x, one.value) for x, one in logs)))
    worlds = [(x, one.world) for x, one in zip(across, effects, strict=True)]
    drawn.append(curve("line world", points((x, one.value) for x, one in worlds)))
    for x, world in worlds:
        drawn.append(rule("whisker world", x, down(world.low), x, down(world.high)))
        drawn.append(rule("dot world", x, down(world.value), x, down(world.value)))
    unknown = " unknown" if effects[0].agreement == "not identifiable" else ""
    attributes = {"class": f"mini{unknown}", "role": "img", "aria-label": _alt_text(effects)}
    return tag("div", attributes, svg(*drawn))


def _alt_text(effects: Sequence[Effect]) -> str:
    unit = pretty_unit(effects[0].unit)
    parts = [
        f"after {one.lag}: {number(one.world.value)} {unit}".rstrip()
        + ("" if one.logs is None else f", logs {number(one.logs.value)}")
        for one in effects
    ]
    return f"Effect of {effects[0].action} on {effects[0].signal}, {'; '.join(parts)}"
