"""Clauses on `World`: shapes, batches, options of `predict`, and determinism. Other files hold those by subject."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np

from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays, History
from worldline.errors import UnsupportedError, WorldlineError
from worldline.planning.base import Goal
from worldline.schema import Kind
from worldline.testing.bands import band_of, is_exact, levels_of
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import (
    BreachError,
    accepts,
    as_float,
    existing,
    has_shape,
    holds,
    lacks,
    map_arrays,
    refusal_of,
    refuses,
    same_snapshots,
    snapshot,
    unchanged,
)
from worldline.world.base import Plan

NUM_SAMPLES: Final = 400
MAX_GAP: Final = 0.1
"""Largest difference between a level and the share of `NUM_SAMPLES` paths inside its band: four standard errors."""

NEVER: Final = 1 - 1e-9
"""A level that no finite calibration supports."""

NUM_THREADS: Final = 8


@clause("world", "Prediction and Forecast; mean [T, *shape] and band of each signal")
def prediction_shapes(case: WorldCase) -> None:
    """A prediction has a mean and a band in the signal's shape for each predicted signal, for one world or W."""
    windows, alone = case.windows(), case.predict(case.query())
    holds(np.ndim(alone.trust) == 0, f"trust of one world has shape {np.shape(alone.trust)}")
    for leading, prediction in (((), alone), ((windows.num_worlds,), case.predict(windows))):
        names = set(prediction.signals)
        holds(names == set(case.card.predicts), f"signals {sorted(names)}, expected {case.card.predicts}")
        holds(prediction.level == 0.8, f"level {prediction.level}, expected 0.8")
        for name, forecast in prediction.signals.items():
            signal = case.card.schema[name]
            expected = (*leading, case.horizon, *signal.shape)
            has_shape(f"mean of {name!r}", forecast.mean, expected)
            for label, edge in (("low", forecast.low), ("high", forecast.high)):
                needed = signal.kind is Kind.VECTOR and prediction.calibrated
                holds(edge is not None or not needed, f"{label} of {name!r} is None")
                shape = expected if edge is None else edge.shape
                holds(shape == expected, f"{label} of {name!r} has shape {shape}, expected {expected}")
            no_band = signal.kind is Kind.IMAGE or not prediction.calibrated
            holds(not no_band or forecast.low is None, f"{name!r} has a band without a calibration")


@clause("world", "the verbs; a batch of W worlds equals W single worlds, without the batch axis")
def batch_is_loop(case: WorldCase) -> None:
    """Predictions and scores of a batch of W worlds equal those of single worlds."""
    windows = case.windows()
    together, scores = case.predict(windows), case.score(windows, *_batch(case)).cost
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
    windows, query, episode, at = case.windows(), case.query(), case.episodes[0], case.length - 1
    (plans, goal), taken = _batch(case), case.taken(episode)
    with unchanged(windows, plans, query, episode, goal, taken, case.goal):
        case.predict(windows)
        case.score(windows, plans, goal)
        case.world.what_if(episode, at, taken)
        for ask in (partial(case.plan, query), partial(case.world.surprise, episode)):
            with suppress(UnsupportedError):  # abilities have their own clauses
                ask()


def _batch(case: WorldCase) -> tuple[Arrays, Goal]:
    """Four plans and a goal for each world of the batch."""
    windows = case.windows()
    return windows.future(4, case.seed).actions, case.batch_goal(windows.num_worlds)


@clause("world", "World.predict; the mean for any number of steps, and infinite bands after the calibrated horizon")
def any_horizon(case: WorldCase) -> None:
    """Long predictions have finite means, and bands that are infinite from some step on, never NaN."""
    num_steps = 3 * case.horizon
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


@clause("world", "Card.band_horizon and band_level; bands are finite up to both, and not beyond")
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
        finite = [bool(step.all()) for step in np.isfinite(band_of(prediction, name)).swapaxes(0, 1)]
        rare = any(not episode.mask(name).all() for episode in case.episodes)
        if rare and not any(finite):  # too few windows observe the signal for this level, see `Forecast.low`
            continue
        holds(all(finite[:-1]), f"{stated}; that of {name!r} is infinite at step {[*finite, False].index(False) + 1}")
        holds(not finite[-1], f"{stated}; that of {name!r} is finite at step {card.band_horizon + 1}")
    beyond = (1 + card.band_level) / 2
    refuses(f"{stated}; a prediction at level {beyond:.4g}", partial(ask, level=beyond), expected=UnsupportedError)


def _repeated(query: ForecastWindows, num_steps: int) -> ForecastWindows:
    """The query with its inputs repeated to this number of steps."""
    long = partial(map_arrays, function=lambda value: np.resize(value, (num_steps, *value.shape[1:])))
    return replace(query, actions=long(query.actions), exogenous=long(query.exogenous))


