from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.world.tampering import Change, replace_arrays, tamper, tamper_tensors
from tests.world.wrapped import Wrapped

from worldline.bundle import read_bundle
from worldline.config import replace_at
from worldline.engines.base import CallCost, Engine
from worldline.engines.baselines import ActionBlind, ConstantVelocity, Linear, Persistence
from worldline.engines.learned import Adaptation, LearnedEngine
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Episode, History
from worldline.errors import BundleError, UnknownNameError, UnsupportedError
from worldline.labs.two_rooms import TwoRooms
from worldline.models.jepa import Jepa, JepaConfig
from worldline.planning.base import Chance, Goal
from worldline.planning.costs import AtMost
from worldline.planning.planners.cem import CrossEntropy, ImprovedCrossEntropy
from worldline.planning.planners.small_searches import Guided
from worldline.schema import Kind, Role, Signal
from worldline.testing.toys import Integrator
from worldline.training.heads.base import by_name
from worldline.training.heads.decoder import Decoder, DecoderConfig
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.fitting import HEADS
from worldline.training.heads.inverse import Inverse, InverseConfig
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.outcomes import Reward, RewardConfig, Termination, TerminationConfig
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.bundle_io import open_engine, open_world, save_world
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False, wind=False)
SIZE, MEMORY = 8, 10**9
SEARCH = CrossEntropy(num_candidates=8, num_iterations=2)
CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 1))


def learned_engine() -> LearnedEngine:
    """Small and untrained: what is saved and opened need not be clever."""
    torch.manual_seed(0)
    config = replace_at(
        JepaConfig(inputs=("position",), latent_size=SIZE), {"encoder.width": 16, "predictor.width": 16}
    )
    return LearnedEngine(
        model=Jepa(schema=TOY.schema, config=config).eval().requires_grad_(False),
        schema=TOY.schema,
        inputs=("position",),
        heads=by_name(
            Readout(ReadoutConfig(latent_size=SIZE, signals=TOY.schema.observations, width=16)).eval(),
            MahalanobisScore(MahalanobisConfig(latent_size=SIZE)).eval(),
            Distance(DistanceConfig(latent_size=SIZE, width=16, size=8)).eval(),
            Inverse(InverseConfig(latent_size=SIZE, low=(-1.0, -1.0), high=(1.0, 1.0), width=16)).eval(),
            Reward(RewardConfig(latent_size=SIZE, action_size=2, width=16)).eval(),
            Termination(TerminationConfig(latent_size=SIZE, width=16)).eval(),
            Decoder(DecoderConfig(latent_size=SIZE, images=(CAMERA,), channels=4, width=16)).eval(),
        ),
        name="toy",
        notes={"data": "none"},
    )


@pytest.fixture(scope="module")
def learned_calibration() -> Calibration:
    return calibrate(learned_engine(), TOY.episodes(30, 12, seed=1), horizon=6, num_windows=1, seed=0)


@pytest.fixture
def saved(tmp_path: Path, learned_calibration: Calibration) -> Path:
    folder = tmp_path / "world"
    call = CallCost(latency_s=0.1 + 0.2)
    world = LocalWorld(
        learned_engine(), learned_calibration, SEARCH, num_proposals=3, call=call, bytes_per_candidate=MEMORY
    )
    save_world(folder, world, run={"seed": 0}, report="<html></html>")
    return folder


def test_a_world_comes_back_as_it_was(saved: Path, learned_calibration: Calibration) -> None:
    call = CallCost(latency_s=0.1 + 0.2)
    before = LocalWorld(learned_engine(), learned_calibration, SEARCH, call=call, bytes_per_candidate=MEMORY)
    after = open_world(saved)
    assert (after.num_proposals, after.describe()) == (3, before.describe())
    episode: Episode = TOY.episodes(1, 12, seed=5)[0]
    now, pushes = episode.history(at=3, length=1), {"push": episode.actions["push"][3:8]}
    goal = Goal(targets={"position": np.array([1.0, -1.0], np.float32)})
    first, second = (world.predict(now, pushes).signals["position"] for world in (before, after))
    for part in ("mean", "low", "high"):
        np.testing.assert_array_equal(vars(first)[part], vars(second)[part])
    assert before.predict(now, pushes).trust == after.predict(now, pushes).trust
    plans = [world.plan(now, goal, horizon=4).actions["push"] for world in (before, after)]
    np.testing.assert_array_equal(*plans)


