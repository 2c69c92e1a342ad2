from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.engines.base import Engine
from worldline.engines.baselines import ActionBlind, ConstantVelocity, Linear, Persistence
from worldline.episode import Episode, Future, History
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator

TOY = Integrator()
EPISODES = TOY.episodes(20, 30, seed=0)


def imagine(engine: Engine, episode: Episode, at: int, horizon: int) -> dict[str, np.ndarray]:
    history, span = History.stack([episode.history(at, engine.describe().context)]), slice(at, at + horizon)
    future = Future(
        actions={k: v[None, None, span] for k, v in episode.actions.items()},
        exogenous={k: v[None, span] for k, v in episode.exogenous.items()},
    )
    samples = engine.imagine(engine.observe(None, history, seed=0), future, num_samples=1, seed=0)
    return {k: v[0, 0, 0] for k, v in samples.signals.items()}


def test_linear_is_exact_on_a_linear_world() -> None:
    engine = Linear.fit(EPISODES, TOY.schema)
    episode = TOY.episodes(1, 30, seed=9)[0]
    found = imagine(engine, episode, 5, 20)
    assert set(found) == {"position"}  # no pictures
    np.testing.assert_allclose(found["position"], episode.observations["position"][6:26], atol=1e-3)


def test_only_actions_tell_linear_from_action_blind() -> None:
    episode = TOY.episodes(1, 30, seed=9)[0]
    truth = episode.observations["position"][6:26]
    seeing, blind = (
        np.abs(imagine(kind.fit(EPISODES, TOY.schema), episode, 5, 20)["position"] - truth).mean()
        for kind in (Linear, ActionBlind)
    )
    assert seeing < 0.01 * blind


def test_action_blind_keeps_exogenous_inputs() -> None:
    engine = ActionBlind.fit(EPISODES, TOY.schema)
    calm = replace(EPISODES[0], exogenous={"wind": np.zeros_like(EPISODES[0].exogenous["wind"])})
    windy = imagine(engine, EPISODES[0], 5, 1)["position"] - imagine(engine, calm, 5, 1)["position"]
    np.testing.assert_allclose(windy[0], EPISODES[0].exogenous["wind"][5], rtol=0.3, atol=0.05)


def test_persistence_repeats_the_last_value_of_every_signal() -> None:
    found = imagine(Persistence.fit(EPISODES, TOY.schema), EPISODES[3], 7, 4)
    for name in ("position", "camera"):
        assert (found[name] == EPISODES[3].observations[name][7]).all()


def test_constant_velocity_is_exact_on_a_straight_line() -> None:
    line = (np.arange(20, dtype=np.float32)[:, None] * [1.0, -2.0]).astype(np.float32)
    schema = Integrator(wind=False, camera=False).schema
    episode = Episode(observations={"position": line}, actions={"push": np.zeros((19, 2), np.float32)})
    found = imagine(ConstantVelocity.fit([episode], schema), episode, 5, 10)
    np.testing.assert_allclose(found["position"], line[6:16], rtol=1e-6)


@pytest.mark.parametrize("kind", [ConstantVelocity, Linear, ActionBlind])
@pytest.mark.parametrize("per_step", [0.7, -2.9])
def test_an_angle_goes_on_across_its_seam(kind: type[Linear], per_step: float) -> None:
    schema = Schema(
        signals=(
            Signal(name="angle", kind=Kind.VECTOR, role=Role.OBSERVATION, unit="rad", shape=(1,), period=2 * np.pi),
            Signal(name="speed", kind=Kind.VECTOR, role=Role.OBSERVATION, unit="rad", shape=(1,)),
            Signal(name="motor", kind=Kind.VECTOR, role=Role.ACTION, unit="1", shape=(1,)),
        ),
        step_s=1.0,
    )

    def turning(start: float, speed: float) -> Episode:
        angles = np.mod(start + speed * np.arange(25), 2 * np.pi)[:, None].astype(np.float32)
        speeds = np.full((25, 1), speed, np.float32)
        return Episode(
            observations={"angle": angles, "speed": speeds}, actions={"motor": np.zeros((24, 1), np.float32)}
        )

    draw = np.random.default_rng(0)
    logs = [turning(draw.uniform(0, 6), draw.uniform(-3, 3)) for _ in range(20)]
    episode = turning(1.0, per_step)
    found = imagine(kind.fit(logs, schema), episode, 3, 12)["angle"]
    apart = schema["angle"].difference(found, episode.observations["angle"][4:16])
    np.testing.assert_allclose(apart, 0.0, atol=1e-2)
    np.testing.assert_allclose(np.diff(found, axis=0), per_step, atol=1e-2)  # not the longer way round


