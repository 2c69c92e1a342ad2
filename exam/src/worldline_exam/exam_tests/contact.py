"""P3, contact and constraint.

Question: does a world predict contacts that follow from earlier contacts, without penetration or lost objects?

Scenes: 300 rollouts of 30 steps of discs on a tilting table with a rim and a pen
(exam/src/worldline_exam/labs/containers.py). Each has at least three contacts, one of them between two discs.

Score: contacts are detected in predicted and true positions by the same rule (`contact_detection`). Only the second and
later contacts of every disc count, and they match within two frames:

    (F1 - F1 of the floor) / (1 - F1 of the floor) - rate of penetration - rate of wrong object counts

Both rates are shares of frames. Penetration means a disc deeper in something than the simulator's deepest of that
rollout by a tenth of a radius. A wrong count means a disc that is gone, or two that are one
(`contact_detection.miscounted`). The distances are those of the constraints `KeepApart`, `KeepClear`, `AtLeast` and
`AtMost`, so plans can be constrained by them. There are no further pass conditions.

Floor: every disc alone in the box, simulated. It knows rim and pen, and no other disc. Ceiling: all contacts.

Must fail: the floor itself, whose discs run through each other (0 less their penetration); discs that stay; discs that
go straight on; the outcome of another rollout, which has a right number of contacts at wrong places.

Deviation from the specification: the discs are of rubber and the rollouts have 30 steps with five contacts each. With
hard discs and 40 steps (nine contacts each) a learned world scored 0.03 in the pilot, too little to separate worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import (
    Floats,
    Grade,
    cell,
    history_of,
    means,
    only,
    packed,
    packed_history,
    rounded,
    unpacked,
)
from worldline.engines import ConstantVelocity, Persistence
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError
from worldline.stats import ratio
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.containers import WALL_HALF_WIDTH, Containers
from worldline_exam.references.lab_oracle import LabOracle, Law
from worldline_exam.scenes.contact_detection import SLACK, ContactScene, contacts, depth, gaps, miscounted, tally

HISTORY: Final = 4
"""Number of observations in the history."""
MIN_CONTACTS: Final = 3
MAX_DRAWS: Final = 20
"""Largest number of draws of `num_scenes` rollouts, of which those rich in contacts are kept."""


@dataclass(frozen=True, kw_only=True)
class ContactTest(ExamTest):
    """Test of contacts and constraints; the module docstring specifies it.

    Args:
        num_scenes: number E of rollouts.
        num_steps: length T of each rollout.
        num_episodes: number of logged episodes.
    """

    code: ClassVar[str] = "P3"
    section: ClassVar[Section] = Section.PHYSICS
    title: ClassVar[str] = "Contact and constraint"
    claim: ClassVar[str] = "It predicts how solid things bounce off each other, and the contacts that follow."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 300
    num_steps: int = 30
    num_episodes: int = 1000

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the tilting table."""
        name = f"containers-{self.pool}" + ("-pixels" if self.pixels else "")
        return (
            DatasetSpec(
                name=name,
                make_lab=partial(self._lab, pictures=self.pixels),
                asked=_positions(self._lab()),
                num_episodes=self.num_episodes,
                num_steps=60,
                horizon=self.num_steps,
            ),
        )

    def generate(self, seed: int) -> Arrays:
        """History, tilts and true positions of rollouts with enough contacts.

        Raises:
            InputError: too few drawn rollouts have enough contacts.
        """
        lab, rng = self._lab(), np.random.default_rng([3, seed])
        kept: list[dict[str, NDArray[np.generic]]] = []
        for _ in range(MAX_DRAWS):
            kept.append(self._draw_rich(lab, rng))
            if sum(len(part["tilt"]) for part in kept) >= self.num_scenes:
                break
        rollouts = {name: np.concatenate([part[name] for part in kept])[: self.num_scenes] for name in kept[0]}
        if len(rollouts["tilt"]) < self.num_scenes:
            raise InputError(
                f"only {len(rollouts['tilt'])} of {self.num_scenes} rollouts have enough contacts. Raise num_steps."
            )
        tilt = rollouts.pop("tilt")
        shown = {name: value[:, :HISTORY] for name, value in rollouts.items()}
        history = History(observations=shown, actions={"tilt": tilt[:, : HISTORY - 1]})
        truth = {name: rollouts[name][:, HISTORY:] for name in _positions(lab)}
        return {
            **packed_history(history),
            **packed("actions", {"tilt": tilt[:, HISTORY - 1 :]}),
            **packed("truth", truth),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Predicted positions [E, T, 2] of the discs, m."""
        signals = _positions(self._lab())
        return means(only(worlds), history_of(scenes), unpacked(scenes, "actions"), signals=signals)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The floor, the oracle and four models that must fail. The floor is fixed, so `pilot` is unused."""
        del pilot
        lab, (episodes,) = self._lab(), logs.values()

        def lawful(law: Law, name: str) -> Arrays:
            return self.answers_of(LabOracle(schema=lab.schema, law=law, name=name), scenes)

        alone = lawful(lambda start, actions: lab.simulate(start, actions, alone=True), "each disc alone")
        by_trivial = {
            "discs that stay": self.answers_of(Persistence.fit(episodes, lab.schema), scenes),
            "straight on": self.answers_of(ConstantVelocity.fit(episodes, lab.schema), scenes),
        }
        another = {name: np.roll(value, 1, axis=0) for name, value in unpacked(scenes, "truth").items()}
        return References(
            floor=alone,
            oracle=lawful(lab.simulate, "oracle"),
            must_fail={"each disc alone": alone, **by_trivial, "another rollout": another},
            floor_name="each disc alone",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """One cell: the F1 of later contacts, less both rates."""
        lab, table = self._lab(), self._table()
        num_scenes = len(scenes["actions.tilt"])
        truth = self._path(lab, scenes, unpacked(scenes, "truth"))
        path, floor = (self._path(lab, scenes, answer) for answer in (answers, references.floor))
        touched, predicted, by_floor = (_ahead(contacts(positions, table)) for positions in (truth, path, floor))
        mine, theirs = tally(touched, predicted, table), tally(touched, by_floor, table)
        own = depth(truth, table).max(1, keepdims=True)
        # Positions that are not finite penetrate nothing; `miscounted` counts them as gone.
        deep = (_finite(depth(path, table)) > own + SLACK * table.radius)[:, HISTORY:].mean(1)
        wrong = miscounted(path, table)[:, HISTORY:].mean(1)

        def statistic(weights: Floats) -> Floats:
            best = _f1(theirs.hits, theirs.missed, theirs.false, weights)
            gained = ratio(_f1(mine.hits, mine.missed, mine.false, weights) - best, 1 - best)
            return np.asarray(gained - weights @ (deep + wrong) / weights.sum(-1))

        ones = np.ones((1, num_scenes))
        raw = rounded(
            f1=_f1(mine.hits, mine.missed, mine.false, ones)[0],
            f1_floor=_f1(theirs.hits, theirs.missed, theirs.false, ones)[0],
            penetration=deep.mean(),
            wrong_counts=wrong.mean(),
            contacts_a_rollout=touched.sum() / num_scenes,
            later_contacts_a_rollout=(mine.hits + mine.missed).mean(),
        )
        for kind in ("rim", "pen", "discs"):
            of_kind = np.array([surface_kind == kind for surface_kind in table.kinds])
            part = tally(touched & of_kind, predicted & of_kind, table)
            raw |= rounded(**{f"f1_{kind}": _f1(part.hits, part.missed, part.false, ones)[0]})
        return Grade(cells=(cell("later contacts", statistic, num_scenes, raw=raw),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Gaps over time in the rollout with the most contacts of two discs, contacts marked."""
        lab, table = self._lab(), self._table()
        truth = self._path(lab, scenes, unpacked(scenes, "truth"))
        paths = {"each disc alone": self._path(lab, scenes, references.floor)}
        paths |= {"truth": truth, "this world": self._path(lab, scenes, answers)}
        pair = len(table.kinds) - 1
        scene = int(contacts(truth, table)[:, :, pair].sum(1).argmax())
        marks = {name: contacts(path[scene : scene + 1], table)[0] for name, path in paths.items()}
        sizes = {name: gaps(path[scene : scene + 1], table).gap[0] for name, path in paths.items()}
        lines = (line for name in paths for line in _gap_lines(name, sizes[name][:, pair], marks[name][:, pair]))
        panel = FigurePanel.of("Gap between two discs", "step", "gap [m]", lines)
        caption = (
            "Distance of two discs in one rollout; points mark contacts. A gap below 0 is a penetration. "
            "After a missed contact every later one comes at the wrong time."
        )
        return ExamFigure(caption=caption, panels=(panel,))

    def _lab(self, *, pictures: bool = False) -> Containers:
        if self.pool is Pool.REPORT:
            return Containers(pictures=pictures)
        return Containers(size=2.1, radius=0.28, pen=(1.2, 0.5), restitution=0.9, pictures=pictures)

    def _table(self) -> ContactScene:
        lab = self._lab()
        wall = ((lab.pen[0], 0.0), (lab.pen[0], lab.pen[1]))
        return ContactScene(
            size=lab.size, radius=lab.radius, wall=wall, half_width=WALL_HALF_WIDTH, num_discs=lab.num_discs
        )

    def _draw_rich(self, lab: Containers, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Observations [n, HISTORY + T, 2] and tilts [n, HISTORY - 1 + T, 2] of rollouts with enough contacts."""
        starts = [lab.draw_start(rng) for _ in range(self.num_scenes)]
        position, velocity = (np.stack(part) for part in zip(*starts, strict=True))
        tilt = _tilts(lab, rng, self.num_scenes, HISTORY - 1 + self.num_steps)
        first = lab.signals_of(position, velocity)
        path = lab.simulate(first, {"tilt": tilt})
        seen = {name: np.concatenate([first[name][:, None], path[name]], 1) for name in path}
        table = self._table()
        touched = _ahead(contacts(lab.state_of(seen)[0], table)).sum(1)
        pairs = np.array([kind == "discs" for kind in table.kinds])
        rich = (touched.sum(1) >= MIN_CONTACTS) & (touched[:, pairs].sum(1) >= 1)
        return {**{name: value[rich] for name, value in seen.items()}, "tilt": tilt[rich]}

    def _path(self, lab: Containers, scenes: Arrays, ahead: Arrays) -> Floats:
        """Positions [E, HISTORY + T, D, 2]: the history, then the prediction `ahead`."""
        shown = history_of(scenes).observations
        joined = [np.concatenate([shown[name], ahead[name]], 1).astype(float) for name in _positions(lab)]
        return np.stack(joined, 2)


def _positions(lab: Containers) -> tuple[str, ...]:
    return tuple(f"disc_{disc}_position" for disc in range(lab.num_discs))


def _tilts(lab: Containers, rng: np.random.Generator, num_scenes: int, num_steps: int) -> NDArray[np.float32]:
    """Actions [E, T, 2] of the explorer, which ignores the discs."""
    explorer, scenes = lab.explorer(), []
    for _ in range(num_scenes):
        explorer.reset(rng)
        scenes.append([explorer.act({}, rng)["tilt"] for _ in range(num_steps)])
    return np.asarray(scenes, dtype=np.float32)


def _ahead(touched: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The contacts after the history."""
    return np.where(np.arange(touched.shape[1])[None, :, None] >= HISTORY, touched, False)


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, 0.0)


def _f1(hits: Floats, missed: Floats, false: Floats, weights: Floats) -> Floats:
    """2 hits / (2 hits + missed + false), with scenes weighted by `weights` [draws, E]."""
    return ratio(2 * (weights @ hits), weights @ (2 * hits + missed + false))


def _gap_lines(name: str, gap: Floats, marks: NDArray[np.bool_]) -> tuple[FigureLine, ...]:
    """A gap [T], with its contacts as points."""
    steps = np.arange(len(gap)) - HISTORY + 1.0
    return FigureLine.of(name, steps, gap), FigureLine.of(name, steps[marks], gap[marks], points=True)
