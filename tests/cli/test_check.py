from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from tests.data.quality.test_consistency import SCHEMA as CONSISTENT
from tests.data.quality.test_consistency import STEPS, joined, logged, with_shifted_actions
from tests.data.stores import stored
from typer.testing import CliRunner

from worldline.cli.check import check
from worldline.cli.main import app
from worldline.data.quality.alignment import Alignment, AlignmentVerdict
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


def checked(store: Path, code: int) -> list[str]:
    """The printed lines of the check in the command of all commands, which also has `import`."""
    shown = RUN.invoke(app, ["check", str(store)])
    assert shown.exit_code == code, shown.output
    return shown.stdout.splitlines()


def command_in(lines: list[str]) -> list[str]:
    (line,) = [line for line in lines if "worldline import" in line]
    return shlex.split(line.partition("worldline ")[2])


@pytest.fixture
def aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions and observations are aligned. The regressions take seconds."""
    verdict = Alignment(verdict=AlignmentVerdict.ALIGNED, shift=0, reason="given", fix="")
    monkeypatch.setattr("worldline.workflows.check.judge", lambda *_: verdict)
    monkeypatch.setattr("worldline.workflows.check.survey", lambda *_: None)


def stuck() -> list[Episode]:
    """The temperature does not change for 30 rows of two episodes."""
    log = logged()
    for number in (3, 9):
        heat = log[number].observations["heat"].copy()
        heat[20:50] = heat[20]
        log[number] = replace(log[number], observations={**log[number].observations, "heat": heat})
    return log


def seams() -> list[Episode]:
    """Three pairs of episodes are recorded as one."""
    log = logged()
    return [*log[6:30], *joined(log[:6]), *log[30:]]


@pytest.mark.usefixtures("aligned")
@pytest.mark.parametrize(
    ("log", "options"),
    [
        (stuck, ["--mask", "heat:3@20-49,heat:9@20-49"]),
        (seams, ["--split", f"24@{STEPS + 1},25@{STEPS + 1},26@{STEPS + 1}"]),
        (lambda: with_shifted_actions(logged(held=2), 1, 20), ["--drop", "7,18,30,44,60"]),
    ],
    ids=["stuck", "joined", "shifted"],
)
def test_the_printed_command_edits_what_the_warnings_name(
    tmp_path: Path, log: Callable[[], list[Episode]], options: list[str]
) -> None:
    store = stored(tmp_path / "my store", CONSISTENT, log())
    lines = checked(store.path, code=1)
    assert lines[-1].startswith("Next:   worldline import")
    assert command_in(lines) == ["import", f"{tmp_path}/my store", f"{tmp_path}/my store-edited", *options]
    if log is seams:
        shown = RUN.invoke(app, command_in(lines))
        assert shown.exit_code == 0, shown.output
        assert not any("worldline import" in line for line in checked(tmp_path / "my store-edited", code=0))
