"""P4, law beyond the training range: who knows the law needs no case like the one that is asked.

Asked: 23 steps (1.15 s) of a thrown ball (worldline_exam.labs.parabola) and of two rubber balls that run into each other
(worldline_exam.labs.collision), from four observations. The logs hold speeds from 1 to 2 and from 3 to 4 m/s, and not all
of their combinations with a second factor (gravity, or the speed of the other ball). 200 scenes each:

* inside: speeds and combinations that the logs hold;
* gap: speeds from 2.3 to 2.7 m/s, of both balls;
* outside, the headline: speeds from 5 to 7 m/s, of both balls;
* unseen: fast throws under strong gravity; a fast left ball that meets a slow right one.

The cells are the two outside, one of each motion, and the weaker decides: a world has found a law where it holds for
speeds that no log comes near. Inside, gap and unseen combinations are told beside them, as skill and as error of
velocities, and decide nothing: whoever has fitted the logs well is good inside, and what lies between two logged
speeds, or is new in its combination alone, may be had by smoothness. But a PASS has to be good inside too, with the
lower end of its skill above 0.5. Where a world has not even learned what it was shown, "outside" says nothing about
laws.

The loss is the squared error of positions, m2, summed over balls and averaged over steps; the ceiling is 0. Of balls
that meet, the steps after their contact count, 5 to 14 of them: where each is by then, and how fast it goes away. That
is what the contact did. Until then all is free motion. Raw figures give the mean error of velocities in the same steps
as 2411.02385 does, and how many times larger it is outside: there 0.427 / 0.012.

What each part shows. A throw is linear in what is seen and done, so a linear regression knows it exactly: the part says
that a linear law is carried on beyond the logs and not bent back to them, and no more. A collision is not linear: all
that happens does once balls touch. The weaker of the two is the headline, which for a world that has learned throws is
thus the collision.

Only speed leaves the range of the logs, and what follows from it: how deep the balls get into each other. Logs start
over a wider field than is asked about, and the field is as long as outside speeds need; balls touch within the
distances that logs begin with; and what is asked is no longer than what follows eight observations in a log, so that
bands reach as far for worlds that look back on eight. Throws are flat and to the right, pushed up and down alone, so
that their horizontal speed stays in its band; colliding balls have equal masses, so that no logged contact makes a ball
faster than 4 m/s.

Floor: the best of the bank for each cell, chosen on the pilot; for the collision outside also the rebound at the
nearest training speed, who moves freely at any speed and in a contact does what balls of 4 m/s would do. The bank knows
no rebound, and beside it balls that stick together look good. Copying is no candidate: it is asked as any world, and
has to fail by what it does. As errors are squared, half of the way from that floor is a rebound that falls short by 0.7
of what the floor falls short by. Uniform motion, balls that part at 1 to 6 m/s, is gated, as its floor is exact.

Must fail: copying the nearest training case, moved to where the ball is; the law at the nearest training speed, which
is what a perfect copy would be, and the rebound at it; balls that stick at contact, and balls that pass through each
other. The first three are good inside, and the last three are right about throws.

What pilots changed. Hard balls, whose velocities jump from one frame to the next, cannot be learned: a learned world
had 0.42 inside, where a copy has 0.93. Rubber balls touch for 7 to 9 frames, in development for 9 to 11. Graded in all
steps and against the bank alone, with balls that met 0.5 to 0.9 s after the first observation and were seen until 1.15
s, balls that stick had 0.79 and 0.85 (development and report), a world of `memory` 0.999 and 0.97: little was to be
seen of the rebound.

Actions: a steady lift or push, which changes as the question begins. Without an action that matters, the action-blind
regression of the bank is exact for the parabola, and nothing is left to score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import (
    Cell,
    Condition,
    Floats,
    Grade,
    as_world,
    bank,
    best_of,
    history_of,
    means,
    packed,
    packed_history,
    rounded,
    score,
    skill,
    skill_cell,
    unpacked,
)
from worldline.episode import Arrays, Episode, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.collision import Collision
from worldline_exam.labs.parabola import FAST, SLOW, STEP_S, STRONG, USUAL, WEAK, Band, Parabola
from worldline_exam.references.false_laws import passing, slowed, slowed_at_contact, sticking
from worldline_exam.references.lab_oracle import LabOracle, Law
from worldline_exam.references.nearest_case import NearestCase

HISTORY: Final = 4
"""Observations that are shown."""
GAP: Final[Band] = (2.3, 2.7)
OUTSIDE: Final[Band] = (5.0, 7.0)
PARTING: Final[Band] = (1.0, 6.0)
FASTEST_LOGGED: Final = 4.0
"""m/s, of every ball and along every axis."""
PUBLISHED: Final = 0.427 / 0.012
"""Times that the error of a video model is larger outside. Source: arXiv 2411.02385, section 3."""
LEAST_ERROR: Final = 1e-4
"""m/s, below which an error is one of rounding, and no ratio to it means anything."""
INSIDE_DUE: Final = 0.5
"""Skill inside the range that a PASS is above."""
BIN: Final = 0.5
"""m/s, in which the exhibit averages."""
ASKED_X: Final[Band] = (-8.0, -3.0)
ASKED_Y: Final[Band] = (2.0, 6.0)
ASKED_PLACE: Final[Band] = (-2.0, 2.0)
ASKED_TIME: Final[Band] = (0.25, 0.55)
"""Where balls would touch, m, and when after the first observation, s."""
COPY: Final = "nearest training case"
CLIPPED: Final = "law at the nearest training speed"
REBOUND: Final = "rebound at the nearest training speed"
STICKS: Final = "sticks at contact"
PASSES: Final = "passes through"

THROWS: Final = {
    "inside": USUAL,
    "gap": ((GAP, WEAK), (GAP, STRONG)),
    "outside": ((OUTSIDE, WEAK),),
    "unseen": ((FAST, STRONG),),
}
MEETINGS: Final = {
    "inside": ((SLOW, SLOW), (SLOW, FAST), (FAST, FAST)),
    "gap": ((GAP, GAP),),
    "outside": ((OUTSIDE, OUTSIDE),),
    "unseen": ((FAST, SLOW),),
}
DECIDES: Final = "outside"
BESIDE: Final = ("inside", "gap", "unseen")
"""Cells that are told and decide nothing, but that a PASS is good in the first."""
UNIFORM: Final = "uniform"
CELLS: Final = {"parabola": tuple(THROWS), "collision": (*MEETINGS, UNIFORM)}
POSITIONS: Final = {"parabola": ("ball_position",), "collision": ("left_position", "right_position")}
SPEEDS: Final = {"parabola": ("ball_velocity",), "collision": ("left_velocity", "right_velocity")}


@dataclass(frozen=True, kw_only=True)
class BeyondRangeTest(ExamTest):
    """See the module.

    Args:
        num_scenes: of each cell.
        num_steps: T that are asked for.
        num_episodes: of each of the two logs.
    """

    code: ClassVar[str] = "P4"
    section: ClassVar[Section] = Section.PHYSICS
    title: ClassVar[str] = "Law beyond the training range"
    claim: ClassVar[str] = "It has found a law that holds for speeds it was never shown."
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 10}

    num_scenes: int = 200
    num_steps: int = 23
    num_episodes: int = 500

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """Logs of throws and of meetings, a world each; see `ExamTest`."""
        return tuple(
            DatasetSpec(
                name=self._world_of(kind),
                make_lab=partial(self._lab, kind, pictures=self.pixels),
                asked=POSITIONS[kind],
                num_episodes=self.num_episodes,
                num_steps=30,
            )
            for kind in CELLS
        )

    def generate(self, seed: int) -> Arrays:
        """Per kind of motion the scenes of all its cells, one after the other; see `ExamTest`."""
        rng = np.random.default_rng([4, seed])
        starts = {"parabola": self._throws(rng), "collision": self._meetings(rng)}
        return {name: value for kind in CELLS for name, value in self._played(kind, starts[kind], rng).items()}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Where the balls will be; see `ExamTest`."""
        answers: dict[str, NDArray[np.generic]] = {}
        for kind in CELLS:
            answers |= self._asked(kind, worlds[self._world_of(kind)], scenes)
        return answers

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """See the module."""
        oracle: dict[str, NDArray[np.generic]] = {}
        floor: dict[str, NDArray[np.generic]] = {}
        fail: dict[str, dict[str, NDArray[np.generic]]] = {COPY: {}}
        chosen = []
        for kind in CELLS:
            lab, episodes = self._lab(kind), logs[self._world_of(kind)]
            laws = {name: as_world(LabOracle(schema=lab.schema, law=law)) for name, law in _false_laws(lab).items()}
            trivial = bank(episodes, lab.schema)
            here, there = (
                {name: self._asked(kind, world, one) for name, world in {**trivial, **laws}.items()}
                for one in (scenes, pilot)
            )
            names = []
            for cell in CELLS[kind]:
                # Within the logged speeds a rebound at the nearest of them is the law, and no floor.
                rivals = [*trivial, REBOUND] if (kind, cell) == ("collision", DECIDES) else [*trivial]
                names.append(_best(kind, cell, {name: there[name] for name in rivals}, pilot))
            floor |= _assembled(kind, names, here, scenes)
            chosen += [f"{kind} {cell}: {name}" for cell, name in zip(CELLS[kind], names, strict=True)]
            copy = NearestCase(schema=lab.schema, episodes=episodes, places=POSITIONS[kind])
            fail[COPY] |= self._asked(kind, as_world(copy), scenes)
            for name in laws:
                fail.setdefault(name, {}).update(here[name])
            oracle |= self._asked(kind, as_world(LabOracle(schema=lab.schema, law=lab.simulate)), scenes)
        return References(floor=floor, oracle=oracle, must_fail=fail, floor_name="; ".join(chosen))

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """See the module."""
        cells = [cell for kind in CELLS for cell in _cells(kind, scenes, answers, references.floor)]
        inside = tuple(_inside(kind, scenes, answers, references.floor) for kind in CELLS)
        return Grade(cells=tuple(cells), conditions=inside)

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Errors over speed, and paths outside."""
        told = {COPY: references.must_fail[COPY], "this world": answers}
        panels = (
            *(_speed_panel(kind, scenes, told) for kind in CELLS),
            _throw_panel(scenes, told),
            _meeting_panel(scenes, told),
        )
        caption = (
            "How wrong predicted velocities are over the speed at the start, whose range in the logs is marked; and "
            "two cases that are faster than any that was logged. A law holds beyond the marks; a copy does not."
        )
        return ExamFigure(caption=caption, panels=panels)

    def _world_of(self, kind: str) -> str:
        return f"{kind}-{self.pool}" + ("-pixels" if self.pixels else "")

    def _collision(self, *, pictures: bool = False) -> Collision:
        if self.pool is Pool.REPORT:
            return Collision(pictures=pictures)
        return Collision(radius=1.2, contact_s=0.5, pictures=pictures)

    def _lab(self, kind: str, *, pictures: bool = False) -> Parabola | Collision:
        if kind == "parabola":
            return Parabola(buoyancy=0.0 if self.pool is Pool.REPORT else 0.25, pictures=pictures)
        return self._collision(pictures=pictures)

    def _throws(self, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Starts of throws, of each cell in turn."""
        speed, gravity = (
            np.concatenate(one) for one in zip(*(self._drawn(rng, b) for b in THROWS.values()), strict=True)
        )
        place = np.stack([rng.uniform(*ASKED_X, len(speed)), rng.uniform(*ASKED_Y, len(speed))], -1)
        made = {
            "ball_position": place,
            "ball_velocity": np.stack([speed, np.zeros_like(speed)], -1),
            "gravity": gravity[:, None],
        }
        return {name: value.astype(np.float32) for name, value in made.items()}

    def _meetings(self, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Starts of meetings, of each cell in turn; those of uniform motion met a while ago."""
        pairs = [self._drawn(rng, bands) for bands in MEETINGS.values()]
        parting = [-speed for speed in self._drawn(rng, ((PARTING, PARTING),))]
        left, right = (np.concatenate(one) for one in zip(*pairs, parting, strict=True))
        time = rng.uniform(*ASKED_TIME, len(left))
        time = np.where(left < 0, -ASKED_TIME[0], time)
        found = self._collision().approach(left, right, rng.uniform(*ASKED_PLACE, len(left)), time)
        return dict(found)

    def _drawn(self, rng: np.random.Generator, bands: tuple[tuple[Band, Band], ...]) -> list[Floats]:
        """Two numbers of each scene of a cell, from one of its pairs of bands."""
        chosen = np.array(bands)[rng.integers(len(bands), size=self.num_scenes)]
        return [rng.uniform(chosen[:, part, 0], chosen[:, part, 1]) for part in range(2)]

    def _played(self, kind: str, starts: Arrays, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """History, actions, truth and cells of one kind of motion, by its name."""
        lab = self._lab(kind)
        (action,) = lab.schema.actions
        steady = rng.uniform(-1, 1, (self.num_scenes * len(CELLS[kind]), 2, 1, 1)) * np.asarray(action.high)
        if CELLS[kind][-1] == UNIFORM:
            steady[-self.num_scenes :] = 0.0  # or it would not be uniform
        before, after = np.repeat(steady[:, 0], HISTORY - 1, 1), np.repeat(steady[:, 1], self.num_steps, 1)
        actions = np.concatenate([before, after], 1).astype(np.float32)
        path = lab.simulate(starts, {action.name: actions})
        seen = {name: np.concatenate([starts[name][:, None], path[name]], 1) for name in path}
        shown: dict[str, NDArray[np.generic]] = {name: value[:, :HISTORY] for name, value in seen.items()}
        history = History(observations=shown, actions={action.name: actions[:, : HISTORY - 1]})
        return {
            **packed_history(history, f"{kind}.history"),
            **packed(f"{kind}.actions", {action.name: actions[:, HISTORY - 1 :]}),
            **packed(f"{kind}.truth", {name: seen[name][:, HISTORY:] for name in POSITIONS[kind]}),
            f"{kind}.counted": self._counted(kind, seen),
            f"{kind}.cell": np.repeat(np.arange(len(CELLS[kind])), self.num_scenes),
        }

    def _counted(self, kind: str, seen: Arrays) -> NDArray[np.bool_]:
        """Which steps of each scene are graded [E, T]: those after its contact, all where there is none."""
        if kind == "parabola":
            return np.ones((len(seen["ball_position"]), self.num_steps), bool)
        left, right = (seen[name][:, HISTORY:, 0].astype(float) for name in POSITIONS[kind])
        touching = right - left < 2 * self._collision().radius
        touching_later = np.logical_or.accumulate(touching[:, ::-1], axis=1)[:, ::-1]
        return np.asarray(~touching_later)

    def _asked(self, kind: str, world: World, scenes: Arrays) -> dict[str, NDArray[np.generic]]:
        """What a world says of one kind of motion, by its name."""
        history, actions = history_of(scenes, f"{kind}.history"), unpacked(scenes, f"{kind}.actions")
        return packed(kind, means(world, history, actions, signals=POSITIONS[kind]))


def _false_laws(lab: Parabola | Collision) -> dict[str, Law]:
    """Laws that must fail. Of throws, which touch nothing, some are right: what fails there is the collision alone."""
    if isinstance(lab, Collision):
        return {
            CLIPPED: slowed(lab, FASTEST_LOGGED),
            REBOUND: slowed_at_contact(lab, FASTEST_LOGGED),
            STICKS: sticking(lab),
            PASSES: passing(),
        }
    return {CLIPPED: _slow_throw(lab), REBOUND: lab.simulate, STICKS: lab.simulate, PASSES: lab.simulate}


def _slow_throw(lab: Parabola) -> Law:
    """The law of throws, for who takes what is too fast to be as fast as the fastest that was logged."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        # A ball falls as fast as it does; it is the speed along the throw that logs bound.
        speed = start["ball_velocity"].copy()
        speed[:, 0] = np.clip(speed[:, 0], -FASTEST_LOGGED, FASTEST_LOGGED)
        return lab.simulate({**start, "ball_velocity": speed}, actions)

    return law


def _best(kind: str, cell: str, answers: Mapping[str, Arrays], pilot: Arrays) -> str:
    """The trivial model that is best in one cell of the pilot."""
    of_cell = _of_cell(kind, cell, pilot)
    return best_of(answers, lambda one: _loss(kind, pilot, one)[of_cell])


def _of_cell(kind: str, cell: str, scenes: Arrays) -> NDArray[np.bool_]:
    """Which scenes of one kind of motion are in a cell [E]."""
    return np.asarray(scenes[f"{kind}.cell"] == CELLS[kind].index(cell))


def _assembled(
    kind: str, names: Sequence[str], answers: Mapping[str, Arrays], scenes: Arrays
) -> dict[str, NDArray[np.generic]]:
    """Answers whose every cell is that of the model named for it."""
    cells = scenes[f"{kind}.cell"]
    return {
        signal: np.stack([answers[names[int(cell)]][signal][scene] for scene, cell in enumerate(cells)])
        for signal in (f"{kind}.{name}" for name in POSITIONS[kind])
    }


def _cells(kind: str, scenes: Arrays, answers: Arrays, floor: Arrays) -> list[Cell]:
    """What decides, and the gate of uniform motion where there is one."""
    loss, trivial = _loss(kind, scenes, answers), _loss(kind, scenes, floor)
    found = []
    for name in (DECIDES, UNIFORM):
        if name not in CELLS[kind]:
            continue
        here = _of_cell(kind, name, scenes)
        found.append(skill_cell(f"{kind} {name}", loss[here], trivial[here], marginal=_marginal(kind, scenes, here)))
    return [replace(found[0], raw={**found[0].raw, **_figures(kind, scenes, answers, floor)}), *found[1:]]


def _figures(kind: str, scenes: Arrays, answers: Arrays, floor: Arrays) -> dict[str, float]:
    """Errors of velocities, and the skill in cells that do not decide."""
    loss, trivial, slip = _loss(kind, scenes, answers), _loss(kind, scenes, floor), _slip(kind, scenes, answers)
    error = {name: float(slip[_of_cell(kind, name, scenes)].mean()) for name in (DECIDES, *BESIDE)}
    figures = {f"velocity_error_{name}": value for name, value in error.items()}
    for name in BESIDE:
        here = _of_cell(kind, name, scenes)
        figures[f"skill_{name}"] = 1 - float(loss[here].mean() / trivial[here].mean())
    if error["inside"] > LEAST_ERROR:
        figures |= {"times_inside": error[DECIDES] / error["inside"], "times_inside_published": PUBLISHED}
    return rounded(**figures)


def _inside(kind: str, scenes: Arrays, answers: Arrays, floor: Arrays) -> Condition:
    """Whether what the logs hold has been learned."""
    here = _of_cell(kind, "inside", scenes)
    loss, trivial = _loss(kind, scenes, answers)[here], _loss(kind, scenes, floor)[here]
    found = score(skill(loss, trivial, np.zeros_like(trivial)), len(loss))
    return Condition(
        name=f"{kind} inside the range of the logs: skill surely above {INSIDE_DUE}",
        met=found is not None and found.low > INSIDE_DUE,
        found="undefined" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]",
    )


