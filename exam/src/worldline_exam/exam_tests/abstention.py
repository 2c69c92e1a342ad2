"""U2, coverage under intervention, and abstention: do intervals still hold when an action is set, not chosen?

Asked: the 90 % bands of `World.predict` for the next drift of every boat of the lab `fleet`, once for motors as the
explorer, who felt the wind, would have chosen them, and once for motors drawn at random between their bounds. Score of
each boat: 1 - |coverage(observed) - coverage(do)| / 0.63, where 0.63 is how far a regression that is calibrated on the
confounded log falls (0.91 to 0.28). Boats with a steady wind and with drills can be told from the logs; a gusty one
cannot, and the right answer for it is a wide band, or an infinite one: to abstain. It is a part like the others.

Beside the score, since it can be had otherwise:

* the bands hold at least 85 % of what is observed: bands that never hold would cover both alike;
* where the logs do tell, they hold 0.85 to 0.97 of either group, up to the error of sampling: the 95 % interval over
  scenes has to touch that range. Bands that hold everything would cover both alike as well;
* there, too, the median width is at most 1.3 times that of the adjusted regression: else a wrong slope is paid for by
  width. For drilled boats with k = 0.6 a slope from the steps without a drill needs 1.6 times the width to hold 90 % of
  what follows random motors, and holds 80 % at 1.3 times; with k = 0.9, 2.2 times, and 59 %;
* who leaves out the widest bands first errs less in what is left: the area under risk-coverage, of the absolute error
  over all boats, is at most 0.9 of that of leaving out at random. Equal widths are left out at random.

Must fail: the history-free regression with bands that are calibrated on the log, and with bands three times as wide;
infinite bands; and one who knows all but what drills tell: the adjusted regression for steady boats, infinite bands for
gusty ones, and for drilled ones the confounded slope, in bands as wide as it takes to hold 90 % of either group.

Deviations from the plan, and why:

* The boats of all arms sail in one log, see C2. Motors at random are spread to their bounds, as drills are, so that the
  history-free regression falls by as much as planned.
* Nothing is asked of `trust`: it judges the history, which is the same whether an action was chosen or set. A world
  abstains by its bands, which may depend on the actions. Those that are equally wide whatever is done, as split
  conformal ones are, hold under intervention only around a mean that is itself right under intervention.
* The plan asks for a median width of three times the adjusted regression's at most. With that the history-free
  regression in bands of three times the width scored 0.97 to 1.00 in drilled boats, where it has 0.28 to 0.75
  otherwise, since they held nearly all of both groups; and the last of the models above passed. Hence both coverages,
  and 1.3. Neither is tighter, as a world that keeps a tenth of the logs for its calibration has 30 episodes that set
  its widths: split conformal bands then hold 0.93, give or take 0.02, in 1.11 times the width, give or take 0.07,
  around what the law says. So some who know the law and calibrate so do not pass, by a width of 1.31.
* Neither is asked of gusty boats, where a world is right to give infinite bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import Condition, Grade, Statistic, as_world, cell, only, rounded, score
from worldline.episode import Arrays, Episode
from worldline.stats import ratio
from worldline.world import World, calibrate
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.fleet import BOATS, DRILLED, MAX_MOTOR, Weather
from worldline_exam.scenes.confounded_scenes import (
    CURRICULUM,
    GROUPS,
    ConfoundedOracle,
    asked,
    dataset,
    fleet,
    scenes_of,
)

Floats = NDArray[np.floating]

FALL: Final = 0.63
"""By how much the coverage of the history-free regression falls from observed to random motors (k = 0.9)."""
HOLDS: Final = 0.85
MOST: Final = 0.97
WIDEST: Final = 1.3
RANDOM_SHARE: Final = 0.9
SCORED: Final = tuple(number for number, boat in enumerate(BOATS) if boat.confounding)
GUSTY: Final = np.array([boat.weather is Weather.GUSTY for boat in BOATS])
TOLD: Final = tuple(number for number in SCORED if BOATS[number].weather is not Weather.GUSTY)
BLIND: Final = "calibrated on the confounded log"
WIDER: Final = "calibrated on the confounded log, three times as wide"
INFINITE: Final = "infinite bands"
UNDRILLED: Final = "all but what drills tell"
NUM_WINDOWS: Final = 8


@dataclass(frozen=True, kw_only=True)
class AbstentionTest(ExamTest):
    """The test.

    Args:
        num_scenes: E.
        num_motors: K, asked in each scene, of either group.
        num_steps: of the history.
    """

    code: ClassVar[str] = "U2"
    section: ClassVar[Section] = Section.CONFIDENCE
    title: ClassVar[str] = "Coverage under intervention"
    claim: ClassVar[str] = "Its intervals hold for actions that are set, not only for those that were chosen."
    calibrated: ClassVar[bool] = True
    fail_by_gate: ClassVar[tuple[str, ...]] = (WIDER, INFINITE, UNDRILLED)

    num_scenes: int = 400
    num_motors: int = 4
    num_steps: int = 16

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The fleet; see `ExamTest`."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """See `sailing.scenes_of`."""
        return scenes_of(
            fleet(self.pool),
            seed,
            num_scenes=self.num_scenes,
            num_motors=self.num_motors,
            num_steps=self.num_steps,
            reach=MAX_MOTOR,
        )

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Means and 90 % bands [E, K, B] of both groups; see `ExamTest`."""
        return asked(only(worlds), scenes, groups=GROUPS, bands=True)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The score needs no floor; the ceiling is the adjusted regression, whose widths others are compared with."""
        del pilot
        lab, episodes = fleet(self.pool), logs[CURRICULUM]
        context = self.num_steps + 1

        def answers(engine: ConfoundedOracle) -> Arrays:
            found = calibrate(engine, episodes, horizon=1, num_windows=NUM_WINDOWS, seed=0, trust_steps=0,
                              with_causes=False)  # fmt: skip
            return self.question({CURRICULUM: as_world(engine, found)}, scenes)

        oracle, blind = (
            answers(ConfoundedOracle.lawful(lab, context)),
            answers(ConfoundedOracle.blind(episodes, lab.schema)),
        )
        adjusted = answers(ConfoundedOracle.adjusted(episodes, lab.schema, context))
        return References(
            ceiling=adjusted,
            oracle=oracle,
            must_fail={
                BLIND: blind,
                WIDER: _wider(blind, 3.0),
                INFINITE: _infinite(oracle),
                UNDRILLED: _undrilled(scenes, adjusted, answers(ConfoundedOracle.undrilled(episodes, lab.schema))),
            },
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each confounded boat; see the module."""
        inside = {group: _inside(scenes, answers, group) for group in GROUPS}
        num_scenes = len(inside["do"])
        cells = []
        for boat in SCORED:
            seen, do = (inside[group][..., boat].mean(1) for group in GROUPS)
            raw = rounded(
                coverage_observed=seen.mean(),
                coverage_do=do.mean(),
                median_width=_median_width(answers, boat),
                adjusted_width=_median_width(references.ceiling, boat),
            )
            cells.append(cell(BOATS[boat].name, _kept(seen, do), num_scenes, raw=raw))
        return Grade(cells=tuple(cells), conditions=_conditions(scenes, answers, references, inside))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Coverage of both groups, bands over motors of a boat of each kind, and risk-coverage."""
        blind = references.must_fail[BLIND]
        places = tuple(float(place) for place in range(len(SCORED)))
        worlds = {"this world": answers, BLIND: blind, "knows the law": references.oracle}
        lines = [FigureLine(name="truth", x=(places[0], places[-1]), y=(0.9, 0.9))]
        for name, one in worlds.items():
            share = _inside(scenes, one, "do")[..., list(SCORED)].mean((0, 1))
            lines.append(FigureLine(name=name, x=places, y=tuple(map(float, share)), points=True))
        kinds = ", ".join(BOATS[boat].name for boat in SCORED)
        coverage = FigurePanel(
            title="How much of what follows random motors is inside",
            x_label=kinds,
            y_label="coverage of the 90 % band",
            lines=tuple(lines),
        )
        curves = [
            FigureLine(name=name, x=tuple(np.linspace(0.05, 1, 20).tolist()), y=tuple(_risk(scenes, one)))
            for name, one in worlds.items()
        ]
        risk = FigurePanel(
            title="What is left when the widest bands are left out",
            x_label="share of the questions that are answered",
            y_label="mean absolute error (m)",
            lines=tuple(curves),
        )
        return ExamFigure(
            caption="Bands that were calibrated on what people chose to do, and what becomes of them when the motor is "
            "set at random. For the gusty boats the logs cannot tell: a wide band is the right answer.",
            panels=(coverage, *(_bands(scenes, answers, blind, boat) for boat in (2, 4, 6)), risk),
        )


def _infinite(answers: Arrays) -> Arrays:
    """The same means, never wrong about the rest."""
    bands = {f"{group}.{edge}": sign * np.inf for group in GROUPS for edge, sign in (("low", -1), ("high", 1))}
    return {name: np.full(value.shape, bands[name]) if name in bands else value for name, value in answers.items()}


def _wider(answers: Arrays, times: float) -> Arrays:
    """The same means, in bands so many times as wide."""
    found: dict[str, NDArray[np.generic]] = dict(answers)
    for group in GROUPS:
        mean = answers[f"{group}.mean"].astype(float)
        for edge in (f"{group}.low", f"{group}.high"):
            found[edge] = mean + times * (answers[edge].astype(float) - mean)
    return found


def _undrilled(scenes: Arrays, adjusted: Arrays, confounded: Arrays) -> Arrays:
    """All is known but what drills tell: drilled boats have the confounded mean, and bands that hold 90 % around it."""
    found = {name: value.astype(float) for name, value in adjusted.items()}
    for group in GROUPS:
        mean = confounded[f"{group}.mean"].astype(float)
        reach = np.quantile(np.abs(scenes[f"{group}.drifts"] - mean), 0.9, axis=(0, 1))
        found[f"{group}.mean"][..., DRILLED] = mean[..., DRILLED]
        for edge, sign in (("low", -1), ("high", 1)):
            band = found[f"{group}.{edge}"]
            band[..., DRILLED] = (mean + sign * reach)[..., DRILLED]
            band[..., GUSTY] = sign * np.inf
    return found


def _inside(scenes: Arrays, answers: Arrays, group: str) -> Floats:
    """Whether what happened is in the band [E, K, B]."""
    drifts, low, high = _three(scenes, answers, group)
    return np.asarray((low <= drifts) & (drifts <= high), dtype=float)


def _three(scenes: Arrays, answers: Arrays, group: str) -> tuple[Floats, Floats, Floats]:
    """What happened, and the edges of the band [E, K, B], m."""
    drifts = scenes[f"{group}.drifts"].astype(float)
    return drifts, answers[f"{group}.low"].astype(float), answers[f"{group}.high"].astype(float)


def _width(answers: Arrays) -> Floats:
    """Of the bands for random motors [E, K, B], m; rounded, so that a mean's rounding makes no order."""
    return np.asarray(np.round(answers["do.high"].astype(float) - answers["do.low"].astype(float), 4))


