"""P2: pushed bodies in a medium that may slow them. How much energy do they have in the end, and on the way?

Three driven labs (pendulum, two bodies, elastic pucks), 300 rollouts of 40 steps each, the damping (0, 0.2 or 0.8 per
second) shown. A world predicts signals; their energy is worked out by the lab's own function, and never asked for.

A cell is a system and a damping: 1 - MSE(dE', dE) / E[dE ** 2], with dE the change of energy from the last observation
that was shown to each of the 40 steps, so that what is done at each step counts, not the end alone. Predicted and true
changes begin at the same, true energy, and the error of the change is that of the energy itself. The floor, 0, says
that energy stays. It could be had by a path that stays too, so the predicted path must be 0.8 to 1.25 times as long as
the true one, in every cell.

Must fail: persistence; whoever does not know damping, in the cells where there is some; and, beyond the specification,
whoever knows the damping and no push: without it, the loss of energy alone might carry a score.

Deviations: 300 rollouts of each system instead of all together, as each cell has to hold by itself (100 scenes in a
cell). No cell is gated: that energy stays is never nearly as good as can be. The two bodies are held by a trap beside
their own softened attraction, so that pushes do not drive them away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from worldline_exam.scenes.driven import SYSTEMS, DrivenTest, Simulated, damped_by, present, rollouts

SHORTEST, LONGEST = 0.8, 1.25
"""Of the predicted path, as a share of the true one."""


@final
@dataclass(frozen=True, kw_only=True)
class WorkAndEnergyTest(DrivenTest):
    """The test.

    Args:
        num_steps: T.
    """

    code: ClassVar[str] = "P2"
    section: ClassVar[Section] = Section.PHYSICS
    title: ClassVar[str] = "Work and energy"
    claim: ClassVar[str] = "Energy changes by the work that is done and by what the medium takes, and by nothing else."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 30}

    num_steps: int = 40

    def generate(self, seed: int) -> Arrays:
        """See `rollouts`, by "system.*"."""
        scenes: dict[str, NDArray[np.generic]] = {}
        for number, system in enumerate(SYSTEMS):
            rng = np.random.default_rng((seed, number))
            scenes |= packed(system, rollouts(self.lab(system), self.num_scenes, self.num_steps, rng))
        return scenes

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """See `ExamTest`; the floor is that energy stays, whatever is best on a pilot."""
        del pilot
        labs = {system: self.lab(system) for system in SYSTEMS}

        def asked(**knowledge: bool) -> Arrays:
            worlds = {system: as_world(Simulated(lab=lab, **knowledge)) for system, lab in labs.items()}
            return self.question(worlds, scenes)

        still = {s: as_world(Persistence.fit(logs[s], lab.schema)) for s, lab in labs.items()}
        persistence = self.question(still, scenes)
        return References(
            floor=persistence,
            oracle=asked(),
            must_fail={
                "persistence": persistence,
                "no damping": asked(heeds_damping=False),
                "no work": asked(heeds_pushes=False),
            },
            floor_name="energy stays",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """See `ExamTest`; the module says what the cells are."""
        del references  # the floor follows from the scenes
        cells: list[Cell] = []
        conditions = []
        for system in SYSTEMS:
            lab = self.lab(system)
            due = energies(lab, scenes, unpacked(scenes, f"{system}.truth"), system)
            found = energies(lab, scenes, unpacked(answers, system), system)
            for damping in DAMPINGS:
                rows = damped_by(scenes, system, damping)
                loss = energy_error(found[rows, 1:], due[rows, 1:])
                floor = energy_error(np.repeat(due[rows, :1], self.num_steps, 1), due[rows, 1:])
                cells.append(skill_cell(f"{system}, damping {damping:g}", loss, floor))
            conditions.append(_path_condition(lab, scenes, answers, system))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Energy over time in one scene of each system with little damping, and in one with none."""
        shown = {"truth": scenes, "this world": answers, "no damping": references.must_fail["no damping"]}
        panels = []
        for damping in (DAMPINGS[1], DAMPINGS[0]):
            for system in SYSTEMS:
                lines = tuple(self._line(name, scenes, arrays, system, damping) for name, arrays in shown.items())
                panels.append(
                    FigurePanel(
                        title=f"{system}, damping {damping:g} 1/s",
                        x_label="time [s]",
                        y_label="energy [J]",
                        lines=lines,
                    )
                )
        return ExamFigure(
            caption="Energy of one rollout in each chart: pushes raise and lower it, the medium takes it. Without "
            "knowledge of the damping it stays too high; undamped, that model is the truth.",
            panels=tuple(panels),
        )

    def _line(self, name: str, scenes: Arrays, arrays: Arrays, system: str, damping: float) -> FigureLine:
        lab, scene = self.lab(system), int(np.flatnonzero(damped_by(scenes, system, damping))[0])
        group = f"{system}.truth" if name == "truth" else system
        energy = energies(lab, scenes, unpacked(arrays, group), system)[scene]
        time = np.arange(len(energy)) * float(lab.schema.step_s or 1.0)
        return FigureLine(name=name, x=tuple(time.tolist()), y=tuple(energy.tolist()))


def energies(lab: Driven, scenes: Arrays, path: Arrays, system: str) -> Float[np.ndarray, "E steps"]:
    """Energy of the last observation that was shown, which is true, and of each step of a path after it, J.

    Args:
        lab: whose function it is.
        scenes: from `generate`.
        path: per moving signal [E, T, *shape].
        system: the lab's name.
    """
    return np.concatenate([lab.energy(present(scenes, system))[:, None], lab.energy(path)], 1)


def energy_error(predicted: Float[np.ndarray, "E T"], true: Float[np.ndarray, "E T"]) -> Float[np.ndarray, "E"]:
    """Mean squared error of the energy over the steps of each path, J^2; that of Hamiltonian networks too."""
    return np.asarray(((predicted - true) ** 2).mean(1))


def _path_condition(lab: Driven, scenes: Arrays, answers: Arrays, system: str) -> Condition:
    """Of each damping; the one that is furthest off is told."""
    lengths = []
    for path in (unpacked(answers, system), unpacked(scenes, f"{system}.truth")):
        start = lab.places(present(scenes, system))[:, None]
        places = np.concatenate([start, lab.places(path)], 1)
        lengths.append(np.linalg.norm(np.diff(places, axis=1), axis=-1).reshape(len(places), -1).sum(1))
    rows = {damping: damped_by(scenes, system, damping) for damping in DAMPINGS}
    shares = {damping: float(lengths[0][some].sum() / lengths[1][some].sum()) for damping, some in rows.items()}
    worst = max(shares, key=lambda damping: abs(np.log(max(shares[damping], 1e-9))))
    return Condition(
        name=f"{system}: predicted path {SHORTEST} to {LONGEST} of the true one, at each damping",
        met=all(SHORTEST <= share <= LONGEST for share in shares.values()),
        found=f"{shares[worst]:.3f} at damping {worst:g}",
    )
