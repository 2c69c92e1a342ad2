from __future__ import annotations

from dataclasses import replace

import pytest
from tests.surface.worlds_table import Abilities, ask, worlds_table

from worldline.engines.base import CallCost, Card
from worldline.engines.baselines import Linear, Persistence
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.toys import Integrator
from worldline.world.calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False)
EPISODES = TOY.episodes(12, 14, seed=0)
PLANNER = CrossEntropy(num_candidates=8, num_iterations=1)


def test_a_world_is_asked_for_everything() -> None:
    engine = Linear.fit(EPISODES, TOY.schema)
    calibration = calibrate(engine, TOY.episodes(12, 14, seed=1), horizon=4, num_windows=2, seed=0)
    due = Abilities(
        world="it",
        predicts="vectors",
        bands="yes",
        goals="yes",
        in_steps="–",
        gradients="–",
        what_if="none",
        trust="input",
        samples="–",
        call="not measured",
    )
    found = ask("it", LocalWorld(engine, calibration, PLANNER), EPISODES[0])
    assert replace(found, what_if="none") == due
    bare = ask("it", LocalWorld(engine, None, PLANNER), EPISODES[0])
    assert replace(bare, what_if="none") == replace(due, bands="–", trust="–")


def test_a_world_that_is_not_action_conditioned_has_no_goals() -> None:
    world = LocalWorld(Persistence.fit(EPISODES, TOY.schema), None, PLANNER)
    assert ask("it", world, EPISODES[0]).goals == "not action-conditioned"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (None, "not measured"),
        (CallCost(latency_s=0.1), "none"),
        (CallCost(latency_s=1.0, price=0.02, currency="USD"), "0.02 USD"),
    ],
)
def test_the_price_is_that_of_the_card(monkeypatch: pytest.MonkeyPatch, call: CallCost | None, words: str) -> None:
    engine = Linear.fit(EPISODES, TOY.schema)
    card = replace(engine.describe(), call=call)

    def describe(_: LocalWorld) -> Card:
        return card

    monkeypatch.setattr(LocalWorld, "describe", describe)
    assert ask("it", LocalWorld(engine, None, PLANNER), EPISODES[0]).call == words


def test_the_table_has_a_line_for_each_world() -> None:
    row = ask("it", LocalWorld(Persistence.fit(EPISODES, TOY.schema), None, PLANNER), EPISODES[0])
    lines = worlds_table([row, replace(row, world="other")]).splitlines()
    assert [line.count("|") for line in lines] == [11] * 4
    assert lines[3].startswith("| other | vectors |")
