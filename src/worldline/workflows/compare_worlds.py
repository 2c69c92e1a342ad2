"""Compares two worlds on the same windows of the same episodes, signal by signal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.baselines import as_world
from worldline.audit.diagnostics import measure_bands, squared_errors
from worldline.audit.queries import predicted_vectors, window_forecasts
from worldline.audit.run import scales
from worldline.audit.world_comparison import (
    ComparedBand,
    ComparedWorld,
    ErrorComparison,
    SignalComparison,
    WorldComparison,
)
from worldline.catalog.opening import is_reference, open_target
from worldline.catalog.versions import Catalog
from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, forecast_windows, joined_windows
from worldline.engines.base import Card
from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.formatting import listing
from worldline.progress import OnProgress, tell
from worldline.schema import Kind, Schema, Signal
from worldline.stats import Estimate, Floats, draw_clusters, root_mean_square, simultaneous_intervals
from worldline.workflows.audit import DEFAULT_HORIZON, MAX_HORIZON
from worldline.workflows.candidate_errors import MIN_ERROR
from worldline.workflows.held_out import check_signals, opened_logs, training_parts
from worldline.world.base import Forecast, World

MAX_WINDOWS: Final = 200
MAX_EPISODES: Final = 100
MAX_PER_EPISODE: Final = 10
LEVEL: Final = 0.9
"""Level of the bands, unless a calibration supports only a lower one."""
NUM_TIMED: Final = 5
"""Predictions that are timed."""


@final
class WorldSource(World):
    """A world that gets only its own signals. It keeps trust and seconds of each prediction.

    Args:
        world: the world.
        name: in the results.
        folder: of its bundle, which states the episodes of its training; empty if unknown.
    """

    def __init__(self, world: World, name: str, folder: str = "") -> None:
        self._world, self._card, self.name, self.folder = world, world.describe(), name, folder
        self._trust, self._seconds = list[Floats](), list[float]()

    def describe(self) -> Card:
        """The card of the world."""
        return self._card

    def answer(self, call: Any) -> Any:
        """The answer to a predict call, which may contain further signals."""
        schema = self._card.schema
        own = replace(
            call,
            history=call.history.select([signal.name for signal in schema.signals]),
            actions={signal.name: call.actions[signal.name] for signal in schema.actions},
            exogenous={signal.name: call.exogenous[signal.name] for signal in schema.exogenous} or None,
        )
        started_s = time.perf_counter()
        prediction = self._world.answer(own)
        self._seconds.append(time.perf_counter() - started_s)
        self._trust.append(np.atleast_1d(prediction.trust))
        return prediction

    def median_trust(self) -> float | None:
        """The median over all predictions so far; None without a calibration."""
        trust = np.concatenate(self._trust)
        return None if np.isnan(trust).all() else float(np.nanmedian(trust))

    def latency_s(self, windows: ForecastWindows, level: float) -> float:
        """The median seconds of predictions from one of the first histories."""
        for row in range(min(NUM_TIMED, windows.num_worlds)):
            window_forecasts(self, windows.select([row]), level=level)
        return float(np.median(self._seconds[-NUM_TIMED:]))


Pair = Sequence[WorldSource]
Predicted = Mapping[str, Forecast]
Signals = Sequence[Signal]


def compare_worlds(
    a: WorldSource | World | Path | str,
    b: WorldSource | World | Path | str,
    logs: Path | str | Store,
    *,
    horizon: int | None = None,
    max_episodes: int = MAX_EPISODES,
    seed: int = 0,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> WorldComparison:
    """Compares two worlds on at most 200 windows of logged episodes.

    Episodes that neither training used are preferred.

    Args:
        a: first world: argument of `worldline.open`, or an open world.
        b: second world, likewise.
        logs: a store, or logs in any format that an importer reads.
        horizon: steps to predict; None for the calibrated horizon of both worlds, at most 50.
        max_episodes: largest number of episodes, 2 to 200.
        seed: of the choice of windows and of the bootstrap.
        device: on which worlds are opened; argument of `worldline.open`.
        progress: called after each step.

    Raises:
        InputError: both worlds are the same, or a number is out of range.
        BundleError: there is no such world.
        UnreadableError: the logs lack a signal of a world.
        UnsupportedError: no vector is predicted by both worlds.
        DataError: the logs cannot be read, or fewer than two episodes are long enough.
    """
    if a is b or (isinstance(a, Path | str) and isinstance(b, Path | str) and str(a) == str(b)):
        raise InputError(f"both worlds are {a!s:.100}. Give two different worlds.")
    if not 2 <= max_episodes <= MAX_WINDOWS or (horizon is not None and horizon < 1):
        raise InputError(
            f"horizon is {horizon} and max_episodes {max_episodes}. Give a horizon of at least 1, and 2 to "
            f"{MAX_WINDOWS} episodes."
        )
    pair = [_source(target, device) for target in (a, b)]
    with nullcontext(logs) if isinstance(logs, Store) else opened_logs(Path(logs)) as store:
        return _compared(pair, store, horizon, max_episodes, seed, lambda done: tell(progress, "compare", done, 2))


def _source(target: WorldSource | World | Path | str, device: str) -> WorldSource:
    if isinstance(target, WorldSource):
        return target
    if isinstance(target, World):
        return WorldSource(target, target.describe().name)
    opened_from = str(Catalog().resolve(str(target))) if is_reference(str(target)) else str(target)
    return WorldSource(open_target(opened_from, device=device), str(target), opened_from)


def _compared(
    pair: Pair, store: Store, horizon: int | None, max_episodes: int, seed: int, report: Callable[[int], None]
) -> WorldComparison:
    """The comparison; arguments as in `compare_worlds`."""
    cards, signals = [source.describe() for source in pair], _common_signals(pair, store.schema)
    context = max(1, *(card.context for card in cards))
    calibrated = [card.band_horizon for card in cards if card.band_horizon] or [DEFAULT_HORIZON]
    usual = int(np.median(store.num_steps)) if len(store) else 0
    horizon = horizon or max(1, min(*calibrated, MAX_HORIZON, usual - context + 1))
    level = min([LEVEL, *(card.band_level for card in cards if card.band_level)])
    parts = [training_parts(card, store, source.folder) for card, source in zip(cards, pair, strict=True)]
    numbers = _episodes(store, parts, context - 1 + horizon, max_episodes, seed)
    windows, persistence = _windows(store, numbers, cards, signals, (context, horizon), seed)
    predicted = list[Predicted]()
    for done, source in enumerate(pair):
        report(done)
        predicted.append(window_forecasts(source, windows, level=level))
    finite = [np.all([np.isfinite(each[s.name].mean).all((1, 2)) for s in signals], axis=0) for each in predicted]
    answered = (finite[0] & finite[1])[:, None]
    if not answered.any():
        raise UnsupportedError("no window has finite predictions of both worlds. Audit each of them.")
    windows = replace(windows, known={name: known & answered for name, known in windows.known.items()})
    compared = tuple(
        ComparedWorld(
            name=source.name,
            engine=card.engine,
            trust=source.median_trust(),
            latency_s=source.latency_s(windows, level),
            num_refused=int((~own).sum()),
            held_out=part is not None and all(_is_unseen(part, number) for number in numbers),
            only=tuple(name for name in card.predicts if not all(name in other.predicts for other in cards)),
        )
        for source, card, own, part in zip(pair, cards, finite, parts, strict=True)
    )
    report(len(pair))
    return WorldComparison(
        worlds=compared,
        logs=store.path.resolve().name,
        step_s=store.schema.step_s,
        horizon=horizon,
        context=context,
        num_episodes=len(numbers),
        num_windows=windows.num_worlds,
        level=level,
        signals=_signal_comparisons(signals, windows, [*predicted, persistence], level, seed),
    )


def _common_signals(pair: Pair, logged: Schema) -> Signals:
    """The vectors that both worlds predict and the logs contain. Checks all signals that a world reads."""
    names, cards = {signal.name for signal in logged.signals}, [source.describe() for source in pair]
    common = predicted_vectors(pair[0], names & set(cards[1].predicts))
    if not common:
        raise UnsupportedError(
            f"no vector of the logs is predicted by both {pair[0].name} ({listing(cards[0].predicts)}) and "
            f"{pair[1].name} ({listing(cards[1].predicts)}). Compare worlds of the same signals."
        )
    for card in cards:
        needed = {*card.inputs, *(signal.name for signal in (*card.schema.actions, *card.schema.exogenous, *common))}
        read = [signal for signal in card.schema.signals if signal.name in needed | names]
        check_signals(logged, read, "the logs", "Give logs that both worlds read.")
    return common


def _is_unseen(part: Mapping[int, str] | None, number: int) -> bool:
    """Whether a training did not use an episode, as far as is known."""
    return (part or {}).get(number, "") in ("", "held_out")


def _episodes(
    store: Store, parts: Sequence[Mapping[int, str] | None], need: int, max_episodes: int, seed: int
) -> list[int]:
    """The numbers of the compared episodes, drawn by seed. Each has `need` steps."""
    long = np.flatnonzero(store.num_steps >= need).tolist()
    if len(long) < 2:
        raise DataError(
            f"{len(long)} of {len(store)} episodes have the required {need} steps; at least two are needed",
            fix="Give longer episodes, or choose a smaller horizon.",
            file=store.path,
        )
    unseen = [number for number in long if all(_is_unseen(part, number) for part in parts)]
    drawn = np.random.default_rng([seed, 1]).permutation(unseen if len(unseen) > 1 else long)
    return sorted(drawn[:max_episodes].tolist())


def _windows(
    store: Store, numbers: Sequence[int], cards: Sequence[Card], signals: Signals, size: tuple[int, int], seed: int
) -> tuple[ForecastWindows, Predicted]:
    """Windows of the episodes, drawn by seed, and the forecasts of persistence in them."""
    (context, horizon), used = size, {signal.name: signal.kind for card in cards for signal in card.schema.signals}
    targets, parts, vectors = [signal.name for signal in signals], list[ForecastWindows](), list[Episode]()
    rng, count = np.random.default_rng([seed, 2]), min(MAX_PER_EPISODE, MAX_WINDOWS // len(numbers))
    for number in numbers:
        episode = store.episode(number, images=Kind.IMAGE in used.values()).select(used)
        presents = rng.permutation(np.arange(context - 1, episode.num_steps - horizon + 1))[:count]
        places = [(episode, at) for at in sorted(presents.tolist())]
        parts.append(forecast_windows(places, length=context, horizon=horizon, targets=targets))
        vectors.append(episode.select(targets))
    windows, schema = joined_windows(parts), Schema(signals=(*signals, *cards[0].schema.actions))
    return windows, window_forecasts(WorldSource(as_world(Persistence.fit(vectors, schema)), "persistence"), windows)


def _signal_comparisons(
    signals: Signals, windows: ForecastWindows, predicted: Sequence[Predicted], level: float, seed: int
) -> tuple[SignalComparison, ...]:
    """The comparison of each signal.

    Args:
        signals: that both predict.
        windows: with the steps as known that count.
        predicted: forecasts of both worlds and of persistence.
        level: of the bands.
        seed: of the bootstrap.
    """
    steps, num_episodes = sorted({1, max(1, windows.horizon // 4), windows.horizon}), int(windows.episode.max()) + 1
    weights, (spreads, sizes) = draw_clusters(num_episodes, seed), scales(windows, signals)
    means = [{name: each.mean.astype(float) for name, each in part.items()} for part in predicted]
    squared = [squared_errors(mean, windows, signals) for mean in means]

    def columns(values: NDArray[Any]) -> NDArray[Any]:
        return np.column_stack([values.sum(1), values[:, np.array(steps) - 1]])

    errors, changes = list[list[Floats]](), list[Floats]()
    for signal in signals:
        name, least = signal.name, MIN_ERROR * (spreads[signal.name] or sizes[signal.name] or 1.0)
        parts = [(columns(each[name]), columns(windows.known[name])) for each in squared]
        rmse = [np.vstack(root_mean_square(*part, windows.episode, weights)) for part in parts]
        errors.append([each[0] for each in rmse])
        changes.append(np.log(np.maximum(rmse[0], least)) - np.log(np.maximum(rmse[1], least)))
    with np.errstate(over="ignore"):  # the interval of two episodes may have no upper end
        ratios = np.exp(simultaneous_intervals(np.hstack(changes), num_episodes)).reshape(3, len(signals), -1)
    bands = [
        {
            band.signal: ComparedBand(coverage=band.coverage, half_width=float(np.mean(band.width)) / 2)
            for band in measure_bands(forecasts, windows, signals, level)
            if np.isfinite(band.width).all()
        }
        for forecasts in predicted[:2]
    ]
    return tuple(
        SignalComparison(
            signal=signal.name,
            unit=signal.unit,
            verdict="better" if ratios[2, k, 0] < 1 else "worse" if ratios[1, k, 0] > 1 else "not distinguishable",
            errors=tuple(map(_error_comparison, [None, *steps], *errors[k], *ratios[:, k])),
            bands=tuple(banded.get(signal.name) for banded in bands),
        )
        for k, signal in enumerate(signals)
    )


def _error_comparison(
    step: int | None, first: float, second: float, still: float, ratio: float, low: float, high: float
) -> ErrorComparison:
    """From the errors of both worlds and of persistence, and the ratio with its interval."""
    known = bool(np.isfinite(ratio))
    return ErrorComparison(
        step=step,
        errors=tuple(float(error) if known else None for error in (first, second)),
        ratio=Estimate.around(float(ratio), low, high) if known else None,
        skills=tuple(float(1 - error / still) if still > 0 else None for error in (first, second)),
    )
