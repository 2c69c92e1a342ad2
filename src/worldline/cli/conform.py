"""`worldline conform`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Device, Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json
from worldline.progress import tell
from worldline.registry import load

if TYPE_CHECKING:
    from worldline.testing.engine_case import EngineCase
    from worldline.testing.models import ModelCase
    from worldline.testing.world_case import WorldCase


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
    from worldline.testing.clauses import outcomes

    kind, name = (subject, second) if subject in ("planner", "model", "engine") else ("world", subject)
    sizes = {"horizon": horizon, "num_episodes": num_episodes, "num_calibration": num_calibration, "seed": seed}
    results = []
    with progress_bars() as progress:
        tell(progress, "prepare", 0)
        clauses, case = _world(name, Path(second), device, sizes) if kind == "world" else _part(kind, name)
        tell(progress, "prepare", 1)
        for result in outcomes(case, clauses):
            results.append(result)
            tell(progress, "check", len(results), len(clauses))
    print_table(
        f"{kind} {name}", ("clause", "result"), [(rule, "BROKEN" if text else "holds") for rule, text in results]
    )
    for text in filter(None, (text for _, text in results)):
        print(text)
    rows = [{"clause": rule, "verdict": "broken" if text else "holds", "text": text} for rule, text in results]
    write_json(json, {"kind": kind, "name": name, "clauses": rows})
    model = ("learn", "LOGS", "--out", "world/", "--model", name)
    print_next(*{"world": ("audit", name, second), "model": model}.get(kind, ("conform", "WORLD", "LOGS")))
    if any(text for _, text in results):
        raise typer.Exit(1)


def _world(name: str, logs: Path, device: str, sizes: dict[str, Any]) -> tuple[tuple[Any, ...], WorldCase]:
    """The clauses of `World`, and the world with logs."""
    import worldline
    from worldline.catalog.opening import is_reference
    from worldline.catalog.versions import Catalog
    from worldline.testing.logged_world import case_from_logs
    from worldline.testing.worlds import CLAUSES

    # The bundle of a name in the catalog lists the held-out episodes.
    opened_from = str(Catalog().resolve(name)) if is_reference(name) else name
    case = case_from_logs(worldline.open(opened_from, device=device), logs, opened_from=opened_from, **sizes)
    print(f"{len(case.episodes)} episodes of {logs}, {case.horizon} steps ahead.")
    return CLAUSES, case


def _part(kind: str, name: str) -> tuple[tuple[Any, ...], Any]:
    """The clauses of the part's contract, and the part with toy logs."""
    from worldline.testing import engines, models, planners

    if kind == "planner":
        return planners.CLAUSES, planners.PlannerCase(planner=load("planner", name)())
    return (models.CLAUSES, _model(name)) if kind == "model" else (engines.CLAUSES, _engine(name))


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
