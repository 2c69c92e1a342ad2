"""C4: how the episode would have gone under other pushes, with the same friction and the same gusts.

A puck with a hidden friction was pushed for 40 steps in gusts. A world sees the whole episode and is asked what other
pushes, from the third on, would have led to; the lab, run again from the episode's seed, knows. The error is squared,
in units of each signal's spread, the mean over steps and signals. Two cells:

* hidden cause: 0 is the best that ignores the episode, the path that is expected from the branch with any friction that
  the lab may draw and no gusts; 1 is the path that is expected with this friction. Who infers the gusts too is above 1.
* noise: 0 is the path that is expected with this friction; 1 is the twin.

Must fail: the episode itself as the answer; a good world that is shown an episode of the same start and pushes with the
friction and the gusts of another scene; and that world without the episode after the branch.

Neither floor is chosen on a pilot: both are known. The oracle is the simulator, which replays the episode from its
seed. No other world is told the seed: who can build the lab would replay the answer. Worlds of pictures cannot tell the
gusts (see `World.what_if`), so what they say rests on less; it is scored all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import Grade, as_world, counterfactuals, means, only, packed, skill_cell, unpacked
from worldline.engines import Linear, SimulatorEngine
from worldline.episode import Arrays, Episode, History
from worldline.labs import replay, stacked
from worldline.world import World, calibrate
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.gusty_puck import GustyPuck
from worldline_exam.scenes.puck import SIGNALS, dataset, draw, puck, squared_error

Floats = NDArray[np.floating]

AT = 2
"""The observation at which the paths part."""
NUM_FRICTIONS = 32
"""Of the mean over the frictions that the lab may draw."""
WINDOWS = 2
"""Of each episode, for the reference world's calibration."""


@final
@dataclass(frozen=True, kw_only=True)
class CounterfactualTest(ExamTest):
    """The test.

    Args:
        num_scenes: E.
        num_steps: of each episode.
    """

    code: ClassVar[str] = "C4"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Counterfactual twin"
    claim: ClassVar[str] = (
        "It infers from one course of events what was hidden in it, and carries that over to what else could have been "
        "done."
    )
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 400
    num_steps: int = 40

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """See `ExamTest`."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Episodes, the other pushes, the twins, and episodes with what was hidden in another scene; see `ExamTest`."""
        lab, rng = puck(self.pool), np.random.default_rng([4, seed])
        seeds = rng.choice(2**31, self.num_scenes, replace=False)
        taken, drawn = (draw(lab, self.num_scenes, self.num_steps, rng).pushes for _ in range(2))
        others = np.concatenate([taken[:, :AT], drawn[:, AT:]], 1)
        episodes = [replay(lab, int(one), {"push": taken[e]}) for e, one in enumerate(seeds)]
        twins = [replay(lab, int(one), {"push": others[e]}) for e, one in enumerate(seeds)]
        shuffled = []
        for scene, other in enumerate(np.roll(seeds, 1)):
            start = {name.removeprefix("puck_"): episodes[scene].observations[name][0] for name in SIGNALS}
            shuffled.append(replay(lab, int(other), {"push": taken[scene]}, start))
        return {
            "seed": seeds,
            "friction": np.array([lab.hidden(int(one))["friction"] for one in seeds]),
            "others": others[:, AT:],
            "taken": taken,
            **packed("factual", stacked(episodes).observations),
            **packed("shuffled", stacked(shuffled).observations),
            **packed("truth", {n: v[:, AT + 1 :] for n, v in stacked(twins).observations.items()}),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """What would have followed, scene by scene; see `ExamTest`."""
        return _asked(only(worlds), scenes, "factual")

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """See `ExamTest`; the pilot's scenes are not needed."""
        del pilot
        lab = puck(self.pool)
        simulator = as_world(SimulatorEngine(make_environment=lambda: puck(self.pool), schema=lab.schema))
        episodes = next(iter(logs.values()))
        half = len(episodes) // 2
        engine = Linear.fit(episodes[:half], lab.schema, context=1)
        fitted = calibrate(engine, episodes[half:], horizon=1, num_windows=WINDOWS, seed=0, trust_steps=0)
        linear, unseeing = as_world(engine, fitted), as_world(engine)
        history = _history(scenes)
        low, high = lab.friction
        middles = low + (high - low) * (np.arange(NUM_FRICTIONS) + 0.5) / NUM_FRICTIONS
        return References(
            floor=packed("path", _expected(lab, scenes, middles[:, None])),
            ceiling=packed("path", _expected(lab, scenes, scenes["friction"][None].astype(float))),
            oracle=_asked(simulator, scenes, "factual", seeds=scenes["seed"]),
            must_fail={
                "copy of the episode": packed("path", _after(unpacked(scenes, "factual"))),
                "episode of another scene": _asked(linear, scenes, "shuffled"),
                "no look at the episode": packed(
                    "path", means(unseeing, history, {"push": scenes["others"]}, signals=SIGNALS)
                ),
            },
            floor_name="unknown friction",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """The two cells; see `ExamTest`."""
        truth = unpacked(scenes, "truth")
        loss, unknown, known = (
            squared_error(unpacked(one, "path"), truth) for one in (answers, references.floor, references.ceiling)
        )
        typical = {name: value.mean((0, 1), keepdims=True) + 0 * value for name, value in truth.items()}
        marginal = squared_error(typical, truth)
        return Grade(
            cells=(
                skill_cell("hidden cause", loss, unknown, known, marginal=marginal),
                # No share of the marginal loss is asked for: how small the gusts are is what the lab was built for.
                skill_cell("noise", loss, known),
            )
        )

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """The scene in which twin and episode differ by the median, as maps and over time; see `ExamTest`."""
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
        steps = tuple(float(AT + 1 + step) for step in range(len(places["truth"])))
        over = [
            FigurePanel(
                title=f"{axis} over time",
                x_label="step",
                y_label=f"{axis} (m)",
                lines=tuple(FigureLine(name=n, x=steps, y=tuple(v[:, c].tolist())) for n, v in places.items()),
            )
            for c, axis in enumerate("xy")
        ]
        table = FigurePanel(
            title="The table from above",
            x_label="x (m)",
            y_label="y (m)",
            lines=tuple(
                FigureLine(name=n, x=tuple(v[:, 0].tolist()), y=tuple(v[:, 1].tolist())) for n, v in places.items()
            ),
            equal=True,
        )
        return ExamFigure(
            caption="One scene: what happened, and what would have happened under other pushes with the same friction "
            "and the same gusts. This world has to follow the truth, not the path without gusts.",
            panels=(table, *over),
        )


def _asked(
    world: World, scenes: Arrays, group: str, *, seeds: NDArray[np.generic] | None = None
) -> dict[str, NDArray[np.generic]]:
    """What a world says of the episodes of one group; only the simulator is told their `seeds` [E]."""
    shown = unpacked(scenes, group)
    episodes = [
        Episode(
            observations={name: value[scene] for name, value in shown.items()},
            actions={"push": scenes["taken"][scene]},
            seed=None if seeds is None else int(seeds[scene]),
        )
        for scene in range(len(scenes["seed"]))
    ]
    found = counterfactuals(world, episodes, AT, {"push": scenes["others"]}, signals=SIGNALS)
    return packed("path", found)


def _after(observations: Arrays) -> dict[str, NDArray[np.generic]]:
    """What follows the branch."""
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
