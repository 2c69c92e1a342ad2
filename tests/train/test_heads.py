from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.errors import ConfigError
from worldline.models.jepa import Jepa
from worldline.train.batches import to_window
from worldline.train.heads import Heads, HeadsConfig, fit_heads

Build = Callable[..., Jepa]

NONE = HeadsConfig(goals=False, readout_updates=0, batch_size=64, unroll=3)


def fitted(build: Build, store: Store, parts: Split, config: HeadsConfig) -> tuple[Jepa, Heads]:
    model = build().eval().requires_grad_(False)
    return model, fit_heads(model, store, parts, ("position",), config)


def prediction_error(model: Jepa, store: Store, parts: Split) -> float:
    inputs = [signal.name for signal in (*store.schema.actions, *store.schema.exogenous)]
    windows = Windows(store, 4, parts.held_out, ["position", *inputs])
    window = to_window(windows.read(windows.all_starts()), store.schema)
    return float(model.loss(window, generator=torch.Generator().manual_seed(0)).terms["prediction"])


def test_the_dynamics_are_refined_on_stored_latents_and_the_encoder_stays(
    store: Store, build: Build, parts: Split
) -> None:
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
    assert heads.distance is None
    assert heads.inverse is None


def test_every_update_is_told(store: Store, build: Build, parts: Split) -> None:
    told: list[tuple[int, int]] = []
    config = replace(NONE, dynamics_updates=3, readout_updates=2)
    fit_heads(
        build().eval(), store, parts, ("position",), config, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(done, 5) for done in range(1, 6)]


def test_the_readout_tells_the_position(store: Store, build: Build, parts: Split) -> None:
    model, heads = fitted(build, store, parts, replace(NONE, readout_updates=300))
    episode = store.episode(parts.held_out[0])
    seen = {"position": torch.from_numpy(episode.observations["position"])}
    observed = {"position": torch.ones(len(seen["position"]), dtype=torch.bool)}
    read = heads.readout(model._encode(seen, observed))["position"].numpy()
    spread = np.concatenate([store.episode(number).observations["position"] for number in parts.train]).std(0)
    assert (np.sqrt(((read - episode.observations["position"]) ** 2).mean(0)) < 0.5 * spread).all()


def test_goals_are_refused_where_something_acts_from_outside(store: Store, build: Build, parts: Split) -> None:
    with pytest.raises(ConfigError, match="no exogenous signals"):
        fitted(build, store, parts, HeadsConfig())
