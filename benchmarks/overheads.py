"""The overhead of planning, prediction and sessions, compared with an earlier version of the toolkit.

Run: .venv/bin/python benchmarks/overheads.py [--base COMMIT] [--repeats 5] [--families NAME ...]
Writes benchmarks/results/overheads.json, one family at a time. About 30 minutes on one core.

The earlier version is checked out into a temporary folder. It learns one small world per family, at the default size of
its recipe, and saves it. Both versions open these bundles, so the weights are equal. Each version runs in a separate
process with one thread. The two answer in turn; times are medians over the repeats.

Counts come from instrumentation: frames are observations that `WorldModel.encode` and `update` receive, a rollout is a
call of `WorldModel.rollout`, and a conversion is a call that turns an array into a tensor or back.

Rows:
  counts    frames per `predict` with 8 and 41 observations, frames per `Session.observe` and `Session.predict` with 100
            kept, and per plan: rollouts per population, goal encodings, conversions inside the search.
  times     `plan` (CEM, 64 candidates, 3 populations, horizon 12, a goal in steps and a constraint), `predict` with 41
            observations; the speedup is the old time divided by the new one.
  equality  costs and violations of injected candidates, and of whole plans from many starts.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).parent.parent
RESULT: Final = Path(__file__).parent / "results" / "overheads.json"
BASE: Final = "5991146"
FAMILIES: Final = ("jepa", "jepa-memory", "rssm", "ensemble", "lewm")
STOCHASTIC: Final = ("rssm", "ensemble")
HORIZON: Final = 12
NUM_STEPS: Final = 60


# --- the part that runs in either version


def named(*homes: str) -> Any:
    """The object at the first of these places, each "module:name" in worldline, that this version has."""
    for home in homes:
        module, name = home.split(":")
        try:
            return getattr(import_module(f"worldline.{module}"), name)
        except ImportError:
            continue
    raise ImportError(f"none of {homes} exists")


def prepare(folder: Path) -> None:
    """Learns the worlds, with the earlier version."""
    from dataclasses import replace

    kind = named("contracts.schema:Kind")
    store_class = named("data.store:Store")
    vectors, memory, pixels = (
        named(f"recipes.{home}") for home in ("vectors:vectors", "memory:memory", "pixels:pixels")
    )
    with_family, toy_class = named("recipes.families:with_family"), named("testing.toys:Integrator")
    learn_world, run_manifest = named("workflows.training:learn_world"), named("workflows.manifest:run_manifest")
    save_world, planner = named("worlds.bundled:save_world"), named("planners.cem:CrossEntropy")
    # With an exogenous signal or without goals there is no distance head; the recipe memory has none by default.
    recipes = {"jepa": (vectors, "jepa"), "jepa-memory": (memory, "jepa"), "rssm": (pixels, "rssm"),
               "ensemble": (vectors, "ensemble"), "lewm": (pixels, "lewm")}  # fmt: skip
    for name, (recipe, family) in recipes.items():
        if (folder / name).exists():
            continue
        toy = toy_class(noise=0.1, wind=False, camera=recipe is pixels)
        signals = [replace(s, shape=(64, 64, 3)) if s.kind is kind.IMAGE else s for s in toy.schema.signals]
        store = store_class.create(folder / f"{name}.store", replace(toy.schema, signals=tuple(signals)))
        for episode in toy.episodes(60, NUM_STEPS, seed=0):
            observations = dict(episode.observations)
            if "camera" in observations:
                observations["camera"] = observations["camera"].repeat(8, 1).repeat(8, 2).repeat(3, 3)
            store.append(replace(episode, observations=observations))
        whole = with_family(recipe(store), store, family)
        updates = {key: min(30, count) for key, count in vars(whole.heads).items() if key.endswith("_updates")}
        training: dict[str, Any] = {"num_updates": 30, "num_checks": 2, "batch_size": 16, "num_validation": 16}
        small = replace(
            whole,
            training=replace(whole.training, **training, min_rank=1.0, min_deviation=0.0, precision="float32"),
            heads=replace(whole.heads, **{**updates, "decoder_updates": 0, "goals": True}),
            horizon=HORIZON,
            num_windows=2,
            planner=planner(num_candidates=64, num_iterations=3),
            num_proposals=1,
        )
        learned = learn_world(store, small, folder=folder / f"{name}.partial")
        run = run_manifest(store, learned, times_s={}, findings=(), unclear=())
        save_world(folder / name, replace(learned.world, call=None), run=run)


def serve(folder: Path) -> None:
    """Answers one JSON request per line."""
    version = Version(folder)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(version, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)


class Version:
    """The measurements of the version that is on the path."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.folder, self.torch = folder, torch
        self.open_world = named("world.bundle_io:open_world", "worlds.bundled:open_world")
        self.worlds: dict[str, Any] = {}
        torch.set_num_threads(1)

    def world(self, family: str) -> Any:
        """The world of a family, opened once."""
        if family not in self.worlds:
            self.worlds[family] = self.open_world(self.folder / family)
        return self.worlds[family]

    def episode(self, family: str, number: int = 0) -> Any:
        """A logged episode."""
        from worldline.data.store import open_store

        return open_store(self.folder / f"{family}.store").episode(number)

    def history(self, family: str, length: int, number: int = 0) -> Any:
        """Observations of an episode."""
        return self.episode(family, number).history(length + 1, length)

    def actions(self, family: str) -> dict[str, np.ndarray]:
        """Logged actions."""
        return {name: value[:HORIZON] for name, value in self.episode(family).actions.items()}

    def goal(self, family: str, **settings: Any) -> Any:
        """A goal in steps."""
        import worldline

        world, episode = self.world(family), self.episode(family, 1)
        targets = {name: episode.observations[name][30] for name in world.describe().inputs}
        return worldline.Goal(targets=targets, in_steps=True, **settings)

    def rule(self) -> Any:
        """A constraint."""
        return named("planning.costs:AtMost", "costs:AtMost")(signal="position", bound=2.0)

    def plan(
        self, family: str, *, penalty: bool = False, rules: bool = True, start: int = 0, seed: int = 0
    ) -> Callable[[], Any]:
        """A plan with CEM, as the world's planner is configured, to be called."""
        world, costs = self.world(family), list[Any]()
        if penalty:
            costs.append(named("planning.costs:OODPenalty", "costs:Unfamiliar")(trust=0.2))
        history, goal = self.history(family, world.describe().context, start), self.goal(family, costs=costs)
        constraints = (self.rule(),) if rules else ()
        return lambda: world.plan(history, goal, constraints=constraints, horizon=HORIZON, seed=seed)

    # --- requests

    def time_plan(self, family: str) -> float:
        """Processor seconds of one plan."""
        return self._seconds(self.plan(family))

    def time_predict(self, family: str, length: int) -> float:
        """Processor seconds of one prediction."""
        history, actions = self.history(family, length), self.actions(family)
        return self._seconds(lambda: self.world(family).predict(history, actions, level=0.8))

    def _seconds(self, call: Callable[[], object]) -> float:
        call()  # warm
        start = time.process_time()  # of one thread that never waits; other load on the machine counts less
        call()
        return time.process_time() - start

    def count_plan(self, family: str, penalty: bool, rules: bool) -> dict[str, float]:
        """Counts of one plan; `rules` adds a constraint."""
        plan = self.plan(family, penalty=penalty, rules=rules)
        with self._counting(family) as counts:
            plan()
        populations = max(1, counts["populations"])
        return {**counts, "rollouts_per_population": counts["rollouts_in_search"] / populations}

    def count_predict(self, family: str, length: int) -> int:
        """Frames encoded by one prediction."""
        history, actions = self.history(family, length), self.actions(family)
        with self._counting(family) as counts:
            self.world(family).predict(history, actions, level=0.8)
        return counts["frames"]

    def count_session(self, family: str) -> list[int]:
        """Frames encoded by `observe` and by `predict`, with 100 observations kept."""
        import worldline

        session = worldline.Session(self.world(family), num_kept=100, level=0.8)
        episodes = [self.episode(family, number) for number in (0, 1)]
        sizes = list[int]()
        steps = [(e, t) for e in episodes for t in range(NUM_STEPS)]
        for number, (episode, at) in enumerate(steps):
            given = None if number == 0 else {k: v[at] for k, v in episode.actions.items()}
            with self._counting(family) as counts:
                session.observe({k: v[at] for k, v in episode.observations.items()}, actions=given)
            sizes.append(counts["frames"])
        with self._counting(family) as counts:
            session.predict(self.actions(family))
        return [sizes[-1], counts["frames"]]

    def score(self, family: str, in_steps: bool) -> list[list[float]]:
        """Cost and violation of injected candidates."""
        world, rng = self.world(family), np.random.default_rng(0)
        plans = {"push": rng.uniform(-1, 1, (100, HORIZON, 2)).astype(np.float32)}
        goal = self.goal(family) if in_steps else self.signal_goal(family)
        found = world.score(self.history(family, world.describe().context), plans, goal, (self.rule(),))
        return [found.cost.tolist(), found.violation[:, 0].tolist()]

    def signal_goal(self, family: str) -> Any:
        """A goal on a predicted signal."""
        import worldline

        return worldline.Goal(targets={"position": self.episode(family, 1).observations["position"][30]})

    def costs_by_seed(self, family: str, seeds: Sequence[int]) -> list[list[float]]:
        """The cost in steps of 100 injected candidates, for each seed of the draws."""
        from dataclasses import replace

        first = named("planning.planners.first_proposal:FirstProposal", "planners.first_proposal:FirstProposal")
        world = replace(self.world(family), planner=first(), num_proposals=0)
        rng = np.random.default_rng(0)
        plans = rng.uniform(-1, 1, (100, 1, HORIZON, 2)).astype(np.float32)
        length, goal = world.describe().context, self.goal(family)
        history = self.history(family, length)
        return [
            [float(world.plan(history, goal, horizon=HORIZON, proposals={"push": one}, seed=seed).cost)
             for one in plans]
            for seed in seeds
        ]  # fmt: skip

    def costs_by_start(self, family: str, starts: Sequence[int]) -> list[float]:
        """The costs of whole plans for a goal on a predicted signal."""
        found = []
        for start in starts:
            world = self.world(family)
            history = self.history(family, world.describe().context, start % 60)
            plan = world.plan(
                history, self.signal_goal(family), constraints=(self.rule(),), horizon=HORIZON, seed=start
            )
            found.append(float(plan.cost))
        return found

    @contextmanager
    def _counting(self, family: str) -> Iterator[dict[str, int]]:
        """Counts what the model and the conversions do inside the block."""
        torch, world = self.torch, self.world(family)
        kind, planner = type(world.engine.model), type(world.planner)
        counts = dict.fromkeys(
            ("frames", "rollouts", "rollouts_in_search", "populations", "goals", "conversions_in_search"), 0
        )
        originals = {name: getattr(kind, name) for name in ("encode", "update", "rollout")}
        each = kind.__dict__.get("encode_each")  # the default calls encode and update, which count
        search = planner.plan
        inside = [False]

        def encode(this: Any, window: Any, **rest: Any) -> Any:
            batch, length = next(iter(window.observed.values())).shape
            counts["frames"] += batch * length
            return originals["encode"](this, window, **rest)

        def encode_each(this: Any, window: Any, *given: Any, **rest: Any) -> Any:
            assert each is not None
            batch, length = next(iter(window.observed.values())).shape
            counts["frames"] += batch * length
            return each(this, window, *given, **rest)

        def update(this: Any, *given: Any, **rest: Any) -> Any:
            counts["frames"] += len(next(iter(given[2].values())))
            return originals["update"](this, *given, **rest)

        def rollout(this: Any, *given: Any, **rest: Any) -> Any:
            counts["rollouts"] += 1
            counts["rollouts_in_search"] += inside[0]
            return originals["rollout"](this, *given, **rest)

        def plan(this: Any, cost: Callable[[Any], Any], *given: Any, **rest: Any) -> Any:
            def counted(actions: Any) -> Any:
                counts["populations"] += 1
                return cost(actions)

            inside[0] = True
            try:
                return search(this, counted, *given, **rest)
            finally:
                inside[0] = False

        def converting(original: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*given: Any, **rest: Any) -> Any:
                is_array = any(isinstance(one, np.ndarray) for one in given)
                is_export = original is numpy_of
                counts["conversions_in_search"] += inside[0] and (is_array or is_export)
                return original(*given, **rest)

            return counted

        numpy_of = torch.Tensor.numpy
        patched = {"from_numpy": torch.from_numpy, "as_tensor": torch.as_tensor, "tensor": torch.tensor}
        kind.encode, kind.update, kind.rollout, planner.plan = encode, update, rollout, plan
        if each is not None:
            kind.encode_each = encode_each
        torch.Tensor.numpy = converting(numpy_of)
        for name, original in patched.items():
            setattr(torch, name, converting(original))
        module, name = import_module("worldline.engines.learned"), "goal_latents"
        goal_of = getattr(module, name)

        def counted_goal(*given: Any, **rest: Any) -> Any:
            counts["goals"] += 1
            return goal_of(*given, **rest)

        setattr(module, name, counted_goal)
        try:
            yield counts
        finally:
            for key, original in originals.items():
                setattr(kind, key, original)
            if each is not None:
                kind.encode_each = each
            planner.plan = search
            torch.Tensor.numpy = numpy_of
            for key, original in patched.items():
                setattr(torch, key, original)
            setattr(module, name, goal_of)


