"""The audit says all that it can say, on carts whose law is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.audit.carts import HORIZON, Cart, at_random, carts, thermostat, timid, world, write

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.measured import Advice, Audit
from worldline.data.store import Store
from worldline.engines.baselines import Linear, Persistence
from worldline.episode import Episode
from worldline.errors import BundleError, DataError, UnknownNameError
from worldline.labs.playing import explore
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.audit import audit
from worldline.workflows.record import record
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline_exam.labs.gusty_puck import GustyPuck


def said(found: Audit) -> str:
    return " ".join((*found.decision.reasons, *found.decision.limits, *found.decision.help))


def test_the_law_itself_on_varied_logs_is_deployed(tmp_path: Path) -> None:
    found = audit(world(Cart()), write(tmp_path / "logs"))
    assert found.decision.advice is Advice.DEPLOY, found.decision
    assert found.decision.limits == ()
    assert found.decision.cause is Verdict.NOT_MEASURED
    assert [one.agreement for one in found.measured.effects] == ["agrees"] * 3
    assert [one.steps for one in found.measured.trusted] == [6]
    assert any("--env" in line for line in found.decision.help)


def test_persistence_is_not_deployed(tmp_path: Path) -> None:
    engine = Persistence.fit(carts(100, 2), Cart().describe().schema)
    found = audit(as_world(engine), write(tmp_path / "logs"))
    assert found.decision.advice is Advice.NO
    assert "No signal can be trusted" in found.decision.reasons[0]
    assert "ignores its actions" in found.decision.reasons[1]


def test_effects_of_a_thermostat_are_not_identifiable_and_limit_the_world(tmp_path: Path) -> None:
    found = audit(world(Cart(), thermostat), write(tmp_path / "logs", thermostat))
    assert found.decision.advice is Advice.LIMITS, found.decision
    assert {one.agreement for one in found.measured.effects} == {"not identifiable"}
    assert found.measured.excitation[0].left.value < 0.02
    assert "NOT IDENTIFIABLE" in said(found)
    assert any(
        line.startswith("Randomise push in 10\u00a0% of steps") and "excitation is" in line
        for line in found.decision.help
    )


def test_a_world_that_peeks_is_not_deployed_though_its_figures_are_good(tmp_path: Path) -> None:
    found = audit(world(Cart(peeks=0.02)), write(tmp_path / "logs"))
    assert found.decision.advice is Advice.NO
    assert "depend on later actions" in found.decision.reasons[0]
    assert found.measured.leak.leaks
    assert found.measured.leak.signal == "place"


@pytest.mark.slow
@pytest.mark.parametrize(("narrow", "advice"), [(0.35, Advice.NO), (0.76, Advice.LIMITS)])
def test_bands_that_are_too_narrow_are_found_out(tmp_path: Path, narrow: float, advice: Advice) -> None:
    found = audit(world(Cart(), narrow=narrow), write(tmp_path / "logs", count=150))
    assert found.decision.advice is advice, found.decision
    assert found.measured.coverage[0].verdict == "narrow"
    assert any("calibrate" in line for line in found.decision.help)


@pytest.mark.parametrize(("gain", "told"), [(-1.0, "opposite"), (0.4, "apart")])
def test_effects_of_the_wrong_sign_or_size_are_found_out(tmp_path: Path, gain: float, told: str) -> None:
    found = audit(world(Cart(gain=gain)), write(tmp_path / "logs"))
    assert {one.agreement for one in found.measured.effects} == {told}
    assert found.decision.advice is not Advice.DEPLOY


def test_the_highest_level_of_few_calibration_episodes_is_named(tmp_path: Path) -> None:
    engine = Cart()
    few = calibrate(engine, carts(5000, 6), horizon=HORIZON, num_windows=2, seed=0, trust_steps=1, with_causes=False)
    found = audit(LocalWorld(engine, few, CrossEntropy()), write(tmp_path / "logs"))
    assert {one.level for one in found.measured.coverage} == {0.8}
    assert any(one.startswith("Its bands are graded at the level 80\u00a0%") for one in found.decision.limits)
    assert found.facts["Bands"] == "graded at the level 80\u00a0%; set by 5\u00a0episodes"


def test_half_of_the_range_is_a_limit(tmp_path: Path) -> None:
    found = audit(world(Cart(), timid), write(tmp_path / "logs", timid))
    assert found.decision.advice is Advice.LIMITS
    assert any(line.startswith("Keep push between") for line in found.decision.limits)


def test_a_hidden_cause_of_actions_and_outcome_takes_the_effects_back(tmp_path: Path) -> None:
    found = audit(world(Cart(), hidden=0.8), write(tmp_path / "logs", hidden=0.8))
    assert found.measured.placebo[0].found
    assert {one.agreement for one in found.measured.effects} == {"not identifiable"}
    assert found.decision.advice is not Advice.DEPLOY
    assert "predict the next action" in said(found)


def test_a_world_that_says_the_same_of_everything_has_collapsed(tmp_path: Path) -> None:
    found = audit(world(Cart(constant=0.0)), write(tmp_path / "logs"))
    assert found.measured.rank.collapsed
    assert found.measured.rank.predicted == 0.0
    assert any(line.startswith("Predictions hardly depend on the history") for line in found.decision.reasons)
    assert found.decision.advice is Advice.NO


@pytest.mark.slow
@pytest.mark.parametrize(("share", "later"), [(0.15, "not identifiable"), (1.0, "agrees")])
def test_randomised_steps_make_effects_of_a_thermostat_identifiable(tmp_path: Path, share: float, later: str) -> None:
    """If only some steps are random, what a change of two steps does stays confounded."""
    schema = Cart().describe().schema
    flag = Signal(name="randomised", role=Role.EXOGENOUS, kind=Kind.DISCRETE, shape=(), num_values=2)
    store = Store.create(tmp_path / "logs", Schema(signals=(*schema.signals, flag), step_s=1.0))
    for number in range(80):
        draw, place, places, pushes, flags = np.random.default_rng(number), 0.0, [0.0], [], []
        for _ in range(40):
            flags.append(bool(draw.random() < share))
            pushes.append(at_random(place, draw) if flags[-1] else thermostat(place, draw))
            place = 0.9 * place + pushes[-1] + 0.3 * draw.normal()
            places.append(place)
        store.append(
            Episode(
                observations={"place": np.array(places, np.float32)[:, None]},
                actions={"push": np.array(pushes, np.float32)[:, None]},
                exogenous={"randomised": np.array(flags, np.int64)},
            )
        )
    found = audit(world(Cart(), thermostat), tmp_path / "logs")
    assert found.measured.randomised == pytest.approx(share, abs=0.03)
    told = {one.lag == 1: one.agreement for one in found.measured.effects}
    assert told == {True: "agrees", False: later}


def renamed(name: str, shape: tuple[int, ...], unit: str) -> Schema:
    schema = Cart().describe().schema
    other = replace(schema["place"], name=name, shape=shape, unit=unit)
    return replace(schema, signals=(other, schema["push"]))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (renamed("position", (1,), "m"), "signal 'place' of the world is not in"),
        (renamed("place", (2,), "m"), "(2,)"),
        (renamed("place", (1,), "cm"), "is in cm"),
    ],
)
def test_logs_of_other_signals_are_unreadable(tmp_path: Path, schema: Schema, reason: str) -> None:
    store, signal = Store.create(tmp_path / "logs", schema), schema.observations[0]
    store.append(
        Episode(
            observations={signal.name: np.zeros((9, *signal.shape), np.float32)},
            actions={"push": np.zeros((8, 1), np.float32)},
        )
    )
    found = audit(world(Cart()), tmp_path / "logs")
    assert found.decision.advice is Advice.UNREADABLE
    assert reason in found.decision.reasons[0]
    assert found.measured is None


def test_a_world_without_actions_is_unsupported(tmp_path: Path) -> None:
    schema = Schema(signals=Cart().describe().schema.observations, step_s=1.0)
    episodes = [replace(one, actions={}) for one in carts(0, 4)]
    found = audit(as_world(Persistence.fit(episodes, schema)), write(tmp_path / "logs"))
    assert found.decision.advice is Advice.UNSUPPORTED
    assert "takes no actions" in found.decision.reasons[0]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        audit(tmp_path / "nothing", tmp_path)
    with pytest.raises(DataError, match="at least two are needed"):
        audit(world(Cart()), write(tmp_path / "few", count=2))
    with pytest.raises(UnknownNameError):
        audit(world(Cart()), tmp_path / "few", env="gusty-pluck")


def test_another_environment_than_that_of_the_logs_is_unreadable(tmp_path: Path) -> None:
    found = audit(world(Cart()), write(tmp_path / "logs"), env="wind")
    assert found.decision.advice is Advice.UNREADABLE
    assert "is not in the environment wind" in found.decision.reasons[0]


@pytest.mark.slow
def test_twins_of_a_lab_grade_cause(tmp_path: Path) -> None:
    lab = GustyPuck()
    fits = [explore(lab, seed, 30) for seed in range(900, 940)]
    record("gusty-puck", tmp_path / "logs", num_episodes=30, max_steps=30, seed=0)
    right = audit(as_world(Linear.fit(fits, lab.schema)), tmp_path / "logs", env="gusty-puck")
    assert right.decision.cause is Verdict.PASS
    assert [one.name for one in right.measured.twins] == ["C1", "T1", "T3"]
    still = audit(as_world(Persistence.fit(fits, lab.schema)), tmp_path / "logs", env="gusty-puck")
    assert still.decision.cause is Verdict.FAIL
    assert any("fails the twin test C1" in line for line in still.decision.reasons)
