"""Queries of worlds for the exam and the audit: arrays with dotted names in, checked arrays out."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays, Episode, History
from worldline.errors import EngineError, InputError, NoGoodAnswerError, UnreadableError, UnsupportedError
from worldline.schema import Kind, Signal
from worldline.stats import Floats
from worldline.world.base import Forecast, World

BATCH: Final = 256
"""Scenes per call of a world; bounds memory and changes no figure."""

WINDOW_BATCH: Final = 64
"""Windows per call of a world. Windows may hold images, so the batches are smaller than `BATCH`."""

LOWEST_LEVEL: Final = 0.5
"""Level of the band where only means are used; every calibration supports it."""

_PARTS: Final = ("observations", "actions", "exogenous", "observed")

Array = NDArray[np.generic]


def packed(group: str, arrays: Arrays) -> dict[str, Array]:
    """`arrays` under the names "group.signal", as in scenes and answers."""
    return {f"{group}.{name}": np.asarray(value) for name, value in arrays.items()}


def unpacked(arrays: Arrays, group: str) -> dict[str, Array]:
    """The arrays of one group under their signal names; empty if the group is missing."""
    return {name.removeprefix(f"{group}."): v for name, v in arrays.items() if name.startswith(f"{group}.")}


def history_of(scenes: Arrays, group: str = "history") -> History:
    """The history [E, H, *shape] that `packed_history` stored in scenes."""
    observations, actions, exogenous, observed = (unpacked(scenes, f"{group}.{part}") for part in _PARTS)
    masks = {name: value.astype(bool) for name, value in observed.items()}
    return History(observations=observations, actions=actions, exogenous=exogenous, observed=masks)


def packed_history(history: History, group: str = "history") -> dict[str, Array]:
    """A history [E, H, *shape] under dotted names; the inverse of `history_of`."""
    return {k: v for part in _PARTS for k, v in packed(f"{group}.{part}", getattr(history, part)).items()}


def forecasts(
    world: World,
    history: History,
    actions: Arrays,
    *,
    signals: Sequence[str],
    exogenous: Arrays | None = None,
    level: float = 0.9,
    checked: bool = True,
) -> dict[str, Forecast]:
    """Forecasts of a world for E scenes, computed in batches.

    Args:
        world: world to query.
        history: [E, H, *shape].
        actions: per signal [E, T, *shape].
        signals: signals that the test needs.
        exogenous: per signal [E, T, *shape]; None for none.
        level: level of the band.
        checked: whether to check that all means are finite.

    Raises:
        UnreadableError: the world does not predict one of `signals`.
        NoGoodAnswerError: a mean has a wrong shape or is not finite.
    """
    check_readable(world, signals)
    predicted = _predicted(world, history, actions, signals, exogenous or {}, level, BATCH)
    if checked:
        check_numbers(world, {name: forecast.mean for name, forecast in predicted.items()}, actions)
    return predicted


def predicted_vectors(world: World, among: Container[str]) -> list[Signal]:
    """The vector observations that the world predicts and `among` contains."""
    card = world.describe()
    vectors = [signal for signal in card.schema.observations if signal.kind is Kind.VECTOR]
    return [signal for signal in vectors if signal.name in card.predicts and signal.name in among]


def inside_band(windows: ForecastWindows, signal: Signal, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Whether the known truth [W, T, n] is inside the band at every step [W].

    An unbounded band contains everything, a NaN band nothing.
    """
    with np.errstate(invalid="ignore"):  # an unbounded band has no middle
        middle = (low + high) / 2
    truth = middle + signal.difference(windows.truth[signal.name].astype(float), middle)
    truth = np.where(np.isfinite(middle), truth, 0.0)
    inside = ((truth >= low) & (truth <= high)).all(-1)
    return np.asarray((inside | ~windows.known[signal.name]).all(-1))


def window_forecasts(
    world: World, windows: ForecastWindows, actions: Arrays | None = None, *, level: float = LOWEST_LEVEL
) -> dict[str, Forecast]:
    """Forecasts [W, T, *shape] of each predicted vector signal for all windows, computed in batches.

    Args:
        world: world to query.
        windows: histories and exogenous inputs.
        actions: per signal [W, T, *shape]; None for the logged actions.
        level: level of the band.
    """
    card = world.describe()
    vectors = [name for name in card.predicts if card.schema[name].kind is Kind.VECTOR]
    asked = windows.actions if actions is None else actions
    size = min(WINDOW_BATCH, card.max_batch)
    return _predicted(world, windows.history, asked, vectors, windows.exogenous, level, size)


