"""C2, confounded log.

Question: does a world know the effect of the motor although the logging policy depended on an unlogged wind?

Scenes: the lab `fleet` (exam/src/worldline_exam/labs/fleet.py). The history is long enough to show a steady wind. A
world predicts the next drift of every boat for motors drawn at random. b_hat is the slope of the predicted drift in the
motor within scenes. b_obs is the slope of the scenes' own logged steps, in closed form MOTOR + WIND * k.

Score of each identifiable boat: 1 - |b_hat - b| / |b_obs - b|. These boats have a steady wind (identifiable from
history) or drills (identifiable from the flagged tenth), with k = 0.6 and 0.9. The true slope scores 1. The oracle has
the true slope. The declared ceiling is 0.98, the score of the adjusted regression on such a log. The oracle has to
reach 0.9 of it.

Pass condition: where nothing is confounded (k = 0, where the score is undefined), the slope is 0.8 to 1.2 of the true
one. Must fail: drift regressed on the motor without history.

Deviations from the specification:

* The boats of the three arms are in one log, so that one world is trained. In the arms where history must not reveal
  the wind, there is a new wind at each step. No memory of a world helps there.
* The third arm, gusty boats without drills, is reported as NOT IDENTIFIABLE and not scored. The logs do not determine
  the effect of its motor, and a slope cannot abstain. U2 grades whether a world's bands widen there.
* b_obs is measured in the scenes and resampled with them. On its finite log a history-free model finds a slope slightly
  to one side of the closed form. With the closed form it would score significantly above 0 in half of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from worldline.audit import UNKNOWABLE, Cell, Condition, Floats, Grade, Statistic, cell, only, rounded
from worldline.episode import Arrays, Episode
from worldline.stats import ratio
from worldline.world import World
from worldline_exam.base import References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.fleet import BOATS, Weather
from worldline_exam.scenes.confounded_scenes import CURRICULUM, ConfoundedOracle, FleetTest, drift_forecasts, fleet

MAX_RANDOM_MOTOR: Final = 2.0
"""Bound of random motors, m/s, about the range of the motors in the logs."""
SCORED: Final = tuple(
    number for number, boat in enumerate(BOATS) if boat.confounding and boat.weather is not Weather.GUSTY
)
SHOWN: Final = tuple(number for number, boat in enumerate(BOATS) if boat.confounding)
PLAIN: Final = next(number for number, boat in enumerate(BOATS) if not boat.confounding)
GAIN_RANGE: Final = (0.8, 1.2)
BLIND: Final = "history-free regression"
NOT_IDENTIFIABLE_REASON: Final = (
    "the wind is new at each step and nothing is randomised, so the logs do not show what the motor does"
)


@dataclass(frozen=True, kw_only=True)
class ConfoundedLogTest(FleetTest):
    """Test of confounded logs; the module docstring specifies it."""

    code: ClassVar[str] = "C2"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Confounded log"
    claim: ClassVar[str] = "It separates the effect of an action from the reason why the action was chosen."
    declared_ceiling: ClassVar[float] = 0.98
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 40, "num_motors": 2}

    reach = MAX_RANDOM_MOTOR

    def generate(self, seed: int) -> Arrays:
        """Scenes of `scenes_of`, and `law`: the effects of motor and wind, repeated [E, 2]."""
        lab = fleet(self.pool)
        return {**super().generate(seed), "law": np.tile([lab.motor_effect, lab.wind_effect], (self.num_scenes, 1))}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The mean `do.mean` [E, K, B] of the drifts, m."""
        return drift_forecasts(only(worlds), scenes, groups=("do",), bands=False)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The floor is b_obs, and the true slope scores 1. The adjusted regression is for the figure."""
        del pilot
        lab, episodes = fleet(self.pool), logs[CURRICULUM]
        context = self.num_steps + 1

        return References(
            ceiling=self.answers_of(ConfoundedOracle.adjusted(episodes, lab.schema, context), scenes),
            oracle=self.answers_of(ConfoundedOracle.lawful(lab, context), scenes),
            must_fail={BLIND: self.answers_of(ConfoundedOracle.blind(episodes, lab.schema), scenes)},
            floor_name="b_obs: the slope of the log",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each confounded boat, scored where the effect is identifiable."""
        del references
        true, by_wind = scenes["law"][0]
        cells = []
        for boat in SHOWN:
            predicted, logged = _slope_of(answers, scenes, boat), _logged_slope(scenes, boat)
            raw = rounded(
                b_hat=predicted(_unit_weights(scenes))[0],
                b_obs=logged(_unit_weights(scenes))[0],
                b_obs_closed_form=true + by_wind * BOATS[boat].confounding,
                b=true,
            )
            if boat not in SCORED:
                note = f"{UNKNOWABLE}: {NOT_IDENTIFIABLE_REASON}"
                cells.append(Cell(name=BOATS[boat].name, score=None, raw=raw, note=note))
                continue
            share = _recovered_share(predicted, logged, float(true))
            cells.append(cell(BOATS[boat].name, share, len(scenes["law"]), raw=raw))
        gain = float(_slope_of(answers, scenes, PLAIN)(_unit_weights(scenes))[0] / true)
        unconfounded = Condition(
            name=f"unconfounded boat: slope {GAIN_RANGE[0]} to {GAIN_RANGE[1]} of the true one",
            met=GAIN_RANGE[0] <= gain <= GAIN_RANGE[1],
            found=f"{gain:.2f}",
        )
        return Grade(cells=tuple(cells), conditions=(unconfounded,))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Each boat's slope: of the truth, this world, the log, and the adjusted regression."""
        panels = []
        for boat in SHOWN:
            motors, drifts = _within(scenes, answers, boat)
            shown = slice(0, 40)
            slopes = {
                "truth": float(scenes["law"][0, 0]),
                "slope of the log": float(_logged_slope(scenes, boat)(_unit_weights(scenes))[0]),
                "adjusted regression": float(_slope_of(references.ceiling, scenes, boat)(_unit_weights(scenes))[0]),
                "this world": float(_slope_of(answers, scenes, boat)(_unit_weights(scenes))[0]),
            }
            ends = np.array([-MAX_RANDOM_MOTOR, MAX_RANDOM_MOTOR])
            points = FigureLine.of("predictions", motors[shown].ravel(), drifts[shown].ravel(), points=True)
            lines = (points, *(FigureLine.of(name, ends, slope * ends) for name, slope in slopes.items()))
            x_label, y_label = (f"{what}, less its mean in the scene" for what in ("motor", "predicted drift"))
            panels.append(FigurePanel.of(_title(boat), f"{x_label} (m/s)", f"{y_label} (m)", lines))
        return ExamFigure(
            caption="Predicted effect of a motor that is set at random. The logging policy depended on the wind, so "
            "the slope of the log is biased. The effect is not identifiable for gusty boats.",
            panels=tuple(panels),
        )