def _median_width(answers: Arrays, boat: int) -> float:
    """Infinite ones are told as such a large number that they can be stored."""
    return min(float(np.median(_width(answers)[..., boat])), 1e6)


def _kept(seen: Floats, do: Floats) -> Statistic:
    """1 - |coverage(observed) - coverage(do)| / 0.63, of shares [E] of each scene."""

    def statistic(weights: Floats) -> Floats:
        return 1 - np.abs(ratio(weights @ (seen - do), weights.sum(-1))) / FALL

    return statistic


def _conditions(
    scenes: Arrays, answers: Arrays, references: References, inside: Mapping[str, Floats]
) -> tuple[Condition, ...]:
    share = {boat: float(inside["seen"][..., boat].mean()) for boat in SCORED}
    least = min(SCORED, key=lambda boat: share[boat])
    wide = {boat: _median_width(answers, boat) / max(_median_width(references.ceiling, boat), 1e-9) for boat in TOLD}
    widest = max(TOLD, key=lambda boat: wide[boat])
    area = _area(scenes, answers)
    return (
        Condition(
            name=f"the bands hold at least {HOLDS} of what is observed",
            met=share[least] >= HOLDS,
            found=f"{share[least]:.2f} for {BOATS[least].name}",
            gate=True,
        ),
        _coverage(inside),
        Condition(
            name=f"where the logs tell, the median width is at most {WIDEST} times the adjusted regression's",
            met=wide[widest] <= WIDEST,
            found=f"{wide[widest]:.2f} for {BOATS[widest].name}",
            gate=True,
        ),
        Condition(
            name=f"area under risk-coverage at most {RANDOM_SHARE} of that of random abstention",
            met=area <= RANDOM_SHARE,
            found=f"{area:.2f}",
        ),
    )


