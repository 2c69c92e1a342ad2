"""`worldline judge`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Count, Device, Json, Threads, Workers, checked_file, use_threads
from worldline.cli.output import print_list, print_next, print_table, print_wrapped, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.control.judgement import Judgement


def judge(
    controllers: Annotated[list[str], typer.Argument(metavar="CONTROLLER...")],
    world: Annotated[str, typer.Option(metavar="WORLD")],
    logs: Annotated[Path, typer.Option()],
    goal: Annotated[Path, typer.Option()],
    out: Annotated[Path | None, typer.Option(callback=checked_file("--out"))] = None,
    num_episodes: Annotated[int, typer.Option(min=10)] = 60,
    max_steps: Count = 1000,
    num_fresh: Count = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    workers: Workers = "1",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Predict how controllers would do that never ran: cost, violations, settling and use of actions, with intervals.

    The exit status is 0 if all controllers are judged, else 1.

    Args:
        controllers: TOML files of controllers, or module:name of a controller or function.
        world: a world: folder, URL or name.
        logs: logs of the plant, with the targets that the goal names.
        goal: TOML file with targets, tolerances, costs and constraints.
        out: also write a page to this HTML file.
        num_episodes: number of logged episodes that are imagined, at most.
        max_steps: steps of each episode, at most.
        num_fresh: number of other episodes for which means are predicted.
        seed: of the choice of episodes.
    """
    from worldline.control.judgement import RunVerdict
    from worldline.data.fsync import name_in_errors
    from worldline.workflows.judge import judge as run

    use_threads(threads)
    sys.path.append(str(Path.cwd()))  # functions are imported from the working directory, after installed packages
    sizes: Any = {"num_episodes": num_episodes, "max_steps": max_steps, "num_fresh": num_fresh, "seed": seed}
    with progress_bars() as progress:
        judged = run(
            controllers,
            world,
            logs,
            goal,
            device=device,
            workers=workers,
            progress=progress,
            **sizes,
        )
    _print(judged)
    write_json(json, judged)
    if out is not None:
        from worldline.report.judge_page import render_judgement

        with name_in_errors(out):
            out.write_text(render_judgement(judged), encoding="utf-8")
        print(f"Page:   {out}")
    print_next("run", controllers[0], "--in", "PLANT", "--out", "episodes/")
    if any(each.verdict is not RunVerdict.JUDGED for each in judged.controllers):
        raise typer.Exit(1)


def _print(judged: Judgement) -> None:
    from worldline.control.judgement import cost_rows, experiment_text, figure_names, figure_rows
    from worldline.formatting import plural, with_interval

    print_wrapped(
        f"{plural(len(judged.controllers), 'controller')} in {plural(judged.num_episodes, 'logged episode')} of "
        f"{judged.logs}, about {plural(judged.num_steps, 'step')} each, as {judged.world} imagines them\n"
    )
    head, rows = cost_rows(judged)
    print_table("Mean cost of a step, with 90 % intervals", head, rows, left=("verdict", "against the log"))
    others = [name for name in figure_names(judged) if name != "cost"]
    print_table("Other means in these situations, with 90 % intervals", *figure_rows(judged, others))
    if judged.differences:
        cells = [(f"{d.first} - {d.second}", with_interval(d.cost), d.verdict) for d in judged.differences]
        print_table("Difference in cost, on the same situations", ("controllers", "difference", "the first is"), cells)
    reasons = [f"{each.name} is {each.verdict}: {each.reason}" for each in judged.controllers if each.reason]
    print_list("Not judged", reasons)
    experiments = [
        f"{each.name}: {experiment_text(each.experiment)}" for each in judged.controllers if each.experiment is not None
    ]
    print_list("Experiments that would settle it", experiments)
    print_list("Limits", judged.notes)