def test_another_planner_may_take_the_place_of_its_own(saved: Path) -> None:
    own = Guided(num_candidates=5)
    found = [open_world(saved, planner=planner) for planner in (None, "icem", own)]
    assert [world.planner for world in found] == [SEARCH, ImprovedCrossEntropy(), own]
    with pytest.raises(UnknownNameError, match="'icem'"):
        open_world(saved, planner="icen")


def test_a_world_may_adapt_and_its_bundle_stays_as_it_was(saved: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(saved.rglob("*")) if path.is_file()}
    world = open_world(saved, adaptation=Adaptation(num_steps=6, trust=1e-3))
    assert (open_world(saved).describe().context, world.describe().context) == (1, 7)
    stuck = History(observations={"position": np.full((7, 2), 1.5, "f4")}, actions={"push": np.full((6, 2), 0.5, "f4")})
    pushes = {"push": np.full((4, 2), 0.5, np.float32)}
    moves = [np.ptp(one.predict(stuck, pushes).signals["position"].mean, 0).max() for one in (open_world(saved), world)]
    assert moves[1] < 0.5 * moves[0]
    told = world.predict(stuck, pushes)
    assert not told.calibrated  # the bands are those of the world as it was learned
    assert told.signals["position"].low is None
    now = History(observations={"position": stuck.observations["position"][-1:]}, actions={"push": np.zeros((0, 2))})
    assert (
        told.trust == open_world(saved).predict(now, pushes).trust
    )  # the present is judged as ever, its steps are not
    with pytest.raises(UnsupportedError, match="calibration"):
        world.surprise(TOY.episodes(1, 12, seed=5)[0])
    rule = Chance(constraint=AtMost(signal="position", bound=1.0), level=0.5)
    with pytest.raises(UnsupportedError, match="not calibrated"):
        world.plan(stuck, Goal(targets={"position": np.zeros(2, np.float32)}), horizon=3, constraints=[rule])
    assert before == {path: path.read_bytes() for path in sorted(saved.rglob("*")) if path.is_file()}


def test_every_head_comes_back_with_its_weights(saved: Path) -> None:
    before, after = learned_engine(), open_engine(read_bundle(saved))
    assert before.heads.keys() == after.heads.keys() == {kind.name for kind in HEADS}
    for name, new in after.heads.items():
        old = before.heads[name]
        assert new.config == old.config, name
        assert old.state_dict().keys() == new.state_dict().keys(), name
        assert all(torch.equal(value, new.state_dict()[key]) for key, value in old.state_dict().items()), name
        assert not new.training
        assert not any(parameter.requires_grad for parameter in new.parameters())
    assert after.describe().predicts == ("position",)  # a decoder is for eyes only


def test_heads_that_were_not_fitted_stay_away(tmp_path: Path, learned_calibration: Calibration) -> None:
    engine = learned_engine()
    engine = replace(engine, heads=by_name(engine.readout, engine.mahalanobis))
    save_world(tmp_path / "w", LocalWorld(engine, learned_calibration, CrossEntropy()))
    opened = open_engine(read_bundle(tmp_path / "w"))
    assert isinstance(opened, LearnedEngine)
    assert opened.heads.keys() == {"readout", "mahalanobis"}
    assert "reaches" not in opened.describe().abilities


@pytest.mark.parametrize(("name", "change"), [
    ("heads/readout.json", lambda config: {**config, "latent_size": SIZE + 1}),
    ("heads/inverse.json", lambda config: {**config, "low": [-1.0], "high": [1.0]}),
    ("model.json", lambda config: {**config, "predictor": {**config["predictor"], "width": 17}}),
])  # fmt: skip
def test_weights_that_do_not_fit_their_config_are_refused(saved: Path, name: str, change: Change) -> None:
    tamper(saved, name, change)
    with pytest.raises(BundleError, match="does not fit"):
        open_world(saved)


