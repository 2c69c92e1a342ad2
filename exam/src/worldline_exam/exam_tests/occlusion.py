"""T2, it goes on while unseen: does a world follow what moves while nobody can see it?

A puck on a tray is pushed, slowed and thrown back by walls; a lid covers the tray for 5, 10, 20 or 40 frames
(exam/src/worldline_exam/labs/hidden_mover.py). The world is shown every frame, those under the lid as not observed (in pictures: the lid), with
the pushes that were given, and is asked where the puck is in the first frame after the lid: the context ends one frame
before it. The lid had been up for ten frames at least, so how fast the puck was can be told; it is no signal.

Score, for each length: position skill, 1 - squared error / that of the floor. A PASS also asks for the slope of
predicted on true progress since the puck was last seen, in [0.8, 1.2] at each length (frozen 0, oracle 1). Scenes in
which the puck lies still and is not pushed gate: there a world must not be worse than frozen by more than a twentieth
of the variance.

Must fail: frozen at the last seen position, and a world that knows the law but forgets what it saw 24 frames ago and
says the mean of the logs instead.

Deviations from the specification: the floor is the best of the trivial models at each length, chosen on the pilot,
since after 40 frames the mean of all positions is as good as where the puck was last seen, and would score above 0 for
knowing nothing. All histories have the same number of frames, so that their length does not tell the gap. Pucks that
move have at least 0.5 m/s when the lid comes down: slower ones would be still scenes at 5 frames.
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
    Grade,
    as_world,
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
    Engine,
    EngineBelief,
    Noise,
    Persistence,
    Samples,
    check_future,
    check_inputs,
    check_observations,
    own_belief,
    typical_values,
)
from worldline.episode import Arrays, Episode, Future, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.hidden_mover import GAPS, OPEN, START_SPEED, HiddenMover

Floats = NDArray[np.floating]

SIGNAL: Final = "puck_position"
HISTORY: Final = max(GAPS) + OPEN[0]
"""Frames that are shown, of which the last ones under the lid."""
SHORT: Final = 24
"""Frames that the world which must fail remembers."""
SLOPES: Final = (0.8, 1.2)
SLOWEST: Final = 0.5
"""m/s that the puck has at least when the lid comes down, unless it lies still."""
CURRICULUM: Final = "hidden-mover"


@final
@dataclass(frozen=True, kw_only=True)
class OcclusionTest(ExamTest):
    """The test.

    Args:
        num_scenes: of each length of the gap, and as many in which nothing moves; at least 10.
        num_episodes: that worlds learn from.
        num_steps: of each.
    """

    code: ClassVar[str] = "T2"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "It goes on while unseen"
    claim: ClassVar[str] = "What moves goes on moving while nobody sees it, and comes out where it should."
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
        """One: logs of all lengths of the gap."""
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
        """Histories that end one frame before the lid is up again, the next push, and the whole path."""
        lab, rng = self.make_lab(), np.random.default_rng(seed)
        parts = [_paths(lab, rng, self.num_scenes, gap) for gap in GAPS] + [_still(lab, rng, self.num_scenes)]
        path, push = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        still = np.repeat([False] * len(GAPS) + [True], self.num_scenes)
        gap = np.concatenate([np.repeat(GAPS, self.num_scenes), np.resize(GAPS, self.num_scenes)])
        seen = np.arange(HISTORY)[None] < HISTORY - gap[:, None]
        shown = np.where(seen[..., None], path[:, :HISTORY], 0).astype(np.float32)
        history = History(observations={SIGNAL: shown}, actions={"push": push[:, :-1]}, observed={SIGNAL: seen})
        drawn = np.isin(np.arange(len(gap)), [num * self.num_scenes for num in range(len(GAPS))])
        scenes = {"next.push": push[:, -1:], "truth.path": path, "gap": gap, "still": still, "drawn": drawn}
        return {**packed_history(history), **scenes}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Where it comes out [E, 2]; and for the few scenes that are drawn the position of each frame, said before it.

        See `ExamTest`.
        """
        world, history = only(worlds), history_of(scenes)
        position = means(world, history, {"push": scenes["next.push"]}, signals=(SIGNAL,))[SIGNAL][:, 0]
        drawn = scenes["drawn"].astype(bool)
        path, pushes = np.full(scenes["truth.path"].shape, np.nan), _pushes(scenes)[drawn]
        for length in range(OPEN[0], HISTORY + 1):
            past = _first(history, drawn, length)
            push = {"push": pushes[:, length - 1 : length]}
            path[drawn, length] = means(world, past, push, signals=(SIGNAL,))[SIGNAL][:, 0]
        return {"position": position, "path": path}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The floor is the trivial model that is best at each length; see `ExamTest`."""
        lab, episodes = self.make_lab(), logs[CURRICULUM]
        trivial = bank(episodes, lab.schema)
        mean = typical_values(episodes, [lab.schema[SIGNAL]])[SIGNAL].astype(float)
        tried = {name: self.question({CURRICULUM: world}, pilot) for name, world in trivial.items()}
        best = {gap: _best(pilot, tried, gap) for gap in GAPS}
        answers = {name: self.question({CURRICULUM: trivial[name]}, scenes) for name in {*best.values(), "persistence"}}
        floor = answers["persistence"]["position"].copy()
        for gap, name in best.items():
            rows = _moving(scenes, gap)
            floor[rows] = answers[name]["position"][rows]
        asked = partial(_asked, self, scenes)
        return References(
            floor={"position": floor},
            oracle=asked(OcclusionOracle(lab=lab)),
            must_fail={
                "frozen": asked(Persistence.fit(episodes, lab.schema)),
                f"memory of {SHORT} frames": asked(OcclusionOracle(lab=lab, forgets=(SHORT, mean))),
            },
            floor_name=", ".join(f"{name} at {gap}" for gap, name in best.items()),
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell and a slope for each length, and a cell that is gated; see `ExamTest`."""
        path = scenes["truth.path"].astype(float)
        come_out, last = path[:, -1], _last_seen(scenes)
        told = answers["position"].astype(float)
        loss, floor = (((one - come_out) ** 2).sum(1) for one in (told, references.floor["position"].astype(float)))
        spread = ((come_out - come_out.mean(0)) ** 2).sum(1)
        cells, conditions = list[Cell](), list[Condition]()
        for gap in GAPS:
            rows = _moving(scenes, gap)
            cells.append(skill_cell(f"hidden {gap} frames", loss[rows], floor[rows], marginal=spread[rows]))
            due, said = come_out[rows] - last[rows], told[rows] - last[rows]
            slope = rounded(slope=(due * said).sum() / (due**2).sum())["slope"]
            name = f"hidden {gap} frames: slope of predicted on true progress in [{SLOPES[0]}, {SLOPES[1]}]"
            conditions.append(Condition(name=name, met=SLOPES[0] <= slope <= SLOPES[1], found=f"{slope:.2f}"))
        rows = scenes["still"].astype(bool)
        cells.append(skill_cell("lying still", loss[rows], floor[rows], marginal=spread[rows]))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """One puck for each length, along the axis on which it went further, and progress at the longest."""
        told = {"this world": answers, "frozen": references.must_fail["frozen"]}
        panels = [_panel(scenes, told, int(scene)) for scene in np.flatnonzero(scenes["drawn"])]
        rows = _moving(scenes, GAPS[-1])
        last, due = _last_seen(scenes)[rows], scenes["truth.path"][rows, -1]
        ends = {"truth": due, **{name: found["position"][rows] for name, found in told.items()}}
        lines = [
            FigureLine(
                name=name,
                x=tuple(float(one) for one in (due - last).ravel()),
                y=tuple(float(one) for one in (found - last).ravel()),
                points=True,
            )
            for name, found in ends.items()
        ]
        title = f"Progress under the lid, {GAPS[-1]} frames"
        panels.append(
            FigurePanel(title=title, x_label="true [m]", y_label="predicted [m]", lines=tuple(lines), equal=True)
        )
        caption = (
            "The lid is down from the first frame of a line of this world to the last but one; in the last the puck is "
            "seen again. Each point is said one frame ahead, from what could be seen until then."
        )
        return ExamFigure(caption=caption, panels=tuple(panels))


