"""Formatting of numbers, durations and names for readers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from worldline.stats import Estimate, Rate

__all__ = [
    "DAY_S",
    "HOUR_S",
    "MAX_GROWTH",
    "MINUTE_S",
    "NBSP",
    "Number",
    "between",
    "clock",
    "duration",
    "first_of",
    "growth",
    "html_table",
    "label",
    "listing",
    "number",
    "percent",
    "plural",
    "pretty_unit",
    "quantity",
    "round_percent",
    "size",
    "span",
    "tick",
    "with_interval",
    "with_unit",
]

Number = float | int

NBSP: Final = "\u00a0"
"""Keeps a number and its unit on one line."""
_UNITS: Final = {"degC": "°C", "1": "", "?": "", "percent": "%"}
_BASELINES: Final = {"linear": "linear baseline", "action_blind": "action-blind baseline"}
MAX_GROWTH: Final = 10.0
"""Relative change from which a factor replaces the percentage."""
MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0


def number(value: Number, digits: int = 3) -> str:
    """`value` with about `digits` significant digits, thousands separators and a minus sign (U+2212)."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == round(value) and abs(value) < 1e7:
        return f"{value:,.0f}".replace(",", "\u202f").replace("-", "−")
    if not 1e-4 <= abs(value) < 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace(",", "\u202f").replace("-", "−")


def tick(value: Number) -> str:
    """A number on an axis, without trailing zeros."""
    text = number(value, 12)
    return text if "." not in text or "e" in text else text.rstrip("0").rstrip(".")


def percent(share: Number, *, signed: bool = False) -> str:
    """A share in per cent, with one decimal below 100 % and three significant digits from 100 % on."""
    text = number(abs(share) * 100, 3) if abs(share) >= 1 else f"{abs(share) * 100:.1f}"
    zero = float(text.replace("\u202f", "").replace("∞", "inf").replace("–", "nan")) == 0
    sign = "" if zero else "−" if share < 0 else "+" if signed else ""
    return f"{sign}{text.removesuffix('.0') if zero or text == '100.0' else text}{NBSP}%"


def growth(share: Number) -> str:
    """A relative change: "+45 %"; as a factor, "×24", from +1,000 % on."""
    return _whole(percent(share, signed=True)) if share < MAX_GROWTH else f"×{number(1 + share, 2)}"


def round_percent(share: Number) -> str:
    """A share in per cent, without a decimal that is 0, for levels and axes."""
    return _whole(percent(share))


def _whole(text: str) -> str:
    return text.replace(f".0{NBSP}", NBSP)


def quantity(value: Number, unit: str) -> str:
    """A number with its unit."""
    return f"{number(value)}{NBSP}{pretty_unit(unit)}".rstrip()


def pretty_unit(unit: str) -> str:
    """The unit for print; "" for a plain number or an unknown unit."""
    return _UNITS.get(unit, unit).replace("m2", "m²").replace("m3", "m³")


def with_unit(text: str, unit: str) -> str:
    """A label followed by its unit in brackets."""
    return f"{text} [{pretty_unit(unit)}]" if pretty_unit(unit) else text


def with_interval(found: Estimate) -> str:
    """A figure with its interval: "1.2 (0.9 to 1.5)"."""
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def label(name: str) -> str:
    """The name of a baseline or a measure as words; names of signals are shown as they are."""
    return _BASELINES.get(name, name.replace("_", " "))


def between(estimate: Estimate | Rate) -> str:
    """The interval of a share: "95.7 to 99.5 %"."""
    low, high = percent(estimate.low), percent(estimate.high)
    return f"{low.removesuffix(f'{NBSP}%')} to {high}"


def listing(parts: Sequence[str]) -> str:
    """A list in words: "a, b and c"."""
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def html_table(caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for notebooks; the texts are escaped. Without titles there is no first row."""
    body = ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
    head = ["".join(f"<th>{escape(title)}</th>" for title in titles)] if titles else []
    lines = "".join(f"<tr>{cells}</tr>" for cells in (*head, *body))
    return f"<table><caption>{escape(caption)}</caption>{lines}</table>"


def first_of(parts: Sequence[str], most: int = 6) -> str:
    """A list that is cut after `most` parts: "a, b and 7 more"."""
    return ", ".join(parts) if len(parts) <= most else f"{', '.join(parts[:most])} and {len(parts) - most} more"


def plural(count: int, noun: str) -> str:
    """The count with its noun: "1 step", "12 steps", "2 trajectories"."""
    many = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number(count)}{NBSP}{noun if count == 1 else many}"


def clock(horizon: int, step_s: float | None) -> tuple[float, str]:
    """The length of one step in a readable unit of time, and that unit, for an axis of `horizon` steps."""
    if step_s is None or horizon * step_s < 2 * MINUTE_S:
        return 1.0, "steps"
    if horizon * step_s <= 2 * HOUR_S:
        return step_s / MINUTE_S, "minutes"
    return (step_s / HOUR_S, "hours") if horizon * step_s <= 4 * DAY_S else (step_s / DAY_S, "days")


def span(steps: int, step_s: float | None) -> str:
    """The duration of some steps: "6 h", "25 min", "8 steps"."""
    if step_s is None or steps * step_s < MINUTE_S:
        return plural(steps, "step")
    seconds = steps * step_s
    if seconds < HOUR_S:
        return f"{number(seconds / MINUTE_S)}{NBSP}min"
    return f"{number(seconds / HOUR_S)}{NBSP}h"


def duration(seconds: Number) -> str:
    """Wall time: "94 s", "4 min 12 s"."""
    rounded = round(seconds)
    if rounded < 2 * MINUTE_S:
        return f"{number(seconds, 2) if seconds < 10 else rounded}{NBSP}s"
    return (
        f"{rounded // 60}{NBSP}min {rounded % 60}{NBSP}s"
        if rounded < 2 * HOUR_S
        else f"{number(seconds / HOUR_S, 2)}{NBSP}h"
    )


_SIZES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(num_bytes: Number) -> str:
    """Bytes in a readable unit: "3.42 MB"."""
    for unit, name in _SIZES:
        if num_bytes >= unit:
            return f"{number(num_bytes / unit)}{NBSP}{name}"
    return f"{number(num_bytes, 2)}{NBSP}B"