@pytest.mark.parametrize(("change", "message"), [
    (lambda found: {**found, "model": "jepaa"}, "Did you mean 'jepa'"),
    (lambda found: {**found, "model": "os:system"}, "no model is called"),
    (lambda found: {**found, "notes": {"planner": "cen"}}, "Did you mean 'cem'"),
    (lambda found: {**found, "notes": {}}, "no planner is called"),
])  # fmt: skip
def test_a_name_that_is_not_registered_is_refused(saved: Path, change: Change, message: str) -> None:
    tamper(saved, "manifest.json", change)
    with pytest.raises(UnknownNameError, match=message):
        open_world(saved)


# Engines that are not learned


RICH = Integrator(noise=0.1)
STEPS = RICH.episodes(12, 9, seed=1)
ENGINES: dict[str, tuple[Engine, list[Episode]]] = {
    "persistence": (Persistence.fit(STEPS, RICH.schema), STEPS),
    "constant_velocity": (ConstantVelocity.fit(STEPS, RICH.schema), STEPS),
    "linear": (Linear.fit(STEPS, RICH.schema), STEPS),
    "action_blind": (ActionBlind.fit(STEPS, RICH.schema), STEPS),
}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_world_over_any_storable_engine_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    engine, episodes = ENGINES[kind]
    calibration = calibrate(engine, episodes, horizon=3, num_windows=2, seed=0)
    before = LocalWorld(engine, calibration, SEARCH, num_proposals=5, call=CallCost(latency_s=0.25))
    save_world(tmp_path / "w", before, run={"seed": 0})
    after = open_world(tmp_path / "w")
    assert type(after.engine) is type(engine)
    assert after.describe() == before.describe()
    assert (after.num_proposals, after.planner, after.call) == (5, SEARCH, CallCost(latency_s=0.25))
    episode = episodes[0]
    length = engine.describe().context
    now, at = episode.history(length - 1, length), length - 1
    ahead = {name: value[at : at + 3] for name, value in episode.actions.items()}
    given = {name: value[at : at + 3] for name, value in episode.exogenous.items()} or None
    first, second = (world.predict(now, ahead, exogenous=given, level=0.5) for world in (before, after))
    assert first.trust == second.trust
    for name, forecast in first.signals.items():
        for part in ("mean", "low", "high", "horizon"):
            np.testing.assert_array_equal(vars(forecast)[part], vars(second.signals[name])[part])
    if not before.describe().action_conditioned:
        return
    goal = Goal(targets={"position": episode.observations["position"][-1]})
    plans = [world.plan(now, goal, horizon=3, exogenous=given).actions for world in (before, after)]
    for name, value in plans[0].items():
        np.testing.assert_array_equal(value, plans[1][name])


def test_a_world_without_a_calibration_comes_back_without_one(tmp_path: Path) -> None:
    save_world(tmp_path / "w", LocalWorld(ENGINES["linear"][0], None, SEARCH))
    bundle = read_bundle(tmp_path / "w")
    assert bundle.files == ("card.json", "engine.json", "engine.safetensors", "planner.json", "schema.json")
    assert open_world(tmp_path / "w").calibration is None


class Dreams(Wrapped):
    """Cannot be stored, though what it leaves all to can."""