@dataclass(frozen=True, kw_only=True, eq=False)
class FollowedMotion:
    """The belief of a `OcclusionOracle`.

    Args:
        position: [W, 2] m.
        velocity: [W, 2] m/s.
        num_seen: [W], frames in which the puck was seen, at most 2: fewer do not tell the velocity.
        since: [W], frames since it was seen, 0 where it is.
    """

    position: Floats
    velocity: Floats
    num_seen: NDArray[np.integer]
    since: NDArray[np.integer]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OcclusionOracle(Engine):
    """Knows the law of the lab, tells the velocity from two frames, and goes on where nothing is seen.

    Args:
        lab: whose law.
        forgets: frames after which it has forgotten what it saw, and the position [2] m that it says then; None for
            never.
    """

    lab: HiddenMover
    forgets: tuple[int, Floats] | None = None

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="follower",
            engine="follower",
            schema=self.lab.schema,
            inputs=(SIGNAL,),
            predicts=(SIGNAL,),
            context=2,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> FollowedMotion:
        """The state after each frame in turn; see `Engine`."""
        del seed  # nothing is drawn
        num_worlds, length = check_observations(steps, [self.lab.schema[SIGNAL]])
        check_inputs(steps, self.lab.schema, length - 1 if belief is None else length)
        seen = steps.observed.get(SIGNAL, np.ones((num_worlds, length), bool)).astype(bool)
        values, pushes = steps.observations[SIGNAL].astype(float), steps.actions["push"].astype(float)
        none, zeros = np.zeros(num_worlds, int), np.zeros((num_worlds, 2))
        held = FollowedMotion(position=zeros, velocity=zeros, num_seen=none, since=none)
        if belief is None:
            pushes = np.concatenate([zeros[:, None], pushes], 1)
        else:
            held = own_belief(belief, FollowedMotion)
        for frame in range(length):
            held = self._meet(held, pushes[:, frame], values[:, frame], seen[:, frame])
        return held

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The law of the lab, one sample; see `Engine`."""
        del num_samples, noise, seed  # deterministic
        size, held = check_future(future, self.lab.schema), own_belief(belief, FollowedMotion)
        start = {
            "puck_position": np.repeat(held.position, size.num_versions, 0),
            "puck_velocity": np.repeat(held.velocity, size.num_versions, 0),
        }
        path = self.lab.simulate(start, {"push": future.actions["push"].reshape(-1, size.horizon, 2)})[SIGNAL]
        path = path.reshape(size.num_worlds, size.num_versions, 1, size.horizon, 2)
        if self.forgets is not None:
            after, says = self.forgets
            path = np.where((held.since < after)[:, None, None, None, None], path, says)
        return Samples(signals={SIGNAL: path.astype(np.float32)})

    def _meet(self, held: FollowedMotion, push: Floats, value: Floats, seen: Bool[np.ndarray, "W"]) -> FollowedMotion:
        """One frame later; where the puck is not where it was expected, its velocity is told anew."""
        fade, reach, lift = self.lab.response
        position, velocity = self.lab.move(held.position, held.velocity, push)
        force = push / self.lab.mass
        told = fade * (value - held.position - lift * force) / reach + reach * force  # unless a wall was met
        fresh, first = seen & (held.since == 0) & (held.num_seen > 0), held.num_seen == 0
        wrong = (np.abs(position - value) > 1e-4) | (held.num_seen < 2)[:, None]
        velocity = np.where(fresh[:, None] & wrong, told, velocity)
        velocity = np.where(first[:, None], 0.0, velocity)
        position = np.where(seen[:, None], value, np.where(first[:, None], held.position, position))
        num_seen = np.where(seen, np.minimum(held.num_seen + 1, 2), held.num_seen)
        return FollowedMotion(
            position=position, velocity=velocity, num_seen=num_seen, since=np.where(seen, 0, held.since + 1)
        )


def _asked(test: OcclusionTest, scenes: Arrays, engine: Engine) -> Arrays:
    return test.question({CURRICULUM: as_world(engine)}, scenes)


def _paths(
    lab: HiddenMover, rng: np.random.Generator, num_scenes: int, gap: int
) -> tuple[Float[np.ndarray, "E F 2"], Float[np.ndarray, "E T 2"]]:
    """Positions and pushes of pucks that move when the lid comes down, after which it is down for `gap` frames."""
    num_tried = 4 * num_scenes
    policy, push = lab.explorer(), np.zeros((num_tried, HISTORY, 2), np.float32)
    for scene in range(num_tried):
        policy.reset(rng)
        push[scene] = [policy.act(None, rng)["push"] for _ in range(HISTORY)]
    start = {
        "puck_position": rng.uniform(-lab.half_side, lab.half_side, (num_tried, 2)),
        "puck_velocity": START_SPEED * rng.standard_normal((num_tried, 2)),
    }
    found = lab.simulate(start, {"push": push})
    path = np.concatenate([start["puck_position"][:, None], found["puck_position"]], 1)
    speed = np.linalg.norm(found["puck_velocity"][:, HISTORY - gap - 2], axis=-1)  # in the last frame that is seen
    moving = np.flatnonzero(speed >= SLOWEST)[:num_scenes]
    return path[moving].astype(np.float32), push[moving]


def _still(
    lab: HiddenMover, rng: np.random.Generator, num_scenes: int
) -> tuple[Float[np.ndarray, "E F 2"], Float[np.ndarray, "E T 2"]]:
    """The same of pucks that lie still and are not pushed."""
    place = rng.uniform(-lab.half_side, lab.half_side, (num_scenes, 1, 2)).astype(np.float32)
    return np.repeat(place, HISTORY + 1, 1), np.zeros((num_scenes, HISTORY, 2), np.float32)


def _best(scenes: Arrays, tried: Mapping[str, Arrays], gap: int) -> str:
    rows = _moving(scenes, gap)
    due = scenes["truth.path"][rows, -1]
    return best_of(tried, lambda answers: ((answers["position"][rows] - due) ** 2).sum(1))


def _moving(scenes: Arrays, gap: int) -> NDArray[np.bool_]:
    return np.asarray((scenes["gap"] == gap) & ~scenes["still"].astype(bool))


def _last_seen(scenes: Arrays) -> Floats:
    """The position in the last frame before the lid came down [E, 2]."""
    gap = scenes["gap"].astype(int)
    return np.asarray(scenes["truth.path"][np.arange(len(gap)), HISTORY - 1 - gap].astype(float))


def _pushes(scenes: Arrays) -> NDArray[np.generic]:
    return np.concatenate([scenes["history.actions.push"], scenes["next.push"]], 1)


def _first(history: History, rows: NDArray[np.bool_], length: int) -> History:
    """The first frames of the histories of some scenes."""
    return History(
        observations={name: value[rows, :length] for name, value in history.observations.items()},
        actions={name: value[rows, : length - 1] for name, value in history.actions.items()},
        observed={name: value[rows, :length] for name, value in history.observed.items()},
    )


def _panel(scenes: Arrays, told: Mapping[str, Arrays], scene: int) -> FigurePanel:
    gap, path = int(scenes["gap"][scene]), scenes["truth.path"][scene].astype(float)
    axis = int(np.abs(path[-1] - path[HISTORY - 1 - gap]).argmax())
    hidden = range(HISTORY - gap, HISTORY + 1)
    lines = [
        FigureLine(name="truth", x=tuple(float(at) for at in range(len(path))), y=tuple(map(float, path[:, axis])))
    ]
    for name, found in told.items():
        said = tuple(float(found["path"][scene, at, axis]) for at in hidden)
        lines.append(FigureLine(name=name, x=tuple(float(at) for at in hidden), y=said))
    return FigurePanel(
        title=f"Hidden for {gap} frames", x_label="frame", y_label=f"{'xy'[axis]} [m]", lines=tuple(lines)
    )
