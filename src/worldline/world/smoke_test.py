"""The smoke test: before a world is published, it runs on a few held-out windows that its bundle stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import random_places
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import BundleError, DataError, InputError, WorldlineError
from worldline.stats import tails
from worldline.world.base import Prediction
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld
from worldline.world.validation import check_actions, check_history

MAX_WINDOWS: Final = 16
MAX_WINDOW_BYTES: Final = 2 * 2**20
"""Largest size of all windows; images may leave room for few."""

MAX_CHANCE: Final = 1e-6
"""Probability with which a healthy world fails."""

ROUNDING: Final = 1e-2
"""Errors within this share of a signal's standard deviation are never misses: the bands of an exact world are narrower
than the rounding of bfloat16 products on another processor."""

_FIX: Final = "Learn and save the world again, with the versions that are installed here"


def smoke_windows(card: Card, episodes: Sequence[Episode], *, horizon: int, seed: int) -> History | None:
    """Up to 16 random windows [W, context + horizon, *shape] of the signals that the world uses.

    Args:
        card: of the engine.
        episodes: of the calibration. Windows whose actions are outside their bounds are left out.
        horizon: T, the calibrated horizon.
        seed: of the choice.

    Returns:
        None if no window is usable, or one exceeds 2 MB.
    """
    names = {*card.inputs, *card.predicts, *(signal.name for signal in (*card.schema.actions, *card.schema.exogenous))}
    usable = [episode for episode in episodes if episode.num_steps >= card.context - 1 + horizon]
    if not usable:
        return None
    rng, count = np.random.default_rng(seed), -(-MAX_WINDOWS // len(usable))
    places = random_places(usable, length=card.context, horizon=horizon, count=count, rng=rng)
    windows, room = list[History](), MAX_WINDOW_BYTES
    # A window that `World.predict` would refuse must not be stored, and all windows share the limit in bytes.
    for number in rng.permutation(len(places))[:MAX_WINDOWS]:
        episode, at = places[number]
        try:
            window = episode.history(at + horizon, card.context + horizon).select(names)
            window = check_history(card.schema, window)[0].map(lambda value: value[0])
            check_actions(card.schema.actions, window.actions, (None,))
        except InputError:
            continue
        room -= sum(value.nbytes for value in to_arrays(window).values())
        if room < 0:
            break
        windows.append(window)
    return History.stack(windows) if windows else None


def to_arrays(windows: History) -> dict[str, NDArray[np.generic]]:
    """The windows as named arrays; the inverse of `from_arrays`."""
    return {f"{group}/{name}": value for group, arrays in vars(windows).items() for name, value in arrays.items()}


def from_arrays(arrays: Arrays, card: Card) -> History:
    """The windows that `to_arrays` wrote, which must fit the world.

    Args:
        arrays: untrusted.
        card: of the engine.

    Raises:
        DataError: an array is missing or unknown, does not fit the schema, or there are too many windows.
    """
    groups = dict[str, dict[str, NDArray[np.generic]]]()
    for key, value in arrays.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    try:
        windows, single = check_history(card.schema, History(**groups))
    except (InputError, TypeError) as error:
        raise DataError(f"the windows do not fit the world: {str(error).rstrip('.')}", fix=_FIX) from error
    observations = windows.observations
    fits = observations.keys() == {*card.inputs, *card.predicts} and not single
    if not fits or windows.num_worlds > MAX_WINDOWS or next(iter(observations.values())).shape[1] <= card.context:
        raise DataError(
            f"windows of {sorted(observations)} in shape {next(iter(observations.values())).shape} do not fit the "
            f"world, which allows {MAX_WINDOWS} windows of more than {card.context} observations",
            fix=_FIX,
        )
    return windows


def smoke_test(world: LocalWorld, where: Path) -> None:
    """Runs the world on its stored windows; does nothing without windows.

    Args:
        world: from a bundle.
        where: the bundle, for errors.

    Raises:
        BundleError: it does not answer, or the observations are outside the bands far too often.
    """
    if world.windows is None:
        return
    card, windows = world.describe(), world.windows
    try:
        prediction = world.predict(
            windows.window(0, card.context, axis=1),
            {name: value[:, card.context - 1 :] for name, value in windows.actions.items()},
            exogenous={name: value[:, card.context - 1 :] for name, value in windows.exogenous.items()} or None,
        )
    except WorldlineError as error:
        raise BundleError(f"{where}: the world does not answer for its stored windows: {error} {_FIX}.") from error
    if world.calibration is not None:
        _check_bands(world.calibration, card, prediction, windows, where)


def _check_bands(calibration: Calibration, card: Card, prediction: Prediction, windows: History, where: Path) -> None:
    """Raises if a signal is outside its band too often.

    The windows come from the calibration episodes. Given these episodes, they are draws like the K * k windows that set
    the width, so the number of windows inside is beta-binomial with K * k calibration examples. The rank of a band uses
    d >= 1 more examples, which makes misses rarer still.
    """
    bands = prediction.signals.items()
    banded = {name: band for name, band in bands if band.high is not None and np.isfinite(band.high).all()}
    for name, forecast in banded.items():
        assert forecast.half_width is not None  # as selected above
        signal, horizon = card.schema[name], forecast.mean.shape[1]
        truth, mean = (np.asarray(value, np.float64) for value in (windows.observations[name], forecast.mean))
        truth = truth[:, -horizon:]
        seen = windows.mask(name)[:, -horizon:]
        allowed = forecast.half_width + ROUNDING * calibration.spread[name]
        inside = ((np.abs(signal.difference(truth, mean)) <= allowed).all(-1) | ~seen).all(-1)[seen.any(-1)]
        if not len(inside):
            continue
        chance = tails(int(inside.sum()), len(inside), prediction.level, len(calibration.novelty)).low
        if chance < MAX_CHANCE / len(banded):
            raise BundleError(
                f"{where}: {name!r} is outside its {prediction.level:.0%} band in {np.count_nonzero(~inside)} of "
                f"{len(inside)} stored windows (chance {chance:.1g}). The model does not fit its calibration. {_FIX}."
            )
