"""What to try a world on, taken from logs: held-out episodes and a goal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldline.bundle import read_bundle
from worldline.contracts.engine import Card
from worldline.contracts.episode import Arrays, Episode
from worldline.contracts.schema import Kind, Role, Schema
from worldline.contracts.world import Goal, World
from worldline.data.opening import open_logs
from worldline.data.store import Store, is_store, open_store
from worldline.errors import DataError, InputError
from worldline.testing.clauses import as_float
from worldline.testing.cuts import observed_of
from worldline.testing.world_case import WorldCase
from worldline.worlds.local import LocalWorld

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

    Where the logs are the store that a bundle was learned from, only the episodes that were held out are taken.

    Args:
        world: to be checked.
        logs: any that an importer knows.
        opened_from: what the world was opened from; a bundle's folder tells which episodes were held out.
        horizon: T, at least 2.
        num_episodes: the most that are taken, the first that are long enough.
        num_calibration: see `WorldCase`; None for what a world in this process says itself.
        seed: of every draw.

    Raises:
        DataError: the logs cannot be read, lack a signal of the world, or hold too few long episodes.
        InputError: the world predicts nothing that a goal can be set on.
    """
    card = world.describe()
    need = max(card.context, 2) - 1 + horizon + MARGIN
    kept: list[Episode] = []
    for episode in _read(card, logs, opened_from):
        if episode.num_steps >= need:
            kept.append(_only(episode, card.schema))
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


def _read(card: Card, logs: Path, opened_from: str) -> Iterator[Episode]:
    """The episodes, once their signals are known to fit; of the store that was learned from those held out."""
    if is_store(logs):
        store = open_store(logs)
        _check(store.schema, card.schema, logs)
        for number in _held_out(card, store, opened_from):
            yield store.episode(number)
        return
    found = open_logs(logs)
    _check(found.schema, card.schema, logs)
    for logged in found.read():
        if logged.episode is not None:
            yield logged.episode


def _held_out(card: Card, store: Store, opened_from: str) -> Sequence[int]:
    """The numbers of the episodes that the world was not learned from, as far as it is known."""
    if card.notes.get("data") != store.content_hash() or not Path(opened_from).is_dir():
        return range(len(store))
    bundle = read_bundle(Path(opened_from))
    if "run.json" not in bundle.files:
        return range(len(store))
    numbers = json.loads(bundle.text("run.json")).get("split", {}).get("held_out", [])
    return [int(number) for number in numbers if 0 <= int(number) < len(store)] or range(len(store))


def _check(given: Schema, due: Schema, logs: Path) -> None:
    """Raises DataError where the logs lack a signal of the world, or hold it in another shape."""
    known = {signal.name: signal for signal in given.signals}
    for signal in due.signals:
        if signal.role is Role.REWARD:
            continue
        found = known.get(signal.name)
        if found is None:
            raise DataError(
                f"the world speaks of {signal.name!r}, which is not in the logs ({', '.join(sorted(known))})",
                fix="Give logs of this world.",
                file=logs,
            )
        if (found.role, found.kind, found.shape) != (signal.role, signal.kind, signal.shape):
            raise DataError(
                f"it is {found.role} {found.kind} {found.shape} in the logs, and the world takes {signal.role} "
                f"{signal.kind} {signal.shape}",
                fix="Give logs of this world, or import them in its sizes.",
                file=logs,
                signal=signal.name,
            )


def _only(episode: Episode, schema: Schema) -> Episode:
    """The episode with the signals of the schema alone."""

    def pick(arrays: Arrays, role: Role) -> Arrays:
        return {signal.name: arrays[signal.name] for signal in schema.of(role) if signal.name in arrays}

    return replace(
        episode,
        observations=pick(episode.observations, Role.OBSERVATION),
        actions=pick(episode.actions, Role.ACTION),
        exogenous=pick(episode.exogenous, Role.EXOGENOUS),
        observed=pick(episode.observed, Role.OBSERVATION),
        rewards={},
    )
