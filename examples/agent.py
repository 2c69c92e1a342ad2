"""A language agent asks a world before it acts: `python examples/agent.py`.

It heats a room to 20 degC, never above 22 degC. The agent is a loop around an OpenAI-compatible chat endpoint. It has
the tools of `worldline mcp` and one of the room, `set_heater`. Without --base-url, a small server in this file stands
in for the language model. It decides from the results of the tools, as a language model does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from openai import AsyncOpenAI

import worldline
from worldline.engines import Linear
from worldline.planning import CrossEntropy
from worldline.schema import Kind, Role, Signal
from worldline.world import LocalWorld, calibrate, save_world

PLANS = {"off": 0.0, "low": 0.8, "medium": 1.4, "full": 2.0}  # kW
STEPS, ROUNDS = 6, 4  # of ten minutes; the agent decides once per hour
SYSTEM = "Heat the room to 20 degC, never above 22 degC. Ask the world with compare_plans, then call set_heater once."
HEATER = {
    "name": "set_heater",
    "description": "Sets the power of the heater for the next hour.",
    "parameters": {"type": "object", "properties": {"power": {"type": "number"}}, "required": ["power"]},
}


@dataclass
class Room:
    """A room, with 12 degC outside. The log holds temperatures [degC] and powers [kW]."""

    temperatures: list[float] = field(default_factory=lambda: [14.0])
    powers: list[float] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def run(self, power: float, steps: int) -> None:
        """Holds the power for some steps."""
        for _ in range(steps):
            now = self.temperatures[-1]
            self.temperatures.append(now + 0.1 * (12 - now) + 0.6 * power + 0.03 * float(self.rng.standard_normal()))
            self.powers.append(power)


def learn_room(folder: str) -> None:
    """Learns a linear world from 40 logged days, and calibrates it on 20 more."""
    temperature = Signal(name="temperature", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")
    power = Signal(name="power", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(2.0,))
    rng, days = np.random.default_rng(0), []
    for _ in range(60):
        room = Room([rng.uniform(12, 22)], rng=rng)
        for held in rng.uniform(0, 2, 8):
            room.run(float(held), 3)
        seen, taken = np.array(room.temperatures, np.float32)[:, None], np.array(room.powers, np.float32)[:, None]
        days.append(worldline.Episode(observations={"temperature": seen}, actions={"power": taken}))
    engine = Linear.fit(days[:40], worldline.Schema(signals=(temperature, power), step_s=600.0))
    calibration = calibrate(engine, days[40:], horizon=STEPS, num_windows=8, seed=0)
    save_world(folder, LocalWorld(engine, calibration, CrossEntropy()))


async def decide(model: AsyncOpenAI, name: str, world: Client, room: Room) -> float:
    """One decision: the model calls tools until it sets the heater."""
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
        for tool in (await world.list_tools()).tools
    ]
    history = {"temperature": np.round(room.temperatures[-6:], 2).tolist(), "power": room.powers[-5:]}
    messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": json.dumps(history)}]
    tools: Any = [{"type": "function", "function": function} for function in [*functions, HEATER]]
    for _ in range(8):
        reply = await model.chat.completions.create(model=name, messages=messages, tools=tools)
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or []:
            if call.type != "function":
                continue
            arguments = json.loads(call.function.arguments)
            if call.function.name == "set_heater":
                return float(np.clip(arguments["power"], 0, 2))
            result = await world.call_tool(call.function.name, arguments)
            text = "".join(part.text for part in result.content if part.type == "text")
            show(text, failed=result.is_error)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
    raise RuntimeError("the model did not set the heater in 8 rounds")


def show(text: str, *, failed: bool) -> None:
    """Prints what the world answered."""
    found = {} if failed else json.loads(text)
    print(f"  world: {found.get('trust_meaning', text)}")
    for plan in found.get("plans", []):
        end = plan["end"]["temperature"]
        span = f"{end['mean']:.1f} ({end['low']:.1f} to {end['high']:.1f}) degC"
        held = "holds the bound" if plan["violation"] == 0 else f"exceeds the bound by {plan['violation']:.1f} degC"
        print(f"    {plan['plan']:>6}: ends at {span}, {held}, cost {plan['cost']:.1f}")


def scripted(messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The call of the stand-in for a language model: compare plans, then act on the best one that holds the bound."""
    if messages[-1]["role"] == "user":
        seen = json.loads(messages[-1]["content"])
        past = {"observations": {"temperature": seen["temperature"]}, "actions": {"power": seen["power"]}}
        goal = {"targets": {"temperature": 20}, "tolerance": {"temperature": 1}}
        at_most = {"rule": "AtMost", "signal": "temperature", "bound": 22}
        bound = {"rule": "Chance", "constraint": at_most, "level": 0.8}
        plans = {name: {"power": power} for name, power in PLANS.items()}
        asked = {"world": "room", "history": past, "candidates": plans, "goal": goal, "constraints": [bound]}
        return "compare_plans", {**asked, "steps": STEPS}
    try:
        found = json.loads(messages[-1]["content"])
    except ValueError:  # an error, in words
        return "set_heater", {"power": 0.0}
    safe = found["trust"] is not None and found["trust"] >= 0.05 and found["plans"][0]["violation"] == 0
    return "set_heater", {"power": PLANS[found["plans"][0]["plan"]] if safe else 0.0}


@contextmanager
def scripted_model() -> Iterator[str]:
    """Serves the stand-in on this machine; yields its base URL."""

    class ScriptedModel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, arguments = scripted(body["messages"])
            function = {"name": name, "arguments": json.dumps(arguments)}
            call = {"id": f"call-{name}", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            facts = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
            content = json.dumps({**facts, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), ScriptedModel) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


async def heat(folder: str, base_url: str, name: str) -> Room:
    """Decides once per hour, and lets the room run."""
    room, command = Room(), "from worldline.cli.main import app; app()"
    room.run(0.0, 5)
    server = StdioServerParameters(
        command=sys.executable, args=["-c", command, "mcp", folder, "--threads", "1"], env=dict(os.environ)
    )
    model = AsyncOpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    async with model, Client(stdio_client(server)) as world:
        for hour in range(ROUNDS):
            print(f"hour {hour}: the room has {room.temperatures[-1]:.1f} degC")
            power = await decide(model, name, world, room)
            room.run(power, STEPS)
            print(f"  agent: {power:.1f} kW. An hour later the room has {room.temperatures[-1]:.1f} degC")
    return room


def main(argv: Sequence[str] | None = None) -> Room:
    """Learns the room, heats it, and prints each decision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint, such as http://127.0.0.1:11434/v1")
    parser.add_argument("--model", default="scripted", help="name of the model at the endpoint")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, scripted_model() as stand_in:
        learn_room(f"{folder}/room")
        return asyncio.run(heat(f"{folder}/room", given.base_url or stand_in, given.model))


if __name__ == "__main__":
    main()
