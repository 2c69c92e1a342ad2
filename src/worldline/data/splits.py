"""Splits of a store into training, validation, calibration and held-out episodes. No episode is in two parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldline.data.base import PIECE
from worldline.data.checks import Finding, warning
from worldline.data.index import Source
from worldline.data.store import Store
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.formatting import plural

PART_SHARE = 0.1
"""Share of the episodes in each part but training; at least one episode, or two from `FEW` episodes on."""
FEW = 8
MIN_EPISODES = 4
"""Smallest number of episodes, or groups of them, that can be split."""

MIN_GAPPED = 20
"""Smallest number of pieces of cut recordings for gaps between the parts; three pieces are lost."""

MIN_STEPS, MAX_MIN_STEPS = 3, 24
"""Limits of the steps that an episode must have: those that figures need, and the longest history of a model."""

_OTHERS = ("validation", "calibration", "held_out")
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

    @property
    def not_held_out(self) -> list[int]:
        """The episodes of the other parts, in the order of the logs."""
        return sorted({*self.train, *self.validation, *self.calibration})


def too_short(store: Store) -> tuple[Finding, ...]:
    """A warning for each episode that no part gets, such as the rest of a recording that was cut.

    An episode needs a third of the steps that four in five episodes have, or 24, because a model may use so many
    earlier steps. A terminated episode needs 3.
    """
    steps = store.num_steps
    usual = int(np.quantile(steps, 0.2)) if len(steps) else 0
    least = min(MIN_STEPS, usual)
    needed = np.where(store.terminated, least, np.clip(usual // 3, least, MAX_MIN_STEPS))
    return tuple(
        warning(
            problem=f"the episode has {plural(steps[number], 'step')}, models need {needed[number]}: it is left out",
            fix="Nothing to do, if it is no loss.",
            episode=int(number),
        )
        for number in np.flatnonzero(steps < needed)
    )


def split_store(store: Store, rule: str | None = None, *, seed: int = 0) -> Split:
    """A split of a store by a rule; each part but training gets a tenth, at least one group of episodes.

    Episodes that are too short for a model, such as the rest of a recording that was cut, are in no part.

    Rules:

    - "episode": episodes at random. If some are pieces of recordings that were cut: recordings at random, or with
      fewer than 8 of them all pieces in the order of the store. From 20 pieces on, the pieces between two parts are
      left out then, because neighbours resemble each other.
    - "key:NAME": groups of episodes at random; a group shares the value of NAME in its sources.
    - "time": in the order of the store; the last episodes are held out.
    - "time:NAME": in the order of NAME in the sources, a number or a sortable text such as a date.

    Args:
        store: at least 4 episodes, or 4 different values of the key.
        rule: one of the above; None for `Store.split_rule`.
        seed: of the draw; the time rules draw nothing.

    Raises:
        InputError: the rule is unknown.
        UnknownNameError: no source has the key.
        DataError: an episode lacks the key, its values cannot be ordered, or there are fewer than 4 groups.
    """
    rule = store.split_rule if rule is None else rule
    kind, _, key = rule.partition(":")
    short = {finding.episode for finding in too_short(store)}
    sources = {number: entry.source for number, entry in enumerate(store.entries()) if number not in short}
    draw, single = np.random.default_rng(seed), [[number] for number in sources]
    noun = "long episodes" if short else "episodes"
    if rule == "episode":
        recordings = _groups(sources, _recording)
        if len(recordings) == len(sources):
            return _assign(single, draw, f"episodes at random, seed {seed}", noun)
        if len(recordings) >= FEW:
            return _assign(recordings, draw, f"recordings at random, seed {seed}", "recordings")
        return _in_order(list(sources))
    if rule == "time":
        return _assign(single, None, "in the order of the store", noun)
    if kind not in ("key", "time") or not key:
        raise InputError(
            f"split is {rule!r}. Use 'episode', 'time', 'time:NAME' or 'key:NAME', where NAME is a key of the sources."
        )
    _require_key(store, sources, key)
    if kind == "key":
        groups = _groups(sources, lambda _, source: source[key])
        return _assign(groups, draw, f"by {key} at random, seed {seed}", f"values of {key!r}")
    if len({isinstance(source[key], str) for source in sources.values()}) > 1:
        raise DataError(f"{key!r} is text in some sources and a number in others", fix="Log one type only.")
    order = sorted(sources, key=lambda number: (sources[number][key], number))
    return _assign([[number] for number in order], None, f"in the order of {key}", noun)


def _recording(number: int, source: Source) -> object:
    """What the pieces of a recording have in common; an episode that was not cut has nothing in common with others."""
    return (source.get("file"), source.get("label")) if PIECE in source else number


def _groups(sources: Mapping[int, Source], key: Callable[[int, Source], object]) -> list[list[int]]:
    """The episodes with the same key."""
    groups: dict[object, list[int]] = {}
    for number, source in sources.items():
        groups.setdefault(key(number, source), []).append(number)
    return list(groups.values())


def _in_order(pieces: Sequence[int]) -> Split:
    """Pieces in the order of the store, with a piece left out between two parts."""
    if len(pieces) < MIN_GAPPED:
        return _assign([[number] for number in pieces], None, "pieces in the order of the store", "pieces")
    size = max(2, round(PART_SHARE * (len(pieces) - 3)))
    ends = [len(pieces) - (size + 1) * number for number in (3, 2, 1)]
    parts = [(0, ends[0]), *((end + 1, end + 1 + size) for end in ends)]
    train, *others = (tuple(pieces[start:stop]) for start, stop in parts)
    rule = "pieces in the order of the store, with gaps"
    return Split(train=train, **dict(zip(_OTHERS, others, strict=True)), rule=rule)


def _require_key(store: Store, sources: Mapping[int, Source], key: str) -> None:
    """Checks that every source has a key."""
    without = [number for number, source in sources.items() if key not in source]
    if len(without) == len(sources):
        raise UnknownNameError("key of the sources", key, {name for source in sources.values() for name in source})
    if without:
        fix = "Split by another key, or log this key for every episode."
        raise DataError(f"the source has no {key!r}", fix=fix, file=store.path, episode=without[0])


def _assign(groups: Sequence[Sequence[int]], generator: np.random.Generator | None, rule: str, noun: str) -> Split:
    """Assigns groups of episodes to the four parts; without a generator in order: training first, held out last."""
    if len(groups) < MIN_EPISODES:
        counted = f"{len(groups)} {noun.removesuffix('s') if len(groups) == 1 else noun}"
        problem = f"{counted} cannot be split into training, validation, calibration and held-out parts"
        raise DataError(
            problem, fix=f"At least {MIN_EPISODES} {noun} are needed; about 50 give reliable figures. {CUT}"
        )
    single = max(map(len, groups)) == 1  # calibration and figures need two episodes
    size = max(2 if single and len(groups) >= FEW else 1, round(PART_SHARE * len(groups)))
    numbers = np.arange(len(groups))  # np.roll moves the last groups to the front, where the parts are cut
    order = np.roll(numbers, 3 * size) if generator is None else generator.permutation(len(groups))
    parts = np.split(order, [size, 2 * size, 3 * size])
    members = {
        name: tuple(sorted(number for group in part.tolist() for number in groups[group]))
        for name, part in zip((*_OTHERS, "train"), parts, strict=True)
    }
    return Split(**members, rule=rule)
