"""T3, delayed effect: does a world know when what was done will show?

Five tanks whose valves act after 0, 2, 5, 10 and 20 steps (exam/src/worldline_exam/labs/delayed_actuator.py); which is which, no name tells. A
scene is a pair of twins that differ by one pulse of one valve, all else being equal. The pulse is given *ahead*, at the
first step that is predicted, or is *on its way*: it was given in the history and has not shown in any observation yet.
A world that knows of the past only what the last observation shows can answer neither beyond lag 0: ahead, it would
have to carry the pulse through its own predictions; on its way, its two histories end in the same observation.

Score, for each lag and place of the pulse: 1 - |h' - h|^2 / |h|^2 over all five temperatures, h being the difference
of the twins and h' what the world says of it; no response scores 0. A PASS also asks that the response of the tank
peaks at the right step, in nine scenes of ten, for each lag.

Must fail: a one-frame Markov model (linear, so exact at lag 0), and a world that remembers ten steps.

Beyond the specification: pulses on their way, since a model may carry a future action in its latent and still forget
what was done before; all tanks count, so that a pulse that leaks into another tank is an error. One log serves all
lags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import (
    Cell,
    Condition,
    Grade,
    as_world,
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
    Linear,
    Noise,
    Samples,
    check_future,
    check_inputs,
    check_observations,
    own_belief,
)
from worldline.episode import Arrays, Episode, Future, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.delayed_actuator import AMBIENT, LAGS, NAMES, SETTLED, DelayedActuator, use_valves

Floats = NDArray[np.floating]

SIGNAL: Final = "temperatures"
HISTORY: Final = 48
"""Observations that are given."""
HORIZON: Final = 30
"""Steps that are predicted."""
TWINS: Final = ("pulse", "none")
PEAK_DUE: Final = 0.9
"""Share of scenes whose response has to peak at the right step."""
RESPONSE: Final = 0.1
"""Share of the true peak below which there is no response, and so no peak."""
SHORT: Final = 10
"""Steps that the world which must fail remembers."""
CURRICULUM: Final = "delayed-actuator"


@final
@dataclass(frozen=True, kw_only=True)
class DelayedEffectTest(ExamTest):
    """The test.

    Args:
        num_pulses: of each lag and place, at least 10.
        num_episodes: that worlds learn from.
        num_steps: of each.
    """

    code: ClassVar[str] = "T3"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "Delayed effect"
    claim: ClassVar[str] = "It knows when what was done will show, up to twenty steps later."
    paid: ClassVar[Mapping[str, int]] = {"num_pulses": 10}

    num_pulses: int = 100
    num_episodes: int = 300
    num_steps: int = 100

    def make_lab(self, *, pictures: bool = False) -> DelayedActuator:
        """The lab of the pool."""
        if self.pool is Pool.DEVELOPMENT:
            return DelayedActuator(fade=0.7, pictures=pictures)
        return DelayedActuator((10, 0, 20, 5, 2), fade=0.8, pictures=pictures)

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One: all tanks are in one log."""
        return (
            DatasetSpec(
                name=CURRICULUM,
                make_lab=partial(self.make_lab, pictures=self.pixels),
                asked=(SIGNAL,),
                num_episodes=self.num_episodes,
                num_steps=self.num_steps,
                horizon=HORIZON,
            ),
        )

    def generate(self, seed: int) -> Arrays:
        """Histories of both twins, what is done next, and what then happens; see `ExamTest`."""
        lab, rng = self.make_lab(), np.random.default_rng(seed)
        cases = [(lag, way) for lag in LAGS for way in (False, True) if lag or not way]
        lag, way = (np.repeat(column, self.num_pulses) for column in zip(*cases, strict=True))
        tank = np.array([lab.lags.index(int(one)) for one in lag])
        back = np.where(way, 1 + np.floor(rng.random(len(lag)) * lag).astype(int), 0)
        valves = use_valves(rng, SETTLED + HISTORY - 1 + HORIZON, (len(lag),))
        at, scenes = SETTLED + HISTORY - 1 - back, dict[str, NDArray[np.generic]]()
        for twin, opened in zip(TWINS, (1.0, 0.0), strict=True):
            done = valves.copy()
            done[np.arange(len(lag)), at, tank] = opened
            scenes |= _scene(lab, twin, done)
        return {**scenes, "lag": lag, "on_its_way": way.astype(bool), "tank": tank, "back": back}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The temperatures of both twins [E, T, 5]; see `ExamTest`."""
        world = only(worlds)
        return {
            twin: means(world, history_of(scenes, twin), {"valves": scenes[f"next.{twin}"]}, signals=(SIGNAL,))[SIGNAL]
            for twin in TWINS
        }

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The floor is no response, whose score is 0 by definition; see `ExamTest`."""
        del pilot  # nothing is chosen
        lab, episodes = self.make_lab(), logs[CURRICULUM]
        asked = partial(_asked, self, scenes)
        return References(
            oracle=asked(DelayLine(lab=lab)),
            must_fail={
                "one-frame Markov": asked(Linear.fit(episodes, lab.schema, context=1)),
                f"memory of {SHORT} steps": asked(DelayLine(lab=lab, reach=SHORT)),
            },
            floor_name="no response",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each lag and place of the pulse, a condition for each lag; see `ExamTest`."""
        del references  # the floor is no response
        due, said = _response(_truth(scenes)), _response(answers)
        loss, floor = ((said - due) ** 2).sum((1, 2)), (due**2).sum((1, 2))
        hits = _peaks(due, said, scenes["tank"].astype(int))
        cells, conditions = list[Cell](), list[Condition]()
        for lag in LAGS:
            of_lag = scenes["lag"] == lag
            for way, place in ((False, "ahead"), (True, "on its way")):
                rows = of_lag & (scenes["on_its_way"] == way)
                if rows.any():
                    cells.append(skill_cell(f"lag {lag}, {place}", loss[rows], floor[rows]))
            share = rounded(share=hits[of_lag].mean())["share"]
            name = f"lag {lag}: the response peaks at the right step in at least {PEAK_DUE:.0%} of the scenes"
            conditions.append(Condition(name=name, met=share >= PEAK_DUE, found=f"{share:.1%}"))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """The first response ahead of each lag, and one on its way."""
        told = {
            "truth": _truth(scenes),
            "this world": answers,
            "one-frame Markov": references.must_fail["one-frame Markov"],
        }
        shown = [(lag, False) for lag in LAGS] + [(LAGS[-1], True)]
        panels = []
        for lag, way in shown:
            scene = int(np.flatnonzero((scenes["lag"] == lag) & (scenes["on_its_way"] == way))[0])
            tank, back = int(scenes["tank"][scene]), int(scenes["back"][scene])
            lines = [_line(name, _response(found)[scene, :, tank]) for name, found in told.items()]
            title = f"Pulse {back} steps ago, lag {lag}" if way else f"Pulse now, lag {lag}"
            panels.append(FigurePanel(title=title, x_label="step", y_label="difference [degC]", lines=tuple(lines)))
        caption = (
            "By how much a pulse of the valve changes its tank's temperature: twins with and without it. The response "
            "must come when the pulse arrives, not when it is given."
        )
        return ExamFigure(caption=caption, panels=tuple(panels))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipes:
    """The belief of a `DelayLine`.

    Args:
        excess: [W, 5] degC over the ambient temperature.
        pipe: [W, longest lag, 5], what was done, the latest last.
    """

    excess: Floats
    pipe: Floats


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DelayLine(Engine):
    """Knows the law of the lab and remembers what was done; what it does not remember was nothing.

    Args:
        lab: whose law.
        reach: steps that it remembers; None for all that matter.
    """

    lab: DelayedActuator
    reach: int | None = None

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="delay line",
            engine="delay_line",
            schema=self.lab.schema,
            inputs=(SIGNAL,),
            predicts=(SIGNAL,),
            context=max(self.lab.lags) + 1,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Pipes:
        """The last temperatures, and what was done before; see `Engine`."""
        del seed  # nothing is drawn
        num_worlds, length = check_observations(steps, [self.lab.schema[SIGNAL]])
        check_inputs(steps, self.lab.schema, length - 1 if belief is None else length)
        empty = np.zeros((num_worlds, max(self.lab.lags), len(NAMES)))
        line = np.concatenate([empty if belief is None else own_belief(belief, Pipes).pipe, steps.actions["valves"]], 1)
        last = steps.observations[SIGNAL][:, -1].astype(float)
        return Pipes(excess=last - AMBIENT, pipe=line[:, line.shape[1] - empty.shape[1] :])

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The law of the lab, one sample; see `Engine`."""
        del num_samples, noise, seed  # deterministic
        size, held = check_future(future, self.lab.schema), own_belief(belief, Pipes)
        kept = max(self.lab.lags) if self.reach is None else self.reach
        excess, pipe = (np.repeat(part, size.num_versions, 0) for part in (held.excess, held.pipe))
        valves, path = future.actions["valves"].reshape(-1, size.horizon, len(NAMES)).astype(float), []
        for step in range(size.horizon):
            pipe = pipe.copy()
            pipe[:, : max(pipe.shape[1] - kept, 0)] = 0
            excess, pipe = self.lab.move(excess, pipe, valves[:, step])
            path.append(excess + AMBIENT)
        found = np.stack(path, 1).reshape(size.num_worlds, size.num_versions, 1, size.horizon, len(NAMES))
        return Samples(signals={SIGNAL: found.astype(np.float32)})


def _asked(test: DelayedEffectTest, scenes: Arrays, engine: Engine) -> Arrays:
    return test.question({CURRICULUM: as_world(engine)}, scenes)


def _truth(scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    return {twin: scenes[f"truth.{twin}"] for twin in TWINS}


def _response(found: Arrays) -> Floats:
    """By how much the pulse changes each temperature [E, T, 5]."""
    return np.asarray(found["pulse"].astype(float) - found["none"].astype(float))


def _scene(lab: DelayedActuator, twin: str, done: Float[np.ndarray, "E N 5"]) -> dict[str, NDArray[np.generic]]:
    """The history, the next actions and the truth of one twin, which did `done` from long before on."""
    settled = {
        "temperatures": np.full((len(done), len(NAMES)), AMBIENT),
        "before": np.zeros((len(done), SETTLED, len(NAMES))),
    }
    path = lab.simulate(settled, {"valves": done})[SIGNAL].astype(np.float32)[:, SETTLED - 1 :]
    valves = done[:, SETTLED:].astype(np.float32)
    history = History(observations={SIGNAL: path[:, :HISTORY]}, actions={"valves": valves[:, : HISTORY - 1]})
    return {
        **packed_history(history, twin),
        f"next.{twin}": valves[:, HISTORY - 1 :],
        f"truth.{twin}": path[:, HISTORY:],
    }


def _peaks(due: Float[np.ndarray, "E T 5"], said: Float[np.ndarray, "E T 5"], tank: NDArray[np.integer]) -> Floats:
    """Whether what is said of the tank peaks when it should, [E]; where next to nothing is said it has no peak."""
    scenes = np.arange(len(due))
    true, told = due[scenes, :, tank], said[scenes, :, tank]
    answered = told.max(1) >= RESPONSE * true.max(1)
    return np.asarray((true.argmax(1) == told.argmax(1)) & answered, dtype=float)


def _line(name: str, values: Floats) -> FigureLine:
    return FigureLine(
        name=name, x=tuple(float(step + 1) for step in range(len(values))), y=tuple(float(one) for one in values)
    )
