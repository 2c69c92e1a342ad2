from __future__ import annotations

import json
from pathlib import Path

from tests.audit.carts import Cart, carts, write
from tests.cli.running import run

from worldline.engines.baselines import Linear, Persistence
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld


def test_the_command_prints_errors_bands_and_what_is_not_held_out(tmp_path: Path) -> None:
    logs, schema = write(tmp_path / "logs"), Cart().describe().schema
    linear = Linear.fit(carts(100, 20), schema)
    calibration = calibrate(linear, carts(5000, 30), horizon=4, num_windows=2, seed=0, trust_steps=1, with_causes=False)
    save_world(tmp_path / "linear", LocalWorld(linear, calibration, CrossEntropy()))
    save_world(tmp_path / "still", LocalWorld(Persistence.fit(carts(100, 2), schema), None, CrossEntropy()))
    names, figures = [str(tmp_path / name) for name in ("linear", "still")], tmp_path / "figures.json"
    shown = run("compare-worlds", *names, logs, "--json", figures, env={"COLUMNS": "120"})
    output = shown.output.replace("\xa0", " ")
    for text in (
        "180 windows of 45 episodes of logs, 3 observations in each",
        "place [m]",
        "after 4 s",
        "A is better",
        "hold together with 95",
        "Bands of 90",
    ):
        assert text in output
    assert "not held out" not in output
    assert json.loads(figures.read_text())["signals"][0]["verdict"] == "better"
