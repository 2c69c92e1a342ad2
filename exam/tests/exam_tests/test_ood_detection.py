from __future__ import annotations

import numpy as np
import pytest

from worldline.audit.grades import Verdict
from worldline.audit.scoring import auroc
from worldline.audit.verdicts import verdict_of
from worldline_exam.base import Pool
from worldline_exam.exam_tests import ood_detection as lost
from worldline_exam.exam_tests.ood_detection import OODDetectionTest
from worldline_exam.scenes.puck import puck, recorded
from worldline_exam.self_check import examine, graded


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracle_holds_and_what_must_fail_does(pool: Pool, seed: int) -> None:
    logs = recorded(puck(pool), 1000, np.random.default_rng(7))
    assert examine(OODDetectionTest(pool=pool), seed, {"logs": logs}).flaws == ()


@pytest.mark.slow
def test_a_trivial_model_with_the_toolkits_trust_has_nothing_of_its_own() -> None:
    """Trust fits a regression of its own, whatever the model: most of what it tells is no model's merit."""
    lab = puck(Pool.REPORT)
    logs = recorded(lab, 300, np.random.default_rng(1))
    examined = examine(OODDetectionTest(num_each=36), 2, {"logs": logs})
    trivial = examined.must_fail[lost.TRIVIAL].cells[0]
    assert trivial.raw["apart"] > 0.5
    assert trivial.score is not None
    assert trivial.score.value < 0.2
    assert trivial.score.surely <= 0
    assert verdict_of(examined.must_fail[lost.TRIVIAL]) is not Verdict.PASS
    floor = examined.references.floor
    own = OODDetectionTest().grade(examined.scenes, floor, examined.references).cells[0]
    assert own.score is not None
    assert own.score.low == own.score.high == 0.0
    best = examined.oracle.cells[0]
    assert best.score is not None
    assert best.score.low > 0.7


@pytest.mark.parametrize("pool", list(Pool))
def test_no_statistic_of_the_input_tells_harmful_from_harmless(pool: Pool) -> None:
    scenes = OODDetectionTest(pool=pool, num_each=60).generate(3)
    harmful, usual = scenes["kind"] >= 0, lost._InputDistribution.of(puck(pool))
    unusual = usual.unusual(lost.history_of(scenes))
    away = np.abs(unusual - np.log([6.0, 2.0, 2.0, 2.0]))
    for values in (*unusual.T, *away.T):
        assert abs(auroc(values, harmful)(np.ones((1, len(harmful))))[0]) < 0.1
    future = (scenes["future"].astype(float) ** 2).sum((1, 2))
    assert abs(auroc(future, harmful)(np.ones((1, len(harmful))))[0]) < 0.2


def test_inputs_that_tell_harmful_from_harmless_make_the_test_void() -> None:
    """Though to tell them by inputs alone is worth less than the floor, which has the toolkit's trust."""
    test = OODDetectionTest(num_each=18)
    scenes = test.generate(0)
    means = {f"mean.{name}": scenes[f"truth.{name}"].mean(1) for name in lost.SIGNALS}
    harmful, odd = scenes["kind"] >= 0, np.random.default_rng(0).random(len(scenes["kind"]))

    def trusting(apart: float) -> dict[str, np.ndarray]:
        return {**means, "trust": odd - apart * harmful}

    references = lost.References(
        oracle=trusting(1.0),
        floor=trusting(0.7),
        ceiling=trusting(1.0),
        must_fail=dict.fromkeys((lost.NOVELTY, lost.PUSHES, lost.PRESENT, lost.TRIVIAL), trusting(0.4))
        | {lost.CONSTANT: trusting(0.0)},
    )
    found = [one.split(" must fail")[0] for one in graded(test, scenes, references).flaws if "must fail" in one]
    assert found == [lost.NOVELTY, lost.PUSHES, lost.PRESENT]


def test_each_table_is_tilted_its_own_way() -> None:
    num, tilt = 40, lost.KINDS.index("tilt")
    found = lost._shifted(Pool.REPORT, np.full(num, 4), np.full(num, tilt), np.random.default_rng(0))
    place = found["truth.puck_position"].astype(float).mean((1, 2))
    ways = place / np.linalg.norm(place, axis=1, keepdims=True)
    assert np.linalg.norm(ways.mean(0)) < 0.5