def _moved(kind: str, scenes: Arrays, arrays: Arrays) -> Floats:
    """How far balls are from where they were last seen [E, T, size], m; all of one kind side by side."""
    last = history_of(scenes, f"{kind}.history").observations
    parts = [arrays[name].astype(float) - last[name][:, -1:].astype(float) for name in POSITIONS[kind]]
    return np.concatenate(parts, -1)


def _loss(kind: str, scenes: Arrays, answers: Arrays) -> Floats:
    """Squared error of positions [E], m2, summed over balls and averaged over the steps that are graded."""
    truth = _moved(kind, scenes, unpacked(scenes, f"{kind}.truth"))
    return _graded(kind, scenes, ((_moved(kind, scenes, unpacked(answers, kind)) - truth) ** 2).sum(-1))


def _graded(kind: str, scenes: Arrays, errors: Floats) -> Floats:
    """The mean [E] of errors [E, T] over the steps that are graded."""
    counted = scenes[f"{kind}.counted"].astype(float)
    return np.asarray((errors * counted).sum(1) / counted.sum(1))


def _marginal(kind: str, scenes: Arrays, of_cell: NDArray[np.bool_]) -> float:
    """The loss of predicting the mean motion of a cell."""
    moved = _moved(kind, scenes, unpacked(scenes, f"{kind}.truth"))
    apart = ((moved - moved[of_cell].mean(0)) ** 2).sum(-1)
    return float(_graded(kind, scenes, apart)[of_cell].mean())


