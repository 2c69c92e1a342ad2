"""C4, counterfactual twin.

Question: what would have happened in an episode under other pushes, with the same friction and the same gusts?

Scenes: a puck with a hidden friction was pushed for 40 steps in gusts. A world gets the whole episode and other pushes
from the third on, and predicts the resulting path. The truth is the lab replayed from the episode's seed. The loss is
the squared error in units of each signal's spread, averaged over steps and signals.

Score, two cells:

* hidden cause: the floor ignores the episode. It is the expected path from the branch over the lab's range of
  frictions, without gusts. The ceiling is the expected path with this friction. Inferring the gusts, too, scores above
  1.
* noise: the floor is the expected path with this friction, the ceiling is the twin.

There are no further pass conditions. Both floors are known, so none is chosen on a pilot.

Must fail: the episode itself as the answer; a good world given an episode of the same start and pushes with the
friction and the gusts of another scene; the same world without the episode after the branch.

The oracle is the simulator, which replays the episode from its seed. Other worlds do not get the seed, since a world
that can build the lab could replay the answer. Worlds of pictures cannot infer the gusts (see `World.what_if`). They
are scored all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import Floats, Grade, as_world, counterfactuals, means, only, packed, skill_cell, unpacked
from worldline.engines import Linear, SimulatorEngine
from worldline.episode import Arrays, Episode, History
from worldline.labs import replay, stacked
from worldline.world import World, calibrate
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.gusty_puck import GustyPuck
from worldline_exam.scenes.puck import SIGNALS, dataset, draw, puck, squared_error

AT = 2
"""The observation at which twin and episode branch."""
NUM_FRICTIONS = 32
"""Number of frictions in the mean over the lab's range."""
WINDOWS = 2
"""Windows of each episode for the calibration of the reference world."""


