from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli import running

from worldline.data.store import open_store
from worldline.schema import Role


def run(*arguments: object, command: str = "import", **options: Any) -> str:
    return running.run(command, *arguments, **options).output


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three good episodes, and one that is cut short."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(4):
        draw = np.random.default_rng(number)
        camera = draw.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
        np.savez(folder / f"{number}.npz", camera=camera, x=draw.random((6, 2)), action=draw.random((5, 1)))
    whole = (folder / "2.npz").read_bytes()
    (folder / "2.npz").write_bytes(whole[: len(whole) // 2])
    return folder


def test_it_stops_at_what_cannot_be_used_and_goes_on_when_told(tmp_path: Path, logs: Path) -> None:
    said = run(logs, tmp_path / "store", code=1)
    assert "worldline: 2.npz" in said
    assert "holds 2 episodes; --keep-going" in said
    said = run(logs, tmp_path / "store", "--keep-going", "--json", tmp_path / "figures.json")
    assert "error: 2.npz, episode 2" in said
    assert "Read as npz: 1 episode added, 2 already present, 1 left out." in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["added"], figures["present"], figures["left_out"]) == (1, 2, 1)
    assert figures["files"]["2.npz"] == {"added": 0, "present": 0, "left_out": 1}
    assert len(open_store(tmp_path / "store")) == 3


def test_edits_are_options_that_may_be_repeated(tmp_path: Path, logs: Path) -> None:
    edits = ["--drop", "0", "--drop", "2", "--split", "1@3", "--mask", "x:1@1-1,camera:3"]
    said = run(logs, tmp_path / "store", *edits)
    assert "Read as npz: 3 episodes added." in said
    assert "The logs were edited: --drop 0,2 --split 1@3 --mask camera:3,x:1@1-1." in said
    store = open_store(tmp_path / "store")
    assert store.num_steps.tolist() == [2, 2, 5]
    assert store.observed("x", 0, 0, 3).tolist() == [True, False, True]
    assert not store.observed("camera", 2, 0, 6).any()
    assert "3 already present" in run(logs, tmp_path / "store", *edits)
    assert "Give the same edits" in run(logs, tmp_path / "store", code=1)
    assert "1 episode added" in run(logs / "0.npz", tmp_path / "store", "--drop", "none")
    for option, text in (("--drop", "7"), ("--split", "1"), ("--mask", "action:1")):
        assert "worldline: " in run(logs, tmp_path / "other", option, text, code=1)
        assert not (tmp_path / "other").exists()


def test_pictures_are_scaled_and_rounded(tmp_path: Path, logs: Path) -> None:
    run(logs / "0.npz", tmp_path / "store", "--size", "8x4", "--max-error", 2)
    store = open_store(tmp_path / "store")
    assert store.schema["camera"].shape == (8, 4, 3)
    assert store.card.max_error == {"camera": 2}
    for size in ("8x4x2", "x", "-3", "wide"):
        assert "--size" in run(logs / "0.npz", tmp_path / "other", "--size", size, code=1)


def test_a_schema_can_be_given(tmp_path: Path, logs: Path) -> None:
    run(logs / "0.npz", tmp_path / "store")
    written = json.loads((tmp_path / "store" / "schema.json").read_text())
    written["step_s"] = 0.1
    (tmp_path / "mine.json").write_text(json.dumps(written))
    run(logs / "0.npz", tmp_path / "other", "--schema", tmp_path / "mine.json")
    assert open_store(tmp_path / "other").schema.step_s == 0.1
    assert "lacks.json" in run(logs / "0.npz", tmp_path / "third", "--schema", tmp_path / "lacks.json", code=1)


def test_logs_without_an_action_fail_and_leave_nothing(tmp_path: Path) -> None:
    rows = [f"{k},{np.sin(k / 9):.4f},{k // 25 % 7}.5" for k in range(300)]
    (tmp_path / "plant.csv").write_text("\n".join(["time,level,inflow", *rows]) + "\n")
    said = run(tmp_path / "plant.csv", tmp_path / "store", code=1)
    assert "no column is known to be an action" in said
    assert "--action inflow" in said
    assert [file.name for file in tmp_path.iterdir()] == ["plant.csv"]
    said = run(tmp_path / "plant.csv", tmp_path / "store", "--action", "inflow")
    assert open_store(tmp_path / "store").schema["inflow"].role is Role.ACTION
    again = f"{tmp_path / 'plant.csv'} {tmp_path / 'store-cut'} --action inflow --max-steps 100"
    assert said.rstrip().endswith(f"Next:   worldline import {again}")
    said = run(*again.split())
    assert len(open_store(tmp_path / "store-cut")) == 3


def test_late_actions_are_named_with_the_command_that_moves_them(tmp_path: Path) -> None:
    """Each row holds the action that led to its level."""
    draw = np.random.default_rng(0)
    pump = draw.uniform(-1, 1, 400)
    rows = [f"{k},{level:.5f},{pump[k]:.5f}" for k, level in enumerate(np.cumsum(pump))]
    (tmp_path / "plant.csv").write_text("\n".join(["time,level,pump", *rows]) + "\n")
    plant, store = tmp_path / "plant.csv", tmp_path / "store"
    said = run(plant, store)
    assert (
        "warning: actions are logged 1 step too late: the change from observation t to t+1 follows action t+1" in said
    )
    assert said.endswith(f"Next:   worldline import {plant} {store}-cut --action-lag 1 --max-steps 100\n")
    said = run(plant, tmp_path / "cut", "--max-steps", 50)
    assert said.endswith(f"Next:   worldline import {tmp_path / 'cut'} {tmp_path / 'cut'}-aligned --action-lag 1\n")
    said = run(*said.rpartition("Next:   worldline import ")[2].split())
    assert "The actions were moved 1" in said
    assert "too late" not in said
    assert said.endswith(f"Next:   worldline check {tmp_path / 'cut'}-aligned\n")
    said = run(plant, store, "--action-lag", 1, code=1)
    assert "was imported with --action-lag 0, and these logs are read with 1" in said


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A table whose inflow and door are uncertain."""
    draw = np.random.default_rng(0)
    inflow, door = np.repeat(draw.uniform(0, 5, 60), 10), np.repeat(np.arange(60) % 2, 10)
    rows = [f"{k},{np.sin(k / 9):.4f},{inflow[k]:.2f},{door[k]},{20 + k % 3},7.5,n{k}" for k in range(600)]
    header = "Time [min],tank level [m],inflow (l/min),door,motor_temperature [degC],Mass,note"
    (tmp_path / "plant.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path / "plant.csv"


def test_each_guess_is_printed_with_its_reason(tmp_path: Path, plant: Path) -> None:
    said = run(plant, tmp_path / "store", "--yes")
    for line in (
        r"inflow +action\? +0.01 to 4.99 l/min\n    .*the word 'inflow' may name",
        r"tank level +observation\? .*\n    .*the word 'level' names a measured",
        r"motor_temperature +observation\? .*\n    .*the word 'temperature' names a measured",
        r"Mass +ignore .*\n    it never changes \(always 7.5\)\n",
    ):
        assert re.search(f"(?m)^{line}", said), line
    schema = open_store(tmp_path / "store").schema
    assert [(one.name, one.role) for one in schema.signals if one.role is not Role.OBSERVATION] == [
        ("inflow", "action"),
        ("door", "action"),
    ]
    said = run(tmp_path / "store", command="check")
    assert "Uncertain roles: inflow (action?), door (action?), tank level (observation?)" in " ".join(said.split())
    assert re.search(r"inflow +action\?", run(tmp_path / "store", command="schema"))


def test_a_pipe_stops_at_uncertain_roles_with_the_command_that_confirms_them(tmp_path: Path, plant: Path) -> None:
    store = tmp_path / "my store"
    said = run(plant, store, "--max-steps", 100, "--ignore", "door", code=1)
    assert "3 roles are uncertain, and nothing was written: inflow (action?), " in said
    assert not store.exists()
    (command,) = re.findall(r"(?m)^  worldline import (.*)", said)
    assert "--max-steps 100 --ignore door --action inflow --observation" in command
    assert said.endswith("--max-steps 100 --ignore door --yes\n")
    run(*shlex.split(command))
    assert [signal.name for signal in open_store(store).schema.actions] == ["inflow"]
    assert "Uncertain" not in run(store, command="check")
    run(plant, tmp_path / "other", "--action", "door")  # one named action settles the others


def test_learn_stops_at_uncertain_roles_before_it_imports(tmp_path: Path, plant: Path) -> None:
    world = tmp_path / "world"
    said = run(plant, "--out", world, "--horizon", "2", command="learn", code=1)
    assert list(tmp_path.iterdir()) == [plant]
    assert re.search(rf"(?m)^  worldline import {plant} {world}.store --action inflow,door --observation ", said)
    assert f"\n  worldline learn {world}.store --out {world} --horizon 2\n" in said
    assert f"worldline learn {plant} --out {world} --horizon 2 --yes\n" in said


def test_actuators_of_a_ph_plant_are_proposed(tmp_path: Path) -> None:
    """An acid pump that steps, a base pump in a closed loop that reaches its limits, a valve and a feed."""
    draw, rows = np.random.default_rng(1), 3000
    acid, valve = (np.repeat(draw.uniform(10, 90, rows), every)[:rows] for every in (40, 70))
    feed, base, level, charge = np.zeros(rows), np.zeros(rows), np.ones(rows), np.zeros(rows)
    for t in range(rows - 1):
        base[t] = np.clip(6 - 8 * charge[t] + 0.3 * draw.normal(), 0, 12)
        feed[t + 1] = 0.98 * feed[t] + 0.1 * draw.normal()
        charge[t + 1] = 0.95 * charge[t] + 0.02 * (base[t] - 6) - 0.004 * (acid[t] - 50) + 0.02 * feed[t]
        level[t + 1] = 0.97 * level[t] + 0.0006 * valve[t] + 0.003 * draw.normal()
    columns = {"time": np.arange(rows), "pH": 7 + 2 * np.tanh(charge) + 0.01 * draw.normal(size=rows), "level": level}
    inputs = {"acid_pump_duty": acid, "base_pump_V": base, "inflow_valve": valve, "feed_ph": feed, "T": level**2 + 20}
    table = np.stack(list((columns | inputs).values()), 1)
    np.savetxt(tmp_path / "ph.csv", table, "%.5g", ",", header=",".join(columns | inputs), comments="")
    run(tmp_path / "ph.csv", tmp_path / "store", "--yes")
    roles = {signal.name: signal.role for signal in open_store(tmp_path / "store").schema.signals}
    assert roles == {
        **dict.fromkeys(("pH", "level", "T"), Role.OBSERVATION),
        **dict.fromkeys(("acid_pump_duty", "base_pump_V", "inflow_valve"), Role.ACTION),
        "feed_ph": Role.EXOGENOUS,
    }


def test_options_give_roles_and_wrong_names_are_refused(tmp_path: Path, plant: Path) -> None:
    run(plant, tmp_path / "store", "--action", "door,inflow", "--observation", "Mass", "--ignore", "note")
    schema = open_store(tmp_path / "store").schema
    assert {signal.name for signal in schema.actions} == {"inflow", "door"}
    assert "Mass" in [signal.name for signal in schema.observations]
    said = run(plant, tmp_path / "other", "--action", "inflw", "--reward", "profit", code=1)
    assert "'inflw'. Did you mean 'inflow'? Known: " in said
    assert "motor_temperature" in said
    assert "note cannot be a signal: it holds 600 different texts" in run(
        plant, tmp_path / "o", "--action", "note", code=1
    )
    assert "Name it once" in run(plant, tmp_path / "o", "--action", "door", "--reward", "door", code=1)
    assert "worldline schema" in run(plant, tmp_path / "store", "--action", "tank level", code=1)


def test_a_terminal_is_asked_if_a_guess_is_unsure(plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldline.cli.column_table.is_terminal", lambda: True)
    answers = "nope=action\ndoor=a, inflow=action\ninflow=exogenous\n"
    said = run(plant, tmp_path / "store", "--ignore", "motor_temperature", input=answers)
    assert "3 roles are uncertain" in said
    for text in ("nope=action", "door=a"):
        assert f"'{text}' is no correction" in said
    schema = open_store(tmp_path / "store").schema
    assert (schema["inflow"].role, schema["door"].role) == (Role.EXOGENOUS, Role.ACTION)


def test_a_schema_is_printed_and_corrected(tmp_path: Path, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    store = tmp_path / "store"
    run(plant, store, "--yes")
    edits = ["inflow.low=0", "inflow.high=6", "tank level.unit=cm", "door=ignore", "motor_temperature.entity=pump"]
    said = run(store, *edits, "--json", tmp_path / "schema.json", command="schema")
    assert "0 to 6" in said
    assert said.rstrip().endswith(f"Next:   worldline check {store}")
    schema = open_store(store).schema
    assert [signal.name for signal in schema.signals] == ["tank level", "motor_temperature", "inflow"]
    assert (schema["tank level"].unit, schema["motor_temperature"].entity) == ("cm", "pump")
    assert json.loads((tmp_path / "schema.json").read_text())["signals"][0]["unit"] == "cm"
    assert "role is 'actoin'" in run(store, "inflow=actoin", "tank.unit=m", command="schema", code=1)
    assert "all intact" in run(store, command="check")
