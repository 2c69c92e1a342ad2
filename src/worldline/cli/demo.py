"""`worldline demo` and `version`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from worldline.cli.options import Device, Json, Threads, use_threads
from worldline.cli.output import print_next, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.workflows.demo import DemoResult


def demo(
    walls: Literal["fixed", "random"] = "fixed",
    seed: int = 0,
    out: Path = Path("demo"),
    num_episodes: Annotated[int | None, typer.Option(min=30)] = None,
    num_pairs: Annotated[int, typer.Option(min=2)] = 200,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Record, learn, plan and report on the Two Rooms lab.

    Args:
        walls: the same wall in all episodes, or a random one per episode.
        seed: random seed of initial weights, batches and planning.
        out: folder for all results; an earlier demo is replaced.
        num_episodes: number of recorded episodes. Default: 500 fixed, 1600 random.
        num_pairs: number of planned goals; even.
    """
    from worldline.workflows.demo import demo as run

    use_threads(threads)
    with progress_bars() as progress:
        sizes: dict[str, Any] = {"num_episodes": num_episodes, "num_pairs": num_pairs}
        result = run(out, walls=walls, seed=seed, device=device, progress=progress, **sizes)
    _print(result, walls)
    write_json(json, result)
    print(f"Report: {out / 'report.html'}")
    print(f"World:  {out / 'world'}")
    print(f"Studio: {shlex.join(['worldline', 'studio', str(out / 'world'), str(out / 'logs')])}")
    print("Your own logs: a CSV file, or a folder of tables, videos, HDF5, LeRobot or NumPy files, in place of LOGS.")
    print_next("import", "LOGS", "store/")


def _print(result: DemoResult, walls: str) -> None:
    """Two tables: success rates, and time and memory."""
    reached = {
        "learned planner": result.success,
        f"  where a straight line fails ({result.detours} pairs)": result.detour_success,
        "inverse head alone": result.inverse,
        "random actions": result.random,
        "no move": result.no_move,
        "straight line to the goal": result.straight,
        "true dynamics": result.oracle,
    }
    interval = {"learned planner": f"{result.success_low:.1%} to {result.success_high:.1%}"}
    rows = [(name, "" if v is None else f"{v:.1%}", interval.get(name)) for name, v in reached.items()]
    title = f"Goals reached, Two Rooms, {walls} wall, {result.pairs} held-out pairs"
    print_table(title, ("method", "reached", "95 % interval"), rows)
    spent = {
        "training": f"{result.learn_s:.0f} s",
        "  refinement of the dynamics": f"{result.refine_s:.0f} s",
        "  heads": f"{result.heads_s:.0f} s",
        "total": f"{result.total_s:.0f} s",
        "single plan": f"{result.plan_ms:.1f} ms",
        "plan in a batch": f"{result.plan_batched_ms:.1f} ms",
        "peak memory": f"{result.peak_memory_gb:.2f} GB",
    }
    print_table(f"Time and memory ({result.device})", ("", ""), list(spent.items()))


def version() -> None:
    """Print the versions of worldline and its main dependencies."""
    from worldline.workflows.learn_result import versions

    for name, value in versions().items():
        print(f"{name} {value}")
    print_next("demo")
