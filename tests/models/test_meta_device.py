"""Shapes on the `meta` device of torch, for the families that are slow on the simulated device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.stores import stored
from tests.end_to_end.test_devices import SLOW
from tests.golden.answers import BUNDLES
from tests.golden.make import SPECS, logs
from torch import Tensor
from torch.fx.experimental import _config as fx_config
from torch.utils._python_dispatch import TorchDispatchMode

from worldline.bundle import read_bundle
from worldline.data.windows import Windows
from worldline.engines.learned import LearnedEngine
from worldline.models.frozen_encoder import Memo
from worldline.training.batches import to_window, window_signals
from worldline.world.bundle_io import open_engine

META = torch.device("meta")
BATCH, CONTEXT, HORIZON = 3, 4, 2


class Assumed(TorchDispatchMode):
    """Replaces what a model reads from numbers: every flag is set, every number is 0, every value is distinct."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 0
        if operation is torch.ops.aten.unique_consecutive.default and args[0].is_meta:
            return args[0], args[0].new_empty(0), torch.empty_like(args[0])
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def assumed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # torch has none for `meta`
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(Memo, "recall", encode_all)  # it hashes pixels
    with Assumed(), fx_config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


def encode_all(self: Memo, images: Tensor, make: Callable[[Tensor], Tensor], *, maker: str) -> Tensor:
    return make(images)


@pytest.mark.parametrize("name", sorted(SLOW & SPECS.keys()))
def test_shapes_run_through(name: str, assumed: None, tmp_path: Path) -> None:
    """Encode, update, rollout and loss with its gradient; all results stay on the device."""
    schema, episodes = logs(SPECS[name], 2, seed=0)
    store = stored(tmp_path / "logs", schema, episodes)
    engine = open_engine(read_bundle(BUNDLES / name), META)
    assert isinstance(engine, LearnedEngine)
    model, generator = engine.model.requires_grad_(True), torch.Generator()
    signals = window_signals(schema, (*engine.inputs, *model.targets))
    batch = Windows(store, CONTEXT + HORIZON, (0, 1), signals).sample(BATCH, np.random.default_rng(0))
    window = to_window(batch, schema, META)
    now = CONTEXT - 1
    belief = model.encode(window.first(now), generator=generator)
    belief = model.update(belief, window.step(now), generator=generator)
    features = belief.features()
    assert (features.device, features.shape[0]) == (META, BATCH)
    imagined = model.rollout(belief, window.past.steps(slice(now, None)), generator=generator).features
    assert imagined.device == META
    assert imagined.shape == (BATCH, 1, features.shape[1], HORIZON, features.shape[2])
    assert {name: value.device for name, value in engine.readout(imagined).items()} == {"position": META}
    total = model.train().loss(window, generator=generator).total
    assert (total.device, total.shape) == (META, ())
    if not model.closed_form:  # it has no parameters
        total.backward()