def _slip(kind: str, scenes: Arrays, answers: Arrays) -> Floats:
    """Mean absolute error of velocities [E], m/s, as they follow from positions in the steps that are graded."""
    rates = [
        np.diff(_moved(kind, scenes, one), axis=1, prepend=0.0) / STEP_S
        for one in (unpacked(answers, kind), unpacked(scenes, f"{kind}.truth"))
    ]
    return _graded(kind, scenes, np.abs(rates[0] - rates[1]).mean(-1))


def _speed_panel(kind: str, scenes: Arrays, told: Mapping[str, Arrays]) -> FigurePanel:
    """Errors of velocity over the speed at the start."""
    history = history_of(scenes, f"{kind}.history").observations
    speed = np.mean([np.abs(history[name][:, 0, 0].astype(float)) for name in SPEEDS[kind]], axis=0)
    counted = scenes[f"{kind}.cell"] != len(MEETINGS)  # all but uniform motion
    lines = []
    for name, answers in told.items():
        slip = _slip(kind, scenes, answers)
        which = [counted & (speed >= low) & (speed < low + BIN) for low in np.arange(1.0, 7.0, BIN)]
        middle = tuple(float(speed[one].mean()) for one in which if one.any())
        lines.append(FigureLine(name=name, x=middle, y=tuple(float(slip[one].mean()) for one in which if one.any())))
    lines += [FigureLine(name="range of the logs", x=band, y=(0.0, 0.0)) for band in (SLOW, FAST)]
    what = "speed of the throw" if kind == "parabola" else "mean speed of the two balls"
    return FigurePanel(
        title=f"{kind.title()}: error", x_label=f"{what} [m/s]", y_label="velocity error [m/s]", lines=tuple(lines)
    )