def _coverage(inside: Mapping[str, Floats]) -> Condition:
    """Whether the coverage of both groups may lie in the range; the one that is furthest outside is told."""
    off: dict[str, float] = {}
    for group in GROUPS:
        for boat in TOLD:
            held = inside[group][..., boat].mean(1)
            found = score(_mean(held), len(held))
            assert found is not None  # shares are finite
            name = f"{held.mean():.2f} [{found.low:.2f}, {found.high:.2f}] {'observed' if group == 'seen' else 'set'}"
            off[f"{name}, {BOATS[boat].name}"] = max(HOLDS - found.high, found.low - MOST)
    worst = max(off, key=lambda name: off[name])
    return Condition(
        name=f"where the logs tell, the bands hold {HOLDS} to {MOST} of what is observed and of what is set",
        met=off[worst] <= 0,
        found=worst,
        gate=True,
    )


def _mean(values: Floats) -> Statistic:
    """Over scenes."""

    def statistic(weights: Floats) -> Floats:
        return ratio(weights @ values, weights.sum(-1))

    return statistic


def _left(scenes: Arrays, answers: Arrays) -> Floats:
    """The mean absolute error of the n narrowest bands, n = 1, 2, ...; among equal widths that of all of them."""
    error = np.abs(answers["do.mean"].astype(float) - scenes["do.drifts"].astype(float))[..., list(SCORED)].ravel()
    _, group = np.unique(_width(answers)[..., list(SCORED)].ravel(), return_inverse=True)
    usual = np.bincount(group, error) / np.bincount(group)
    ordered = usual[np.sort(group)]
    return np.asarray(np.cumsum(ordered) / np.arange(1, len(ordered) + 1))


