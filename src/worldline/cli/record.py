"""`worldline record`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from worldline.errors import InputError


def record(
    environment: Annotated[str, typer.Argument(help="Name of a lab, such as two-rooms, or a Gymnasium id.")],
    out: Annotated[Path, typer.Option(help="New folder for the store.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many to record.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of an episode.")] = 60,
    policy: Annotated[
        str | None,
        typer.Option(
            help="random, explorer (a lab's own), or module:name of a function of observation and generator, or of a "
            "policy.",
            show_default="explorer if there is one, else random",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of resets and policy.")] = 0,
    envs: Annotated[
        int, typer.Option(min=1, help="Environments to run side by side. What is recorded does not depend on it.")
    ] = 1,
    processes: Annotated[
        bool, typer.Option("--processes", help="Run each in a process of its own: for slow simulators, 1 ms a step up.")
    ] = False,
    env_kwargs: Annotated[
        str | None, typer.Option(help="""Settings of the environment in JSON, such as '{"g": 9.8}'.""")
    ] = None,
) -> None:
    """Record episodes of an environment into a store."""
    from worldline.cli.progress import progress_bars
    from worldline.workflows.record import record as run

    if policy is not None and ":" in policy:
        sys.path.append(str(Path.cwd()))  # a user's policy lies where the user is; what is installed goes first
    with progress_bars() as stage:
        store = run(
            environment,
            out,
            policy=policy,
            num_episodes=episodes,
            max_steps=steps,
            seed=seed,
            num_envs=envs,
            processes=processes,
            env_kwargs=_settings(env_kwargs),
            progress=lambda done, total: stage("record", done, total),
        )
    signals = ", ".join(f"{signal.name} ({signal.role})" for signal in store.schema.signals)
    print(f"{len(store)} episodes, {int(store.num_steps.sum())} steps: {signals}")
    print(f"Store: {out}")
    print(f"Next:  worldline learn {out} --out world/")


def _settings(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--env-kwargs is {text!r}, which is no JSON ({error}). Write '{{\"name\": value}}'."
        ) from error
    if not isinstance(settings, dict):
        raise InputError(f"--env-kwargs is {text!r}. Write names and values: '{{\"name\": value}}'.")
    return settings
