from __future__ import annotations

import torch

from worldline.models.layers.changes import changes, interpolated


def test_changes_are_from_one_sight_to_the_next() -> None:
    values = torch.tensor([[[1.0], [9.0], [4.0], [5.0]], [[9.0], [2.0], [9.0], [9.0]]])
    seen = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)[..., None]
    change, gap = changes(values, seen)
    assert change[..., 0].tolist() == [[0.0, 3.0, 1.0], [0.0, 0.0, 0.0]]
    assert gap[..., 0].tolist() == [[0, 2, 1], [0, 0, 0]]


def test_gaps_are_filled_from_the_observations_around_them() -> None:
    values = torch.tensor([[9.0, 1.0, 9.0, 9.0, 4.0, 9.0], [9.0] * 6])
    seen = torch.tensor([[0, 1, 0, 0, 1, 0], [0] * 6], dtype=torch.bool)
    filled = interpolated(values[..., None], seen[..., None])[..., 0]
    torch.testing.assert_close(filled, torch.tensor([[1.0, 1.0, 2.0, 3.0, 4.0, 4.0], [0.0] * 6]))
