"""`worldline compare-worlds`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Device, Json, Threads, use_threads
from worldline.cli.output import print_next, print_table, print_wrapped, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.audit.world_comparison import WorldComparison


def compare_worlds(
    a: Annotated[str, typer.Argument(metavar="A")],
    b: Annotated[str, typer.Argument(metavar="B")],
    logs: Annotated[Path, typer.Argument(metavar="LOGS")],
    horizon: Annotated[int | None, typer.Option(min=1)] = None,
    max_episodes: Annotated[int, typer.Option(min=2, max=200)] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Compare two worlds on the same episodes: errors, bands, trust and latency.

    Args:
        a: first world: folder, URL or name.
        b: second world.
        logs: held-out logs, or the store of the training.
        horizon: steps to predict. Default: calibrated horizon of both worlds, at most 50.
        max_episodes: largest number of episodes.
        seed: random seed.
    """
    from worldline.workflows.compare_worlds import compare_worlds as run

    use_threads(threads)
    with progress_bars() as progress:
        compared = run(
            a, b, logs, horizon=horizon, max_episodes=max_episodes, seed=seed, device=device, progress=progress
        )
    _print(compared)
    write_json(json, compared)
    print_next("audit", a, logs)


def _print(compared: WorldComparison) -> None:
    from worldline.formatting import listing, number, percent, plural, round_percent, span, with_interval, with_unit

    steps, rows, bands = span(compared.horizon, compared.step_s), list[tuple[str, ...]](), list[tuple[str, ...]]()
    for letter, world in zip("AB", compared.worlds, strict=True):
        facts = [world.engine, f"one prediction takes {number(1e3 * world.latency_s)} ms"]
        facts += [] if world.trust is None else [f"trust {number(world.trust)}"]
        facts += [f"alone predicts {listing(world.only)}"] if world.only else []
        facts += [f"{plural(world.num_refused, 'prediction')} not finite"] if world.num_refused else []
        facts += [] if world.held_out else ["trained on these episodes, so the comparison is not held out"]
        print_wrapped(f"{letter}: {world.name}: {'; '.join(facts)}")
    print_wrapped(
        f"{plural(compared.num_windows, 'window')} of {plural(compared.num_episodes, 'episode')} of {compared.logs}, "
        f"{plural(compared.context, 'observation')} in each history, {steps} predicted\n"
    )
    for each in compared.signals:
        name = with_unit(each.signal, each.unit)
        result = each.verdict if each.verdict == "not distinguishable" else f"A is {each.verdict}"
        for at in each.errors:
            ahead, said = (name, result) if at.step is None else (f"  after {span(at.step, compared.step_s)}", "")
            ratio = "" if at.ratio is None else with_interval(at.ratio)
            rows.append((ahead, *map(_shown, at.errors), ratio, *map(_shown, at.skills), said))
        covered = ["" if band is None else percent(band.coverage.value) for band in each.bands]
        bands.append((name, *covered, *(_shown(band and band.half_width) for band in each.bands)))
    head = ("signal", "error A", "error B", "A / B", "skill A", "skill B", "result")
    print_table(f"Error (RMSE) up to {steps}; skill is relative to persistence", head, rows)
    print_wrapped("The intervals of A / B hold together with 95 % probability (max-t bootstrap over episodes).\n")
    banded = ("signal", "coverage A", "coverage B", "half-width A", "half-width B")
    print_table(f"Bands of {round_percent(compared.level)}: share of trajectories inside, mean size", banded, bands)


def _shown(value: float | None) -> str:
    from worldline.formatting import number

    return "" if value is None else number(value)
