from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.data.stores import stored

from worldline.data.splits import Split, split_store
from worldline.data.store import Store
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.predictors import MlpPredictorConfig
from worldline.models.layers.regularizers import SigregConfig
from worldline.schema import Schema
from worldline.testing.toys import Integrator

TOY = Integrator(camera=False)

Build = Callable[..., Jepa]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 episodes of 20 steps, vectors only, with wind."""
    return stored(tmp_path_factory.mktemp("toy") / "store", TOY.schema, TOY.episodes(24, 20, seed=0))


@pytest.fixture(scope="session")
def parts(store: Store) -> Split:
    return split_store(store)


@pytest.fixture
def build() -> Build:
    """Makes a tiny model of the toy, always with the same weights."""

    def make(*, schema: Schema = TOY.schema, **parts: Any) -> Jepa:
        torch.manual_seed(0)
        small = JepaConfig(
            inputs=("position",), latent_size=8, encoder=ObservationEncoderConfig(width=16),
            predictor=MlpPredictorConfig(width=16), regularizer=SigregConfig(num_slices=8),
        )  # fmt: skip
        return Jepa(schema=schema, config=replace(small, **parts))

    return make
