"""Results of the MCP tools: at most 2,000 bytes for a language model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from worldline.errors import UnsupportedError
from worldline.plots.result_series import ResultSeries, columns
from worldline.schema import Kind
from worldline.world.base import Plan, Prediction
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
_DETAILS: Final = (
    *((50, 16, 64), (25, 16, 64), (10, 16, 64), (5, 16, 64), (3, 16, 64), (3, 4, 64), (3, 4, 16), (3, 4, 8), (3, 2, 4)),
    *((1, 1, 8), (1, 1, 4), (1, 1, 2), (1, 1, 1), (1, 1, 0)),
)
"""Numbers of steps, of components of a vector and of entries of a list or map, from much to little."""


def fit(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with as much detail as fits into `MAX_BYTES`. A shortened one has the key `shortened`.

    Args:
        result: of texts, numbers, lists and maps. Arrays [steps, *shape] lose steps evenly; the last one stays.

    Raises:
        UnsupportedError: it does not fit with the least detail.
    """
    for steps, components, entries in _DETAILS:
        shown = {name: _shown(value, steps, components, entries) for name, value in result.items()}
        if _count(shown) < _count(result):
            shown["shortened"] = "parts are left out to keep this short; ask for fewer steps to see more of each"
        if len(encoded(shown).encode()) <= MAX_BYTES:
            return shown
    raise UnsupportedError(f"the result exceeds {MAX_BYTES} bytes even if it is shortened. Ask for less.")


def _count(value: Any) -> int:
    """The number of texts and numbers."""
    if isinstance(value, np.ndarray):
        return value.size
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    return 1 if parts is None else sum(map(_count, parts))


def _shown(value: Any, steps: int, components: int, entries: int) -> Any:
    """The value in JSON, with five significant digits; null if a number is not finite."""
    if isinstance(value, np.ndarray):
        # Evenly spaced from the last row on.
        rows = sorted({round(row) for row in np.linspace(len(value) - 1, 0, min(steps, len(value)))})
        table = value[rows]
        return _shown((table[:, :components] if table.ndim > 1 else table).tolist(), 0, 0, 10**9)
    if isinstance(value, Mapping):
        return {name[:60]: _shown(part, steps, components, entries) for name, part in [*value.items()][:entries]}
    if isinstance(value, list | tuple):
        return [_shown(part, steps, components, entries) for part in value[:entries]]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value[:300] if isinstance(value, str) else value


def encoded(result: Mapping[str, Any]) -> str:
    """Compact JSON."""
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def facts_of(result: Result) -> dict[str, Any]:
    """The numbers and texts of a result and of the prediction of a plan, without arrays; what the trust means."""
    facts = dict[str, Any]()
    for item in fields(cast(Any, result)):
        value = getattr(result, item.name)
        if isinstance(value, str) or (np.ndim(value) == 0 and isinstance(value, int | float | np.number)):
            facts[item.name] = value if isinstance(value, str) else np.asarray(value).item()
    if "trust" in facts:
        trust = float(facts["trust"])
        facts["trust_meaning"] = f"trust {trust:.2f}: the history is like the training data"
        if math.isnan(trust):
            facts["trust_meaning"] = "trust unknown: this world is not calibrated"
        elif trust < MIN_TRUST:
            facts["trust_meaning"] = f"trust {trust:.2f}: unlike the training data; do not rely on this"
    if isinstance(result, Prediction):
        steps = max((len(forecast.mean) for forecast in result.signals.values()), default=0)
        facts |= {"steps": steps} | ({} if facts.pop("calibrated") else {"level": None})
    if isinstance(result, Plan):
        facts["violation"] = float(np.max(result.violation, initial=0.0))
        facts = facts if result.prediction is None else facts_of(result.prediction) | facts
    return facts


def summary(series: Sequence[ResultSeries]) -> dict[str, Any]:
    """Steps and values per signal: {"at_steps": [...], "signals": {name: {"unit", "mean", "low", "high"}}}."""
    steps = {"at_steps": series[0].first + np.arange(len(series[0].values))} if series else {}
    return {**steps, "signals": {curve.signal.name: _curves(curve) for curve in series}}


def end_values(series: Sequence[ResultSeries]) -> dict[str, Any]:
    """Per signal its last values: {name: {"unit", "mean", "low", "high"}}."""

    def last(value: Any) -> Any:
        return value[-1].tolist() if isinstance(value, np.ndarray) else value

    return {curve.signal.name: {label: last(value) for label, value in _curves(curve).items()} for curve in series}


def _curves(curve: ResultSeries) -> dict[str, Any]:
    """Unit and values of each curve, [rows] or [rows, components]."""
    signal, facts = curve.signal, dict[str, Any](unit=curve.signal.unit[:20])
    if signal.components and signal.kind is Kind.VECTOR:
        facts["components"] = signal.components
    for label, values in {_LABELS.get(curve.heading, "value"): curve.values, **curve.others}.items():
        table: NDArray[Any] = columns(values)
        facts[label] = table[:, 0] if signal.size == 1 or values.ndim == 1 else table
    return facts
