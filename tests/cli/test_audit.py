from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.running import run

import worldline
from worldline.audit.baselines import as_world
from worldline.data.store import Store
from worldline.engines.baselines import Linear, Persistence
from worldline.world.bundle_io import save_world
from worldline_exam.labs.wind import Wind


def bundle(folder: Path, family: type[Linear] | type[Persistence], store: Store) -> str:
    made = as_world(family.fit([store.episode(n) for n in range(len(store))], Wind().schema))
    save_world(folder, made)
    return str(folder)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return worldline.record("wind", tmp_path_factory.mktemp("wind") / "logs", num_episodes=24, max_steps=25, seed=1)


def test_the_command_says_what_to_do_and_writes_page_and_figures(logs: Store, tmp_path: Path) -> None:
    right = bundle(tmp_path / "linear", Linear, logs)
    page, figures = tmp_path / "audit.html", tmp_path / "audit.json"
    said = run("audit", right, logs.path, "--out", page, "--json", figures).output
    assert "linear on logs: deploy with limits" in said
    assert "no prediction bands" in said
    assert page.read_text().startswith("<!doctype html>")
    told = json.loads(figures.read_text())
    assert told["decision"]["advice"] == "deploy with limits"
    assert told["decision"]["cause"] == "NOT MEASURED"
    assert {one["action"] for one in told["measured"]["effects"]} == {"motor"}
    wrong = run("audit", bundle(tmp_path / "persistence", Persistence, logs), logs.path, code=1)
    assert "do not deploy" in wrong.output


def test_other_logs_are_unreadable(logs: Store, tmp_path: Path) -> None:
    other = worldline.record("gusty-puck", tmp_path / "other", num_episodes=4, max_steps=8, seed=1)
    shown = run("audit", bundle(tmp_path / "linear", Linear, logs), other.path, code=1)
    assert "UNREADABLE" in shown.output
    assert "boat_position" in shown.output


def test_figures_that_cannot_be_written_do_not_hide_the_advice(logs: Store, tmp_path: Path) -> None:
    world = bundle(tmp_path / "linear", Linear, logs)
    shown = run("audit", world, logs.path, "--json", "/dev/full", code=1)
    assert "worldline: /dev/full: No space left" in shown.stderr
    assert "linear on logs:" in shown.stdout
