"""`worldline record`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from worldline.cli.options import Count
from worldline.cli.output import print_next, progress_bars


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object")
    return value


def record(
    environment: str,
    out: Annotated[Path, typer.Option()],
    num_episodes: Count = 500,
    max_steps: Count = 60,
    policy: str | None = None,
    seed: int = 0,
    env_kwargs: Annotated[dict[str, Any] | None, typer.Option(parser=_json_object, metavar="JSON")] = None,
) -> None:
    """Record episodes of an environment in a store.

    Args:
        environment: name of a lab, such as two-rooms, or a Gymnasium id.
        out: new folder for the store.
        num_episodes: number of episodes.
        max_steps: maximum number of steps per episode.
        policy: how actions are chosen: random, explorer (the policy of a lab), or module:name of a policy or a
            function of observation and generator. Default: explorer if the lab has one, else random.
        seed: random seed of resets and policy.
        env_kwargs: arguments of the environment as JSON, such as '{"g": 9.8}'.
    """
    from worldline.workflows.record import record as run

    if policy is not None and ":" in policy:
        sys.path.append(str(Path.cwd()))  # policies are imported from the working directory, after installed packages
    sizes: dict[str, Any] = {"num_episodes": num_episodes, "max_steps": max_steps}
    with progress_bars() as progress:
        store = run(environment, out, policy=policy, seed=seed, env_kwargs=env_kwargs, progress=progress, **sizes)
    if note := store.card.notes.get("left_out"):
        print(note)
    signals = ", ".join(f"{signal.name} ({signal.role})" for signal in store.schema.signals)
    print(f"{len(store)} episodes, {int(store.num_steps.sum())} steps: {signals}")
    print(f"Store:  {out}")
    print_next("learn", out, "--out", "world/")
