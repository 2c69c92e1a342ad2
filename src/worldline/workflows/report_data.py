"""Measurements of a learned world for its report, on held-out episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch

from worldline.audit import report_evidence as evidence
from worldline.audit.baselines import fitted_baselines
from worldline.audit.diagnostics import HEADLINE_LEVEL, LEVELS, Diagnostics, diagnose
from worldline.audit.input_baselines import MAX_FITTED_FRAMES, needs_images
from worldline.audit.measures import trusted_horizons
from worldline.audit.queries import predicted_vectors, window_forecasts
from worldline.audit.run import deviation, largest_value
from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, evenly_spaced, forecast_windows
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.report.signal_rows import best_linear
from worldline.schema import Kind, Signal
from worldline.training.batches import trace
from worldline.workflows.decoded_windows import decoded_frames
from worldline.workflows.learned import Learned
from worldline.world.base import Forecast, World
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld

CONTEXT: Final = 3
"""Fewest observations given to every world, as many as the baselines use."""
PER_EPISODE: Final = 4
_TIMES_S: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0)


def supports(calibration: Calibration, level: float) -> bool:
    """Whether there are enough calibration episodes for bands of this level."""
    return level <= calibration.highest_level


def reported_steps(horizon: int, step_s: float | None) -> tuple[int, ...]:
    """Up to three steps in reports: the last round times, such as 1, 6 and 24 hours, else 1, 5 and 20 steps.

    The horizon itself is added to two round times.

    Args:
        horizon: the longest.
        step_s: seconds per step; None if unknown.
    """
    if step_s is not None:
        steps = [round(time_s / step_s) for time_s in _TIMES_S if (time_s / step_s).is_integer()]
        timed = sorted({step for step in steps if 1 <= step <= horizon})
        if len(timed) >= 2:
            return tuple(sorted({*timed, horizon} if len(timed) == 2 else timed[-3:]))
    return tuple(sorted({min(step, horizon) for step in (1, 5, 20)}))


def band_level(calibration: Calibration) -> float | None:
    """The highest usual level that the calibration supports, at most `HEADLINE_LEVEL`; None without one."""
    return max((one for one in LEVELS if one <= HEADLINE_LEVEL and supports(calibration, one)), default=None)


def honest(learned: Learned) -> World:
    """The learned world; without bands if its calibration supports none."""
    if band_level(learned.calibration) is not None:
        return learned.world
    return LocalWorld(learned.engine, None, learned.recipe.planner)


def diagnosis(store: Store, learned: Learned) -> Diagnostics:
    """Errors, gaps and coverage on the held-out episodes, with persistence and linear autoregression as baselines.

    Raises:
        DataError: fewer than two held-out episodes are long enough.
    """
    horizon = longest_horizon(store, learned)
    if horizon < 1:
        raise DataError(
            f"fewer than two of the {len(learned.split.held_out)} held-out episodes have {CONTEXT + 1} observations",
            fix="Log more or longer episodes.",
            file=store.path,
        )
    return diagnose(
        honest(learned),
        [store.episode(number) for number in learned.split.held_out],
        comparisons=comparisons(store, learned),
        context=given_context(store, learned),
        horizon=horizon,
        horizons=reported_steps(horizon, store.schema.step_s),
        per_episode=PER_EPISODE,
        levels=[level for level in LEVELS if supports(learned.calibration, level)],
        seed=learned.recipe.training.seed,
    )


def longest_horizon(store: Store, learned: Learned) -> int:
    """The calibrated horizon, limited by the second longest held-out episode; below 1 if two are too short."""
    lengths = store.num_steps[list(learned.split.held_out)] - CONTEXT + 1
    return min(learned.calibration.horizon, int(np.sort(lengths)[-2]) if len(lengths) > 1 else 0)


def given_context(store: Store, learned: Learned) -> int:
    """The number of observations given to every world: those that the learned one uses, at least `CONTEXT`.

    Fewer if the episodes are too short for them and the reported horizon.
    """
    lengths = np.sort(store.num_steps[list(learned.split.held_out)])
    room = int(lengths[-2]) - longest_horizon(store, learned) + 1 if len(lengths) > 1 else 0
    return max(CONTEXT, min(learned.engine.describe().context, room))


def comparisons(store: Store, learned: Learned) -> dict[str, World]:
    """Baselines that see the inputs of the world, fitted on the same training episodes, see `fitted_baselines`.

    Persistence is always included. "linear" and "action_blind" need fully observed parts of the logs and are left out
    if there are none.
    """
    card = learned.engine.describe()
    vectors = [signal for signal in store.schema.observations if signal.kind is Kind.VECTOR]
    if not vectors:
        return {}
    if not needs_images(card):
        return fitted_baselines([_without_pictures(store, number, vectors) for number in learned.split.train], card)
    numbers = list(learned.split.train)
    every = max(1, math.ceil(int(store.num_steps[numbers].sum()) / MAX_FITTED_FRAMES))
    return fitted_baselines([store.episode(number) for number in numbers[::every]], card)


def learning_curves(learned: Learned) -> evidence.Learning:
    """The losses during training, and the weighted sum of the validation losses."""
    curves = learned.trained.curves
    names = dict.fromkeys(name for row in curves for name in row if name.startswith("train_"))
    return evidence.Learning(
        terms=tuple(_series(curves, name, name.removeprefix("train_")) for name in names),
        validation=_series(curves, "validation", "validation"),
        learn_s=learned.learn_s,
    )


def latent_health(learned: Learned) -> evidence.LatentHealth:
    """Rank, deviation and straightness during training, with the thresholds of the collapse guard."""
    curves, training = learned.trained.curves, learned.recipe.training
    size = float(learned.engine.readout.config.latent_size)
    bounds = {
        "effective_rank": (training.min_rank, size),
        "deviation": (training.min_deviation, None),
        "straightness": (None, 1.0),
    }
    vitals = [
        evidence.Vital(series=_series(curves, name, name.replace("_", " ")), threshold=threshold, most=most)
        for name, (threshold, most) in bounds.items()
    ]
    return evidence.LatentHealth(vitals=tuple(vitals))


def readout_quality(store: Store, learned: Learned) -> evidence.ReadoutQuality:
    """Readout error of each vector signal on the held-out episodes."""
    engine, numbers = learned.engine, learned.split.held_out
    traces = trace(engine.model, store, numbers, engine.inputs, generator=torch.Generator("cpu").manual_seed(0))
    episode = np.repeat(np.arange(len(traces)), [len(one.features) for one in traces])
    with torch.no_grad():
        read = engine.readout(torch.cat([one.features for one in traces]))
    rows = []
    for signal in (store.schema[name] for name in read if store.schema[name].kind is Kind.VECTOR):
        truth = np.concatenate([store.read(signal.name, n, 0, int(store.num_steps[n]) + 1) for n in numbers])
        known = np.concatenate([store.observed(signal.name, n, 0, int(store.num_steps[n]) + 1) for n in numbers])
        if known.any():
            truth, values = truth[known].astype(float), read[signal.name].cpu().numpy()[known]
            values = truth + signal.difference(values, truth)
            rows.append(evidence.readout_row(signal.name, signal.unit, truth, values, episode[known], seed=0))
    return evidence.ReadoutQuality(rows=tuple(rows))


def training_evidence(store: Store, learned: Learned, diagnostics: Diagnostics | None) -> tuple[evidence.Evidence, ...]:
    """Learning curves and latent health if there was a training; readouts and diagnostics if vectors are predicted."""
    trained = learned.trained.curves
    training = (learning_curves(learned), latent_health(learned)) if trained else ()
    return training if diagnostics is None else (*training, readout_quality(store, learned), diagnostics)


def held_out_evidence(
    store: Store, learned: Learned, diagnostics: Diagnostics
) -> tuple[evidence.TrustedHorizons, evidence.Forecasts]:
    """Trusted horizons, and forecasts in three held-out windows; the windows are those of `diagnosis`."""
    world, horizon, level = honest(learned), diagnostics.horizon, band_level(learned.calibration) or HEADLINE_LEVEL
    context = given_context(store, learned)
    long = [n for n in learned.split.held_out if store.num_steps[n] >= context - 1 + horizon]
    places = [(n, now) for n in long for now in evenly_spaced(int(store.num_steps[n]), context, horizon, PER_EPISODE)]
    episodes = {n: store.episode(n) for n in long}
    windows = forecast_windows([(episodes[n], now) for n, now in places], length=context, horizon=horizon)
    signals = predicted_vectors(world, windows.truth)
    spreads, sizes = ({one.name: of(windows, one) for one in signals} for of in (deviation, largest_value))
    first = next((signal for signal in signals if spreads[signal.name]), signals[0])
    linear, rivals = comparisons(store, learned), dict[str, World]()
    unseen = tuple(signal.name for signal in signals if signal.name not in learned.engine.inputs)
    for signal in signals:
        name = best_linear(diagnostics, signal.name, horizon)
        if name is not None and signal.name not in unseen:
            rivals[signal.name] = linear[name]
    cases = {
        f"Episode {places[row][0]}: {case}": (episodes[places[row][0]], places[row][1])
        for case, row in _cases(window_forecasts(world, windows, level=level)[first.name], windows, first).items()
    }
    trusted = tuple(one for one in trusted_horizons(diagnostics, spreads, sizes) if one.signal not in unseen)
    return (
        evidence.TrustedHorizons(trusted=trusted, deviation=spreads, unseen=unseen),
        evidence.sample_forecasts(world, cases, context=context, horizon=horizon, level=level, rivals=rivals),
    )


def _cases(found: Forecast, windows: ForecastWindows, signal: Signal) -> dict[str, int]:
    """Windows by what they show: the median error, its worst decile, and the largest error in widths of the band.

    Windows of another episode are preferred for each.
    """
    known = windows.known[signal.name][..., None]
    miss = np.where(known, np.abs(signal.difference(found.mean, windows.truth[signal.name].astype(float))), 0.0)
    error = np.sqrt((miss**2).mean((1, 2)))
    surprise = error
    if found.low is not None and found.high is not None:
        half = np.maximum((found.high - found.low) / 2, 1e-12)
        surprise = (miss / half).max((1, 2))
    ranks = {
        "typical": np.abs(error - np.median(error)),
        "worst decile": np.abs(error - np.quantile(error, 0.9)),
        "most surprising": -surprise,
    }
    chosen: dict[str, int] = {}
    for case, rank in ranks.items():
        taken = np.isin(windows.episode, windows.episode[list(chosen.values())])
        chosen[case] = int(np.argmin(np.where(taken, np.inf, rank) if not taken.all() else rank))
    return chosen


def imagined_paths(
    store: Store, learned: Learned, *, signal: str, camera: str, horizon: int, num_paths: int
) -> evidence.PredictedPaths:
    """The first held-out episodes, real and predicted from their first observation.

    Args:
        store: the logs.
        learned: a world that predicts `signal`.
        signal: a vector signal [2], x to the right and y down, in pixels of the image.
        camera: the image signal.
        horizon: predicted steps.
        num_paths: number of episodes, at least 1.
    """
    numbers = [n for n in learned.split.held_out if store.num_steps[n] >= horizon][:num_paths]
    episodes = [store.episode(number) for number in numbers]
    windows = forecast_windows([(episode, 0) for episode in episodes], length=1, horizon=horizon)
    level = band_level(learned.calibration) or HEADLINE_LEVEL
    mean = window_forecasts(honest(learned), windows, level=level)[signal].mean
    frame_steps = tuple(sorted({int(step) for step in np.linspace(0, horizon, 5).round()}))
    paths = []
    for episode, path in zip(episodes, mean.astype(float), strict=True):
        real = episode.observations[signal][: horizon + 1].astype(float)
        frames = episode.observations[camera][list(frame_steps)].astype(np.uint8)
        imagined = np.concatenate([real[:1], path])
        paths.append(evidence.ImaginedPath(frames=frames, frame_steps=frame_steps, real=real, imagined=imagined))
    return evidence.PredictedPaths(signal=signal, unit=store.schema[signal].unit, paths=tuple(paths))


def drawn_imagination(store: Store, learned: Learned) -> tuple[evidence.Decoded, ...]:
    """Decoded predictions of the windows of `diagnosis`, one item per image signal; empty without a decoder."""
    return decoded_frames(
        store,
        learned.engine,
        learned.split.held_out,
        context=given_context(store, learned),
        horizon=longest_horizon(store, learned),
        per_episode=PER_EPISODE,
        seed=learned.recipe.training.seed,
    )


def _without_pictures(store: Store, number: int, vectors: Sequence[Signal]) -> Episode:
    """An episode with vector observations only, to save memory."""
    steps, schema = int(store.num_steps[number]), store.schema
    return Episode(
        observations={s.name: store.read(s.name, number, 0, steps + 1) for s in vectors},
        actions={s.name: store.read(s.name, number, 0, steps) for s in schema.actions},
        exogenous={s.name: store.read(s.name, number, 0, steps) for s in schema.exogenous},
        observed={s.name: store.observed(s.name, number, 0, steps + 1) for s in vectors},
    )


def _series(curves: Sequence[Mapping[str, float]], key: str, name: str) -> evidence.Series:
    """The values of a figure at the validations that have it."""
    rows = [row for row in curves if key in row]
    steps, values = [int(row["step"]) for row in rows], [float(row[key]) for row in rows]
    return evidence.Series(name=name, steps=tuple(steps), values=tuple(values))
