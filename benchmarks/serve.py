"""The service under load: batching, tail latency, overload, memory and overhead.

Run: .venv/bin/python benchmarks/serve.py [FOLDER] [--parts PART ...] [--calls 100000]
     [--seconds 10] [--repeats 3]
Learns the demo world, a greenhouse and a linear greenhouse into FOLDER (default: a temporary one) if it holds none.
Writes benchmarks/results/serve.json.

`worldline serve` runs in a second process with one thread per worker. This process sends requests over loopback, with
uvloop. In the part batching, a number of clients send their next request when the last one is answered. In the part
tail, requests arrive at random times (Poisson) that do not depend on the answers; latency counts from the scheduled
time. In the part overhead, served and local calls take turns.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import uvloop
from common import Row, arguments, kept_or_temporary, one_thread, read, spread, stored, write
from greenhouse_logs import record_greenhouse
from greenhouse_plant import greenhouse
from numpy.typing import NDArray

import worldline
from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.planning.base import Goal
from worldline.planning.calls import Call, PlanCall, PredictCall
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Signal
from worldline.workflows.training import learn_world
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld
from worldline.world.wire import CONTENT_TYPE, encode_call

WORLDLINE = str(Path(sys.executable).with_name("worldline"))
CLIENTS, HORIZON, WARM_UP_S = 32, 8, 2.0

BARS: Final = {
    "batching demo": "at least 4",
    "batching greenhouse": "at least 2",
    "batching plan": "at least 0.95",
    "batching linear": "at least 0.95",
    "p99 / p50 at half of the peak": "at most 3",
    "goodput at twice the peak": "at least 0.9",
    "refusal_p99_ms": "at most 50",
    "bytes_per_call": "at most 100",
    "overhead_ms": "at most 2",
}


class Request(NamedTuple):
    """A request, ready to be sent.

    Args:
        message: headers and body.
        call: the same call, for a world in this process.
    """

    message: bytes
    call: Call


def request(world: str, call: Call) -> Request:
    body = encode_call(call)
    head = f"POST /v1/worlds/{world}:{call.verb} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {CONTENT_TYPE}\r\n"
    return Request(message=f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, call=call)


def past(card: Card) -> History:
    """A history of `Card.context` observations in the middle of the bounds."""
    rng, length = np.random.default_rng(0), card.context
    observations = {}
    for signal in card.schema.observations:
        if signal.name in card.inputs and signal.kind is Kind.IMAGE:
            observations[signal.name] = rng.integers(0, 255, (length, *signal.shape), np.uint8)
        elif signal.name in card.inputs:
            observations[signal.name] = np.broadcast_to(middle(signal), (length, *signal.shape))
    steps = length - 1
    inputs = {signal.name: np.broadcast_to(middle(signal), (steps, *signal.shape)) for signal in card.schema.actions}
    known = {signal.name: np.broadcast_to(middle(signal), (steps, *signal.shape)) for signal in card.schema.exogenous}
    return History(observations=observations, actions=inputs, exogenous=known)


def middle(signal: Signal) -> NDArray[np.generic]:
    """The middle of the bounds; 1 without bounds."""
    low, high = (signal.low, signal.high) if signal.low and signal.high else ((1.0,), (1.0,))
    return np.broadcast_to((np.array(low) + np.array(high)) / 2, signal.shape).astype(signal.dtype)


def ahead(card: Card, role: str, steps: int) -> dict[str, Any]:
    return {one.name: np.broadcast_to(middle(one), (steps, *one.shape)) for one in getattr(card.schema, role)}


def predict(world: str, card: Card) -> Request:
    actions, exogenous = ahead(card, "actions", HORIZON), ahead(card, "exogenous", HORIZON) or None
    return request(world, PredictCall(history=past(card), actions=actions, exogenous=exogenous))


def plan(world: str, card: Card, budget_s: float) -> Request:
    signal = next(one for one in card.schema.observations if one.name in card.predicts and one.kind is Kind.VECTOR)
    goal = Goal(targets={signal.name: middle(signal)}, tolerance={signal.name: 1.0})
    exogenous = ahead(card, "exogenous", HORIZON) or None
    call = PlanCall(history=past(card), goal=goal, horizon=HORIZON, exogenous=exogenous, budget_s=budget_s)
    return request(world, call)


class Connection:
    """One HTTP connection.

    Args:
        port: on loopback.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, message: bytes) -> int:
        """Sends a request and returns the status of its answer."""
        if self._streams is None or self._streams[0].at_eof():  # the server closes idle connections
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head.lower())[0]))
        if b"connection: close" in head.lower():
            await self.close()
        return int(head[9:12])

    async def close(self) -> None:
        """Closes the connection; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextmanager
def served(
    worlds: dict[str, Path], folder: Path, *, batch: int, database: str = "service", more: Sequence[str] = ()
) -> Iterator[tuple[int, int]]:
    """`worldline serve` with `more` options in another process; yields port and process id."""
    command = [WORLDLINE, "serve", *(f"{name}={path}" for name, path in worlds.items())]
    options = [
        *f"--port 0 --threads 1 --batch {batch} --database".split(),
        str(folder / f"{database}-{batch}.sqlite"),
        *more,
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = next(match for line in process.stdout if (match := re.search(r"127\.0\.0\.1:(\d+)", line)))
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()
            process.communicate(timeout=60)


async def closed_loop(
    port: int, requests: Sequence[Request], clients: int, seconds: float
) -> tuple[float, list[float]]:
    """Calls per second and latencies of clients that wait for each answer."""
    latencies, ends_s = list[float](), time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection, count = Connection(port), number
        while time.perf_counter() < ends_s:
            started_s = time.perf_counter()
            status = await connection.send(requests[count % len(requests)].message)
            assert status == 200, status
            latencies.append(time.perf_counter() - started_s)
            count += 1
        await connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return len(latencies) / seconds, latencies


async def open_loop(port: int, one: Request, rate: float, seconds: float) -> Row:
    """Latencies and statuses of requests that arrive at random times."""
    rng, free = np.random.default_rng(0), list[Connection]()
    found: dict[int, list[float]] = {}

    async def send(scheduled_s: float) -> None:
        connection = free.pop() if free else Connection(port)
        status = await connection.send(one.message)
        found.setdefault(status, []).append(time.perf_counter() - scheduled_s)
        free.append(connection)

    tasks, scheduled_s = set[asyncio.Task[None]](), time.perf_counter()
    ends_s = scheduled_s + seconds
    while (scheduled_s := scheduled_s + rng.exponential(1 / rate)) < ends_s:
        await asyncio.sleep(max(0.0, scheduled_s - time.perf_counter()))
        task = asyncio.create_task(send(scheduled_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    sent = len(tasks) + sum(map(len, found.values()))
    await asyncio.gather(*tasks)
    took_s = time.perf_counter() - (ends_s - seconds)
    for connection in free:
        await connection.close()
    good, refused = found.get(200, []), found.get(429, [])
    return {
        "rate": rate,
        "sent": sent,
        "statuses": dict(Counter({str(status): len(times) for status, times in found.items()})),
        "goodput": len(good) / took_s,
        "p50_ms": quantile_ms(good, 0.5),
        "p99_ms": quantile_ms(good, 0.99),
        "refusal_p50_ms": quantile_ms(refused, 0.5),
        "refusal_p99_ms": quantile_ms(refused, 0.99),
    }


def quantile_ms(values: Sequence[float], level: float) -> float | None:
    return float(np.quantile(values, level)) * 1000 if values else None


def batching(worlds: dict[str, Path], folder: Path, seconds: float, repeats: int) -> Row:
    """Calls per second with batching on and off: two services that are called in turn."""
    cards = {name: worldline.open(path, device="cpu").describe() for name, path in worlds.items()}
    requests = {
        "demo": predict("demo", cards["demo"]),
        "greenhouse": predict("greenhouse", cards["greenhouse"]),
        "linear": predict("linear", cards["linear"]),
        "plan": plan("greenhouse", cards["greenhouse"], 0.2),
    }
    rates: dict[str, dict[str, list[float]]] = {name: {"on": [], "off": []} for name in requests}
    with served(worlds, folder, batch=CLIENTS) as (on, _), served(worlds, folder, batch=1) as (off, _):
        for name, one in requests.items():
            for port in (on, off):
                uvloop.run(closed_loop(port, [one], CLIENTS, WARM_UP_S))
            for _ in range(repeats):
                for mode, port in (("on", on), ("off", off)):
                    rate, _ = uvloop.run(closed_loop(port, [one], CLIENTS, seconds))
                    rates[name][mode].append(rate)
    return {
        name: {
            "calls_per_s_on": found["on"],
            "calls_per_s_off": found["off"],
            "ratio": spread([on / off for on, off in zip(found["on"], found["off"], strict=True)]),
        }
        for name, found in rates.items()
    }


def tail(worlds: dict[str, Path], folder: Path, seconds: float, repeats: int) -> Row:
    """Latency at half of the peak rate, and goodput at twice the peak rate.

    The peak is measured before and after, because the speed of the machine varies.
    """
    rows: dict[str, list[Row]] = {"demo": [], "greenhouse": []}
    cards = {name: worldline.open(worlds[name], device="cpu").describe() for name in rows}
    for _ in range(repeats):
        for name, found in rows.items():
            one = predict(name, cards[name])
            with served({name: worlds[name]}, folder, batch=CLIENTS) as (port, _):
                uvloop.run(closed_loop(port, [one], CLIENTS, WARM_UP_S))
                peak, _ = uvloop.run(closed_loop(port, [one], CLIENTS, seconds))
                half = uvloop.run(open_loop(port, one, peak / 2, seconds))
                twice = uvloop.run(open_loop(port, one, peak * 2, seconds))
                after, _ = uvloop.run(closed_loop(port, [one], CLIENTS, seconds))
            found.append({"peak": peak, "half": half, "twice": twice, "peak_after": after})
    return {
        name: {
            "p99_over_p50": spread([one["half"]["p99_ms"] / one["half"]["p50_ms"] for one in found]),
            "goodput_over_peak": spread(
                [one["twice"]["goodput"] / np.mean([one["peak"], one["peak_after"]]) for one in found]
            ),
            "refusal_p99_ms": spread([one["twice"]["refusal_p99_ms"] for one in found]),
            "runs": found,
        }
        for name, found in rows.items()
    }


def memory(worlds: dict[str, Path], folder: Path, calls: int) -> Row:
    """Growth of the resident memory over mixed calls, after a tenth of them."""
    cards = {name: worldline.open(path, device="cpu").describe() for name, path in worlds.items()}
    mixed = [predict(name, card) for name, card in cards.items()] + [plan("greenhouse", cards["greenhouse"], 0.01)]

    async def send(port: int, count: int) -> None:
        async def client(number: int) -> None:
            connection = Connection(port)
            for at in range(number, count, CLIENTS):
                status = await connection.send(mixed[at % len(mixed)].message)
                assert status == 200, status
            await connection.close()

        await asyncio.gather(*(client(number) for number in range(CLIENTS)))

    with served(worlds, folder, batch=CLIENTS) as (port, pid):
        uvloop.run(send(port, calls // 10))
        before = resident(pid)
        uvloop.run(send(port, calls))
        after = resident(pid)
    return {"calls": calls, "before": before, "after": after, "bytes_per_call": (after - before) / calls}


def resident(pid: int) -> int:
    found = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[0]) * 1024


def overhead(worlds: dict[str, Path], folder: Path, seconds: float, repeats: int) -> Row:
    """Median latency of one client, less that of the same call in this process.

    Served and local calls take turns, so that both see the same speed of the machine and the same rest between calls.
    """
    world = worldline.open(worlds["greenhouse"], device="cpu")
    one = predict("greenhouse", world.describe())

    async def in_turn(port: int) -> tuple[float, float]:
        connection, times, ends_s = Connection(port), (list[float](), list[float]()), time.perf_counter() + seconds
        while time.perf_counter() < ends_s:
            started_s = time.perf_counter()
            assert await connection.send(one.message) == 200
            answered_s = time.perf_counter()
            world.answer(one.call)
            times[0].append(answered_s - started_s)
            times[1].append(time.perf_counter() - answered_s)
        await connection.close()
        remote, local = (float(np.median(found)) * 1000 for found in times)
        return remote, local

    found = list[tuple[float, float]]()
    for _ in range(repeats):
        with served({"greenhouse": worlds["greenhouse"]}, folder, batch=CLIENTS) as (port, _):
            uvloop.run(closed_loop(port, [one], 1, WARM_UP_S))
            found.append(uvloop.run(in_turn(port)))
    remote, local = zip(*found, strict=True)
    return {
        "served_p50_ms": remote,
        "local_p50_ms": local,
        "overhead_ms": spread([there - here for there, here in found]),
    }


def learned(folder: Path) -> dict[str, Path]:
    """The worlds; learned if the folder holds none."""
    worlds = {name: folder / name for name in ("demo", "greenhouse", "linear")}
    if not worlds["demo"].is_dir():
        subprocess.run([WORLDLINE, "demo", "--out", str(folder / "demo-run")], check=True)
        (folder / "demo-run" / "world").rename(worlds["demo"])
    if not worlds["linear"].is_dir():
        store = stored(folder / "greenhouse-store", lambda path: record_greenhouse(path, num_episodes=288, seed=0))
        result = learn_world(store, greenhouse(store), folder=folder / "greenhouse-run")
        save_world(worlds["greenhouse"], result.world)
        episodes = [store.episode(number) for number in result.split.train]
        save_world(worlds["linear"], LocalWorld(Linear.fit(episodes, store.schema), None, CrossEntropy()))
    return worlds


def main() -> None:
    """Measures the parts, prints and writes each result."""
    parts = ("batching", "tail", "memory", "overhead")
    options = arguments(__doc__, folder=Path, parts=parts, calls=100_000, seconds=10.0, repeats=3)
    one_thread()
    figures = read(options.out) | {"bars": BARS}
    with kept_or_temporary(options.folder) as folder:
        worlds = learned(folder)
        for part in options.parts:
            match part:
                case "memory":
                    figures[part] = memory(worlds, folder, options.calls)
                case _:
                    measure = {"batching": batching, "tail": tail, "overhead": overhead}[part]
                    figures[part] = measure(worlds, folder, options.seconds, options.repeats)
            print(part, json.dumps(figures[part], indent=2), flush=True)
            write(options.out, figures)


if __name__ == "__main__":
    main()
