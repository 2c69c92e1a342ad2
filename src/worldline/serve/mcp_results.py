"""Results of the MCP tools: at most 2,000 bytes for a language model, and a store of the full results."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, NamedTuple, cast, final

import numpy as np

from worldline.errors import InputError, UnknownNameError, UnsupportedError
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
        *((10, 16, 64), (7, 16, 64), (5, 16, 64), (3, 16, 64), (3, 4, 64), (3, 4, 16), (3, 4, 8), (3, 2, 4)),
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
            result["shortened"] = "parts are left out to keep this short; the handle, if any, has them"
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


def plain(value: Any, digits: int = 5) -> Any:
    """Numbers for JSON with `digits` significant digits; null if not finite."""
    if isinstance(value, list):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
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


def _curves(curve: ResultSeries, rows: Sequence[int], components: int, digits: int = 5) -> dict[str, Any]:
    """Unit, and values of each curve at some rows; of a vector its first components."""
    facts: dict[str, Any] = {"unit": curve.signal.unit[:20]}
    if curve.signal.components and curve.signal.kind is Kind.VECTOR:
        facts["components"] = [name[:20] for name in curve.signal.components[:components]]
    for label, values in {_LABELS.get(curve.heading, "value"): curve.values, **curve.others}.items():
        table = columns(values[list(rows)])[:, :components]
        facts[label] = plain((table[:, 0] if curve.signal.size == 1 or not values[0].ndim else table).tolist(), digits)
    if math.prod(curve.values.shape[1:]) > components:
        facts["num_components"] = math.prod(curve.values.shape[1:])
    return facts


@final
class ResultStore:
    """Full results by handle, in memory. The least recently used ones are dropped first.

    Args:
        count: results at most.
        num_bytes: of all results at most.
        lifetime_s: seconds after which a result expires.
    """

    def __init__(self, *, count: int, num_bytes: int, lifetime_s: float) -> None:
        self._count, self._num_bytes, self._lifetime_s = count, num_bytes, lifetime_s
        self._stored: OrderedDict[str, tuple[str, float, int, Mapping[str, ResultSeries]]] = OrderedDict()

    def put(self, owner: str, series: Mapping[str, ResultSeries]) -> str | None:
        """Stores a result for one caller; its handle, or None if the result is too large to be kept."""
        size = sum(value.nbytes for curve in series.values() for value in (curve.values, *curve.others.values()))
        if size > self._num_bytes:
            return None
        handle = secrets.token_urlsafe(12)
        self._stored[handle] = owner, time.monotonic() + self._lifetime_s, size, series
        while len(self._stored) > self._count or sum(kept[2] for kept in self._stored.values()) > self._num_bytes:
            self._stored.popitem(last=False)
        return handle

    def page(self, owner: str, handle: str, name: str | None, first: int | None, last: int | None) -> dict[str, Any]:
        """Rows of one signal of a result, as many as fit; without a name, its signals.

        Args:
            owner: id of the caller.
            handle: of the result.
            name: of the signal.
            first: first step; None for the first of the signal.
            last: last step; None for the last of the signal.

        Raises:
            InputError: the caller has no such handle, or the signal has no such steps.
            UnknownNameError: the result has no such signal.
        """
        stored_owner, expires, _, series = self._stored.get(handle, ("", -math.inf, 0, {}))
        if stored_owner != owner or expires <= time.monotonic():
            raise InputError(
                f"there is no result {handle!r:.40}. It expired, or the handle is wrong. Call the tool again."
            )
        self._stored.move_to_end(handle)
        if name is None:
            return fit(lambda detail: _contents(series, detail))
        return _rows(name, _named(series, name), first, last)


def _contents(series: Mapping[str, ResultSeries], detail: Detail) -> dict[str, Any]:
    listed = list(series.items())[: detail.parts]
    signals = {name: {"first_step": sig.first, "last_step": sig.first + len(sig.values) - 1} for name, sig in listed}
    return {"signals": signals, "num_signals": len(series), "hint": "pass signal to get its values"}


def _named(series: Mapping[str, ResultSeries], name: str) -> ResultSeries:
    """A signal, or one component of it, such as "position.x"."""
    if name in series:
        return series[name]
    for known, curve in series.items():
        labels = [known + label.removeprefix(curve.signal.name) for label in curve.names]
        if name in labels:
            at = labels.index(name)
            curves = {label: columns(value)[:, at] for label, value in {"": curve.values, **curve.others}.items()}
            part = replace(curve.signal, shape=(1,), components=(), low=None, high=None)
            return replace(curve, signal=part, values=curves.pop(""), others=curves)
    raise UnknownNameError("signal of this result", name, series)


def _rows(name: str, curve: ResultSeries, first: int | None, last: int | None) -> dict[str, Any]:
    """Consecutive rows, as many as fit; `next_first_step` continues."""
    end = curve.first + len(curve.values) - 1
    start, stop = curve.first if first is None else first, end if last is None else min(last, end)
    if not curve.first <= start <= stop:
        raise InputError(
            f"{name!r:.80} has steps {curve.first} to {end}, got {start} to {stop}. Choose steps in this range."
        )
    components = math.prod(curve.values.shape[1:])
    count = min(stop - start + 1, max(1, MAX_BYTES // (4 * components)))
    while count and components:
        rows = range(start - curve.first, start - curve.first + count)
        page = {"first_step": start, "last_step": start + count - 1, **_curves(curve, rows, components, digits=7)}
        if start + count <= stop:
            page["next_first_step"] = start + count
        if len(encoded(page).encode()) <= MAX_BYTES:
            return page
        count, components = (count * 2 // 3, components) if count > 1 else (1, components // 2)
    raise UnsupportedError(f"a row of {name!r:.80} exceeds {MAX_BYTES} bytes.")


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
