"""Moves to a place in the other room, with any world: `python examples/navigate.py WORLD --plot it.png`.

It uses the known position of the door, so any world that predicts positions is enough. With --direct it uses only the
observation at the goal. Then the world must find the path, which takes a world with a goal distance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import worldline
from worldline.labs.two_rooms import TwoRooms

Array = np.ndarray[Any, Any]
HORIZON, MAX_STEPS = 6, 60
NEAR = 2.0  # px from the goal that count as reached


@dataclass(frozen=True, kw_only=True)
class Result:
    """Whether the goal was reached, the number of steps, and the path [steps + 1, 2] px."""

    arrived: bool
    num_steps: int
    path: Array


def draw_task(seed: int, walls: Literal["fixed", "random"]) -> tuple[TwoRooms, dict[str, Array], dict[str, Array]]:
    """The rooms, the observation at the start, and the observation at the goal in the other room."""
    rooms = TwoRooms(walls)
    start, _ = rooms.reset(seed=seed)
    draw = np.random.default_rng(seed)
    wall_x = float(start["wall"][0])
    there = draw.uniform(wall_x + 10, 58) if start["position"][0] < wall_x else draw.uniform(6, wall_x - 10)
    place = {"position": (there, draw.uniform(6, 58)), "wall": start["wall"]}
    goal, _ = TwoRooms(walls).reset(seed=seed, options=place)
    return rooms, start, goal


def waypoints(start: dict[str, Array], goal: dict[str, Array]) -> list[Array]:
    """Points before and behind the door, and the goal; the signal `wall` gives the door."""
    side = np.sign(goal["position"][0] - start["wall"][0])
    return [start["wall"] + (-6 * side, 0), start["wall"] + (6 * side, 0), goal["position"]]


def navigate(
    world: worldline.World, rooms: TwoRooms, start: dict[str, Array], goal: dict[str, Array], *, direct: bool
) -> Result:
    """Plans a few steps ahead, executes the first, and plans again."""
    card = world.describe()
    legs = [goal["position"]] if direct else waypoints(start, goal)
    session = worldline.Session(world, num_kept=card.context + 2, level=0.5)
    session.observe({name: start[name] for name in card.inputs})
    path, left = [start["position"]], None
    while len(path) <= MAX_STEPS:
        if np.linalg.norm(path[-1] - legs[0]) < NEAR:
            legs, left = legs[1:], None
        if not legs:
            break
        near = worldline.Goal(targets={"position": legs[0]}, tolerance={"position": NEAR})
        aim = worldline.Goal(targets={name: goal[name] for name in card.inputs}, in_steps=True) if direct else near
        plan = world.plan(session.history, aim, horizon=HORIZON, proposals=left, seed=len(path))
        moves = plan.actions["move"]
        left = {"move": np.append(moves[1:], moves[-1:], 0)[None]}  # start of the next search
        seen = rooms.step({"move": moves[0]})[0]
        session.observe({name: seen[name] for name in card.inputs}, actions={"move": moves[0]})
        path.append(seen["position"])
    return Result(arrived=not legs, num_steps=len(path) - 1, path=np.array(path))


def main(argv: Sequence[str] | None = None) -> Result:
    """Moves to the goal, prints the result, and draws it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="world: a folder, URL or name, as for worldline.open")
    parser.add_argument("--seed", type=int, default=0, help="seed of start and goal")
    parser.add_argument("--walls", choices=("fixed", "random"), default="fixed", help="position of wall and door")
    parser.add_argument("--plot", help="file for the figure")
    parser.add_argument("--direct", action="store_true", help="plan directly to the goal, without waypoints")
    given = parser.parse_args(argv)
    rooms, start, goal = draw_task(given.seed, given.walls)
    world = worldline.open(given.world)
    result = navigate(world, rooms, start, goal, direct=given.direct)
    outcome = f"{'Arrived' if result.arrived else 'Did not arrive'} after {result.num_steps} steps."
    print(outcome)
    if given.plot:
        from pictures import draw_rooms

        draw_rooms(given.plot, start["wall"], goal["position"], result.path, f"{world.describe().name}: {outcome}")
    return result


if __name__ == "__main__":
    main()
