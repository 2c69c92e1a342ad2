"""Findings about the signals of a log: stuck sensors and outliers, and facts that may be intended as notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, note
from worldline.data.quality.false_alarms import MAX_FINDINGS, few
from worldline.data.quality.log_figures import LogFigures
from worldline.data.quality.sensors import outliers, stuck_sensors
from worldline.schema import Role

MIN_OBSERVED: Final = 0.5
"""Smallest share of steps in which a signal is usually observed."""


class Inspection(LogFigures):
    """Collects figures of episodes one by one; see `LogFigures`."""

    def findings(self) -> tuple[Finding, ...]:
        """All findings. An error only if nothing can be learned, else warnings and notes."""
        if not self.episodes:
            return ()
        tests = [*outliers(self).findings(), *stuck_sensors(self).findings()]
        return (*tests, *_constant(self), *_masks(self), *_images(self), *_copies(self))


def _constant(log: LogFigures) -> Iterator[Finding]:
    """Components that never change in the whole log; errors if no action or no observation changes."""
    table = log.table
    low, high = np.where(table["num_rows"], table["low"], np.inf), np.where(table["num_rows"], table["high"], -np.inf)
    constant = low.min(1) == high.max(1)
    for signal in dict.fromkeys(column.signal for column in log.columns if column.signal.role is not Role.REWARD):
        every = [at for at, column in enumerate(log.columns) if column.signal is signal]
        if which := [at for at in every if constant[at]]:
            parts = "it" if which == every else ", ".join(log.columns[at].subject for at in which)
            values = ", ".join(f"{low[at].min():g}" for at in which[:MAX_FINDINGS])
            fix = "Remove it from the schema, unless it will vary where the world is used."
            if signal.role is Role.ACTION:
                fix = "Log episodes in which it varies: the effect of an action that never changes cannot be learned."
            yield note(problem=f"{parts} never changes (always {values})", fix=fix, signal=signal.name)
    actions = [at for at, column in enumerate(log.columns) if column.signal.role is Role.ACTION]
    if actions and constant[actions].all():
        fix = "Log episodes in which the actions vary, or give signals that are not chosen the role exogenous."
        yield Finding(problem="no action ever changes, so the effect of actions cannot be learned", fix=fix)
    seen = [at for at, column in enumerate(log.columns) if column.signal.role is Role.OBSERVATION]
    images_move = any(figures.moves for episodes in log.cameras.values() for figures in episodes)
    if not images_move and not (table["changes"][seen] > 0).any():
        fix = "Log episodes in which an observation changes, or correct the roles of the signals."
        yield Finding(problem="no observation ever changes within an episode, so nothing can be predicted", fix=fix)


def _masks(log: LogFigures) -> Iterator[Finding]:
    """Signals that are missing in most steps."""
    for name, missing in sorted(log.num_missing.items()):
        share = 1 - missing / (sum(log.num_steps) + len(log.episodes))
        if share < MIN_OBSERVED:
            fix = "Check its rate and its clock, or leave it out."
            yield note(problem=f"it was observed in only {100 * share:.0f} % of the steps", fix=fix, signal=name)


def _episode_list(log: LogFigures, chosen: NDArray[np.generic]) -> tuple[str, int]:
    """Words for some episodes, and the first of them."""
    numbers = np.array(log.episodes)[chosen.astype(np.bool_)].tolist()
    listed = ", ".join(map(str, numbers[:MAX_FINDINGS])) + (", ..." if len(numbers) > MAX_FINDINGS else "")
    return f"{len(numbers)} of {len(log.episodes)} episodes ({listed})", numbers[0]


def _images(log: LogFigures) -> Iterator[Finding]:
    """Cameras with images that are black or of one colour, or that never change in an episode while signals do."""
    moves = (log.table["changes"] > 0).any(0)
    for name, episodes in log.cameras.items():
        if (frozen := moves & ~np.array([figures.moves for figures in episodes])).any():
            where, first = _episode_list(log, frozen)
            fix = "The camera froze, or does not see any motion: leave out these episodes, or the camera."
            problem = f"the image never changes while other signals do, in {where}"
            yield note(problem=problem, fix=fix, signal=name, episode=first)
        blank = np.array([len(figures.blank) for figures in episodes])
        if blank.any():
            where, first = _episode_list(log, blank)
            share = 100 * blank.sum() / sum(figures.num for figures in episodes)
            problem = f"{blank.sum()} images ({share:.1f} %) are black or of one single colour, in {where}"
            step = int(episodes[int(np.flatnonzero(blank)[0])].blank[0])
            fix = "Mark them as missing, or leave these episodes out."
            yield note(problem=problem, fix=fix, signal=name, episode=first, step=step)


def _copies(log: LogFigures) -> list[Finding]:
    """Duplicate episodes, which a random split can put into both training and test data."""
    first, findings = dict[bytes, int](), list[Finding]()
    for number, digest in zip(log.episodes, log.digests, strict=True):
        if (other := first.setdefault(digest, number)) != number:
            fix = "Keep one of the two, or put both into the same part of the split."
            findings.append(note(problem=f"it is an exact copy of episode {other}", fix=fix, episode=number))
    return few(findings)