def ranked() -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Errors that grow with the kind, at two levels."""
    rng = np.random.default_rng(0)
    level, kind = np.repeat([0, 1], 120), np.tile(np.arange(120) % 6 - 1, 2)
    error = np.exp(0.3 * kind + 0.2 * rng.standard_normal(240))
    return rng, level, kind, error


def test_who_is_told_the_kind_ranks_better_than_who_is_told_of_a_change() -> None:
    rng, level, kind, error = ranked()
    reference_rank = lost._reference_rank(error, level, kind)
    every = np.ones((1, 240))
    assert lost._ranking(reference_rank, error, reference_rank, level)(every)[0] == pytest.approx(1, abs=0.01)
    assert 0.3 < lost._ranking((kind >= 0).astype(float), error, reference_rank, level)(every)[0] < 0.8
    luck = rng.permutation(error)
    assert lost._spearman(lost._reference_rank(luck, level, kind), luck, level)(every)[0] > 0.15
    assert np.isnan(lost._ranking(reference_rank, luck, lost._reference_rank(luck, level, kind), level)(every)[0])


def test_errors_that_are_no_numbers_are_not_ranked() -> None:
    _, level, kind, error = ranked()
    reference_rank = lost._reference_rank(error, level, kind)
    error[kind < 0] = np.nan
    assert np.isnan(lost._ranking(reference_rank, error, reference_rank, level)(np.ones((3, 240)))).all()


def test_harmless_scenes_are_as_unusual_as_the_harmful_ones() -> None:
    test = OODDetectionTest(num_each=18)
    scenes = test.generate(0)
    harmful = scenes["kind"] >= 0
    assert abs(np.log(scenes["novelty"][harmful] / scenes["novelty"][~harmful])).mean() < 0.15
    tilted = scenes["kind"] == lost.KINDS.index("tilt")
    last = scenes["level"] == lost.NUM_LEVELS - 1
    mean = np.abs(scenes["history.observations.puck_position"].mean(1)).max(-1)
    assert mean[tilted & last].mean() > mean[tilted & (scenes["level"] == 0)].mean()


def test_faults_in_good_answers_are_noticed() -> None:
    rng, test = np.random.default_rng(0), OODDetectionTest(num_each=18)
    scenes = test.generate(1)
    num = len(scenes["kind"])
    harmful = scenes["kind"] >= 0
    means = {f"mean.{n}": scenes[f"truth.{n}"].mean(1) for n in lost.SIGNALS}
    off = np.where(harmful, 0.5, 0.05) * rng.uniform(0.9, 1.1, num)
    answers = {name: value + off[:, None, None] for name, value in means.items()}
    answers["trust"] = np.where(harmful, 0.1, 0.5) * rng.uniform(0.5, 1.0, num)
    chance = {**answers, "trust": np.full(num, 0.5)}
    nothing = lost.References(oracle=answers, floor=chance, ceiling=answers, must_fail={}, floor_name="chance")
    good = test.grade(scenes, answers, nothing)
    assert test.grade(scenes, answers, nothing) == good
    assert all(cell.score is not None and cell.score.low > 0.8 for cell in good.cells)
    for trust in (rng.permutation(answers["trust"]), np.full(num, 0.3), 1 - answers["trust"]):
        grade = test.grade(scenes, {**answers, "trust": trust}, nothing)
        assert all(cell.score is not None and cell.score.surely <= 0 for cell in grade.cells)
    blurred = {**{name: value + 100.0 for name, value in means.items()}, "trust": answers["trust"]}
    blurred |= {n: means[n] + rng.normal(0, 9, (num, 1, 1)) for n in means}
    assert test.grade(scenes, blurred, nothing).cells[1].score is None
    assert len(test.figure(scenes, answers, nothing).panels) == 2


def test_ranks_share_ties_and_heed_how_often_each_was_drawn() -> None:
    values, weights = np.array([1.0, 2.0, 2.0, 3.0]), np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(lost._ranks(values, weights), [[0.5, 2, 2, 3.5], [1, 2.5, 2.5, 3.5]])
    group = np.zeros(4, int)
    rising = lost._spearman(values, np.array([0.0, 1.0, 1.0, 9.0]), group)
    np.testing.assert_allclose(rising(weights), [1, 1])
    np.testing.assert_allclose(lost._spearman(values, np.ones(4), group)(weights), [0, 0])
