"""`worldline run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Count
from worldline.cli.output import print_list, print_next, progress_bars

if TYPE_CHECKING:
    from worldline.data.store import Store


def run(
    controller: str,
    environment: Annotated[str, typer.Option("--in", metavar="ENV")],
    out: Annotated[Path, typer.Option()],
    num_episodes: Count = 20,
    max_steps: Count = 200,
    seed: int = 0,
) -> None:
    """Run a controller in an environment, and store its episodes.

    Args:
        controller: TOML file of a PID controller, of rules or of a schedule; or module:name of a controller or of a
            function from a Situation to actions.
        environment: name of a lab, or a Gymnasium id.
        out: new folder for the store.
        num_episodes: number of episodes.
        max_steps: maximum number of steps per episode.
        seed: of the resets. Controllers with the same seed start from the same states.
    """
    from worldline.control.controllers import load_controller
    from worldline.workflows.record import make, record
    from worldline.workflows.recorder import recorded_schema

    sys.path.append(str(Path.cwd()))  # functions are imported from the working directory, after installed packages
    made = make(environment)
    try:
        loaded = load_controller(controller, recorded_schema(made))
        sizes: dict[str, Any] = {"num_episodes": num_episodes, "max_steps": max_steps, "seed": seed}
        with progress_bars() as progress:
            store = record(made, out, policy=loaded, progress=progress, **sizes)
    finally:
        made.close()
    print_list(f"Controller {loaded.card.name}", loaded.card.settings)
    print(_summary(store))
    print(f"Store:  {out}")
    print_next("check", out)


def _summary(store: Store) -> str:
    """Episodes, steps, ends and the return with its 90 % interval."""
    import numpy as np

    from worldline.schema import Role
    from worldline.stats import student_quantile

    lengths, ended = store.num_steps, int(np.asarray(store.terminated).sum())
    text = f"{len(store)} episodes, {int(lengths.mean())} steps on average, {ended} ended in a terminal state."
    rewards = [signal.name for signal in store.schema.signals if signal.role is Role.REWARD]
    if not rewards:
        return f"{text} The environment gives no reward."
    returns = np.array([store.read(rewards[0], number, 0, int(lengths[number])).sum() for number in range(len(store))])
    if len(store) < 2:
        return f"{text} Return {returns[0]:.4g}."
    half = student_quantile(0.05, len(store) - 1) * returns.std(ddof=1) / np.sqrt(len(store))
    mean = returns.mean()
    return f"{text} Return {mean:.4g}, 90 % interval of the mean {mean - half:.4g} to {mean + half:.4g}."
