"""Measurements of plans in the true environment: goals reached, and executed plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worldline.audit.measurement import Measurement, ReportFinding
from worldline.formatting import between, listing, number, percent, plural
from worldline.plots import images
from worldline.plots.charts import Dot, IntervalChart, share_chart
from worldline.plots.images import Frames
from worldline.plots.parts import Animation, Group, Note, PagePart
from worldline.stats import Rate


@dataclass(frozen=True, kw_only=True)
class GoalOutcome:
    """Success rate of one method of choosing actions.

    Args:
        name: name in the report, such as "inverse head alone".
        role: the planner under test, a peer, "floor" for a baseline, or "ceiling" for an upper bound.
        all: over all pairs.
        split: the same by kind of pair, such as "same room"; empty for none.
    """

    name: str
    role: Literal["planner", "peer", "floor", "ceiling"]
    all: Rate
    split: Mapping[str, Rate]


@dataclass(frozen=True, kw_only=True)
class Planning(Measurement):
    """Goals reached in the true environment.

    Args:
        task: criterion of success; completes "A pair counts as solved when ...".
        outcomes: exactly one of them has the role "planner".
    """

    chapter = "Planning"

    task: str
    outcomes: tuple[GoalOutcome, ...]

    @property
    def planner(self) -> GoalOutcome:
        """The planner under test."""
        return next(outcome for outcome in self.outcomes if outcome.role == "planner")

    def headline(self) -> ReportFinding:
        """Success rate of the planner, compared with the best baseline and the upper bound."""
        rate = self.planner.all
        text = f"Planning reaches {number(rate.successes)} of {plural(rate.trials, 'goal')}: {_share(rate)}."
        floor, ceiling = self._best("floor"), self._best("ceiling")
        if floor is not None:
            text += f" The best baseline, {floor.name}, {_reaches(floor, _order(rate, floor.all))}."
        if ceiling is not None:
            text += f" The upper bound, {ceiling.name}, {_reaches(ceiling, _order(rate, ceiling.all))}."
        return ReportFinding(text, "plain" if floor is None else _order(rate, floor.all))

    def sentence(self) -> ReportFinding:
        """Success rate by kind of pair, and comparison with the best peer."""
        peer, rate = self._best("peer"), self.planner.all
        shares = [f"{_share(share)} {kind}" for kind, share in (self.planner.split or {"over all pairs": rate}).items()]
        text, order = f"Goals reached: {listing(shares)}.", "plain"
        if peer is not None:
            order = _order(rate, peer.all)
            text += f" Without search, {peer.name} {_reaches(peer, order)}."
        return ReportFinding(text, "bad" if order == "bad" else "plain")

    def figure(self) -> list[PagePart]:
        """Success rates of all methods by kind of pair."""
        details = Note(f"A pair counts as solved when {self.task}. Bars are 95\u00a0% Wilson intervals.")
        charts = [self.chart(kind) for kind in self.planner.split]
        return [Group.gallery(charts), details] if charts else [details]

    def chart(self, kind: str | None = None) -> IntervalChart:
        """Success rate of every method, over all pairs or one kind."""
        rates = [(outcome, outcome.all if kind is None else outcome.split.get(kind)) for outcome in self.outcomes]
        known = [(outcome.name, outcome.role, rate) for outcome, rate in rates if rate is not None]
        styles = {"planner": "world"}
        rows = [Dot.of(name, rate, percent(rate.value), styles.get(role, role)) for name, role, rate in known]
        texts = [f"{name} {_share(rate)}" for name, _, rate in known]
        title = f"Goals reached, {kind or 'all pairs'} ({known[0][2].trials} each)"
        return share_chart(title, rows, alt=f"{title}: {'; '.join(texts)}")

    def _best(self, role: str) -> GoalOutcome | None:
        """The outcome of this role with the highest success rate."""
        rows = [outcome for outcome in self.outcomes if outcome.role == role]
        return max(rows, key=lambda outcome: outcome.all.value, default=None)


def _order(ours: Rate, theirs: Rate) -> Literal["good", "bad", "unclear"]:
    """Compares two rates by non-overlapping intervals."""
    return "good" if ours.low > theirs.high else "bad" if ours.high < theirs.low else "unclear"


def _reaches(outcome: GoalOutcome, order: str) -> str:
    """The success rate of another planner: "reaches 3.0 %"."""
    doubt = "; the difference is not significant" if order == "unclear" else ""
    return f"reaches {percent(outcome.all.value)}{doubt}"


def _share(rate: Rate) -> str:
    """A rate with its interval."""
    return f"{percent(rate.value)} ({between(rate)})"


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames of one executed plan.

    Args:
        frames: [F, height, width, 3] uint8, from start to end.
        goal: goal image; None if the goal is not an image.
        reached: whether the goal was reached.
    """

    frames: Frames
    goal: Frames | None
    reached: bool


@dataclass(frozen=True, kw_only=True)
class Films(Measurement):
    """Executed plans.

    Args:
        films: a few plans, chosen independently of the results.
    """

    chapter = "Planning"

    films: tuple[Film, ...]

    def sentence(self) -> ReportFinding:
        """Number of the plans shown that reached their goal."""
        reached = sum(film.reached for film in self.films)
        text = f"{number(reached)} of the {plural(len(self.films), 'plan')} shown reached the goal."
        return ReportFinding(text, "plain" if reached else "bad")

    def figure(self) -> Sequence[PagePart]:
        """The plans as animations; still frames if the reader prefers reduced motion."""
        return [Group.gallery([_animation(film, k) for k, film in enumerate(self.films)])]


def _animation(film: Film, index: int) -> Animation:
    steps, ending = plural(len(film.frames) - 1, "step"), "reached" if film.reached else "not reached"
    alt = f"Executed plan of {steps}, goal {ending}"
    strip = images.strip(film.frames, 6)
    return Animation(
        title=f"{steps}, {ending}",
        moving=images.picture(images.animation(film.frames), f"{alt}, playing in a loop.", "pixels moving"),
        still=images.picture(strip, f"{alt}, as a strip of frames.", "pixels still"),
        goal=None if film.goal is None else images.picture(images.png(film.goal), "Goal image.", "pixels"),
        key=f"still-{index}",
    )
