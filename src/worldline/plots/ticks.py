"""Round tick values for axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from worldline.formatting import Number, tick


def nice_ticks(low: Number, high: Number, count: int) -> list[float]:
    """About `count` round numbers that enclose [low, high]."""
    if not high - low > 1e-300:
        half = (abs(low) if abs(low) > 1e-300 else 1.0) / 2  # half of a denormal number would be 0
        low, high = low - half, high + half
    rough = (high - low) / max(count - 1, 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10, 20) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def zero_ticks(lows: Iterable[Number], highs: Iterable[Number]) -> list[float]:
    """Ticks that include 0; values slightly below 0 do not extend the axis."""
    low, high = min([0.0, *lows]), max([0.0, *highs])
    return nice_ticks(0.0 if -low < 0.05 * high else low, high, 5)


def log_ticks(low: Number, high: Number) -> list[float]:
    """Powers of ten that enclose the positive range [low, high], with 2 and 5 in between for short ranges."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    start = max((k for k, tick in enumerate(ticks) if tick <= low * 1.0001), default=0)
    stop = min((k for k, tick in enumerate(ticks) if tick >= high * 0.9999), default=len(ticks) - 1)
    chosen = ticks[start : max(stop, start + 1) + 1]
    return chosen if len(chosen) <= 7 else [*chosen[: -1 : math.ceil(len(chosen) / 6)], chosen[-1]]


def tick_texts(ticks: Sequence[Number]) -> list[str]:
    """Tick labels, as short as possible without rounding."""
    largest = max(abs(value) for value in ticks)
    if largest == 0 or 1e-4 < largest < 1e6:
        return [tick(value) for value in ticks]
    for digits in range(16):
        texts = [f"{value:.{digits}e}" for value in ticks]
        if all(abs(float(text) - value) <= 1e-12 * largest for text, value in zip(texts, ticks, strict=True)):
            break
    parts = [text.split("e") for text in texts]
    return [f"{mantissa}e{int(power)}".replace("-", "−") if float(mantissa) else "0" for mantissa, power in parts]
