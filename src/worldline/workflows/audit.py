"""Audits a trained world on its owner's logs: recommendation, reasons, and data that would help."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from worldline.audit.advice import decide
from worldline.audit.diagnostics import LEVELS
from worldline.audit.goal_ranking import check_goals, default_goals
from worldline.audit.grades import Verdict
from worldline.audit.input_baselines import needs_images
from worldline.audit.measured import Advice, Audit, Decision
from worldline.audit.queries import window_forecasts
from worldline.audit.regression_rows import LAGS
from worldline.audit.run import Material, measure
from worldline.catalog.opening import is_reference, open_target
from worldline.catalog.versions import Catalog
from worldline.data.windows import forecast_windows
from worldline.errors import DataError, UnreadableError, UnsupportedError
from worldline.formatting import listing, plural, round_percent
from worldline.progress import OnProgress, telling
from worldline.schema import Kind
from worldline.workflows.evaluation import band_level, reported_steps
from worldline.workflows.held_out import WorldEpisode, chosen, read_episodes
from worldline.workflows.twin_sources import twin_source
from worldline.world.base import World
from worldline.world.local import LocalWorld

MAX_GRADED: Final = 200
DEFAULT_HORIZON: Final = 20
"""Predicted steps if the horizon of the world's bands is unknown."""
MAX_HORIZON: Final = 50


