"""A point on a line, worlds that know it, and a log of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from worldline.data.store import Store
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Constraint, Goal
from worldline.planning.calls import PlanCall
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.base import Plan, PlanStatus, World

SCHEMA = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m", low=(-40.0,), high=(40.0,)),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="m", low=(-1.0,), high=(1.0,)),
    )
)


class Line(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """A point that moves by its push; `drift` is what differs from run to run where it does not replay."""

    def __init__(self, drift: Callable[[], float] = lambda: 0.0, ends_after: int | None = None) -> None:
        self.observation_space = gymnasium.spaces.Dict({"place": gymnasium.spaces.Box(-40, 40, (1,), np.float32)})
        self.action_space = gymnasium.spaces.Dict({"push": gymnasium.spaces.Box(-1, 1, (1,), np.float32)})
        self.drift, self.ends_after, self.closed, self.num_steps = drift, ends_after, False, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.num_steps = float(self.np_random.uniform(-5, 5)), 0
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> Any:
        assert self.action_space.contains(action)
        self.place += float(action["push"][0]) + self.drift()
        self.num_steps += 1
        return self._observe(), 0.0, False, self.num_steps == self.ends_after, {}

    def close(self) -> None:
        self.closed = True

    def _observe(self) -> dict[str, Any]:
        return {"place": np.array([self.place], np.float32)}


class LineWorld(World):
    """Plans exactly, with the sign of its pushes as given; remembers what it was asked."""

    def __init__(self, sign: float = 1.0, status: PlanStatus = PlanStatus.SEARCHED) -> None:
        self.sign, self.status = sign, status
        self.histories: list[History] = []
        self.proposals: list[Arrays | None] = []
        self.asked: list[tuple[Goal, Sequence[Constraint]]] = []
        self.pending: list[Arrays | None] = []
        self.seeds: list[int] = []
        self.budgets: list[float | None] = []

    def describe(self) -> Card:
        return Card(
            name="line", engine="toy", schema=SCHEMA, inputs=("place",), predicts=("place",), context=1,
            deterministic=True,
        )  # fmt: skip

    def answer(self, request: PlanCall) -> Plan:  # a controller only plans
        history = request.history
        self.histories.append(history)
        self.proposals.append(request.proposals)
        self.asked.append((request.goal, request.constraints))
        self.pending.append(request.pending)
        self.seeds.append(request.seed)
        self.budgets.append(request.budget_s)
        away = request.goal.targets["place"] - history.observations["place"][:, -1]
        pushes = []
        for _ in range(request.horizon):
            pushes.append(np.clip(away, -1, 1))
            away = away - pushes[-1]
        return Plan(
            actions={"push": self.sign * np.stack(pushes, 1).astype(np.float32)},
            status=self.status,
            cost=np.zeros(len(away)),
            violation=np.zeros((len(away), 0)),
            trust=np.ones(len(away)),
            reason="it was asked to refuse" if self.status is PlanStatus.REFUSED else "",
            elapsed_s=0.0,
        )


@pytest.fixture
def schema() -> Schema:
    return SCHEMA


@pytest.fixture
def line() -> type[Line]:
    return Line


@pytest.fixture
def line_world() -> type[LineWorld]:
    return LineWorld


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve episodes of 30 steps: six drift to the right, four to the left, two hardly move."""
    return log(tmp_path_factory.mktemp("line") / "store", [0.6] * 6 + [-0.6] * 4 + [0.0] * 2)


def log(path: Path, means: Sequence[float]) -> Store:
    store, generator = Store.create(path, SCHEMA), np.random.default_rng(0)
    for number, mean in enumerate(means):
        environment = Line()
        places = [environment.reset(seed=100 + number)[0]["place"]]
        pushes = generator.uniform(-0.3, 0.3, (30, 1)).astype(np.float32) + np.float32(mean)
        if mean == 0:
            pushes *= 0.1
        places += [environment.step({"push": push})[0]["place"] for push in pushes]
        store.append(Episode(observations={"place": np.stack(places)}, actions={"push": pushes}, seed=100 + number))
    return store
