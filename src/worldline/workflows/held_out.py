"""Reads episodes for a world from any logs and marks those of its training, as far as known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.input_baselines import MAX_FITTED_FRAMES, needs_images
from worldline.audit.regression_rows import FLAGS
from worldline.bundle import read_bundle
from worldline.data.checks import raise_errors
from worldline.data.importing import import_logs
from worldline.data.store import Store, is_store, open_store
from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.errors import BundleError, DataError, UnreadableError
from worldline.schema import Kind, Role, Schema, Signal

KEPT: Final = ("", "train", "held_out")
"""Parts that an audit uses: the coverage on calibration episodes is not informative."""

LEAVE_OUT: Final = "Or import the logs with --keep-going, which skips such episodes, and use the store."


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldEpisode:
    """One logged episode, reduced to the signals of the world.

    Args:
        episode: with the world's signals.
        flag: [T] whether its actions were randomised; None if the logs do not contain it.
        part: "train", "held_out" or another part of the split of the training; empty if it was not in the split.
    """

    episode: Episode
    flag: NDArray[np.floating] | None
    part: str


def read_episodes(card: Card, logs: Path, opened_from: str, parts: Sequence[str] = KEPT) -> Iterator[WorldEpisode]:
    """The episodes of logs with their part in the training.

    Images of training episodes are read only if baselines need them, and only of the first ones.

    Args:
        card: of the world.
        logs: in any format that an importer reads.
        opened_from: path or URL of the world; the folder of a bundle holds the split.
        parts: the parts that are read.

    Raises:
        UnreadableError: a signal of the world is missing in the logs, or has another shape or unit.
        DataError: the logs cannot be read, an episode does not fit their schema, or they are the training logs of a
            world without a known split.
        BundleError: the bundle's run.json is invalid.
    """
    left = MAX_FITTED_FRAMES if needs_images(card) else 0
    with opened_logs(logs) as store:
        required = [signal for signal in card.schema.signals if signal.role is not Role.REWARD]
        check_signals(store.schema, required, str(logs), "Give logs of this world, or correct their schema.json.")
        known = _parts(card, store, opened_from)
        for number in range(len(store)):
            part = known.get(number, "")
            if part not in parts:
                continue
            images = part != "train" or left > 0
            episode = store.episode(number, images=images)
            if part == "train":
                left -= episode.num_steps
            yield _seen(episode, card.schema, part, images=images)


@contextmanager
def opened_logs(logs: Path) -> Iterator[Store]:
    """Yields a store of logs in any format; it is temporary if `logs` is no store.

    Raises:
        DataError: the logs cannot be read, or an episode does not fit their schema.
    """
    with TemporaryDirectory() as folder:
        yield open_store(logs) if is_store(logs) else _imported(logs, Path(folder) / logs.name)


def _imported(logs: Path, destination: Path) -> Store:
    """A store of the logs, all of which can be used."""
    report = import_logs(logs, destination, keep_going=True)
    raise_errors(replace(finding, fix=f"{finding.fix} {LEAVE_OUT}") for finding in report.findings)
    return open_store(destination)


def fingerprints(store: Store, schema: Schema) -> list[str]:
    """A fingerprint of each episode that is the same in any log format; computed without its images.

    Args:
        store: the episodes.
        schema: of the world; other signals are ignored.
    """
    names = sorted(s.name for s in schema.signals if s.role is not Role.REWARD and s.kind is not Kind.IMAGE)
    digests = list[str]()
    for number, steps in enumerate(store.num_steps.tolist()):
        digest = hashlib.blake2b(digest_size=8)
        for name in names:
            values = store.read(name, number, 0, steps + (store.schema[name].role is Role.OBSERVATION))
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        digests.append(digest.hexdigest())
    return digests


def _parts(card: Card, store: Store, opened_from: str) -> dict[int, str]:
    """The part of each episode that was used in training; empty if none was. Raises DataError if unknown."""
    parts = training_parts(card, store, opened_from)
    if parts is None:
        raise DataError(
            f"{card.name} was learned from these logs, but {opened_from or 'a world that is already open'} does not "
            "state which episodes were held out",
            fix="Give the folder of its bundle from `worldline learn`, or logs that it was not learned from.",
            file=store.path,
        )
    return parts


def training_parts(card: Card, store: Store, opened_from: str) -> dict[int, str] | None:
    """The part of each episode that was used in training.

    Args:
        card: of the world.
        store: the episodes.
        opened_from: as in `read_episodes`.

    Returns:
        Empty if none was used, as far as is known. None if the card says that the store was, but not which episodes.

    Raises:
        BundleError: the bundle's run.json is invalid.
    """
    split, digests = _training_episodes(opened_from)
    if card.notes.get("data") == store.content_hash():
        return split or None
    known = {digests[number]: part for number, part in split.items() if number < len(digests)}
    return {n: known.get(digest, "") for n, digest in enumerate(fingerprints(store, card.schema))} if known else {}


def _training_episodes(opened_from: str) -> tuple[dict[int, str], list[str]]:
    """The part of each episode of the training, and their fingerprints; empty if the bundle does not have them.

    Raises:
        BundleError: the run manifest cannot be read.
    """
    if not opened_from or not Path(opened_from).is_dir():  # an empty path means the working directory
        return {}, []
    bundle = read_bundle(Path(opened_from))
    if "run.json" not in bundle.files:
        return {}, []
    try:
        run = json.loads(bundle.text("run.json"))
        parts = {part: numbers for part, numbers in run.get("split", {}).items() if part != "rule"}
        split = {int(number): part for part, numbers in parts.items() for number in numbers}
        return split, list(run.get("data", {}).get("fingerprints", ()))
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{bundle.folder / 'run.json'}: its episodes cannot be read ({error}). Learn the world again."
        ) from error


def check_signals(given: Schema, required: Iterable[Signal], source: str, fix: str) -> None:
    """Refuses a source without a signal of the world, or with another kind, shape or unit of it.

    Args:
        given: signals of the source.
        required: signals of the world.
        source: name of the source.
        fix: what to do.

    Raises:
        UnreadableError: names the signal and the contents of the source.
    """
    known = {signal.name: signal for signal in given.signals}
    for signal in required:
        other = known.get(signal.name)
        if other is None:
            names = ", ".join(sorted(known))
            raise UnreadableError(f"signal {signal.name!r} of the world is not in {source} ({names}). {fix}")
        if (other.role, other.kind, other.shape) != (signal.role, signal.kind, signal.shape):
            raise UnreadableError(
                f"{signal.name!r} is {other.role} {other.kind} {other.shape} in {source}, but the world takes "
                f"{signal.role} {signal.kind} {signal.shape}. {fix}"
            )
        if "?" not in (other.unit, signal.unit) and other.unit != signal.unit:
            raise UnreadableError(
                f"{signal.name!r} is in {other.unit} in {source}, but the world takes {signal.unit}. {fix}"
            )


def _seen(episode: Episode, schema: Schema, part: str, *, images: bool) -> WorldEpisode:
    names = [signal.name for signal in schema.signals if images or signal.kind is not Kind.IMAGE]
    return WorldEpisode(episode=replace(episode.select(names), rewards={}), flag=_flag(episode), part=part)


def _flag(episode: Episode) -> NDArray[np.floating] | None:
    """The logged flag of randomised steps [T], with 0 for missing values; None if it is not logged."""
    for arrays in (episode.exogenous, episode.actions, episode.observations):
        for name in FLAGS:
            if name in arrays:
                values = arrays[name].reshape(len(arrays[name]), -1)[: episode.num_steps, 0].astype(float)
                known = episode.mask(name)[: episode.num_steps]
                return np.where(known & ~np.isnan(values), values, 0.0)
    return None


def chosen(
    seen: Sequence[WorldEpisode], *, need: int, max_graded: int, seed: int
) -> tuple[list[WorldEpisode], list[WorldEpisode]]:
    """Splits episodes into graded ones and ones on which the baselines are fitted.

    Training episodes of the world serve the fits, all others may be graded. If the training episodes have less than
    a third of the steps of the others, a random third of the others serves the fits too. No episode serves both.

    Args:
        seen: all episodes.
        need: least number of steps of a graded episode.
        max_graded: highest number of graded episodes; of more, a random subset is used, in the order of the logs.
        seed: of the random choices.

    Raises:
        DataError: there are fewer than two episodes to grade, or none for the fits.
    """
    graded, fitted = ([logged for logged in seen if (logged.part == "train") is trained] for trained in (False, True))
    fitted_steps, graded_steps = (sum(logged.episode.num_steps for logged in part) for part in (fitted, graded))
    if 3 * fitted_steps < graded_steps:
        order = np.random.default_rng([seed, 23]).permutation(len(graded))
        cut = len(graded) // 3 if fitted else max(1, len(graded) // 3)
        fitted = [*fitted, *(graded[k] for k in sorted(order[:cut]))]
        graded = [graded[k] for k in sorted(order[cut:])]
    long = [logged for logged in graded if logged.episode.num_steps >= need]
    drawn = np.random.default_rng([seed, 29]).permutation(len(long))[:max_graded]
    long = [long[k] for k in sorted(drawn)]
    if len(long) < 2 or not fitted:
        raise DataError(
            f"{len(long)} of {len(graded)} episodes that were not used in training have the required {need} steps; at "
            "least two are needed",
            fix="Give more or longer episodes.",
        )
    return long, fitted
