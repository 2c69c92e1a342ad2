"""`worldline learn`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import ActionLag, Device, Json, Threads, use_threads
from worldline.cli.output import print_next, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.workflows.learn import LearnResult


RecipeName = Annotated[
    str | None,
    typer.Option(
        help="auto, linear, ensemble, ensemble-memory, memory, pixels, pixels-and-vectors, another, or module:name.",
        show_default="auto: by comparison",
    ),
]
Family = Annotated[
    str | None,
    typer.Option(help="Model family: jepa, rssm, ensemble, token, features or lewm.", show_default="from the recipe"),
]
SplitRule = Annotated[
    str | None,
    typer.Option(
        help="Split of held-out episodes: episode, time, time:NAME or key:NAME.", show_default="from the recipe"
    ),
]
Horizon = Annotated[
    int | None,
    typer.Option(
        min=1, help="Steps ahead for which bands are calibrated and errors reported.", show_default="from the recipe"
    ),
]
Goals = Annotated[
    bool | None,
    typer.Option(
        "--goals/--no-goals",
        help="Fit goal heads, for plans to pictures and in steps; `worldline goals` adds them later.",
        show_default="from the recipe: with images only",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="A setting of the recipe, such as training.num_updates=3000; repeat for more.",
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="TOML file with settings, such as the run.toml of a world, which repeats its run.")
]
Seed = Annotated[int | None, typer.Option(help="Random seed of initial weights and batches.", show_default="0")]
NumSeeds = Annotated[
    int | None,
    typer.Option(min=1, help="Number of trainings; the best one for control is kept.", show_default="1"),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for training, such as 10min; it sets model size and updates.", show_default="from the recipe"
    ),
]


def learn(
    logs: Annotated[Path, typer.Argument(help="A store, or logs in any format that `worldline import` reads.")],
    out: Annotated[Path, typer.Option(help="Folder for the world; an earlier world is replaced.")],
    recipe: RecipeName = None,
    model: Family = None,
    weights: Annotated[Path | None, typer.Option(help="Folder with pretrained weights; required by features.")] = None,
    split: SplitRule = None,
    horizon: Horizon = None,
    goals: Goals = None,
    settings: Settings = None,
    action_lag: ActionLag = None,
    config: Config = None,
    seed: Seed = None,
    num_seeds: NumSeeds = None,
    budget: Budget = None,
    track: Annotated[list[str] | None, typer.Option(help="Also log to tensorboard or mlflow.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted import or training.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Train a world from logs. The result is a bundle with a report."""
    from worldline.training.distributed import rank
    from worldline.workflows.learn import learn_logs, log_folder, run_worker
    from worldline.workflows.learn_figures import learn_figures
    from worldline.workflows.learn_options import Options, parse_settings

    options = Options(
        recipe=recipe,
        model=model,
        weights=weights,
        split=split,
        horizon=horizon,
        goals=goals,
        set=parse_settings(settings or ()),
        config=config,
        seed=seed,
        num_seeds=num_seeds,
        budget=budget,
        track=tuple(track or ()),
        resume=resume,
        device=device,
    )
    use_threads(threads)
    if recipe is not None and ":" in recipe:
        sys.path.append(str(Path.cwd()))  # recipes are imported from the working directory, after installed packages
    if rank():  # not the first process of torchrun
        run_worker(logs, out, options)
        return
    with _saved_work_named(logs, out), progress_bars() as progress:
        result = learn_logs(logs, out, options, action_lag=action_lag, progress=progress)
    for line in (*result.findings, *result.unclear):
        print(line)
    _print_choice(result)
    _print(result)
    _print_seeds(result)
    write_json(json, learn_figures(result))
    print(f"Schema: {result.store.path / 'schema.json'}")
    print(f"Config: {out / 'run.toml'}")
    print(f"Report: {out / 'report.html'}")
    if result.learned.trained.curves:
        print(f"Curves: {log_folder(out)}")
    print(f"World:  {out}")
    print_next(*(("audit", out, result.store.path) if result.late is None else result.late.command))


@contextmanager
def _saved_work_named(logs: Path, out: Path) -> Iterator[None]:
    """Names the saved work if the user or the system interrupts a run."""
    from worldline.workflows.learn import saved_work

    try:
        yield
    except KeyboardInterrupt:
        print(f"worldline: stopped. {saved_work(logs, out, resume='--resume')}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        with suppress(OSError):  # the path may be unreadable
            error.add_note(saved_work(logs, out, resume="--resume"))
        raise


def _print_choice(result: LearnResult) -> None:
    """The compared models and their errors; nothing if a recipe was given."""
    from worldline.report.trial_rows import failures, trial_cells, trial_head

    choice = result.choice
    if choice is None:
        return
    rows = [
        [f"{one.name} (chosen)" if one.name == choice.chosen else one.name, *trial_cells(one)] for one in choice.trials
    ]
    title = f"Models tried; error / standard deviation on {choice.num_episodes} validation episodes"
    print_table(title, trial_head(choice), rows)
    print("\n".join([*failures(choice), f"Chosen: {choice.chosen} ({choice.reason})."]))


def _print(result: LearnResult) -> None:
    """Error of each signal and baseline at each reported horizon."""
    from worldline.formatting import span

    found = result.diagnostics
    if found is None:
        print("The logs have no vector observation, so no error was measured.")
        return
    worlds = list(dict.fromkeys(error.world for error in found.errors))
    curves = {(error.world, error.signal): error.rmse for error in found.errors}
    rows = [
        [f"{signal} [{unit}]", span(step, found.step_s)]
        + [f"{curves[world, signal].value[step - 1]:.3g}" if (world, signal) in curves else "" for world in worlds]
        for signal, unit in found.units.items()
        for step in found.horizons
    ]
    print_table(
        f"Error (RMSE) on {found.num_episodes} held-out episodes",
        ("signal", "ahead", *(world.replace("_", " ") or "this world" for world in worlds)),
        rows,
    )


def _print_seeds(result: LearnResult) -> None:
    """One row per training seed, if there are several."""
    if len(result.seeds) == 1:
        return
    columns = [(signal, step) for signal, errors in result.seeds[0].rmse.items() for step in errors]
    kept = result.learned.recipe.training.seed
    print_table(
        f"{len(result.seeds)} trainings; error (RMSE) by signal and steps ahead; seed {kept} was kept",
        ("seed", "control", *(f"{signal} {step}" for signal, step in columns)),
        [
            [str(one.seed), f"{one.control:.3f}", *(f"{one.rmse[signal][step]:.3g}" for signal, step in columns)]
            for one in result.seeds
        ],
    )
