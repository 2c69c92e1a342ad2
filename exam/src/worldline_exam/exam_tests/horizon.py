"""T1, trusted horizon.

Question: up to which step are predictions better than trivial ones, compared with the limit that the law itself sets?

Scenes: three driven labs (pendulum, two bodies, elastic pucks), 300 rollouts of 100 steps each, with the damping (0,
0.2 or 0.8 per second) observed. The loss is the squared error of each component over its climatology, averaged over the
components of all moving signals. Climatology is the variance of the true component over scenes and steps of the cell.
Predicting the mean has loss 1.

Horizon: a twin begins with a read-out error and follows the true law under the same pushes. The error is Gaussian with
a deviation of 1 % of each component's spread over all scenes of the system. The horizon h* of a cell (a system and a
damping) is the first step at which the twin's root mean square error exceeds half the climatology, at most 100.

Score of each cell: the mean over the steps 1 to h* of (floor - loss) / floor. The floor of each step is the member of
the trivial bank that was best at that step on the pilot. Steps whose floor is below 5 % of the climatology are left
out, like gated cells elsewhere. Raw figures hold h* and the last step at which the lower end of the world's skill is
above 0.

Pass condition: at steps that are left out, the loss is at most 5 % of the climatology above the floor.

Must fail: persistence, constant velocity.

Worlds learn from the logs of P2, whose episodes have 126 steps. A calibrated world predicts at most as many steps as it
was calibrated for, so an exam subject calibrates 100 steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import GATE, Cell, Condition, Floats, Grade, as_world, bank, cell, packed, rounded, unpacked
from worldline.episode import Arrays, Episode
from worldline.stats import draw_clusters, ratio
from worldline_exam.base import References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.driven import DAMPINGS
from worldline_exam.references.lab_oracle import oracle_of
from worldline_exam.scenes.driven import SYSTEMS, DrivenTest, damped_by, present, rollouts

READOUT_ERROR: Final = 0.01
"""Standard deviation of the read-out error over each component's spread."""
MAX_TWIN_ERROR: Final = 0.5
"""Largest root mean square error of the twin, as a share of the climatology."""
MUST_FAIL: Final = ("persistence", "constant velocity")


