"""Measures the memory that a candidate plan takes, for the card of a world."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldline.data.windows import forecast_windows
from worldline.engines.base import Engine
from worldline.episode import Episode
from worldline.training.batches import join
from worldline.world.prediction_errors import num_samples

FEW, MANY = 16, 48
"""Numbers of candidates; the difference leaves out what all candidates share."""


def measure_candidate_bytes(engine: Engine, episodes: Sequence[Episode], *, horizon: int) -> int:
    """Peak bytes of tensors per candidate in one world, from rollout to predicted signals, without gradients.

    Args:
        engine: the engine to measure.
        episodes: the first that is long enough is used.
        horizon: T, steps of a candidate.
    """
    card = engine.describe()
    episode = next(one for one in episodes if one.num_steps >= card.context - 1 + horizon)
    place = episode, card.context - 1
    window = forecast_windows([place], length=card.context, horizon=horizon, schema=card.schema, targets=())
    belief = engine.observe(None, window.history, seed=0)
    exogenous = join(card.schema.exogenous, window.exogenous, engine.device) if window.exogenous else None

    def roll_out(count: int) -> None:
        actions = join(card.schema.actions, window.future(count).actions, engine.device)
        found = engine.rollout(belief, actions, exogenous, num_samples=num_samples(card), seed=0)
        dict(found.signals)

    few, many = (_peak_bytes(partial(roll_out, count)) for count in (FEW, MANY))
    return max(0, many - few) // (MANY - FEW)


def _peak_bytes(run: Callable[[], None]) -> int:
    memory = _TensorMemory()
    with torch.no_grad(), memory:
        run()
    return memory.peak


class _TensorMemory(TorchDispatchMode):
    """Counts the bytes of living tensors that operations return, on any device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation
        self.peak, self._now, self._living = 0, 0, set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self._count(value.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)  # torch keeps one object per storage
        if key not in self._living:
            self._living.add(key)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, num_bytes: int) -> None:
        self._living.discard(key)
        self._now -= num_bytes
