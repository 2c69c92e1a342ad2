from __future__ import annotations

import pytest
import torch

from worldline.models.layers.linear_forecast import LinearForecast, ScoredWindows, choose_forecast


@pytest.mark.parametrize(("length", "chosen"), [(4, 1), (3, 1), (2, 0)])
def test_short_windows_choose_among_the_shorter_histories(length: int, chosen: int) -> None:
    """Values with a velocity: two observations predict the next one, which a window of two cannot show."""
    start, velocity = torch.randn(2, 40, 1, 1, generator=torch.Generator().manual_seed(0))
    values = start + velocity * torch.arange(length)[:, None]
    windows = ScoredWindows(
        values=values, known=torch.zeros(40, length - 1, 0), observed=torch.ones(values.shape, dtype=torch.bool)
    )
    forecasts = [LinearForecast(size=1, num_inputs=0, history=history) for history in (1, 2, 12)]
    assert choose_forecast(forecasts, windows, warm=12, slack=0.01) == chosen
