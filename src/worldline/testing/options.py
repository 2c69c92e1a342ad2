"""Clauses on what `World.predict` answers on request: any horizon, levels, sampled paths, images."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays, History
from worldline.errors import UnsupportedError
from worldline.schema import Kind
from worldline.testing.clauses import accepts, as_float, clause, existing, has_shape, holds, lacks, refusal_of, refuses
from worldline.testing.confidence import band_of, is_exact, levels_of
from worldline.testing.world_case import WorldCase

LONGER: Final = 3
"""Length of long predictions, in horizons of the case."""

NUM_SAMPLES: Final = 400
MAX_GAP: Final = 0.1
"""Largest difference between a level and the share of `NUM_SAMPLES` paths inside its band: four standard errors."""

NEVER: Final = 1 - 1e-9
"""A level that no finite calibration supports."""


@clause("World.predict; the mean for any number of steps, and infinite bands after the calibrated horizon")
def any_horizon(case: WorldCase) -> None:
    """Long predictions have finite means, and bands that are infinite from some step on, never NaN."""
    num_steps = LONGER * case.horizon
    asked = _repeated(case.query(), num_steps)
    prediction = accepts(f"a prediction of {num_steps} steps", partial(case.predict, asked))
    for name, forecast in prediction.signals.items():
        has_shape(f"the mean of {name!r}", forecast.mean, (num_steps, *case.card.schema[name].shape))
        if forecast.low is None or forecast.high is None:
            continue
        low, high = as_float(forecast.low), as_float(forecast.high)
        finite = np.isfinite(low) & np.isfinite(high)
        known = finite | ((low == -np.inf) & (high == np.inf))
        holds(known, f"the band of {name!r} has edges that are neither finite nor -inf and inf")
        holds(np.diff(finite.astype(int), axis=0) <= 0, f"the band of {name!r} is finite after infinite steps")


@clause("Card.band_horizon and band_level; bands are finite up to both, and not beyond")
def bands_as_stated(case: WorldCase) -> None:
    """Bands reach as many steps, and as high a level, as the card states, and not more."""
    card, query = case.card, case.query()
    calibrated = case.predict(query).calibrated and bool(case.vectors)
    stated = f"the card states bands of {card.band_horizon} steps up to level {card.band_level:.4g}"
    holds(calibrated == (card.band_horizon > 0), f"{stated}, but predictions have {'some' if calibrated else 'none'}")
    if not calibrated:
        return
    ask = partial(case.predict, _repeated(query, card.band_horizon + 1))
    prediction = accepts(f"{stated}; a prediction at this level", partial(ask, level=card.band_level))
    for name in case.vectors:
        low, high = band_of(prediction, name)
        finite = [bool(np.isfinite(step).all()) for step in zip(low, high, strict=True)]
        rare = any(not episode.mask(name).all() for episode in case.episodes)
        if rare and not any(finite):  # too few windows observe the signal for this level, see `Forecast.low`
            continue
        holds(all(finite[:-1]), f"{stated}; that of {name!r} is infinite at step {[*finite, False].index(False) + 1}")
        holds(not finite[-1], f"{stated}; that of {name!r} is finite at step {card.band_horizon + 1}")
    beyond = (1 + card.band_level) / 2
    refuses(f"{stated}; a prediction at level {beyond:.4g}", partial(ask, level=beyond), expected=UnsupportedError)


def _repeated(query: ForecastWindows, num_steps: int) -> ForecastWindows:
    """The query with its inputs repeated to this number of steps."""

    def long(arrays: Arrays) -> Arrays:
        return {name: np.resize(value, (num_steps, *value.shape[1:])) for name, value in arrays.items()}

    return replace(query, actions=long(query.actions), exogenous=long(query.exogenous))


@clause("World.predict, level; without one a level that the result names; UnsupportedError if it is too high")
def level_available(case: WorldCase) -> None:
    """Without a level the answer states one. For a level that is too high, UnsupportedError names an available one."""
    ask = partial(case.predict, case.query())
    prediction = accepts("a prediction without a level", partial(ask, level=None))
    holds(0 < prediction.level < 1, f"the level of a prediction without a level is {prediction.level}")
    same = ask(level=prediction.level)
    for name in case.vectors if prediction.calibrated else ():
        problem = f"signal {name!r}: the band without a level is not that of the stated level {prediction.level:.3g}"
        case.equal(np.stack(band_of(prediction, name)), np.stack(band_of(same, name)), problem)

    def answer(level: float) -> object:
        return refusal_of(f"level {level}", partial(ask, level=level), UnsupportedError)

    if isinstance(refusal := answer(NEVER), UnsupportedError):
        possible = [level for level in map(float, re.findall(r"0\.\d+", str(refusal))) if level < NEVER]
        named = any(not isinstance(answer(level), UnsupportedError) for level in possible)
        holds(named, f"the message {str(refusal)!r} names no level that is available")


@clause("Forecast.samples; paths whose spread is that of the bands, or UnsupportedError")
def samples_calibrated(case: WorldCase) -> None:
    """The share of sampled paths inside a band is its level; without a calibration samples are refused."""
    query = case.query()
    if lacks("sampled paths", partial(case.predict, query, num_samples=2), "calibrat"):
        holds(not case.calibrated(), "sampled paths are refused, but predictions are calibrated")
        return
    holds(case.calibrated(), "sampled paths are returned without a calibration")
    for level in levels_of(case):
        prediction = case.predict(query, level=level, num_samples=NUM_SAMPLES)
        for name, forecast in prediction.signals.items():
            if name not in case.vectors:
                holds(forecast.samples is None, f"{name!r} is no vector, but has samples")
                continue
            samples = as_float(existing(forecast.samples, f"{name!r} has no samples"))
            signal, (low, high) = case.card.schema[name], band_of(prediction, name)
            has_shape(f"samples of {name!r}", samples, (NUM_SAMPLES, case.horizon, *signal.shape))
            share = float(((samples >= low) & (samples <= high)).all((1, 2)).mean())
            # The band of K episodes contains the share level * (K + 1) / K of their own paths. If a bound of the signal
            # cuts the band, it also cuts paths, so that more of them are inside.
            most = min(1.0, level + (level / case.num_calibration if case.num_calibration else 0.0))
            cut = (signal.bounded(low - np.inf) == low).any() or (signal.bounded(high + np.inf) == high).any()
            most = 1.0 if cut else most
            problem = f"signal {name!r}: {share:.0%} of the samples are inside the {level} band"
            fits = level - MAX_GAP <= share <= most + MAX_GAP
            holds(fits or is_exact(case, name, float(np.mean(high - low))), problem)


@clause("Prediction.images; uint8 images of the schema's image signals, or UnsupportedError")
def images_drawn(case: WorldCase) -> None:
    """Images are in the shape of their signal and only if requested; a world without them names the decoder."""
    query = case.query()
    holds(not case.predict(query).images, "a prediction has images that were not requested")
    card = case.card
    possible = "decodes" in card.abilities or any(card.schema[name].kind is Kind.IMAGE for name in card.predicts)
    if lacks("images", partial(case.predict, query, images=True), "decoder"):
        holds(not possible, "images are refused, but the card predicts or decodes images")
        return
    images = case.predict(query, images=True).images
    holds(bool(images), "there is no image, and no UnsupportedError")
    for name, frames in images.items():
        signal = case.card.schema[name]
        holds(signal.kind is Kind.IMAGE, f"{name!r} is no image signal")
        has_shape(f"images of {name!r}", frames, (case.horizon, *signal.shape))
        holds(frames.dtype == np.uint8, f"images of {name!r} have dtype {frames.dtype}, expected uint8")


@clause("History; one observation needs no empty arrays of inputs")
def one_observation(case: WorldCase) -> None:
    """A history of one observation gives the same prediction with empty arrays of inputs and without them."""
    last = case.query().history.last(1)
    alone = History(observations=last.observations, observed=last.observed)
    means = []
    for what, history in (("with empty arrays of inputs", last), ("without inputs", alone)):
        ask = partial(case.means, replace(case.query(), history=history))
        means.append(accepts(f"a history of one observation, {what}", ask))
    case.equal(means[1], means[0], "the prediction changes without empty arrays of inputs")
