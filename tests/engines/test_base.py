from __future__ import annotations

import pytest

from worldline.engines.base import CallCost
from worldline.errors import ConfigError


@pytest.mark.parametrize(("latency_s", "price", "currency", "message"), [
    (-1.0, 0.0, "", "latency_s -1.0"),
    (float("nan"), 0.0, "", "finite"),
    (1.0, float("inf"), "USD", "price inf"),
    (1.0, 0.1, "", "without a currency"),
])  # fmt: skip
def test_a_cost_that_is_none_is_refused(latency_s: float, price: float, currency: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CallCost(latency_s=latency_s, price=price, currency=currency)
