from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich import console
from rich.console import Console

from worldline.progress import Progress, shown, tell


def test_bars_are_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with shown("auto") as progress:
        assert progress is None
    monkeypatch.setattr(Console, "is_terminal", True)
    with shown("auto") as progress:
        tell(progress, "learn", 1, 1)
    assert "learn" in capsys.readouterr().err


def test_a_receiver_replaces_the_bars_and_none_switches_them_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    seen = list[Progress]()
    with shown(seen.append) as progress:
        tell(progress, "learn", 1, 2)
    with shown(None) as progress:
        assert progress is None
    assert [now.step for now in seen] == [1]
    assert capsys.readouterr().err == ""


def test_a_notebook_shows_the_bars_below_its_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = list[str]()
    display: Any = ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda page, display_id: SimpleNamespace(update=pages.append)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    with shown("auto") as progress:
        for step in range(1, 1001):
            tell(progress, "learn", step, 1000, loss=0.5)
    assert len(pages) < 500
    assert "learn (loss 0.5)" in pages[-1]
    assert "100%" in pages[-1]
    assert capsys.readouterr().err == ""
