"""Rows of the comparison of models, for the page and for the terminal."""

from __future__ import annotations

from worldline.audit.report_evidence import Choice, Trial
from worldline.formatting import number, plural, span


def trial_head(choice: Choice) -> list[str]:
    """The titles of the columns: model, each compared step, order of goals, ratio, time."""
    steps = (span(step, choice.step_s) for step in choice.steps)
    return ["model", *steps, *(["goals"] if choice.goals else []), f"ratio to {choice.reference}", "time"]


def trial_figures(choice: Choice) -> str:
    """What the figures of a trial are, and of which episodes."""
    episodes = plural(choice.num_episodes, "episode")
    if choice.reference == "linear":
        return f"error / standard deviation on {episodes}, cross-validated"
    what = "" if choice.compared == "vectors" else " of the colours of 4 x 4 patches"
    order = "; goals: 1 - rank correlation of predicted distances with logged steps" if choice.goals else ""
    return f"error / standard deviation{what} on {episodes} of the validation part{order}"


def trial_cells(trial: Trial) -> list[str]:
    """The figures of one model, without its name."""
    ratio = trial.relative
    interval = f"{number(ratio.value)} ({number(ratio.low)} to {number(ratio.high)})"
    return [*map(number, trial.errors), interval, f"{trial.learn_s:.0f} s"]


def failures(choice: Choice) -> list[str]:
    """A sentence for each model that failed."""
    return [f"{name} failed: {reason}" for name, reason in choice.failed.items()]
