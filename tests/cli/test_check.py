from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.running import run
from tests.data.quality.test_consistency import SCHEMA as CONSISTENT
from tests.data.quality.test_consistency import STEPS, joined, logged, with_shifted_actions
from tests.data.stores import stored
from tests.workflows.test_check import make, write

from worldline.data.quality.alignment import Alignment, AlignmentVerdict
from worldline.episode import Episode


def said(*arguments: object, code: int = 0) -> str:
    """What the check prints, on one line."""
    return " ".join(run("check", *arguments, code=code).stdout.split())


def test_a_good_store(tmp_path: Path) -> None:
    write(tmp_path / "store").append(make(3))
    shown = run("check", tmp_path / "store")
    for text in ("13 episodes, 390 steps; all intact.", "Actions and observations: aligned", "exact copy of episode 3"):
        assert text in " ".join(shown.stdout.split())
    *report, after = shown.stdout.splitlines()  # the command to type next is one line, to be copied
    assert (report[-1], after.split()) == (
        "Result: passed: 1 note",
        f"Next: worldline learn {tmp_path}/store --out world/".split(),
    )
    assert max(map(len, report)) <= 80


def test_a_shifted_store_exits_with_1(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(store, late=1).append(make(3, late=1))
    shown = said(store, "--json", tmp_path / "figures.json", code=1)
    assert "Actions and observations: actions lag by 1 step" in shown
    assert "- Import the logs again with their actions moved: worldline import" in shown
    assert shown.endswith(
        "Result: FAILED: actions and observations are misaligned, 1 note "
        f"Next: worldline import {store} {store}-aligned --action-lag 1"
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["failed"] is figures["misaligned"] is True
    assert figures["alignment"]["verdict"] == "actions lag"
    assert [one["shift"] for one in figures["alignment"]["shifts"]] == list(range(-3, 4))
    assert figures["findings"][0]["episode"] == 12
    assert figures["coverage"]["actions"][0]["name"] == "push"


def test_a_known_delay_is_accepted(tmp_path: Path) -> None:
    write(tmp_path / "store", late=-1)
    assert "passed: the system responds late, or actions are logged early" in said(tmp_path / "store")
    assert "actions lead by 1 step (the known delay)" in said(tmp_path / "store", "--delay", "1")


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
    lines = run("check", store.path, code=1).stdout.splitlines()
    assert lines[-1].startswith("Next:   worldline import")
    assert command_in(lines) == ["import", f"{tmp_path}/my store", f"{tmp_path}/my store-edited", *options]
    if log is seams:
        run(*command_in(lines))
        assert "worldline import" not in said(tmp_path / "my store-edited")
