from __future__ import annotations

import numpy as np
import pytest
from exam.tests.grading import scores_of, split

from worldline.episode import Episode
from worldline_exam.base import Pool
from worldline_exam.exam_tests import coverage
from worldline_exam.exam_tests.coverage import JointCoverageTest
from worldline_exam.references.puck_oracle import PuckOracle
from worldline_exam.scenes.puck import SIGNALS, puck, recorded
from worldline_exam.self_check import examine


def logs_of(pool: Pool, num_episodes: int) -> list[Episode]:
    return recorded(puck(pool), num_episodes, np.random.default_rng([6, num_episodes]))


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracle_holds_and_what_must_fail_does(pool: Pool, seed: int) -> None:
    test = JointCoverageTest(pool=pool, num_scenes=200, num_own=1000)
    assert examine(test, seed, {"logs": logs_of(pool, 300)}).flaws == ()


def test_worlds_are_calibrated_for_as_many_steps_as_are_asked() -> None:
    """At more, windows would fit only where an episode begins, and bands hold too much elsewhere."""
    test = JointCoverageTest(num_scenes=10, num_own=10)
    asked = test.generate(0)
    (learned,) = test.datasets()
    assert {asked[f"truth.{name}"].shape[1] for name in SIGNALS} == {asked["future"].shape[1]} == {learned.horizon}


def test_faults_in_good_answers_are_noticed() -> None:
    test = JointCoverageTest(pool=Pool.DEVELOPMENT, num_scenes=60, num_own=300)
    scenes = test.generate(0)
    references = test.references(scenes, test.generate(1), {"logs": logs_of(test.pool, 160)})
    good = test.grade(scenes, references.oracle, references)
    assert good.conditions[0].met
    assert test.grade(scenes, references.oracle, references) == good
    least = min(scores_of(good).values())
    assert least > 0.85
    other = {name: np.roll(value, 1, 0) for name, value in references.oracle.items()}
    late = {name: np.roll(value, 1, 1 if name.startswith("mean") else 2) for name, value in references.oracle.items()}
    for planted in (other, late):
        grade = test.grade(scenes, planted, references)
        assert not grade.conditions[0].met
        assert min(scores_of(grade).values()) < least - 0.1
    for factor in (0.3, 4.0):  # too sure of itself, and far too careful
        scaled = _scaled(references.oracle, factor)
        grade = test.grade(scenes, scaled, references)
        assert not grade.conditions[0].met
        assert min(scores_of(grade).values()) < least
    endless = {n: v if n.startswith("mean") else v * np.inf for n, v in references.oracle.items()}
    assert not scores_of(test.grade(scenes, endless, references))
    assert len(test.figure(scenes, references.oracle, references).panels) == 2


def _scaled(answers: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    found = dict(answers)
    for name in SIGNALS:
        mean = answers[f"mean.{name}"][:, None]
        for edge in ("low", "high"):
            found[f"{edge}.{name}"] = mean + factor * (answers[f"{edge}.{name}"] - mean)
    return found


def test_the_paths_that_bands_stand_for_lie_inside_them_as_often_as_they_say() -> None:
    steps = np.arange(1, coverage.AHEAD + 1)[:, None] * np.ones(2)
    reach = np.array(coverage.LEVELS)[None, :, None, None] * steps
    answers = {"mean.a": np.zeros((1, coverage.AHEAD, 2)), "low.a": -reach, "high.a": reach}
    paths = coverage._ensemble(answers, "a")
    np.testing.assert_allclose(paths.mean(1), 0, atol=1e-12)
    for number, level in enumerate(coverage.LEVELS):
        inside = (np.abs(paths) <= reach[:, number, None] + 1e-12).all((2, 3)).mean()
        assert abs(inside - level) <= 2 / coverage.NUM_PATHS


def test_the_energy_score_is_what_it_says() -> None:
    rng = np.random.default_rng(0)
    paths, truth = rng.standard_normal((3, 5, 4, 2)), rng.standard_normal((3, 4, 2))
    found = coverage._energy(paths, truth, 25)
    for scene in range(3):
        near = np.mean([np.linalg.norm(one - truth[scene]) for one in paths[scene]])
        apart = np.mean([[np.linalg.norm(a - b) for a in paths[scene]] for b in paths[scene]])
        assert found[scene] == pytest.approx(near - apart / 2)


def test_who_knows_the_law_finds_the_friction() -> None:
    lab = puck(Pool.DEVELOPMENT)
    scenes = JointCoverageTest(pool=Pool.DEVELOPMENT, num_scenes=40).generate(5)
    history = coverage.history_of(scenes)
    engine = PuckOracle(lab=lab, context=16)
    whole = engine.observe(None, history, seed=0)
    best = engine.frictions[whole.evidence.argmax(1)]
    assert np.corrcoef(best, scenes["friction"])[0, 1] > 0.9
    first, rest = split(history, 6)
    folded = engine.observe(engine.observe(None, first, seed=0), rest, seed=0)
    np.testing.assert_allclose(folded.evidence, whole.evidence, atol=1e-8)
