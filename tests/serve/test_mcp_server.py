from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from tests.serve import mcp_worlds
from tests.serve.mcp_worlds import LOGS, SlowWorld, call, http_client, in_process, rows, served, toy_world
from tests.serve.scripted import FewTokens

from worldline.episode import Episode
from worldline.planning.base import Goal
from worldline.planning.costs import AtMost
from worldline.serve.callers import Scope
from worldline.serve.limits import Limits
from worldline.serve.mcp_results import MAX_BYTES
from worldline.serve.mcp_server import PANE

NOW = rows(LOGS[20], 5)
TOOLS = {"list_worlds", "describe_world", "predict", "compare_plans", "plan", "what_if", "explain_surprise"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def answer(tool: str, **arguments: Any) -> dict[str, Any]:
    found = call({"toy": toy_world()}, tool, **arguments)
    assert not found.is_error, found.content
    text = found.content[0].text
    assert len(text.encode()) <= MAX_BYTES
    assert json.loads(text) == found.structured_content
    return dict(found.structured_content)


def refusal(tool: str, **arguments: Any) -> str:
    found = call({"toy": toy_world()}, tool, **arguments)
    assert found.is_error
    return str(found.content[0].text)


def test_the_tools_are_read_only_and_few() -> None:
    async def run(client: Client) -> Any:
        return (await client.list_tools()).tools, await client.read_resource(PANE)

    tools, pane = in_process({"toy": toy_world()}, run)
    assert {tool.name for tool in tools} == TOOLS
    for tool in tools:
        hints = tool.annotations
        assert (hints.read_only_hint, hints.destructive_hint, hints.open_world_hint) == (True, False, False)
        assert len(tool.description) > 40
    shown = {tool.name: tool.meta["ui"]["resourceUri"] for tool in tools if tool.meta}
    assert shown == {"predict": PANE, "plan": PANE}
    page = pane.contents[0]
    assert page.mime_type == "text/html;profile=mcp-app"
    assert "default-src 'none'" in page.text
    assert "innerHTML" not in page.text


def test_worlds_are_listed_and_described() -> None:
    assert answer("list_worlds")["worlds"] == [{"name": "toy", "predicts": ["position"], "actions": ["push"]}]
    found = answer("describe_world", world="toy")
    assert found["signals"][1] == {
        "name": "push", "role": "action", "kind": "vector", "unit": "m", "shape": [2], "low": [-1, -1], "high": [1, 1],
    }  # fmt: skip
    assert (found["step_s"], found["band_steps"], found["can_plan"]) == (0.1, 6, True)
    assert answer("describe_world", world="toy", signal="push") == found["signals"][1]
    assert "no signal is called 'pull'" in refusal("describe_world", world="toy", signal="pull")


def test_predict_is_what_the_world_predicts() -> None:
    found = answer("predict", world="toy", history=NOW, actions={"push": [0.5, 0]}, steps=8, level=0.5)
    actions = {"push": np.tile([0.5, 0.0], (8, 1))}
    direct = toy_world().predict(LOGS[20].window(0, 5).history(), actions, level=0.5)
    expected = direct.signals["position"]
    assert found["at_steps"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.allclose(found["signals"]["position"]["mean"], expected.mean, rtol=1e-3)
    assert np.allclose(found["signals"]["position"]["low"][:6], expected.low[:6], rtol=1e-3)
    assert found["signals"]["position"]["low"][6:] == [[None, None]] * 2
    assert found["trust"] == pytest.approx(direct.trust, rel=1e-4)
    assert (found["level"], found["signals"]["position"]["unit"]) == (0.5, "m")


def test_long_results_show_evenly_spaced_steps_with_the_last() -> None:
    found = answer("predict", world="toy", history=NOW, actions={"push": [0.5, 0]}, steps=300)
    assert 5 <= len(found["at_steps"]) <= 50
    assert found["at_steps"][-1] == 300
    assert np.ptp(np.diff(found["at_steps"])) <= 1
    direct = toy_world().predict(LOGS[20].window(0, 5).history(), {"push": np.tile([0.5, 0.0], (300, 1))})
    rows = np.array(found["at_steps"]) - 1
    assert np.allclose(found["signals"]["position"]["mean"], direct.signals["position"].mean[rows], rtol=1e-4)
    assert found["shortened"]


def test_plans_are_compared_best_first() -> None:
    candidates = {"stay": {"push": [0, 0]}, "right": {"push": [1, 0]}, "left": {"push": [-1, 0]}}
    goal, bound = (
        {"targets": {"position": [9, 0]}, "tolerance": {"position": 1}},
        {"rule": "AtMost", "signal": "position", "bound": 4},
    )
    found = answer(
        "compare_plans", world="toy", history=NOW, candidates=candidates, goal=goal, constraints=[bound], steps=6
    )
    history = LOGS[20].window(0, 5).history()
    actions = {"push": np.stack([np.tile(one["push"], (6, 1)) for one in candidates.values()]).astype(float)}
    scores = toy_world().score(
        history,
        actions,
        Goal(targets={"position": np.array([9.0, 0.0])}, tolerance={"position": 1.0}),
        [AtMost(signal="position", bound=4.0)],
    )
    costs = dict(zip(candidates, scores.cost.tolist(), strict=True))
    violations = dict(zip(candidates, scores.violation[:, 0].tolist(), strict=True))
    order = sorted(candidates, key=lambda name: (violations[name], costs[name]))
    assert [one["plan"] for one in found["plans"]] == order
    assert [one["cost"] for one in found["plans"]] == pytest.approx([costs[name] for name in order], rel=1e-3)
    path = toy_world().predict(history, {"push": actions["push"][list(candidates).index(order[0])]})
    assert np.allclose(found["plans"][0]["end"]["position"]["mean"], path.signals["position"].mean[-1], rtol=1e-3)
    assert "expected ['push']" in refusal(
        "compare_plans", world="toy", history=NOW, candidates={"none": {}}, goal=goal, steps=2
    )


def test_a_plan_reaches_the_goal_within_its_bounds() -> None:
    found = answer("plan", world="toy", history=NOW, goal={"targets": {"position": [1, 0]}}, horizon=6)
    assert found["status"] in ("searched", "out_of_time")
    assert found["violation"] == 0
    assert np.abs(found["actions"]["signals"]["push"]["value"]).max() <= 1
    start = np.abs(np.array(NOW["observations"]["position"][-1]) - [1, 0]).sum()
    assert np.abs(np.array(found["signals"]["position"]["mean"][-1]) - [1, 0]).sum() < start


def test_what_if_starts_after_the_common_part() -> None:
    found = answer("what_if", world="toy", episode=rows(LOGS[20]), at=10, actions={"push": [0, 0]}, steps=5)
    direct = toy_world().what_if(LOGS[20], 10, {"push": np.zeros((5, 2), np.float32)})
    assert found["at_steps"] == [11, 12, 13, 14, 15]
    assert np.allclose(found["signals"]["position"]["other_actions"], direct.signals["position"], atol=1e-3)
    assert np.allclose(found["signals"]["position"]["logged"], LOGS[20].observations["position"][11:16], atol=1e-3)


def test_a_surprise_is_found_and_explained() -> None:
    path = np.array(LOGS[20].observations["position"])
    path[9:] += 5
    odd = Episode(observations={"position": path}, actions=LOGS[20].actions)
    found = answer("explain_surprise", world="toy", episode=rows(odd))
    assert found["moments"][0]["step"] == 8


def test_errors_of_the_world_are_errors_of_the_tool() -> None:
    assert "above its bound 1 m" in refusal("predict", world="toy", history=NOW, actions={"push": [9, 0]})
    assert refusal("predict", world="toi", history=NOW, actions={}).startswith("no world is called 'toi'. Did you")
    wrong = refusal("predict", world="toy", history={"observations": {"position": "x"}}, actions={})
    assert wrong.startswith("predict.history.observations.position: Expected")
    assert refusal("predicts").startswith("no tool is called 'predicts'. Did you mean 'predict'")
    assert "between 1 and 10000" in refusal("predict", world="toy", history=NOW, actions={"push": [0, 0]}, steps=10**9)


def test_a_fault_shows_no_text_of_it(caplog: pytest.LogCaptureFixture) -> None:
    found = call(
        {"odd": mcp_worlds.BrokenWorld(1, 1, "s")},
        "predict",
        world="odd",
        history={"observations": {"s0": 1}},
        actions={"push": 0},
    )
    assert found.is_error
    assert found.content[0].text == "the server failed. Ask the operator."
    assert "the tool predict failed: ZeroDivisionError at " in caplog.text
    assert "Traceback" not in caplog.text


@settings(max_examples=6, deadline=None)
@given(signals=st.integers(1, 80), size=st.integers(1, 64), steps=st.integers(1, 500), long=st.booleans())
def test_results_of_wide_worlds_are_small(signals: int, size: int, steps: int, long: bool) -> None:
    world = mcp_worlds.WideWorld(signals, size, "temperature in °C " * 20 if long else "s")
    history = {"observations": {name: [[0] * size] for name in world.card.inputs}}

    async def run(client: Client) -> list[Any]:
        arguments = {"world": "wide", "history": history, "actions": {"push": 0}, "steps": steps}
        found = [await client.call_tool("predict", arguments)]
        found.append(await client.call_tool("describe_world", {"world": "wide"}))
        return [*found, await client.call_tool("list_worlds", {})]

    results = in_process({"wide": world}, run)
    assert not any(found.is_error for found in results)
    assert max(len(found.content[0].text.encode()) for found in results) <= MAX_BYTES
    assert "do not rely on this" in results[0].structured_content["trust_meaning"]


TOKENS = FewTokens({"first": {Scope.INFER}, "second": {Scope.INFER}, "reader": {Scope.READ}})


@pytest.fixture(scope="module")
def url() -> Any:
    with served({"toy": toy_world()}, TOKENS) as found:
        yield found


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("wrong", 401), ("reader", 403), ("first", 200)])
def test_requests_need_a_token_that_may_infer(url: str, token: str | None, status: int) -> None:
    headers = HEADERS | ({} if token is None else {"authorization": f"Bearer {token}"})
    response = httpx2.post(url, json=INITIALIZE, headers=headers, trust_env=False)
    assert response.status_code == status
    assert ("www-authenticate" in response.headers) == (status != 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"host": "evil.example"}, 421), ({"origin": "http://evil.example"}, 403), ({"content-type": "text/plain"}, 400)],
)
def test_web_pages_reach_no_server_without_a_token(headers: dict[str, str], status: int) -> None:
    with served({"toy": toy_world()}) as url:
        assert httpx2.post(url, json=INITIALIZE, headers=HEADERS, trust_env=False).status_code == 200
        response = httpx2.post(url, json=INITIALIZE, headers=HEADERS | headers, trust_env=False)
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers


