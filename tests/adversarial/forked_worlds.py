"""Forks processes before and after torch computed with several threads. Prints OK at the end.

In an interpreter of its own, because its threads are those of this file only. A child that hangs is killed by an alarm.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tests.world.tiny import CALM, _jepa

from worldline.catalog.fallback import FallbackWorld
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.errors import UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world
from worldline.world.local import LocalWorld
from worldline.world.session import Session

HANGS_S = 20
PLANNER = CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2)
GOAL = Goal(targets={"position": np.zeros(2)}, tolerance={"position": 1.0})
HISTORY = CALM.episodes(1, 12, seed=0)[0].history(3, 4)
MANY = HISTORY.map(lambda value: np.repeat(value[None], 8_000, 0))
"""Enough worlds for all threads."""


def pushes(history: History, num_steps: int = 3) -> dict[str, np.ndarray]:
    front = history.actions["push"].shape[:-2]
    return {"push": np.zeros((*front, num_steps, 2), np.float32)}


def predicts(world: World, history: History = HISTORY) -> bytes:
    return world.predict(history, pushes(history)).signals["position"].mean.tobytes()


def plans(world: World) -> bytes:
    return world.plan(HISTORY, GOAL, horizon=3).actions["push"].tobytes()


def scores(world: World) -> bytes:
    return world.score(HISTORY, {"push": pushes(HISTORY)["push"][None]}, GOAL).cost.tobytes()


def watched(world: World) -> Session:
    session = Session(world)
    session.observe({"position": HISTORY.observations["position"][0]})
    return session


def in_child(ask: Callable[[], bytes]) -> bytes:
    """The answer of a forked process, or the text of its UnsupportedError; fails if it hangs or crashes."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(HANGS_S)
        try:
            found = ask()
        except UnsupportedError as error:
            found = str(error).encode()
        os.write(writer, found)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status} ({signal.SIGALRM} is the alarm)"
    return found


def refused(ask: Callable[[], object]) -> None:
    """Checks that a forked process raises the error, although it would hang."""
    found = in_child(lambda: bytes(str(ask()), "ascii"))
    assert b"would hang" in found, found
    assert b"get_context('spawn')" in found, found


def agrees(found: bytes, expected: bytes) -> None:
    """Checks a prediction; sums may differ in the last bits with the number of threads."""
    np.testing.assert_allclose(np.frombuffer(found, np.float32), np.frombuffer(expected, np.float32), 1e-4, 1e-4)


def with_one_thread(ask: Callable[[], bytes]) -> bytes:
    torch.set_num_threads(1)
    return ask()


def main(folder: Path) -> None:
    engine = _jepa(CALM.schema, ("position",))
    world = LocalWorld(engine, None, PLANNER)
    numpy_world = LocalWorld(Linear.fit(CALM.episodes(12, 12, seed=0), CALM.schema, context=1), None, PLANNER)
    torch.set_num_threads(1)
    save_world(folder, world)
    expected = predicts(world), plans(world), predicts(world, MANY)
    session = watched(world)
    agrees(in_child(lambda: predicts(world)), expected[0])
    agrees(in_child(lambda: plans(world)), expected[1])
    torch.set_num_threads(2)
    agrees(in_child(lambda: predicts(open_world(folder), MANY)), expected[2])  # nothing used the pool before the fork

    predicts(world, MANY)
    refused(lambda: predicts(world, MANY))
    refused(lambda: plans(world))
    refused(lambda: scores(world))
    refused(lambda: world.what_if(CALM.episodes(1, 12, seed=0)[0], 3, pushes(HISTORY)))
    refused(lambda: session.predict(pushes(HISTORY)))  # from the belief of the parent
    refused(lambda: open_world(folder))
    refused(lambda: scores(numpy_world))  # costs are torch functions
    assert in_child(lambda: in_child(lambda: predicts(world))).count(b"would hang") == 1
    agrees(in_child(lambda: predicts(numpy_world)), predicts(numpy_world))
    both = FallbackWorld([world, numpy_world])
    agrees(in_child(lambda: predicts(both)), predicts(numpy_world))
    agrees(in_child(lambda: with_one_thread(lambda: predicts(world, MANY))), expected[2])
    agrees(predicts(world, MANY), expected[2])  # the parent goes on
    torch.set_num_threads(1)
    agrees(in_child(lambda: predicts(world, MANY)), expected[2])


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "world")
    print("OK")
