from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldline.config import replace_at
from worldline.data.splits import Split, split_store
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.episode import Episode
from worldline.errors import ConfigError
from worldline.labs.two_rooms import TwoRooms
from worldline.models.jepa import Jepa, JepaConfig
from worldline.schema import Kind, Role, Signal
from worldline.testing.toys import Integrator
from worldline.training.batches import to_window
from worldline.training.heads.base import Head, HeadsConfig
from worldline.training.heads.fitting import fit_heads, refine_dynamics

Build = Callable[..., Jepa]
TOY = Integrator(camera=False)

NONE = HeadsConfig(goals=False, readout_updates=0, batch_size=64, unroll=3)


def fitted(build: Build, store: Store, parts: Split, config: HeadsConfig) -> tuple[Jepa, dict[str, Head]]:
    model = build().eval().requires_grad_(False)
    return model, fit_heads(model, store, parts, ("position",), config)


def prediction_error(model: Jepa, store: Store, parts: Split) -> float:
    inputs = [signal.name for signal in (*store.schema.actions, *store.schema.exogenous)]
    windows = Windows(store, 4, parts.held_out, ["position", *inputs])
    window = to_window(windows.read(windows.all_starts()), store.schema)
    return float(model.loss(window, generator=torch.Generator().manual_seed(0)).terms["prediction"])


def test_the_dynamics_are_refined_and_the_encoder_stays(store: Store, build: Build, parts: Split) -> None:
    before, _ = fitted(build, store, parts, NONE)
    after, _ = fitted(build, store, parts, replace(NONE, dynamics_updates=200))
    assert prediction_error(after, store, parts) < 0.1 * prediction_error(before, store, parts)
    for (name, was), now in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.equal(was, now) != name.startswith("predictor"), name
    assert not after.training
    assert not any(parameter.requires_grad for parameter in after.parameters())


def test_without_updates_the_model_stays_as_it_was(store: Store, build: Build, parts: Split) -> None:
    model, heads = fitted(build, store, parts, NONE)
    untouched = build().state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())
    assert heads.keys() == {"mahalanobis", "readout"}


def test_every_update_is_told(store: Store, build: Build, parts: Split) -> None:
    refined, fitted = list[tuple[str, int, int]](), list[tuple[str, int, int]]()
    config, model = replace(NONE, dynamics_updates=3, readout_updates=2), build().eval()
    refinement = refine_dynamics(
        model,
        store,
        parts,
        ("position",),
        config,
        progress=lambda now: refined.append((now.stage, now.step, now.total)),
    )
    encoded = [("encode", 0, 1), ("encode", 1, 1)]
    assert refined == [*encoded, *(("refine dynamics", step, 3) for step in (1, 2, 3))]
    assert len(refinement.losses) == 3
    fit_heads(
        model,
        store,
        parts,
        ("position",),
        config,
        refinement=refinement,
        progress=lambda now: fitted.append((now.stage, now.step, now.total)),
    )
    assert fitted == [("fit heads", 1, 2), ("fit heads", 2, 2)]


def test_heads_are_equal_after_a_separate_refinement(store: Store, build: Build, parts: Split) -> None:
    config = replace(NONE, dynamics_updates=5, readout_updates=3)
    one, heads = fitted(build, store, parts, config)
    other = build().eval().requires_grad_(False)
    refinement = refine_dynamics(other, store, parts, ("position",), config)
    after = {name: value.clone() for name, value in other.state_dict().items()}
    again = fit_heads(other, store, parts, ("position",), config, refinement=refinement)
    for first, second in ((one.state_dict(), after), (after, other.state_dict())):
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    other_readout = again["readout"].state_dict()
    assert all(torch.equal(value, other_readout[name]) for name, value in heads["readout"].state_dict().items())


def test_every_head_is_fitted_where_the_logs_have_what_it_needs(build: Build, tmp_path: Path) -> None:
    """No head of rewards, ends or pictures without them, and none that was not asked for."""
    reward = Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,))
    schema, told = replace(TOY.schema, signals=(*TOY.schema.signals, reward)), []
    store = Store.create(tmp_path / "store", schema)
    for number, one in enumerate(TOY.episodes(24, 8, seed=0)):
        earned = {"reward": one.observations["position"][1:, :1]}
        store.append(replace(one, rewards=earned, terminated=number % 2 == 0))
    parts = split_store(store)
    config = replace(NONE, outcome_updates=2, decoder_updates=3)
    model = build(schema=schema).eval()
    heads = fit_heads(model, store, parts, ("position",), config, progress=lambda p: told.append((p.step, p.total)))
    assert told == [(0, 1), (1, 1), *((step, 4) for step in range(1, 5))]
    assert heads.keys() == {"mahalanobis", "readout", "reward", "termination"}
    assert not any(parameter.requires_grad for parameter in [*heads["reward"].parameters(), *model.parameters()])
    without = fit_heads(model, store, parts, ("position",), replace(config, outcome_updates=0))
    assert without.keys() == {"mahalanobis", "readout"}


def test_the_model_s_images_are_decoded_on_request(tmp_path: Path) -> None:
    store, draw = Store.create(tmp_path / "store", TwoRooms().schema), np.random.default_rng(0)
    for _ in range(8):
        observations = {
            signal.name: draw.integers(0, 60, (6, *signal.shape)).astype(signal.dtype)
            for signal in store.schema.observations
        }
        store.append(Episode(observations=observations, actions={"move": draw.uniform(-1, 1, (5, 2)).astype("f4")}))
    sizes = {"encoder.channels": 4, "encoder.width": 8, "predictor.width": 8}
    config = replace_at(JepaConfig(inputs=("camera",), latent_size=8), sizes)
    model, parts = Jepa(schema=store.schema, config=config).eval(), split_store(store)
    assert "decoder" not in fit_heads(model, store, parts, ("camera",), NONE)
    heads = fit_heads(model, store, parts, ("camera",), replace(NONE, decoder_updates=2))
    shown = heads["decoder"](torch.zeros(3, 8))
    assert {name: value.shape for name, value in shown.items()} == {"camera": (3, 64, 64, 3)}


def test_goals_are_refused_where_something_acts_from_outside(store: Store, build: Build, parts: Split) -> None:
    with pytest.raises(ConfigError, match="no exogenous signals"):
        fitted(build, store, parts, HeadsConfig())
