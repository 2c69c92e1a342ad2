"""`worldline run`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Count, Device
from worldline.cli.output import print_list, print_next, print_table, progress_bars

if TYPE_CHECKING:
    from worldline.data.store import Store
    from worldline.episode import Arrays, Episode
    from worldline.schema import Schema


def run(
    controller: str,
    plant: Annotated[str, typer.Option("--in", metavar="ENV|WORLD")],
    out: Annotated[Path, typer.Option()],
    logs: Path | None = None,
    num_episodes: Count = 20,
    max_steps: Count = 200,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Run a controller in an environment, or in a world from the states of logged episodes, and store the episodes.

    Args:
        controller: TOML file of a PID controller, rules, a schedule, a plan or the logged behaviour; or module:name of
            a controller or of a function from a Situation to actions.
        plant: name of a lab, or a Gymnasium id; or a world: folder, URL or NAME@ALIAS.
        out: new folder for the store.
        logs: store whose episodes a world imagines with the controller. It is needed for a world.
        num_episodes: number of episodes, at most.
        max_steps: maximum number of steps per episode.
        seed: of the resets. Controllers with the same seed start from the same states.
    """
    from worldline.catalog.opening import is_reference

    sys.path.append(str(Path.cwd()))  # functions are imported from the working directory, after installed packages
    if Path(plant).is_dir() or is_reference(plant) or "://" in plant:
        _run_in_world(controller, plant, out, logs, num_episodes, max_steps, device)
    else:
        _run_in_environment(controller, plant, out, num_episodes, max_steps, seed)
    print(f"Store:  {out}")
    print_next("check", out)


def _run_in_environment(controller: str, name: str, out: Path, num_episodes: int, max_steps: int, seed: int) -> None:
    from worldline.control.controllers import load_controller
    from worldline.workflows.record import make, record
    from worldline.workflows.recorder import recorded_schema

    made = make(name)
    try:
        loaded = load_controller(controller, recorded_schema(made))
        sizes: dict[str, Any] = {"num_episodes": num_episodes, "max_steps": max_steps, "seed": seed}
        with progress_bars() as progress:
            store = record(made, out, policy=loaded, progress=progress, **sizes)
    finally:
        made.close()
    print_list(f"Controller {loaded.card.name}", loaded.card.settings)
    print(_summary(store))


def _run_in_world(
    controller: str, reference: str, out: Path, logs: Path | None, num_episodes: int, max_steps: int, device: str
) -> None:
    from worldline.catalog.opening import open_target
    from worldline.control.controllers import load_controller
    from worldline.control.imagination import imagine, imagined_schema
    from worldline.data.store import Store, open_store
    from worldline.errors import InputError

    if logs is None:
        raise InputError("a world has no reset, so its runs begin in logged states. Name a store with --logs.")
    world, known = open_target(reference, device=device), open_store(logs)
    card = world.describe()
    loaded, least = load_controller(controller, card.schema), card.context
    numbers = [number for number in range(len(known)) if int(known.num_steps[number]) >= least][:num_episodes]
    if not numbers:
        raise InputError(f"no episode of {logs} has {least} steps, which {card.name} needs. Record longer ones.")
    episodes = [known.episode(number, images=False) for number in numbers]
    notes = {"world": card.name, "controller": loaded.card.name, "logs": logs.name}
    store = Store.create(out, imagined_schema(world, loaded), notes=notes)
    try:
        imagined = imagine(world, loaded, episodes, max_steps=max_steps)
        for number, episode in zip(numbers, imagined, strict=True):
            store.append(episode, {"number": number})
    finally:
        if not len(store):
            shutil.rmtree(store.path)  # a failed run can be repeated with the same folder
    print_list(f"Controller {loaded.card.name}", loaded.card.settings)
    print(f"{len(numbers)} episodes, imagined by {card.name} from observation {least - 1} on.")
    _print_changes(store.schema, episodes, imagined, least - 1)


def _print_changes(schema: Schema, logged: Sequence[Episode], imagined: Sequence[Episode], at: int) -> None:
    """Mean and spread of each component, as logged from observation `at` on and as imagined."""
    import numpy as np

    from worldline.schema import Kind

    rows, pairs = [], [*zip(map(_values, logged), map(_values, imagined), strict=True)]
    for signal in (*schema.observations, *schema.actions):
        if signal.kind is not Kind.VECTOR:
            continue
        name = signal.name
        old = np.concatenate([before[name][at : at + len(after[name])] for before, after in pairs])
        new = np.concatenate([after[name] for _, after in pairs])
        for index, columns in enumerate(zip(old.T, new.T, strict=True)):
            label = f"{name}.{index}" if signal.size > 1 else name
            rows.append((label, signal.unit, *(f"{column.mean():.3g} ± {column.std():.3g}" for column in columns)))
    print_table("Mean and standard deviation", ("signal", "unit", "logged", "imagined"), rows)


def _values(episode: Episode) -> Arrays:
    return {**episode.observations, **episode.actions}


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
