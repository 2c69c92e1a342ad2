"""T2, motion under occlusion.

Question: does a world predict where a moving object is while the object cannot be observed?

Scenes: a puck on a tray is pushed, slowed and reflected by walls. A lid covers the tray for 5, 10, 20 or 40 frames
(exam/src/worldline_exam/labs/hidden_mover.py). The history holds every frame and push. Frames under the lid are marked
as unobserved (pictures show the lid). A world predicts the position of the puck in the first frame after the lid. The
history ends one frame before. The lid was up for at least ten frames, so the velocity can be inferred; it is no signal.

Score, a cell for each length: position skill, 1 - squared error / that of the floor. Scenes in which the puck lies
still without pushes form a gated cell. There a world must not be worse than frozen by more than a twentieth of the
variance.

Pass condition, for each length: the slope of predicted on true progress since the puck was last observed is in [0.8,
1.2] (frozen 0, oracle 1).

Must fail: frozen at the last observed position; a model that knows the law but forgets observations after 24 frames and
then predicts the mean of the logs.

Deviations from the specification:

* The floor is the best trivial model at each length, chosen on the pilot. After 40 frames the mean of all positions is
  as good as the last observed one, and would score above 0 without knowledge.
* All histories have the same number of frames, so their length does not reveal the gap.
* Moving pucks have at least 0.5 m/s when the lid comes down. Slower ones would be still scenes at 5 frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.audit import (
    Cell,
    Condition,
    Floats,
    Grade,
    bank,
    best_of,
    history_of,
    means,
    only,
    packed_history,
    rounded,
    skill_cell,
)
from worldline.engines import (
    Card,
    EngineBelief,
    Persistence,
    check_inputs,
    check_observations,
    own_belief,
    typical_values,
)
from worldline.episode import Arrays, Episode, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.hidden_mover import GAPS, OPEN, START_SPEED, HiddenMover
from worldline_exam.references.base import ReferenceEngine, each_version, flat, reference_card

SIGNAL: Final = "puck_position"
HISTORY: Final = max(GAPS) + OPEN[0]
"""Frames in the history, the last ones under the lid."""
MEMORY: Final = 24
"""Memory of the must-fail model, frames."""
SLOPE_RANGE: Final = (0.8, 1.2)
MIN_SPEED: Final = 0.5
"""Smallest speed of a moving puck when the lid comes down, m/s."""
CURRICULUM: Final = "hidden-mover"


@final
@dataclass(frozen=True, kw_only=True)
class OcclusionTest(ExamTest):
    """Test of motion under occlusion; the module docstring specifies it.

    Args:
        num_scenes: number of scenes of each length, and of still scenes; at least 10.
        num_episodes: number of logged episodes.
        num_steps: length of each, steps.
    """

    code: ClassVar[str] = "T2"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "It goes on while unseen"
    claim: ClassVar[str] = "It predicts the motion of an object while the object is hidden."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 100
    num_episodes: int = 300
    num_steps: int = 100

    def make_lab(self, *, pictures: bool = False) -> HiddenMover:
        """The lab of the pool."""
        if self.pool is Pool.DEVELOPMENT:
            return HiddenMover(pictures=pictures)
        return HiddenMover(0.5, bounce=0.7, mass=0.7, half_side=1.8, pictures=pictures)

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset with all lengths of the gap."""
        return (
            DatasetSpec(
                name=CURRICULUM,
                make_lab=partial(self.make_lab, pictures=self.pixels),
                asked=(SIGNAL,),
                num_episodes=self.num_episodes,
                num_steps=self.num_steps,
            ),
        )

    def generate(self, seed: int) -> Arrays:
        """Histories that end one frame before the lid is up again, the next push, and the complete path."""
        lab, rng = self.make_lab(), np.random.default_rng(seed)
        parts = [_paths(lab, rng, self.num_scenes, gap) for gap in GAPS] + [_still(lab, rng, self.num_scenes)]
        path, push = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        still = np.repeat([False] * len(GAPS) + [True], self.num_scenes)
        gap = np.concatenate([np.repeat(GAPS, self.num_scenes), np.resize(GAPS, self.num_scenes)])
        seen = np.arange(HISTORY)[None] < HISTORY - gap[:, None]
        shown = np.where(seen[..., None], path[:, :HISTORY], 0).astype(np.float32)
        history = History(observations={SIGNAL: shown}, actions={"push": push[:, :-1]}, observed={SIGNAL: seen})
        scenes = {"next.push": push[:, -1:], "truth.path": path, "gap": gap, "still": still}
        return {**packed_history(history), **scenes}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Positions [E, 2] after the lid."""
        predicted = means(only(worlds), history_of(scenes), {"push": scenes["next.push"]}, signals=(SIGNAL,))
        return {"position": predicted[SIGNAL][:, 0]}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The oracle, two models that must fail, and the best trivial model at each length as floor."""
        lab, episodes = self.make_lab(), logs[CURRICULUM]
        trivial = bank(episodes, lab.schema)
        mean = typical_values(episodes, [lab.schema[SIGNAL]])[SIGNAL].astype(float)
        on_pilot = {name: self.question({CURRICULUM: world}, pilot) for name, world in trivial.items()}
        best = {gap: _best(pilot, on_pilot, gap) for gap in GAPS}
        answers = {name: self.question({CURRICULUM: trivial[name]}, scenes) for name in {*best.values(), "persistence"}}
        floor = answers["persistence"]["position"].copy()
        for gap, name in best.items():
            rows = _moving(scenes, gap)
            floor[rows] = answers[name]["position"][rows]
        return References(
            floor={"position": floor},
            oracle=self.answers_of(OcclusionOracle(lab=lab), scenes),
            must_fail={
                "frozen": self.answers_of(Persistence.fit(episodes, lab.schema), scenes),
                f"memory of {MEMORY} frames": self.answers_of(OcclusionOracle(lab=lab, forgets=(MEMORY, mean)), scenes),
            },
            floor_name=", ".join(f"{name} at {gap}" for gap, name in best.items()),
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell and a slope condition for each length, and a gated cell."""
        path = scenes["truth.path"].astype(float)
        end, last = path[:, -1], _last_seen(scenes)
        inferred = answers["position"].astype(float)
        loss, floor = (((place - end) ** 2).sum(1) for place in (inferred, references.floor["position"].astype(float)))
        spread = ((end - end.mean(0)) ** 2).sum(1)
        cells, conditions = list[Cell](), list[Condition]()
        for gap in GAPS:
            rows = _moving(scenes, gap)
            cells.append(skill_cell(f"hidden {gap} frames", loss[rows], floor[rows], marginal=spread[rows]))
            truth, predicted = end[rows] - last[rows], inferred[rows] - last[rows]
            slope = rounded(slope=(truth * predicted).sum() / (truth**2).sum())["slope"]
            name = f"hidden {gap} frames: slope of predicted on true progress in [{SLOPE_RANGE[0]}, {SLOPE_RANGE[1]}]"
            conditions.append(Condition(name=name, met=SLOPE_RANGE[0] <= slope <= SLOPE_RANGE[1], found=f"{slope:.2f}"))
        rows = scenes["still"].astype(bool)
        cells.append(skill_cell("lying still", loss[rows], floor[rows], marginal=spread[rows]))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Predicted against true progress under the lid, at each length."""
        end, last = scenes["truth.path"][:, -1], _last_seen(scenes)
        ends: Arrays = {
            "truth": end,
            "frozen": references.must_fail["frozen"]["position"],
            "this world": answers["position"],
        }
        panels = []
        for gap in GAPS:
            rows = _moving(scenes, gap)
            moved = [(place[rows].astype(float) - last[rows]).ravel() for place in ends.values()]
            lines = (FigureLine.of(name, moved[0], shift, points=True) for name, shift in zip(ends, moved, strict=True))
            panels.append(FigurePanel.of(f"Hidden for {gap} frames", "true [m]", "predicted [m]", lines, equal=True))
        caption = (
            "Progress of each puck since it was last seen, along both axes. A good world lies on the diagonal of the "
            "truth, one that takes the puck to stay where it was on the level of frozen."
        )
        return ExamFigure(caption=caption, panels=tuple(panels))


@dataclass(frozen=True, kw_only=True, eq=False)
class FollowedMotion:
    """The belief of an `OcclusionOracle`.

    Args:
        position: [W, 2] m.
        velocity: [W, 2] m/s.
        num_seen: [W], number of frames with the puck observed, at most 2, which the velocity needs.
        since: [W], frames since the last observation.
    """

    position: Floats
    velocity: Floats
    num_seen: NDArray[np.integer]
    since: NDArray[np.integer]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OcclusionOracle(ReferenceEngine):
    """Knows the law of the lab, infers the velocity from two frames, and simulates hidden frames.

    Args:
        lab: lab with the law.
        forgets: frames after which it forgets observations, and the position [2] m that it predicts then; or None.
    """

    lab: HiddenMover
    forgets: tuple[int, Floats] | None = None

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card("occlusion oracle", self.lab.schema, (SIGNAL,), context=2)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> FollowedMotion:
        """Updates the state frame by frame."""
        del seed  # nothing is drawn
        num_worlds, length = check_observations(steps, [self.lab.schema[SIGNAL]])
        check_inputs(steps, self.lab.schema, length - 1 if belief is None else length)
        seen = steps.mask(SIGNAL)
        values, pushes = steps.observations[SIGNAL].astype(float), steps.actions["push"].astype(float)
        none, zeros = np.zeros(num_worlds, int), np.zeros((num_worlds, 2))
        puck = FollowedMotion(position=zeros, velocity=zeros, num_seen=none, since=none)
        if belief is None:
            pushes = np.concatenate([zeros[:, None], pushes], 1)
        else:
            puck = own_belief(belief, FollowedMotion)
        for frame in range(length):
            puck = self._update(puck, pushes[:, frame], values[:, frame], seen[:, frame])
        return puck

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The path under the law of the lab."""
        puck = own_belief(belief, FollowedMotion)
        state = {"puck_position": puck.position, "puck_velocity": puck.velocity, "since": puck.since}
        start = each_version(state, actions)
        path = self.lab.simulate(start, flat(actions))[SIGNAL].astype(float)
        if self.forgets is not None:
            after, says = self.forgets
            path = np.where((start["since"].astype(int) < after)[:, None, None], path, says)
        return {SIGNAL: path}

    def _update(self, puck: FollowedMotion, push: Floats, value: Floats, seen: Bool[np.ndarray, "W"]) -> FollowedMotion:
        """The belief one frame later; an unexpected position updates the velocity."""
        fade, reach, lift = self.lab.response
        position, velocity = self.lab.move(puck.position, puck.velocity, push)
        force = push / self.lab.mass
        # Wrong if the puck hit a wall in this step.
        inferred = fade * (value - puck.position - lift * force) / reach + reach * force
        fresh, first = seen & (puck.since == 0) & (puck.num_seen > 0), puck.num_seen == 0
        wrong = (np.abs(position - value) > 1e-4) | (puck.num_seen < 2)[:, None]
        velocity = np.where(fresh[:, None] & wrong, inferred, velocity)
        velocity = np.where(first[:, None], 0.0, velocity)
        position = np.where(seen[:, None], value, np.where(first[:, None], puck.position, position))
        num_seen = np.where(seen, np.minimum(puck.num_seen + 1, 2), puck.num_seen)
        return FollowedMotion(
            position=position, velocity=velocity, num_seen=num_seen, since=np.where(seen, 0, puck.since + 1)
        )


def _paths(
    lab: HiddenMover, rng: np.random.Generator, num_scenes: int, gap: int
) -> tuple[Float[np.ndarray, "E F 2"], Float[np.ndarray, "E T 2"]]:
    """Positions and pushes of pucks that move when the lid comes down for `gap` frames."""
    num_tried = 4 * num_scenes
    policy, push = lab.explorer(), np.zeros((num_tried, HISTORY, 2), np.float32)
    for scene in range(num_tried):
        policy.reset(rng)
        push[scene] = [policy.act(None, rng)["push"] for _ in range(HISTORY)]
    start = {
        "puck_position": rng.uniform(-lab.half_side, lab.half_side, (num_tried, 2)),
        "puck_velocity": START_SPEED * rng.standard_normal((num_tried, 2)),
    }
    path_of = lab.simulate(start, {"push": push})
    path = np.concatenate([start["puck_position"][:, None], path_of["puck_position"]], 1)
    speed = np.linalg.norm(path_of["puck_velocity"][:, HISTORY - gap - 2], axis=-1)  # in the last observed frame
    moving = np.flatnonzero(speed >= MIN_SPEED)[:num_scenes]
    return path[moving].astype(np.float32), push[moving]


def _still(
    lab: HiddenMover, rng: np.random.Generator, num_scenes: int
) -> tuple[Float[np.ndarray, "E F 2"], Float[np.ndarray, "E T 2"]]:
    """Positions and pushes of pucks that lie still without pushes."""
    place = rng.uniform(-lab.half_side, lab.half_side, (num_scenes, 1, 2)).astype(np.float32)
    return np.repeat(place, HISTORY + 1, 1), np.zeros((num_scenes, HISTORY, 2), np.float32)


def _best(scenes: Arrays, on_pilot: Mapping[str, Arrays], gap: int) -> str:
    rows = _moving(scenes, gap)
    truth = scenes["truth.path"][rows, -1]
    return best_of(on_pilot, lambda answers: ((answers["position"][rows] - truth) ** 2).sum(1))


def _moving(scenes: Arrays, gap: int) -> NDArray[np.bool_]:
    return np.asarray((scenes["gap"] == gap) & ~scenes["still"].astype(bool))


def _last_seen(scenes: Arrays) -> Floats:
    """The position in the last frame before the lid came down [E, 2]."""
    gap = scenes["gap"].astype(int)
    return np.asarray(scenes["truth.path"][np.arange(len(gap)), HISTORY - 1 - gap].astype(float))
