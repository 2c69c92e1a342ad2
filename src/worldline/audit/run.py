"""Everything that an audit measures, in order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from worldline.audit.audit_evidence import Effect, Excitation, Measured, Placebo, Trusted, TwinTest
from worldline.audit.baselines import as_world
from worldline.audit.cases import Cases, cut
from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.audit.effects import MAX_STILL_DEVIATION, ActionChange, changes, effects_table, log_effects, world_effects
from worldline.audit.excitation import MIN_RANDOMISED, excitations, innovations, placebos
from worldline.audit.grades import Verdict
from worldline.audit.measures import joint_coverage, leak_check, one_step_errors, rank_of, trusted_horizons, vectors
from worldline.audit.regression_rows import LAGS, RegressionRows, action_names, rows_of, tracks_of
from worldline.audit.twins import TwinSource, furthest, lost_tests, twin_tests
from worldline.data.quality.coverage import survey
from worldline.data.quality.segments import MAX_STEPS, names_of, seldom_seen, without
from worldline.engines.baselines import ActionBlind, Linear, Persistence
from worldline.engines.fixed_lag import typical_values
from worldline.episode import Episode
from worldline.errors import DataError, UnsupportedError
from worldline.formatting import label, listing
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Floats
from worldline.world.base import World

_logger = logging.getLogger(__name__)

PER_EPISODE: Final = 4
NUM_ERRORS: Final = 4000
"""One-step errors for the placebo, of all episodes together."""
EFFECT_LAGS: Final = (1, 2, 5, 10, 20, 50)
LEVEL: Final = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The logs of an audit, with the signals of the world alone.

    Args:
        graded: episodes that the world has not seen, at least two.
        fitted: other episodes, that comparisons are fitted on.
        flags: per episode of `graded` and then of `fitted`, [T] whether its actions were drawn at random; None where
            the logs do not say.
        context: H, observations that the world is given, at least 3.
        horizon: T, steps that it is asked for.
        horizons: steps to report, each from 1 to T.
        num_calibration: episodes that set the widths of the bands; None where that is not known.
    """

    graded: Sequence[Episode]
    fitted: Sequence[Episode]
    flags: Sequence[Floats | None]
    context: int
    horizon: int
    horizons: tuple[int, ...]
    num_calibration: int | None


def measure(world: World, material: Material, *, banded: bool, source: TwinSource | None, seed: int) -> Measured:
    """All figures of an audit.

    Args:
        world: under audit; acts on at least one action and predicts at least one vector.
        material: the logs.
        banded: whether the world has bands.
        source: of twins; None without an environment.
        seed: of every draw.

    Raises:
        DataError: no stretch of the logs is complete.
    """
    schema = world.describe().schema
    found = diagnose(
        world,
        material.graded,
        comparisons=comparisons(material.fitted, schema),
        context=material.context,
        horizon=material.horizon,
        horizons=material.horizons,
        per_episode=PER_EPISODE,
        levels=(0.5, 0.8, LEVEL) if banded else (),
        seed=seed,
    )
    cases = cut(material.graded, context=material.context, horizon=material.horizon, per_episode=PER_EPISODE)
    signals = vectors(world, cases)
    numbers = Schema(signals=tuple(s for s in schema.signals if s.kind is not Kind.IMAGE), step_s=schema.step_s)
    tracks = tracks_of(_enough(material), numbers)
    rare = seldom_seen(tracks)  # what is sampled now and then leaves no complete stretch
    often = _without(numbers, rare)
    rows = rows_of([without(one, rare) for one in tracks], material.flags[: len(tracks)])
    history = _history(world, material, rows, signals, seed)
    twins, lost = _twins(world, material, source, seed)
    spreads, sizes = ({s.name: of(cases, s) for s in signals} for of in (_spread, _size))
    trusted = trusted_horizons(found, spreads, sizes)
    return Measured(
        diagnostics=found,
        trusted=trusted,
        excitation=history[0],
        placebo=history[1],
        leak=leak_check(world, cases),
        coverage=joint_coverage(
            world, cases, signals, level=LEVEL, num_calibration=material.num_calibration, seed=seed
        ),
        rank=rank_of(world, cases, signals),
        data=survey(tracks, numbers, seed),
        effects=_effects(world, often, cases, rows, signals, history, material.horizon, seed),
        randomised=float(rows.randomised.mean()) if any(flag is not None for flag in material.flags) else None,
        twins=twins,
        units=_units(schema),
        unchecked=(
            *ungraded([schema[name] for name in world.describe().predicts], signals),
            *lost,
            *_unrivalled(found, trusted),
            *_unasked(signals, history[1], twins),
        ),
    )


def comparisons(episodes: Sequence[Episode], schema: Schema) -> dict[str, World]:
    """What a world has to beat, fitted on episodes of vectors.

    Regressions say nothing of signals that are seldom seen; there are none where no stretch of the others is complete.
    """
    signals = tuple(one for one in schema.observations if one.kind is Kind.VECTOR)
    typical = typical_values(episodes, signals)
    found: dict[str, World] = {"persistence": as_world(Persistence(schema=schema, typical=typical, context=1))}
    numbers = Schema(signals=(*signals, *schema.actions, *schema.exogenous), step_s=schema.step_s)
    often = _without(numbers, seldom_seen(tracks_of(episodes, numbers)))
    for name, family in (("action_blind", ActionBlind), ("linear", Linear)):
        with suppress(DataError):
            found[name] = as_world(replace(family.fit(episodes, often, context=LAGS), schema=schema))
    return found


def _without(schema: Schema, names: Sequence[str]) -> Schema:
    return replace(schema, signals=tuple(one for one in schema.signals if one.name not in names))