@clause("world", "World.predict, level; without one a level that the result names; UnsupportedError if it is too high")
def level_available(case: WorldCase) -> None:
    """Without a level the answer states one. For a level that is too high, UnsupportedError names an available one."""
    ask = partial(case.predict, case.query())
    prediction = accepts("a prediction without a level", partial(ask, level=None))
    holds(0 < prediction.level < 1, f"the level of a prediction without a level is {prediction.level}")
    same = ask(level=prediction.level)
    for name in case.vectors if prediction.calibrated else ():
        problem = f"signal {name!r}: the band without a level is not that of the stated level {prediction.level:.3g}"
        case.equal(np.stack(band_of(prediction, name)), np.stack(band_of(same, name)), problem)

    def refusal(level: float) -> Any:
        answer = refusal_of(f"level {level}", partial(ask, level=level), UnsupportedError)
        return answer if isinstance(answer, UnsupportedError) else None

    if text := refusal(NEVER):
        possible = [level for level in map(float, re.findall(r"0\.\d+", str(text))) if level < NEVER]
        holds(not all(map(refusal, possible)), f"the message {str(text)!r} names no level that is available")


@clause("world", "Forecast.samples; paths whose spread is that of the bands, or UnsupportedError")
def samples_calibrated(case: WorldCase) -> None:
    """The share of sampled paths inside a band is its level; without a calibration samples are refused."""
    query = case.query()
    refused = lacks("sampled paths", partial(case.predict, query, num_samples=2), "calibrat")
    problem = f"sampled paths are {'refused' if refused else 'returned'}, but predictions are"
    holds(refused != case.calibrated(), f"{problem} {'' if refused else 'not '}calibrated")
    for level in () if refused else levels_of(case):
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
        holds(card.schema[name].kind is Kind.IMAGE, f"{name!r} is no image signal")
        has_shape(f"images of {name!r}", frames, (case.horizon, *card.schema[name].shape))
        holds(frames.dtype == np.uint8, f"images of {name!r} have dtype {frames.dtype}, expected uint8")


@clause("world", "History; one observation needs no empty arrays of inputs")
def one_observation(case: WorldCase) -> None:
    """A history of one observation gives the same prediction with empty arrays of inputs and without them."""
    query = case.query()
    last, means = query.history.last(1), []
    for history in (last, History(observations=last.observations, observed=last.observed)):
        what = f"a history of one observation with the inputs {sorted(history.actions)}"
        means.append(accepts(what, partial(case.means, replace(query, history=history))))
    case.equal(means[1], means[0], "the prediction changes without empty arrays of inputs")


@clause("world", "the verbs; concurrent calls of one world share no mutable state, such as a buffer")
def same_from_eight_threads(case: WorldCase) -> None:
    """Eight threads with different calls get bit for bit the results of a single thread."""
    every = [_questions(case, number, plans=number < 2) for number in range(NUM_THREADS)]
    expected = [{name: _answer(ask) for name, ask in questions.items()} for questions in every]
    start = threading.Barrier(NUM_THREADS)

    def ask_all(questions: Mapping[str, Callable[[], object]]) -> dict[str, Mapping[str, object]]:
        start.wait()
        return {name: _answer(ask) for name, ask in questions.items()}

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        answers = list(pool.map(ask_all, every))
    for alone, together in zip(expected, answers, strict=True):
        for name, value in alone.items():
            problem = f"{name} returned another result while {NUM_THREADS - 1} threads were calling"
            same_snapshots(value, together[name], problem)


@clause("world", "the verbs; a result depends on the arguments only, not on earlier calls")
def same_in_any_order(case: WorldCase) -> None:
    """Equal calls return bit for bit equal results, in any order of calls."""
    asks = {f"{name} {number}": ask for number in (0, 1) for name, ask in _questions(case, number, plans=True).items()}
    first = {name: _answer(ask) for name, ask in asks.items()}
    for name in reversed(asks):
        problem = f"{name.split()[0]} returned another result for equal arguments after other calls"
        same_snapshots(first[name], _answer(asks[name]), problem)


@clause("world", "the verbs; NumPy arrays in any memory layout are accepted, read-only ones too")
def any_layout(case: WorldCase) -> None:
    """Read-only arrays and views with negative strides give the results of contiguous copies."""
    query, plans = case.query(), case.plans()
    odd, turned = map_arrays(query, _backwards), map_arrays(plans, _backwards)
    for verb, plain, other in (
        ("predict", partial(case.predict, query), partial(case.predict, odd)),
        ("score", partial(case.score, query, plans), partial(case.score, odd, turned)),
    ):
        problem = f"{verb} of views and read-only arrays"
        try:
            answer = snapshot(other())
        except (TypeError, ValueError) as error:
            raise BreachError(f"{problem} raised {type(error).__name__} ({error})") from error
        same_snapshots(snapshot(plain()), answer, f"{problem} differs from copies")


def _backwards(value: Any) -> Any:
    """The same values as a read-only view with negative strides."""
    view = value[::-1].copy()[::-1]
    view.flags.writeable = False
    return view


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
