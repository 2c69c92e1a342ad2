"""Rollouts of given arrays, as costs and constraints see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldline.planning.base import Rollout

SHAPE = (2, 3, 4, 5)  # W, N, S, T
numbers = st.floats(-100, 100)
vectors = arrays(np.float64, (*SHAPE, 2), elements=numbers)


def rollout(**signals: np.ndarray) -> Rollout:
    return rollout_of(signals)


def rollout_of(signals: Mapping[str, np.ndarray], **groups: Any) -> Rollout:
    """The arrays as tensors; `present` and `margin` too."""
    made = {name: _tensors(groups.pop(name, {})) for name in ("present", "margin")}
    return Rollout(signals=_tensors(signals), **made, **groups)


def _tensors(signals: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in signals.items()}
