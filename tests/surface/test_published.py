"""`benchmarks/published.py` on synthetic records in the formats of the public files."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("published")


def write(path: Path, columns: dict[str, Any]) -> None:
    """A CSV file with quoted names and a comma at the end of each line, such as the public ones."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(f'"{name}"' for name in columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("".join(f"{line},\n" for line in lines))


def ends(record: Any) -> list[float]:
    """The first and the last input, and its largest distance from the negative output."""
    return [record.u[0], record.u[-1], np.abs(record.u + record.y).max()]


def test_records_are_cut_as_published(made: ModuleType, tmp_path: Path) -> None:
    row = np.arange(131072)
    write(tmp_path / "SNLS80mV.csv", {"V1": row, "V2": -row})
    case = made.silverbox(tmp_path)
    assert ends(case.estimation) == [40650, 105711, 0]
    assert {name: ends(run.record) for name, run in case.tests.items()} == {
        "multisine": [105712, 127399, 0],
        "arrow": [100, 40574, 0],
        "arrow without extrapolation": [100, 32099, 0],
    }
    columns = {"U": row[:9], "Y": -row[:9], "U_val": row[20:], "Y_val": -row[20:]}
    savemat(tmp_path / "wh.mat", {name: column[:, None] for name, column in columns.items()})
    case = made.wiener_hammerstein(tmp_path)
    assert [ends(case.estimation), ends(case.tests["test"].record)] == [[0, 8, 0], [20, 131071, 0]]


@pytest.mark.parametrize("lag", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_world_of_a_linear_plant_simulates_a_record(made: ModuleType, tmp_path: Path, lag: int) -> None:
    """With a lag, the output follows the input of its own row, which the alignment check must find."""

    def run(seed: int, size: float) -> tuple[list[float], list[float]]:
        inputs = np.random.default_rng(seed).uniform(-size, size, 1024)
        outputs, state = [], np.zeros(2)
        for value in inputs:
            before = state[0]
            state = np.array([0.8 * state[0] + 0.3 * state[1] + 0.2 * value, 0.6 * state[1] + 0.5 * value])
            outputs.append(float(state[0] if lag else before))
        return inputs.tolist(), outputs

    (u, y), (later, outcome) = run(0, 1.0), run(1, 1.5)
    steps = [4, *[""] * 1023]
    write(tmp_path / "tanque.csv", {"uEst": u, "uVal": later, "yEst": y, "yVal": outcome, "Ts": steps})
    measured = made.measure(made.tanks(tmp_path), tmp_path / "case", recipe="linear", progress=None)
    assert (measured["model"], measured["action_lag"]) == ("linear", lag)
    shares = {name: run["rmse_over_deviation"] for name, run in measured["tests"].items()}
    assert list(shares) == ["validation", "validation, 5 rows known"]
    assert max(shares.values()) < 1e-3, shares
    assert measured["tests"]["validation"]["rmse_V"] == pytest.approx(shares["validation"] * np.std(outcome[50:]))
