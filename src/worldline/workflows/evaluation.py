"""Evaluates learned worlds on held-out episodes: figures of each seed, findings, and the sections of the report."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from worldline.audit.baselines import fitted_baselines
from worldline.audit.diagnostics import LEVELS, Diagnostics, diagnose
from worldline.audit.forecast_measurements import Decoded, TrustedHorizons, sample_forecasts
from worldline.audit.input_baselines import MAX_FITTED_FRAMES, needs_images
from worldline.audit.measures import trusted_horizons
from worldline.audit.queries import predicted_vectors, window_forecasts
from worldline.audit.run import scales
from worldline.audit.signal_table import Section, best_linear
from worldline.audit.training_measurements import Learning, Series
from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, evenly_spaced, evenly_spaced_windows, forecast_windows
from worldline.engines.learned import LearnedEngine
from worldline.errors import CollapseError, DataError
from worldline.progress import OnProgress, tell, telling
from worldline.schema import Kind, Signal
from worldline.workflows.decoded_windows import decoded_frames
from worldline.workflows.training import CONTEXT, Learned
from worldline.world.base import Forecast, World
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld

PER_EPISODE: Final = 4
_TIMES_S: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0)


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """Result of one training seed.

    Args:
        seed: of the training.
        control: score for control, see `ControlMeasures`.
        chosen_step: update of the chosen checkpoint.
        rmse: per signal and reported step, on held-out episodes; empty if no vector is predicted.
    """

    seed: int
    control: float
    chosen_step: int
    rmse: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The best world of a run and what was measured of all.

    Args:
        learned: the world that is best for control.
        diagnostics: of this world on held-out episodes; None if it predicts no vector.
        decoded: its decoded predictions; empty without a decoder.
        seeds: one row per world.
        findings: notes on learning.
        sections: of the report.
        report_s: seconds of the measurements for the report.
    """

    learned: Learned
    diagnostics: Diagnostics | None
    decoded: tuple[Decoded, ...]
    seeds: tuple[SeedResult, ...]
    findings: tuple[str, ...]
    sections: tuple[Section, ...]
    report_s: float


def evaluate(
    store: Store,
    worlds: Sequence[Learned],
    *,
    failures: Sequence[CollapseError] = (),
    progress: OnProgress | None = None,
) -> Evaluation:
    """Measures all worlds on the held-out episodes, and the best one for control in detail.

    Args:
        store: the logs.
        worlds: one per training seed, at least one.
        failures: of other seeds.
        progress: called before and after each step.
    """
    # All worlds were learned from the same episodes and inputs, so they have the same baselines.
    baselines, measured = comparisons(store, worlds[0]), list[tuple[Learned, Diagnostics | None]]()
    for learned in worlds:
        with telling(progress, "measure"):
            measured.append((learned, diagnosis(store, learned, baselines)))
    learned, diagnostics = max(measured, key=lambda pair: pair[0].trained.control)
    started = time.monotonic()
    tell(progress, "report", 0)
    sections: list[Section] = [learning_curves(learned)] if learned.trained.curves else []
    decoded = drawn_imagination(store, learned)
    if diagnostics is None:
        sections += decoded
    else:
        sections += [diagnostics, *decoded, *held_out_evidence(store, learned, diagnostics, baselines)]
    return Evaluation(
        learned=learned,
        diagnostics=diagnostics,
        decoded=decoded,
        seeds=tuple(_seed_result(*pair) for pair in measured),
        findings=_findings(store, learned, diagnostics, failures),
        sections=tuple(sections),
        report_s=time.monotonic() - started,
    )


def _seed_result(learned: Learned, diagnostics: Diagnostics | None) -> SeedResult:
    rmse: dict[str, dict[int, float]] = {}
    if diagnostics is not None:
        for error in diagnostics.errors:
            if not error.world:
                rmse[error.signal] = {step: float(error.rmse.value[step - 1]) for step in diagnostics.horizons}
    seed, trained = learned.recipe.training.seed, learned.trained
    return SeedResult(seed=seed, control=trained.control, chosen_step=trained.chosen_step, rmse=rmse)


