from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.engines.trivial import Linear
from worldline.errors import UnreadableError, UnsupportedError
from worldline.understanding.exam import coverage, lost
from worldline.understanding.exam.bank import as_world
from worldline.understanding.exam.contract import Pool
from worldline.understanding.exam.examining import examine
from worldline.understanding.exam.lost import KnowsWhenLost
from worldline.understanding.exam.puck import puck


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracle_holds_and_what_must_fail_does(pool: Pool, seed: int) -> None:
    logs = coverage._own_logs(puck(pool), 500)
    assert examine(KnowsWhenLost(pool=pool), seed, {"logs": logs}).flaws == ()


def test_harmless_scenes_are_as_unusual_as_the_harmful_ones() -> None:
    test = KnowsWhenLost(num_each=18)
    scenes = test.generate(0)
    np.testing.assert_array_equal(test.generate(0)["novelty"], scenes["novelty"])
    harmful = scenes["kind"] >= 0
    np.testing.assert_allclose(scenes["novelty"][harmful], scenes["novelty"][~harmful], rtol=0.3)
    assert abs(np.log(scenes["novelty"][harmful] / scenes["novelty"][~harmful])).mean() < 0.03
    tilted = scenes["kind"] == lost.KINDS.index("tilt")
    last = scenes["level"] == lost.NUM_LEVELS - 1
    mean = np.abs(scenes["history.observations.puck_position"].mean(1)).max(-1)
    assert mean[tilted & last].mean() > mean[tilted & (scenes["level"] == 0)].mean()


def test_faults_in_good_answers_are_noticed() -> None:
    rng, test = np.random.default_rng(0), KnowsWhenLost(num_each=18)
    scenes = test.generate(1)
    num = len(scenes["kind"])
    harmful = scenes["kind"] >= 0
    means = {f"mean.{n}": scenes[f"truth.{n}"].mean(1) for n in lost.SIGNALS}
    off = np.where(harmful, 0.5, 0.05) * rng.uniform(0.9, 1.1, num)
    answers = {name: value + off[:, None, None] for name, value in means.items()}
    answers["trust"] = np.where(harmful, 0.1, 0.5) * rng.uniform(0.5, 1.0, num)
    nothing = lost.References(oracle=answers, must_fail={"input novelty": answers})
    good = test.grade(scenes, answers, nothing)
    assert test.grade(scenes, answers, nothing) == good
    assert all(cell.score is not None and cell.score.low > 0.8 for cell in good.cells)
    for trust in (rng.permutation(answers["trust"]), np.full(num, 0.3), 1 - answers["trust"]):
        grade = test.grade(scenes, {**answers, "trust": trust}, nothing)
        assert all(cell.score is not None and cell.score.surely <= 0 for cell in grade.cells)
    blurred = {**{name: value + 100.0 for name, value in means.items()}, "trust": answers["trust"]}
    blurred |= {n: means[n] + rng.normal(0, 9, (num, 1, 1)) for n in means}
    assert test.grade(scenes, blurred, nothing).cells[1].score is None
    assert len(test.exhibit(scenes, answers, nothing).panels) == 3


def test_ranks_share_ties_and_heed_how_often_each_was_drawn() -> None:
    values, weights = np.array([1.0, 2.0, 2.0, 3.0]), np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(lost._ranks(values, weights), [[0.5, 2, 2, 3.5], [1, 2.5, 2.5, 3.5]])
    group = np.zeros(4, int)
    rising = lost._spearman(values, np.array([0.0, 1.0, 1.0, 9.0]), group)
    np.testing.assert_allclose(rising(weights), [1, 1])
    np.testing.assert_allclose(lost._spearman(values, np.ones(4), group)(weights), [0, 0])


def test_a_world_without_trust_or_signals_is_refused() -> None:
    test, schema = KnowsWhenLost(num_each=6), puck(Pool.REPORT).schema
    scenes, logs = test.generate(0), coverage._own_logs(puck(Pool.REPORT), 5)
    with pytest.raises(UnsupportedError, match="no trust"):
        test.ask({"logs": as_world(Linear.fit(logs, schema))}, scenes)
    kept = tuple(signal for signal in schema.signals if signal.name != "puck_velocity")
    with pytest.raises(UnreadableError, match="puck_velocity"):
        test.ask({"logs": as_world(Linear.fit(logs, replace(schema, signals=kept)))}, scenes)
