"""C1: does the world know what an action changes, for the thing that is acted on by way of another?

A pusher and a block (exam/src/worldline_exam/labs/pusher_block.py); 200 anchors, half of them in contact, 8 action sequences from each, 20
steps. For each part of the scene the differences between branches are compared with the true ones:

    1 - sum |dy' - dy|^2 / sum |dy|^2     over all pairs of branches, steps and scenes,

which is 0 for who thinks that actions change nothing, 1 for the lab, 0.75 for half the true effect, -3 for its
opposite. A common error of all branches is not held against a world. Two cells, one for each entity: the pusher's
place, and the places of the block's corners, which tell where it is and how it is turned in the same unit; the weakest
counts. A PASS needs the gain, sum <dy', dy> / sum |dy|^2, of each in [0.8, 1.2] as well. What a world says of the turn
by itself is printed beside the block's score; with a cell of its own, it was the hardest part for every model.

Must fail: a regression that does not see actions; the lab with a block that never moves (its pusher is right); the lab
that is told the actions of another scene.

Choices: half of the branches set out for the block, as the explorer does, since else few of them move it. The minimum
true effect holds for each scene: pusher and block must differ between the branches by at least 1 cm, root mean square,
or the anchor is drawn again. The floor is no effect at all, for every trivial model without actions alike.
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
    Grade,
    ShuffledActions,
    Statistic,
    as_world,
    cell,
    history_of,
    only,
    packed,
    packed_history,
    rounded,
    skill,
    unpacked,
)
from worldline.engines import ActionBlind, Engine
from worldline.episode import Arrays, Episode
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.pusher_block import STATE
from worldline_exam.scenes.pusher import (
    Beginnings,
    Pushing,
    beginnings,
    branch_answers,
    history_before,
    make_lab,
    motions,
    pushing_curriculum,
    towards,
    true_branches,
)

Floats = NDArray[np.floating]

PARTS: Final = ("pusher", "block")
GAIN: Final = (0.8, 1.2)
LEAST_EFFECT: Final = 0.01
"""Root mean square distance of a branch from the mean branch, m, of pusher and block in every scene."""
MIN_DRAWN: Final = 64
"""Candidates at a time: a few that are left to be found are not worth a batch each."""
_STREAM: Final = 101


@dataclass(frozen=True, kw_only=True)
class TwinEffectTest(ExamTest):
    """See the module.

    Args:
        num_scenes: anchors, an even number of at least 10.
        num_branches: of each, an even number.
        num_steps: of each branch.
    """

    code: ClassVar[str] = "C1"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Twin effect"
    claim: ClassVar[str] = "It knows what an action changes, also for a thing that is moved by way of another."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20, "num_branches": 2}

    num_scenes: int = 200
    num_branches: int = 8
    num_steps: int = 20

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One: the explorer's pushing."""
        return (pushing_curriculum(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Histories, actions and truth [E, B, T, 2], whether they touch at the anchor; see `ExamTest`."""
        rng = np.random.default_rng([_STREAM, seed])
        lab = make_lab(self.pool)
        kept: list[tuple[Beginnings, Floats]] = []
        for touching in (True, False):
            kept += self._drawn(touching, self.num_scenes // 2, rng)
        states = {name: np.concatenate([one.state[name] for one, _ in kept]) for name in STATE}
        velocity = np.concatenate([actions for _, actions in kept])
        histories = [packed_history(history_before(one)) for one, _ in kept]
        return {
            **{name: np.concatenate([one[name] for one in histories]) for name in histories[0]},
            "seed": np.concatenate([one.seed for one, _ in kept]),
            "prelude": np.concatenate([one.prelude for one, _ in kept]),
            "touching": np.concatenate([one.touching for one, _ in kept]),
            **packed("actions", {"velocity": velocity}),
            **packed("truth", true_branches(lab, states, velocity)),
        }

    def _drawn(self, touching: bool, due: int, rng: np.random.Generator) -> list[tuple[Beginnings, Floats]]:
        """`due` anchors of this kind, with their branches [E, B, T, 2], in batches."""
        lab, found = make_lab(self.pool), []
        while due:
            begun = beginnings(lab, max(8 * due, MIN_DRAWN), rng)
            begun = begun.some(np.flatnonzero(begun.touching == touching)[: 2 * due])
            velocity = self._branches(begun, rng)
            truth = true_branches(lab, begun.state, velocity)
            sizes = [np.sqrt((_apart(truth[f"{n}_position"]) ** 2).sum(-1).mean((1, 2))) for n in ("pusher", "block")]
            rows = np.flatnonzero(np.min(sizes, 0) >= LEAST_EFFECT)[:due]
            if len(rows):
                found.append((begun.some(rows), velocity[rows]))
                due -= len(rows)
        return found

    def _branches(self, begun: Beginnings, rng: np.random.Generator) -> Floats:
        num = len(begun.seed)
        half = self.num_branches // 2
        headings = [towards(begun.state, rng) for _ in range(half)]
        headings += [rng.uniform(-np.pi, np.pi, num) for _ in range(self.num_branches - half)]
        return np.stack([motions(heading, self.num_steps, rng) for heading in headings], 1)

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The signals [E, B, T, 2]; see `ExamTest`."""
        return branch_answers(only(worlds), history_of(scenes), scenes["actions.velocity"].astype(np.float32))

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The lab as a world, and three that must fail; see `ExamTest`."""
        del pilot  # the floor is no effect
        lab = make_lab(self.pool)
        episodes = next(iter(logs.values()))
        blind = ActionBlind.fit(episodes, lab.schema, context=CONTEXT)
        history, velocity = history_of(scenes), scenes["actions.velocity"].astype(np.float32)

        def asked(engine: Engine) -> Arrays:
            return branch_answers(as_world(engine), history, velocity)

        return References(
            oracle=asked(Pushing(lab=lab)),
            must_fail={
                "action-blind": asked(blind),
                "block never moves": asked(Pushing(lab=lab, still=("block_position", "block_angle"))),
                "shuffled action": asked(ShuffledActions(inner=Pushing(lab=lab))),
            },
            floor_name="no effect",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell and a gain for each part; see `ExamTest`."""
        del references  # floor and ceiling are no effect and the true one
        half = make_lab(self.pool).block_half
        truth, cells, conditions = unpacked(scenes, "truth"), [], []
        turn = effect_of(answers["block_angle"], truth["block_angle"])
        for part in PARTS:
            found = effect_of(place_of(part, answers, half), place_of(part, truth, half))
            cells.append(found.cell(part, **({"turn": turn.score} if part == "block" else {})))
            low, high = GAIN
            conditions.append(
                Condition(
                    name=f"gain of {part} in [{low}, {high}]",
                    met=low <= found.gain <= high,
                    found=f"{found.gain:.2f}",
                )
            )
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Twins from one anchor as maps, and the size of the effects; see `ExamTest`."""
        truth = unpacked(scenes, "truth")
        spread = (_apart(truth["block_position"]) ** 2).sum(-1).mean((1, 2))
        scene = int(np.argmax(spread * scenes["touching"]))
        start = {name: scenes[f"history.observations.{name}"][scene, -1] for name in STATE}
        blind = references.must_fail["block never moves"]
        maps = [
            FigurePanel(
                title=title, x_label="x [m]", y_label="y [m]", equal=True, lines=_paths(name, said, scene, start)
            )
            for title, name, said in (
                ("Truth: one anchor, its branches", "truth", truth),
                ("This world, the same branches", "this world", answers),
            )
        ]
        sides = {"truth": truth, "this world": answers, "block never moves": blind}
        sizes = [
            FigurePanel(
                title=f"How far branches are from each other: {part}",
                x_label="step",
                y_label="distance from their mean [m]",
                lines=tuple(_growth(name, said[f"{part}_position"]) for name, said in sides.items()),
            )
            for part in ("pusher", "block")
        ]
        caption = (
            "Coloured paths are the block's, thin ones the pusher's, under the same action sequences from one anchor. "
            "Who understands pushing draws the second map like the first."
        )
        return ExamFigure(caption=caption, panels=(*maps, *sizes))


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchSums:
    """Sums of each scene over pairs of branches and steps.

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
        """How much of the true effect is said, over all scenes; NaN where there is none."""
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
        """The score, with its raw figures and others."""
        raw = rounded(loss=self.error.mean(), floor=self.size.mean(), ceiling=0.0, gain=self.gain, **beside)
        return cell(name, self.statistic, len(self.size), raw=raw)


def place_of(part: str, signals: Arrays, half: float) -> Floats:
    """Where an entity is [E, B, T, n], m.

    Args:
        part: "pusher" or "block".
        signals: of the lab [E, B, T, 2].
        half: half the block's side, m. Squared distances are the mean ones of its four corners.
    """
    position = signals[f"{part}_position"].astype(np.float64)
    if part == "pusher":
        return position
    return np.concatenate([position, np.sqrt(2) * half * signals["block_angle"].astype(np.float64)], -1)


def effect_of(said: NDArray[np.generic], truth: NDArray[np.generic]) -> BranchSums:
    """The effect of B branches [E, B, T, n]: over all pairs, B times what is left without the mean of the branches."""
    count = truth.shape[1]
    ours, true = _apart(said), _apart(truth)
    axes = (1, 2, 3)
    return BranchSums(
        error=count * ((ours - true) ** 2).sum(axes),
        size=count * (true**2).sum(axes),
        along=count * (ours * true).sum(axes),
    )


def _apart(values: NDArray[np.generic]) -> Floats:
    """What each branch [E, B, T, n] has of its own."""
    wide = values.astype(np.float64)
    return np.asarray(wide - wide.mean(1, keepdims=True))


def _paths(name: str, said: Arrays, scene: int, start: Arrays) -> tuple[FigureLine, ...]:
    """Paths of the block under every branch, called `name`, and of the pusher."""
    lines = []
    for thing, label in (("pusher_position", "pusher"), ("block_position", name)):
        for branch in said[thing][scene].astype(float):
            path = np.concatenate([start[thing][None].astype(float), branch])
            lines.append(FigureLine(name=label, x=tuple(map(float, path[:, 0])), y=tuple(map(float, path[:, 1]))))
    return tuple(lines)


def _growth(name: str, values: NDArray[np.generic]) -> FigureLine:
    """Root mean square distance from the mean branch at each step."""
    size = np.sqrt((_apart(values) ** 2).sum(-1).mean((0, 1)))
    return FigureLine(name=name, x=tuple(float(step) for step in range(1, len(size) + 1)), y=tuple(map(float, size)))
