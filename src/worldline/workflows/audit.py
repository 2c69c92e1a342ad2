"""Audits a trained world on its owner's logs: recommendation, reasons, and data that would help."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from worldline.audit.advice import decide
from worldline.audit.audit_evidence import Advice, Audit, Decision
from worldline.audit.grades import Verdict
from worldline.audit.queries import window_forecasts
from worldline.audit.regression_rows import LAGS
from worldline.audit.run import LEVEL, Material, measure
from worldline.catalog.opening import is_reference, open_target
from worldline.catalog.versions import Catalog
from worldline.data.windows import forecast_windows
from worldline.errors import DataError, UnreadableError, UnsupportedError
from worldline.formatting import plural
from worldline.progress import OnProgress, tell
from worldline.schema import Kind
from worldline.workflows.held_out import WorldEpisode, chosen, read_episodes
from worldline.workflows.report_data import reported_steps, supports
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
    seed: int = 0,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Audit:
    """The audit of a world on held-out logs.

    Args:
        target: argument of `worldline.open`, or a world.
        logs: a store, or logs in any format that an importer reads. If they contain the training data, only held-out
            episodes are graded.
        env: name of a lab or Gymnasium environment with exact replay from a seed, or "greenhouse"; None for
            no twins.
        seed: of all draws.
        device: on which the world is opened; argument of `worldline.open`.
        progress: called after each step.

    Raises:
        BundleError: there is no such world.
        DataError: the logs cannot be read, have too few long episodes, or are the training logs of a world without a
            known split.
        UnknownNameError: there is no such environment.
    """
    logs, opened_from = Path(logs), "" if isinstance(target, World) else str(target)
    if is_reference(opened_from):
        opened_from = str(Catalog().resolve(opened_from))
    world = target if isinstance(target, World) else open_target(opened_from, device=device)
    title = Path(opened_from).resolve().name if opened_from else world.describe().name
    try:
        return _audit(world, title, logs, opened_from, env, seed, progress)
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
    seed: int,
    progress: OnProgress | None,
) -> Audit:
    card = world.describe()
    _check_world(world)
    source = None if env is None else twin_source(env, card.schema)
    tell(progress, "read", 0)
    seen = list(read_episodes(card, logs, opened_from))
    tell(progress, "read", 1)
    world, num_calibration = _banded(world)
    material = _material(world, seen, num_calibration, seed)
    tell(progress, "audit", 0)
    banded = _has_bands(world, material)
    found = measure(world, material, banded=banded, source=source, seed=seed)
    tell(progress, "audit", 1)
    held, met = (sum(one.part == part for one in seen) for part in ("held_out", ""))
    parts = "held out from its training" if held else "none used in its training, as far as is known"
    parts = f"{parts}, including {plural(met, 'other')}" if held and met else parts
    facts = {
        "World": f"{card.name} ({card.engine}) from {opened_from or 'this process'}",
        "Logs": f"{logs.name}: {plural(len(seen), 'episode')}, of which {len(material.graded)} graded ({parts}) and "
        f"{len(material.fitted)} for the fits of the comparisons",
        "Asked": f"{material.context} observations given, {plural(material.horizon, 'step')} predicted",
        "Bands": "none"
        if not banded
        else f"widths set by {num_calibration} episodes"
        if num_calibration
        else "number of calibration episodes unknown; levels are treated as exact",
        "Twins": env or "none: no environment was given",
        "Seed": str(seed),
        "Logs, fingerprint": _fingerprint(material),
    }
    return Audit(world=title, logs=logs.name, decision=decide(found), measured=found, facts=facts)


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


def _banded(world: World) -> tuple[World, int | None]:
    """The world, without bands if it has too few calibration episodes, and their number."""
    if not isinstance(world, LocalWorld) or world.calibration is None:
        return world, None
    if not supports(world.calibration, LEVEL):
        return LocalWorld(world.engine, None, world.planner), None
    return world, world.calibration.num_episodes


def _material(world: World, seen: list[WorldEpisode], num_calibration: int | None, seed: int) -> Material:
    card = world.describe()
    context = max(LAGS, card.context)
    reach = DEFAULT_HORIZON
    if isinstance(world, LocalWorld) and world.calibration is not None:
        reach = world.calibration.horizon or DEFAULT_HORIZON
    lengths = sorted((one.episode.num_steps for one in seen if one.part in ("", "held_out")), reverse=True)
    middle = lengths[len(lengths) // 2] if lengths else 0
    horizon = min(reach, MAX_HORIZON, middle - context + 1)
    if horizon < 2:
        raise DataError(
            f"half of the episodes that were not used in training have fewer than {context + 2} steps",
            fix="Give longer episodes.",
        )
    graded, fitted = chosen(seen, need=context - 1 + horizon, max_graded=MAX_GRADED, seed=seed)
    return Material(
        graded=[one.episode for one in graded],
        fitted=[one.episode for one in fitted],
        flags=[one.flag for one in (*graded, *fitted)],
        context=context,
        horizon=horizon,
        horizons=reported_steps(horizon, card.schema.step_s),
        num_calibration=num_calibration,
    )


def _has_bands(world: World, material: Material) -> bool:
    place = (material.graded[0], material.context - 1)
    windows = forecast_windows([place], length=material.context, horizon=1)
    return any(one.low is not None for one in window_forecasts(world, windows, level=LEVEL).values())


def _fingerprint(material: Material) -> str:
    """Hash of the graded observations, which identifies the audited data."""
    digest = hashlib.sha256()
    for one in material.graded:
        for name in sorted(one.observations):
            digest.update(np.ascontiguousarray(one.observations[name]).tobytes())
    return f"sha256 {digest.hexdigest()[:12]}…"
