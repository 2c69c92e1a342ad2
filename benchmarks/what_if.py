"""Accuracy of counterfactual predictions under other actions, on twins of the gusty puck.

Run: .venv/bin/python benchmarks/what_if.py [--seeds 3] [--scenes 400]
Writes benchmarks/results/what_if.json. Takes some minutes.

A puck with a hidden friction is pushed for 40 steps in gusts. A world receives the whole episode and predicts the
outcome of other pushes from the second step on, with the same friction and gusts. The simulator, replayed from its
seed, gives the ground truth. The error is squared, in units of each signal's spread, the mean over steps and signals.
Scores:

* hidden cause: 0 is the best prediction that ignores the episode: the expected path under unknown friction without
  gusts. 1 is the expected path with known friction.
* noise: 0 is the expected path with known friction; 1 is the simulator.

Each training seed records separate logs and scenes. Intervals are bootstraps over scenes. Target, in every seed: both
scores of `linear` are above 0.5 with their whole interval. Models that must fail score below 0 in the first: copying
the episode, and inference from an episode with the friction and gusts of another scene. The learned world is the recipe
'vectors' with a short training; it is measured without a target.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, one_thread, show, write
from numpy.typing import NDArray

import worldline
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.engines.baselines import Linear
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Arrays, Episode
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.world.base import World
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline_exam.labs.gusty_puck import START_SPREAD, GustyPuck

NUM_EPISODES, NUM_STEPS, AT = 240, 40, 2
NUM_UPDATES = 500
"""Updates of the learned world."""
SPREAD = dict(zip(("puck_position", "puck_velocity"), START_SPREAD, strict=True))
DRAWS = 2000
MUST_FAIL = ("copy the episode", "episode of another scene")
Figures = dict[str, Any]
Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Logged episode, counterfactual actions, and ground truth.

    Args:
        episode: the observed episode.
        actions: counterfactual actions from `AT` on.
        twin: their true outcome.
        friction: hidden friction.
        shuffled: the same start and pushes with the friction and gusts of another scene.
    """

    episode: Episode
    actions: Arrays
    twin: Arrays
    friction: float
    shuffled: Episode


def play(lab: GustyPuck, seed: int, pushes: Floats, options: Mapping[str, Any] | None = None) -> Episode:
    seen = [lab.reset(seed=seed, options=dict(options or {}))[0]]
    seen += [lab.step({"push": push})[0] for push in pushes]
    return Episode(
        observations={name: np.stack([one[name] for one in seen]) for name in SPREAD},
        actions={"push": pushes},
        seed=seed,
    )


def explored(lab: GustyPuck, seed: int) -> Floats:
    """Pushes [NUM_STEPS, 2] of the lab's explorer."""
    rng, policy = np.random.default_rng([7, seed]), lab.explorer()
    policy.reset(rng)
    return np.stack([policy.act({}, rng)["push"] for _ in range(NUM_STEPS)])


def make_scene(seed: int) -> Scene:
    lab, taken = GustyPuck(), explored(GustyPuck(), 2 * seed)
    others = np.concatenate([taken[:AT], explored(lab, 2 * seed + 1)[AT:]])
    episode, twin = play(lab, seed, taken), play(lab, seed, others)
    start = {name.removeprefix("puck_"): value[0] for name, value in episode.observations.items()}
    return Scene(
        episode=episode,
        actions={"push": others[AT:]},
        twin=_after(twin.observations),
        friction=lab.hidden(seed)["friction"],
        shuffled=play(lab, seed + 500_000, taken, start),
    )


def _after(observations: Arrays) -> Arrays:
    return {name: value[AT + 1 :] for name, value in observations.items()}


def expected(scene: Scene, frictions: Sequence[float]) -> Arrays:
    """The mean path without gusts over these frictions."""
    start = {
        name: np.repeat(value[AT : AT + 1], len(frictions), 0) for name, value in scene.episode.observations.items()
    }
    actions = {name: np.repeat(value[None], len(frictions), 0) for name, value in scene.actions.items()}
    found = GustyPuck().expected(start, actions, {"friction": np.asarray(frictions, dtype=float)})
    return {name: value.mean(0) for name, value in found.items()}


