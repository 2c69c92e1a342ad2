from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from worldline.data.splits import Split, split
from worldline.data.store import Store
from worldline.models.jepa import Jepa
from worldline.models.jepa_config import JepaConfig
from worldline.schema import Schema
from worldline.testing.toys import Integrator

TOY = Integrator(camera=False)

Build = Callable[..., Jepa]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 episodes of 20 steps, vectors only, with wind."""
    made = Store.create(tmp_path_factory.mktemp("toy") / "store", TOY.schema)
    for episode in TOY.episodes(24, 20, seed=0):
        made.append(episode)
    return made


@pytest.fixture(scope="session")
def parts(store: Store) -> Split:
    return split(len(store), seed=0)


@pytest.fixture
def build() -> Build:
    """Makes a tiny model of the toy, always with the same weights."""

    def make(*, schema: Schema = TOY.schema, **settings: float) -> Jepa:
        torch.manual_seed(0)
        sizes = {"latent_size": 8, "encoder_width": 16, "predictor_width": 16, "num_slices": 8}
        return Jepa(schema=schema, config=JepaConfig(inputs=("position",), **{**sizes, **settings}))

    return make