# --- the driver


class Process:
    """One version in a separate process."""

    def __init__(self, root: Path, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root / 'exam' / 'src'}"}
        command = [sys.executable, __file__, "--serve", str(folder)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, do: str, **given: Any) -> Any:
        """The answer to one request."""
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        pipe_in.write(json.dumps({"do": do, **given}) + "\n")
        pipe_in.flush()
        answer = pipe_out.readline()
        if not answer:
            raise SystemExit(f"{do} {given}: the process ended with exit code {self.process.wait()}.")
        return json.loads(answer)


def interval(differences: Sequence[float]) -> Mapping[str, float]:
    """Mean of paired differences with its 95 % interval."""
    values = np.asarray(differences, dtype=float)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "low": float(values.mean() - half), "high": float(values.mean() + half)}


def row(family: str, old: Process, new: Process, repeats: int) -> dict[str, Any]:
    """All measurements of one family."""
    both = {"old": old, "new": new}
    counts = {
        which: {
            "predict_8": one.ask("count_predict", family=family, length=8),
            "predict_41": one.ask("count_predict", family=family, length=41),
            "session": one.ask("count_session", family=family),
            "in_steps": one.ask("count_plan", family=family, penalty=False, rules=False),
            "and_at_most": one.ask("count_plan", family=family, penalty=False, rules=True),
            "and_penalty": one.ask("count_plan", family=family, penalty=True, rules=True),
        }
        for which, one in both.items()
    }
    times: dict[str, dict[str, list[float]]] = {"plan": {"old": [], "new": []}, "predict_41": {"old": [], "new": []}}
    for _ in range(repeats):
        for which, one in both.items():
            times["plan"][which].append(one.ask("time_plan", family=family))
            times["predict_41"][which].append(one.ask("time_predict", family=family, length=41))
    ratios = {k: float(np.median(v["old"]) / np.median(v["new"])) for k, v in times.items()}
    equality: dict[str, Any] = {}
    for in_steps in (False, True):
        ours, theirs = (np.array(one.ask("score", family=family, in_steps=in_steps)) for one in (new, old))
        apart = np.abs(ours - theirs) / np.maximum(1e-6, np.abs(theirs).max(1, keepdims=True))
        equality["in_steps" if in_steps else "targets"] = {"cost": apart[0].max(), "violation": apart[1].max()}
    if family in STOCHASTIC:
        ours, theirs = (np.array(one.ask("costs_by_seed", family=family, seeds=list(range(20)))) for one in (new, old))
        equality["in_steps_difference"] = interval((ours - theirs).mean(0).tolist())
    ours, theirs = (np.array(one.ask("costs_by_start", family=family, starts=list(range(100)))) for one in (new, old))
    equality["plan_difference"] = interval((ours - theirs).tolist())
    return {"counts": counts, "seconds": times, "speedup": ratios, "equality": equality}


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=BASE, help="commit of the earlier version")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--worlds", type=Path, help="folder for the learned worlds; those that it has are reused")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare)
        return
    if options.serve:
        serve(options.serve)
        return
    from train import machine

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "base"
        git = ["git", "-C", str(ROOT)]
        subprocess.run([*git, "worktree", "add", "--detach", str(root), options.base], check=True, capture_output=True)
        try:
            worlds = options.worlds or Path(temporary) / "worlds"
            worlds.mkdir(parents=True, exist_ok=True)
            environment = {**os.environ, "PYTHONPATH": str(root / "src")}
            subprocess.run([sys.executable, __file__, "--prepare", str(worlds)], env=environment, check=True)
            copies = [shutil.copytree(worlds, Path(temporary) / name) for name in ("old", "new")]
            old, new = Process(root, copies[0]), Process(ROOT, copies[1])
            before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
            rows = before.get("families", {}) if before.get("base") == options.base else {}
            for family in options.families:
                rows[family] = {"machine": machine(), **row(family, old, new, options.repeats)}
                RESULT.write_text(json.dumps({"base": options.base, "families": rows}, indent=1) + "\n")
                print(family, json.dumps({k: rows[family][k] for k in ("speedup", "equality")}), flush=True)
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(root)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
