"""T1: how far ahead can a world be trusted, as far as anybody could be?

Three driven labs (pendulum, two bodies, elastic pucks), 300 rollouts of 100 steps each, the damping (0, 0.2 or 0.8 per
second) shown. An error is squared, over the variance of its component in the truth (its climatology, over scenes and
steps of the cell), and averaged over the components of all that moves: 1 is what the mean would do.

Nobody reads a state exactly. A twin begins with a read-out error, Gaussian with a deviation of 1 % of the spread of
each component over all scenes of the system, and follows the true law under the same pushes. The horizon h* of a cell
(a system and a damping) is the first step at which its root mean square error exceeds half the climatology, at most
100. Beyond that the law itself does not help.

A cell's score is the mean over the steps 1 to h* of (floor - loss) / floor, where the floor of each step is the member
of the trivial bank that was best at it on the pilot. Steps at which the floor is below 5 % of the climatology are left
out, as whole cells are elsewhere in the exam: the best trivial model is then as good as can be, and a condition asks
that a world is no worse than it there by 5 % of the climatology. Also told, not graded: h*, and the last step at which
the lower end of a world's own skill is above 0.

Must fail: persistence, constant velocity. Worlds learn from the logs of P2, whose episodes of 126 steps are long enough
for it: a world with bands answers for no more steps than it was calibrated for, so a sitter calibrates 100.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import GATE, Cell, Condition, Grade, as_world, bank, cell, packed, rounded, unpacked
from worldline.episode import Arrays, Episode
from worldline.stats import draw_clusters, ratio
from worldline_exam.base import References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.driven import DAMPINGS
from worldline_exam.scenes.driven import SYSTEMS, DrivenTest, Simulated, damped_by, present, rollouts

Floats = NDArray[np.floating]

READ_OUT_ERROR: Final = 0.01
"""Of each component's spread, as a deviation."""
LOST: Final = 0.5
"""Share of the climatology that the twin's error may reach."""
MUST_FAIL: Final = ("persistence", "constant velocity")


