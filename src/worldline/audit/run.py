"""The measurements of an audit, in order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from worldline.audit.baselines import fitted_baselines
from worldline.audit.diagnostics import diagnose
from worldline.audit.effects import MAX_STILL_DEVIATION, changes, effect_lags, effects_table, log_effects, world_effects
from worldline.audit.excitation import MIN_RANDOMISED, excitations, innovations, placebos
from worldline.audit.goal_ranking import goal_ranking
from worldline.audit.grades import Verdict
from worldline.audit.measured import Effect, Excitation, Measured, Placebo, TwinTest
from worldline.audit.measures import joint_coverage, leak_check, one_step_errors, rank_of, trusted_horizons
from worldline.audit.queries import predicted_vectors
from worldline.audit.regression_rows import RegressionRows, action_names, rows_of, tracks_of
from worldline.audit.twins import TwinSource, failed_runs, twin_horizon, twin_tests
from worldline.data.quality.coverage import survey
from worldline.data.quality.segments import MAX_STEPS, names_of, seldom_seen, without
from worldline.data.windows import ForecastWindows, evenly_spaced_windows
from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.errors import DataError, UnsupportedError
from worldline.formatting import listing
from worldline.schema import Kind, Schema, Signal
from worldline.stats import Floats
from worldline.world.base import World

_logger = logging.getLogger(__name__)

PER_EPISODE: Final = 4
NUM_ERRORS: Final = 4000
"""Largest number of one-step errors for the placebo test, over all episodes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The logs of an audit, reduced to the signals of the world.

    Args:
        graded: held-out episodes, at least two.
        fitted: other episodes, on which baselines are fitted.
        flags: per episode of `graded` and then of `fitted`, [T] whether its actions are random; None without a flag.
        context: H, observations given to the world, at least 3.
        horizon: T, predicted steps.
        horizons: steps to report, each from 1 to T.
        num_calibration: episodes that calibrated the bands; None if unknown.
        level: of the bands, the highest that the calibration supports, at most 0.9; None without bands.
        goals: observation signals of the goals that the world plans to; empty if it does not plan to observations.
    """

    graded: Sequence[Episode]
    fitted: Sequence[Episode]
    flags: Sequence[Floats | None]
    context: int
    horizon: int
    horizons: tuple[int, ...]
    num_calibration: int | None
    level: float | None
    goals: tuple[str, ...] = ()


def measure(world: World, material: Material, *, source: TwinSource | None, seed: int) -> Measured:
    """All measurements of an audit.

    Args:
        world: world under audit, with at least one action and one predicted vector.
        material: the logs.
        source: source of twins; None without an environment.
        seed: seed of every draw.

    Raises:
        DataError: the logs have no row without missing values.
    """
    card, context, horizon = world.describe(), material.context, material.horizon
    windows = evenly_spaced_windows(material.graded, length=context, horizon=horizon, per_episode=PER_EPISODE)
    signals = predicted_vectors(world, windows.truth)
    diagnostics = diagnose(
        world,
        windows,
        comparisons=comparisons(material.fitted, card),
        horizons=material.horizons,
        level=material.level,
        num_given=len(material.graded),
        seed=seed,
    )
    numbers = replace(card.schema, signals=tuple(s for s in card.schema.signals if s.kind is not Kind.IMAGE))
    tracks = tracks_of(_regressed_episodes(material), numbers)
    rare = seldom_seen(tracks)  # rarely sampled signals would leave no complete row
    often = replace(numbers, signals=tuple(signal for signal in numbers.signals if signal.name not in rare))
    rows = rows_of([without(segment, rare) for segment in tracks], material.flags[: len(tracks)])
    excitation, placebo, effects = _action_evidence(world, material, windows, rows, often, seed)
    twins, twin_limits = _twins(world, material, source, seed)
    unchecked = _without_placebo(signals, placebo, twins) if often.has_choice else []
    known, level, goals = material.num_calibration, material.level, material.goals
    predicted = [card.schema[name] for name in card.predicts]
    return Measured(
        diagnostics=diagnostics,
        trusted=trusted_horizons(diagnostics, *scales(windows, signals)),
        excitation=excitation,
        placebo=placebo,
        leak=leak_check(world, windows),
        coverage=joint_coverage(world, windows, level=level, num_calibration=known, seed=seed),
        rank=rank_of(world, windows, signals),
        data=survey(tracks, numbers, seed),
        effects=effects,
        randomised=float(rows.randomised.mean()) if any(flag is not None for flag in material.flags) else None,
        twins=twins,
        goals=goal_ranking(world, material.graded, goals=goals, context=context, horizon=horizon, seed=seed),
        units={name: signal.unit for signal in (*numbers.observations, *numbers.actions) for name in names_of(signal)},
        unchecked=(*ungraded(predicted, signals), *twin_limits, *unchecked),
    )


def comparisons(episodes: Sequence[Episode], card: Card) -> dict[str, World]:
    """Baselines that see the inputs of the world; regressions omit rarely observed signals, see `fitted_baselines`."""
    signals = [s for s in card.schema.observations if s.kind is Kind.VECTOR and s.name in card.inputs]
    if not signals:
        return fitted_baselines(episodes, card)
    numbers = replace(card.schema, signals=(*signals, *card.schema.actions, *card.schema.exogenous))
    return fitted_baselines(episodes, card, seldom_seen(tracks_of(episodes, numbers)))


def _twins(
    world: World, material: Material, source: TwinSource | None, seed: int
) -> tuple[tuple[TwinTest, ...], tuple[str, ...]]:
    """The tests against twins, and a limit if they could not be run; other measurements remain valid."""
    if source is None:
        return (), ()
    episodes = [*material.graded, *material.fitted]
    context, horizon = material.context, twin_horizon(episodes, material.context, material.horizon)
    try:
        return twin_tests(world, source, episodes, context=context, horizon=horizon, seed=seed), ()
    except (UnsupportedError, DataError) as error:
        verdict, reason = Verdict.UNSUPPORTED, str(error)
    except Exception as error:  # a user's environment may raise anything
        _logger.info("twins could not be run", exc_info=True)
        verdict, reason = Verdict.ERROR, f"{type(error).__name__}: {error}"
    return failed_runs(verdict), (f"No test against twins was run: {reason.rstrip('.')}.",)


def _regressed_episodes(material: Material) -> list[Episode]:
    """The graded episodes, and others up to a limit of steps, so that regressions take seconds."""
    episodes = [*material.graded, *material.fitted]
    before = np.cumsum([0, *(episode.num_steps for episode in episodes)])
    return episodes[: max(len(material.graded), int(np.searchsorted(before, MAX_STEPS)))]


def _action_evidence(
    world: World, material: Material, windows: ForecastWindows, rows: RegressionRows, schema: Schema, seed: int
) -> tuple[tuple[Excitation, ...], tuple[Placebo, ...], tuple[Effect, ...]]:
    """Excitation of the actions, the placebo test, and the effects table of the signals in the rows.

    Effects in the logs are estimated from the randomised steps if enough are flagged.
    """
    if not schema.has_choice:
        return (), (), ()
    left, names = innovations(rows, seed=seed), action_names(schema)
    signals = predicted_vectors(world, windows.truth)
    count = max(1, NUM_ERRORS // len(material.graded))
    errors = one_step_errors(world, material.graded, signals, context=material.context, per_episode=count)
    parts = [part for signal in signals for part in names_of(signal)]
    excitation, placebo = excitations(left, schema, seed=seed), placebos(left, *errors, (names, parts))
    changed = changes(schema, rows)
    flagged = int(rows.randomised.sum()) >= MIN_RANDOMISED
    used = rows.of(rows.randomised) if flagged else rows
    hidden = set() if flagged else {pair.action for pair in placebo if pair.found}
    predicted, shares = world_effects(world, windows, changed, [s for s in signals if s in schema.signals])
    logged = log_effects(schema, used, changed, shares, seed=seed)
    effects = effects_table(
        schema,
        changed,
        predicted,
        logged,
        used,
        windows,
        lags=effect_lags(material.horizon),
        identifiable={row.action: row.enough and row.action not in hidden for row in excitation},
        at_once=flagged and len(used.episode) < len(rows.episode),
        seed=seed,
    )
    return excitation, placebo, effects


def scales(windows: ForecastWindows, signals: Sequence[Signal]) -> tuple[dict[str, float], dict[str, float]]:
    """The standard deviation of each signal, 0 for a constant one, and its largest absolute value."""
    spreads, sizes = {}, {}
    for signal in signals:
        known = windows.truth[signal.name].astype(float)[windows.known[signal.name]]
        size = float(np.abs(known).max(initial=0.0))
        spread = float(np.sqrt(signal.deviations(known).var(0).mean())) if len(known) else 0.0
        spreads[signal.name] = spread if spread > MAX_STILL_DEVIATION * (1 + size) else 0.0
        sizes[signal.name] = size
    return spreads, sizes


def ungraded(predicted: Sequence[Signal], graded: Sequence[Signal]) -> list[str]:
    """A limit that names the predicted signals without a grade."""
    kinds = {Kind.DISCRETE: "discrete", Kind.IMAGE: "image", Kind.VECTOR: "not logged"}
    names = [f"{signal.name} ({kinds[signal.kind]})" for signal in predicted if signal not in graded]
    return [f"Not graded: {listing(names)}. Do not rely on these predictions."] if names else []


def _without_placebo(signals: Sequence[Signal], placebos: Sequence[Placebo], twins: Sequence[TwinTest]) -> list[str]:
    """A limit that names the signals without a placebo test; none if twins confirm causal effects."""
    if any(test.name == "C1" and test.verdict is Verdict.PASS for test in twins):
        return []
    tested = {placebo.signal for placebo in placebos}
    lacking = [signal.name for signal in signals if tested.isdisjoint(names_of(signal))]
    text = "were not checked: too few steps or episodes have a known error"
    return [f"Hidden common causes of the actions and {listing(lacking)} {text}."] if lacking else []
