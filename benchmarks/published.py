"""Free runs on published benchmarks of system identification: Silverbox, Wiener-Hammerstein (2009), cascaded tanks.

Run: .venv/bin/python benchmarks/published.py FOLDER [--cases tanks] [--budget 600]
Writes benchmarks/results/published.json. About 35 minutes on one core.

FOLDER holds three files, of which public copies exist on GitHub:

* SNLS80mV.csv: forgi86/pytorch-ident, examples/statespace/silverbox/SilverboxFiles;
* wh.mat: gsmfnc/LPV_SysId, noise_simulations/autoencoders/datasets;
* tanque.csv: Rafa7046/Non_Linear_Identification, src/data.

`learn` gets the estimation record with the roles and units of its two signals, and default options. If the alignment
check of this record finds that a row holds the action that led to its output, the actions are moved as it says. Then
the world simulates each test record from its first 50 rows and the input; later outputs are only compared. An error is
the root mean square over these later rows.

Source: GerbenBeintema/nonlinear_benchmarks, nonlinear_benchmarks/benchmarks.py at 0f8f7ac, the loader of
nonlinearbenchmark.org, for the splits, sample times and known rows. Nothing was tuned on these records.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from common import CLOCK, Row, arguments, use_processor_time, write
from numpy.typing import NDArray
from scipy.io import loadmat

import worldline
from worldline.data.quality.alignment import AlignmentVerdict, alignment

KNOWN: Final = 50
"""Rows of a test record that the world may read."""
PIECE: Final = 100
"""Steps of the pieces in which the alignment is checked; `learn` cuts a recording likewise."""
Table = NDArray[np.float64]


class Record(NamedTuple):
    """An input and the output at the same times, [T] in V."""

    u: Table
    y: Table

    def rows(self, begin: int, end: int | None) -> Record:
        """A part of the record."""
        return Record(self.u[begin:end], self.y[begin:end])


class FreeRun(NamedTuple):
    """A test record, of which the world reads the first `known` rows."""

    record: Record
    known: int = KNOWN


@dataclass(frozen=True, kw_only=True)
class Case:
    """A benchmark.

    Args:
        step_s: time between rows.
        unit: of the published errors, "mV" or "V".
        estimation: the record to learn from.
        tests: by name.
    """

    step_s: float
    unit: str
    estimation: Record
    tests: Mapping[str, FreeRun]

    def frame(self) -> pd.DataFrame:
        """The estimation record as a table."""
        times = np.arange(len(self.estimation.u)) * self.step_s
        return pd.DataFrame({"time_s": times, "u": self.estimation.u, "y": self.estimation.y})

    def edits(self) -> dict[str, dict[str, Any]]:
        """The roles and units. The bounds of the input cover the tests, because worlds refuse actions beyond them."""
        inputs = np.concatenate([self.estimation.u, *(test.record.u for test in self.tests.values())])
        action = {"role": "action", "unit": "V", "low": float(inputs.min()), "high": float(inputs.max())}
        return {"u": action, "y": {"role": "observation", "unit": "V"}}


def silverbox(folder: Path) -> Case:
    """Learns from three quarters of the multisine, and simulates the rest and the arrow of growing amplitude."""
    table = pd.read_csv(folder / "SNLS80mV.csv", usecols=["V1", "V2"])  # lines end in a comma
    whole = Record(table["V1"].to_numpy(float), table["V2"].to_numpy(float))
    arrow, multisine = whole.rows(100, 40575), whole.rows(40650, 127400)
    cut = int(0.75 * len(multisine.u))
    return Case(
        step_s=2**14 / 1e7,  # 610.35 Hz
        unit="mV",
        estimation=multisine.rows(0, cut),
        tests={
            "multisine": FreeRun(multisine.rows(cut, None)),
            "arrow": FreeRun(arrow),
            "arrow without extrapolation": FreeRun(arrow.rows(0, 32000)),
        },
    )


def wiener_hammerstein(folder: Path) -> Case:
    """The file holds rows 5,200 to 105,198 and 105,200 to 183,999 of the original, counted from 0.

    These are the records of the loader, whose estimation record has one more row at its end.

    Source: gsmfnc/LPV_SysId, noise_simulations/lpvcore/wiener_hammerstein/load_datasets.m at a843d61.
    """
    table = loadmat(folder / "wh.mat")
    estimation, test = (
        Record(table["U" + part].ravel().astype(float), table["Y" + part].ravel().astype(float))
        for part in ("", "_val")
    )
    return Case(step_s=1 / 51200, unit="mV", estimation=estimation, tests={"test": FreeRun(test)})


def tanks(folder: Path) -> Case:
    """Two records of the same length. The loader declares 5 known rows, so this is measured too."""
    table = pd.read_csv(folder / "tanque.csv")
    estimation, test = (
        Record(table["u" + part].to_numpy(float), table["y" + part].to_numpy(float)) for part in ("Est", "Val")
    )
    tests = {"validation": FreeRun(test), "validation, 5 rows known": FreeRun(test, known=5)}
    return Case(step_s=float(table["Ts"].iloc[0]), unit="V", estimation=estimation, tests=tests)


CASES: Final[Mapping[str, Callable[[Path], Case]]] = {
    "silverbox": silverbox,
    "wiener-hammerstein": wiener_hammerstein,
    "tanks": tanks,
}


def lag_of(case: Case, store: Path) -> int:
    """The `action_lag` that the alignment check of the estimation record names."""
    reading = worldline.data.ReadOptions(max_steps=PIECE)
    worldline.data.import_logs(case.frame(), store, reading=reading, edits=case.edits(), keep_going=True)
    measured = alignment(worldline.open_store(store))
    return measured.shift if measured.verdict is AlignmentVerdict.LAG else 0


def simulated(world: worldline.World, test: FreeRun, lag: int) -> Table:
    """The outputs after the known rows, predicted in one call.

    Args:
        world: to simulate.
        test: its output is read up to the last known row.
        lag: rows by which inputs come too late, as for `learn`.
    """
    u, now = test.record.u[:, None], test.known - 1
    history = worldline.History(
        observations={"y": test.record.y[: test.known, None]}, actions={"u": u[lag : now + lag]}
    )
    prediction = world.predict(history, {"u": u[now + lag : len(u) - 1 + lag]})
    return prediction.signals["y"].mean[:, 0].astype(float)


def row(world: worldline.World, test: FreeRun, lag: int, unit: str) -> Row:
    """The error of a free run, or why there is none."""
    begun, truth = time.perf_counter(), test.record.y[test.known :]
    facts = {"rows": len(test.record.y), "known": test.known}
    try:
        error = float(np.sqrt(np.mean((simulated(world, test, lag) - truth) ** 2)))
    except worldline.WorldlineError as failure:
        return {**facts, "failed": str(failure)}
    errors = {f"rmse_{unit}": error * (1e3 if unit == "mV" else 1), "rmse_over_deviation": error / truth.std()}
    return {**facts, **errors, "simulate_s": time.perf_counter() - begun}


def measure(case: Case, folder: Path, **options: Any) -> Row:
    """Learns a case into a folder, with options of `learn`, and simulates its tests."""
    lag, begun = lag_of(case, folder / "check"), time.perf_counter()
    world = worldline.learn(case.frame(), folder / "world", edits=case.edits(), action_lag=lag, **options)
    return {
        "model": world.describe().name,
        "action_lag": lag,
        "learn_s": time.perf_counter() - begun,
        "tests": {name: row(world, test, lag, case.unit) for name, test in case.tests.items()},
    }


def main() -> None:
    """Measures each case."""
    options = arguments(__doc__, folder=Path, cases=tuple(CASES), budget=600.0)
    use_processor_time()
    result: Row = {"budget": options.budget, "clock": CLOCK, "cases": {}}
    cases = {name: CASES[name](options.folder) for name in options.cases}
    with tempfile.TemporaryDirectory() as temporary:
        for name, case in cases.items():
            result["cases"][name] = measure(case, Path(temporary) / name, budget=options.budget)
            write(options.out, result)  # a later case may be interrupted
            print(name, json.dumps(result["cases"][name], indent=1), flush=True)


if __name__ == "__main__":
    main()
