"""Splits of a store into training, validation, calibration and held-out episodes. No episode is in two parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldline.data.base import PIECE
from worldline.data.store import Store
from worldline.errors import DataError, InputError, UnknownNameError

PART_SHARE = 0.1
"""Share of the episodes in each part but training; at least one episode, or two from `FEW` episodes on."""
FEW = 8
MIN_EPISODES = 4
"""Smallest number of episodes, or groups of them, that can be split."""

MIN_GAPPED = 20
"""Smallest number of pieces of cut recordings for gaps between the parts; three pieces are lost."""

CUT = "A long table can be cut: worldline import LOGS STORE --max-steps 100"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Episode numbers of each part, ascending; the parts are disjoint.

    Args:
        train: to fit models and heads.
        validation: to monitor training and to choose settings.
        calibration: to calibrate intervals and trust; never used to fit or choose.
        held_out: for the reported figures; used once.
        rule: description of the rule that assigned the episodes.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]
    held_out: tuple[int, ...]
    rule: str = ""


def split(num_episodes: int, seed: int) -> Split:
    """A random split: a tenth each for validation, calibration and held out, the rest to train.

    Args:
        num_episodes: at least 4. From 8 episodes on, each part has at least two.
        seed: of the draw.

    Raises:
        DataError: there are fewer than 4 episodes.
    """
    numbers = [[number] for number in range(num_episodes)]
    return _assign(numbers, np.random.default_rng(seed), f"episodes at random, seed {seed}", "episodes")


def split_store(store: Store, rule: str = "episode", *, seed: int = 0) -> Split:
    """A split of a store by a rule; each part but training gets a tenth, at least one group of episodes.

    Rules:

    - "episode": episodes at random. If some are pieces of recordings that were cut: recordings at random, or with
      fewer than 8 of them all pieces in the order of the store. From 20 pieces on, the pieces between two parts are
      left out then, because neighbours resemble each other.
    - "key:NAME": groups of episodes at random; a group shares the value of NAME in its sources.
    - "time": in the order of the store; the last episodes are held out.
    - "time:NAME": in the order of NAME in the sources, a number or a sortable text such as a date.

    Args:
        store: at least 4 episodes, or 4 different values of the key.
        rule: one of the above.
        seed: of the draw; the time rules draw nothing.

    Raises:
        InputError: the rule is unknown.
        UnknownNameError: no source has the key.
        DataError: an episode lacks the key, its values cannot be ordered, or there are fewer than 4 groups.
    """
    kind, _, key = rule.partition(":")
    if rule == "episode":
        recordings = _recordings(store)
        if len(recordings) == len(store):
            return split(len(store), seed)
        if len(recordings) >= FEW:
            return _assign(recordings, np.random.default_rng(seed), f"recordings at random, seed {seed}", "recordings")
        return _in_order(len(store))
    if rule == "time":
        return _assign([[number] for number in range(len(store))], None, "in the order of the store", "episodes")
    if kind not in ("key", "time") or not key:
        raise InputError(
            f"split is {rule!r}. Use 'episode', 'time', 'time:NAME' or 'key:NAME', where NAME is a key of the sources."
        )
    values = _values(store, key)
    if kind == "time":
        kinds = {isinstance(value, str) for value in values}
        if len(kinds) > 1:
            raise DataError(f"{key!r} is text in some sources and a number in others", fix="Log one type only.")
        order = sorted(range(len(store)), key=lambda number: (values[number], number))
        return _assign([[number] for number in order], None, f"in the order of {key}", "episodes")
    groups: dict[str | int | float, list[int]] = {}
    for number, value in enumerate(values):
        groups.setdefault(value, []).append(number)
    noun = f"values of {key!r}"
    return _assign(list(groups.values()), np.random.default_rng(seed), f"by {key} at random, seed {seed}", noun)


def _recordings(store: Store) -> list[list[int]]:
    """The episodes of each recording; one episode each if no recording was cut."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, entry in enumerate(store.entries()):
        source = entry.source
        key = (source.get("file"), source.get("label")) if PIECE in source else (number,)
        found.setdefault(key, []).append(number)
    return list(found.values())


def _in_order(num_pieces: int) -> Split:
    """Pieces in the order of the store, with a piece left out between two parts."""
    if num_pieces < MIN_GAPPED:
        return _assign([[number] for number in range(num_pieces)], None, "pieces in the order of the store", "pieces")
    size = max(2, round(PART_SHARE * (num_pieces - 3)))
    firsts = [num_pieces - (size + 1) * number + 1 for number in (3, 2, 1)]
    validation, calibration, held_out = (tuple(range(first, first + size)) for first in firsts)
    return Split(
        train=tuple(range(firsts[0] - 1)),
        validation=validation,
        calibration=calibration,
        held_out=held_out,
        rule="pieces in the order of the store, with gaps",
    )


def _values(store: Store, key: str) -> list[str | int | float]:
    """The value of `key` in each source."""
    sources = [entry.source for entry in store.entries()]
    if not any(key in source for source in sources):
        raise UnknownNameError("key of the sources", key, {name for source in sources for name in source})
    for number, source in enumerate(sources):
        if key not in source:
            fix = "Split by another key, or log this key for every episode."
            raise DataError(f"the source has no {key!r}", fix=fix, file=store.path, episode=number)
    return [source[key] for source in sources]


def _assign(groups: Sequence[Sequence[int]], generator: np.random.Generator | None, rule: str, noun: str) -> Split:
    """Assigns groups of episodes to the four parts; without a generator in order: training first, held out last."""
    if len(groups) < MIN_EPISODES:
        problem = f"{len(groups)} {noun} cannot be split into training, validation, calibration and held-out parts"
        raise DataError(
            problem, fix=f"At least {MIN_EPISODES} {noun} are needed; about 50 give reliable figures. {CUT}"
        )
    single = max(map(len, groups)) == 1  # calibration and figures need two episodes
    size = max(2 if single and len(groups) >= FEW else 1, round(PART_SHARE * len(groups)))
    numbers = np.arange(len(groups))  # np.roll moves the last groups to the front, where the parts are cut
    order = np.roll(numbers, 3 * size) if generator is None else generator.permutation(len(groups))
    parts = np.split(order, [size, 2 * size, 3 * size])
    found = {
        name: tuple(sorted(number for group in part.tolist() for number in groups[group]))
        for name, part in zip(("validation", "calibration", "held_out", "train"), parts, strict=True)
    }
    return Split(**found, rule=rule)
