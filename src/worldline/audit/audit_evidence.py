"""What an audit measures, and what it concludes: dataclasses alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.grades import Grade, Verdict
from worldline.data.quality.coverage import Coverage
from worldline.stats import Estimate, Rate

Told = Literal["agrees", "apart", "opposite", "none", "unclear", "not identifiable"]
"""How a world's effect compares with that of the logs: alike, of another size, of the other sign; both have next to
none; the logs are too few to tell; or they cannot tell, however many there are of them."""


class Advice(StrEnum):
    """What to do with a world."""

    DEPLOY = "deploy"
    LIMITS = "deploy with limits"
    NO = "do not deploy"
    UNREADABLE = "UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"


@dataclass(frozen=True, kw_only=True)
class Excitation:
    """How much of an action does not follow from what went before it.

    Args:
        action: signal and component.
        linear: share of its variance that a linear regression on the history leaves, on held-out episodes.
        bent: the same of a regression that can bend.
        left: the smaller of both, 0 to 1: 1 - R^2.
        enough: whether effects of this action can be told from these logs.
    """

    action: str
    linear: float
    bent: float
    left: Estimate
    enough: bool


@dataclass(frozen=True, kw_only=True)
class Placebo:
    """Whether the error of the last step knows the next action, which cannot have caused it.

    Args:
        action: signal and component.
        signal: signal and component whose error is meant.
        raw: correlation as it is; a controller that answers to what it sees makes one.
        value: correlation with what of the action the last observation and action do not explain: 0 unless actions
            follow from something with a memory, a controller's or a hidden cause's.
        num_episodes: that it rests on; of few nothing is sure.
        found: whether it is there beyond chance, all pairs considered.
    """

    action: str
    signal: str
    raw: Estimate
    value: Estimate
    num_episodes: int
    found: bool


@dataclass(frozen=True, kw_only=True)
class LeakCheck:
    """Whether predictions depend on actions that come later.

    Args:
        num_checked: predicted values that were compared.
        worst: largest difference between predictions up to a step under other actions after it, relative to the
            deviation of the signal over windows, or to its largest value where that is 0.
        signal: where it is; empty where nothing was compared.
        leaks: whether it is more than rounding.
    """

    num_checked: int
    worst: float
    signal: str
    leaks: bool


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """How far ahead a signal is predicted better than by everything trivial.

    Args:
        signal: its name.
        steps: the last step up to which that holds at every step; 0 for none.
        of: steps that were looked at.
        stops: the comparison that ends it; empty where nothing does.
    """

    signal: str
    steps: int
    of: int
    stops: str


@dataclass(frozen=True, kw_only=True)
class JointCoverage:
    """Whether whole trajectories lie inside the band as often as it says, one window an episode.

    Args:
        signal: its name.
        level: promised.
        inside: counted.
        too_few: chance of so few or fewer, if the promise holds.
        too_many: chance of so many or more, if the promise holds.
        verdict: "narrow" or "wide" where that chance is tiny, "wide" also where most bands never end; else "holds".
    """

    signal: str
    level: float
    inside: Rate
    too_few: float
    too_many: float
    verdict: Literal["holds", "narrow", "wide"]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """In how many directions predictions vary. Latents do not show through a world; this is what does.

    Args:
        predicted: effective rank of what is predicted, over windows.
        real: of what happened.
        num_components: numbers that are predicted.
        spread: variance of what is predicted over that of what happened.
        collapsed: whether the world says nearly the same whatever it was shown.
    """

    predicted: float
    real: float
    num_components: int
    spread: float
    collapsed: bool


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one change of an action does to a signal, some steps later.

    Args:
        action: signal and component.
        signal: signal and component.
        lag: steps after the change began, from 1.
        change: of the action for one step, one deviation of the logs, in its unit.
        unit: of the signal.
        spread: deviation of the signal in the logs.
        world: what the world predicts, with its interval over episodes.
        logs: what a regression of the logs on the same history says; None where it could not be fitted.
        told: how the two compare.
    """

    action: str
    signal: str
    lag: int
    change: float
    unit: str
    spread: float
    world: Estimate
    logs: Estimate | None
    told: Told


@dataclass(frozen=True, kw_only=True)
class TwinTest:
    """A test of the exam in an environment that can be replayed.

    Args:
        name: "C1", "T1" or "T3".
        title: what it asks.
        grade: the scores.
        verdict: from them; UNSUPPORTED or ERROR where twins could not be run.
    """

    name: str
    title: str
    grade: Grade
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured.

    Args:
        diagnostics: errors, skills, gaps and bands on the graded episodes.
        trusted: per signal.
        excitation: per component of the actions.
        placebo: per component of the actions and of the signals, of which enough errors are known.
        leak: see `LeakCheck`.
        coverage: joint coverage of each signal; empty where there are no bands.
        rank: see `Rank`.
        data: what part of states and actions the logs cover.
        effects: action by signal by lag.
        randomised: share of the steps that the logs flag as randomised; None where there is no flag.
        twins: tests against twins; empty without a resettable environment.
        units: of every component of actions and signals.
        unchecked: what was not measured and why, each a sentence and a limit.
    """

    diagnostics: Diagnostics
    trusted: tuple[Trusted, ...]
    excitation: tuple[Excitation, ...]
    placebo: tuple[Placebo, ...]
    leak: LeakCheck
    coverage: tuple[JointCoverage, ...]
    rank: Rank
    data: Coverage
    effects: tuple[Effect, ...]
    randomised: float | None
    twins: tuple[TwinTest, ...]
    units: Mapping[str, str]
    unchecked: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with the world, and why.

    Args:
        advice: the verdict.
        reasons: why, the weightiest first.
        limits: within which it may be used; empty for none.
        help: data, or a training, that would help, the most useful first.
        cause: what is known of cause: never PASS without twins.
    """

    advice: Advice
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    help: tuple[str, ...]
    cause: Verdict


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A world on its owner's logs.

    Args:
        world: its name.
        logs: their name.
        decision: what to do.
        measured: what it rests on; None where the world cannot be asked about these logs.
        facts: small print, in order.
    """

    world: str
    logs: str
    decision: Decision
    measured: Measured | None
    facts: Mapping[str, str]
