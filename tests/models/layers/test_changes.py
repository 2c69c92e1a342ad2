from __future__ import annotations

import torch

from worldline.models.layers.changes import changes


def test_changes_are_from_one_sight_to_the_next() -> None:
    values = torch.tensor([[[1.0], [9.0], [4.0], [5.0]], [[9.0], [2.0], [9.0], [9.0]]])
    seen = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)[..., None]
    change, gap = changes(values, seen)
    assert change[..., 0].tolist() == [[0.0, 3.0, 1.0], [0.0, 0.0, 0.0]]
    assert gap[..., 0].tolist() == [[0, 2, 1], [0, 0, 0]]


def test_where_all_is_seen_they_are_differences() -> None:
    values = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
    change, gap = changes(values, torch.ones(3, 6, 2, dtype=torch.bool))
    assert torch.equal(change, values.diff(dim=1))
    assert (gap == 1).all()
