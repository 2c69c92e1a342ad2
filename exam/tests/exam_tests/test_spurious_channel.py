from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exam.tests.grading import POOLS, examine, low_of, score_of

from worldline.audit.grades import Grade, Verdict
from worldline.audit.verdicts import verdict_of
from worldline.episode import Future
from worldline.errors import InputError
from worldline.labs.playing import explore
from worldline_exam.exam_tests.spurious_channel import (
    LAMP_ONLY,
    PLAIN,
    SCORED,
    TEMPTED,
    LampOracle,
    SpuriousChannelTest,
    lamp_of,
)
from worldline_exam.labs.lamp import STATIONS, together
from worldline_exam.self_check import Examined, graded


@pytest.fixture(scope="module", params=POOLS)
def test(request: pytest.FixtureRequest) -> SpuriousChannelTest:
    return SpuriousChannelTest(pool=request.param)


@pytest.fixture(scope="module")
def examined(test: SpuriousChannelTest) -> Examined:
    return examine(test, 0, 150)


def test_it_holds(examined: Examined) -> None:
    assert examined.flaws == ()
    assert low_of(examined.oracle) > 0.999
    assert verdict_of(examined.oracle) is Verdict.PASS
    assert verdict_of(examined.must_fail[LAMP_ONLY]) is Verdict.FAIL
    assert verdict_of(examined.must_fail[PLAIN]) is not Verdict.PASS
    assert verdict_of(examined.must_fail[TEMPTED]) is not Verdict.PASS


def test_the_station_is_scored_whose_lamp_tempts_who_can_express_the_law(examined: Examined) -> None:
    shares = [cell.raw["tempted"] for cell in examined.oracle.cells]
    assert shares == sorted(shares, reverse=True)  # the more, the oftener the lamp is right
    assert shares[0] > 0.7
    assert shares[2] < 0.3
    assert [cell.name for cell in examined.oracle.cells if cell.score is not None] == [SCORED]
    assert all("tempts too little" in cell.note for cell in examined.oracle.cells[:2])
    tempted = examined.must_fail[TEMPTED]
    assert tempted.cells[2].score is not None
    assert tempted.cells[2].score.value == shares[2]
    assert not tempted.conditions[0].met


def test_nobody_who_has_the_form_of_the_law_is_tempted(examined: Examined) -> None:
    """So a PASS says what a model can express and was trained to find, and no more; the figure stands beside it."""
    assert all(cell.raw["right_form"] > 0.98 for cell in examined.oracle.cells)


def test_the_levers_may_not_do_too_much_either(test: SpuriousChannelTest, examined: Examined) -> None:
    good = examined.references.oracle["heats"]
    middle = good.mean((1, 2), keepdims=True)
    for times, met in ((0.4, False), (0.6, True), (1.4, True), (1.6, False)):
        grade = test.grade(examined.scenes, {"heats": middle + times * (good - middle)}, examined.references)
        assert low_of(grade) > 0.999
        assert all(one.met == met for one in grade.conditions)


def test_scenes_flip_one_thing_at_a_time(test: SpuriousChannelTest, examined: Examined) -> None:
    scenes = examined.scenes
    np.testing.assert_array_equal(scenes["lamps"][:, 0], 1 - scenes["lamps"][:, 1])
    first, second = (together(scenes["levers"][:, way].astype(float)) for way in range(2))
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(np.abs(scenes["levers"][:, 0]), np.abs(scenes["levers"][:, 1]))
    lab = lamp_of(test.pool)
    np.testing.assert_allclose(np.abs(scenes["truth"][:, 0] - scenes["truth"][:, 1]), 2 * abs(lab.effect), atol=1e-9)
    for number, station in enumerate(STATIONS):  # and nothing goes together that was not announced
        assert abs(np.corrcoef(scenes["lamps"][:, 0, number], first[:, number])[0, 1]) < 0.35
        assert scenes[f"history.observations.{station.heat}"].shape == (100, 9, 1)


def test_a_mixture_scores_its_share(test: SpuriousChannelTest, examined: Examined) -> None:
    """A quarter of the lamp's effect beside three quarters of the levers'."""
    scenes = examined.scenes
    lab = lamp_of(test.pool)
    sign = np.where(together(scenes["levers"].astype(float)), 1.0, -1.0)[:, None]
    lit = (2 * scenes["lamps"] - 1)[:, :, None]
    for lamp in (0.0, 0.25, 0.6, 1.0):
        grade = test.grade(scenes, {"heats": lab.effect * ((1 - lamp) * sign + lamp * lit)}, examined.references)
        assert score_of(grade).value == pytest.approx(1 - lamp, abs=1e-6)
        assert all(one.met for one in grade.conditions) == (lamp <= 0.5)


def test_it_notices_what_is_wrong(test: SpuriousChannelTest, examined: Examined) -> None:
    scenes, good = examined.scenes, examined.references.oracle["heats"]

    def of(heats: np.ndarray) -> Grade:
        return test.grade(scenes, {"heats": heats}, examined.references)

    assert verdict_of(of(good)) is Verdict.PASS
    for wrong in (
        np.roll(good, 1, axis=0),  # another scene
        np.roll(good, 1, axis=3),  # another station
        good[:, :, ::-1],  # the other levers
        good.swapaxes(1, 2),  # the lamp for the levers
    ):
        assert verdict_of(of(wrong)) is not Verdict.PASS
    assert verdict_of(of(-good)) is Verdict.FAIL
    assert verdict_of(of(np.zeros_like(good))) is Verdict.FAIL  # the levers do nothing, and neither does the lamp
    assert verdict_of(of(good * np.nan)) is Verdict.INCONCLUSIVE
    weak = good.mean((1, 2), keepdims=True) + 0.4 * (good - good.mean((1, 2), keepdims=True))
    assert low_of(of(weak)) > 0.999  # all of it is the levers', and it is too little
    assert verdict_of(of(weak)) is Verdict.INCONCLUSIVE


def test_a_lamp_that_tempts_nobody_makes_the_test_void(test: SpuriousChannelTest, examined: Examined) -> None:
    references = replace(examined.references, must_fail={TEMPTED: examined.references.oracle})
    (why,) = graded(test, examined.scenes, references).flaws
    assert f"{TEMPTED} must fail but scores 1.00" in why


def test_the_stoker_is_the_lab(test: SpuriousChannelTest) -> None:
    lab = lamp_of(test.pool)
    stoker, episodes = LampOracle.lawful(lab), [explore(lab, seed, 4) for seed in range(3)]
    start = {n: np.stack([one.observations[n][0] for one in episodes]) for n in episodes[0].observations}
    levers = {s.levers: np.stack([one.actions[s.levers] for one in episodes]) for s in STATIONS}
    found = stoker.imagine(start, Future(actions={k: v[:, None] for k, v in levers.items()}), num_samples=1, seed=0)
    for name, due in lab.simulate(start, levers).items():
        np.testing.assert_allclose(found.signals[name][:, 0, 0], due, atol=1e-5)
    with pytest.raises(InputError, match="belief is a str"):
        stoker.imagine("nothing", Future(actions={k: v[:, None] for k, v in levers.items()}), num_samples=1, seed=0)
