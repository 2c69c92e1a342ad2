"""Rows of the comparison of models, for the page and for the terminal."""

from __future__ import annotations

from worldline.audit.report_evidence import Choice, Trial
from worldline.formatting import number, span


def trial_head(choice: Choice) -> list[str]:
    """The titles of the columns: model, each compared step, ratio, time."""
    return ["model", *(span(step, choice.step_s) for step in choice.steps), "ratio to linear", "time"]


def trial_cells(trial: Trial) -> list[str]:
    """The figures of one model, without its name."""
    ratio = trial.relative
    interval = f"{number(ratio.value)} ({number(ratio.low)} to {number(ratio.high)})"
    return [*map(number, trial.errors), interval, f"{trial.learn_s:.0f} s"]


def failures(choice: Choice) -> list[str]:
    """A sentence for each model that failed."""
    return [f"{name} failed: {reason}" for name, reason in choice.failed.items()]
