"""The README's Python runs as it is printed; only its recipe is made small, and fewer episodes are recorded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import worldline
from worldline.cli.main import app
from worldline.recipes import pixels, two_rooms
from worldline.recipes.recipe import Recipe

README = Path(__file__).parents[2] / "README.md"
EPISODES = 120
"""Enough for the bands of level 0.9 that the README asks for."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[Any], Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    record = worldline.record

    def short_record(*arguments: Any, **settings: Any) -> Any:
        return record(*arguments, **{**settings, "num_episodes": EPISODES})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(two_rooms, "two_rooms", tiny)
    monkeypatch.setattr(worldline, "record", short_record)
    names: dict[str, Any] = {}
    found = blocks("python")
    assert found
    for code in found:
        exec(compile(code, str(README), "exec"), names)  # noqa: S102 (our own README)
    assert names["plan"].actions["move"].shape == (12, 2)
    assert (tmp_path / "world" / "report.html").exists()
    assert capsys.readouterr().out.count("\n") >= 3


def test_the_commands_for_logs_of_your_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[Any], Recipe]
) -> None:
    found = re.findall(r"^    worldline (.*?)(?: +#.*)?$", README.read_text(), re.MULTILINE)
    assert [line.split()[0] for line in found] == ["import", "check", "show", "learn"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pixels, "pixels_and_vectors", tiny)
    store = worldline.record("two-rooms", tmp_path / "recorded", num_episodes=EPISODES, max_steps=20, seed=0)
    (tmp_path / "LOGS").mkdir()
    for number in range(len(store)):
        one = store.episode(number)
        np.savez(tmp_path / "LOGS" / f"{number}.npz", **one.observations, **one.actions)
    for line in found:
        shown = CliRunner().invoke(app, shlex.split(line))
        assert shown.exit_code == 0, shown.output
    assert (tmp_path / "show" / "index.html").exists()
    assert (tmp_path / "world" / "report.html").exists()


def test_every_command_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `worldline (\w+)", README.read_text(), re.MULTILINE))
    commands = app.registered_commands
    assert listed == {command.name or command.callback.__name__ for command in commands if command.callback}


def test_links_lead_somewhere() -> None:
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)#:]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