def answers(worlds: Mapping[str, World]) -> dict[str, Callable[[Scene], Arrays]]:
    """Predictions of each method for a scene."""

    def asked(world: World, *, shuffled: bool = False) -> Callable[[Scene], Arrays]:
        def answer(scene: Scene) -> Arrays:
            episode = scene.shuffled if shuffled else scene.episode
            found = world.what_if(episode, AT, scene.actions)
            assert found.abduction == "full"
            return found.signals

        return answer

    def predicted(world: World) -> Callable[[Scene], Arrays]:
        context = world.describe().context

        def answer(scene: Scene) -> Arrays:
            history = scene.episode.history(AT, min(context, AT + 1))
            return {name: one.mean for name, one in world.predict(history, scene.actions).signals.items()}

        return answer

    low, high = GustyPuck().friction
    middles = (low + (high - low) * (np.arange(32) + 0.5) / 32).tolist()
    return {
        "unknown friction": lambda scene: expected(scene, middles),
        "known friction": lambda scene: expected(scene, [scene.friction]),
        **{name: asked(world) for name, world in worlds.items()},
        "linear, no abduction": predicted(worlds["linear, this episode alone"]),
        "copy the episode": lambda scene: _after(scene.episode.observations),
        "episode of another scene": asked(worlds["linear"], shuffled=True),
    }


def error(answer: Arrays, twin: Arrays) -> float:
    parts = [(((answer[n].astype(float) - twin[n]) / spread) ** 2).mean() for n, spread in SPREAD.items()]
    return float(np.mean(parts))


def small(store: Store) -> Recipe:
    """The recipe 'vectors' without goal heads and with a short training."""
    recipe = vectors(store)
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=NUM_UPDATES),
        heads=replace(recipe.heads, goals=False),
    )


def make_worlds(seed: int, folder: Path) -> dict[str, World]:
    store = worldline.record("gusty-puck", folder / "logs", num_episodes=NUM_EPISODES, max_steps=60, seed=seed + 100)
    split = split_store(store)
    train, held = ([store.episode(number) for number in part] for part in (split.train, split.calibration))
    engine = Linear.fit(train, store.schema, context=1)
    calibration = calibrate(engine, held, horizon=8, num_windows=4, seed=0)
    planner = CrossEntropy()
    return {
        "linear": LocalWorld(engine, calibration, planner),
        "linear, this episode alone": LocalWorld(engine, None, planner),
        "learned": worldline.learn(store.path, folder / "world", recipe=small, seed=seed),
        "simulator": LocalWorld(SimulatorEngine(make_environment=GustyPuck, schema=store.schema), None, planner),
    }


def measure(seed: int, num_scenes: int, folder: Path) -> Figures:
    """The results of one training seed."""
    begin = time.perf_counter()
    worlds = make_worlds(seed, folder)
    learn_s = time.perf_counter() - begin
    scenes = [make_scene(1_000_000 * (seed + 1) + number) for number in range(num_scenes)]
    errors, milliseconds = {}, {}
    for name, answer in answers(worlds).items():
        begin = time.perf_counter()
        found = [answer(scene) for scene in scenes]
        milliseconds[name] = round(1e3 * (time.perf_counter() - begin) / num_scenes, 2)
        errors[name] = np.array([error(one, scene.twin) for one, scene in zip(found, scenes, strict=True)])
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, num_scenes, (DRAWS, num_scenes))
    rows = {}
    for name, value in errors.items():
        rows[name] = {
            "error": float(value.mean()),
            "hidden_cause": score(value, errors["unknown friction"], errors["known friction"], draws),
            "noise": score(value, errors["known friction"], errors["simulator"], draws),
            "milliseconds": milliseconds[name],
        }
    return {"seed": seed, "learn_s": round(learn_s, 1), "rows": rows, "met": met(rows)}


def score(value: Floats, floor: Floats, ceiling: Floats, draws: NDArray[np.integer]) -> list[float]:
    """The score and its 95 % interval, by resampling scenes."""
    sampled = [part[draws].mean(1) for part in (value, floor, ceiling)]
    every = (sampled[1] - sampled[0]) / (sampled[1] - sampled[2])
    middle = (floor.mean() - value.mean()) / (floor.mean() - ceiling.mean())
    return [round(float(one), 4) for one in (middle, *np.quantile(every, (0.025, 0.975)))]


def met(rows: Mapping[str, Figures]) -> bool:
    good = all(rows["linear"][part][1] > 0.5 for part in ("hidden_cause", "noise"))
    return good and all(rows[name]["hidden_cause"][2] < 0 for name in MUST_FAIL)


def main() -> None:
    """Measures each training seed; writes and prints the results."""
    options = arguments(__doc__, seeds=3, scenes=400)
    one_thread()
    runs = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(seed, options.scenes, Path(folder)))
        rows = runs[-1]["rows"]
        header = ("prediction", *next(iter(rows.values())))
        show(header, [(name, *row.values()) for name, row in rows.items()], title=f"training seed {seed}")
    met = all(one["met"] for one in runs)
    write(options.out, {"scenes": options.scenes, "episodes": NUM_EPISODES, "met": met, "runs": runs})
    print(f"target met in every seed: {met}")


if __name__ == "__main__":
    main()
