"""`worldline audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Device, Json, Threads, checked_file, use_threads
from worldline.cli.output import print_list, print_next, print_table, print_wrapped, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.audit.measured import Audit, Measured
    from worldline.stats import Estimate


def audit(
    world: Annotated[str, typer.Argument(metavar="WORLD")],
    logs: Annotated[Path, typer.Argument(metavar="LOGS")],
    env: str | None = None,
    goals: list[str] | None = None,
    out: Annotated[Path | None, typer.Option(callback=checked_file("--out"))] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Audit a trained world on logs: deploy, deploy with limits, or do not deploy, with reasons.

    The exit status is 0 for "deploy" and "deploy with limits", else 1.

    Args:
        world: a world: folder, URL or name.
        logs: held-out logs, or the store of the training.
        env: also test against twins in a lab or a Gymnasium id. Default: no twins.
        goals: signal of the goals that you plan to; repeat for more. Default: all inputs of a world with a distance
            head.
        out: also write a report to this HTML file.
        seed: random seed.
    """
    from worldline.data.fsync import name_in_errors
    from worldline.data.store import is_store
    from worldline.report.audit_page import render_audit
    from worldline.workflows.audit import audit as run

    use_threads(threads)
    with progress_bars() as progress:
        report = run(world, logs, env=env, goals=goals or None, seed=seed, device=device, progress=progress)
    _print(report)
    write_json(json, report)
    if out is not None:
        with name_in_errors(out):
            out.write_text(render_audit(report), encoding="utf-8")
        print(f"Page:   {out}")
    deploys = report.decision.advice in ("deploy", "deploy with limits")
    print_next(*(("serve", world) if deploys else ("check", logs) if is_store(logs) else ("import", logs, "store/")))
    if not deploys:
        raise typer.Exit(1)


def _print(report: Audit) -> None:
    decision = report.decision
    print(f"{report.world} on {report.logs}: {decision.advice.value}")
    print_list("Reasons", decision.reasons)
    print_list("Limits" if decision.advice == "deploy with limits" else "Further findings", decision.limits)
    print_list("Data that would help", decision.help)
    print()
    if report.measured is not None:
        _print_effects(report.measured)
        _print_horizons(report.measured)
        if report.measured.goals is not None:
            print_wrapped(report.measured.goals.sentence().text)


def _print_effects(measured: Measured) -> None:
    """One row per action and signal, with the lag that it counts by; report and JSON have all lags."""
    from worldline.audit.effect_measurement import effect_rows
    from worldline.audit.effects import MARGIN
    from worldline.formatting import round_percent

    def interval(estimate: Estimate | None) -> str:
        return "" if estimate is None else f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"

    rows = [
        (
            *(effect.action, f"{effect.signal} [{effect.unit}]", effect.lag),
            *(interval(effect.world), interval(effect.logs)),
            effect.agreement.replace("not identifiable", "NOT IDENTIFIABLE"),
        )
        for effect in effect_rows(measured)
    ]
    title = "Effect of one standard deviation of an action, held over the horizon; agreement within "
    head = ("action", "signal", "after", "world", "logs", "result")
    if rows:
        print_table(f"{title}{round_percent(MARGIN)} of the logs", head, rows)


def _print_horizons(measured: Measured) -> None:
    """Trusted horizon and band coverage of each signal, then the twin tests."""
    from worldline.formatting import round_percent, span

    step_s = measured.diagnostics.step_s
    bands = {row.signal: f"{row.inside.successes} of {row.inside.trials} ({row.verdict})" for row in measured.coverage}
    level = round_percent(max((row.level for row in measured.coverage), default=0.9))
    rows = [
        (row.signal, span(row.steps, step_s), span(row.of, step_s), row.stops.replace("_", " "), bands.get(row.signal))
        for row in measured.trusted
    ]
    print_table("Trusted horizon", ("signal", "trusted", "examined", "ended by", f"inside the {level} band"), rows)
    for test in measured.twins:
        scores = [f"{cell.name} {cell.score.value:.2f}" for cell in test.grade.cells if cell.score is not None]
        print(f"{test.name}, {test.title}: {test.verdict} ({', '.join(scores) or 'not scored'})")
