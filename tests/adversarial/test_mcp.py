"""Attacks on the MCP server: arguments of every kind, and bodies that are no requests."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from tests.serve.mcp_worlds import LOGS, call, in_process, rows, served, toy_world

NOW, WHOLE = rows(LOGS[20], 5), rows(LOGS[20])
HANG_S = 60.0
FAULT = "the server failed. Ask the operator."

GOAL = {"targets": {"position": [1, 0]}}
VALID: dict[str, dict[str, Any]] = {
    "list_worlds": {},
    "describe_world": {"world": "toy"},
    "predict": {"world": "toy", "history": NOW, "actions": {"push": [0, 0]}, "steps": 3, "exogenous": {}, "level": 0.5},
    "compare_plans": {
        "world": "toy", "history": NOW, "candidates": {"a": {"push": [0, 0]}}, "goal": GOAL,
        "constraints": [{"rule": "AtMost", "signal": "position", "bound": 3}], "steps": 3,
    },
    "plan": {"world": "toy", "history": NOW, "goal": GOAL, "horizon": 3, "budget_s": 0.2, "constraints": []},
    "what_if": {"world": "toy", "episode": WHOLE, "at": 3, "actions": {"push": [0, 0]}, "steps": 2},
    "explain_surprise": {"world": "toy", "episode": WHOLE},
}  # fmt: skip

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 10**6, 2**63, 10**30, 1e308, float("nan")]))
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["toy", "position", "push", "../../etc", "\0", "/etc/passwd"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """The paths to all values of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, inner in items for rest in places(inner))]


@st.composite
def hostile(draw: Any) -> tuple[str, Any]:
    """A tool, and valid arguments of which one value is replaced."""
    tool = draw(st.sampled_from(sorted(VALID)))
    arguments = json.loads(json.dumps(VALID[tool]))
    chosen = draw(st.sampled_from(places(arguments)))
    if not chosen:
        return tool, draw(st.dictionaries(TEXTS, JSON, max_size=3))
    parent = arguments
    for key in chosen[:-1]:
        parent = parent[key]
    parent[chosen[-1]] = draw(JSON)
    return tool, arguments


def test_the_arguments_that_are_changed_are_valid() -> None:
    for tool, arguments in VALID.items():
        found = call({"toy": toy_world()}, tool, **arguments)
        assert not found.is_error, found.content


def test_a_history_without_rows_is_an_error_of_the_caller() -> None:
    empty = VALID["predict"] | {"history": {"observations": {"position": []}}}
    found = call({"toy": toy_world()}, "predict", **empty)
    assert found.is_error
    assert "position" in found.content[0].text


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(attacks=st.lists(hostile(), min_size=40, max_size=40))
def test_hostile_arguments_have_short_answers(attacks: list[tuple[str, Any]]) -> None:
    async def run(client: Client) -> list[Any]:
        with anyio.fail_after(HANG_S):
            return [await client.call_tool(tool, arguments) for tool, arguments in attacks]

    for (tool, arguments), found in zip(attacks, in_process({"toy": toy_world()}, run), strict=True):
        text = found.content[0].text
        assert len(text.encode()) <= 2000, (tool, arguments)
        assert "Traceback" not in text
        assert "site-packages" not in text
        assert text != FAULT, (tool, arguments)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 9000, b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"predict","arguments":' + b"[" * 9000,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"predict","arguments":{"steps":1e999}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///etc/passwd"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"world://../../etc/passwd"}}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_calls_are_refused(url: str, body: bytes) -> None:
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    response = httpx2.post(url, content=body, headers=headers, trust_env=False, timeout=HANG_S)
    assert response.status_code in (200, 400, 404, 405)
    assert "result" not in response.text or '"isError":true' in response.text
    assert "Traceback" not in response.text
    assert "root:" not in response.text


@pytest.fixture(scope="module")
def url() -> Any:
    with served({"toy": toy_world()}) as found:
        yield found
