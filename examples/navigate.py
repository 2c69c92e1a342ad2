"""Goes to a place in the other room, with any world: `python examples/navigate.py WORLD --plot it.png`.

It knows where the door is, so any world that predicts positions will do. With --direct it says no more than what is
seen at the goal, and the world has to find the way: one that can tell how many steps a goal is away.
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
NEAR = 2.0  # px from the goal that count as there


@dataclass(frozen=True, kw_only=True)
class Result:
    """Whether it arrived, after how many steps, and where it was after each of them [steps + 1, 2] px."""

    arrived: bool
    num_steps: int
    path: Array


def draw_task(seed: int, walls: Literal["fixed", "random"]) -> tuple[TwoRooms, dict[str, Array], dict[str, Array]]:
    """The rooms, what is seen at the start, and what would be seen at the goal, which is in the other room."""
    rooms = TwoRooms(walls)
    start, _ = rooms.reset(seed=seed)
    draw = np.random.default_rng(seed)
    wall_x = float(start["wall"][0])
    there = draw.uniform(wall_x + 10, 58) if start["position"][0] < wall_x else draw.uniform(6, wall_x - 10)
    place = {"position": (there, draw.uniform(6, 58)), "wall": start["wall"]}
    goal, _ = TwoRooms(walls).reset(seed=seed, options=place)
    return rooms, start, goal


def waypoints(start: dict[str, Array], goal: dict[str, Array]) -> list[Array]:
    """Before the door, behind it, and the goal: the wall shows where the door is."""
    side = np.sign(goal["position"][0] - start["wall"][0])
    return [start["wall"] + (-6 * side, 0), start["wall"] + (6 * side, 0), goal["position"]]


def navigate(
    world: worldline.World, rooms: TwoRooms, start: dict[str, Array], goal: dict[str, Array], *, direct: bool
) -> Result:
    """Plans a few steps ahead, takes the first of them, and plans anew."""
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
        left = {"move": np.append(moves[1:], moves[-1:], 0)[None]}  # a start for the next search
        seen = rooms.step({"move": moves[0]})[0]
        session.observe({name: seen[name] for name in card.inputs}, actions={"move": moves[0]})
        path.append(seen["position"])
    return Result(arrived=not legs, num_steps=len(path) - 1, path=np.array(path))


def main(argv: Sequence[str] | None = None) -> Result:
    """The result, printed, and drawn where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="whatever worldline.open takes")
    parser.add_argument("--seed", type=int, default=0, help="of start and goal")
    parser.add_argument("--walls", choices=("fixed", "random"), default="fixed", help="where the wall and its door are")
    parser.add_argument("--plot", help="file for a picture")
    parser.add_argument("--direct", action="store_true", help="leave the way to the world")
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