def _throw_panel(scenes: Arrays, told: Mapping[str, Arrays]) -> FigurePanel:
    """The path of a throw outside."""
    scene = int(np.flatnonzero(_of_cell("parabola", DECIDES, scenes))[0])
    shown = history_of(scenes, "parabola.history").observations["ball_position"][scene]
    paths = {
        "truth": scenes["parabola.truth.ball_position"],
        **{n: a["parabola.ball_position"] for n, a in told.items()},
    }
    lines = []
    for name, path in paths.items():
        places = np.concatenate([shown, path[scene]]).astype(float)
        lines.append(FigureLine(name=name, x=tuple(places[:, 0].tolist()), y=tuple(places[:, 1].tolist())))
    return FigurePanel(title="A throw outside", x_label="x [m]", y_label="y [m]", lines=tuple(lines), equal=True)


def _meeting_panel(scenes: Arrays, told: Mapping[str, Arrays]) -> FigurePanel:
    """The places of two balls that meet outside, over time."""
    scene = int(np.flatnonzero(_of_cell("collision", DECIDES, scenes))[0])
    history = history_of(scenes, "collision.history").observations
    lines = []
    for signal in POSITIONS["collision"]:
        shown = history[signal][scene, :, 0]
        paths = {"truth": scenes[f"collision.truth.{signal}"], **{n: a[f"collision.{signal}"] for n, a in told.items()}}
        for name, path in paths.items():
            places = np.concatenate([shown, path[scene, :, 0]]).astype(float)
            time = STEP_S * (np.arange(len(places)) - HISTORY + 1)
            lines.append(FigureLine(name=name, x=tuple(time.tolist()), y=tuple(places.tolist())))
    return FigurePanel(title="A meeting outside", x_label="time [s]", y_label="position [m]", lines=tuple(lines))
