from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldline.models.rssm import symexp_bins, two_hot, two_hot_loss

BINS = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])


@given(st.floats(-400, 400, width=32))
def test_its_mean_is_the_value(value: float) -> None:
    bins = symexp_bins(63, limit=6.0)
    weights = two_hot(torch.tensor([[value]]), bins)
    assert weights.shape == (1, 1, 63)
    assert (weights > 0).sum() <= 2
    assert weights.sum().item() == pytest.approx(1)
    assert (weights * bins).sum().item() == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_the_loss_is_the_cross_entropy() -> None:
    likely = torch.tensor([0.1, 0.1, 0.1, 0.4, 0.3])
    found = two_hot_loss(likely.log().expand(2, 5), torch.tensor([2.0, -1.0]), BINS)
    due = [-(2 * math.log(0.4) + math.log(0.3)) / 3, -math.log(0.1)]
    torch.testing.assert_close(found, torch.tensor(due))
