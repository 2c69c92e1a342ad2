"""Which repairs of a store are certain, and how they change an episode.

Rows and episodes of a repair are those of the old store. An episode is repaired in this order: units and columns,
masks, and then its cuts: steps that are lost, and the lag of the actions in each part between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import PIECE
from worldline.data.checks import Finding, FindingKind, Place
from worldline.data.conversion import with_moved_actions
from worldline.data.formats.reading import held
from worldline.data.index import Source
from worldline.data.quality.shifted_parts import shifted_part
from worldline.data.quality.transition_model import ComponentName, StepTable, TransitionModel
from worldline.data.quality.unit_changes import UnitCorrection, correction_at
from worldline.data.store import Store
from worldline.episode import Arrays, Episode
from worldline.formatting import first_of, plural
from worldline.workflows.check import CheckReport

Booleans = NDArray[np.bool_]
Steps = NDArray[np.int64]

USUAL_GAPS: Final = 10
"""An episode ends where a step takes more than this many usual steps, as in an import of tables."""
MIN_RUN: Final = 3
"""Rows at an end of the range that count as a saturated stretch."""
MAX_LOST: Final = 0.25
"""Largest share of an episode that may be lost because it is uncertain where its actions are shifted."""
NEAR: Final = 0.1
"""Distance of two dates that count as equal, as a share of the episodes."""


class RepairKind(StrEnum):
    """What a repair does."""

    SPLIT = "split"
    SHIFT = "shift back"
    CONVERT = "convert"
    MASK = "mask"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One change of a log.

    Args:
        kind: what it does.
        signal: that is changed; None if it concerns all signals or the actions.
        places: episodes and rows.
        before: the state of the old store, with figures.
        after: the state of the new store, with figures.
    """

    kind: RepairKind
    signal: str | None = None
    places: tuple[Place, ...]
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class LeftAlone:
    """A finding that is not repaired.

    Args:
        problem: what is wrong.
        reason: why it is not repaired, or what the user can do.
        signal: the signal's name.
        episode: number in the old store.
    """

    problem: str
    reason: str
    signal: str | None = None
    episode: int | None = None