def test_constant_velocity_needs_two_observations_to_move() -> None:
    engine = ConstantVelocity.fit(EPISODES, TOY.schema)
    one = EPISODES[0].history(0, 1)
    history = History(observations={k: v[None] for k, v in one.observations.items()}, actions={})
    future = Future(actions={"push": np.zeros((1, 1, 3, 2), np.float32)}, exogenous={"wind": np.zeros((1, 3, 2))})
    found = engine.imagine(engine.observe(None, history, seed=0), future, num_samples=1, seed=0).signals
    assert (found["position"] == EPISODES[0].observations["position"][0]).all()


def test_a_gap_is_filled_with_the_last_value_and_the_start_with_the_first() -> None:
    engine = Persistence.fit(EPISODES, TOY.schema)
    position = np.array([[[np.nan] * 2, [1, 2], [np.nan] * 2], [[3, 4], [5, 6], [7, 8]], [[9, 9]] * 3], np.float32)
    seen = np.array([[False, True, False], [True, False, False], [False, False, False]])
    camera = np.zeros((3, 3, 8, 8, 1), np.uint8)
    history = History(observations={"position": position, "camera": camera}, actions={}, observed={"position": seen})
    future = Future(actions={"push": np.zeros((3, 1, 1, 2), np.float32)}, exogenous={"wind": np.zeros((3, 1, 2))})
    belief = engine.observe(None, history, seed=0)
    found = engine.imagine(belief, future, num_samples=1, seed=0).signals["position"][:, 0, 0, 0]
    np.testing.assert_array_equal(found[:2], [[1, 2], [3, 4]])
    np.testing.assert_allclose(found[2], engine.typical["position"])  # never seen: what is typical


def test_missing_values_are_left_out_of_the_fit() -> None:
    holes = []
    for number, episode in enumerate(EPISODES):
        seen = np.random.default_rng(number).random(31) > 0.1
        position = np.where(seen[:, None], episode.observations["position"], np.nan)
        observations = {**episode.observations, "position": position}
        holes.append(replace(episode, observations=observations, observed={"position": seen}))
    whole, holed = (imagine(Linear.fit(logs, TOY.schema), EPISODES[0], 5, 5) for logs in (EPISODES, holes))
    np.testing.assert_allclose(holed["position"], whole["position"], atol=1e-3)


@given(st.integers(2, 5), st.integers(0, 10_000))
def test_linear_learns_labels_and_constants(num_values: int, seed: int) -> None:
    """A discrete action that adds its own amount, beside a component that never changes."""
    schema = Schema(
        signals=(
            Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
            Signal(name="lever", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=num_values),
        )
    )
    rng = np.random.default_rng(seed)
    amounts = rng.normal(size=num_values)
    lever = rng.integers(0, num_values, 60)
    level = np.zeros((61, 2), np.float32)
    level[:, 1] = 5.0
    for step in range(60):
        level[step + 1, 0] = 0.5 * level[step, 0] + amounts[lever[step]]
    episode = Episode(observations={"level": level}, actions={"lever": lever})
    found = imagine(Linear.fit([episode], schema, context=1), episode, 10, 20)["level"]
    np.testing.assert_allclose(found, level[11:31], atol=0.02)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(DataError, match="no value in any episode"):
        Linear.fit([], TOY.schema)
    with pytest.raises(DataError, match="smaller context"):
        Linear.fit(TOY.episodes(2, 3, seed=0), TOY.schema, context=4)
    with pytest.raises(InputError, match="context 0"):
        Linear.fit(EPISODES, TOY.schema, context=0)


MIXED = Schema(
    signals=(
        Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), precision="float64"),
        Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3),
        Signal(name="lever", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=4),
    )
)


def mixed(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        observations={"level": rng.normal(size=(31, 2)), "lamp": rng.integers(0, 3, 31)},
        actions={"lever": rng.integers(0, 4, 30)},
    )


@pytest.mark.parametrize(("name", "value", "message"), [
    ("typical/lamp", np.array(3), r"outside \[0, 2\]"),
    ("typical/lamp", np.array(1, np.int32), "int32"),
    ("typical/level", np.zeros(2, np.float32), "float32"),
    ("typical/level", np.array([0.0, np.inf]), "not finite"),
    ("typical/lever", np.array(1), "'typical/lever' is unknown"),
])  # fmt: skip
def test_parts_of_another_schema_are_refused(name: str, value: np.ndarray, message: str) -> None:
    parts = Persistence.fit([mixed(0)], MIXED).to_parts()
    with pytest.raises(DataError, match=message):
        Persistence.from_parts(MIXED, replace(parts, arrays={**parts.arrays, name: value}))
