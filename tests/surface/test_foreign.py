"""`benchmarks/foreign.py`: its cases, its scores, and what the peers read."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HERE = ("quadruple-tank", "cstr", "pendulum")
"""The cases without optional packages."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("foreign")


@pytest.fixture
def cases(made: ModuleType) -> ModuleType:
    return importlib.import_module("foreign_cases")


@pytest.fixture
def peers(made: ModuleType) -> ModuleType:
    return importlib.import_module("foreign_peers")


@pytest.mark.parametrize("name", HERE)
def test_a_case_has_its_signals_and_is_deterministic(cases: ModuleType, name: str) -> None:
    case = cases.CASES[name]
    assert cases.unavailable(case) == ""
    log, again, fresh, other = (
        case.record(part, 2, seed) for part, seed in (("train", 0), ("train", 0), ("test", 0), ("train", 1))
    )
    for run, same in zip(log, again, strict=True):
        for table, copy, role, rows in zip(
            run, same, ("observation", "action", "exogenous"), (121, 120, 120), strict=True
        ):
            assert table.shape == (rows, len(case.of(role)))
            assert np.isfinite(table).all()
            np.testing.assert_array_equal(table, copy)
        for column, signal in zip(run[1].T, case.of("action"), strict=True):
            assert signal.low <= column.min() < column.max() <= signal.high
    starts = [run[0][0].tolist() for runs in (log, fresh, other) for run in runs]
    assert len({tuple(start) for start in starts}) == len(starts)


@pytest.mark.parametrize(("ours", "place"), [(0.9, (True, True)), (1.05, (False, True)), (1.2, (False, False))])
def test_the_place_in_a_cell(made: ModuleType, ours: float, place: tuple[bool, bool]) -> None:
    def curve(value: float) -> Any:
        return made.ErrorCurve(value=np.array([value]), draws=np.full((9, 1), value), seeds=np.array([[value]]))

    found = made.cell(curve(ours), {"gru": curve(1.0), "arx": curve(2.0), "subspace": curve(1.5)}, 0)
    assert (found["first"], found["first_or_near"]) == place
    assert found["best_peer"] == "gru"
    assert found["best_linear"] == "subspace"
    assert found["ratio_to_best_linear"] == [made.rounded(ours / 1.5)] * 3


def linear_plant(cases: ModuleType) -> Any:
    """A plant with a hidden state, an input and a known disturbance, without noise."""

    def run(draws: np.random.Generator) -> Any:
        push, wind, state = draws.uniform(-1, 1, (100, 1)), draws.normal(size=(100, 1)), draws.normal(size=2)
        rows = [state]
        for step in range(100):
            state = np.array([0.8 * state[0] + 0.3 * state[1], 0.9 * state[1] + push[step, 0] + wind[step, 0]])
            rows.append(state)
        return np.array(rows)[:, :1], push, wind

    return cases.Case(
        record=cases.each(run),
        quantities=(cases.observed("position", "m"), cases.action("push", "N", -1, 1), cases.exogenous("wind", "N")),
        step_s=1.0,
    )


@pytest.mark.parametrize(("method", "bound"), [("arx", 1e-3), ("subspace", 1e-3), ("persistence", None)])
def test_peers_read_the_windows_in_step(
    made: ModuleType, cases: ModuleType, peers: ModuleType, tmp_path: Path, method: str, bound: float | None
) -> None:
    case = linear_plant(cases)
    log = case.record("train", 10, 0)
    cases.save_log(tmp_path / "train.npz", log)
    windows = made.test_windows(case, case.record("test", 3, 0))
    with np.load(made.write_problem(case, tmp_path, windows)) as file:
        stored = {name: file[name] for name in file.files}
    predicted = peers.answer(method, stored, seed=0, cpu_s=1e6)["predicted"]
    truth = made.table(case, "observation", windows.truth)[:, [step - 1 for step in made.STEPS]]
    spread = np.concatenate([run[0] for run in log]).std(0)
    error = made.error_curve([predicted], truth, spread, windows.episode).value
    if bound is None:
        last = windows.history.observations["position"][:, -1:]
        np.testing.assert_allclose(predicted, np.repeat(last, len(made.STEPS), 1), atol=1e-6)
    else:
        assert (error < bound).all(), error
