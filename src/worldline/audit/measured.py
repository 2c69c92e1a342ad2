"""What an audit measures and concludes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.grades import Grade, Verdict
from worldline.audit.measurement import AuditMeasurement, ReportFinding
from worldline.data.quality.coverage import Coverage
from worldline.formatting import between, listing, number, percent, plural
from worldline.plots.parts import Note, PagePart
from worldline.stats import Estimate, Rate

Agreement = Literal["agrees", "apart", "opposite", "none", "not resolved", "not identifiable"]
"""Effect of a world compared with the effect in the logs.

* "agrees": equivalent within a stated margin; "apart": different size; "opposite": different sign;
* "none": the logs show that the effect is too small to matter;
* "not resolved": more logs would help; "not identifiable": more logs of this kind would not help.
"""
AGREEMENTS: Final[tuple[Agreement, ...]] = ("opposite", "apart", "agrees", "not identifiable", "not resolved", "none")
"""The worst first. A pair of action and signal counts by its worst lag."""

CHANCE: Final = 0.5
MIN_PREFERRED: Final = 0.7
"""Share of preferred actions below which a world cannot plan to goals."""
WELL_PREFERRED: Final = 0.85
"""Share of preferred actions from which a world plans to goals reliably."""


class Advice(StrEnum):
    """Advice on the deployment of a world."""

    DEPLOY = "deploy"
    LIMITS = "deploy with limits"
    NO = "do not deploy"
    UNREADABLE = "UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"


@dataclass(frozen=True, kw_only=True)
class Excitation:
    """Share of an action that the history does not predict.

    Args:
        action: signal and component.
        left: 1 - R^2 of the better of a linear and a nonlinear regression on the history, on held-out episodes, 0 to 1.
            Only rows in which the action changes count, if this is more.
        num_changes: rows in which the action changes.
        enough: whether these logs identify effects of this action.
    """

    action: str
    left: Estimate
    num_changes: int
    enough: bool


@dataclass(frozen=True, kw_only=True)
class Placebo:
    """Correlation of the last prediction error with the next action, which cannot have caused it.

    Args:
        action: signal and component.
        signal: signal and component of the error.
        value: correlation with the part of the action that the last observation and action do not explain. It is 0
            unless actions depend on something with a memory, such as a hidden cause.
        num_episodes: number of episodes behind it.
        found: whether it is significant after correction for all pairs.
    """

    action: str
    signal: str
    value: Estimate
    num_episodes: int
    found: bool


@dataclass(frozen=True, kw_only=True)
class LeakCheck(AuditMeasurement):
    """Dependence of predictions on later actions.

    Args:
        num_checked: number of compared predicted values.
        worst: largest change of a prediction when only later actions change. It is relative to the standard deviation
            of the signal over windows, or to its largest value if the deviation is 0.
        signal: signal of the largest change; empty if nothing was compared.
        leaks: whether the change exceeds rounding.
    """

    chapter = "Use of actions"

    num_checked: int
    worst: float
    signal: str
    leaks: bool

    def findings(self) -> Sequence[ReportFinding]:
        """Whether any prediction depends on later actions."""
        if not self.leaks:
            count = plural(self.num_checked, "value")
            return [ReportFinding(f"No prediction depends on later actions ({count} compared).", "good")]
        text = (
            f"Predictions depend on later actions: these change {self.signal} by {percent(self.worst)}. "
            "This is a bug in the world, and it makes the other figures too good."
        )
        return [ReportFinding(text, "bad")]


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Horizon up to which a signal is predicted better than by the baselines.

    Args:
        signal: name of the signal.
        steps: last step up to which this holds at every step; 0 for none.
        of: number of evaluated steps.
        stops: baseline that ends the horizon; empty if none does.
    """

    signal: str
    steps: int
    of: int
    stops: str


@dataclass(frozen=True, kw_only=True)
class JointCoverage:
    """Coverage of whole trajectories by the band, counted on one window per episode.

    Args:
        signal: name of the signal.
        level: nominal coverage.
        inside: measured coverage.
        too_few: probability of this count or fewer under nominal coverage.
        too_many: probability of this count or more under nominal coverage.
        verdict: "narrow" or "wide" if that probability is tiny; "wide" also if most bands are unbounded; else "holds".
    """

    signal: str
    level: float
    inside: Rate
    too_few: float
    too_many: float
    verdict: Literal["holds", "narrow", "wide"]