def _title(boat: int) -> str:
    suffix = "" if boat in SCORED else ": not identifiable"
    return f"{BOATS[boat].name.replace('_', ', k = 0.')}{suffix}"


def _within(scenes: Arrays, answers: Arrays, boat: int) -> tuple[Floats, Floats]:
    """Motors and predicted drifts [E, K] of a boat, less their means in the scene, which removes wind and history."""
    both = scenes["do.motors"][..., boat].astype(float), answers["do.mean"][..., boat].astype(float)
    motors, drifts = (value - value.mean(1, keepdims=True) for value in both)
    return motors, drifts


def _slope_of(answers: Arrays, scenes: Arrays, boat: int) -> Statistic:
    """The slope b_hat of the predictions."""
    return _slope(*_within(scenes, answers, boat))


def _logged_slope(scenes: Arrays, boat: int) -> Statistic:
    """The slope b_obs of motors as the explorer chooses them, over scenes. All means are 0."""
    return _slope(*(scenes[f"seen.{name}"][..., boat].astype(float) for name in ("motors", "drifts")))


def _slope(motors: Floats, drifts: Floats) -> Statistic:
    parts = np.stack([(motors * drifts).sum(1), (motors**2).sum(1)], 1)

    def statistic(weights: Floats) -> Floats:
        return ratio(*np.moveaxis(weights @ parts, -1, 0))

    return statistic


def _recovered_share(predicted: Statistic, logged: Statistic, true: float) -> Statistic:
    """1 - |b_hat - b| / |b_obs - b|."""

    def statistic(weights: Floats) -> Floats:
        return 1 - ratio(np.abs(predicted(weights) - true), np.abs(logged(weights) - true))

    return statistic


def _unit_weights(scenes: Arrays) -> Floats:
    return np.ones((1, len(scenes["law"])))
