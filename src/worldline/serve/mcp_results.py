"""Results of the MCP tools: at most 2,000 bytes for a language model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NamedTuple, cast

import numpy as np

from worldline.errors import UnsupportedError
from worldline.plots.result_series import ResultSeries, columns
from worldline.schema import Kind
from worldline.world.result import Result

MAX_BYTES: Final = 2000
"""Largest result of a tool, as compact JSON in UTF-8."""

MIN_TRUST: Final = 0.05
"""Trust below which a result calls itself unreliable."""

MAX_TEXT: Final = 600
"""Characters of an error."""

_LABELS: Final = {
    "predicted observations": "mean",
    "other actions": "other_actions",
    "p-values of the steps": "p_value",
}


class Detail(NamedTuple):
    """How much of a result is shown.

    Attributes:
        steps: number of steps, evenly spaced, with the last one.
        components: number of components per vector.
        parts: number of signals, worlds, plans or moments.
    """

    steps: int
    components: int
    parts: int


_DETAILS: Final = tuple(
    Detail(*numbers)
    for numbers in (
        *((50, 16, 64), (25, 16, 64), (10, 16, 64), (5, 16, 64), (3, 16, 64), (3, 4, 64), (3, 4, 8), (3, 2, 4)),
        *((1, 1, 8), (1, 1, 4), (1, 1, 2), (1, 1, 1), (1, 1, 0)),
    )
)


def fit(build: Callable[[Detail], Mapping[str, Any]]) -> dict[str, Any]:
    """The result with as much detail as fits into `MAX_BYTES`. A shortened one has the key `shortened`.

    Args:
        build: makes the result; smaller with less detail.

    Raises:
        UnsupportedError: it does not fit with the least detail.
    """
    for detail in _DETAILS:
        result = dict(build(detail))
        if detail is not _DETAILS[0]:
            result["shortened"] = "parts are left out to keep this short; ask for fewer steps to see more of each"
        if len(encoded(result).encode()) <= MAX_BYTES:
            return result
    raise UnsupportedError(f"the result exceeds {MAX_BYTES} bytes even if it is shortened. Ask for less.")


def encoded(result: Mapping[str, Any]) -> str:
    """Compact JSON."""
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def trust_meaning(trust: float) -> str:
    """What the trust in a history means, in one sentence."""
    if math.isnan(trust):
        return "trust unknown: this world is not calibrated"
    if trust < MIN_TRUST:
        return f"trust {trust:.2f}: unlike the training data; do not rely on this"
    return f"trust {trust:.2f}: the history is like the training data"


def plain(value: Any) -> Any:
    """Numbers for JSON with five significant digits; null if not finite."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def even_steps(count: int, most: int) -> list[int]:
    """At most `most` row numbers below `count`, evenly spaced, with the last one."""
    return sorted({round(row) for row in np.linspace(count - 1, 0, min(most, count))})


def facts_of(result: Result) -> dict[str, Any]:
    """The numbers and texts of a result, without its arrays."""
    facts = dict[str, Any]()
    for item in fields(cast(Any, result)):
        value = getattr(result, item.name)
        if isinstance(value, str):
            facts[item.name] = value[:300]
        elif np.ndim(value) == 0 and isinstance(value, int | float | np.number):
            facts[item.name] = plain(np.asarray(value).item())
    if "trust" in facts:
        facts["trust_meaning"] = trust_meaning(float(np.ravel(cast(Any, result).trust)[0]))
    return facts


def summary(series: Sequence[ResultSeries], detail: Detail) -> dict[str, Any]:
    """Steps and values per signal: {"at_steps": [...], "signals": {name: {"unit", "mean", "low", "high"}}}."""
    shown = series[: detail.parts]
    if not shown or not len(shown[0].values):
        return {"signals": {}}
    rows = even_steps(len(shown[0].values), detail.steps)
    content: dict[str, Any] = {"at_steps": [shown[0].first + row for row in rows]}
    content["signals"] = {curve.signal.name: _curves(curve, rows, detail.components) for curve in shown}
    if len(shown) < len(series):
        content["more_signals"] = len(series) - len(shown)
    return content


def _curves(curve: ResultSeries, rows: Sequence[int], components: int) -> dict[str, Any]:
    """Unit, and values of each curve at some rows; of a vector its first components."""
    facts: dict[str, Any] = {"unit": curve.signal.unit[:20]}
    if curve.signal.components and curve.signal.kind is Kind.VECTOR:
        facts["components"] = [name[:20] for name in curve.signal.components[:components]]
    for label, values in {_LABELS.get(curve.heading, "value"): curve.values, **curve.others}.items():
        table = columns(values[list(rows)])[:, :components]
        facts[label] = plain((table[:, 0] if curve.signal.size == 1 or not values[0].ndim else table).tolist())
    if math.prod(curve.values.shape[1:]) > components:
        facts["num_components"] = math.prod(curve.values.shape[1:])
    return facts


def end_values(series: Sequence[ResultSeries], detail: Detail) -> dict[str, Any]:
    """Per signal its last values: {name: {"unit", "mean", "low", "high"}}."""
    last_values = dict[str, Any]()
    for curve in series[: detail.parts]:
        curves = _curves(curve, [len(curve.values) - 1], detail.components)
        last_values[curve.signal.name] = {
            name: value[0] if isinstance(value, list) and name != "components" else value
            for name, value in curves.items()
        }
    return last_values