def _findings(
    store: Store, learned: Learned, diagnostics: Diagnostics | None, failures: Sequence[CollapseError]
) -> tuple[str, ...]:
    """The notes on learning: signals and episodes that were left out, returns to a checkpoint, failed seeds."""
    recipe, horizon, notes = learned.recipe, learned.calibration.horizon, list[str]()
    unused = [signal.name for signal in store.schema.observations if signal.name not in recipe.model_config.inputs]
    if unused:
        notes.append(f"Not among the model's inputs: {', '.join(unused)}.")
    if store.schema.has_choice and not learned.engine.describe().action_conditioned:
        notes.append(
            "This world ignores the actions. It forecasts, and cannot plan; --recipe linear makes one that can."
        )
    notes += [*map(str, learned.findings), *learned.trained.notes, *map(str, failures)]
    baselines = set() if diagnostics is None else {error.world for error in diagnostics.errors}
    if "linear" in baselines and learned.recipe.model == "linear":
        notes.append("This world is a linear model, like the linear baseline: ties and small differences are expected.")
    if diagnostics is not None and "linear" not in baselines:
        notes.append("No part of the logs is completely observed: persistence is the only baseline.")
    numbers = list(learned.split.calibration)
    long = int((store.num_steps[numbers] >= learned.engine.describe().context - 1 + horizon).sum())
    if recipe.exact_horizon and long < len(numbers):
        notes.append(f"{long} of {len(numbers)} calibration episodes are long enough for a horizon of {horizon} steps.")
    return tuple(notes)


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
    """The highest usual level that the calibration supports, at most 0.9; None without one."""
    return max((level for level in LEVELS if level <= calibration.highest_level), default=None)


def honest(learned: Learned) -> World:
    """The learned world; without bands if its calibration supports none."""
    if band_level(learned.calibration) is not None:
        return learned.world
    return LocalWorld(learned.engine, None, learned.recipe.planner)


def diagnosis(store: Store, learned: Learned, baselines: Mapping[str, World]) -> Diagnostics | None:
    """Errors, gaps and coverage on the held-out episodes; None if the world predicts no vector.

    Args:
        store: the logs.
        learned: the world.
        baselines: from `comparisons`.

    Raises:
        DataError: fewer than two held-out episodes are long enough.
    """
    card, horizon = learned.engine.describe(), longest_horizon(store, learned)
    if not any(card.schema[name].kind is Kind.VECTOR for name in card.predicts):
        return None
    if horizon < 1:
        raise DataError(
            f"fewer than two of the {len(learned.split.held_out)} held-out episodes have {CONTEXT + 1} observations",
            fix="Log more or longer episodes.",
            file=store.path,
        )
    episodes, context = [store.episode(number) for number in learned.split.held_out], given_context(store, learned)
    windows = evenly_spaced_windows(episodes, length=context, horizon=horizon, per_episode=PER_EPISODE)
    measured = diagnose(
        honest(learned),
        windows,
        comparisons=baselines,
        horizons=reported_steps(horizon, store.schema.step_s),
        num_given=len(learned.split.held_out),
        level=band_level(learned.calibration),
        seed=learned.recipe.training.seed,
    )
    return _controlled_first(measured)


def _controlled_first(measured: Diagnostics) -> Diagnostics:
    """The diagnostics with the signals in falling order of the effect of the actions; those without one stay last."""
    effects = {gap.signal: max(gap.increase.value, 0) if gap.increase.low > 0 else 0 for gap in measured.gaps}
    names = sorted(measured.units, key=lambda name: -effects.get(name, 0))
    place: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    parts: dict[str, Any] = {
        part: tuple(sorted(getattr(measured, part), key=lambda row: place.get(row.signal, -1)))
        for part in ("errors", "skills", "gaps", "bands")
    }
    return replace(measured, units={name: measured.units[name] for name in names}, **parts)


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
    numbers, images, every = list(learned.split.train), needs_images(card), 1
    if all(signal.kind is not Kind.VECTOR for signal in store.schema.observations):
        return {}
    if images:
        every = max(1, math.ceil(int(store.num_steps[numbers].sum()) / MAX_FITTED_FRAMES))
    return fitted_baselines([store.episode(number, images=images) for number in numbers[::every]], card)


