"""Advice on the deployment of a world: what the findings of all measurements mean together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from worldline.audit.audit_measurements import audit_measurements
from worldline.audit.excitation import MIN_EPISODES
from worldline.audit.measured import Advice, Decision, Measured
from worldline.audit.measurement import TONES
from worldline.formatting import number, percent, plural

NO_TWINS: Final = "Causal effects were not tested against twins. Logs alone cannot confirm them."
MIN_MISSING_SHARE: Final = 0.2
"""Share of an action's range from which its absence in the logs is a limit."""


def decide(measured: Measured) -> Decision:
    """Advice on the world, with reasons, limits and the data that would help.

    Args:
        measured: all measurements.
    """
    findings = [finding for part in audit_measurements(measured) for finding in part.findings()]
    against, limits, good = ([finding.text for finding in findings if finding.verdict == tone] for tone in TONES[:3])
    limits += [*measured.unchecked, *_unlogged(measured)]
    wanted = [finding.help for finding in findings if finding.help]
    if (num_episodes := measured.diagnostics.num_episodes) < MIN_EPISODES:
        text = "could be graded: monitor the world closely, and audit it again with more."
        limits.append(f"Only {plural(num_episodes, 'episode')} {text}")
        wanted.append(f"More held-out episodes: at least {MIN_EPISODES}, and 100 for narrow intervals.")
    if measured.excitation and not measured.twins:
        text = "A resettable environment (--env ID), or an experiment with twins: only these test causal effects."
        wanted.append(text)
    return Decision(
        advice=Advice.NO if against else Advice.LIMITS if limits else Advice.DEPLOY,
        reasons=tuple(against or good),
        limits=tuple(limits),
        help=tuple(dict.fromkeys([*wanted, *measured.data.advice])),
        cause=measured.cause,
    )


def _unlogged(measured: Measured) -> Iterable[str]:
    """Parts of an action's range that were never logged."""
    for action in measured.data.actions:
        low, high, least, greatest = action.low, action.high, action.least, action.greatest
        if action.never:
            yield f"Do not choose {', '.join(map(str, action.never))} for {action.name}: never logged."
        elif low is None or high is None or low >= high or least == greatest:
            continue
        elif max(least - low, high - greatest) / (high - low) >= MIN_MISSING_SHARE:
            yield (
                f"Keep {action.name} between {number(least)} and {number(greatest)}: no other values of its "
                f"range ({number(low)} to {number(high)}) were logged."
            )
        elif action.used < 1 - MIN_MISSING_SHARE:
            yield f"The logs use only {percent(action.used)} of the range of {action.name}."