class Own(CrossEntropy):
    """A planner that nobody registered."""


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    simulator = SimulatorEngine(make_environment=TwoRooms, schema=TwoRooms().schema)
    adapted = replace(learned_engine(), adaptation=Adaptation())
    linear = ENGINES["linear"][0]
    for world, message in (
        (LocalWorld(Dreams(linear), None, SEARCH), "Dreams is not Storable"),
        (LocalWorld(simulator, None, SEARCH), "SimulatorEngine is not Storable"),
        (LocalWorld(adapted, None, SEARCH), "an adaptation cannot be stored"),
        (LocalWorld(linear, None, Own()), "Own is not registered as a planner"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            save_world(tmp_path / "w", world)
    assert not (tmp_path / "w").exists()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A sound bundle of a linear world."""
    engine, episodes = ENGINES["linear"]
    calibration = calibrate(engine, episodes, horizon=3, num_windows=1, seed=0)
    save_world(tmp_path / "w", LocalWorld(engine, calibration, SEARCH))
    return tmp_path / "w"


@pytest.mark.parametrize(("name", "change", "message"), [
    ("engine.json", lambda found: {**found, "config": {**found["config"], "context": 4}}, "'weights' is float32"),
    ("engine.json", lambda found: {**found, "config": {**found["config"], "context": 0}}, "context is 0"),
    ("engine.json", lambda found: {**found, "config": {}}, "context"),
    ("engine.json", lambda found: {**found, "config": {**found["config"], "more": 1}}, "'more'"),
    ("engine.json", lambda found: {**found, "kind": "action_blind"}, "the manifest has 'linear'"),
    ("card.json", lambda found: {**found, "inputs": ["camera"]}, "differ from the engine"),
    ("schema.json", lambda found: {**found, "signals": found["signals"][:2]}, "'centre' is float32"),
])  # fmt: skip
def test_parts_that_contradict_each_other_are_refused(stored: Path, name: str, change: Change, message: str) -> None:
    tamper(stored, name, change)
    with pytest.raises(BundleError, match=message):
        open_world(stored)


@pytest.mark.parametrize(("changes", "message"), [
    ({"weights": None}, "'weights' is missing"),
    ({"more": np.zeros(1, np.float32)}, "'more' is unknown"),
    ({"typical/position": None}, "'typical/position' is missing"),
    ({"scale": np.zeros(6, np.float32)}, "'scale' has a value"),
    ({"centre": np.full(6, np.nan, np.float32)}, "'centre' has a value that is not finite"),
    ({"centre": np.zeros((6, 1), np.float32)}, r"'centre' is float32\[6, 1\]"),
])  # fmt: skip
def test_arrays_that_are_not_those_of_the_engine_are_refused(
    stored: Path, changes: Mapping[str, np.ndarray | None], message: str
) -> None:
    engine = ENGINES["linear"][0]
    assert isinstance(engine, Linear)
    arrays = {**engine.to_parts().arrays, **changes}
    replace_arrays(stored, "engine.safetensors", {n: v for n, v in arrays.items() if v is not None})
    with pytest.raises(BundleError, match=message):
        open_world(stored)


def test_a_calibration_of_other_signals_is_refused(stored: Path) -> None:
    calibration = open_world(stored).calibration
    renamed = {name.replace("/position", "/place"): value for name, value in calibration.to_arrays().items()}
    replace_arrays(stored, "calibration.safetensors", renamed)
    with pytest.raises(BundleError, match=r"calibration.safetensors: its signals differ"):
        open_world(stored)


@pytest.mark.parametrize("name", ["calibration", "engine"])
def test_types_that_numpy_lacks_are_refused(stored: Path, name: str) -> None:
    tamper_tensors(stored, f"{name}.safetensors", lambda t: t.update((k, v.bfloat16()) for k, v in t.items()))
    with pytest.raises(BundleError, match=rf"{name}\.safetensors: .* has the type torch\.bfloat16, which NumPy lacks"):
        open_world(stored)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("linaer", "Did you mean 'linear'"), ("os:system", "no engine is called"), ("learned", "is not Storable")],
)
def test_only_registered_engines_are_built(stored: Path, kind: str, message: str) -> None:
    tamper(stored, "engine.json", lambda found: {**found, "kind": kind})
    tamper(stored, "manifest.json", lambda found: {**found, "model": kind})
    with pytest.raises((UnknownNameError, BundleError), match=message):
        open_world(stored)


def test_only_a_learned_world_adapts(stored: Path) -> None:
    with pytest.raises(UnsupportedError, match="only learned worlds adapt; this one is 'linear'"):
        open_world(stored, adaptation=Adaptation())