def _predicted(
    world: World, history: History, actions: Arrays, signals: Sequence[str], exogenous: Arrays, level: float, size: int
) -> dict[str, Forecast]:
    """The forecasts of `signals`; each call of the world gets at most `size` histories.

    NaN for a history whose forecast the world refuses because it is not finite.
    """
    count = len(next(iter(history.observations.values())))
    if count > size:
        parts = [
            _predicted(world, history.worlds(rows), _cut(actions, rows), signals, _cut(exogenous, rows), level, size)
            for rows in (slice(first, first + size) for first in range(0, count, size))
        ]
        return {name: _joined([part[name] for part in parts]) for name in signals}
    try:
        predicted = world.predict(history, actions, exogenous=dict(exogenous) or None, level=level).signals
        return {name: _joined([predicted[name]]) for name in signals}
    except EngineError:
        if count > 1:  # the others may be finite
            return _predicted(world, history, actions, signals, exogenous, level, (count + 1) // 2)
        horizon, schema = next(iter(actions.values())).shape[1], world.describe().schema
        lost = {name: np.full((1, horizon, *schema[name].shape), np.nan) for name in signals}
        return {n: Forecast(mean=v, low=v, high=v, horizon=np.zeros(1, int)) for n, v in lost.items()}


def _joined(parts: Sequence[Forecast]) -> Forecast:
    """Concatenates the batches; no band if any batch has none."""

    def joined(name: str) -> Any:
        edges = [getattr(part, name) for part in parts]
        return None if any(edge is None for edge in edges) else np.concatenate(edges)

    horizon = np.concatenate([np.atleast_1d(part.horizon) for part in parts])
    return Forecast(mean=joined("mean"), low=joined("low"), high=joined("high"), horizon=horizon)


def means(
    world: World, history: History, actions: Arrays, *, signals: Sequence[str], exogenous: Arrays | None = None
) -> dict[str, Floats]:
    """Mean [E, T, *shape] of each signal from `forecasts`, in float64."""
    predicted = forecasts(world, history, actions, signals=signals, exogenous=exogenous)
    return {name: forecast.mean.astype(np.float64) for name, forecast in predicted.items()}


def counterfactuals(
    world: World, episodes: Sequence[Episode], at: int, actions: Arrays, *, signals: Sequence[str]
) -> dict[str, Floats]:
    """Counterfactual observations [E, T, *shape] after observation `at` of each episode, in float64.

    Args:
        world: world to query.
        episodes: E episodes.
        at: observation of the branch.
        actions: per signal [E, T, *shape], the alternative actions.
        signals: signals that the test needs.

    Raises:
        UnreadableError: the world does not predict one of `signals`.
        NoGoodAnswerError: an answer has a wrong shape or is not finite.
        UnsupportedError: the world is not action-conditioned.
    """
    check_readable(world, signals)
    card = world.describe()
    if not card.action_conditioned:
        raise UnsupportedError(
            f"{card.name} is not action-conditioned, so it has no counterfactuals. Use an action-conditioned world."
        )
    answers = [world.what_if(episode, at, {k: v[e] for k, v in actions.items()}) for e, episode in enumerate(episodes)]
    parts = {name: [answer.signals[name].astype(np.float64) for answer in answers] for name in signals}
    paths: dict[str, Floats] = {name: np.stack(part) for name, part in parts.items()}
    check_numbers(world, paths, actions)
    return paths


def check_readable(world: World, signals: Sequence[str]) -> None:
    """Checks that the world predicts all `signals`.

    Raises:
        UnreadableError: the world does not predict one of them.
    """
    card = world.describe()
    lacking = [name for name in signals if name not in card.predicts]
    if lacking:
        raise UnreadableError(
            f"the test needs {', '.join(lacking)}; {card.name} predicts {', '.join(card.predicts) or 'nothing'}. "
            "Fit a readout head for the missing signals."
        )


def check_numbers(world: World, answers: Arrays, actions: Arrays) -> None:
    """Checks that each answer has the expected shape and is finite, so that it can be scored.

    Args:
        world: world that answered.
        answers: per signal, expected shape [E, T, *shape].
        actions: per signal [E, T, *shape], the queried actions.

    Raises:
        NoGoodAnswerError: an answer has another shape, or is NaN or infinite.
    """
    card, lead = world.describe(), next(iter(actions.values())).shape[:2]
    for name, values in answers.items():
        expected = (*lead, *card.schema[name].shape)
        if values.shape != expected:
            raise NoGoodAnswerError(
                f"expected shape {expected} for {name}, got {values.shape} from {card.name}. Correct the world."
            )
        lost = ~np.isfinite(values.astype(float)).reshape(lead[0], -1).all(1)
        if lost.any():
            raise NoGoodAnswerError(
                f"{card.name} predicts NaN or infinity for {name} in {int(lost.sum())} of {len(lost)} scenes. "
                "Correct the world, or let it refuse inputs that it cannot answer."
            )


def only(worlds: Mapping[str, World]) -> World:
    """The single world of a test with one dataset.

    Raises:
        InputError: there is not exactly one world.
    """
    if len(worlds) != 1:
        raise InputError(
            f"expected one world for this test, got {len(worlds)} ({', '.join(worlds)}). Give exactly one."
        )
    return next(iter(worlds.values()))


def _cut(arrays: Arrays, part: slice) -> dict[str, Array]:
    return {name: value[part] for name, value in arrays.items()}
