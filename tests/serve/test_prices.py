"""Prices of calls, and the workers that they choose."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.serve.scripted import ScriptedWorld, linear_world, service_of

from worldline.engines.base import CallCost
from worldline.episode import History
from worldline.planning.calls import PredictCall
from worldline.serve.callers import ANYONE
from worldline.serve.prices import Prices

CARD = replace(linear_world().describe(), context=4, band_horizon=6, call=CallCost(latency_s=0.02))


def predict(observed: int, steps: int = 2) -> PredictCall:
    past = {"push": np.zeros((observed - 1, 2), np.float32)}
    history = History(observations={"position": np.zeros((observed, 2), np.float32)}, actions=past)
    return PredictCall(history=history, actions={"push": np.zeros((steps, 2), np.float32)})


def test_prices_follow_what_calls_of_their_kind_took() -> None:
    prices = Prices()

    def price(verb: str = "score", length: int = 40) -> float:
        return prices.of("toy", verb, CARD, length=length).seconds

    for _ in range(20):
        prices.learn(prices.of("toy", "score", CARD, length=40), 0.01)
    assert price() == pytest.approx(0.01, rel=0.01)
    assert (price("predict"), price(length=400)) == (pytest.approx(0.08), pytest.approx(0.8))  # of another kind
    prices.learn(prices.of("toy", "score", CARD, length=40), 1.0)  # a busy moment
    assert price() == pytest.approx(0.1, rel=0.01)

    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        prices.timed(prices.of("toy", "predict", CARD, length=10_000), fail)
    assert price("predict", 10_000) == pytest.approx(20.0)


def test_a_long_prediction_does_not_delay_a_short_call_of_any_kind() -> None:
    entered, go = threading.Event(), threading.Event()

    def script(call: Any) -> None:
        if call.history.observations["position"].shape[-2] > 1000:
            entered.set()
            assert go.wait(30)

    async def main() -> None:
        service = service_of(ScriptedWorld(script))
        long = asyncio.create_task(service.ask(ANYONE, "toy", predict(9_000)))
        try:
            assert await asyncio.to_thread(entered.wait, 30)
            async with asyncio.timeout(20):
                await service.ask(ANYONE, "toy", predict(1))
            assert not long.done()
        finally:
            go.set()
            await long
            service.close()

    asyncio.run(main())
