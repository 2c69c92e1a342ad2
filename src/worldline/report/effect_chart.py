"""Small chart of an effect over its lags: the logs as a band, the world as a line with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from worldline.audit.audit_evidence import Effect
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.formatting import number, pretty_unit
from worldline.report.markup import Html, tag
from worldline.report.svg import Plane, area, curve, rule, svg
from worldline.stats import Estimate


def effect_picture(effects: Sequence[Effect]) -> Html:
    """The chart; lags are equally spaced.

    Args:
        effects: effects of one action on one signal, by lag.
    """
    least = MIN_EFFECT_SHARE * effects[0].spread  # a negligible effect must look negligible
    logs = [(k + 0.5, one.logs) for k, one in enumerate(effects) if one.logs is not None]
    worlds = [(k + 0.5, one.world) for k, one in enumerate(effects)]
    ends = [-least, least, *(end for _, one in (*worlds, *logs) for end in (one.low, one.high))]
    margin = 0.06 * ((max(ends) - min(ends)) or 1.0)
    plane = Plane((0, len(effects)), (min(ends) - margin, max(ends) + margin))

    def runs(found: Sequence[tuple[float, Estimate]], name: str) -> list[list[str]]:
        return plane.runs([x for x, _ in found], [getattr(one, name) for _, one in found])

    drawn = [plane.horizontal("level", 0.0)]
    if logs:
        drawn += [area("band logs", runs(logs, "high"), runs(logs, "low")), curve("line logs", runs(logs, "value"))]
    drawn.append(curve("line world", runs(worlds, "value")))
    for position, one in worlds:
        x, middle = plane.across(position), plane.down(one.value)
        drawn.append(rule("whisker world", x, plane.down(one.low), x, plane.down(one.high)))
        drawn.append(rule("dot world", x, middle, x, middle))
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
