"""C2, confounded log: what does the motor do, where whoever logged leaned on a wind that nobody logged?

Asked: the next drift of every boat of the lab `fleet`, after a history long enough to show a steady wind, for motors
drawn at random. The slope of what is predicted in the motor, within scenes, is b_hat; that of the scenes' own logged
steps is b_obs, in closed form MOTOR + WIND * k. Score: 1 - |b_hat - b| / |b_obs - b| for each boat that can be told
from the logs: with a steady wind (from history), and with drills (from the flagged tenth), k = 0.6 and 0.9.

Beside the score: where nothing is confounded (k = 0, where the score is not defined) the slope is within a fifth of the
true one. Must fail: drift regressed on motor without a past. 1 is the true slope, which the oracle has. The declared
ceiling, of which it has to reach 0.9, is what the regression that is adjusted for what can be known reaches on such a
log: 0.98.

Deviations from the plan, and why:

* The boats of the three arms sail in one log, so that one world is trained. Where no history may tell the wind, there
  is a new wind at each step: then none can, however much a world remembers.
* The third arm, gusty boats without drills, is shown and not scored: NOT IDENTIFIABLE, for or against nobody. The logs
  do not tell what its motor does, and a slope cannot abstain; whether a world's bands widen there is graded in U2.
* b_obs is measured in the scenes and drawn again with them. With the closed form, a model without a past, which on its
  finite log finds a slope a little to one side of it, would score surely above 0 half of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import UNKNOWABLE, Cell, Condition, Grade, Statistic, as_world, cell, only, rounded
from worldline.episode import Arrays, Episode
from worldline.stats import ratio
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.fleet import BOATS, Weather
from worldline_exam.scenes.confounded_scenes import CURRICULUM, ConfoundedOracle, asked, dataset, fleet, scenes_of

Floats = NDArray[np.floating]

REACH: Final = 2.0
"""m/s: motors at random are spread up to here, which is where those in the logs are."""
SCORED: Final = tuple(
    number for number, boat in enumerate(BOATS) if boat.confounding and boat.weather is not Weather.GUSTY
)
SHOWN: Final = tuple(number for number, boat in enumerate(BOATS) if boat.confounding)
PLAIN: Final = next(number for number, boat in enumerate(BOATS) if not boat.confounding)
GAIN: Final = (0.8, 1.2)
BLIND: Final = "history-free regression"
WHY: Final = "the wind is new at each step and nobody drilled, so the logs do not tell what the motor does"


@dataclass(frozen=True, kw_only=True)
class ConfoundedLogTest(ExamTest):
    """The test.

    Args:
        num_scenes: E.
        num_motors: K, asked in each scene, at least 2.
        num_steps: of the history.
    """

    code: ClassVar[str] = "C2"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Confounded log"
    claim: ClassVar[str] = "It tells what an action does from why somebody took it."
    declared_ceiling: ClassVar[float] = 0.98
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 40, "num_motors": 2}

    num_scenes: int = 400
    num_motors: int = 4
    num_steps: int = 16

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The fleet; see `ExamTest`."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """The scenes of `sailing.scenes_of`, and the lab's `law`: effects of motor and wind, repeated [E, 2]."""
        lab = fleet(self.pool)
        scenes = scenes_of(
            lab,
            seed,
            num_scenes=self.num_scenes,
            num_motors=self.num_motors,
            num_steps=self.num_steps,
            reach=REACH,
        )
        return {**scenes, "law": np.tile([lab.motor_effect, lab.wind_effect], (self.num_scenes, 1))}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The mean `do.mean` [E, K, B] of the drifts; see `ExamTest`."""
        return asked(only(worlds), scenes, groups=("do",), bands=False)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The score has a floor of its own, b_obs, and the true slope is 1; the adjusted regression is shown beside."""
        del pilot
        lab, episodes = fleet(self.pool), logs[CURRICULUM]
        context = self.num_steps + 1

        def answers(engine: ConfoundedOracle) -> Arrays:
            return self.question({CURRICULUM: as_world(engine)}, scenes)

        return References(
            ceiling=answers(ConfoundedOracle.adjusted(episodes, lab.schema, context)),
            oracle=answers(ConfoundedOracle.lawful(lab, context)),
            must_fail={BLIND: answers(ConfoundedOracle.blind(episodes, lab.schema))},
            floor_name="b_obs: the slope of the log",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each confounded boat, scored where the logs tell about it; see the module."""
        del references
        true, by_wind = scenes["law"][0]
        cells = []
        for boat in SHOWN:
            found, logged = _slope_of(answers, scenes, boat), _logged_slope(scenes, boat)
            raw = rounded(
                b_hat=found(_once(scenes))[0],
                b_obs=logged(_once(scenes))[0],
                b_obs_closed_form=true + by_wind * BOATS[boat].confounding,
                b=true,
            )
            if boat not in SCORED:
                cells.append(Cell(name=BOATS[boat].name, score=None, raw=raw, note=f"{UNKNOWABLE}: {WHY}"))
                continue
            cells.append(cell(BOATS[boat].name, _share(found, logged, float(true)), len(scenes["law"]), raw=raw))
        gain = float(_slope_of(answers, scenes, PLAIN)(_once(scenes))[0] / true)
        plain = Condition(
            name=f"where nothing is confounded, the slope is {GAIN[0]} to {GAIN[1]} of the true one",
            met=GAIN[0] <= gain <= GAIN[1],
            found=f"{gain:.2f}",
        )
        return Grade(cells=tuple(cells), conditions=(plain,))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Each boat's effect line: the truth, this world's, the log's, and the adjusted regression's."""
        panels = []
        for boat in SHOWN:
            motors, drifts = _within(scenes, answers, boat)
            shown = slice(0, 40)
            slopes = {
                "truth": float(scenes["law"][0, 0]),
                "slope of the log": float(_logged_slope(scenes, boat)(_once(scenes))[0]),
                "adjusted regression": float(_slope_of(references.ceiling, scenes, boat)(_once(scenes))[0]),
                "this world": float(_slope_of(answers, scenes, boat)(_once(scenes))[0]),
            }
            ends = (-REACH, REACH)
            lines = [FigureLine(name=n, x=ends, y=(slope * ends[0], slope * ends[1])) for n, slope in slopes.items()]
            points = FigureLine(
                name="its answers",
                x=tuple(map(float, motors[shown].ravel())),
                y=tuple(map(float, drifts[shown].ravel())),
                points=True,
            )
            panels.append(
                FigurePanel(
                    title=_title(boat),
                    x_label="motor, less its mean in the scene (m/s)",
                    y_label="predicted drift, likewise (m)",
                    lines=(points, *lines),
                )
            )
        return ExamFigure(
            caption="What a motor that is set at random is said to do. Whoever logged felt the wind and leaned on it, "
            "so that in the log the motor seems to do something else. Of gusty boats nobody can know.",
            panels=tuple(panels),
        )


def _title(boat: int) -> str:
    told = "" if boat in SCORED else ": not identifiable"
    return f"{BOATS[boat].name.replace('_', ', k = 0.')}{told}"


def _within(scenes: Arrays, answers: Arrays, boat: int) -> tuple[Floats, Floats]:
    """Motors and predicted drifts [E, K] of a boat, less their means in the scene: wind and history fall out."""
    both = scenes["do.motors"][..., boat].astype(float), answers["do.mean"][..., boat].astype(float)
    motors, drifts = (value - value.mean(1, keepdims=True) for value in both)
    return motors, drifts


def _slope_of(answers: Arrays, scenes: Arrays, boat: int) -> Statistic:
    """b_hat."""
    motors, drifts = _within(scenes, answers, boat)
    parts = np.stack([(motors * drifts).sum(1), (motors**2).sum(1)], 1)

    def statistic(weights: Floats) -> Floats:
        return ratio(*np.moveaxis(weights @ parts, -1, 0))

    return statistic


def _logged_slope(scenes: Arrays, boat: int) -> Statistic:
    """b_obs: of motors as the explorer chooses them, over scenes. All means are 0."""
    motors, drifts = (scenes[f"seen.{name}"][..., boat].astype(float) for name in ("motors", "drifts"))
    parts = np.stack([(motors * drifts).sum(1), (motors**2).sum(1)], 1)

    def statistic(weights: Floats) -> Floats:
        return ratio(*np.moveaxis(weights @ parts, -1, 0))

    return statistic


def _share(found: Statistic, logged: Statistic, true: float) -> Statistic:
    """1 - |b_hat - b| / |b_obs - b|."""

    def statistic(weights: Floats) -> Floats:
        return 1 - ratio(np.abs(found(weights) - true), np.abs(logged(weights) - true))

    return statistic


def _once(scenes: Arrays) -> Floats:
    return np.ones((1, len(scenes["law"])))