def test_a_large_body_is_refused(url: str) -> None:
    headers = HEADERS | {"authorization": "Bearer first"}
    response = httpx2.post(url, content=b"[" + b"0," * 20_000 + b"0]", headers=headers, trust_env=False)
    assert response.status_code == 413


SLOW = {
    "name": "predict",
    "arguments": {"world": "slow", "history": {"observations": {"x0": [[0]]}}, "actions": {"push": [[0]]}},
}


async def leave(world: SlowWorld, is_refused: Callable[[], Coroutine[Any, Any, bool]]) -> list[bool]:
    """Gives up a call in a queue of one place, for another one. Returns whether the other three calls were refused."""
    first = asyncio.create_task(is_refused())
    await asyncio.to_thread(world.entered.wait, 30)
    pair = [asyncio.create_task(is_refused()) for _ in range(2)]
    [refused], [waiting] = await asyncio.wait(pair, return_when="FIRST_COMPLETED")
    waiting.cancel()
    third = asyncio.create_task(is_refused())
    while (await asyncio.wait([third], timeout=1))[0]:  # until it waits
        third = asyncio.create_task(is_refused())
    world.gate.set()
    return [await first, await refused, await third]


@pytest.mark.parametrize("transport", ["memory", "http", "http of 2025"])
def test_a_call_whose_client_leaves_gives_up_its_place(transport: str) -> None:
    world, refused = SlowWorld(), list[bool]()

    async def with_client(client: Client) -> None:
        async def is_refused() -> bool:
            return bool((await client.call_tool(**SLOW)).is_error)

        with anyio.fail_after(20):
            refused.extend(await leave(world, is_refused))

    async def over_http(url: str) -> None:
        if transport == "http":
            async with http_client(url) as client:
                await with_client(client)
            return
        headers = {**HEADERS, "mcp-protocol-version": "2025-06-18"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": SLOW}
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http:

            async def is_refused() -> bool:
                text = (await http.post(url, json=body)).text.partition("data: ")[2]
                return bool(json.loads(text)["result"].get("isError"))

            with anyio.fail_after(20):
                refused.extend(await leave(world, is_refused))

    try:
        if transport == "memory":
            in_process({"slow": world}, with_client, Limits(queue=1))
        else:
            with served({"slow": world}, queue=1) as url:
                anyio.run(over_http, url)
    finally:
        world.gate.set()
    assert refused == [False, True, False]
