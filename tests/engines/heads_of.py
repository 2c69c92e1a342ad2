"""What the heads of an engine answer to named arrays, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldline.engines.base import Engine, EngineBelief, GoalDistance
from worldline.episode import Arrays, Future
from worldline.models.base import Belief
from worldline.training.batches import join, split, to_inputs


def rollout_of(engine: Engine, belief: EngineBelief, future: Future, seed: int) -> Any:
    inputs = to_inputs(future.actions, future.exogenous, engine.describe().schema, engine.device)
    num_samples = belief.features().shape[1] if isinstance(belief, Belief) else 1
    return engine.rollout(belief, inputs.actions, inputs.exogenous, num_samples=num_samples, seed=seed)


def distance(engine: Any, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> np.ndarray:
    encoded = engine.encode_goal(belief, goal)
    return rollout_of(engine, belief, future, seed).goal_distance(encoded).detach().numpy()


def novelty_ahead(engine: Engine, belief: EngineBelief, future: Future, *, seed: int) -> np.ndarray:
    return rollout_of(engine, belief, future, seed).ood_score().detach().numpy()


def propose(
    engine: Any, belief: EngineBelief, goal: Arrays, horizon: int, *, pending: Arrays | None = None, **settings: Any
) -> dict[str, np.ndarray]:
    assert isinstance(engine, GoalDistance)
    signals = engine.describe().schema.actions
    sent = None if pending is None else join(signals, pending)
    found = engine.proposals(belief, engine.encode_goal(belief, goal), horizon, pending=sent, **settings)
    return {} if found is None else {name: value.numpy() for name, value in split(signals, found).items()}
