"""C5: does the world know when an action matters to a thing, and does nothing leak from the future into the past?

400 states of the lab of C1, each with two action sequences of 20 steps, labelled by whether the lab says that the block
ends up otherwise under the second than under the first: by more than 1 cm, root mean square over the steps (a turn
counts as the way of a point 0.765 of half the side from the middle), or by less than a tenth of that. Scored is
2 * AUROC - 1 of the world's own effect on the block. The pusher is influenced in every state, so it has no AUROC, and
to pool it with the block would give 0.67 to who knows only that pushers move more than blocks.

States come in couples: one where the block is influenced and one where it is not, under *the same two action
sequences* and, as nearly as can be found, at the same gap between pusher and block; in half of the couples both touch.
So neither the size of an action nor nearness tells the label; whether the way leads into the block does. Couples are
the clusters of the intervals.

Hard check, a bug where it fails: each first sequence is asked about once more, changed from a step k >= 1 on. What is
predicted for the steps before must stay equal, to 1e-5 of the signal's largest value.

Graded only where C1's low is above 0: a gate, of pusher and block, from these very answers. A score that is surely not
above 0 is a FAIL all the same.

Must fail: equal sensitivity everywhere, as the linear regression on the logs, whose effect of an action is the same in
every state; a regression that does not see actions; nearness alone (of our own making: the nearer the block, the more
it is said to be moved by a difference of actions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import (
    CONTEXT,
    Condition,
    Floats,
    Grade,
    Statistic,
    as_world,
    auroc,
    cell,
    history_of,
    only,
    packed,
    packed_history,
    rounded,
    score,
    unpacked,
)
from worldline.engines import ActionBlind, Engine, Linear
from worldline.episode import Arrays, Episode, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.exam_tests.twin_effect import effect_of
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.pusher_block import STATE, STEP_S, PusherBlock
from worldline_exam.scenes.pusher import (
    Beginnings,
    Pushing,
    beginnings,
    block_distance,
    branch_answers,
    history_before,
    make_lab,
    motions,
    pushing_curriculum,
    true_branches,
)

EPSILON: Final = 0.01
"""Effect above which the block is influenced, m; below a tenth of it, it is not."""
CANDIDATES: Final = 16
"""States that a couple is chosen from."""
FARTHEST: Final = 0.25
"""Gap of couples that do not touch at most, m."""
LEAK: Final = 1e-5
"""Of a signal's largest value: rounding."""
NEAR: Final = 0.05
"""Gap over which the influence of "nearness alone" fades, m."""
ENTITIES: Final = {"pusher": "pusher_position", "block": "block_position"}
NUM_BINS: Final = 20
_STREAM: Final = 105