@final
@dataclass(frozen=True, kw_only=True)
class TrustedHorizonTest(DrivenTest):
    """The test.

    Args:
        num_steps: T.
    """

    code: ClassVar[str] = "T1"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "Trusted horizon"
    claim: ClassVar[str] = "What is predicted is of use for as long as the law itself lets anything be foretold."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 30, "num_steps": 40}

    num_steps: int = 100

    def generate(self, seed: int) -> Arrays:
        """See `rollouts`, by "system.*"; and "system.twin.*" [E, T, *shape], of the state read with an error."""
        scenes: dict[str, NDArray[np.generic]] = {}
        for number, system in enumerate(SYSTEMS):
            rng, lab = np.random.default_rng((seed, 100 + number)), self.lab(system)
            found = packed(system, rollouts(lab, self.num_scenes, self.num_steps, rng))
            truth, start = unpacked(found, f"{system}.truth"), present(found, system)
            for signal in lab.moving:
                error = READ_OUT_ERROR * truth[signal.name].std((0, 1)) * rng.standard_normal(start[signal.name].shape)
                start[signal.name] = (start[signal.name] + error).astype(np.float32)
            twin = lab.simulate(start, unpacked(found, f"{system}.future"))
            scenes |= {**found, **packed(f"{system}.twin", twin)}
        return scenes

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """See `ExamTest`; the floor is put together from members of the bank, by cell and step."""
        labs = {system: self.lab(system) for system in SYSTEMS}
        banks = {system: bank(logs[system], lab.schema) for system, lab in labs.items()}
        names = list(banks[SYSTEMS[0]])
        asked = {name: {system: banks[system][name] for system in SYSTEMS} for name in names}
        piloted = [self.question(worlds, pilot) for worlds in asked.values()]
        trivial = {name: self.question(worlds, scenes) for name, worlds in asked.items()}
        floor: dict[str, NDArray[np.generic]] = {name: np.zeros_like(v) for name, v in trivial[names[0]].items()}
        chosen: Counter[str] = Counter()
        for system, damping in _cells():
            losses = np.stack([self._error(pilot, one, system, damping).mean(0) for one in piloted])
            best = losses.argmin(0)
            chosen.update(names[one] for one in best)
            rows = np.flatnonzero(damped_by(scenes, system, damping))[:, None]
            for key in floor:
                if key.startswith(f"{system}."):
                    members = np.stack([trivial[name][key] for name in names])
                    floor[key][rows, np.arange(self.num_steps)] = members[best, rows, np.arange(self.num_steps)]
        oracle = {system: as_world(Simulated(lab=lab)) for system, lab in labs.items()}
        return References(
            floor=floor,
            oracle=self.question(oracle, scenes),
            must_fail={name: trivial[name] for name in MUST_FAIL},
            floor_name=", ".join(f"{name} ({count} steps)" for name, count in chosen.most_common()),
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """See `ExamTest`; the module says what the cells are."""
        return Grade(
            cells=tuple(self._cell(scenes, answers, references, system, damping) for system, damping in _cells()),
            conditions=(self._left_out(scenes, answers, references),),
        )

    def horizon(self, scenes: Arrays, system: str, damping: float) -> int:
        """h*: the first step, from 1, at which the twin is lost; T where it never is."""
        error = np.sqrt(self._error(scenes, _twin(scenes), system, damping).mean(0))
        lost = np.flatnonzero(error > LOST)
        return int(lost[0]) + 1 if len(lost) else self.num_steps

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Skill over the steps, of each system where nothing is damped and where little is."""
        panels = []
        for damping in DAMPINGS[:2]:
            for system in SYSTEMS:
                lines = [self._line("this world", scenes, answers, references, (system, damping))]
                lines += [
                    self._line(name, scenes, one, references, (system, damping))
                    for name, one in references.must_fail.items()
                ]
                last = float(self.horizon(scenes, system, damping))
                panels.append(
                    FigurePanel(
                        title=f"{system}, damping {damping:g} 1/s",
                        x_label="step",
                        y_label="skill",
                        lines=(*lines, FigureLine(name="h*", x=(last, last), y=(-1.0, 1.0))),
                    )
                )
        return ExamFigure(
            caption="1 is the truth, 0 the best trivial model of each step. After h* even the true law, begun with a "
            "read-out error of 1 %, is lost; what counts is the skill before it.",
            panels=tuple(panels),
        )

    def _left_out(self, scenes: Arrays, answers: Arrays, references: References) -> Condition:
        """Where the floor is too good to be scored against, a world may only not be worse."""
        found = []
        for system, damping in _cells():
            loss, floor = (self._error(scenes, one, system, damping).mean(0) for one in (answers, references.floor))
            gated = np.flatnonzero(floor[: self.horizon(scenes, system, damping)] <= GATE)
            place = f"{system}, damping {damping:g}, step"
            found += [(float(loss[step] - floor[step]), f"{place} {step + 1}") for step in gated]
        worst, where = max(found, key=lambda one: np.nan_to_num(one[0], nan=np.inf), default=(0.0, "none"))
        return Condition(
            name=f"at steps that are not scored the error is at most {GATE:g} of the climatology above the floor's",
            met=worst <= GATE,
            found=f"{rounded(worst=worst)['worst']:g} above in {where}",
        )

    def _cell(self, scenes: Arrays, answers: Arrays, references: References, system: str, damping: float) -> Cell:
        loss = self._error(scenes, answers, system, damping)
        floor = self._error(scenes, references.floor, system, damping)
        last = self.horizon(scenes, system, damping)
        scored = np.flatnonzero(floor[:, :last].mean(0) > GATE)
        raw = {
            **rounded(loss=loss[:, :last].mean(), floor=floor[:, :last].mean(), ceiling=0.0),
            **rounded(horizon=float(last), num_scored=float(len(scored))),
            **rounded(last_with_skill=float(_last_with_skill(loss, floor))),
        }
        name = f"{system}, damping {damping:g}"
        if not len(scored):
            return Cell(name=name, score=None, raw=raw, note="gated: the best trivial model is as good as can be")

        def statistic(weights: Floats) -> Floats:
            return np.asarray(_skills(loss, floor, weights)[:, scored].mean(-1))

        return cell(name, statistic, len(loss), raw=raw)

    def _error(self, scenes: Arrays, answers: Arrays, system: str, damping: float) -> Float[np.ndarray, "E T"]:
        """The squared error of a cell's scenes over the climatology, mean over components."""
        rows, lab, group = damped_by(scenes, system, damping), self.lab(system), f"{system}.truth"
        due = lab.join(unpacked(scenes, group))[rows]
        found = lab.join(unpacked(answers, system))[rows]
        return np.asarray(((found - due) ** 2 / due.var((0, 1))).mean(-1))

    def _line(
        self, name: str, scenes: Arrays, answers: Arrays, references: References, place: tuple[str, float]
    ) -> FigureLine:
        loss, floor = self._error(scenes, answers, *place), self._error(scenes, references.floor, *place)
        skill = np.maximum(_skills(loss, floor, np.ones((1, len(loss))))[0], -1.0)
        return FigureLine(name=name, x=tuple(map(float, range(1, len(skill) + 1))), y=tuple(skill.tolist()))


def _cells() -> Iterator[tuple[str, float]]:
    return ((system, damping) for system in SYSTEMS for damping in DAMPINGS)


def _twin(scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """The twins' paths as if they were answers."""
    return {key.replace(".twin.", "."): value for key, value in scenes.items() if ".twin." in key}


def _skills(loss: Floats, floor: Floats, weights: Floats) -> Floats:
    """The skill at each step [draws, T] where scenes count by `weights` [draws, E]."""
    return ratio(weights @ (floor - loss), weights @ floor)


def _last_with_skill(loss: Floats, floor: Floats) -> int:
    """The last step, from 1, at which the lower end of the skill is above 0; 0 where there is none."""
    low = np.quantile(_skills(loss, floor, draw_clusters(len(loss), 0)), 0.025, axis=0, method="inverted_cdf")
    able = np.flatnonzero(low > 0)
    return int(able[-1]) + 1 if len(able) else 0
