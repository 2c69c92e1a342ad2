"""Attacks with names of signals on the browser that shows /docs, and on the shell into which commands are pasted."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from worldline.catalog.opening import open_target
from worldline.engines.base import CallCost, Card
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.examples import examples_of
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.http import create_app
from worldline.serve.http_docs import create_openapi, render
from worldline.serve.service import Service
from worldline.world.base import World

NAMES = (
    "<script>alert(1)",
    '"><img src=x onerror=alert(1)>',
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    "\nJSON\ntouch pwned\n",
    "{{ 7 * 191 }}",
    "[\n1,\n2\n]",
)


class Named(World):
    """Cannot be called: the documentation shows requests without calling the world."""

    def __init__(self, schema: Schema) -> None:
        names = tuple(signal.name for signal in schema.observations)
        self.card = Card(
            name="named", engine="named", schema=schema, inputs=names, predicts=names, context=1, deterministic=True,
            call=CallCost(latency_s=1.0, price=1.0, currency="USD"),
        )  # fmt: skip

    def describe(self) -> Card:
        return self.card

    answer: Any = None


@pytest.mark.parametrize("name", NAMES)
def test_names_of_signals_are_data(name: str, tmp_path: Path) -> None:
    seen = Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    moved = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    hosted = HostedWorld("named", None, Named(Schema(signals=(seen, moved))))
    app = create_app(Service(Hosts(open_target)))
    document = create_openapi(app.routes, hosted, needs_token=True)
    page = render(document, needs_token=True, server="http://server.invalid")
    assert not re.search(r"<(script|img)|1337", page)
    command = re.search(r"<pre[^>]*>(curl .*?)</pre>", page.partition('id="predict"')[2], re.DOTALL)
    shell = ["bash", "-c", f"curl() {{ cat > body; }}\n{html.unescape(command[1])}"]
    subprocess.run(shell, check=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["body"]
    assert json.loads((tmp_path / "body").read_text()) == examples_of(hosted)["predict"]
