"""Small correct engines. Faults are planted by overriding one of their methods."""

from __future__ import annotations

import numpy as np

from worldline.engines.base import Abducts, Card, EngineBelief, Noise, Samples
from worldline.engines.numpy_engine import NumpyEngine, NumpyGoalDistance, NumpyNovelty
from worldline.episode import Episode, Future, History
from worldline.errors import InputError, UnsupportedError
from worldline.testing.toys import Integrator


class Exact(NumpyEngine):
    """The smallest correct engine: the integrator's own equations. Faults override one of its small methods."""

    abilities: tuple[str, ...] = ()
    predicts = ("position",)
    noise = 0.0

    def __init__(self) -> None:
        self.toy = Integrator(noise=self.noise)

    @property
    def deterministic(self) -> bool:
        return self.noise == 0

    def describe(self) -> Card:
        return Card(
            name="exact", engine="exact", schema=self.toy.schema, inputs=("position",), predicts=self.predicts,
            context=1, deterministic=self.deterministic, abilities=self.abilities,
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        self.check(steps.observations, "position", 3)
        self.check(steps.actions, "push", 3)
        self.check(steps.exogenous, "wind", 3)
        position, observed = self.seen(steps)
        fresh = belief is None
        now = self.first(position[:, 0], observed[:, 0]) if fresh else self.opened(belief)
        for step in range(int(fresh), position.shape[1]):
            inputs = step - int(fresh)
            moved = self.toy.step(now, steps.actions["push"][:, inputs], steps.exogenous["wind"][:, inputs])
            now = self.merged(position[:, step], observed[:, step, None], moved)
        return self.closed(now)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        self.check(future.actions, "push", 4)
        self.check(future.exogenous, "wind", 3)
        push, wind = self.pushes(future), self.winds(future)
        num_worlds, num_versions, horizon, _ = push.shape
        num = 1 if self.deterministic else num_samples
        now = self.opened(belief)[:, None, None]
        draws = self.draws((num_worlds, num_versions, num, horizon, 2), seed) if noise is None else noise
        path = []
        for step in range(horizon):
            now = self.toy.step(now, push[:, :, None, step], wind[:, :, None, step]) + draws[:, :, :, step]
            path.append(now)
        return Samples(signals={"position": self.result(np.stack(path, 3)).astype(np.float32)})

    def check(self, arrays, name, ndim) -> None:
        if name not in arrays:
            raise InputError(f"{name!r} is missing. Add it.")
        shape = arrays[name].shape
        if len(shape) != ndim or shape[-1] != 2:
            raise InputError(f"{name!r} has shape {shape}. Give it {ndim} axes, the last of them a value's (2,).")

    def seen(self, steps):
        position = steps.observations["position"].astype(float)
        return position, steps.observed.get("position", np.ones(position.shape[:2])).astype(bool)

    def first(self, position, observed):
        return np.where(observed[:, None], position, 0.0)

    def merged(self, position, observed, moved):
        return np.where(observed, position, moved)

    def closed(self, now):
        return now

    def opened(self, belief):
        return belief

    def pushes(self, future):
        return future.actions["push"]

    def winds(self, future):
        return future.exogenous["wind"][:, None]

    def draws(self, shape, seed):
        shape = (shape[0], 1, *shape[2:])
        return self.noise * np.random.default_rng(seed).standard_normal(shape)

    def result(self, path):
        return path


class Drawing(Exact):
    noise = 0.1


class Able(Drawing, Abducts, NumpyNovelty, NumpyGoalDistance):
    abilities = ("abducts", "novelty", "reaches")

    def abduct(self, episode: Episode, at: int) -> tuple[EngineBelief, Noise]:
        position = episode.observations["position"].astype(float)
        clean = self.toy.step(position[:-1], episode.actions["push"], episode.exogenous["wind"])
        left = (position[1:] - clean)[None, None, None, at:]
        return position[None, at], np.concatenate([left, np.zeros((1, 1, 1, 50, 2))], 3)

    def novelty(self, belief):
        return np.abs(self.opened(belief)).max(1)

    def novelty_ahead(self, belief, future, *, seed):
        return np.abs(self.imagine(belief, future, num_samples=3, seed=seed).signals["position"].mean(2)).max(-1)

    def distance(self, belief, future, goal, *, seed):
        if "position" not in goal:
            raise UnsupportedError("there is no distance head for the camera.")
        path = self.imagine(belief, future, num_samples=3, seed=seed).signals["position"].mean(2)
        return np.abs(path - goal["position"][:, None, None]).max(-1)

    def propose(self, belief, goal, horizon, *, num_proposals, pending=None, budget_s=None, seed):
        here = self.opened(belief)
        if pending is not None:
            here = here + pending["push"].sum(1)
        way = np.clip(0.2 * (goal["position"] - here), -1, 1)[:, None, None]
        return {"push": np.broadcast_to(way, (len(way), 1, horizon, 2))}
