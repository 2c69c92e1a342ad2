"""C1, twin effect.

Question: does a world know the effect of an action, also on an object that is moved through another one?

Scenes: a pusher and a block (exam/src/worldline_exam/labs/pusher_block.py). There are 200 anchor states, half of them
in contact, with 8 action sequences of 20 steps from each.

Score of each entity: differences between branches are compared with the true ones,

    1 - sum |dy' - dy|^2 / sum |dy|^2     over all pairs of branches, steps and scenes.

No effect scores 0, the truth 1, half the true effect 0.75, the opposite effect -3. An error that is common to all
branches does not count. There are two cells: the position of the pusher, and the positions of the block's corners,
which combine place and rotation in one unit. The weakest cell counts. The score of the rotation alone is a raw figure.
As a cell it was the hardest one for every model.

Pass conditions: the gain, sum <dy', dy> / sum |dy|^2, of each entity is in [0.8, 1.2].

Must fail: a regression without actions; the lab with a block that never moves (its pusher is right); the lab with the
actions of another scene.

Choices: half of the branches head for the block, like the explorer, since few of them move it otherwise. In each scene
pusher and block must differ between branches by at least 1 cm, root mean square. Otherwise the anchor is drawn again.
The floor is no effect at all, which is the same for every trivial model without actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import (
    CONTEXT,
    Cell,
    Condition,
    Floats,
    Grade,
    ShuffledActions,
    Statistic,
    cell,
    history_of,
    only,
    packed,
    packed_history,
    rounded,
    skill,
    unpacked,
)
from worldline.engines import ActionBlind
from worldline.episode import Arrays, Episode
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.pusher_block import STATE, PusherBlock
from worldline_exam.references.lab_oracle import LabOracle, Law, oracle_of
from worldline_exam.scenes.pusher import (
    Beginnings,
    beginnings,
    branch_answers,
    history_before,
    make_lab,
    motions,
    pusher_dataset,
    towards,
    true_branches,
)

PARTS: Final = ("pusher", "block")
GAIN_RANGE: Final = (0.8, 1.2)
MIN_EFFECT: Final = 0.01
"""Smallest root mean square distance of branches from their mean, m, for pusher and block in every scene."""
MIN_DRAWN: Final = 64
"""Smallest number of candidates in a batch, so that the last few anchors do not cost a batch each."""
_STREAM: Final = 101


@dataclass(frozen=True, kw_only=True)
class TwinEffectTest(ExamTest):
    """Test of twin effects; the module docstring specifies it.

    Args:
        num_scenes: number E of anchors, even and at least 10.
        num_branches: number B of branches of each anchor, even.
        num_steps: length T of each branch.
    """

    code: ClassVar[str] = "C1"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Twin effect"
    claim: ClassVar[str] = "It knows the effect of an action, also on an object that is moved through another one."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20, "num_branches": 2}

    num_scenes: int = 200
    num_branches: int = 8
    num_steps: int = 20

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the explorer's pushing."""
        return (pusher_dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Histories, actions and truth [E, B, T, 2], and whether pusher and block touch at the anchor."""
        rng = np.random.default_rng([_STREAM, seed])
        lab = make_lab(self.pool)
        kept: list[tuple[Beginnings, Floats]] = []
        for touching in (True, False):
            kept += self._draw_anchors(touching, self.num_scenes // 2, rng)
        begun = Beginnings.joined([beginning for beginning, _ in kept])
        velocity = np.concatenate([actions for _, actions in kept])
        return {
            **packed_history(history_before(begun)),
            "seed": begun.seed,
            "prelude": begun.prelude,
            "touching": begun.touching,
            **packed("actions", {"velocity": velocity}),
            **packed("truth", true_branches(lab, begun.state, velocity)),
        }

    def _draw_anchors(self, touching: bool, num: int, rng: np.random.Generator) -> list[tuple[Beginnings, Floats]]:
        """`num` anchors of this kind with their branches [E, B, T, 2], in batches."""
        lab, anchors = make_lab(self.pool), []
        while num:
            begun = beginnings(lab, max(8 * num, MIN_DRAWN), rng)
            begun = begun.some(np.flatnonzero(begun.touching == touching)[: 2 * num])
            velocity = self._branches(begun, rng)
            truth = true_branches(lab, begun.state, velocity)
            apart = [_deviations(truth[f"{part}_position"]) for part in PARTS]
            sizes = [np.sqrt((deviation**2).sum(-1).mean((1, 2))) for deviation in apart]
            rows = np.flatnonzero(np.min(sizes, 0) >= MIN_EFFECT)[:num]
            if len(rows):
                anchors.append((begun.some(rows), velocity[rows]))
                num -= len(rows)
        return anchors

    def _branches(self, begun: Beginnings, rng: np.random.Generator) -> Floats:
        num = len(begun.seed)
        half = self.num_branches // 2
        headings = [towards(begun.state, rng) for _ in range(half)]
        headings += [rng.uniform(-np.pi, np.pi, num) for _ in range(self.num_branches - half)]
        return np.stack([motions(heading, self.num_steps, rng) for heading in headings], 1)

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The predicted signals [E, B, T, 2]."""
        return branch_answers(only(worlds), history_of(scenes), scenes["actions.velocity"].astype(np.float32))

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The lab as oracle, and three models that must fail."""
        del pilot  # the floor is no effect
        lab = make_lab(self.pool)
        episodes = next(iter(logs.values()))
        oracle = oracle_of(lab)
        return References(
            oracle=self.answers_of(oracle, scenes),
            must_fail={
                "action-blind": self.answers_of(ActionBlind.fit(episodes, lab.schema, context=CONTEXT), scenes),
                "block never moves": self.answers_of(LabOracle(schema=lab.schema, law=_still_block(lab)), scenes),
                "shuffled action": self.answers_of(ShuffledActions(inner=oracle), scenes),
            },
            floor_name="no effect",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell and a gain condition for each entity."""
        del references  # floor and ceiling are no effect and the true one
        half = make_lab(self.pool).block_half
        truth, cells, conditions = unpacked(scenes, "truth"), [], []
        turn = effect_of(answers["block_angle"], truth["block_angle"])
        for part in PARTS:
            effect = effect_of(place_of(part, answers, half), place_of(part, truth, half))
            cells.append(effect.cell(part, **({"turn": turn.score} if part == "block" else {})))
            low, high = GAIN_RANGE
            name, met = f"gain of {part} in [{low}, {high}]", low <= effect.gain <= high
            conditions.append(Condition(name=name, met=met, found=f"{effect.gain:.2f}"))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Branches from one anchor as maps."""
        del references  # unused
        truth = unpacked(scenes, "truth")
        spread = (_deviations(truth["block_position"]) ** 2).sum(-1).mean((1, 2))
        scene = int(np.argmax(spread * scenes["touching"]))
        start = {name: scenes[f"history.observations.{name}"][scene, -1] for name in STATE}
        shown = (
            ("Truth: one anchor, its branches", "truth", truth),
            ("This world, the same branches", "this world", answers),
        )
        maps = tuple(
            FigurePanel.of(title, "x [m]", "y [m]", _paths(name, predicted, scene, start), equal=True)
            for title, name, predicted in shown
        )
        caption = (
            "Coloured paths are the block's, thin ones the pusher's, under the same action sequences from one anchor. "
            "The second map of a good world looks like the first."
        )
        return ExamFigure(caption=caption, panels=maps)


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchSums:
    """Sums over pairs of branches and steps, per scene.

    Args:
        error: [E], of |dy' - dy|^2.
        size: [E], of |dy|^2.
        along: [E], of <dy', dy>.
    """

    error: Float[np.ndarray, "E"]
    size: Float[np.ndarray, "E"]
    along: Float[np.ndarray, "E"]

    @property
    def gain(self) -> float:
        """Predicted share of the true effect over all scenes; NaN if there is no true effect."""
        return float(self.along.sum() / self.size.sum()) if self.size.any() else float("nan")

    @property
    def statistic(self) -> Statistic:
        """1 for the true effect, 0 for none."""
        return skill(self.error, self.size, np.zeros_like(self.size))

    @property
    def score(self) -> float:
        """The statistic over all scenes."""
        return float(self.statistic(np.ones((1, len(self.size))))[0])

    def cell(self, name: str, **beside: float) -> Cell:
        """The cell of the score, with its raw figures and those in `beside`."""
        raw = rounded(loss=self.error.mean(), floor=self.size.mean(), ceiling=0.0, gain=self.gain, **beside)
        return cell(name, self.statistic, len(self.size), raw=raw)


def place_of(part: str, signals: Arrays, half: float) -> Floats:
    """Coordinates [E, B, T, n] of an entity, m.

    Args:
        part: "pusher" or "block".
        signals: of the lab [E, B, T, 2].
        half: half the block's side, m. Squared distances are the means over its four corners.
    """
    position = signals[f"{part}_position"].astype(np.float64)
    if part == "pusher":
        return position
    return np.concatenate([position, np.sqrt(2) * half * signals["block_angle"].astype(np.float64)], -1)


def effect_of(predicted: NDArray[np.generic], truth: NDArray[np.generic]) -> BranchSums:
    """Effect sums of B branches [E, B, T, n]: the sum over pairs is B times that of deviations from the mean."""
    count = truth.shape[1]
    predicted_deviations, true = _deviations(predicted), _deviations(truth)
    axes = (1, 2, 3)
    return BranchSums(
        error=count * ((predicted_deviations - true) ** 2).sum(axes),
        size=count * (true**2).sum(axes),
        along=count * (predicted_deviations * true).sum(axes),
    )


def _deviations(values: NDArray[np.generic]) -> Floats:
    """Deviations of branches [E, B, T, n] from their mean."""
    wide = values.astype(np.float64)
    return np.asarray(wide - wide.mean(1, keepdims=True))


def _still_block(lab: PusherBlock) -> Law:
    """The law of the lab with a block that never moves."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        path = lab.simulate(start, actions)
        still = {name: np.broadcast_to(start[name][:, None], path[name].shape) for name in STATE[1:]}
        return {**path, **still}

    return law


def _paths(name: str, predicted: Arrays, scene: int, start: Arrays) -> tuple[FigureLine, ...]:
    """Paths of the block, labelled `name`, and of the pusher in every branch."""
    lines = []
    for thing, label in (("pusher_position", "pusher"), ("block_position", name)):
        for branch in predicted[thing][scene].astype(float):
            path = np.concatenate([start[thing][None].astype(float), branch])
            lines.append(FigureLine.of(label, *path.T))
    return tuple(lines)