@dataclass(frozen=True, kw_only=True)
class Rank(AuditMeasurement):
    """Effective rank of predictions over windows; a world does not expose its latents.

    Args:
        predicted: effective rank of the predictions.
        real: effective rank of the ground truth.
        num_components: number of predicted components.
        spread: variance of the predictions divided by the variance of the ground truth.
        collapsed: whether predictions hardly depend on the history.
    """

    chapter = "Errors and baselines"

    predicted: float
    real: float
    num_components: int
    spread: float
    collapsed: bool

    def findings(self) -> Sequence[ReportFinding]:
        """The effective rank; if predictions hardly vary, their variance."""
        share = f"{percent(self.spread)} of the variance of the observations"
        if self.collapsed:
            return [ReportFinding(f"Predictions hardly depend on the history: they have {share}.", "bad")]
        text = (
            f"One-step predictions have an effective rank (participation ratio) of {number(self.predicted, 2)}, the "
            f"observations of {number(self.real, 2)}, with {plural(self.num_components, 'component')}. Predictions "
            f"have {share}."
        )
        return [ReportFinding(text, "plain")]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Effect of a held change of an action on a signal, some steps after the change began.

    Args:
        action: signal and component.
        signal: signal and component.
        lag: steps since the change began, from 1.
        change: change of the action at every step: one standard deviation of the logs, in its unit.
        unit: unit of the signal.
        spread: standard deviation of the signal within the horizon of the logs.
        world: predicted effect, with its interval over episodes.
        logs: effect estimated from the logs by a regression on the same history; None if it could not be fitted.
        agreement: of the two.
    """

    action: str
    signal: str
    lag: int
    change: float
    unit: str
    spread: float
    world: Estimate
    logs: Estimate | None
    agreement: Agreement


@dataclass(frozen=True, kw_only=True)
class TwinTest:
    """A test of the exam in the user's environment.

    Args:
        name: "C1", "T1" or "T3".
        title: short description.
        grade: the scores.
        verdict: verdict from the scores; UNSUPPORTED or ERROR if twins could not be run.
    """

    name: str
    title: str
    grade: Grade
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class GoalRanking(AuditMeasurement):
    """How a planner ranks the logged actions to a goal, compared with the actions of other episodes.

    Args:
        goals: signals of the goals, which are logged observations.
        steps: from the start of a segment to its goal.
        num_segments: logged segments.
        num_episodes: of these segments.
        num_others: other sequences for each segment.
        preferred: share of the other sequences that cost more than the logged one: 0.5 by chance, 1 is perfect.
    """

    chapter = "Plans to logged goals"

    goals: tuple[str, ...]
    steps: int
    num_segments: int
    num_episodes: int
    num_others: int
    preferred: Estimate

    @property
    def reaches(self) -> bool:
        """Whether the world can plan to these goals, at least roughly."""
        return self.preferred.value >= MIN_PREFERRED and self.preferred.low > CHANCE

    def findings(self) -> Sequence[ReportFinding]:
        """Whether a planner prefers what led to a goal."""
        well = self.reaches and self.preferred.value >= WELL_PREFERRED
        how = "can plan" if well else "can plan roughly" if self.reaches else "cannot plan"
        text = (
            f"The world {how} to logged goals of {listing(self.goals)}, {plural(self.steps, 'step')} ahead: it prefers "
            f"the logged actions to {percent(self.preferred.value)} of other actions ({between(self.preferred)}; "
            "50\u00a0% by chance)."
        )
        if self.reaches and not well:
            return [ReportFinding(f"{text} Replan often, and measure success before you rely on its plans.", "unclear")]
        return [ReportFinding(text, "good" if well else "bad")]

    def figure(self) -> Sequence[PagePart]:
        """How it was measured."""
        details = (
            f"For {plural(self.num_segments, 'segment')} of {plural(self.num_episodes, 'episode')}, the goal is the "
            "observation at the end. The planner's cost of the logged actions is compared with that of "
            f"{plural(self.num_others, 'sequence')} of other episodes."
        )
        return [Note(details)]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All measurements of an audit.

    Args:
        diagnostics: errors, skills, gaps and bands on the graded episodes.
        trusted: per signal.
        excitation: per action component; empty if nothing is chosen.
        placebo: per action component and signal component with enough known errors.
        leak: dependence on later actions.
        coverage: band coverage of each signal; empty without bands.
        rank: effective rank of the predictions.
        data: coverage of states and actions by the logs.
        effects: by action, signal and lag.
        randomised: share of steps flagged as randomised; None without a flag.
        twins: tests against twins; empty without a resettable environment.
        goals: goal reaching on logged segments; None if the world is not meant to plan to observations.
        units: unit of every component of actions and signals.
        unchecked: limits due to missing measurements, one sentence each.
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
    goals: GoalRanking | None
    units: Mapping[str, str]
    unchecked: tuple[str, ...]

    @property
    def cause(self) -> Verdict:
        """Verdict on causal effects; NOT MEASURED without twins."""
        return next((test.verdict for test in self.twins if test.name == "C1"), Verdict.NOT_MEASURED)

    @property
    def causal(self) -> bool:
        """Whether twins confirm the effects of actions."""
        return self.cause is Verdict.PASS

    @property
    def reaches_goals(self) -> bool:
        """Whether plans to logged goals are possible.

        Such a world is useful although a baseline predicts better. It also uses its actions: without them, it prefers
        the logged ones to half of the others, as by chance.
        """
        return self.goals is not None and self.goals.reaches


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Advice on a world, with its reasons.

    Args:
        advice: the advice.
        reasons: the most important first.
        limits: limits of use; empty for none.
        help: data or training that would help, the most useful first.
        cause: verdict on causal effects; never PASS without twins.
    """

    advice: Advice
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    help: tuple[str, ...]
    cause: Verdict


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit of a world on logs.

    Args:
        world: name of the world.
        logs: name of the logs.
        decision: advice, with reasons and limits.
        measured: the measurements; None if the world cannot be evaluated on these logs.
        facts: further facts, in order.
    """

    world: str
    logs: str
    decision: Decision
    measured: Measured | None
    facts: Mapping[str, str]
