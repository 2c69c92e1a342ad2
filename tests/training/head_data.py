"""Data for fits of heads that read stored latents and no logs."""

from __future__ import annotations

import torch

from worldline.data.store import Store
from worldline.models.base import WorldModel
from worldline.schema import Schema
from worldline.training.heads.base import HeadData, HeadsConfig
from worldline.training.stored_latents import Imagination, LatentTable


def head_data(table: LatentTable, model: WorldModel, schema: Schema, config: HeadsConfig | None = None) -> HeadData:
    """The data of a fit that reads no logs."""
    return HeadData(
        store=Store.__new__(Store),
        table=table,
        imagination=Imagination(model, schema, torch.Generator().manual_seed(0)),
        inputs=(),
        config=config or HeadsConfig(far=8.0),
    )
