from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import examine, scores_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Grade, Verdict
from worldline.audit.queries import history_of
from worldline.audit.verdicts import verdict_of
from worldline_exam.base import Pool
from worldline_exam.exam_tests.delay import CURRICULUM, HISTORY, HORIZON, DelayedEffectTest, DelayLine
from worldline_exam.labs.delayed_actuator import LAGS
from worldline_exam.self_check import Examined

SMALL = DelayedEffectTest(pool=Pool.DEVELOPMENT, num_pulses=15, num_episodes=40)


@cache
def examined() -> Examined:
    return examine(SMALL, 0, 40)


def regraded(change) -> Grade:
    found = examined()
    answers = {name: change(array) for name, array in found.references.oracle.items()}
    return SMALL.grade(found.scenes, answers, found.references)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("pool", list(Pool))
def test_it_holds_at_full_size(pool: Pool, seed: int) -> None:
    found = examine(DelayedEffectTest(pool=pool), seed, 300)
    assert (found.flaws, verdict_of(found.oracle)) == ((), Verdict.PASS)
    assert len(found.oracle.cells) == 2 * len(LAGS) - 1
    markov, short = (scores_of(found.must_fail[name]) for name in ("one-frame Markov", "memory of 10 steps"))
    assert markov["lag 0, ahead"] > 0.99
    assert all(value < 0.1 for name, value in markov.items() if not name.startswith(("lag 0", "lag 2,")))
    assert markov["lag 2, on its way"] == pytest.approx(0, abs=1e-3)
    assert [round(short[f"lag {lag}, ahead"], 3) for lag in LAGS] == [1, 1, 1, 1, 0]
    assert short["lag 20, on its way"] == 0
    for grade in found.must_fail.values():
        assert verdict_of(grade) is not Verdict.PASS


def test_it_holds_when_small() -> None:
    found = examined()
    assert (found.flaws, verdict_of(found.oracle)) == ((), Verdict.PASS)


def test_twins_differ_by_one_pulse_and_their_observations_do_not() -> None:
    scenes = examined().scenes
    pulse, none = (history_of(scenes, twin) for twin in ("pulse", "none"))
    np.testing.assert_array_equal(pulse.observations["temperatures"], none.observations["temperatures"])
    done = [
        np.concatenate([h.actions["valves"], scenes[f"next.{t}"]], 1) for h, t in ((pulse, "pulse"), (none, "none"))
    ]
    changed = np.argwhere(done[0] != done[1])
    assert len(changed) == len(scenes["lag"])
    np.testing.assert_array_equal(changed[:, 1], HISTORY - 1 - scenes["back"])
    np.testing.assert_array_equal(changed[:, 2], scenes["tank"])
    assert (scenes["on_its_way"] == (scenes["back"] > 0)).all()
    assert (scenes["back"] <= scenes["lag"]).all()
    assert scenes["truth.pulse"].shape == (len(scenes["lag"]), HORIZON, 5)


def test_no_name_tells_the_lag() -> None:
    listed = str(SMALL.make_lab().schema)
    assert "lag" not in listed
    assert DelayedEffectTest(pool=Pool.REPORT).make_lab().lags != SMALL.make_lab().lags


@pytest.mark.parametrize("steps", [-1, 1])
def test_a_response_one_step_off_is_no_pass(steps: int) -> None:
    found = examined()
    none = found.references.oracle["none"]
    said = none + np.roll(found.references.oracle["pulse"] - none, steps, axis=1)
    grade = SMALL.grade(found.scenes, {"pulse": said, "none": none}, found.references)
    assert max(scores_of(grade).values()) < 0.5
    assert not all(condition.met for condition in grade.conditions)
    assert verdict_of(grade) is not Verdict.PASS


def test_swapped_tanks_and_shuffled_scenes_fail() -> None:
    for change in (lambda said: said[:, :, ::-1], lambda said: np.roll(said, 15, axis=0), lambda said: -said):
        grade = regraded(change)
        assert verdict_of(grade) is Verdict.FAIL
        assert min(scores_of(grade).values()) < -0.5


def test_actions_one_step_late_are_noticed() -> None:
    scenes = dict(examined().scenes)
    for twin in ("pulse", "none"):
        name = f"{twin}.actions.valves"
        whole = np.concatenate([scenes[name], scenes[f"next.{twin}"]], 1)
        late = np.roll(whole, 1, axis=1)
        scenes[name], scenes[f"next.{twin}"] = late[:, : HISTORY - 1], late[:, HISTORY - 1 :]
    answers = SMALL.ask({CURRICULUM: as_world(DelayLine(lab=SMALL.make_lab()))}, scenes)
    grade = SMALL.grade(scenes, answers, examined().references)
    assert verdict_of(grade) is not Verdict.PASS
    assert max(scores_of(grade).values()) < 0.5
