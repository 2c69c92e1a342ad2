from __future__ import annotations

import numpy as np
import pytest

from worldline.data.influence import influences


def plant(rows: int) -> dict[str, np.ndarray]:
    """A level that a pump and a weather drive, and a sensor of something else."""
    draw = np.random.default_rng(0)
    pump, weather, other, level = np.repeat(draw.uniform(-1, 1, rows), 5)[:rows], *np.zeros((3, rows))
    for t in range(rows - 1):
        weather[t + 1], other[t + 1] = (0.95 * x + 0.1 * draw.normal() for x in (weather[t], other[t]))
        level[t + 1] = 0.9 * level[t] + 0.1 * pump[t] + 0.1 * weather[t] + 0.01 * draw.normal()
    return {"pump": pump, "weather": weather, "other": other, "level": level, "still": np.zeros(rows)}


def test_what_drives_and_what_is_driven():
    found = influences([plant(3000)])
    driven, drives = ({name: shares[at] for name, shares in found.items()} for at in (0, 1))
    assert driven["level"] > 0.5
    assert drives["pump"] > 0.5
    assert drives["weather"] > 0.2
    assert driven["pump"] == driven["weather"] == driven["other"] == drives["other"] == drives["level"] == 0
    assert "still" not in found


def test_missing_values_and_few_rows():
    table = plant(3000)
    table["level"][::10] = np.nan
    blocks = [{name: values[first : first + 500] for name, values in table.items()} for first in range(0, 3000, 500)]
    assert influences(blocks)["level"][0] == pytest.approx(influences([plant(3000)])["level"][0], abs=0.1)
    assert influences([plant(100)]) == {}
    assert influences([]) == {}
