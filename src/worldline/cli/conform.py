"""`worldline conform`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Device, Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json
from worldline.progress import tell, telling

if TYPE_CHECKING:
    from worldline.testing.cases import WorldCase


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
    from worldline.testing.clauses import CLAUSES, outcomes
    from worldline.testing.named_cases import named_case

    kind, name = (subject, second) if subject in ("planner", "model", "engine") else ("world", subject)
    sizes = {"horizon": horizon, "num_episodes": num_episodes, "num_calibration": num_calibration, "seed": seed}
    results = []
    with progress_bars() as progress:
        with telling(progress, "prepare"):
            case: Any = _world(name, Path(second), device, sizes) if kind == "world" else named_case(kind, name)
        for result in outcomes(case, CLAUSES[kind]):
            results.append(result)
            tell(progress, "check", len(results), len(CLAUSES[kind]))
    verdicts = [(rule, "BROKEN" if text else "holds") for rule, text in results]
    print_table(f"{kind} {name}", ("clause", "result"), verdicts)
    print(*(f"{text}\n" for _, text in results if text), sep="", end="")
    rows = [{"clause": rule, "verdict": "broken" if text else "holds", "text": text} for rule, text in results]
    write_json(json, {"kind": kind, "name": name, "clauses": rows})
    model = ("learn", "LOGS", "--out", "world/", "--model", name)
    print_next(*{"world": ("audit", name, second), "model": model}.get(kind, ("conform", "WORLD", "LOGS")))
    if any(text for _, text in results):
        raise typer.Exit(1)


def _world(name: str, logs: Path, device: str, sizes: dict[str, Any]) -> WorldCase:
    """The world with logs."""
    import worldline
    from worldline.catalog.opening import is_reference
    from worldline.catalog.versions import Catalog
    from worldline.testing.named_cases import case_from_logs

    # The bundle of a name in the catalog lists the held-out episodes.
    opened_from = str(Catalog().resolve(name)) if is_reference(name) else name
    case = case_from_logs(worldline.open(opened_from, device=device), logs, opened_from=opened_from, **sizes)
    print(f"{len(case.episodes)} episodes of {logs}, {case.horizon} steps ahead.")
    return case
