"""What `docs/howto/language.md` prints runs, against an endpoint that knows the room."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.language.chat_server import ChatServer, Values, latest

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "language.md"


def warmed(history: Values, actions: Values, exogenous: Values) -> Values:
    now = latest(history["temperature"])
    return {"temperature": now + 0.1 * (12 - now) + actions["power"]}


def test_the_page_on_language_models_runs_and_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temperature = Signal(name="temperature", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")
    power = Signal(name="power", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(2.0,))
    store = Store.create(tmp_path / "store", Schema(signals=(temperature, power), step_s=600.0))
    draw = np.random.default_rng(0)
    for _ in range(21):
        taken, path = draw.uniform(0, 2, (10, 1)).astype(np.float32), [draw.uniform(12, 25, 1)]
        for step in taken:
            after = warmed({"temperature": np.array(path)}, {"power": step}, {})["temperature"]
            path.append(after + 0.05 * draw.standard_normal(1))
        observations = {"temperature": np.array(path, np.float32)}
        store.append(Episode(observations=observations, actions={"power": taken}))
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    with ChatServer(warmed) as server:
        code = code.replace("http://localhost:8000/v1", server.base_url)
        exec(compile(code, str(PAGE), "exec"), known)  # noqa: S102 (the page's code is what is tested)
    forecast, plan, engine = known["forecast"], known["plan"], known["engine"]
    assert forecast.horizon == 4
    assert (forecast.low < forecast.high).all()
    assert plan.actions["power"].shape == (4, 1)
    assert known["world"].describe().call == engine.call
    lines = [json.loads(line) for line in (tmp_path / "room.jsonl").read_text().splitlines()]
    assert len(lines) == engine.chat.spent.num_requests == len(server.seen)
    assert "about" in json.loads(lines[0]["request"]["messages"][1]["content"])
