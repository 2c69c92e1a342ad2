"""C5, influence and no leak.

Question: does a world know in which states an action influences an object, and are its predictions causal in time?

Scenes: 400 states of the lab of C1, each with two action sequences of 20 steps. A state is influenced if the lab's
block paths under the two sequences differ by more than 1 cm, root mean square over the steps. It is not influenced if
they differ by less than a tenth of that. A turn counts as the motion of a point 0.765 of half the side from the centre.

States come in couples: one influenced and one not, under *the same two action sequences* and at nearly the same gap
between pusher and block. In half of the couples both touch. So neither the size of an action nor the gap predicts the
label. Only whether the path leads into the block does. Couples are the clusters of the intervals.

Score: 2 * AUROC - 1 of the world's own effect on the block. The pusher is influenced in every state, so it has no
AUROC. Pooled with the block it would give 0.67 to a model that only knows that pushers move more than blocks.

Pass conditions: the effect score of C1, on these answers, is significantly above 0 for pusher and block (a gate). A
score that is significantly not above 0 is a FAIL without the gate.

Hard check, a bug if it fails: each first sequence is queried once more, changed from a step k >= 1 on. Predictions for
earlier steps must stay equal, to 1e-5 of the signal's largest value.

Must fail: equal sensitivity everywhere (the linear regression on the logs, whose effect of an action is the same in
every state); a regression without actions; nearness alone, which is not in the specification. It moves the block by the
difference of actions, more the nearer the block is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from worldline.audit import (
    CONTEXT,
    Condition,
    Floats,
    Grade,
    Statistic,
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
from worldline.engines import ActionBlind, Linear
from worldline.episode import Arrays, Episode
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.exam_tests.twin_effect import effect_of
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.pusher_block import STATE, STEP_S, PusherBlock
from worldline_exam.references.lab_oracle import oracle_of
from worldline_exam.scenes.pusher import (
    Beginnings,
    beginnings,
    block_distance,
    branch_answers,
    concatenated,
    history_before,
    make_lab,
    motions,
    pusher_dataset,
    true_branches,
)

MIN_EFFECT: Final = 0.01
"""Effect above which the block is influenced, m. Below a tenth of it, the block is not influenced."""
CANDIDATES: Final = 16
"""Number of states from which a couple is chosen."""
MAX_GAP: Final = 0.25
"""Largest gap of couples that do not touch, m."""
MAX_LEAK: Final = 1e-5
"""Largest change that counts as rounding, relative to the signal's largest value."""
DECAY_LENGTH: Final = 0.05
"""Length scale on which the influence of "nearness alone" decays, m."""
ENTITIES: Final = {"pusher": "pusher_position", "block": "block_position"}
_STREAM: Final = 105


