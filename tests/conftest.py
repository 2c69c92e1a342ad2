"""Settings for every test: as many threads as there are free cores, and repeatable hypothesis runs under CI."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from worldline.data.store import Store
    from worldline.recipes.recipe import Recipe


def _free_cores() -> int:
    """Cores that nobody else is using just now, at least 1."""
    return max(1, (os.cpu_count() or 1) - round(os.getloadavg()[0]))


torch.set_num_threads(min(torch.get_num_threads(), _free_cores()))
# Time limits for an example say more about the neighbours on the machine than about the code.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "local")


@pytest.fixture
def tiny() -> Callable[[Store], Recipe]:
    """A recipe for Two Rooms that takes seconds, and learns next to nothing."""
    from worldline.models.jepa import JepaConfig
    from worldline.recipes.two_rooms import two_rooms

    def recipe(store: Store) -> Recipe:
        known = two_rooms(store)
        return replace(
            known,
            model_config=JepaConfig(
                inputs=("camera",), latent_size=16, channels=8, encoder_width=32, predictor_width=32
            ),
            training=replace(
                known.training, num_updates=12, batch_size=16, num_checks=2, min_deviation=0.0, min_rank=1.0
            ),
            heads=replace(
                known.heads, readout_updates=20, distance_updates=8, inverse_updates=8, decoder_updates=4, width=32
            ),
        )

    return recipe


# A shell starts its background jobs with interrupts ignored; the tests of Ctrl-C need them.
signal.signal(signal.SIGINT, signal.default_int_handler)
