"""`worldline record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def record(
    environment: Annotated[str, typer.Argument(help="Name of a lab, such as two-rooms, or a Gymnasium id.")],
    out: Annotated[Path, typer.Option(help="New folder for the store.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many to record.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of an episode.")] = 60,
    policy: Annotated[
        str | None, typer.Option(help="random, or a lab's own explorer.", show_default="explorer if there is one")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of resets and policy.")] = 0,
) -> None:
    """Record episodes of an environment into a store."""
    from worldline.cli.progress import progress_bars
    from worldline.workflows.record import record as run

    with progress_bars() as stage:
        store = run(
            environment,
            out,
            policy=policy,
            num_episodes=episodes,
            max_steps=steps,
            seed=seed,
            progress=lambda done, total: stage("record", done, total),
        )
    signals = ", ".join(f"{signal.name} ({signal.role})" for signal in store.schema.signals)
    print(f"{len(store)} episodes, {int(store.num_steps.sum())} steps: {signals}")
    print(f"Store: {out}")
    print(f"Next:  worldline learn {out} --out world/")
