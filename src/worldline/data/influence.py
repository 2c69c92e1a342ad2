"""Linear influences between the columns of a table: how much the past of some explains the changes of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import stats

LAGS = 3
MAX_ROWS = 10_000
"""Rows from which influences follow."""
MIN_ROWS = 500
MAX_COLUMNS = 64
MAX_VALUE = 1e100
"""Squares of larger values would overflow."""
MAX_P_VALUE = 1e-6
"""An influence with a larger p-value counts as none."""


def influences(blocks: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, tuple[float, float]]:
    """Returns how far each column is driven by others, and how far it drives one of them.

    Both are partial shares of variance, from 0 to 1, of linear regressions on the last `LAGS` rows of all columns.
    Being driven compares the regression with that on the column's own past. Driving removes one column from it.

    Args:
        blocks: successive rows [rows] of each column; missing values are NaN.

    Returns:
        By column; empty if there are too few rows. Columns that are constant or mostly missing are left out.

    Source: Granger 1969, "Investigating causal relations by econometric models and cross-spectral methods".
    """
    names = _usable(blocks)
    tables = [np.stack([block[name] for name in names], 1) for block in blocks] if len(names) > 1 else []
    windows = _windows(tables, len(names))
    count, num = len(windows), len(names)
    if count < max(MIN_ROWS, 10 * LAGS * num) or num > MAX_COLUMNS:
        return {}
    middle, spread = windows[..., -1].mean(0), windows[..., -1].std(0)
    windows = (windows - middle[:, None]) / np.where(spread > 0, spread, 1.0)[:, None]
    outcomes, pasts = windows[..., -1], windows[..., -2::-1]  # the last row comes first
    past = np.concatenate([pasts.reshape(count, -1), np.ones((count, 1))], 1)
    basis, triangle = np.linalg.qr(past)
    inverse = np.linalg.pinv(triangle, rcond=1e-10)
    weights, spread = inverse @ (basis.T @ outcomes), inverse @ inverse.T
    errors = np.maximum(((outcomes - past @ weights) ** 2).sum(0), 1e-12 * count)
    freedom = count - past.shape[1]
    driven, drives = np.zeros(num), np.zeros(num)
    for number in range(num):
        own = np.concatenate([pasts[:, number], np.ones((count, 1))], 1)
        alone = ((outcomes[:, number] - own @ np.linalg.lstsq(own, outcomes[:, number], rcond=1e-10)[0]) ** 2).sum()
        driven[number] = _share(alone - errors[number], errors[number], LAGS * (num - 1), freedom)
        part = slice(LAGS * number, LAGS * (number + 1))
        gains = (weights[part] * np.linalg.lstsq(spread[part, part], weights[part], rcond=1e-10)[0]).sum(0)
        shares = [_share(gain, error, LAGS, freedom) for gain, error in zip(gains, errors, strict=True)]
        drives[number] = max(share for other, share in enumerate(shares) if other != number)
    return {name: (float(driven[number]), float(drives[number])) for number, name in enumerate(names)}


def _usable(blocks: Sequence[Mapping[str, NDArray[np.float64]]]) -> list[str]:
    """The columns that all blocks hold, that vary, and that are known in most rows."""
    names = [name for name in (blocks[0] if blocks else ()) if all(name in block for block in blocks)]
    whole = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    known = {name: values[np.isfinite(values)] for name, values in whole.items()}
    known = {name: values for name, values in known.items() if 2 * len(values) > len(whole[name])}
    return [name for name, values in known.items() if np.abs(values).max() < MAX_VALUE and np.ptp(values) > 0]


def _windows(tables: Sequence[NDArray[np.float64]], num: int) -> NDArray[np.float64]:
    """The rows before each row and the row itself, [rows, num, LAGS + 1]; without windows that miss a value."""
    windows = [sliding_window_view(table, LAGS + 1, axis=0) for table in tables if len(table) > LAGS]
    every: NDArray[np.float64] = np.concatenate([np.zeros((0, num, LAGS + 1)), *windows])
    return every[np.isfinite(every).all((1, 2))]


def _share(gain: float, error: float, num_weights: int, freedom: int) -> float:
    """The partial share of variance of some weights; 0 if it is not significant."""
    gain = max(gain, 0.0)
    p_value = stats.f.sf(gain / num_weights / (error / freedom), num_weights, freedom)
    return gain / (gain + error) if p_value < MAX_P_VALUE else 0.0
