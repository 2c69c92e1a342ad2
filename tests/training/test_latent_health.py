from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import CollapseError
from worldline.training.measures import Health, guard, measure_health


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_effective_rank_of_unequal_directions_by_hand() -> None:
    """Singular values 3 : 1, so shares 3/4 and 1/4."""
    latents = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])[:, None].expand(-1, 3, -1)
    due = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert measure_health(latents).effective_rank == pytest.approx(due, rel=1e-6)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-10, 10))
def test_rank_and_straightness_have_no_unit_and_deviation_has_one(seed: int, scale: float, shift: float) -> None:
    latents = normal(20, 4, 3, seed=seed)
    plain, scaled = measure_health(latents), measure_health(scale * latents + shift)
    assert scaled.effective_rank == pytest.approx(plain.effective_rank, rel=1e-3)
    assert scaled.straightness == pytest.approx(plain.straightness, abs=1e-2)
    assert scaled.deviation == pytest.approx(scale * plain.deviation, rel=1e-3)
    assert 1 <= plain.effective_rank <= 3
    assert -1 <= plain.straightness <= 1


def test_a_straight_line_is_straight_a_zigzag_is_not_and_a_square_turns_by_right_angles() -> None:
    line = normal(5, 1, 4) + torch.arange(6.0)[None, :, None] * normal(5, 1, 4, seed=1)
    zigzag = normal(5, 1, 4) * torch.tensor([0.0, 1, 0, 1, 0])[None, :, None]
    square = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
    assert measure_health(line).straightness == pytest.approx(1, abs=1e-5)
    assert measure_health(zigzag).straightness == pytest.approx(-1, abs=1e-5)
    assert measure_health(square).straightness == pytest.approx(0, abs=1e-6)


def test_a_point_is_measured_without_a_fault_and_stopped() -> None:
    health = measure_health(torch.ones(8, 3, 4))
    assert health.deviation == 0
    with pytest.raises(CollapseError, match="look the same"):
        guard(health, step=10, min_rank=2.0, min_deviation=0.05)


@pytest.mark.parametrize(("health", "words"), [
    (
        Health(effective_rank=8.0, deviation=0.01, straightness=0.0),
        ["after 120 updates", "0.01", "weight of SIGReg"],
    ),
    (Health(effective_rank=1.5, deviation=1.0, straightness=0.0), ["after 120 updates", "1.5", "constant_size"]),
    (Health(effective_rank=8.0, deviation=math.nan, straightness=0.0), ["nan"]),
    (Health(effective_rank=math.nan, deviation=1.0, straightness=0.0), ["nan"]),
])  # fmt: skip
def test_a_collapse_is_stopped_with_a_diagnosis(health: Health, words: list[str]) -> None:
    with pytest.raises(CollapseError) as raised:
        guard(health, step=120, min_rank=2.0, min_deviation=0.05)
    for word in words:
        assert word in str(raised.value)
