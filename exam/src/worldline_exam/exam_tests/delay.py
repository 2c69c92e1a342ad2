"""T3, delayed effect.

Question: does a world know when the effect of an action appears?

Scenes: five tanks whose valves act after 0, 2, 5, 10 and 20 steps (exam/src/worldline_exam/labs/delayed_actuator.py).
No signal name reveals the lag. A scene is a pair of twins that differ by one pulse of one valve. The pulse is either
"ahead", at the first predicted step, or "on its way": given in the history without any visible effect so far. A model
that only uses the last observation fails beyond lag 0. Ahead, it would have to carry the pulse through its own
predictions. On its way, its two histories end in the same observation.

Score of each lag and place of the pulse: 1 - |h' - h|^2 / |h|^2 over all five temperatures, where h is the true
difference of the twins and h' the predicted one. No response scores 0.

Pass condition, for each lag: the response of the tank peaks at the right step in at least nine of ten scenes.

Must fail: a one-frame Markov model (linear, so exact at lag 0), and a model that remembers ten steps.

Additions to the specification:

* Pulses on their way, since a model may carry a future action in its latent and still forget past actions.
* All tanks count, so a response in the wrong tank is an error.
* One log serves all lags.
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
    Floats,
    Grade,
    history_of,
    means,
    only,
    packed_history,
    rounded,
    skill_cell,
)
from worldline.engines import Card, EngineBelief, Linear, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Episode, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.base import unrolled
from worldline_exam.labs.delayed_actuator import AMBIENT, LAGS, NAMES, SETTLED, DelayedActuator, use_valves
from worldline_exam.references.base import ReferenceEngine, each_version, flat, reference_card

SIGNAL: Final = "temperatures"
HISTORY: Final = 48
"""Number of observations in the history."""
HORIZON: Final = 30
"""Number of predicted steps."""
TWINS: Final = ("pulse", "none")
MIN_PEAK_SHARE: Final = 0.9
"""Smallest share of scenes whose response peaks at the right step."""
MIN_RESPONSE: Final = 0.1
"""Smallest predicted peak that counts as a response, as a share of the true peak."""
MEMORY: Final = 10
"""Memory of the must-fail model, steps."""
CURRICULUM: Final = "delayed-actuator"


@final
@dataclass(frozen=True, kw_only=True)
class DelayedEffectTest(ExamTest):
    """Test of delayed effects; the module docstring specifies it.

    Args:
        num_pulses: number of pulses for each lag and place, at least 10.
        num_episodes: number of logged episodes.
        num_steps: length of each, steps.
    """

    code: ClassVar[str] = "T3"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "Delayed effect"
    claim: ClassVar[str] = "It knows when the effect of an action appears, up to twenty steps later."
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
        """One dataset with all tanks."""
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
        """Histories, next actions and truth of both twins."""
        lab, rng = self.make_lab(), np.random.default_rng(seed)
        cases = [(lag, way) for lag in LAGS for way in (False, True) if lag or not way]
        lag, way = (np.repeat(column, self.num_pulses) for column in zip(*cases, strict=True))
        tank = np.array([lab.lags.index(int(steps)) for steps in lag])
        back = np.where(way, 1 + np.floor(rng.random(len(lag)) * lag).astype(int), 0)
        valves = use_valves(rng, SETTLED + HISTORY - 1 + HORIZON, (len(lag),))
        at, scenes = SETTLED + HISTORY - 1 - back, dict[str, NDArray[np.generic]]()
        for twin, opened in zip(TWINS, (1.0, 0.0), strict=True):
            done = valves.copy()
            done[np.arange(len(lag)), at, tank] = opened
            scenes |= _scene(lab, twin, done)
        return {**scenes, "lag": lag, "on_its_way": way.astype(bool), "tank": tank, "back": back}

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The predicted temperatures of both twins [E, T, 5], degC."""
        world = only(worlds)
        return {
            twin: means(world, history_of(scenes, twin), {"valves": scenes[f"next.{twin}"]}, signals=(SIGNAL,))[SIGNAL]
            for twin in TWINS
        }

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The oracle and two models that must fail. The floor is no response, which scores 0 by definition."""
        del pilot  # the floor is fixed
        lab, episodes = self.make_lab(), logs[CURRICULUM]
        return References(
            oracle=self.answers_of(DelayLine(lab=lab), scenes),
            must_fail={
                "one-frame Markov": self.answers_of(Linear.fit(episodes, lab.schema, context=1), scenes),
                f"memory of {MEMORY} steps": self.answers_of(DelayLine(lab=lab, reach=MEMORY), scenes),
            },
            floor_name="no response",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each lag and place of the pulse, and a condition for each lag."""
        del references  # the floor is no response
        true, predicted = _response(_truth(scenes)), _response(answers)
        loss, floor = ((predicted - true) ** 2).sum((1, 2)), (true**2).sum((1, 2))
        hits = _right_peaks(true, predicted, scenes["tank"].astype(int))
        cells, conditions = list[Cell](), list[Condition]()
        for lag in LAGS:
            of_lag = scenes["lag"] == lag
            for way, place in ((False, "ahead"), (True, "on its way")):
                rows = of_lag & (scenes["on_its_way"] == way)
                if rows.any():
                    cells.append(skill_cell(f"lag {lag}, {place}", loss[rows], floor[rows]))
            share = rounded(share=hits[of_lag].mean())["share"]
            name = f"lag {lag}: the response peaks at the right step in at least {MIN_PEAK_SHARE:.0%} of the scenes"
            conditions.append(Condition(name=name, met=share >= MIN_PEAK_SHARE, found=f"{share:.1%}"))
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """The first response to a pulse ahead for each lag, and one to a pulse on its way."""
        named_answers = {
            "truth": _truth(scenes),
            "this world": answers,
            "one-frame Markov": references.must_fail["one-frame Markov"],
        }
        shown = [(lag, False) for lag in LAGS] + [(LAGS[-1], True)]
        panels = []
        for lag, way in shown:
            scene = int(np.flatnonzero((scenes["lag"] == lag) & (scenes["on_its_way"] == way))[0])
            tank, back = int(scenes["tank"][scene]), int(scenes["back"][scene])
            responses = {name: _response(predicted)[scene, :, tank] for name, predicted in named_answers.items()}
            lines = (FigureLine.of(name, range(1, len(response) + 1), response) for name, response in responses.items())
            title = f"Pulse {back} steps ago, lag {lag}" if way else f"Pulse now, lag {lag}"
            panels.append(FigurePanel.of(title, "step", "difference [degC]", lines))
        caption = (
            "Effect of a pulse of the valve on its tank's temperature: difference of twins with and without it. The "
            "response must come when the pulse arrives, not when it is given."
        )
        return ExamFigure(caption=caption, panels=tuple(panels))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DelayLine(ReferenceEngine):
    """Knows the law of the lab and past actions; forgotten actions count as 0.

    Args:
        lab: lab with the law.
        reach: steps of memory; None for the longest lag.
    """

    lab: DelayedActuator
    reach: int | None = None

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card("delay line", self.lab.schema, (SIGNAL,), context=max(self.lab.lags) + 1)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Arrays:
        """The excess temperature [W, 5] degC and the past actions `pipe` [W, longest lag, 5], the latest last."""
        del seed  # nothing is drawn
        num_worlds, length = check_observations(steps, [self.lab.schema[SIGNAL]])
        check_inputs(steps, self.lab.schema, length - 1 if belief is None else length)
        empty = np.zeros((num_worlds, max(self.lab.lags), len(NAMES)))
        before = empty if belief is None else own_belief(belief, dict)["pipe"]
        line = np.concatenate([before, steps.actions["valves"]], 1)
        last = steps.observations[SIGNAL][:, -1].astype(float)
        return {"excess": last - AMBIENT, "pipe": line[:, line.shape[1] - empty.shape[1] :]}

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The temperatures under the law of the lab."""
        tank = each_version(own_belief(belief, dict), actions)
        longest = max(self.lab.lags)
        forgotten = 0 if self.reach is None else max(longest - self.reach, 0)

        def move(excess: Floats, pipe: Floats, valves: Floats) -> tuple[Floats, Floats]:
            return self.lab.move(excess, np.where(np.arange(pipe.shape[1])[:, None] < forgotten, 0.0, pipe), valves)

        excess, _ = unrolled(move, (tank["excess"].astype(float), tank["pipe"].astype(float)), flat(actions)["valves"])
        return {SIGNAL: excess + AMBIENT}


def _truth(scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    return {twin: scenes[f"truth.{twin}"] for twin in TWINS}


def _response(predicted: Arrays) -> Floats:
    """Effect of the pulse on each temperature [E, T, 5], degC."""
    return np.asarray(predicted["pulse"].astype(float) - predicted["none"].astype(float))


def _scene(lab: DelayedActuator, twin: str, done: Float[np.ndarray, "E N 5"]) -> dict[str, NDArray[np.generic]]:
    """History, next actions and truth of one twin, whose actions `done` start long before the history."""
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


def _right_peaks(
    true: Float[np.ndarray, "E T 5"], predicted: Float[np.ndarray, "E T 5"], tank: NDArray[np.integer]
) -> Floats:
    """Whether the predicted response of the tank peaks at the right step [E]; tiny responses have no peak."""
    scenes = np.arange(len(true))
    in_tank, predicted_in_tank = true[scenes, :, tank], predicted[scenes, :, tank]
    has_peak = predicted_in_tank.max(1) >= MIN_RESPONSE * in_tank.max(1)
    return np.asarray((in_tank.argmax(1) == predicted_in_tank.argmax(1)) & has_peak, dtype=float)
