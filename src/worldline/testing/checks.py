"""One function per contract: checks all of its clauses and lists the broken ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldline.engines.base import Engine
from worldline.episode import Episode
from worldline.models.base import Window, WorldModel
from worldline.planning.base import Goal
from worldline.planning.planners.base import Planner
from worldline.testing.cases import EngineCase, WorldCase
from worldline.testing.clauses import check_case
from worldline.testing.models import ModelCase
from worldline.testing.planners import PlannerCase
from worldline.world.base import World


def check_engine(engine: Engine, episodes: Sequence[Episode], **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        engine: the engine.
        episodes: at least 2 of a world that it models.
        settings: other arguments of `EngineCase`, such as `horizon`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the episodes are too few or too short.
    """
    check_case(EngineCase(engine=engine, episodes=episodes, **settings))


def check_model(model: WorldModel, window: Window, **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        model: the model.
        window: see `ModelCase`.
        settings: other arguments of `ModelCase`, such as `horizon`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the window is too small.
    """
    check_case(ModelCase(model=model, window=window, **settings))


def check_planner(planner: Planner, **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        planner: the planner.
        settings: other arguments of `PlannerCase`, such as `optimality`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
    """
    check_case(PlannerCase(planner=planner, **settings))


def check_world(world: World, episodes: Sequence[Episode], goal: Goal, **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        world: the world.
        episodes: held out from training and calibration, 30 or more.
        goal: one that the world supports, for a single world.
        settings: other arguments of `WorldCase`, such as `horizon` and `num_calibration`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the episodes are too few or too short.
    """
    check_case(WorldCase(world=world, episodes=episodes, goal=goal, **settings))
