"""`worldline adopt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worldline.cli.learn import learn
from worldline.cli.options import Json, Threads
from worldline.workflows.learn_options import Options


def adopt(
    context: typer.Context,
    forecaster: str,
    logs: Path,
    out: Annotated[Path, typer.Option()],
    horizon: Annotated[int | None, typer.Option(min=1)] = None,
    split: str | None = None,
    action_lag: int | None = None,
    force: bool = False,
    threads: Threads = None,
    yes: bool = False,
    json: Json = None,
) -> None:
    """Make a world of a pretrained forecaster, without training. The logs calibrate it.

    Args:
        forecaster: fracast, or the folder of a Chronos-2 model.
        logs: a store, or logs in any format that `worldline import` reads.
        out: folder for the world; an earlier world is replaced.
        horizon: steps for which bands are calibrated. Default: up to 48.
        split: rule that holds out episodes: episode, time, time:NAME or key:NAME.
        action_lag: steps by which the logs hold actions too late; for logs that are imported.
        force: import the logs anew.
        yes: accept uncertain roles without a question, if logs are imported.
    """
    from worldline.workflows.adopt import adopting

    options = adopting(forecaster, Options(horizon=horizon, split=split, action_lag=action_lag, force=force))
    learn(context, logs, out, options=options, threads=threads, yes=yes, json=json)
