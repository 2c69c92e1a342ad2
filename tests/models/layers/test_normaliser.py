from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldline.models.layers.standardizer import Normaliser

VALUES = st.integers(2, 30).flatmap(
    lambda rows: arrays(np.float32, (rows, 3), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False))
)


@given(VALUES)
def test_scores_are_standardised_and_can_be_undone(values: np.ndarray) -> None:
    tensor, normaliser = torch.from_numpy(values), Normaliser(3)
    normaliser.fit(tensor)
    scores = normaliser(tensor)
    moves = values.astype(float).std(0, ddof=1) > 1e-4 * (1 + np.abs(values.mean(0)))
    centred = tensor.double() - tensor.double().mean(0)
    for component in np.flatnonzero(moves):
        due = centred[:, component] / centred[:, component].square().sum().div(len(values) - 1).sqrt()
        torch.testing.assert_close(scores[:, component].double(), due, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(normaliser.inverse(scores), tensor, rtol=1e-4, atol=1e-2)


def test_a_component_that_never_changes_keeps_its_unit() -> None:
    normaliser = Normaliser(2)
    normaliser.fit(torch.tensor([[5.0, 0.0], [5.0, 2.0]]))
    assert normaliser.deviation.tolist() == pytest.approx([1.0, 2**0.5])
    assert normaliser(torch.tensor([6.0, 1.0])).tolist() == pytest.approx([1.0, 0.0])


def test_large_offsets_do_not_drown_small_changes() -> None:
    """Seconds since 1970, in float32, still have a spread."""
    values = (1.7e9 + 1e4 * torch.randn(1000, 1, dtype=torch.float64)).float()
    normaliser = Normaliser(1)
    normaliser.fit(values)
    assert float(normaliser.deviation) == pytest.approx(1e4, rel=0.1)
