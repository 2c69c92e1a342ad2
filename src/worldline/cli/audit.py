"""`worldline audit`."""

from __future__ import annotations

import json as text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json, Threads, use_threads

if TYPE_CHECKING:
    from worldline.audit.audit_evidence import Audit, Decision


def audit(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="A world as `worldline.open` takes it.")],
    logs: Annotated[Path, typer.Argument(metavar="LOGS", help="Held-out logs, or the store it was learned from.")],
    env: Annotated[
        str | None,
        typer.Option(help="Test against twins too: a lab, a Gymnasium id, or greenhouse.", show_default="no twins"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a page to this file, as HTML.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Audit a trained world on its owner's logs: deploy, deploy with limits, or do not deploy, and why.

    The exit status is 0 where it may be deployed, within limits or not, else 1.
    """
    from worldline.cli.output import check_json, write_json, write_text
    from worldline.cli.progress import progress_bars
    from worldline.config import to_strict_json
    from worldline.report.audit_page import render_audit
    from worldline.workflows.audit import audit as run

    check_json(json)
    check_json(out, "--out")
    use_threads(threads)
    with progress_bars() as stage:
        found = run(world, logs, environment=env, seed=seed, stage=stage)
    try:
        if out is not None:
            write_text(out, render_audit(found), "--out")
    finally:  # what cannot be written takes nothing else with it
        try:
            write_json(json, text.loads(to_strict_json(found)))
        finally:
            _print(found)
    if out is not None:
        print(f"Page: {out}")
    if found.decision.advice not in ("deploy", "deploy with limits"):
        raise typer.Exit(1)


def _print(found: Audit) -> None:
    """The advice, then the figures."""
    _print_decision(found.decision, f"{found.world} on {found.logs}")
    if found.measured is not None:
        _print_effects(found)
        _print_horizons(found)


def _print_decision(decision: Decision, title: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    advice = decision.advice.value
    console.print(Text(f"{title}: {advice}", style="bold"))
    for heading, lines in (
        ("Why", decision.reasons),
        ("Within these limits" if decision.advice == "deploy with limits" else "Also", decision.limits),
        ("Data that would help", decision.help),
    ):
        if lines:
            _say(heading)
        for line in lines:
            _say(line, "  - ")
    print()


def _say(said: str, indent: str = "") -> None:
    """Prints text wrapped between words, all but its first line indented with blanks."""
    import textwrap

    from rich.console import Console

    print(textwrap.fill(said, Console().width, initial_indent=indent, subsequent_indent=" " * len(indent)))


def _print_effects(found: Audit) -> None:
    """One row for each action and signal: of the effects that can be told the largest; page and JSON have every lag."""
    from worldline.cli.output import print_table

    measured = found.measured
    if measured is None:
        return
    ranked = sorted(
        measured.effects, key=lambda one: (one.told != "not identifiable", abs((one.logs or one.world).value))
    )
    largest = {(one.action, one.signal): one for one in ranked}
    print_table(
        "What one deviation of an action, for one step, does",
        ("action", "signal", "after", "says the world", "say the logs", ""),
        [
            (
                one.action,
                f"{one.signal} [{one.unit}]",
                f"{one.lag}",
                f"{one.world.value:.3g} ({one.world.low:.3g} to {one.world.high:.3g})",
                "" if one.logs is None else f"{one.logs.value:.3g} ({one.logs.low:.3g} to {one.logs.high:.3g})",
                "NOT IDENTIFIABLE" if one.told == "not identifiable" else one.told,
            )
            for pair in dict.fromkeys((one.action, one.signal) for one in measured.effects)
            for one in (largest[pair],)
        ],
    )


def _print_horizons(found: Audit) -> None:
    """Per signal how far it is to be trusted, and whether its band holds."""
    from worldline.cli.output import print_table
    from worldline.formatting import span

    measured = found.measured
    if measured is None:
        return
    step_s = measured.diagnostics.step_s
    bands = {one.signal: f"{one.inside.successes} of {one.inside.trials} ({one.verdict})" for one in measured.coverage}
    rows = [
        (
            one.signal,
            span(one.steps, step_s),
            span(one.of, step_s),
            one.stops.replace("_", " "),
            bands.get(one.signal, ""),
        )
        for one in measured.trusted
    ]
    print_table("How far to trust it", ("signal", "trusted", "asked", "ended by", "90 % band held"), rows)
    for test in measured.twins:
        scores = [f"{one.name} {one.score.value:.2f}" for one in test.grade.cells if one.score is not None]
        print(f"{test.name}, {test.title}: {test.verdict} ({', '.join(scores) or 'not scored'})")