@dataclass(frozen=True, kw_only=True)
class InfluenceTest(ExamTest):
    """See the module.

    Args:
        num_scenes: states, a multiple of 4, at least 20.
        num_steps: of each sequence, at least 2.
    """

    code: ClassVar[str] = "C5"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Influence and no leak"
    claim: ClassVar[str] = "It knows when an action matters to a thing, and that none changes what was before it."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 400
    num_steps: int = 20

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The one of C1."""
        return (pushing_curriculum(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Histories, three action sequences [E, T, 2] and truth, couple after couple; see `ExamTest`."""
        rng = np.random.default_rng([_STREAM, seed])
        lab = make_lab(self.pool)
        parts = [self._couples(touching, self.num_scenes // 4, rng) for touching in (True, False)]
        velocity = np.concatenate([actions for _, actions in parts])
        since = rng.integers(1, self.num_steps, len(velocity))
        late = np.arange(self.num_steps)[None, :, None] >= since[:, None, None]
        other = np.asarray(np.where(late, velocity[:, 1], velocity[:, 0]))
        truth = _in_order(
            [true_branches(lab, begun.state, actions) for begun, actions in parts],
        )
        histories = [packed_history(history_before(begun)) for begun, _ in parts]
        return {
            **_in_order(histories),
            "seed": np.concatenate([begun.seed for begun, _ in parts]),
            "prelude": np.concatenate([begun.prelude for begun, _ in parts]),
            "gap": np.concatenate([begun.gap for begun, _ in parts]),
            "influenced": np.tile([True, False], len(velocity) // 2),
            "changed_since": since,
            **packed("actions", {"first": velocity[:, 0], "second": velocity[:, 1], "changed": other}),
            **packed("truth", truth),
        }

    def _couples(self, touching: bool, due: int, rng: np.random.Generator) -> tuple[Beginnings, Floats]:
        """States [2 * due], influenced and not in turn, and the two sequences [2 * due, 2, T, 2] of each."""
        lab = make_lab(self.pool)
        begun = _pool(lab, touching, due * CANDIDATES, rng)
        headings = rng.uniform(-np.pi, np.pi, (2, due))
        pairs = np.stack([motions(heading, self.num_steps, rng) for heading in headings], 1)
        actions = np.repeat(pairs, CANDIDATES, 0)
        truth = true_branches(lab, begun.state, actions)
        size = block_distance(lab, *_pair(truth)).reshape(due, CANDIDATES)
        gap = begun.gap.reshape(due, CANDIDATES)
        apart = np.abs(gap[:, :, None] - gap[:, None])
        fits = (size[:, :, None] > EPSILON) & (size[:, None] < EPSILON / 10)
        flat = np.where(fits, apart, np.inf).reshape(due, -1)
        best, found = flat.argmin(1), np.flatnonzero(np.isfinite(flat.min(1)))
        ours, theirs = best // CANDIDATES, best % CANDIDATES
        rows = np.stack([np.arange(due) * CANDIDATES + ours, np.arange(due) * CANDIDATES + theirs], 1)[found].reshape(
            -1
        )
        kept, sequences = begun.some(rows), actions[rows]
        if len(found) == due:
            return kept, sequences
        more, others = self._couples(touching, due - len(found), rng)
        return _joined([kept, more]), np.concatenate([sequences, others])

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """What follows each of the three sequences, per signal [E, T, 2]; see `ExamTest`."""
        return _answers(only(worlds), history_of(scenes), scenes)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The lab as a world, and three that must fail; see `ExamTest`."""
        del pilot  # the floor is chance
        lab = make_lab(self.pool)
        episodes = next(iter(logs.values()))

        def asked(engine: Engine) -> Arrays:
            return _answers(as_world(engine), history_of(scenes), scenes)

        oracle = asked(Pushing(lab=lab))
        return References(
            oracle=oracle,
            must_fail={
                "equal sensitivity": asked(Linear.fit(episodes, lab.schema, context=CONTEXT)),
                "action-blind": asked(ActionBlind.fit(episodes, lab.schema, context=CONTEXT)),
                "nearness alone": _nearness(oracle, scenes),
            },
            floor_name="chance",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """One cell, the twin effect as condition, and leaks as bugs; see `ExamTest`."""
        del references  # chance and the truth are known
        size, influenced = self._sizes(answers), scenes["influenced"].astype(bool)
        raw = rounded(influenced=np.median(size[influenced]), not_influenced=np.median(size[~influenced]))
        num_couples = len(size) // 2
        return Grade(
            cells=(cell("block", _by_couples(auroc(size, influenced)), num_couples, raw=raw),),
            conditions=tuple(_graded(part, name, scenes, answers) for part, name in ENTITIES.items()),
            bugs=leaks(scenes, answers),
        )

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """How far influenced and other states are told apart; see `ExamTest`."""
        influenced = scenes["influenced"].astype(bool)
        sides = {
            "truth": self._sizes(references.oracle),
            "this world": self._sizes(answers),
            "equal sensitivity": self._sizes(references.must_fail["equal sensitivity"]),
        }
        size, truth = sides["this world"], sides["truth"]
        curves = FigurePanel(
            title="States told apart by the effect on the block",
            x_label="share of the others taken for influenced",
            y_label="share of the influenced found",
            lines=tuple(_curve(name, one, influenced) for name, one in sides.items()),
            equal=True,
        )
        edges = np.linspace(0.0, max(float(np.quantile(size, 0.98)), EPSILON), NUM_BINS + 1)
        counts = FigurePanel(
            title="The effect on the block that this world predicts",
            x_label="effect [m]",
            y_label="states",
            lines=(
                _counts("influenced", size[influenced], edges),
                _counts("not influenced", size[~influenced], edges),
            ),
        )
        pairs = FigurePanel(
            title="State by state",
            x_label="true effect [m]",
            y_label="predicted effect [m]",
            lines=(
                FigureLine(name="truth", x=(0.0, float(truth.max())), y=(0.0, float(truth.max()))),
                FigureLine(name="this world", x=tuple(map(float, truth)), y=tuple(map(float, size)), points=True),
            ),
        )
        caption = (
            "In each couple of states the same two action sequences, from the same distance, move the block in one and "
            "miss it in the other. A world that knows when it acts on the block sets the two apart."
        )
        return ExamFigure(caption=caption, panels=(curves, counts, pairs))

    def _sizes(self, answers: Arrays) -> Floats:
        """The effect of the second sequence against the first on the block [E], m."""
        return block_distance(make_lab(self.pool), unpacked(answers, "first"), unpacked(answers, "second"))


def leaks(scenes: Arrays, answers: Arrays) -> tuple[str, ...]:
    """What changed before the action that was changed, one line for each signal; empty where nothing did."""
    found, since = [], scenes["changed_since"].astype(int)
    for name in STATE:
        first, changed = (answers[f"{group}.{name}"].astype(float) for group in ("first", "changed"))
        before = np.arange(first.shape[1])[None] < since[:, None]
        moved = np.where(before, np.abs(first - changed).max(-1), 0.0).max(1) / np.abs(first).max()
        # Not a number is a leak as well: it is not equal.
        wrong = ~(moved <= LEAK)
        if wrong.any():
            found.append(
                f"a later action changes what is predicted before it: {name} in {int(wrong.sum())} of {len(wrong)} "
                f"states, by up to {float(moved.max()):.1e} of its largest value"
            )
    return tuple(found)


def _answers(world: World, history: History, scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """What a world says of the three sequences, as answers hold it."""
    groups = ("first", "second", "changed")
    velocity = np.stack([scenes[f"actions.{group}"].astype(np.float32) for group in groups], 1)
    said = branch_answers(world, history, velocity)
    return {f"{group}.{name}": value[:, at] for at, group in enumerate(groups) for name, value in said.items()}


def _graded(part: str, name: str, scenes: Arrays, answers: Arrays) -> Condition:
    """Whether the twin effect of C1, of the two sequences in these states, is above 0."""
    said = np.stack([answers[f"{group}.{name}"] for group in ("first", "second")], 1)
    found = effect_of(said, scenes[f"truth.{name}"])
    twin = score(_by_couples(found.statistic), len(said) // 2)
    return Condition(
        name=f"twin effect of {part} (C1) surely above 0 in these states",
        met=twin is not None and twin.low > 0,
        found="undefined" if twin is None else f"{twin.value:.2f} [{twin.low:.2f}, {twin.high:.2f}]",
        gate=True,
    )


def _by_couples(statistic: Statistic) -> Statistic:
    """A statistic of states as one of couples, which stand side by side."""
    return lambda weights: statistic(np.repeat(weights, 2, axis=1))


def _pool(lab: PusherBlock, touching: bool, num: int, rng: np.random.Generator) -> Beginnings:
    """`num` states, all touching or none, none too far."""
    parts, left = [], num
    while left:
        begun = beginnings(lab, 2 * num, rng)
        fits = begun.touching if touching else ~begun.touching & (begun.gap < FARTHEST)
        parts.append(begun.some(np.flatnonzero(fits)[:left]))
        left -= len(parts[-1].seed)
    return _joined(parts)


def _joined(parts: Sequence[Beginnings]) -> Beginnings:
    return Beginnings(
        seed=np.concatenate([one.seed for one in parts]),
        prelude=np.concatenate([one.prelude for one in parts]),
        path=_in_order([one.path for one in parts]),
        gap=np.concatenate([one.gap for one in parts]),
    )


def _in_order(parts: Sequence[Arrays]) -> dict[str, NDArray[np.generic]]:
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def _pair(branches: Arrays) -> tuple[Arrays, Arrays]:
    """The first and the second of two branches [E, 2, T, n]."""
    return {n: v[:, 0] for n, v in branches.items()}, {n: v[:, 1] for n, v in branches.items()}


def _nearness(oracle: Arrays, scenes: Arrays) -> Arrays:
    """The right pusher, and a block that moves by the difference of the actions, the more the nearer it is."""
    first, second = (scenes[f"actions.{group}"].astype(float) for group in ("first", "second"))
    moved = np.cumsum(second - first, 1) * STEP_S
    share = np.exp(-np.maximum(scenes["gap"].astype(float), 0) / NEAR)[:, None, None]
    still = {n: np.repeat(scenes[f"history.observations.{n}"][:, -1:], moved.shape[1], 1) for n in STATE[1:]}
    block = {f"{group}.{name}": value for group in ("first", "second", "changed") for name, value in still.items()}
    block["second.block_position"] = still["block_position"].astype(float) + share * moved
    return {**oracle, **block}


def _curve(name: str, size: Floats, influenced: NDArray[np.bool_]) -> FigureLine:
    """Share of influenced states above each threshold over that of the others."""
    thresholds = np.concatenate([[np.inf], np.unique(size)[::-1]])
    other, found = (tuple(float((size[rows] >= t).mean()) for t in thresholds) for rows in (~influenced, influenced))
    return FigureLine(name=name, x=other, y=found)


def _counts(name: str, size: Floats, edges: Floats) -> FigureLine:
    """How many states have about which effect; what is beyond counts in the last bin."""
    counts = np.histogram(np.minimum(size, edges[-1]), edges)[0]
    middles = (edges[1:] + edges[:-1]) / 2
    return FigureLine(name=name, x=tuple(map(float, middles)), y=tuple(map(float, counts)))