def audit(
    target: Path | str | World,
    logs: Path | str,
    *,
    env: str | None = None,
    goals: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Audit:
    """The audit of a world on held-out logs.

    Args:
        target: argument of `worldline.open`, or a world.
        logs: a store, or logs in any format that an importer reads. If they contain the training data, only held-out
            episodes are graded.
        env: name of a lab or Gymnasium environment with exact replay from a seed; None for no twins.
        goals: observation signals of the goals that you plan to; goal reaching is then part of the verdict. None for
            all inputs of a world with a distance head; empty for none.
        seed: of all draws.
        device: on which the world is opened; argument of `worldline.open`.
        progress: called after each step.

    Raises:
        BundleError: there is no such world.
        DataError: the logs cannot be read, have too few long episodes, or are the training logs of a world without a
            known split.
        UnknownNameError: there is no such environment or goal signal.
    """
    logs, opened_from = Path(logs), "" if isinstance(target, World) else str(target)
    if is_reference(opened_from):
        opened_from = str(Catalog().resolve(opened_from))
    world = target if isinstance(target, World) else open_target(opened_from, device=device)
    title = Path(opened_from).resolve().name if opened_from else world.describe().name
    try:
        return _audit(world, title, logs, opened_from, env, goals, seed, progress)
    except UnsupportedError as error:
        return refused(error, title, logs)


def refused(error: UnsupportedError, title: str, logs: Path) -> Audit:
    """The audit of a world that cannot be evaluated on these logs."""
    kind = "UNREADABLE" if isinstance(error, UnreadableError) else "UNSUPPORTED"
    decision = Decision(advice=Advice[kind], reasons=(str(error),), limits=(), help=(), cause=Verdict[kind])
    return Audit(world=title, logs=logs.name, decision=decision, measured=None, facts={})


def _audit(
    world: World,
    title: str,
    logs: Path,
    opened_from: str,
    env: str | None,
    goals: Sequence[str] | None,
    seed: int,
    progress: OnProgress | None,
) -> Audit:
    card = world.describe()
    _check_world(world)
    goals = default_goals(card) if goals is None else tuple(goals)
    check_goals(card, goals)
    source = None if env is None else twin_source(env, card.schema)
    with telling(progress, "read"):
        seen = list(read_episodes(card, logs, opened_from))
    world, material = _material(world, seen, goals, seed)
    with telling(progress, "audit"):
        measured = measure(world, material, source=source, seed=seed)
    num_held_out, num_other = (sum(logged.part == part for logged in seen) for part in ("held_out", ""))
    parts = "held out from its training" if num_held_out else "none used in its training, as far as is known"
    parts = f"{parts}, including {plural(num_other, 'other')}" if num_held_out and num_other else parts
    facts = {
        "World": f"{card.name} ({card.engine}) from {opened_from or 'this process'}",
        "Logs": f"{logs.name}: {plural(len(seen), 'episode')}, of which {len(material.graded)} graded ({parts}) and "
        f"{len(material.fitted)} for the fits of the comparisons",
        "Asked": f"{material.context} observations given, {plural(material.horizon, 'step')} predicted",
        "Bands": _describe_bands(material),
        "Baselines": "fitted on the images that the world sees, reduced to few pixels"
        if needs_images(card)
        else "fitted on the signals that the world sees",
        "Goals": listing(list(goals)) or "none: no distance head, and no goal signals were given",
        "Twins": env or "none: no environment was given",
        "Seed": str(seed),
        "Logs, fingerprint": _fingerprint(material),
    }
    return Audit(world=title, logs=logs.name, decision=decide(measured), measured=measured, facts=facts)


def _check_world(world: World) -> None:
    """Raises UnreadableError or UnsupportedError for worlds that cannot be audited."""
    card = world.describe()
    if not any(card.schema[name].kind is Kind.VECTOR for name in card.predicts):
        raise UnreadableError(
            f"{card.name} predicts {', '.join(card.predicts) or 'nothing'}, but no vector signal. Fit a readout: learn "
            "it from logs with a vector signal and the images."
        )
    if not card.schema.actions:
        raise UnsupportedError(f"{card.name} takes no actions, but an audit measures the effects of actions. Log them.")


def _describe_bands(material: Material) -> str:
    if material.level is None:
        return "none"
    if not material.num_calibration:
        return "number of calibration episodes unknown; levels are treated as exact"
    return f"graded at the level {round_percent(material.level)}; set by {plural(material.num_calibration, 'episode')}"


def _material(world: World, seen: list[WorldEpisode], goals: tuple[str, ...], seed: int) -> tuple[World, Material]:
    """The world, without bands if its calibration supports none, and what it is measured on."""
    card = world.describe()
    context, reach = max(LAGS, card.context), DEFAULT_HORIZON
    level: float | None = LEVELS[-1]
    num_calibration: int | None = None
    if isinstance(world, LocalWorld) and world.calibration is not None:
        reach = world.calibration.horizon or DEFAULT_HORIZON
        level, num_calibration = band_level(world.calibration), world.calibration.num_episodes
        if level is None:
            world = LocalWorld(world.engine, None, world.planner)
    lengths = sorted((logged.episode.num_steps for logged in seen if logged.part in ("", "held_out")), reverse=True)
    middle = lengths[len(lengths) // 2] if lengths else 0
    horizon = min(reach, MAX_HORIZON, middle - context + 1)
    if horizon < 2:
        raise DataError(
            f"half of the episodes that were not used in training have fewer than {context + 2} steps",
            fix="Give longer episodes.",
        )
    graded, fitted = chosen(seen, need=context - 1 + horizon, max_graded=MAX_GRADED, seed=seed)
    if level is not None:
        windows = forecast_windows([(graded[0].episode, context - 1)], length=context, horizon=1)
        forecasts = window_forecasts(world, windows, level=level).values()
        level = level if any(forecast.low is not None for forecast in forecasts) else None
    return world, Material(
        graded=[logged.episode for logged in graded],
        fitted=[logged.episode for logged in fitted],
        flags=[logged.flag for logged in (*graded, *fitted)],
        context=context,
        horizon=horizon,
        horizons=reported_steps(horizon, card.schema.step_s),
        num_calibration=None if level is None else num_calibration,
        level=level,
        goals=goals,
    )


def _fingerprint(material: Material) -> str:
    """Hash of the graded observations, which identifies the audited data."""
    digest = hashlib.sha256()
    for episode in material.graded:
        for name in sorted(episode.observations):
            digest.update(np.ascontiguousarray(episode.observations[name]).tobytes())
    return f"sha256 {digest.hexdigest()[:12]}…"
