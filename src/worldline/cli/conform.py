"""`worldline conform`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.registry import load

if TYPE_CHECKING:
    from worldline.testing.engine_case import EngineCase
    from worldline.testing.models import ModelCase


class Kind(StrEnum):
    """What can be checked by name."""

    PLANNER = "planner"
    MODEL = "model"
    ENGINE = "engine"


def conform(
    kind: Annotated[Kind, typer.Argument(help="What it is.")],
    name: Annotated[str, typer.Argument(help="Its registered name.")],
) -> None:
    """Check a registered part against its contract, clause by clause."""
    from worldline.cli.output import print_table

    breaches: list[str] = []
    rows: list[tuple[str, str]] = []
    for clause, check in _checks(kind, name).items():
        try:
            check()
        except AssertionError as breach:
            breaches.append(str(breach))
            rows.append((clause, "BROKEN"))
        else:
            rows.append((clause, "holds"))
    print_table(f"{kind} {name}", ("clause", ""), rows)
    for text in breaches:
        print(text)
    if breaches:
        raise typer.Exit(1)


def _checks(kind: Kind, name: str) -> dict[str, Callable[[], None]]:
    """Per clause of the contract what checks it; raises AssertionError where it is broken."""
    from worldline.testing import engines, models, planners

    if kind is Kind.PLANNER:
        planner = planners.PlannerCase(planner=load("planner", name)())
        return {_words(clause): partial(clause, planner) for clause in planners.CLAUSES}
    if kind is Kind.MODEL:
        model = _model(name)
        return {_words(clause): partial(clause, model) for clause in models.CLAUSES}
    engine = _engine(name)
    return {_words(clause): partial(clause, engine) for clause in engines.CLAUSES}


def _words(clause: Callable[..., None]) -> str:
    return clause.__name__.replace("_", " ")


def _model(name: str) -> ModelCase:
    """An untrained model of the toy world, and logs of it."""
    import numpy as np
    import torch

    from worldline.data.windows import WindowBatch
    from worldline.testing.models import ModelCase
    from worldline.testing.toys import Integrator
    from worldline.train.batches import to_window

    family, toy = load("model", name), Integrator(noise=0.2)
    torch.manual_seed(0)
    model = family(schema=toy.schema, config=family.Config(inputs=("position",)))
    episodes = toy.episodes(6, 5, seed=3)
    observations = {k: np.stack([one.observations[k] for one in episodes]) for k in ("position", "camera")}
    batch = WindowBatch(
        observations=observations,
        observed={k: np.ones(v.shape[:2], bool) for k, v in observations.items()},
        actions={"push": np.stack([one.actions["push"] for one in episodes])},
        exogenous={"wind": np.stack([one.exogenous["wind"] for one in episodes])},
        rewards={},
        terminated=np.zeros((6, 5), bool),
        step_s=np.full((6, 5), toy.schema.step_s, np.float32),
        starts=np.stack([np.arange(6), np.zeros(6, int)], 1),
    )
    return ModelCase(model=model, window=to_window(batch, toy.schema))


def _engine(name: str) -> EngineCase:
    """An engine fitted to the toy world, and logs of it.

    Raises:
        UnsupportedError: the engine is not fitted to logs alone.
    """
    from worldline.engines.recent import RememberingEngine
    from worldline.errors import UnsupportedError
    from worldline.testing.engine_case import EngineCase
    from worldline.testing.toys import Integrator

    family = load("engine", name)
    if not issubclass(family, RememberingEngine):
        raise UnsupportedError(
            f"the engine {name!r} needs more than logs to be built. Build it in a test, and call "
            "worldline.testing.check_engine."
        )
    toy = Integrator(noise=0.2)
    return EngineCase(
        engine=family.fit(toy.episodes(60, 14, seed=1), toy.schema), episodes=toy.episodes(20, 14, seed=2)
    )
