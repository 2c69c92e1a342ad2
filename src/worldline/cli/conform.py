"""`worldline conform`."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Device, Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json
from worldline.progress import tell
from worldline.registry import load

if TYPE_CHECKING:
    from worldline.testing.clauses import ClauseOutcome
    from worldline.testing.engine_case import EngineCase
    from worldline.testing.models import ModelCase


class PartKind(StrEnum):
    """Kinds of registered parts with a contract."""

    PLANNER = "planner"
    MODEL = "model"
    ENGINE = "engine"


def conform(
    subject: Annotated[str, typer.Argument(metavar="WORLD|KIND")],
    second: Annotated[str, typer.Argument(metavar="LOGS|NAME")],
    horizon: Annotated[int, typer.Option(min=2)] = 4,
    num_episodes: Annotated[int, typer.Option(min=2)] = 100,
    num_calibration: Annotated[int | None, typer.Option(min=1)] = None,
    seed: int = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Check a world or a registered part against each clause of its contract.

    World: `worldline conform WORLD LOGS`. A folder with the name of a kind is written as `./model`.
    Part: `worldline conform planner|model|engine NAME`. The exit status is 1 if a clause does not hold.

    Args:
        subject: a world (folder, URL or name), or a kind: planner, model or engine.
        second: held-out logs of the world, or the registered name of the part.
        horizon: predicted and planned steps.
        num_episodes: maximum number of episodes.
        num_calibration: number of episodes that calibrated the bands. Default: number in the bundle.
        seed: random seed.
    """
    from worldline.testing.clauses import ClauseStatus

    kind, name = (subject, second) if subject in list(PartKind) else ("world", subject)
    with progress_bars() as progress:
        tell(progress, "prepare", 0)
        if kind == "world":
            clauses, outcomes = _world(name, Path(second), horizon, num_episodes, num_calibration, seed, device)
        else:
            clauses, outcomes = _part(PartKind(kind), name)
        tell(progress, "prepare", 1)
        results = []
        for result in outcomes:
            results.append(result)
            tell(progress, "check", len(results), len(clauses))
    print_table(f"{kind} {name}", ("clause", "result"), [(result.clause, result.verdict) for result in results])
    for result in results:
        if result.text:
            print(result.text)
    rows = [
        {"clause": result.clause, "verdict": str(result.verdict).lower(), "text": result.text} for result in results
    ]
    write_json(json, {"kind": kind, "name": name, "clauses": rows})
    if kind == "world":
        print_next("audit", name, second)
    elif kind == PartKind.MODEL:
        print_next("learn", "LOGS", "--out", "world/", "--model", name)
    else:
        print_next("conform", "WORLD", "LOGS")
    if any(result.verdict is not ClauseStatus.HOLDS for result in results):
        raise typer.Exit(1)


def _world(
    name: str, logs: Path, horizon: int, num_episodes: int, num_calibration: int | None, seed: int, device: str
) -> tuple[Sized, Iterator[ClauseOutcome]]:
    """The clauses of `World` and their results."""
    import worldline
    from worldline.catalog.opening import is_reference
    from worldline.catalog.versions import Catalog
    from worldline.testing.clauses import outcomes
    from worldline.testing.logged_world import case_from_logs
    from worldline.testing.worlds import CLAUSES

    # The bundle of a name in the catalog lists the held-out episodes.
    opened_from = str(Catalog().resolve(name)) if is_reference(name) else name
    case = case_from_logs(
        worldline.open(opened_from, device=device),
        logs,
        opened_from=opened_from,
        horizon=horizon,
        num_episodes=num_episodes,
        num_calibration=num_calibration,
        seed=seed,
    )
    print(f"{len(case.episodes)} episodes of {logs}, {horizon} steps ahead.")
    return CLAUSES, outcomes(case, CLAUSES)


def _part(kind: PartKind, name: str) -> tuple[Sized, Iterator[ClauseOutcome]]:
    """The clauses of the part's contract and their results."""
    from worldline.testing import engines, models, planners
    from worldline.testing.clauses import outcomes

    if kind is PartKind.PLANNER:
        case = planners.PlannerCase(planner=load("planner", name)())
        return planners.CLAUSES, outcomes(case, planners.CLAUSES)
    if kind is PartKind.MODEL:
        return models.CLAUSES, outcomes(_model(name), models.CLAUSES)
    return engines.CLAUSES, outcomes(_engine(name), engines.CLAUSES)


def _model(name: str) -> ModelCase:
    """An untrained model of the toy world, with logs."""
    from tempfile import TemporaryDirectory

    import numpy as np
    import torch

    from worldline.data.store import Store
    from worldline.data.windows import Windows
    from worldline.testing.models import ModelCase
    from worldline.testing.toys import Integrator
    from worldline.training.batches import to_window, window_signals

    family, toy = load("model", name), Integrator(noise=0.2)
    torch.manual_seed(0)
    model = family(schema=toy.schema, config=family.Config(inputs=("position",)))
    with TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "toy", toy.schema)
        for episode in toy.episodes(6, 5, seed=3):
            store.append(episode)
        windows = Windows(store, 6, range(6), window_signals(toy.schema, ("position",)))
        batch = windows.sample(6, np.random.default_rng(0))
    return ModelCase(model=model, window=to_window(batch, toy.schema))


def _engine(name: str) -> EngineCase:
    """An engine fitted to the toy world, with logs.

    Raises:
        UnsupportedError: the engine cannot be fitted to logs alone.
    """
    from worldline.engines.fixed_lag import FixedLagBaseline
    from worldline.errors import UnsupportedError
    from worldline.testing.engine_case import EngineCase
    from worldline.testing.toys import Integrator

    family = load("engine", name)
    if not issubclass(family, FixedLagBaseline):
        raise UnsupportedError(
            f"the engine {name!r} cannot be built from logs alone. Build it in a test and call "
            "worldline.testing.check_engine."
        )
    toy = Integrator(noise=0.2)
    engine = family.fit(toy.episodes(60, 14, seed=1), toy.schema)
    return EngineCase(engine=engine, episodes=toy.episodes(20, 14, seed=2))
