from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exam.tests.altered import Altered
from exam.tests.grading import examine, score_of

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.queries import unpacked
from worldline.audit.verdicts import verdict_of
from worldline.engines.base import Engine
from worldline.episode import Arrays
from worldline.labs.playing import replay
from worldline_exam.base import Pool, References
from worldline_exam.exam_tests.influence import MAX_GAP, MIN_EFFECT, InfluenceTest, leaks
from worldline_exam.labs.pusher_block import STATE
from worldline_exam.references.lab_oracle import oracle_of
from worldline_exam.scenes.pusher import CONTACT, block_distance, make_lab
from worldline_exam.self_check import Examined, graded

SMALL = InfluenceTest(num_scenes=24, num_steps=12)
NOTHING = References(oracle={}, must_fail={})


def asked(test: InfluenceTest, engine: Engine, scenes: Arrays) -> Arrays:
    return test.ask({test.datasets()[0].name: as_world(engine)}, scenes)


@pytest.fixture(scope="module")
def small() -> Examined:
    return examine(SMALL, 5, 12, 30)


def test_the_small_test_holds(small: Examined) -> None:
    assert (small.flaws, score_of(small.oracle).value, verdict_of(small.oracle)) == ((), 1, Verdict.PASS)


def test_models_that_must_fail_score_chance_by_themselves(small: Examined) -> None:
    """Whatever the condition says of them."""
    for name in ("equal sensitivity", "action-blind", "nearness alone"):
        assert abs(score_of(small.must_fail[name]).value) < 0.1, name
        assert verdict_of(small.must_fail[name]) is not Verdict.PASS


@pytest.mark.parametrize("name", ["equal sensitivity", "action-blind", "nearness alone"])
def test_who_tells_influence_without_an_effect_makes_the_test_void(small: Examined, name: str) -> None:
    """The gate, the twin effect, is not met, and does not excuse it."""
    oracle = small.references.oracle
    moved = {key: 1.1 * value if key.startswith("second.block") else value for key, value in oracle.items()}
    shifted = {key: value + 100 if key.startswith("second.block_position") else value for key, value in moved.items()}
    as_influenced = {
        key: np.where(small.scenes["influenced"][:, None, None], shifted[key], value) for key, value in oracle.items()
    }
    references = replace(small.references, must_fail={name: as_influenced})
    assert not all(one.met for one in SMALL.grade(small.scenes, as_influenced, references).conditions)
    (why,) = graded(SMALL, small.scenes, references).flaws
    assert f"{name} must fail but scores 1.00" in why


def test_couples_share_actions_and_gap_and_differ_in_influence(small: Examined) -> None:
    scenes, lab = small.scenes, make_lab(Pool.REPORT)
    for group in ("first", "second"):
        velocity = scenes[f"actions.{group}"]
        np.testing.assert_array_equal(velocity[::2], velocity[1::2])
    truth = unpacked(scenes, "truth")
    size = block_distance(lab, *({name: v[:, at] for name, v in truth.items()} for at in (0, 1)))
    assert scenes["influenced"].tolist() == [True, False] * 12
    assert size[::2].min() > MIN_EFFECT
    assert size[1::2].max() < MIN_EFFECT / 10
    gap = scenes["gap"]
    assert (gap[:12] < CONTACT).all()
    assert ((gap[12:] >= CONTACT) & (gap[12:] < MAX_GAP)).all()
    assert np.median(np.abs(gap[::2] - gap[1::2])) < 0.01


def test_scenes_are_the_labs_own(small: Examined) -> None:
    scenes = small.scenes
    for scene in (0, 1, 17):
        done = np.concatenate([scenes["prelude"][scene], scenes["actions.second"][scene]])
        path = replay(make_lab(Pool.REPORT), int(scenes["seed"][scene]), {"velocity": done}).observations
        for name in STATE:
            np.testing.assert_array_equal(path[name][-12:], scenes[f"truth.{name}"][scene, 1])


def test_changed_sequences_change_from_a_step_on(small: Examined) -> None:
    scenes = small.scenes
    differ = (scenes["actions.changed"] != scenes["actions.first"]).any(-1)
    np.testing.assert_array_equal(differ.argmax(1), scenes["changed_since"])
    assert differ.any(1).all()
    assert scenes["changed_since"].min() >= 1


def test_a_peek_at_the_next_action_is_a_bug(small: Examined) -> None:
    said = asked(SMALL, Altered(inner=oracle_of(make_lab(Pool.REPORT)), by=-1), small.scenes)
    grade = SMALL.grade(small.scenes, said, NOTHING)
    assert any("pusher_position" in bug for bug in grade.bugs)
    assert verdict_of(grade) is Verdict.FAIL


@pytest.mark.parametrize(("times", "found"), [(1e-7, 0), (1e-4, 1)])
def test_only_rounding_is_forgiven(small: Examined, times: float, found: int) -> None:
    """The smallest leak: one component of one step in one state."""
    said = dict(small.references.oracle)
    leaked = said["changed.block_position"].copy()
    leaked[7, 0, 1] += times * np.abs(said["first.block_position"]).max()
    assert len(leaks(small.scenes, {**said, "changed.block_position": leaked})) == found
    assert len(leaks(small.scenes, {**said, "changed.block_position": leaked * np.nan})) == 1


def test_other_planted_faults_are_noticed(small: Examined) -> None:
    scenes, right = small.scenes, dict(small.references.oracle)
    shuffled = {name: np.roll(value, 1, 0) for name, value in right.items()}
    grade = SMALL.grade(scenes, shuffled, NOTHING)
    assert score_of(grade).high < 0
    assert not any(one.met for one in grade.conditions)
    swapped = {
        f"{group}.{name}": right[f"{group}.{other}"]
        for group in ("first", "second", "changed")
        for name, other in zip(STATE, ("block_position", "pusher_position", "block_angle"), strict=True)
    }
    assert score_of(SMALL.grade(scenes, swapped, NOTHING)).value < 0.5


def test_without_a_twin_effect_it_is_no_pass(small: Examined) -> None:
    """The right order of sizes, all in the wrong direction."""
    right = dict(small.references.oracle)
    wrong = {**right, "first.block_position": right["second.block_position"]}
    wrong["second.block_position"] = right["first.block_position"]
    wrong["changed.block_position"] = wrong["first.block_position"]
    grade = SMALL.grade(small.scenes, wrong, NOTHING)
    assert score_of(grade).value == 1
    assert [one.met for one in grade.conditions] == [True, False]
    assert verdict_of(grade) is Verdict.INCONCLUSIVE
