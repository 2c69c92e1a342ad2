"""`worldline record`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from worldline.cli.output import print_next, progress_bars
from worldline.errors import InputError


def record(
    environment: Annotated[str, typer.Argument(help="Name of a lab, such as two-rooms, or a Gymnasium id.")],
    out: Annotated[Path, typer.Option(help="New folder for the store.")],
    num_episodes: Annotated[int, typer.Option(min=1, help="Number of episodes.")] = 500,
    max_steps: Annotated[int, typer.Option(min=1, help="Maximum number of steps per episode.")] = 60,
    policy: Annotated[
        str | None,
        typer.Option(
            help="random, explorer (the policy of a lab), or module:name of a policy or a function of observation and "
            "generator.",
            show_default="explorer if the lab has one, else random",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of resets and policy.")] = 0,
    num_envs: Annotated[
        int, typer.Option(min=1, help="Number of parallel environments; it does not change the recorded data.")
    ] = 1,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes", help="Run each environment in a separate process. Faster if a step takes 1 ms or more."
        ),
    ] = False,
    env_kwargs: Annotated[
        str | None, typer.Option(help="""Arguments of the environment as JSON, such as '{"g": 9.8}'.""")
    ] = None,
) -> None:
    """Record episodes of an environment in a store."""
    from worldline.workflows.record import record as run

    if policy is not None and ":" in policy:
        sys.path.append(str(Path.cwd()))  # policies are imported from the working directory, after installed packages
    with progress_bars() as progress:
        store = run(
            environment,
            out,
            policy=policy,
            num_episodes=num_episodes,
            max_steps=max_steps,
            seed=seed,
            num_envs=num_envs,
            processes=processes,
            env_kwargs=_settings(env_kwargs),
            progress=progress,
        )
    if note := store.card.notes.get("left_out"):
        print(note)
    signals = ", ".join(f"{signal.name} ({signal.role})" for signal in store.schema.signals)
    print(f"{len(store)} episodes, {int(store.num_steps.sum())} steps: {signals}")
    print(f"Store:  {out}")
    print_next("learn", out, "--out", "world/")


def _settings(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--env-kwargs is not valid JSON: {text!r} ({error}). Write '{{\"name\": value}}'.") from error
    if not isinstance(settings, dict):
        raise InputError(f"--env-kwargs is not a JSON object: {text!r}. Write '{{\"name\": value}}'.")
    return settings
