"""A planner on a world as a controller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np

from worldline.catalog.opening import open_target
from worldline.control.controller import Situation, WorldActor
from worldline.control.controllers import Controller, ControllerCard
from worldline.control.run_goal import RunGoal, load_goal
from worldline.episode import Arrays
from worldline.world.base import World


@final
class PlanController(Controller):
    """The first actions of plans, one plan per step; each search begins with the rest of the last plan.

    Exogenous inputs are those of the forecast, and then stay as they are.

    Args:
        world: plans.
        goal: costs, constraints and tolerances; the targets are those of the run.
        horizon: steps of a plan.
    """

    def __init__(self, world: World, goal: RunGoal, *, horizon: int) -> None:
        card, numbers = world.describe(), {name: f"{value:g}" for name, value in goal.tolerance.items()}
        self.world, self.goal = world, goal
        self._actor = WorldActor(
            world=world,
            horizon=horizon,
            tolerance=dict(goal.tolerance),
            costs=goal.costs,
            constraints=goal.constraints,
            reward=goal.reward,
        )
        settings = [
            f"plans {horizon} steps of {card.name}",
            *(f"{name} within {text}" for name, text in numbers.items()),
        ]
        self.card = ControllerCard(name="plan", reads=card.inputs, settings=tuple(settings))
        self.reset()

    @classmethod
    def opened(cls, world: str, goal: Path | str, *, horizon: int) -> PlanController:
        """The controller with an opened world, and the goal of a TOML file.

        Args:
            world: argument of `worldline.open`.
            goal: as in `load_goal`.
            horizon: steps of a plan.
        """
        return cls(open_target(world), load_goal(goal), horizon=horizon)

    def reset(self) -> None:
        """Forgets the last plan."""
        self._rest: Arrays | None = None

    def act(self, session: Situation) -> Arrays:
        """The first actions of the plans.

        Raises:
            UnsupportedError: the world refused to plan.
        """
        schema, count = self.world.describe().schema, session.history.num_worlds
        waiting = 0 if session.pending is None else next(iter(session.pending.values())).shape[1]
        held, steps = dict[str, np.ndarray](), np.arange(waiting + self._actor.horizon)
        for signal in schema.exogenous:
            parts = (session.forecast or {}).get(signal.name), session.history.exogenous[signal.name][:, -1:]
            nothing = np.zeros((count, 1, *signal.shape), signal.dtype)
            known = next((part for part in parts if part is not None and part.shape[1]), nothing)
            held[signal.name] = known[:, np.minimum(steps, known.shape[1] - 1)]
        now = replace(session, remaining=self._rest, forecast=held or None)
        plan = self._actor.act(now, num_steps=1, seed=session.step)
        self._rest = {name: value[:, 1:] for name, value in plan.items()}
        return {name: value[:, 0] for name, value in plan.items()}
