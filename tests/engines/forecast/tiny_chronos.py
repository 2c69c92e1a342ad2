"""A folder of a tiny Chronos-2 model with random weights, in the layout of the published one."""

from __future__ import annotations

from pathlib import Path

import torch
from chronos.chronos2 import Chronos2Model
from chronos.chronos2.config import Chronos2CoreConfig

PATCHES = {
    "context_length": 64,
    "output_patch_size": 4,
    "input_patch_size": 4,
    "input_patch_stride": 4,
    "quantiles": [0.1, 0.5, 0.9],
    "use_reg_token": True,
    "use_arcsinh": True,
    "max_output_patches": 8,
}


def tiny_chronos(folder: Path) -> Path:
    """Writes the model and returns its folder; forecasts of at most 32 steps in one pass."""
    torch.manual_seed(0)
    config = Chronos2CoreConfig(d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, chronos_config=dict(PATCHES))
    Chronos2Model(config).save_pretrained(folder)
    return folder