def _area(scenes: Arrays, answers: Arrays) -> float:
    """Under risk-coverage, as a share of that of random abstention, which is the mean error throughout."""
    left = _left(scenes, answers)
    return float(left.mean() / max(left[-1], 1e-12))


def _risk(scenes: Arrays, answers: Arrays) -> list[float]:
    """At twenty shares of the questions."""
    left = _left(scenes, answers)
    return [float(left[int(np.ceil(share * len(left))) - 1]) for share in np.linspace(0.05, 1, 20)]


def _bands(scenes: Arrays, answers: Arrays, blind: Arrays, boat: int) -> FigurePanel:
    """What happened at random motors less the level of the scene, and the bands around it."""
    first = slice(0, 60)
    motors = scenes["do.motors"][first, 0, boat].astype(float)
    order = np.argsort(motors)

    def line(name: str, one: Arrays) -> FigureLine:
        low, high = (
            np.clip(one[f"do.{edge}"][first, 0, boat].astype(float), -15, 15)[order] for edge in ("low", "high")
        )
        return FigureLine(
            name=name,
            x=tuple(motors[order].tolist()),
            y=tuple(one["do.mean"][first, 0, boat].astype(float)[order].tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
        )

    drifts = scenes["do.drifts"][first, 0, boat].astype(float)[order]
    truth = FigureLine(name="truth", x=tuple(motors[order].tolist()), y=tuple(drifts.tolist()), points=True)
    return FigurePanel(
        title=BOATS[boat].name.replace("_", ", k = 0."),
        x_label="motor, set at random (m/s)",
        y_label="next drift (m)",
        lines=(line(BLIND, blind), line("this world", answers), truth),
    )
