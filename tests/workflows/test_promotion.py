"""Promoted controllers: only better ones, unchanged since their judgement; real runs are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError, InputError, UnknownNameError
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.promotion import compare_runs, promote_controller

LEVEL = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
SCHEMA = Schema(signals=(LEVEL, VALVE))
SOURCE = 'kind = "pid"\n'


def judgement(path: Path, *, better: str = "better", verdict: str = "judged") -> Path:
    """A cost between 1 and 4 in these situations, and in 20 others."""
    figure = {
        "expected": {"value": 2.0, "low": 1.0, "high": 4.0},
        "fresh": {"value": 2.0, "low": 1.0, "high": 4.0},
        "logged": 5.0,
        "better": better,
        "scale": {"kind": "cost", "unit": 0.1},
    }
    figures = {"cost": figure} if verdict == "judged" else {}
    one = {"name": "pid", "source": SOURCE, "verdict": verdict, "reason": "", "figures": figures}
    goal = json.dumps({"targets": {"level": 0.0}, "tolerance": {"level": 1.0}, "costs": [], "constraints": []})
    content: dict[str, Any] = {"goal": goal, "num_fresh": 20, "first_step": 1, "controllers": [one], "notes": []}
    path.write_text(json.dumps(content))
    return path


def runs(path: Path, level: float, *, steps: int = 5) -> Store:
    """Episodes whose cost is the square of the level."""
    store = Store.create(path, SCHEMA)
    for _ in range(3):
        levels, valves = np.full((steps + 1, 1), level, np.float32), np.zeros((steps, 1), np.float32)
        store.append(Episode(observations={"level": levels}, actions={"valve": valves}))
    return store


@pytest.fixture
def controller(tmp_path: Path) -> str:
    (tmp_path / "pid.toml").write_text(SOURCE)
    return str(tmp_path / "pid.toml")


def test_real_runs_are_compared_and_counted(tmp_path: Path, controller: str) -> None:
    home = promote_controller("tank", controller, judgement(tmp_path / "j.json"), folder=tmp_path)
    assert home == tmp_path / "controllers" / "tank" / "1"
    inside = compare_runs("tank", runs(tmp_path / "good", 1.5), folder=tmp_path)
    (cost,) = inside.figures
    assert (cost.name, cost.inside, inside.num_episodes) == ("cost", True, 3)
    assert cost.measured == pytest.approx(2.25)
    assert (inside.inside, inside.compared) == (1, 1)
    outside = compare_runs("tank", runs(tmp_path / "bad", 3.0), folder=tmp_path)
    assert (outside.inside, outside.compared) == (1, 2)
    again = compare_runs("tank", tmp_path / "bad", folder=tmp_path)
    assert (again.inside, again.compared) == (1, 2)  # the same runs count once
    promote_controller("other", controller, judgement(tmp_path / "j.json"), folder=tmp_path)
    assert compare_runs("other", tmp_path / "good", folder=tmp_path).compared == 3
    assert promote_controller("tank", controller, tmp_path / "j.json", folder=tmp_path).name == "2"


def test_only_better_controllers_are_promoted(tmp_path: Path, controller: str) -> None:
    for better in ("worse", "not distinguishable"):
        with pytest.raises(InputError, match=f"is not promoted: its cost is {better}"):
            promote_controller("tank", controller, judgement(tmp_path / "j.json", better=better), folder=tmp_path)
    with pytest.raises(InputError, match="is not promoted: it is unstable"):
        promote_controller("tank", controller, judgement(tmp_path / "j.json", verdict="unstable"), folder=tmp_path)
    assert not (tmp_path / "controllers").exists()
    promote_controller("tank", controller, tmp_path / "j.json", despite=True, folder=tmp_path)
    with pytest.raises(InputError, match="no intervals to compare with"):
        compare_runs("tank", runs(tmp_path / "runs", 1.0), folder=tmp_path)


def test_wrong_input_is_refused(tmp_path: Path, controller: str) -> None:
    file = judgement(tmp_path / "j.json")
    with pytest.raises(InputError, match=r"'\.\./tank' is not allowed"):
        promote_controller("../tank", controller, file, folder=tmp_path)
    with pytest.raises(UnknownNameError, match="controller"):
        compare_runs("tank", runs(tmp_path / "runs", 1.0), folder=tmp_path)
    promote_controller("tank", controller, file, folder=tmp_path)
    with pytest.raises(DataError, match="no episode of more than 1 steps"):
        compare_runs("tank", runs(tmp_path / "short", 1.0, steps=1), folder=tmp_path)
    Path(controller).write_text(SOURCE + "\n# changed\n")
    with pytest.raises(InputError, match="has changed since"):
        promote_controller("tank", controller, file, folder=tmp_path)
    (tmp_path / "text.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"missing required field `goal`.*Name the file that worldline judge"):
        promote_controller("tank", controller, tmp_path / "text.json", folder=tmp_path)
    with pytest.raises(ConfigError, match="Name a TOML or JSON file"):
        promote_controller("tank", controller, tmp_path / "missing.json", folder=tmp_path)
