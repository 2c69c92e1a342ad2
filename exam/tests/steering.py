"""A toy test of the exam whose right answers are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldline.audit.grades import Grade
from worldline.audit.queries import history_of, means, only, packed_history
from worldline.audit.scoring import skill_cell
from worldline.episode import Arrays, Episode, History
from worldline.labs.playing import replay, stacked
from worldline.world.base import World
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.wind import Wind

STEPS = 4
EPISODES, SCENES = 30, 30


@dataclass(frozen=True, kw_only=True)
class Steering(ExamTest):
    """How far a motor takes a boat beyond where it would drift."""

    code = "C9"
    section = Section.CAUSE
    title = "Steering"
    claim = "It knows what the motor does."
    signal: str = "boat_position"
    tempting: bool = False
    num_scenes: int = SCENES

    def datasets(self) -> tuple[DatasetSpec, ...]:
        return (
            DatasetSpec(
                name="boat", make_lab=lambda: Wind(0.0), asked=("boat_position",), num_episodes=EPISODES,
                num_steps=12, num_calibration=12,
            ),
        )  # fmt: skip

    def generate(self, seed: int) -> Arrays:
        lab, rng = Wind(0.0), np.random.default_rng(seed)
        motors = rng.uniform(-2, 2, (self.num_scenes, STEPS, 1)).astype(np.float32)
        # Derived from the seed as for logs: with an equal seed, scenes and logged episodes would begin alike.
        seeds = [int(np.random.SeedSequence([seed, one]).generate_state(1)[0]) for one in range(self.num_scenes)]
        pushed = stacked([replay(lab, one, {"motor": motor}) for one, motor in zip(seeds, motors, strict=True)])
        still = stacked([replay(lab, one, {"motor": np.zeros((STEPS, 1), np.float32)}) for one in seeds])
        start = {name: value[:, :1] for name, value in pushed.observations.items()}
        past = {"motor": np.zeros((self.num_scenes, 0, 1), np.float32)}
        return {
            **packed_history(History(observations=start, actions=past)),
            "motor": motors,
            "effect": pushed.observations["boat_position"][:, 1:] - still.observations["boat_position"][:, 1:],
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        world, history = only(worlds), history_of(scenes)
        moved, held = (
            means(world, history, {"motor": motor}, signals=(self.signal,))[self.signal]
            for motor in (scenes["motor"], np.zeros_like(scenes["motor"]))
        )
        return {"effect": moved - held}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        assert len(logs["boat"]) == EPISODES
        assert not np.array_equal(pilot["motor"], scenes["motor"])
        share = 0.6 if self.tempting else 0.0
        return References(
            oracle={"effect": scenes["effect"]}, must_fail={"blind": {"effect": share * scenes["effect"]}}
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        size = (scenes["effect"].astype(float) ** 2).sum((1, 2))
        error = ((scenes["effect"].astype(float) - answers["effect"]) ** 2).sum((1, 2))
        return Grade(cells=(skill_cell("boat", error, size),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        line = FigureLine.of("this world", range(STEPS), answers["effect"][0, :, 0])
        return ExamFigure(caption="It moves.", panels=(FigurePanel.of("Boat", "step", "m", (line,)),))