def _twins(
    world: World, material: Material, source: TwinSource | None, seed: int
) -> tuple[tuple[TwinTest, ...], tuple[str, ...]]:
    """The tests against twins, and why they could not be asked: what else was measured stands."""
    if source is None:
        return (), ()
    episodes = [*material.graded, *material.fitted]
    horizon = furthest(episodes, material.context, material.horizon)
    try:
        return twin_tests(
            world, source, episodes, context=material.context, horizon=horizon, lags=_lags(horizon), seed=seed
        ), ()
    except (UnsupportedError, DataError) as error:
        verdict, reason = Verdict.UNSUPPORTED, str(error)
    except Exception as error:  # a stranger's environment may raise anything
        _logger.info("twins could not be run", exc_info=True)
        verdict, reason = Verdict.ERROR, f"{type(error).__name__}: {error}"
    return lost_tests(verdict), (f"Nothing was tested against twins: {reason.rstrip('.')}.",)


def _enough(material: Material) -> list[Episode]:
    """The graded episodes, and so many others that regressions take seconds."""
    kept, steps = list(material.graded), sum(one.num_steps for one in material.graded)
    for one in material.fitted:
        if steps >= MAX_STEPS:
            break
        kept.append(one)
        steps += one.num_steps
    return kept


def _history(
    world: World, material: Material, rows: RegressionRows, signals: Sequence[Signal], seed: int
) -> tuple[tuple[Excitation, ...], tuple[Placebo, ...]]:
    """What the actions follow from, and whether errors foretell them."""
    schema = world.describe().schema
    left, names = innovations(rows, seed=seed), action_names(schema)
    each = max(1, NUM_ERRORS // len(material.graded))
    errors = one_step_errors(world, material.graded, signals, context=material.context, per_episode=each)
    parts = [part for signal in signals for part in names_of(signal)]
    return excitations(left, names, seed=seed), placebos(left, *errors, (names, parts))


def _effects(
    world: World,
    schema: Schema,
    cases: Cases,
    rows: RegressionRows,
    signals: Sequence[Signal],
    history: tuple[Sequence[Excitation], Sequence[Placebo]],
    horizon: int,
    seed: int,
) -> tuple[Effect, ...]:
    """The effects table of what the rows hold; from steps that are flagged as randomised where there are enough."""
    held = [signal for signal in signals if signal in schema.signals]
    changed: Sequence[ActionChange] = changes(schema, rows)
    flagged = int(rows.randomised.sum()) >= MIN_RANDOMISED
    used = rows.of(rows.randomised) if flagged else rows
    hidden = set() if flagged else {one.action for one in history[1] if one.found}
    return effects_table(
        schema,
        changed,
        world_effects(world, cases, changed, held),
        log_effects(schema, used, changed, horizon, seed=seed),
        rows,
        cases,
        lags=_lags(horizon),
        identifiable={one.action: one.enough and one.action not in hidden for one in history[0]},
        at_once=flagged,
        seed=seed,
    )


def _lags(horizon: int) -> tuple[int, ...]:
    return tuple(lag for lag in EFFECT_LAGS if lag <= horizon)


def _spread(cases: Cases, signal: Signal) -> float:
    """The deviation; 0 for what never moves."""
    known = cases.truth[signal.name].astype(float)[cases.known[signal.name]]
    found = float(np.sqrt(signal.deviations(known).var(0).mean())) if len(known) else 0.0
    return found if found > MAX_STILL_DEVIATION * (1 + float(np.abs(known).max(initial=0.0))) else 0.0


def ungraded(predicted: Sequence[Signal], graded: Sequence[Signal]) -> list[str]:
    """Of which predicted signals no figure is, as a limit."""
    kinds = {Kind.DISCRETE: "a choice", Kind.IMAGE: "a picture", Kind.VECTOR: "not logged"}
    names = [f"{label(one.name)} ({kinds[one.kind]})" for one in predicted if one not in graded]
    return [f"Not graded: {listing(names)}. Do not rely on what it says there."] if names else []


def _unrivalled(found: Diagnostics, trusted: Sequence[Trusted]) -> list[str]:
    """Which signals are trusted beside persistence alone."""
    fitted = {one.signal for one in found.errors if one.world == "linear"}
    alone = [label(one.signal) for one in trusted if one.steps and one.signal not in fitted]
    if not alone:
        return []
    return [
        f"What it says of {listing(alone)} was compared with persistence alone: too few complete stretches were logged "
        "for a line to be fitted."
    ]


def _unasked(signals: Sequence[Signal], found: Sequence[Placebo], twins: Sequence[TwinTest]) -> list[str]:
    """Of which signals no placebo could be taken; none where twins tell cause and effect."""
    if any(one.name == "C1" and one.verdict is Verdict.PASS for one in twins):
        return []
    asked = {one.signal for one in found}
    lacking = [label(one.name) for one in signals if asked.isdisjoint(names_of(one))]
    if not lacking:
        return []
    return [
        f"Whether something hidden drives both the actions and {listing(lacking)} was not checked: the error is known "
        "of too few steps or episodes."
    ]


def _size(cases: Cases, signal: Signal) -> float:
    """The largest absolute value."""
    known = cases.truth[signal.name].astype(float)[cases.known[signal.name]]
    return float(np.abs(known).max(initial=0.0))


def _units(schema: Schema) -> Mapping[str, str]:
    signals = [one for role in (Role.OBSERVATION, Role.ACTION) for one in schema.of(role)]
    return {name: one.unit for one in signals if one.kind is not Kind.IMAGE for name in names_of(one)}