@final
@dataclass(frozen=True, kw_only=True)
class CounterfactualTest(ExamTest):
    """Test of counterfactual twins; the module docstring specifies it.

    Args:
        num_scenes: number E of scenes.
        num_steps: length of each episode, steps.
    """

    code: ClassVar[str] = "C4"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Counterfactual twin"
    claim: ClassVar[str] = (
        "It infers hidden causes from one episode, and applies them to other actions in that episode."
    )
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 400
    num_steps: int = 40

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the gusty puck."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Episodes, the other pushes, the twins, and episodes with the hidden causes of another scene."""
        lab, rng = puck(self.pool), np.random.default_rng([4, seed])
        seeds = rng.choice(2**31, self.num_scenes, replace=False)
        taken, drawn = (draw(lab, self.num_scenes, self.num_steps, rng).pushes for _ in range(2))
        others = np.concatenate([taken[:, :AT], drawn[:, AT:]], 1)
        episodes = [replay(lab, int(episode_seed), {"push": taken[e]}) for e, episode_seed in enumerate(seeds)]
        twins = [replay(lab, int(episode_seed), {"push": others[e]}) for e, episode_seed in enumerate(seeds)]
        shuffled = []
        for scene, other in enumerate(np.roll(seeds, 1)):
            start = {name.removeprefix("puck_"): episodes[scene].observations[name][0] for name in SIGNALS}
            shuffled.append(replay(lab, int(other), {"push": taken[scene]}, start))
        return {
            "seed": seeds,
            "friction": np.array([lab.hidden(int(episode_seed))["friction"] for episode_seed in seeds]),
            "others": others[:, AT:],
            "taken": taken,
            **packed("factual", stacked(episodes).observations),
            **packed("shuffled", stacked(shuffled).observations),
            **packed("truth", {n: v[:, AT + 1 :] for n, v in stacked(twins).observations.items()}),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Counterfactual paths after the branch."""
        return _counterfactuals(only(worlds), scenes, "factual")

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """Both floors, the simulator as oracle, and three models that must fail."""
        del pilot
        lab = puck(self.pool)
        simulator = as_world(SimulatorEngine(make_environment=lambda: puck(self.pool), schema=lab.schema))
        episodes = next(iter(logs.values()))
        half = len(episodes) // 2
        engine = Linear.fit(episodes[:half], lab.schema, context=1)
        fitted = calibrate(engine, episodes[half:], horizon=1, num_windows=WINDOWS, seed=0, trust_steps=0)
        linear, without_episode = as_world(engine, fitted), as_world(engine)
        history = _history(scenes)
        low, high = lab.friction
        frictions = low + (high - low) * (np.arange(NUM_FRICTIONS) + 0.5) / NUM_FRICTIONS
        return References(
            floor=packed("path", _expected(lab, scenes, frictions[:, None])),
            ceiling=packed("path", _expected(lab, scenes, scenes["friction"][None].astype(float))),
            oracle=_counterfactuals(simulator, scenes, "factual", seeds=scenes["seed"]),
            must_fail={
                "copy of the episode": packed("path", _after(unpacked(scenes, "factual"))),
                "episode of another scene": _counterfactuals(linear, scenes, "shuffled"),
                "no look at the episode": packed(
                    "path", means(without_episode, history, {"push": scenes["others"]}, signals=SIGNALS)
                ),
            },
            floor_name="unknown friction",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """The cells "hidden cause" and "noise"."""
        truth = unpacked(scenes, "truth")
        loss, unknown, known = (
            squared_error(unpacked(answer, "path"), truth) for answer in (answers, references.floor, references.ceiling)
        )
        typical = {name: value.mean((0, 1), keepdims=True) + 0 * value for name, value in truth.items()}
        marginal = squared_error(typical, truth)
        return Grade(
            cells=(
                skill_cell("hidden cause", loss, unknown, known, marginal=marginal),
                # Not gated by the marginal loss: the lab has small gusts by design.
                skill_cell("noise", loss, known),
            )
        )

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """The scene with the median difference of twin and episode, as a map."""
        truth, factual = unpacked(scenes, "truth"), _after(unpacked(scenes, "factual"))
        apart = squared_error(factual, truth)
        scene = int(np.argsort(apart)[len(apart) // 2])
        rows = {
            "truth": truth,
            "this world": unpacked(answers, "path"),
            "what happened": factual,
            "friction known, no gusts": unpacked(references.ceiling, "path"),
            references.floor_name: unpacked(references.floor, "path"),
        }
        places = {name: row["puck_position"][scene].astype(float) for name, row in rows.items()}
        lines = (FigureLine.of(name, *place.T) for name, place in places.items())
        table = FigurePanel.of("The table from above", "x (m)", "y (m)", lines, equal=True)
        return ExamFigure(
            caption="One scene: what happened, and what would have happened under other pushes with the same friction "
            "and the same gusts. A good world follows the truth, not the path without gusts.",
            panels=(table,),
        )


def _counterfactuals(
    world: World, scenes: Arrays, group: str, *, seeds: NDArray[np.generic] | None = None
) -> dict[str, NDArray[np.generic]]:
    """A world's counterfactuals of the episodes of one group; only the simulator gets their `seeds` [E]."""
    shown = unpacked(scenes, group)
    episodes = [
        Episode(
            observations={name: value[scene] for name, value in shown.items()},
            actions={"push": scenes["taken"][scene]},
            seed=None if seeds is None else int(seeds[scene]),
        )
        for scene in range(len(scenes["seed"]))
    ]
    predicted = counterfactuals(world, episodes, AT, {"push": scenes["others"]}, signals=SIGNALS)
    return packed("path", predicted)


def _after(observations: Arrays) -> dict[str, NDArray[np.generic]]:
    """The observations after the branch."""
    return {name: value[:, AT + 1 :] for name, value in observations.items()}


def _history(scenes: Arrays) -> History:
    """The episodes up to the branch."""
    return History(
        observations={name: value[:, : AT + 1] for name, value in unpacked(scenes, "factual").items()},
        actions={"push": scenes["taken"][:, :AT]},
    )


def _expected(lab: GustyPuck, scenes: Arrays, frictions: Floats) -> dict[str, Floats]:
    """The mean over frictions [F, E or 1] of the paths without gusts, per signal [E, T, 2]."""
    start = {name: value[:, AT] for name, value in unpacked(scenes, "factual").items()}
    total: dict[str, Floats] = {}
    for row in frictions:
        friction = np.broadcast_to(row, scenes["friction"].shape)
        for name, value in lab.expected(start, {"push": scenes["others"]}, {"friction": friction}).items():
            total[name] = total.get(name, np.zeros(value.shape)) + value.astype(float) / len(frictions)
    return total
