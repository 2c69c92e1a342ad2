"""`worldline check`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json
from worldline.cli.output import print_list, print_next, print_table, print_wrapped, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.control.judgement import Experiment
    from worldline.data.checks import Finding
    from worldline.data.quality.alignment import Alignment
    from worldline.data.quality.coverage import Coverage
    from worldline.workflows.check import CheckReport

MAX_LINES = 30


def check(
    store: Path,
    delay: Annotated[int, typer.Option(min=0)] = 0,
    world: str | None = None,
    seed: int = 0,
    json: Json = None,
) -> None:
    """Check a store for damage, misaligned actions, other faults and low coverage. The exit status is 1 on faults.

    Args:
        store: folder of the store.
        delay: known delay between action and effect, in steps.
        world: a world of this store: folder, URL or name. Also prints the experiments that would teach it most.
        seed: random seed of the samples.
    """
    from worldline.data.store import open_store
    from worldline.data.store_notes import uncertain_roles
    from worldline.workflows.check import check as run

    with progress_bars() as progress:
        report = run(store, delay=delay, seed=seed, progress=progress)
    if doubtful := uncertain_roles(open_store(store)):
        listed = ", ".join(f"{name} ({role}?)" for name, role in doubtful.items())
        print_wrapped(f"Uncertain roles: {listed}. To correct one: worldline schema {store} NAME=ROLE")
    _print(report)
    experiments = {} if world is None else _experiments(store, world, seed)
    write_json(json, {**asdict(report), "failed": report.failed, "experiments": experiments})
    if report.failed:
        print_next(*(report.realign or report.edit or ("show", store)))
        raise typer.Exit(1)
    if report.edit:
        print(f"Edits:  {shlex.join(['worldline', *report.edit])}")
    print_next("learn", store, "--out", "world/")


def _experiments(store: Path, world: str, seed: int) -> dict[str, Experiment]:
    """Prints the next experiments."""
    from worldline.control.judgement import experiment_text
    from worldline.data.store import open_store
    from worldline.workflows.judge import next_experiments

    needed = next_experiments(open_store(store), world, seed=seed)
    lines = [f"{place}: {experiment_text(each)}" for place, each in needed.items()]
    print_list("Next experiments, where the logs do not suffice", lines or ["none: the ends of all actions are known."])
    return needed


def _print(report: CheckReport) -> None:
    damaged = report.num_episodes - report.num_whole
    state = f"{damaged} of them DAMAGED" if damaged else "all intact"
    print_wrapped(f"{report.path}: {report.num_episodes} episodes, {report.num_steps} steps; {state}.\n")
    if report.alignment is not None:
        _print_alignment(report.alignment, is_known=report.accepted)
    _print_findings(report.findings)
    if report.coverage is not None:
        _print_coverage(report.coverage)
    print_list("Recommendations", report.advice[:MAX_LINES])
    print_wrapped(f"\nResult: {_result(report)}")


def _result(report: CheckReport) -> str:
    severities = [str(finding.severity) for finding in report.findings]
    words = ["actions and observations are misaligned"] if report.misaligned else []
    if report.alignment is not None and report.alignment.shift and not (report.misaligned or report.accepted):
        words = ["the system responds late, or actions are logged early"]
    for word in ("error", "warning", "note"):
        count = severities.count(word)
        words += [f"{count} {word}{'' if count == 1 else 's'}"] if count else []
    return ": ".join(filter(None, ("FAILED" if report.failed else "passed", ", ".join(words))))


def _print_alignment(alignment: Alignment, *, is_known: bool) -> None:
    """Prints the verdict with its reason."""
    steps = f" by {abs(alignment.shift)} step{'' if abs(alignment.shift) == 1 else 's'}" if alignment.shift else ""
    known = " (the known delay)" if is_known and alignment.shift else ""
    lines = [f"{alignment.reason[0].upper()}{alignment.reason[1:]}"]
    if alignment.shifts:
        lines.append(f"Measured on {alignment.num_rows} steps of {alignment.num_episodes} episodes.")
    if alignment.left_out:
        lines.append(f"Left out, because they are rarely observed: {', '.join(alignment.left_out)}.")
    print_list(f"Actions and observations: {alignment.verdict}{steps}{known}", lines)
    print()


def _print_findings(findings: tuple[Finding, ...]) -> None:
    from worldline.data.quality.false_alarms import FALSE_ALARM_RATE

    if not findings:
        print("Signals: no findings.\n")
        return
    rows = [(f.severity.value, f.signal, f.episode, f.step, f.problem) for f in findings[:MAX_LINES]]
    print_table("Findings", ("", "signal", "episode", "step", "problem"), rows, left=("signal", "problem"))
    if len(findings) > MAX_LINES:
        print(f"  {len(findings) - MAX_LINES} more findings; --json writes all of them.")
    rate = f"{100 * FALSE_ALARM_RATE:.0f} %"
    print_wrapped(f"Warnings are tests. Their nominal false-alarm rate is {rate} per log. Notes are no faults.\n", "  ")


def _print_coverage(covered: Coverage) -> None:
    rows = []
    for signal in covered.actions:
        logged = f"{signal.least:.4g} to {signal.greatest:.4g}"
        possible = "?" if signal.low is None or signal.high is None else f"{signal.low:.4g} to {signal.high:.4g}"
        rows.append((signal.name, logged, possible, f"{100 * signal.used:.0f} %", f"{100 * signal.predictable:.0f} %"))
    head = ("action", "logged", "possible", "share used", "predictable from the past")
    print_table("Coverage of the actions", head, rows)
