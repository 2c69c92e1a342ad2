"""The example of a language agent runs, and its agent acts on what the world answers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent.py"


def test_the_agent_asks_the_world_before_it_acts(capfd: pytest.CaptureFixture[str]) -> None:
    room = runpy.run_path(str(EXAMPLE))["main"]([])
    shown = capfd.readouterr().out
    assert room.temperatures[-1] == pytest.approx(20, abs=1.5)
    assert max(room.temperatures) < 22.2
    assert shown.count("trust") == shown.count("agent:") == 4
    assert "full: ends at 22.4 (22.3 to 22.5) degC, exceeds the bound" in shown
