"""Calls and answers of batches: worlds are stacked to one call, and taken out of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from worldline.episode import Arrays, History
from worldline.planning.calls import PredictCall
from worldline.world.base import Forecast, Prediction

Join = Callable[[Sequence[Any]], Any]
"""Maps the values [W, ...] of several answers to one, such as `np.concatenate`."""


def stack_calls(calls: Sequence[PredictCall]) -> PredictCall:
    """One call for the worlds of several; other fields are those of the first."""
    return replace(
        calls[0],
        history=History.stack([call.history for call in calls]),
        actions=_stacked([call.actions for call in calls]),
        exogenous=_stacked([call.exogenous or {} for call in calls]) or None,
    )


def combine(answers: Sequence[Prediction], join: Join) -> Prediction:
    """One prediction from several. It lacks what one of them lacks; its level is the lowest one."""
    first = answers[0]
    return replace(
        first,
        signals={name: _combined([answer.signals[name] for answer in answers], join) for name in first.signals},
        images={
            name: join([answer.images[name] for answer in answers])
            for name in first.images
            if all(name in answer.images for answer in answers)
        },
        trust=join([answer.trust for answer in answers]),
        level=min(answer.level for answer in answers),  # a band of a higher level holds with a lower one, too
        calibrated=all(answer.calibrated for answer in answers),
    )


def world_of(batch: Prediction, number: int) -> Prediction:
    """The prediction of one world of a batch, without samples. A service does this for every call, so it is fast."""
    signals = {
        name: Forecast(
            mean=forecast.mean[number],
            low=None if forecast.low is None else forecast.low[number],
            high=None if forecast.high is None else forecast.high[number],
            horizon=int(np.asarray(forecast.horizon)[number]),
        )
        for name, forecast in batch.signals.items()
    }
    images = {name: frames[number] for name, frames in batch.images.items()}
    return replace(batch, signals=signals, images=images, trust=float(np.asarray(batch.trust)[number]))


def _combined(forecasts: Sequence[Forecast], join: Join) -> Forecast:
    columns = {item.name: [getattr(forecast, item.name) for forecast in forecasts] for item in fields(Forecast)}
    joined: dict[str, Any] = {
        name: None if any(part is None for part in parts) else join(parts) for name, parts in columns.items()
    }
    return Forecast(**joined)


def _stacked(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
