"""Episodes of a world from any logs: those that it was not learned from, as far as that is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.regression_rows import FLAGS
from worldline.bundle import read_bundle
from worldline.data.base import Logs
from worldline.data.checks import arrays_of, check_episode, raise_errors
from worldline.data.open_logs import open_logs
from worldline.data.store import Store, is_store, open_store
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode
from worldline.errors import BundleError, DataError, UnreadableError
from worldline.schema import Kind, Role, Schema, Signal

KEPT: Final = ("", "train", "held_out")
"""Parts that an audit has a use for: what calibrated a world tells nothing more of its bands."""

LEAVE_OUT: Final = "Or import the logs with --keep-going, which leaves such episodes out, and give the store."


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldEpisode:
    """One logged episode, with the signals of the world alone.

    Args:
        episode: that fits the world.
        flag: [T] whether its actions were drawn at random; None where the logs do not say.
        part: "train", "held_out" or another part of the split that the world was learned with; empty where it is none
            of the episodes of that.
    """

    episode: Episode
    flag: NDArray[np.floating] | None
    part: str


def read_episodes(card: Card, logs: Path, opened_from: str, parts: Sequence[str] = KEPT) -> Iterator[WorldEpisode]:
    """The episodes of logs, each with what it was for when the world was learned; pictures only of what may be graded.

    Args:
        card: of the world.
        logs: in any format that an importer knows.
        opened_from: what the world was opened from; a bundle's folder tells what was held out.
        parts: which of them are read.

    Raises:
        UnreadableError: the logs lack a signal of the world, or hold it in another shape or unit.
        DataError: the logs cannot be read, or not every episode is as their schema says; or the world was learned from
            them, and nothing tells what was held out.
        BundleError: the bundle's run.json is not as `worldline learn` writes it.
    """
    if is_store(logs):
        store = open_store(logs)
        check_signals(store.schema, card.schema, logs)
        known = _parts(card, store, opened_from)
        for number in range(len(store)):
            part = known.get(number, "")
            if part in parts:
                yield _seen(store.episode(number), card.schema, part)
        return
    found, marked = open_logs(logs), _known(_run(opened_from))
    check_signals(found.schema, card.schema, logs)
    for episode in _sound(found):
        numbers = {signal.name: arrays_of(episode, signal.role)[signal.name] for signal in _numbers(card.schema)}
        part = marked.get(_digest(numbers), "") if marked else ""
        if part in parts:
            yield _seen(episode, card.schema, part)


def _sound(logs: Logs) -> Iterator[Episode]:
    """The episodes, each after the checks of an import; one that cannot be used is never passed over.

    Raises:
        DataError: says which file, and what is wrong in it.
    """
    for logged in logs.read():
        problems = list(logged.findings)
        if logged.episode is not None:
            problems += check_episode(logged.episode, logs.schema, file=logged.file, number=logged.number)
        raise_errors(replace(one, fix=f"{one.fix} {LEAVE_OUT}") for one in problems)
        if logged.episode is not None:
            yield logged.episode


def fingerprints(store: Store, schema: Schema) -> list[str]:
    """Of each episode one that is the same in whatever logs it is found again, of its numbers; no picture is read.

    Args:
        store: of the episodes.
        schema: of the world; other signals do not count.
    """
    names = [signal.name for signal in _numbers(schema)]
    return [
        _digest(
            {name: store.read(name, number, 0, steps + (store.schema[name].role is Role.OBSERVATION)) for name in names}
        )
        for number, steps in enumerate(store.num_steps.tolist())
    ]


def _numbers(schema: Schema) -> list[Signal]:
    return [one for one in schema.signals if one.role is not Role.REWARD and one.kind is not Kind.IMAGE]


def _digest(numbers: Arrays) -> str:
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(numbers):
        found.update(name.encode() + np.ascontiguousarray(numbers[name]).tobytes())
    return found.hexdigest()


def _parts(card: Card, store: Store, opened_from: str) -> dict[int, str]:
    """Per episode its part, where the world was learned from this store, or from episodes that are in it; else empty.

    Raises:
        DataError: it was learned from this store, and nothing tells what was held out.
    """
    run = _run(opened_from)
    split = _split(run)
    if card.notes.get("data") != store.content_hash():
        known = _known(run)
        return {n: known.get(one, "") for n, one in enumerate(fingerprints(store, card.schema))} if known else {}
    if not split:
        raise DataError(
            f"{card.name} was learned from these logs, and {opened_from or 'a world that is open already'} does not "
            "tell which of the episodes were held out",
            fix="Give the folder of its bundle, as `worldline learn` wrote it, or logs that it was not learned from.",
            file=store.path,
        )
    return split


def _known(run: Mapping[str, Any]) -> dict[str, str]:
    """By its fingerprint the part of each episode that the world was learned with."""
    split, found = _split(run), run.get("data", {}).get("fingerprints", [])
    return {found[number]: part for number, part in split.items() if number < len(found)}


def _split(run: Mapping[str, Any]) -> dict[int, str]:
    """The part of each episode; empty where the manifest of a run does not tell."""
    parts = {name: numbers for name, numbers in run.get("split", {}).items() if isinstance(numbers, list)}
    return {int(number): name for name, numbers in parts.items() for number in numbers}


def _run(opened_from: str) -> Mapping[str, Any]:
    """How the world was learned, as the folder of a bundle tells; empty where it is none or does not.

    Raises:
        BundleError: what it tells has not the shape of a run manifest.
    """
    if not opened_from or not Path(opened_from).is_dir():  # an empty path would be the working directory
        return {}
    bundle = read_bundle(Path(opened_from))
    if "run.json" not in bundle.files:
        return {}
    text = bundle.text("run.json")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not _tells(found):
        raise BundleError(
            f"{bundle.folder / 'run.json'}: the split or the fingerprints in it are not as `worldline learn` writes "
            "them: nothing tells what the world was learned from. Fetch the bundle again, or learn the world anew."
        )
    return dict(found)


def _tells(run: object) -> bool:
    """Whether a split and fingerprints, where a run has them, are numbers of episodes and texts."""
    if not isinstance(run, dict):
        return False
    split, data = run.get("split", {}), run.get("data", {})
    if not isinstance(split, dict) or not isinstance(data, dict):
        return False
    numbers = [number for part in split.values() if isinstance(part, list) for number in part]
    found = data.get("fingerprints", [])
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(found, list)
        and all(isinstance(one, str) for one in found)
    )


def check_signals(given: Schema, due: Schema, logs: Path) -> None:
    """Refuses logs that lack a signal of the world, or hold it in another shape.

    Raises:
        UnreadableError: says which signal, and what is in the logs.
    """
    known = {signal.name: signal for signal in given.signals}
    for signal in due.signals:
        if signal.role is Role.REWARD:
            continue
        found = known.get(signal.name)
        if found is None:
            raise UnreadableError(
                f"the world speaks of {signal.name!r}, which is not in {logs} ({', '.join(sorted(known))}). Give logs "
                "of this world, or name its signals alike in schema.json."
            )
        if (found.role, found.kind, found.shape) != (signal.role, signal.kind, signal.shape):
            raise UnreadableError(
                f"{signal.name!r} is {found.role} {found.kind} {found.shape} in {logs}, and the world takes "
                f"{signal.role} {signal.kind} {signal.shape}. Give logs of this world, or import them in its sizes."
            )
        if "?" not in (found.unit, signal.unit) and found.unit != signal.unit:
            raise UnreadableError(
                f"{signal.name!r} is in {found.unit} in {logs}, and the world takes {signal.unit}. Convert the logs, "
                "or correct the unit in schema.json."
            )


def _seen(episode: Episode, schema: Schema, part: str) -> WorldEpisode:
    def pick(arrays: Arrays, role: Role) -> Arrays:
        names = [one.name for one in schema.of(role) if one.kind is not Kind.IMAGE or part != "train"]
        return {name: arrays[name] for name in names if name in arrays}

    only = replace(
        episode,
        observations=pick(episode.observations, Role.OBSERVATION),
        actions=pick(episode.actions, Role.ACTION),
        exogenous=pick(episode.exogenous, Role.EXOGENOUS),
        observed=pick(episode.observed, Role.OBSERVATION),
        rewards={},
    )
    return WorldEpisode(episode=only, flag=_flag(episode), part=part)


def _flag(episode: Episode) -> NDArray[np.floating] | None:
    """What the logs say of randomised steps; 0 where the value is missing."""
    for arrays in (episode.exogenous, episode.actions, episode.observations):
        for name in FLAGS:
            if name in arrays:
                values = arrays[name].reshape(len(arrays[name]), -1)[: episode.num_steps, 0].astype(float)
                known = episode.observed.get(name, np.ones(len(values), np.bool_))[: episode.num_steps]
                return np.where(known & ~np.isnan(values), values, 0.0)
    return None


def chosen(
    seen: Sequence[WorldEpisode], *, need: int, most: int, seed: int
) -> tuple[list[WorldEpisode], list[WorldEpisode]]:
    """Which episodes are graded, and which the comparisons are fitted on.

    Of what the world was learned with, episodes that were held out may be graded, and those that it was trained on
    serve the fits. Where the logs hold none of the latter, or less than a third of the steps of the others, a third of
    the others, at random, serves too, so that nothing is graded on what it was fitted to.

    Args:
        seen: all episodes.
        need: steps that a graded one has to have.
        most: graded episodes at most; of more a draw is taken, in the order of the logs.
        seed: of the draw.

    Raises:
        DataError: there are fewer than two to grade, or none to fit on.
    """
    graded, fitted = ([one for one in seen if (one.part == "train") is trained] for trained in (False, True))
    if 3 * _steps(fitted) < _steps(graded):
        order = np.random.default_rng([seed, 23]).permutation(len(graded))
        cut = len(graded) // 3 if fitted else max(1, len(graded) // 3)
        fitted = [*fitted, *(graded[k] for k in sorted(order[:cut]))]
        graded = [graded[k] for k in sorted(order[cut:])]
    long = [one for one in graded if one.episode.num_steps >= need]
    drawn = np.random.default_rng([seed, 29]).permutation(len(long))[:most]
    long = [long[k] for k in sorted(drawn)]
    if len(long) < 2 or not fitted:
        raise DataError(
            f"{len(long)} of {len(graded)} episodes that the world has not seen have the {need} steps that are needed, "
            "and two are needed at least",
            fix="Give more or longer episodes.",
        )
    return long, fitted


def _steps(seen: Sequence[WorldEpisode]) -> int:
    return sum(one.episode.num_steps for one in seen)