class RepairPlan:
    """The certain repairs of a store, and the findings that are left alone.

    Args:
        store: to repair; nothing is written to it.
        report: of its check.
        delay: known response delay of the system in steps.
    """

    def __init__(self, store: Store, report: CheckReport, delay: int) -> None:
        self.store, self.delay, self.lag = store, delay, 0
        self.repairs, self.left_alone = list[Repair](), list[LeftAlone]()
        self._report = report
        self._masks: dict[int, list[tuple[str, slice]]] = defaultdict(list)
        self._corrections = list[UnitCorrection]()
        self._lags: dict[int, Steps] = {}
        self._lost: dict[int, Booleans] = {}

    def mask_stuck(self) -> None:
        """Masks the rows in which sensors were stuck."""
        found: dict[str, list[Place]] = defaultdict(list)
        for one in self._of(FindingKind.STUCK):
            found[one.signal or ""] += one.places
        for name, places in found.items():
            value = self._value_at(name, places[0])
            self._mask(name, places, f"stuck, the first at {value:.4g} in {_rows(places[0])}")

    def mask_saturated(self, name: str) -> None:
        """Masks the rows in which a sensor stays at an end of its logged range.

        Args:
            name: of a vector observation.
        """
        tables = [self._seen(name, number) for number in range(len(self.store))]
        low = np.nanmin([np.nanmin(one, axis=0, initial=np.inf) for one in tables], axis=0)
        high = np.nanmax([np.nanmax(one, axis=0, initial=-np.inf) for one in tables], axis=0)
        places = [
            Place(episode=number, start=start, stop=stop, component=component)
            for number, one in enumerate(tables)
            for component in range(one.shape[1])
            for end in (low, high)
            for start, stop in _runs(one[:, component] == end[component])
            if stop - start >= MIN_RUN
        ]
        if places:
            ends = f"{low.min():.4g} or {high.max():.4g}"
            self._mask(name, places, f"saturated at {ends}, the first in {_rows(places[0])}")

    def convert(self, names: Sequence[ComponentName], tables: Sequence[StepTable]) -> list[StepTable]:
        """Undoes changes of units and swaps of columns; returns the corrected tables.

        Args:
            names: of the components in the tables.
            tables: of the log, by episode.
        """
        tables, near = list(tables), max(3.0, NEAR * len(tables))
        groups = list[list[Finding]]()
        for one in sorted(self._of(FindingKind.CHANGED), key=lambda one: one.episode or 0):
            if groups and (one.episode or 0) - (groups[-1][0].episode or 0) <= near:
                groups[-1].append(one)
            else:
                groups.append([one])
        for group in groups:
            signals = [one.signal or "" for one in group]
            found = correction_at(tables, names, signals, group[0].episode or 0)
            if isinstance(found, str):
                self.left_alone += [_left(one, f"Not certain: {found}.") for one in group]
                continue
            self._corrections.append(found)
            corrected = [
                replace(one, states=found.undone(one.states, names)) if one.number >= found.episode else one
                for one in tables
            ]
            self.repairs.append(_conversion(found, len(self.store), names, tables, corrected))
            tables = corrected
        return tables

    def shift_all(self) -> None:
        """Moves the actions of the whole log back."""
        found = self._report.alignment
        lag = 0 if found is None or not found.shift else found.shift + self.delay
        if lag < 0:
            problem = f"actions lead by {plural(-lag, 'step')}"
            reason = "It may be a dead time of the system. If it is not, import the store with --action-lag."
            self.left_alone.append(LeftAlone(problem=problem, reason=reason))
        if lag <= 0:
            return
        self.lag, count = lag, len(self.store)
        self.repairs.append(
            Repair(
                kind=RepairKind.SHIFT,
                places=tuple(Place(episode=number, lag=lag) for number in range(count)),
                before=f"actions lag by {plural(lag, 'row')} in the whole log",
                after=f"moved back; each episode loses {plural(lag, 'row')} at its end",
            )
        )

    def shift_parts(self, tables: Sequence[StepTable]) -> None:
        """Moves the actions of parts of episodes back.

        Args:
            tables: of the log, with corrected units.
        """
        if not (findings := self._of(FindingKind.SHIFTED)):
            return
        model, by_number = TransitionModel(tables), {one.number: one for one in tables}
        for finding in findings:
            places, doubtful, lost = list[Place](), list[int](), 0
            for place in finding.places:
                number, table = place.episode, by_number[place.episode]
                num_steps = int(self.store.num_steps[number])
                part = shifted_part(model, table, place.lag) if len(table.actions) == num_steps else None
                unsure = 0 if part is None else int(np.ptp(part.begin) + np.ptp(part.end))
                if part is None or unsure > MAX_LOST * num_steps:
                    doubtful.append(number)
                    continue
                self._lags_of(number)[part.begin[1] : part.end[0]] += place.lag
                for first, last in (part.begin, part.end):
                    self._lost_of(number)[first:last] = True
                places.append(replace(place, start=part.begin[1], stop=part.end[0]))
                lost += unsure + abs(place.lag)
            if doubtful:
                problem = f"shifted actions in {_episodes(doubtful)}"
                self.left_alone.append(LeftAlone(problem=problem, reason="Not certain: where they begin is unclear."))
            if places:
                words = "late" if places[0].lag > 0 else "early"
                which = _episodes([one.episode for one in places])
                self.repairs.append(
                    Repair(
                        kind=RepairKind.SHIFT,
                        places=tuple(places),
                        before=f"actions one row too {words} in a part of {which}, the first in {_rows(places[0])}",
                        after=f"moved back; {plural(lost, 'step')} at the ends of these parts are left out",
                    )
                )

    def split(self) -> None:
        """Splits episodes where recordings were joined or the clock jumps."""
        joined = [place for one in self._of(FindingKind.JOINED) for place in one.places]
        jumps = [
            Place(episode=number, start=int(step) + 1)
            for number in range(len(self.store) if self.store.has_step_s() else 0)
            for step in self._clock_jumps(number)
        ]
        for places, words in ((joined, "all observations jump at once"), (jumps, "the clock jumps")):
            for place in places:
                self._lost_of(place.episode)[place.start - 1] = True
            if places:
                first = f"row {places[0].start} of episode {places[0].episode}"
                self.repairs.append(
                    Repair(
                        kind=RepairKind.SPLIT,
                        places=tuple(places),
                        before=f"{words} in {_episodes([one.episode for one in places])}, the first at {first}",
                        after=f"split there; {plural(len(places), 'step')} between two recordings are left out",
                    )
                )

    def leave_others(self) -> None:
        """Lists the findings that no repair is for."""
        for one in self._report.findings:
            at = -1 if one.episode is None else one.episode
            is_converted = any(at >= it.episode and one.signal == it.first.signal for it in self._corrections)
            if one.kind is None and not is_converted:
                self.left_alone.append(_left(one, one.fix))

    def repaired(self, number: int) -> Iterator[tuple[Episode, Source]]:
        """The repaired parts of an episode with their sources; one part if it is not cut.

        Args:
            number: of the episode in the old store.

        Raises:
            DataError: the episode is damaged.
        """
        episode, source = self.store.verify(number), self.store.entry(number).source
        for correction in self._corrections:
            if number >= correction.episode:
                episode = _corrected(episode, correction)
        episode = _masked(episode, self._masks.get(number, []))
        lags, lost = self._lags_of(number), self._lost_of(number)
        parts = [
            (start, stop)
            for start, stop in _runs(~lost, np.flatnonzero(np.diff(lags)) + 1)
            if stop - start > abs(int(lags[start]))
        ]
        for piece, (start, stop) in enumerate(parts):
            part = episode.window(start, stop + 1) if (start, stop) != (0, episode.num_steps) else episode
            lag = int(lags[start])
            origin = dict(source)
            if len(parts) > 1 or lost.any():
                origin.setdefault("label", f"episode {number}")
                origin[PIECE] = f"{origin[PIECE]}.{piece}" if PIECE in origin else piece
            yield with_moved_actions(part, lag) if lag else part, origin

    def _of(self, kind: FindingKind) -> list[Finding]:
        return [one for one in self._report.findings if one.kind is kind]

    def _mask(self, name: str, places: Sequence[Place], what: str) -> None:
        count = sum((place.stop or 0) - place.start for place in places)
        for place in places:
            self._masks[place.episode].append((name, slice(place.start, place.stop)))
        self.repairs.append(
            Repair(
                kind=RepairKind.MASK,
                signal=name,
                places=tuple(places),
                before=what,
                after=f"{plural(count, 'row')} of {_episodes([place.episode for place in places])} masked as missing",
            )
        )

    def _seen(self, name: str, number: int) -> NDArray[np.float64]:
        """The values [T+1, C] of an observation, NaN if missing."""
        rows = int(self.store.num_steps[number]) + 1
        table = self.store.read(name, number, 0, rows).reshape(rows, -1).astype(np.float64)
        table[~self.store.observed(name, number, 0, rows)] = np.nan
        return table

    def _value_at(self, name: str, place: Place) -> float:
        row = self.store.read(name, place.episode, place.start, place.start + 1).reshape(-1)
        return float(row[place.component or 0])

    def _clock_jumps(self, number: int) -> Steps:
        """The steps that take much longer than usual."""
        gaps = self.store.step_s(number, 0, int(self.store.num_steps[number]))
        return np.empty(0, np.int64) if gaps is None else np.flatnonzero(gaps > USUAL_GAPS * np.median(gaps))

    def _lags_of(self, number: int) -> Steps:
        return self._lags.setdefault(number, np.full(int(self.store.num_steps[number]), self.lag, np.int64))

    def _lost_of(self, number: int) -> Booleans:
        return self._lost.setdefault(number, np.zeros(int(self.store.num_steps[number]), np.bool_))


