"""Goals that are pictures, in models of pictures with and without vectors: Two Rooms of stable-worldmodel.

Run: .venv/bin/python benchmarks/picture_goals.py --peer-python PATH [--seeds 2] [--budget 2min] [--logs FOLDER]
     [--out FILE]
Writes benchmarks/results/picture_goals.json.

The logs are 300 episodes of the environment's own policies (expert with noise, random), images of 64 px. The vectors
are the position, twice, and a vector that does not change during an episode. Both recipes learn within the budget on
one thread. A goal is the image 25 steps later in a held-out episode of the expert, where the position is at least
10 steps away. The controller plans 12 steps, takes 5 of them, and has 50 steps. A goal is reached within 16 px of 224,
as in the environment.

Target: `pixels-and-vectors` reaches as many goals as `pixels`, within the interval.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from train import machine

import worldline
from worldline.data.importing import import_logs
from worldline.data.store import Store, open_store
from worldline.episode import Arrays, History
from worldline.stats import wilson
from worldline.world.base import World

RESULT = Path(__file__).parent / "results" / "picture_goals.json"
PEER = Path(__file__).parent / "picture_goals_peer.py"
RECIPES = ("pixels", "pixels-and-vectors")
SIDE, SPEED, REACHED = 64, 5.0, 16.0
"""Pixels of the image, pixels of 224 per step, and pixels of 224 within which a goal is reached."""
OFFSET, LEAST_STEPS, NUM_GOALS = 25, 10, 20
HORIZON, TAKEN, MAX_STEPS = 12, 5, 50
Position = NDArray[np.float64]


class Room:
    """The environment, in a process of the peers' environment."""

    def __init__(self, python: Path) -> None:
        self._peer = subprocess.Popen([python, PEER, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request: list[float]) -> tuple[Position, NDArray[np.uint8]]:
        """Position and image after a reset or a step."""
        sender, receiver = self._peer.stdin, self._peer.stdout
        assert sender is not None
        assert receiver is not None
        sender.write(json.dumps(request).encode() + b"\n")
        sender.flush()
        position = np.array(json.loads(receiver.readline()))
        return position, np.frombuffer(receiver.read(SIDE * SIDE * 3), np.uint8).reshape(SIDE, SIDE, 3)

    def close(self) -> None:
        """Ends the process."""
        assert self._peer.stdin is not None
        self._peer.stdin.close()
        self._peer.wait()


def goals_of(store: Store, episodes: list[int], seed: int) -> list[tuple[Position, Position, Arrays]]:
    """Start and goal positions, and the vectors that do not change during the episode."""
    found: list[tuple[Position, Position, Arrays]] = []
    for number in np.random.default_rng(seed).permutation(episodes):
        if "expert" not in str(store.entry(int(number)).source):
            continue
        seen = store.episode(int(number)).observations
        place, last = seen["proprio"], len(seen["proprio"]) - 1
        if last >= 1 and np.linalg.norm(place[min(OFFSET, last)] - place[0]) >= LEAST_STEPS * SPEED:
            found.append((place[0], place[min(OFFSET, last)], {"observation": seen["observation"][0]}))
    return found


def attempt(world: World, room: Room, start: Position, goal: Position, constant: Arrays) -> bool:
    """Whether the goal is reached."""
    _, picture = room.ask(reset=[float(x) for x in goal])
    names = {signal.name for signal in world.describe().schema.observations}
    place, image = room.ask(reset=[float(x) for x in start])
    seen: list[Arrays] = []
    actions: list[NDArray[np.float32]] = []

    def look() -> None:
        position = place.astype(np.float32)
        values: Arrays = {"pixels": image, "proprio": position, "state": position, **constant}
        seen.append({name: value for name, value in values.items() if name in names})

    look()
    while len(actions) < MAX_STEPS:
        past = {name: np.stack([one[name] for one in seen[-2:]])[None] for name in seen[0]}
        taken = {"action": np.stack(actions[-1:])[None]} if actions else {}
        now = History(observations=past, actions=taken)
        plan = world.plan(now, worldline.Goal(targets={"pixels": picture[None]}), horizon=HORIZON)
        for action in plan.actions["action"][0][:TAKEN]:
            place, image = room.ask(step=[float(x) for x in action])
            actions.append(np.asarray(action, np.float32))
            look()
            if np.linalg.norm(place - goal) < REACHED:
                return True
    return False


def main() -> None:
    """Records, learns, measures; writes and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="Python with stable-worldmodel and h5py")
    parser.add_argument("--seeds", type=int, default=2, help="number of training seeds")
    parser.add_argument("--budget", default="2min", help="time of learning")
    parser.add_argument("--logs", type=Path, help="folder that keeps the logs")
    parser.add_argument("--out", type=Path, default=RESULT, help="file of results")
    options = parser.parse_args()
    console, rows = Console(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        logs = (options.logs or Path(folder) / "logs").resolve()
        logs.mkdir(parents=True, exist_ok=True)
        if not (logs / "random.h5").exists():
            subprocess.run([options.peer_python, PEER, "record", logs], check=True)
        for name in ("expert", "random"):
            import_logs(logs / f"{name}.h5", Path(folder) / "store")
        store, room = open_store(Path(folder) / "store"), Room(options.peer_python)
        for seed in range(options.seeds):
            for recipe in RECIPES:
                out = Path(folder) / f"{recipe}-{seed}"
                world = worldline.learn(store, out, recipe=recipe, seed=seed, budget=options.budget)
                run = json.loads((out / "run.json").read_text(encoding="utf-8"))
                pairs = goals_of(store, run["split"]["held_out"] + run["split"]["calibration"], seed)[:NUM_GOALS]
                reached = sum(attempt(world, room, *pair) for pair in pairs)
                rows.append({"recipe": recipe, "seed": seed, "reached": reached, "goals": len(pairs)})
                console.print(rows[-1])
        room.close()
    rates = {name: [row for row in rows if row["recipe"] == name] for name in RECIPES}
    sums = {name: tuple(sum(row[key] for row in some) for key in ("reached", "goals")) for name, some in rates.items()}
    table = Table("recipe", "goals reached", "95 % interval")
    summary = {}
    for name, (reached, count) in sums.items():
        rate = wilson(reached, count)
        summary[name] = {"reached": reached, "goals": count, "low": rate.low, "high": rate.high}
        table.add_row(name, f"{reached} of {count}", f"{rate.low:.0%} to {rate.high:.0%}")
    console.print(table)
    result = {"budget": options.budget, "rows": rows, "summary": summary, "machine": machine()}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
