"""Rollouts of given arrays, as costs and constraints see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from worldline.planning.base import Rollout


def rollout_of(signals: Mapping[str, np.ndarray], **groups: Any) -> Rollout:
    """The arrays as tensors; `present` and `margin` too."""
    made = {name: _tensors(groups.pop(name, {})) for name in ("present", "margin")}
    return Rollout(signals=_tensors(signals), **made, **groups)


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
