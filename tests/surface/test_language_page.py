"""What `docs/howto/language.md` prints runs, against an endpoint that knows the room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engines.language.chat_server import ChatServer, Values, latest
from tests.surface import pages
from tests.surface.rooms import heated_room

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "language.md"


def warmed(history: Values, actions: Values, exogenous: Values) -> Values:
    now = latest(history["temperature"])
    return {"temperature": now + 0.1 * (12 - now) + actions["power"]}


def test_the_page_on_language_models_runs_and_does_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heated_room(tmp_path / "store", 21, 10)
    monkeypatch.chdir(tmp_path)
    (code,) = pages.blocks(PAGE)
    with ChatServer(warmed) as server:
        known = pages.run(code.replace("http://localhost:8000/v1", server.base_url), PAGE)
    forecast, plan, engine = known["forecast"], known["plan"], known["engine"]
    assert forecast.horizon == 4
    assert (forecast.low < forecast.high).all()
    assert plan.actions["power"].shape == (4, 1)
    assert known["world"].describe().call == engine.call
    lines = [json.loads(line) for line in (tmp_path / "room.jsonl").read_text().splitlines()]
    assert len(lines) == engine.chat.spent.num_requests == len(server.seen)
    assert "about" in json.loads(lines[0]["request"]["messages"][1]["content"])
