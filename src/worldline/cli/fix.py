"""`worldline fix`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json
from worldline.cli.output import print_list, print_next, print_wrapped, progress_bars, write_json
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.workflows.check import CheckReport
    from worldline.workflows.repairs import LeftAlone, RepairPlan

MAX_LINES = 30
NOTHING = 3
"""Exit status if nothing can be repaired."""


def fix(
    store: Annotated[Path, typer.Argument(help="Folder of the store; it is not changed.")],
    to: Annotated[Path | None, typer.Option(metavar="NEW", help="New folder for the repaired store.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the repairs and write nothing.")] = False,
    saturated: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Sensor that clips at the ends of its range; may be repeated."),
    ] = None,
    delay: Annotated[int, typer.Option(min=0, help="Known delay between action and effect, in steps.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of the checks.")] = 0,
    json: Json = None,
) -> None:
    """Repair what is certainly wrong in a store, in a new store. The exit status is 3 if nothing can be repaired."""
    from worldline.workflows.fix import fix as run
    from worldline.workflows.fix import plan_repairs

    if to is None and not dry_run:
        raise InputError("no folder for the repaired store is given. Add --to NEW, or --dry-run.")
    with progress_bars() as progress:
        plan = plan_repairs(store, delay=delay, saturated=saturated or (), seed=seed, progress=progress)
    _print(plan)
    if dry_run or to is None or not plan.repairs:
        write_json(json, _figures(plan, None))
        if not plan.repairs:
            print("Nothing can be repaired with certainty; nothing was written.")
            print_next("check", store)
            raise typer.Exit(NOTHING)
        print_next("fix", store, "--to", to or f"{store}-fixed")
        return
    with progress_bars() as progress:
        remaining = run(plan, to, seed=seed, progress=progress)
    write_json(json, _figures(plan, remaining))
    count = f"{remaining.num_episodes} episodes, {remaining.num_steps} steps"
    print_wrapped(f"Wrote {to}: {count}. Its fix.json records the repairs.")
    print_list("Remaining findings", [one.problem for one in remaining.findings[:MAX_LINES]] or ["none"])
    print_next("check", to)


def _print(plan: RepairPlan) -> None:
    path, lengths = plan.store.path, plan.store.num_steps
    print_wrapped(f"{path}: {len(plan.store)} episodes, {int(lengths.sum())} steps.")
    texts = [
        f"{one.kind}{f' {one.signal}' if one.signal else ''}: {one.before} -> {one.after}." for one in plan.repairs
    ]
    print_list("Repairs", texts)
    print_list("Left alone", [_left_alone(one) for one in plan.left_alone[:MAX_LINES]])
    print()


def _left_alone(one: LeftAlone) -> str:
    episode = None if one.episode is None else f"episode {one.episode}"
    place = ", ".join(part for part in (one.signal, episode) if part is not None)
    return f"{f'{place}: ' if place else ''}{one.problem}. {one.reason}"


def _figures(plan: RepairPlan, remaining: CheckReport | None) -> dict[str, object]:
    """The repairs as values for JSON."""
    return {
        "path": str(plan.store.path),
        "repairs": [asdict(one) for one in plan.repairs],
        "left_alone": [asdict(one) for one in plan.left_alone],
        "remaining": None if remaining is None else [asdict(one) for one in remaining.findings],
    }
