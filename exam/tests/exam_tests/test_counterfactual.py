from __future__ import annotations

import numpy as np
import pytest
from exam.tests.grading import score_of

from worldline.audit.baselines import as_world
from worldline.audit.verdicts import flaws, verdict_of
from worldline.engines.baselines import Linear, Persistence
from worldline.episode import Episode
from worldline.errors import UnsupportedError
from worldline.world.fit_calibration import calibrate
from worldline_exam.base import Pool
from worldline_exam.exam_tests.counterfactual import AT, CounterfactualTest
from worldline_exam.scenes.puck import SIGNALS, puck, recorded
from worldline_exam.self_check import examine


def logs_of(pool: Pool, num_episodes: int) -> list[Episode]:
    return recorded(puck(pool), num_episodes, np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracle_holds_and_what_must_fail_does(pool: Pool, seed: int) -> None:
    found = examine(CounterfactualTest(pool=pool, num_scenes=150), seed, {"logs": logs_of(pool, 200)})
    assert (found.flaws, verdict_of(found.oracle)) == ((), "PASS")


def test_faults_in_good_answers_are_noticed() -> None:
    pool = Pool.DEVELOPMENT
    test, logs = CounterfactualTest(pool=pool, num_scenes=16), logs_of(pool, 60)
    scenes = test.generate(0)
    references = test.references(scenes, scenes, {"logs": logs})
    good = test.grade(scenes, references.oracle, references)
    assert verdict_of(good) == "PASS"
    assert test.grade(scenes, references.oracle, references) == good
    late = {name: np.roll(value, 1, 1) for name, value in references.oracle.items()}
    other = {name: np.roll(value, 1, 0) for name, value in references.oracle.items()}
    swapped = {name: value[..., ::-1] for name, value in references.oracle.items()}
    for planted in (late, other, swapped):
        assert flaws(test.grade(scenes, planted, references), {}, 1.0)
    engine = Linear.fit(logs[:30], puck(pool).schema, context=1)
    world = as_world(engine, calibrate(engine, logs[30:], horizon=1, num_windows=2, seed=0, trust_steps=0))
    learned = test.grade(scenes, test.ask({"logs": world}, scenes), references)
    assert score_of(learned).value > 0.5
    shifted = {**scenes, "others": np.roll(scenes["others"], 1, 1)}
    wrong = test.grade(scenes, test.ask({"logs": world}, shifted), references)
    assert score_of(wrong).value < score_of(learned).value - 0.2
    panels = test.figure(scenes, references.oracle, references).panels
    assert {line.name for line in panels[0].lines} >= {"truth", "this world", "what happened"}


def test_the_twin_shares_the_start_the_friction_and_the_gusts() -> None:
    test, lab = CounterfactualTest(num_scenes=10, num_steps=12), puck(Pool.REPORT)
    scenes = test.generate(3)
    calm = {}
    start = {name: scenes[f"factual.{name}"][:, AT] for name in SIGNALS}
    for part, pushes in (("factual", scenes["taken"][:, AT:]), ("truth", scenes["others"])):
        calm[part] = lab.expected(start, {"push": pushes}, {"friction": scenes["friction"]})["puck_position"]
    found = scenes["truth.puck_position"] - scenes["factual.puck_position"][:, AT + 1 :]
    np.testing.assert_allclose(found, calm["truth"] - calm["factual"], atol=1e-5)
    assert np.abs(found).max() > 0.1


def test_a_world_that_heeds_no_actions_cannot_tell() -> None:
    test, logs = CounterfactualTest(pool=Pool.DEVELOPMENT, num_scenes=2), logs_of(Pool.DEVELOPMENT, 4)
    still = as_world(Persistence.fit(logs, puck(Pool.DEVELOPMENT).schema))
    with pytest.raises(UnsupportedError, match="is not action-conditioned"):
        test.ask({"logs": still}, test.generate(0))
