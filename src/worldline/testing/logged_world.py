"""What to try a world on, taken from logs: held-out episodes and a goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.planning.base import Goal
from worldline.schema import Kind
from worldline.testing.clauses import as_float
from worldline.testing.cuts import observed_of
from worldline.testing.world_case import WorldCase
from worldline.workflows.held_out import read_episodes
from worldline.world.base import World
from worldline.world.local import LocalWorld

MARGIN = 2
"""Steps that a clause needs of an episode beside the history and the horizon."""


def case_from_logs(
    world: World,
    logs: Path,
    *,
    opened_from: str,
    horizon: int,
    num_episodes: int,
    num_calibration: int | None,
    seed: int,
) -> WorldCase:
    """The world with episodes and a goal from logs.

    Of the episodes that a bundle was learned from, only those that were held out are taken.

    Args:
        world: to be checked.
        logs: any that an importer knows.
        opened_from: what the world was opened from; a bundle's folder tells which episodes were held out.
        horizon: T, at least 2.
        num_episodes: the most that are taken, the first that are long enough.
        num_calibration: see `WorldCase`; None for what a world in this process says itself.
        seed: of every draw.

    Raises:
        UnreadableError: the logs lack a signal of the world, or hold it in another shape or unit.
        DataError: the logs cannot be read, hold too few long episodes, or are those that the world was learned from
            and nothing tells what was held out.
        BundleError: the bundle's run.json is not as `worldline learn` writes it.
        InputError: the world predicts nothing that a goal can be set on.
    """
    card = world.describe()
    need = max(card.context, 2) - 1 + horizon + MARGIN
    kept: list[Episode] = []
    for seen in read_episodes(card, logs, opened_from, parts=("", "held_out")):
        if seen.episode.num_steps >= need:
            kept.append(seen.episode)
        if len(kept) >= num_episodes:
            break
    if len(kept) < 2:
        raise DataError(
            f"{len(kept)} episodes have the {need} steps that the checks need ({max(card.context, 2)} observations, "
            f"{horizon} steps ahead), and two are needed at least",
            fix="Give longer episodes, or a shorter --horizon.",
            file=logs,
        )
    if num_calibration is None and isinstance(world, LocalWorld) and world.calibration is not None:
        num_calibration = world.calibration.num_episodes
    return WorldCase(
        world=world,
        episodes=kept,
        goal=logged_goal(card, kept, horizon),
        horizon=horizon,
        num_calibration=num_calibration,
        seed=seed,
    )


def logged_goal(card: Card, episodes: Sequence[Episode], horizon: int) -> Goal:
    """What a signal was `horizon` steps later in the first episode where it was observed, within its spread.

    The first predicted signal that is a vector, else that is discrete, else an image where the world reaches for such.

    Raises:
        InputError: there is no such signal.
    """
    for kind in (Kind.VECTOR, Kind.DISCRETE, Kind.IMAGE):
        for name in card.predicts:
            if card.schema[name].kind is not kind or (kind is Kind.IMAGE and "reaches" not in card.abilities):
                continue
            values = np.concatenate(
                [as_float(episode.observations[name])[observed_of(episode, name)] for episode in episodes]
            )
            later = [episode.observations[name][horizon] for episode in episodes if observed_of(episode, name)[horizon]]
            if not later:
                continue
            spread = float(values.std(0).max()) if kind is Kind.VECTOR else 0.0
            return Goal(targets={name: np.asarray(later[0])}, tolerance={name: spread} if spread > 0 else {})
    raise InputError(
        f"the world predicts {', '.join(card.predicts)}: no goal can be set on it. Fit a readout, or a distance head."
    )