@dataclass(frozen=True, kw_only=True)
class InfluenceTest(ExamTest):
    """Test of influence and leaks; the module docstring specifies it.

    Args:
        num_scenes: number of states, a multiple of 4, at least 20.
        num_steps: length of each sequence, at least 2.
    """

    code: ClassVar[str] = "C5"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Influence and no leak"
    claim: ClassVar[str] = "It knows when an action influences an object, and that no action changes the past."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 400
    num_steps: int = 20

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The dataset of C1."""
        return (pusher_dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Histories, three action sequences [E, T, 2] and truth, couple after couple."""
        rng = np.random.default_rng([_STREAM, seed])
        lab = make_lab(self.pool)
        parts = [self._draw_couples(touching, self.num_scenes // 4, rng) for touching in (True, False)]
        velocity = np.concatenate([actions for _, actions in parts])
        since = rng.integers(1, self.num_steps, len(velocity))
        late = np.arange(self.num_steps)[None, :, None] >= since[:, None, None]
        other = np.asarray(np.where(late, velocity[:, 1], velocity[:, 0]))
        truth = concatenated([true_branches(lab, beginning.state, actions) for beginning, actions in parts])
        begun = Beginnings.joined([beginning for beginning, _ in parts])
        return {
            **packed_history(history_before(begun)),
            "seed": begun.seed,
            "prelude": begun.prelude,
            "gap": begun.gap,
            "influenced": np.tile([True, False], len(velocity) // 2),
            "changed_since": since,
            **packed("actions", {"first": velocity[:, 0], "second": velocity[:, 1], "changed": other}),
            **packed("truth", truth),
        }

    def _draw_couples(self, touching: bool, num: int, rng: np.random.Generator) -> tuple[Beginnings, Floats]:
        """Alternately influenced and uninfluenced states [2 * num], and their two sequences [2 * num, 2, T, 2]."""
        lab = make_lab(self.pool)
        begun = _pool(lab, touching, num * CANDIDATES, rng)
        headings = rng.uniform(-np.pi, np.pi, (2, num))
        pairs = np.stack([motions(heading, self.num_steps, rng) for heading in headings], 1)
        actions = np.repeat(pairs, CANDIDATES, 0)
        truth = true_branches(lab, begun.state, actions)
        size = block_distance(lab, *_pair(truth)).reshape(num, CANDIDATES)
        gap = begun.gap.reshape(num, CANDIDATES)
        apart = np.abs(gap[:, :, None] - gap[:, None])
        fits = (size[:, :, None] > MIN_EFFECT) & (size[:, None] < MIN_EFFECT / 10)
        flat = np.where(fits, apart, np.inf).reshape(num, -1)
        best, paired = flat.argmin(1), np.flatnonzero(np.isfinite(flat.min(1)))
        influenced, uninfluenced = best // CANDIDATES, best % CANDIDATES
        rows = np.stack([influenced, uninfluenced], 1) + CANDIDATES * np.arange(num)[:, None]
        rows = rows[paired].reshape(-1)
        kept, sequences = begun.some(rows), actions[rows]
        if len(paired) == num:
            return kept, sequences
        more, others = self._draw_couples(touching, num - len(paired), rng)
        return Beginnings.joined([kept, more]), np.concatenate([sequences, others])

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Predictions under each of the three sequences, per signal [E, T, 2]."""
        groups = ("first", "second", "changed")
        velocity = np.stack([scenes[f"actions.{group}"].astype(np.float32) for group in groups], 1)
        predicted = branch_answers(only(worlds), history_of(scenes), velocity)
        return {f"{group}.{name}": value[:, at] for at, group in enumerate(groups) for name, value in predicted.items()}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The lab as oracle, and three models that must fail."""
        del pilot  # the floor is chance
        lab = make_lab(self.pool)
        episodes = next(iter(logs.values()))

        oracle = self.answers_of(oracle_of(lab), scenes)
        return References(
            oracle=oracle,
            must_fail={
                "equal sensitivity": self.answers_of(Linear.fit(episodes, lab.schema, context=CONTEXT), scenes),
                "action-blind": self.answers_of(ActionBlind.fit(episodes, lab.schema, context=CONTEXT), scenes),
                "nearness alone": _nearness(oracle, scenes),
            },
            floor_name="chance",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """One cell, the twin effects as conditions, and leaks as bugs."""
        del references  # chance and the truth are known
        size, influenced = self._sizes(answers), scenes["influenced"].astype(bool)
        raw = rounded(influenced=np.median(size[influenced]), not_influenced=np.median(size[~influenced]))
        num_couples = len(size) // 2
        return Grade(
            cells=(cell("block", _by_couples(auroc(size, influenced)), num_couples, raw=raw),),
            conditions=tuple(_twin_condition(part, name, scenes, answers) for part, name in ENTITIES.items()),
            bugs=leaks(scenes, answers),
        )

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Predicted against true effects."""
        del scenes  # unused
        size, truth = self._sizes(answers), self._sizes(references.oracle)
        diagonal = (0.0, truth.max())
        lines = (
            FigureLine.of("truth", diagonal, diagonal),
            FigureLine.of("this world", truth, size, points=True),
        )
        pairs = FigurePanel.of("Predicted against true effect", "true effect [m]", "predicted effect [m]", lines)
        caption = (
            "In each couple of states, the same two action sequences from the same distance move the block in one and "
            "miss it in the other. A good world separates the two."
        )
        return ExamFigure(caption=caption, panels=(pairs,))

    def _sizes(self, answers: Arrays) -> Floats:
        """The effect of the second sequence against the first on the block [E], m."""
        return block_distance(make_lab(self.pool), unpacked(answers, "first"), unpacked(answers, "second"))


def leaks(scenes: Arrays, answers: Arrays) -> tuple[str, ...]:
    """Predictions that changed before the changed action, one line for each signal; empty if there are none."""
    messages, since = [], scenes["changed_since"].astype(int)
    for name in STATE:
        first, changed = (answers[f"{group}.{name}"].astype(float) for group in ("first", "changed"))
        before = np.arange(first.shape[1])[None] < since[:, None]
        moved = np.where(before, np.abs(first - changed).max(-1), 0.0).max(1) / np.abs(first).max()
        # NaN counts as a leak, too; hence "not <=" instead of ">".
        wrong = ~(moved <= MAX_LEAK)
        if wrong.any():
            messages.append(
                f"a later action changes earlier predictions: {name} in {int(wrong.sum())} of {len(wrong)} "
                f"states, by up to {float(moved.max()):.1e} of its largest value"
            )
    return tuple(messages)


def _twin_condition(part: str, name: str, scenes: Arrays, answers: Arrays) -> Condition:
    """Condition: the effect score of C1 for the two sequences is significantly above 0."""
    predicted = np.stack([answers[f"{group}.{name}"] for group in ("first", "second")], 1)
    effect = effect_of(predicted, scenes[f"truth.{name}"])
    twin = score(_by_couples(effect.statistic), len(predicted) // 2)
    return Condition(
        name=f"twin effect of {part} (C1) significantly above 0 in these states",
        met=twin is not None and twin.low > 0,
        found="undefined" if twin is None else f"{twin.value:.2f} [{twin.low:.2f}, {twin.high:.2f}]",
        gate=True,
    )


def _by_couples(statistic: Statistic) -> Statistic:
    """Turns a statistic of states into one of couples, which are adjacent rows."""
    return lambda weights: statistic(np.repeat(weights, 2, axis=1))


def _pool(lab: PusherBlock, touching: bool, num: int, rng: np.random.Generator) -> Beginnings:
    """`num` states with pusher and block all touching, or all apart by less than the largest gap."""
    parts, remaining = [], num
    while remaining:
        begun = beginnings(lab, 2 * num, rng)
        fits = begun.touching if touching else ~begun.touching & (begun.gap < MAX_GAP)
        parts.append(begun.some(np.flatnonzero(fits)[:remaining]))
        remaining -= len(parts[-1].seed)
    return Beginnings.joined(parts)


def _pair(branches: Arrays) -> tuple[Arrays, Arrays]:
    """The first and the second of two branches [E, 2, T, n]."""
    return {n: v[:, 0] for n, v in branches.items()}, {n: v[:, 1] for n, v in branches.items()}


def _nearness(oracle: Arrays, scenes: Arrays) -> Arrays:
    """The true pusher, and a block that moves by the difference of actions, more the nearer it is."""
    first, second = (scenes[f"actions.{group}"].astype(float) for group in ("first", "second"))
    moved = np.cumsum(second - first, 1) * STEP_S
    share = np.exp(-np.maximum(scenes["gap"].astype(float), 0) / DECAY_LENGTH)[:, None, None]
    still = {n: np.repeat(scenes[f"history.observations.{n}"][:, -1:], moved.shape[1], 1) for n in STATE[1:]}
    block = {f"{group}.{name}": value for group in ("first", "second", "changed") for name, value in still.items()}
    block["second.block_position"] = still["block_position"].astype(float) + share * moved
    return {**oracle, **block}
