from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer
from typer.testing import CliRunner

from worldline.cli.check import check
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

RUN = CliRunner()
APP = typer.Typer()
APP.command()(check)

SCHEMA = Schema(
    signals=(
        Signal(name="place [left]", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m"),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
    )
)


def write(path: Path, late: int = 0) -> None:
    store = Store.create(path, SCHEMA)
    for number in (*range(12), 3):
        draw = np.random.default_rng(number)
        push = draw.uniform(-1, 1, (33, 1)).astype(np.float32)
        place = np.cumsum(np.concatenate([draw.normal(size=(1, 1)), push]), 0).astype(np.float32)
        store.append(Episode(observations={"place [left]": place[2:33]}, actions={"push": push[2 - late : 32 - late]}))


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_good_store(tmp_path: Path) -> None:
    write(tmp_path / "store")
    shown = RUN.invoke(APP, [str(tmp_path / "store")])
    assert shown.exit_code == 0, shown.output
    said = words(shown.stdout)
    assert "13 episodes, 390 steps; all intact." in said
    assert "Actions and observations: aligned" in said
    assert "episode 12: Keep one of the two" in said
    assert "place [left]" in said or "exact copy of episode 3" in said
    assert said.endswith(f"Result: passed: 1 note Next: worldline learn {tmp_path / 'store'} --out world/")
    *report, _ = shown.stdout.splitlines()  # the command to type next is one line, to be copied
    assert max(map(len, report)) <= 80


def test_a_shifted_store_exits_with_1(tmp_path: Path) -> None:
    write(tmp_path / "store", late=1)
    shown = RUN.invoke(APP, [str(tmp_path / "store"), "--json", str(tmp_path / "figures.json")])
    assert shown.exit_code == 1
    said = words(shown.stdout)
    assert "Actions and observations: actions lag by 1 step" in said
    assert "- Import the logs again with their actions moved: worldline import" in said
    store = tmp_path / "store"
    assert shown.stdout.endswith(f"Next:   worldline import {store} {store}-aligned --action-lag 1\n")
    assert "Result: FAILED: actions and observations are misaligned, 1 note" in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["failed"] is figures["misaligned"] is True
    assert figures["alignment"]["verdict"] == "actions lag"
    assert [one["shift"] for one in figures["alignment"]["shifts"]] == list(range(-3, 4))
    assert figures["findings"][0]["episode"] == 12
    assert figures["coverage"]["actions"][0]["name"] == "push"


def test_a_known_delay_is_accepted(tmp_path: Path) -> None:
    write(tmp_path / "store", late=-1)
    unknown = RUN.invoke(APP, [str(tmp_path / "store")])
    assert unknown.exit_code == 0
    assert "passed: the system responds late, or actions are logged early" in unknown.stdout
    shown = RUN.invoke(APP, [str(tmp_path / "store"), "--delay", "1"])
    assert shown.exit_code == 0
    assert "actions lead by 1 step (the known delay)" in words(shown.stdout)


def test_damage_is_shown(tmp_path: Path) -> None:
    write(tmp_path / "store")
    block = next((tmp_path / "store" / "blocks").glob("push.*"))
    block.write_bytes(block.read_bytes()[:-1] + b"?")
    shown = RUN.invoke(APP, [str(tmp_path / "store")])
    assert shown.exit_code == 1
    assert "1 of them DAMAGED" in words(shown.stdout)
    assert "error" in shown.stdout
