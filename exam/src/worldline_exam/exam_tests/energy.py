"""P2, work and energy.

Question: does the energy of predicted motion change by the work of the pushes and by the damping, at every step?

Scenes: three driven labs (pendulum, two bodies, elastic pucks), 300 rollouts of 40 steps each, with the damping (0, 0.2
or 0.8 per second) observed. A world predicts signals. The lab's own function computes their energy.

Score, a cell for each system and damping: 1 - MSE(dE', dE) / E[dE ** 2]. dE is the change of energy from the last
observation to each of the 40 steps, so every step counts and not only the last. Both changes begin at the same true
energy, so their error is that of the energy itself. The floor, 0, is constant energy.

Pass conditions: the predicted path is 0.8 to 1.25 times as long as the true one, in every cell. Constant energy could
otherwise be had by a path that stays.

Must fail: persistence; a model without damping, in cells with damping; and, beyond the specification, a model with
damping and without pushes. Without it the loss of energy alone might carry a score.

Deviations from the specification:

* 300 rollouts of each system instead of all together, since each cell has to hold by itself (100 scenes in a cell).
* No cell is gated: constant energy is never close to the ceiling.
* A trap holds the two bodies in addition to their softened attraction, so that pushes do not drive them away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import Cell, Condition, Grade, as_world, packed, skill_cell, unpacked
from worldline.engines import Persistence
from worldline.episode import Arrays, Episode
from worldline_exam.base import References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.driven import DAMPINGS, Driven
from worldline_exam.references.false_laws import undamped, unpushed
from worldline_exam.references.lab_oracle import LabOracle, Law
from worldline_exam.scenes.driven import SYSTEMS, DrivenTest, damped_by, present, rollouts

MIN_PATH_RATIO, MAX_PATH_RATIO = 0.8, 1.25
"""Range of the length of the predicted path over that of the true one."""


@final
@dataclass(frozen=True, kw_only=True)
class WorkAndEnergyTest(DrivenTest):
    """Test of work and energy; the module docstring specifies it.

    Args:
        num_steps: number T of predicted steps.
    """

    code: ClassVar[str] = "P2"
    section: ClassVar[Section] = Section.PHYSICS
    title: ClassVar[str] = "Work and energy"
    claim: ClassVar[str] = "It knows that energy changes only by the work of the pushes and by damping."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 30}

    num_steps: int = 40

    def generate(self, seed: int) -> Arrays:
        """`rollouts` by "system.*"."""
        scenes: dict[str, NDArray[np.generic]] = {}
        for number, system in enumerate(SYSTEMS):
            rng = np.random.default_rng((seed, number))
            scenes |= packed(system, rollouts(self.lab(system), self.num_scenes, self.num_steps, rng))
        return scenes

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The oracle and three models that must fail. The floor is constant energy."""
        del pilot
        labs = {system: self.lab(system) for system in SYSTEMS}

        def answers_of(law_of: Callable[[Driven], Law]) -> Arrays:
            engines = {name: LabOracle(schema=lab.schema, law=law_of(lab)) for name, lab in labs.items()}
            return self.question({name: as_world(engine) for name, engine in engines.items()}, scenes)

        still = {s: as_world(Persistence.fit(logs[s], lab.schema)) for s, lab in labs.items()}
        persistence = self.question(still, scenes)
        return References(
            floor=persistence,
            oracle=answers_of(lambda lab: lab.simulate),
            must_fail={
                "persistence": persistence,
                "no damping": answers_of(undamped),
                "no work": answers_of(unpushed),
            },
            floor_name="energy stays",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each system and damping, and a path condition for each system."""
        del references  # the floor follows from the scenes
        cells: list[Cell] = []
        conditions = []
        for system in SYSTEMS:
            lab = self.lab(system)
            true = energies(lab, scenes, unpacked(scenes, f"{system}.truth"), system)
            predicted = energies(lab, scenes, unpacked(answers, system), system)
            for damping in DAMPINGS:
                rows = damped_by(scenes, system, damping)
                loss = energy_error(predicted[rows, 1:], true[rows, 1:])
                floor = energy_error(np.repeat(true[rows, :1], self.num_steps, 1), true[rows, 1:])
                cells.append(skill_cell(f"{system}, damping {damping:g}", loss, floor))
            conditions.append(_path_condition(lab, scenes, answers, system))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Energy over time in one damped and one undamped scene of each system."""
        shown = {"truth": scenes, "this world": answers, "no damping": references.must_fail["no damping"]}
        panels = []
        for damping in (DAMPINGS[1], DAMPINGS[0]):
            for system in SYSTEMS:
                lines = (self._line(name, scenes, arrays, system, damping) for name, arrays in shown.items())
                title = f"{system}, damping {damping:g} 1/s"
                panels.append(FigurePanel.of(title, "time [s]", "energy [J]", lines))
        return ExamFigure(
            caption="Energy of one rollout in each chart: pushes raise and lower it, damping removes it. A model "
            "without damping stays too high, and equals the truth in undamped scenes.",
            panels=tuple(panels),
        )

    def _line(self, name: str, scenes: Arrays, arrays: Arrays, system: str, damping: float) -> FigureLine:
        lab, scene = self.lab(system), int(np.flatnonzero(damped_by(scenes, system, damping))[0])
        group = f"{system}.truth" if name == "truth" else system
        energy = energies(lab, scenes, unpacked(arrays, group), system)[scene]
        time = np.arange(len(energy)) * float(lab.schema.step_s or 1.0)
        return FigureLine.of(name, time, energy)


def energies(lab: Driven, scenes: Arrays, path: Arrays, system: str) -> Float[np.ndarray, "E steps"]:
    """Energy of the last observation, which is true, and of each step of the path after it, J.

    Args:
        lab: lab with the energy function.
        scenes: from `generate`.
        path: per moving signal [E, T, *shape].
        system: the lab's name.
    """
    return np.concatenate([lab.energy(present(scenes, system))[:, None], lab.energy(path)], 1)


def energy_error(predicted: Float[np.ndarray, "E T"], true: Float[np.ndarray, "E T"]) -> Float[np.ndarray, "E"]:
    """Mean squared error of the energy over the steps of each path, J^2, as for Hamiltonian networks."""
    return np.asarray(((predicted - true) ** 2).mean(1))


def _path_condition(lab: Driven, scenes: Arrays, answers: Arrays, system: str) -> Condition:
    """Condition on path lengths at each damping; `found` holds the worst."""
    lengths = []
    for path in (unpacked(answers, system), unpacked(scenes, f"{system}.truth")):
        start = lab.places(present(scenes, system))[:, None]
        places = np.concatenate([start, lab.places(path)], 1)
        lengths.append(np.linalg.norm(np.diff(places, axis=1), axis=-1).reshape(len(places), -1).sum(1))
    rows = {damping: damped_by(scenes, system, damping) for damping in DAMPINGS}
    shares = {damping: float(lengths[0][some].sum() / lengths[1][some].sum()) for damping, some in rows.items()}
    worst = max(shares, key=lambda damping: abs(np.log(max(shares[damping], 1e-9))))
    return Condition(
        name=f"{system}: predicted path {MIN_PATH_RATIO} to {MAX_PATH_RATIO} of the true one, at each damping",
        met=all(MIN_PATH_RATIO <= share <= MAX_PATH_RATIO for share in shares.values()),
        found=f"{shares[worst]:.3f} at damping {worst:g}",
    )