@final
@dataclass(frozen=True, kw_only=True)
class TrustedHorizonTest(DrivenTest):
    """Test of the trusted horizon; the module docstring specifies it.

    Args:
        num_steps: number T of predicted steps.
    """

    code: ClassVar[str] = "T1"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "Trusted horizon"
    claim: ClassVar[str] = "Its predictions have skill for as long as the law itself allows."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 30, "num_steps": 40}

    num_steps: int = 100

    def generate(self, seed: int) -> Arrays:
        """`rollouts` by "system.*", and "system.twin.*" [E, T, *shape] from the state with a read-out error."""
        scenes: dict[str, NDArray[np.generic]] = {}
        for number, system in enumerate(SYSTEMS):
            rng, lab = np.random.default_rng((seed, 100 + number)), self.lab(system)
            packed_rollouts = packed(system, rollouts(lab, self.num_scenes, self.num_steps, rng))
            truth, start = unpacked(packed_rollouts, f"{system}.truth"), present(packed_rollouts, system)
            for signal in lab.moving:
                error = READOUT_ERROR * truth[signal.name].std((0, 1)) * rng.standard_normal(start[signal.name].shape)
                start[signal.name] = (start[signal.name] + error).astype(np.float32)
            twin = lab.simulate(start, unpacked(packed_rollouts, f"{system}.future"))
            scenes |= {**packed_rollouts, **packed(f"{system}.twin", twin)}
        return scenes

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The oracle, two models that must fail, and a floor chosen from the bank for each cell and step."""
        labs = {system: self.lab(system) for system in SYSTEMS}
        banks = {system: bank(logs[system], lab.schema) for system, lab in labs.items()}
        names = list(banks[SYSTEMS[0]])
        bank_worlds = {name: {system: banks[system][name] for system in SYSTEMS} for name in names}
        on_pilot = [self.question(worlds, pilot) for worlds in bank_worlds.values()]
        trivial = {name: self.question(worlds, scenes) for name, worlds in bank_worlds.items()}
        floor: dict[str, NDArray[np.generic]] = {name: np.zeros_like(v) for name, v in trivial[names[0]].items()}
        num_chosen: Counter[str] = Counter()
        for system, damping in _cells():
            losses = np.stack([self._error(pilot, predicted, system, damping).mean(0) for predicted in on_pilot])
            best = losses.argmin(0)
            num_chosen.update(names[index] for index in best)
            rows = np.flatnonzero(damped_by(scenes, system, damping))[:, None]
            for key in floor:
                if key.startswith(f"{system}."):
                    members = np.stack([trivial[name][key] for name in names])
                    floor[key][rows, np.arange(self.num_steps)] = members[best, rows, np.arange(self.num_steps)]
        oracle = {system: as_world(oracle_of(lab)) for system, lab in labs.items()}
        return References(
            floor=floor,
            oracle=self.question(oracle, scenes),
            must_fail={name: trivial[name] for name in MUST_FAIL},
            floor_name=", ".join(f"{name} ({count} steps)" for name, count in num_chosen.most_common()),
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each system and damping, and the condition on steps that are left out."""
        return Grade(
            cells=tuple(self._cell(scenes, answers, references, system, damping) for system, damping in _cells()),
            conditions=(self._unscored_steps(scenes, answers, references),),
        )

    def horizon(self, scenes: Arrays, system: str, damping: float) -> int:
        """h*: the first step, from 1, at which the twin exceeds the limit; T if it never does."""
        error = np.sqrt(self._error(scenes, _twin(scenes), system, damping).mean(0))
        beyond = np.flatnonzero(error > MAX_TWIN_ERROR)
        return int(beyond[0]) + 1 if len(beyond) else self.num_steps

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Skill over the steps of each system, undamped and with little damping."""
        panels = []
        for damping in DAMPINGS[:2]:
            for system in SYSTEMS:
                worlds = {"this world": answers, **references.must_fail}
                lines = [self._line(name, scenes, path, references, (system, damping)) for name, path in worlds.items()]
                last = self.horizon(scenes, system, damping)
                lines.append(FigureLine.of("h*", (last, last), (-1.0, 1.0)))
                panels.append(FigurePanel.of(f"{system}, damping {damping:g} 1/s", "step", "skill", lines))
        return ExamFigure(
            caption="1 is the truth, 0 the best trivial model of each step. After h* even the true law with a read-out "
            "error of 1 % exceeds half the climatology. Only the skill before h* counts.",
            panels=tuple(panels),
        )

    def _unscored_steps(self, scenes: Arrays, answers: Arrays, references: References) -> Condition:
        """Condition: at steps whose floor is too good to score against, the world is not worse."""
        excesses = []
        for system, damping in _cells():
            loss, floor = (self._error(scenes, path, system, damping).mean(0) for path in (answers, references.floor))
            gated = np.flatnonzero(floor[: self.horizon(scenes, system, damping)] <= GATE)
            place = f"{system}, damping {damping:g}, step"
            excesses += [(float(loss[step] - floor[step]), f"{place} {step + 1}") for step in gated]
        worst, where = max(excesses, key=lambda pair: np.nan_to_num(pair[0], nan=np.inf), default=(0.0, "none"))
        return Condition(
            name=f"unscored steps: error at most {GATE:g} of the climatology above that of the floor",
            met=worst <= GATE,
            found=f"{rounded(worst=worst)['worst']:g} above in {where}",
        )

    def _cell(self, scenes: Arrays, answers: Arrays, references: References, system: str, damping: float) -> Cell:
        loss = self._error(scenes, answers, system, damping)
        floor = self._error(scenes, references.floor, system, damping)
        last = self.horizon(scenes, system, damping)
        scored = np.flatnonzero(floor[:, :last].mean(0) > GATE)
        raw = rounded(
            loss=loss[:, :last].mean(),
            floor=floor[:, :last].mean(),
            ceiling=0.0,
            horizon=last,
            num_scored=len(scored),
            last_with_skill=_last_with_skill(loss, floor),
        )
        name = f"{system}, damping {damping:g}"
        if not len(scored):
            return Cell(name=name, score=None, raw=raw, note="gated: the best trivial model is close to the ceiling")

        def statistic(weights: Floats) -> Floats:
            return np.asarray(_skills(loss, floor, weights)[:, scored].mean(-1))

        return cell(name, statistic, len(loss), raw=raw)

    def _error(self, scenes: Arrays, answers: Arrays, system: str, damping: float) -> Float[np.ndarray, "E T"]:
        """Squared error of a cell's scenes over the climatology, averaged over components."""
        rows, lab, group = damped_by(scenes, system, damping), self.lab(system), f"{system}.truth"
        truth = lab.join(unpacked(scenes, group))[rows]
        predicted = lab.join(unpacked(answers, system))[rows]
        return np.asarray(((predicted - truth) ** 2 / truth.var((0, 1))).mean(-1))

    def _line(
        self, name: str, scenes: Arrays, answers: Arrays, references: References, place: tuple[str, float]
    ) -> FigureLine:
        loss, floor = self._error(scenes, answers, *place), self._error(scenes, references.floor, *place)
        skill = np.maximum(_skills(loss, floor, np.ones((1, len(loss))))[0], -1.0)
        return FigureLine.of(name, range(1, len(skill) + 1), skill)


def _cells() -> Iterator[tuple[str, float]]:
    return ((system, damping) for system in SYSTEMS for damping in DAMPINGS)


def _twin(scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """The twins' paths in the form of answers."""
    return {key.replace(".twin.", "."): value for key, value in scenes.items() if ".twin." in key}


def _skills(loss: Floats, floor: Floats, weights: Floats) -> Floats:
    """The skill at each step [draws, T] with scenes weighted by `weights` [draws, E]."""
    return ratio(weights @ (floor - loss), weights @ floor)


def _last_with_skill(loss: Floats, floor: Floats) -> int:
    """The last step, from 1, at which the lower end of the skill is above 0; 0 if there is none."""
    low = np.quantile(_skills(loss, floor, draw_clusters(len(loss), 0)), 0.025, axis=0, method="inverted_cdf")
    with_skill = np.flatnonzero(low > 0)
    return int(with_skill[-1]) + 1 if len(with_skill) else 0
