from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from worldline.errors import ConfigError
from worldline.models.layers.two_hot import expected, symexp, symexp_bins, two_hot, two_hot_loss

BINS = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])
NUMBERS = st.floats(-1e4, 1e4, width=32)


def symlog(values: Tensor) -> Tensor:
    return values.sign() * values.abs().log1p()


@given(arrays.arrays("float32", 5, elements=NUMBERS))
def test_symexp_undoes_symlog_and_is_undone_by_it(values: object) -> None:
    numbers = torch.as_tensor(values)
    torch.testing.assert_close(symexp(symlog(numbers)), numbers, rtol=1e-4, atol=1e-6)
    few = numbers / 1200  # within -9 and 9
    torch.testing.assert_close(symlog(symexp(few)), few, rtol=1e-4, atol=1e-6)


def test_bins_are_symmetric_and_even_after_symlog() -> None:
    bins = symexp_bins(255, limit=20.0)
    assert torch.equal(bins, -bins.flip(0))
    assert bins[127] == 0
    torch.testing.assert_close(symlog(bins), torch.linspace(-20, 20, 255), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_bins", "limit"), [(1, 6.0), (4, 6.0), (5, 0.0)])
def test_bins_without_a_middle_or_a_width_are_refused(num_bins: int, limit: float) -> None:
    with pytest.raises(ConfigError, match="must be odd and at least 3"):
        symexp_bins(num_bins, limit=limit)


def test_a_value_is_shared_between_the_bins_around_it() -> None:
    found = two_hot(torch.tensor([2.0, -0.25, 1.0, -4.0, 100.0]), BINS)
    due = [[0, 0, 0, 2 / 3, 1 / 3], [0, 0.25, 0.75, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor(due))


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


def test_the_expectation_is_the_mean_over_the_bins() -> None:
    likely = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.4]])
    torch.testing.assert_close(expected(likely.log(), BINS), torch.tensor([1.0]))


def test_large_bins_do_not_drown_the_expectation() -> None:
    assert expected(torch.zeros(255), symexp_bins(255, limit=20.0)) == 0
