from __future__ import annotations

import torch

from worldline.models.layers.offset import THRESHOLD, add_error, all_errors, no_errors, offset_of

GAIN = 0.05


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_offset_by_hand() -> None:
    errors = torch.tensor([0.8, 1.2, 1.0, 0.6, 1.4])
    weights = torch.tensor([(1 - GAIN) ** age for age in (4, 3, 2, 1, 0)])
    mean = (weights * errors).sum() / weights.sum()
    variance = (weights * errors.square()).sum() / weights.sum() - mean.square()
    count = weights.sum().square() / weights.square().sum()
    expected = mean * (1 - THRESHOLD**2 * variance / (count - 3) / mean.square())
    assert 0.5 < expected < mean
    torch.testing.assert_close(offset_of(all_errors(errors[:, None], GAIN))[0], expected)


def test_errors_one_by_one_give_the_same_offset() -> None:
    raw = noise(3, 40, 2) + 1.0
    state = no_errors(raw[:, 0], GAIN)
    for step in raw.unbind(1):
        # Predictions contain the offset, so their errors are smaller.
        state = add_error(state, step - offset_of(state), torch.ones(3, 2, dtype=torch.bool), GAIN)
    torch.testing.assert_close(state, all_errors(raw, GAIN), rtol=1e-4, atol=1e-4)
    hidden = add_error(state, torch.full((3, 2), torch.nan), torch.zeros(3, 2, dtype=torch.bool), GAIN)
    torch.testing.assert_close(hidden, state)


def test_noise_rarely_gives_an_offset_and_a_bias_nearly_always() -> None:
    free = offset_of(all_errors(noise(1000, 60, 1), GAIN))
    assert (free == 0).float().mean() > 0.9
    assert free.square().mean().sqrt() < 0.1
    biased = offset_of(all_errors(noise(1000, 60, 1) + 1.0, GAIN))
    assert abs(float(biased.mean()) - 0.9) < 0.05
    assert not offset_of(all_errors(noise(1000, 3, 1) + 10.0, GAIN)).any()  # three errors prove nothing
