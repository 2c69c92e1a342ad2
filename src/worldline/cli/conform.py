"""`worldline conform`."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Device, Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json
from worldline.errors import InputError
from worldline.progress import tell
from worldline.registry import load

if TYPE_CHECKING:
    from worldline.testing.clauses import ClauseOutcome
    from worldline.testing.engine_case import EngineCase
    from worldline.testing.models import ModelCase


class PartKind(StrEnum):
    """Kinds of parts with a contract."""

    WORLD = "world"
    PLANNER = "planner"
    MODEL = "model"
    ENGINE = "engine"


def conform(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="WORLD|KIND", help="A world (folder, URL or name), or a kind: world, planner, model or engine."
        ),
    ],
    second: Annotated[
        str | None,
        typer.Argument(metavar="LOGS|NAME", help="Held-out logs of the world, or the registered name of the part."),
    ] = None,
    third: Annotated[Path | None, typer.Argument(metavar="LOGS", help="Held-out logs after `world WORLD`.")] = None,
    horizon: Annotated[int, typer.Option(min=2, help="Predicted and planned steps.")] = 4,
    num_episodes: Annotated[int, typer.Option(min=2, help="Maximum number of episodes.")] = 100,
    num_calibration: Annotated[
        int | None,
        typer.Option(min=1, help="Number of episodes that calibrated the bands.", show_default="number in the bundle"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Check a world or a registered part against each clause of its contract.

    World: `worldline conform WORLD LOGS`. Write `conform world WORLD LOGS` if the world has the name of a kind.
    Part: `worldline conform planner|model|engine NAME`. The exit status is 1 if a clause does not hold.
    """
    from worldline.testing.clauses import ClauseStatus

    kind, name, logs = _parse_arguments(subject, second, third)
    with progress_bars() as progress:
        tell(progress, "prepare", 0)
        if kind is PartKind.WORLD:
            clauses, outcomes = _world(name, logs, horizon, num_episodes, num_calibration, seed, device)
        else:
            clauses, outcomes = _part(kind, name)
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
    write_json(json, {"kind": str(kind), "name": name, "clauses": rows})
    print_next(*_next(kind, name, logs))
    if any(result.verdict is not ClauseStatus.HOLDS for result in results):
        raise typer.Exit(1)


def _next(kind: PartKind, name: str, logs: Path | None) -> tuple[object, ...]:
    """The command that uses the checked world or part."""
    if kind is PartKind.WORLD:
        return "audit", name, logs
    if kind is PartKind.MODEL:
        return "learn", "LOGS", "--out", "world/", "--model", name
    return "conform", "WORLD", "LOGS"


def _parse_arguments(subject: str, second: str | None, third: Path | None) -> tuple[PartKind, str, Path | None]:
    """Kind, name and path of the logs.

    Raises:
        InputError: an argument is missing or superfluous.
    """
    if subject not in list(PartKind):
        if third is not None:
            raise InputError(f"expected WORLD and LOGS, got a third argument: {third}. Remove it.")
        return PartKind.WORLD, subject, None if second is None else Path(second)
    kind = PartKind(subject)
    if second is None:
        raise InputError(
            f"the kind {subject} needs a name: worldline conform {subject} NAME. For a world in the folder {subject}, "
            f"write ./{subject}."
        )
    if kind is not PartKind.WORLD and third is not None:
        raise InputError(f"a {kind} is checked without logs, got {third}. Remove it.")
    return kind, second, third


def _world(
    name: str, logs: Path | None, horizon: int, num_episodes: int, num_calibration: int | None, seed: int, device: str
) -> tuple[Sized, Iterator[ClauseOutcome]]:
    """The clauses of `World` and their results.

    Raises:
        InputError: no logs are given.
    """
    import worldline
    from worldline.testing.clauses import outcomes
    from worldline.testing.logged_world import case_from_logs
    from worldline.testing.worlds import CLAUSES

    if logs is None:
        raise InputError(
            f"{name} needs held-out logs, because bands, trust and surprise are checked on them. "
            f"Run worldline conform {name} LOGS."
        )
    opened_from = _bundle(name)
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


def _bundle(name: str) -> str:
    """The bundle of a name in the catalog, which lists the held-out episodes; other names are unchanged."""
    from worldline.catalog.opening import is_reference
    from worldline.catalog.versions import Catalog

    return str(Catalog().resolve(name)) if is_reference(name) else name


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
    import numpy as np
    import torch

    from worldline.data.windows import WindowBatch
    from worldline.episode import History
    from worldline.testing.models import ModelCase
    from worldline.testing.toys import Integrator
    from worldline.training.batches import to_window

    family, toy = load("model", name), Integrator(noise=0.2)
    torch.manual_seed(0)
    model = family(schema=toy.schema, config=family.Config(inputs=("position",)))
    past = History.stack([episode.history() for episode in toy.episodes(6, 5, seed=3)])
    batch = WindowBatch(
        observations=past.observations,
        observed={key: np.ones(value.shape[:2], bool) for key, value in past.observations.items()},
        actions=past.actions,
        exogenous=past.exogenous,
        rewards={},
        terminated=np.zeros((6, 5), bool),
        step_s=np.full((6, 5), toy.schema.step_s, np.float32),
        starts=np.stack([np.arange(6), np.zeros(6, int)], 1),
    )
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