def learning_curves(learned: Learned) -> Learning:
    """The losses during training, the weighted sum of the validation losses, and the health of the latents."""
    curves = learned.trained.curves
    names = dict.fromkeys(name for row in curves for name in row if name.startswith("train_"))
    health = ("effective_rank", "deviation", "straightness")
    return Learning(
        terms=tuple(_series(curves, name, name.removeprefix("train_")) for name in names),
        validation=_series(curves, "validation", "validation"),
        health=tuple(_series(curves, name, name.replace("_", " ")) for name in health),
    )


def held_out_evidence(
    store: Store, learned: Learned, diagnostics: Diagnostics, baselines: Mapping[str, World]
) -> list[Section]:
    """Trusted horizons, and forecasts in three held-out windows; the windows are those of `diagnosis`."""
    world, horizon, level = honest(learned), diagnostics.horizon, band_level(learned.calibration) or LEVELS[-1]
    context = given_context(store, learned)
    long = [n for n in learned.split.held_out if store.num_steps[n] >= context - 1 + horizon]
    places = [(n, now) for n in long for now in evenly_spaced(int(store.num_steps[n]), context, horizon, PER_EPISODE)]
    episodes = {n: store.episode(n) for n in long}
    windows = forecast_windows([(episodes[n], now) for n, now in places], length=context, horizon=horizon)
    order = list(diagnostics.units)
    signals = sorted(predicted_vectors(world, windows.truth), key=lambda signal: order.index(signal.name))
    spreads, sizes = scales(windows, signals)
    first = next((signal for signal in signals if spreads[signal.name]), signals[0])
    rivals = dict[str, World]()
    unseen = tuple(signal.name for signal in signals if signal.name not in learned.engine.describe().inputs)
    for signal in signals:
        name = best_linear(diagnostics, signal.name, horizon)
        if name is not None and signal.name not in unseen:
            rivals[signal.name] = baselines[name]
    cases = {
        f"Episode {places[row][0]}: {case}": (episodes[places[row][0]], places[row][1])
        for case, row in _cases(window_forecasts(world, windows, level=level)[first.name], windows, first).items()
    }
    trusted = tuple(row for row in trusted_horizons(diagnostics, spreads, sizes) if row.signal not in unseen)
    varying = [signal for signal in signals if spreads[signal.name]]
    shown = sample_forecasts(world, cases, varying, context=context, horizon=horizon, level=level, rivals=rivals)
    trust = TrustedHorizons(trusted=trusted, deviation=spreads, unseen=unseen)
    return [trust, shown] if varying else [trust]


def _cases(forecast: Forecast, windows: ForecastWindows, signal: Signal) -> dict[str, int]:
    """Windows by what they show: the median error, its worst decile, and the largest error in widths of the band.

    Windows of another episode are preferred for each.
    """
    known = windows.known[signal.name][..., None]
    miss = np.where(known, np.abs(signal.difference(forecast.mean, windows.truth[signal.name].astype(float))), 0.0)
    surprise = error = np.sqrt((miss**2).mean((1, 2)))
    if forecast.low is not None and forecast.high is not None:
        half = np.maximum((forecast.high - forecast.low) / 2, 1e-12)
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


def drawn_imagination(store: Store, learned: Learned) -> tuple[Decoded, ...]:
    """Decoded predictions of the windows of `diagnosis`, one item per image signal; empty without a decoder."""
    if not isinstance(learned.engine, LearnedEngine):
        return ()
    return decoded_frames(
        store,
        learned.engine,
        learned.split.held_out,
        context=given_context(store, learned),
        horizon=longest_horizon(store, learned),
        per_episode=PER_EPISODE,
        seed=learned.recipe.training.seed,
    )


def _series(curves: Sequence[Mapping[str, float]], key: str, name: str) -> Series:
    """The values of a figure at the validations that have it."""
    rows = [row for row in curves if key in row]
    steps, values = [int(row["step"]) for row in rows], [float(row[key]) for row in rows]
    return Series(name=name, steps=tuple(steps), values=tuple(values))
