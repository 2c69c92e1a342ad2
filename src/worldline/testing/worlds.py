"""Clauses on `World`: shapes, batches, options of `predict`, and determinism. Other files hold those by subject."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.errors import UnsupportedError, WorldlineError
from worldline.schema import Kind
from worldline.testing.bands import band_of, is_exact, levels_of
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import (
    accepts,
    as_float,
    existing,
    has_shape,
    holds,
    lacks,
    map_arrays,
    refuses,
    same_snapshots,
    snapshot,
    unchanged,
)
from worldline.world.base import Plan

NUM_SAMPLES: Final = 400
MAX_GAP: Final = 0.1
"""Largest difference between a level and the share of `NUM_SAMPLES` paths inside its band: four standard errors."""

NUM_THREADS: Final = 8


@clause("world", "Prediction and Forecast; mean [T, *shape], band and horizon of each signal")
def prediction_shapes(case: WorldCase) -> None:
    """A prediction has a mean, a band and a horizon of each predicted signal, in its shape, for one world or W."""
    windows, alone = case.windows(), case.predict(case.query())
    holds(np.ndim(alone.trust) == 0, f"trust of one world has shape {np.shape(alone.trust)}")
    for leading, prediction in (((), alone), ((windows.num_worlds,), case.predict(windows))):
        names = set(prediction.signals)
        holds(names == set(case.card.predicts), f"signals {sorted(names)}, expected {case.card.predicts}")
        holds(prediction.level == 0.8, f"level {prediction.level}, expected 0.8")
        for name, forecast in prediction.signals.items():
            expected = (*leading, case.horizon, *case.card.schema[name].shape)
            has_shape(f"mean of {name!r}", forecast.mean, expected)
            steps, most = np.asarray(forecast.horizon), case.horizon if prediction.calibrated else 0
            has_shape(f"horizon of {name!r}", steps, leading)
            holds((steps >= 0) & (steps <= most), f"horizon of {name!r} is {steps.tolist()}, expected 0 to {most}")
            needed = name in case.vectors and prediction.calibrated
            for label, edge in (("low", forecast.low), ("high", forecast.high)):
                holds((edge is not None) == needed, f"{label} of {name!r} is {'None' if needed else 'no band'}")
                shape = expected if edge is None else edge.shape
                holds(shape == expected, f"{label} of {name!r} has shape {shape}, expected {expected}")


@clause("world", "the verbs; a batch of W worlds equals W single worlds, without the batch axis")
def batch_is_loop(case: WorldCase) -> None:
    """Predictions and scores of a batch of W worlds equal those of single worlds."""
    windows = case.windows()
    goal, plans = case.batch_goal(windows.num_worlds), windows.future(4, case.seed).actions
    together, scores = case.predict(windows), case.score(windows, plans, goal).cost
    for world in (0, windows.num_worlds - 1):
        query, problem = case.query(world), f"world {world} alone differs from its result in the batch"
        alone = case.predict(query)
        trust = np.nan_to_num([alone.trust, as_float(together.trust)[world]], nan=-1.0)  # NaN where not calibrated
        case.equal(trust[0], trust[1], f"{problem}: trust")
        for name, label in product(together.signals, ("mean", "low", "high")):
            part, whole = (getattr(prediction.signals[name], label) for prediction in (alone, together))
            holds((part is None) == (whole is None), f"{problem}: {label} of {name!r}")
            if part is not None:
                case.equal(part, whole[world], f"{problem}: {label} of {name!r}")
        case.equal(case.score(query, case.plans(world)).cost, scores[world], f"{problem}: cost")


@clause("world", "the verbs; they do not change arguments or the global random state")
def arguments_unchanged(case: WorldCase) -> None:
    """No verb changes its arguments or the global random state."""
    query, episode, plans, at = case.query(), case.episodes[0], case.plans(), case.length - 1
    taken = case.taken(episode)
    with unchanged(query, plans, episode, taken, case.goal):
        case.predict(query)
        case.score(query, plans)
        case.world.what_if(episode, at, taken)
        for ask in (partial(case.plan, query), partial(case.world.surprise, episode)):
            with suppress(UnsupportedError):  # abilities have their own clauses
                ask()


@clause("world", "Card.band_horizon and band_level; bands are finite up to both, infinite beyond, and never NaN")
def bands_as_stated(case: WorldCase) -> None:
    """Bands reach as many steps, and as high a level, as the card states; longer predictions have finite means."""
    card, query = case.card, case.query()
    calibrated = case.predict(query).calibrated and bool(case.vectors)
    stated = f"the card states bands of {card.band_horizon} steps up to level {card.band_level:.4g}"
    holds(calibrated == (card.band_horizon > 0), f"{stated}, but predictions have {'some' if calibrated else 'none'}")
    num_steps = max(card.band_horizon + 1, 3 * case.horizon)
    ask = partial(case.predict, _repeated(query, num_steps))
    what = f"{stated}; a prediction of {num_steps} steps"
    prediction = accepts(what, partial(ask, level=card.band_level) if calibrated else ask)
    for name, forecast in prediction.signals.items():
        has_shape(f"the mean of {name!r}", forecast.mean, (num_steps, *card.schema[name].shape))
    for name in case.vectors if calibrated else ():
        low, high = band_of(prediction, name)
        is_finite: NDArray[np.bool_] = np.isfinite(np.stack([low, high], 2)).all((1, 2))
        known = is_finite[:, None] | ((low == -np.inf) & (high == np.inf))
        holds(known, f"the band of {name!r} has edges that are neither finite nor -inf and inf")
        rare = any(not episode.mask(name).all() for episode in case.episodes)
        if rare and not is_finite.any():  # too few windows observe the signal for this level, see `Forecast.low`
            continue
        wrong = np.flatnonzero(is_finite != (np.arange(num_steps) < card.band_horizon)).tolist()
        holds(not wrong, f"{stated}; that of {name!r} is {_ends(is_finite, wrong)}")
    if calibrated:
        beyond = (1 + card.band_level) / 2
        refuses(f"a prediction at level {beyond:.4g}", partial(ask, level=beyond), beyond, expected=UnsupportedError)


def _ends(is_finite: NDArray[np.bool_], wrong: list[int]) -> str:
    """The first wrong step in words."""
    return f"{'finite' if is_finite[wrong[0]] else 'infinite'} at step {wrong[0] + 1}" if wrong else ""


def _repeated(query: ForecastWindows, num_steps: int) -> ForecastWindows:
    """The query with its inputs repeated to this number of steps."""
    long = partial(map_arrays, function=lambda value: np.resize(value, (num_steps, *value.shape[1:])))
    return replace(query, actions=long(query.actions), exogenous=long(query.exogenous))


@clause("world", "World.predict; without a level, the result names one")
def level_available(case: WorldCase) -> None:
    """Without a level the answer states one, and has its band."""
    ask = partial(case.predict, case.query())
    prediction = accepts("a prediction without a level", partial(ask, level=None))
    holds(0 < prediction.level < 1, f"the level of a prediction without a level is {prediction.level}")
    same = ask(level=prediction.level)
    for name in case.vectors if prediction.calibrated else ():
        problem = f"signal {name!r}: the band without a level is not that of the stated level {prediction.level:.3g}"
        case.equal(np.stack(band_of(prediction, name)), np.stack(band_of(same, name)), problem)


@clause("world", "Forecast.samples; paths whose spread is that of the bands, or UnsupportedError")
def samples_calibrated(case: WorldCase) -> None:
    """The share of sampled paths inside a band is its level; without a calibration samples are refused."""
    query = case.query()
    refused = lacks("sampled paths", partial(case.predict, query, num_samples=2), "calibrat")
    problem = f"sampled paths are {'refused' if refused else 'returned'}, but predictions are"
    holds(refused != case.calibrated(), f"{problem} {'' if refused else 'not '}calibrated")
    for level in () if refused else levels_of(case):
        prediction = case.predict(query, level=level, num_samples=NUM_SAMPLES)
        for name in case.vectors:
            samples = as_float(existing(prediction.signals[name].samples, f"{name!r} has no samples"))
            signal, (low, high) = case.card.schema[name], band_of(prediction, name)
            has_shape(f"samples of {name!r}", samples, (NUM_SAMPLES, case.horizon, *signal.shape))
            share = float(((samples >= low) & (samples <= high)).all((1, 2)).mean())
            # The band of K episodes contains the share level * (K + 1) / K of their own paths. If a bound of the signal
            # cuts the band, it also cuts paths, so that more of them are inside.
            most = min(1.0, level + (level / case.num_calibration if case.num_calibration else 0.0))
            cut = (signal.bounded(low - np.inf) == low).any() or (signal.bounded(high + np.inf) == high).any()
            fits = level - MAX_GAP <= share <= (1.0 if cut else most) + MAX_GAP
            problem = f"signal {name!r}: {share:.0%} of the samples are inside the {level} band"
            holds(fits or is_exact(case, name, float(np.mean(high - low))), problem)


@clause("world", "Prediction.images; uint8 images of the schema's image signals, or UnsupportedError")
def images_drawn(case: WorldCase) -> None:
    """Images are in the shape of their signal and only if requested; a world without them names the decoder."""
    query, card = case.query(), case.card
    holds(not case.predict(query).images, "a prediction has images that were not requested")
    possible = "decodes" in card.abilities or any(card.schema[name].kind is Kind.IMAGE for name in card.predicts)
    if lacks("images", partial(case.predict, query, images=True), "decoder"):
        holds(not possible, "images are refused, but the card predicts or decodes images")
        return
    images = case.predict(query, images=True).images
    holds(bool(images), "there is no image, and no UnsupportedError")
    for name, frames in images.items():
        has_shape(f"images of {name!r}", frames, (case.horizon, *card.schema[name].shape))
        holds(frames.dtype == np.uint8, f"images of {name!r} have dtype {frames.dtype}, expected uint8")


@clause("world", "the verbs; a result depends on the arguments only: no state, no buffer shared by threads")
def calls_independent(case: WorldCase) -> None:
    """Equal calls return bit for bit equal results, in any order and from eight threads at once."""
    every = [_questions(case, number, plans=number < 2) for number in range(NUM_THREADS)]
    expected = [{name: _answer(ask) for name, ask in questions.items()} for questions in every]
    start = threading.Barrier(NUM_THREADS)

    def compare(number: int, when: str) -> None:
        for name, ask in reversed(every[number].items()):
            problem = f"{name} returned another result for equal arguments {when}"
            same_snapshots(expected[number][name], _answer(ask), problem)

    def compare_together(number: int) -> None:
        start.wait()
        compare(number, f"while {NUM_THREADS - 1} threads were calling")

    for number in (1, 0):
        compare(number, "after other calls")
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(compare_together, range(NUM_THREADS)))


def _questions(case: WorldCase, number: int, *, plans: bool) -> dict[str, Callable[[], object]]:
    """One call of each verb on an episode; `plan` only if `plans` is True."""
    world = number % case.windows().num_worlds
    query, episode, seed = case.query(world), case.episodes[world], case.seed + number
    others = {name: value[::-1] for name, value in case.taken(episode).items()}
    asks: dict[str, Callable[[], object]] = {
        "predict": partial(case.predict, query),
        "score": partial(case.score, query, replace(case, seed=seed).plans(world)),
        "what_if": partial(case.world.what_if, episode, case.length - 1, others),
        "surprise": partial(case.world.surprise, episode),
    }
    return {**asks, "plan": partial(case.plan, query, seed=seed)} if plans else asks


def _answer(ask: Callable[[], object]) -> Mapping[str, object]:
    """A copy of the result without its elapsed time, or the text of the error."""
    try:
        result = ask()
    except WorldlineError as refusal:
        return {"the error": f"{type(refusal).__name__}: {refusal}"}
    return snapshot(replace(result, elapsed_s=0.0) if isinstance(result, Plan) else result)