def _left(one: Finding, reason: str) -> LeftAlone:
    return LeftAlone(problem=one.problem, reason=reason, signal=one.signal, episode=one.episode)


def _episodes(numbers: Sequence[int]) -> str:
    distinct = sorted(set(numbers))
    return f"{plural(len(distinct), 'episode')} ({first_of(list(map(str, distinct)))})"


def _rows(place: Place) -> str:
    return f"rows {place.start} to {(place.stop or 1) - 1} of episode {place.episode}"


def _runs(inside: Booleans, cuts: Steps | None = None) -> list[tuple[int, int]]:
    """The first index and the end of each run of True; a run also ends at each of `cuts`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    found = []
    for start, stop in edges.reshape(-1, 2).tolist():
        inner = [] if cuts is None else [cut for cut in cuts.tolist() if start < cut < stop]
        found += list(zip([start, *inner], [*inner, stop], strict=True))
    return found


def _conversion(
    found: UnitCorrection,
    count: int,
    names: Sequence[ComponentName],
    old: Sequence[StepTable],
    new: Sequence[StepTable],
) -> Repair:
    """The record of a correction, with the medians before and after it."""
    at = names.index(found.first)

    def median(tables: Sequence[StepTable], later: bool) -> float:
        return float(
            np.median(np.concatenate([t.states[:, at] for t in tables if (t.number >= found.episode) == later]))
        )

    if found.second is not None:
        what = f"swapped back with {found.second}"
    elif found.factor == -1 and not found.offset:
        what = "the sign is changed back"
    else:
        minus = f"minus {found.offset:g}, " if found.offset else ""
        what = f"{minus}divided by {found.factor:.6g}"
    return Repair(
        kind=RepairKind.CONVERT,
        signal=found.first.signal,
        places=tuple(Place(episode=number, component=found.first.index) for number in range(found.episode, count)),
        before=f"{found.first}: median {median(old, False):.4g} before episode {found.episode}, "
        f"{median(old, True):.4g} from it on",
        after=f"{what}; median {median(new, True):.4g} from episode {found.episode} on",
    )


def _corrected(episode: Episode, correction: UnitCorrection) -> Episode:
    """The episode with a correction undone."""
    names = [correction.first] if correction.second is None else [correction.first, correction.second]
    tables = {one.signal: _flat(episode.observations, one.signal).copy() for one in names}
    states = np.stack([tables[one.signal][:, one.index] for one in names], 1).astype(np.float64)
    for column, one in zip(correction.undone(states, names).T, names, strict=True):
        tables[one.signal][:, one.index] = column
    values = {name: table.reshape(episode.observations[name].shape) for name, table in tables.items()}
    observed = dict(episode.observed)
    if len(tables) == 2:  # a row is observed if all its components are; those of the other signal moved here
        known = [observed.get(name, np.ones(len(states), np.bool_)).astype(np.bool_) for name in tables]
        for (name, table), own, other in zip(tables.items(), known, known[::-1], strict=True):
            if name in episode.observed or not other.all():
                observed[name] = other if table.shape[1] == 1 else own & other
    return replace(episode, observations={**episode.observations, **values}, observed=observed)


def _flat(arrays: Arrays, name: str) -> NDArray[np.generic]:
    return arrays[name].reshape(len(arrays[name]), -1)


def _masked(episode: Episode, masks: Sequence[tuple[str, slice]]) -> Episode:
    """The episode with rows marked as missing; their values are those of the last known row."""
    observed, values = dict(episode.observed), dict(episode.observations)
    for name, rows in masks:
        known = observed.get(name, np.ones(episode.num_steps + 1, np.bool_)).astype(np.bool_)
        known[rows] = False
        observed[name] = known
    for name in {name for name, _ in masks}:
        values[name] = held(values[name], observed[name].astype(np.bool_))
    return replace(episode, observations=values, observed=observed)
