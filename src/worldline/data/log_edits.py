"""Edits of logs at their import: episodes are left out or split, observations marked as missing, actions moved."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise
from typing import Final

import numpy as np

from worldline.data.base import ACTION_LAG, PIECE, LoggedEpisode, Logs, noted_lag
from worldline.data.checks import Finding, FindingKind, warning
from worldline.data.conversion import with_moved_actions
from worldline.data.formats.reading import filled
from worldline.data.index import Source
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.formatting import plural
from worldline.schema import NOOP, Role

LOG_EDITS: Final = "log_edits"
"""Name of the note in a store."""
NO_EDITS: Final = "none"
"""Text of an option for logs that are not edited, whatever the edits of the store are."""

_EPISODE, _ROW = r"(\d{1,7})", r"(\d{1,10})"
_FORMS: Final = {
    "drop": (rf"{_EPISODE}(?:-{_EPISODE})?", "EPISODE or FIRST-LAST, such as 12,40-55"),
    "split": (rf"{_EPISODE}@{_ROW}", "EPISODE@ROW, such as 7@310"),
    "mask": (
        rf"(.+?):{_EPISODE}(?:@{_ROW}-{_ROW})?",
        "SIGNAL:EPISODE or SIGNAL:EPISODE@FIRST-LAST, such as temperature:3@100-200",
    ),
}
"""Per option the pattern of one value, and its description."""


@dataclass(frozen=True, kw_only=True)
class MaskedRows:
    """Rows of an observation signal that count as missing in one episode.

    Args:
        signal: its name.
        episode: number in the logs, from 0.
        rows: first and last row, both included, from 0; None for the whole episode.
    """

    signal: str
    episode: int
    rows: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.signal}:{self.episode}" + (f"@{self.rows[0]}-{self.rows[1]}" if self.rows else "")


@dataclass(frozen=True, kw_only=True)
class LogEdits:
    """Edits of logs at their import. Episodes and rows are those of the logs before any edit, counted from 0.

    Args:
        drop: episodes that are left out.
        splits: pairs of an episode and the row at which its next part begins. The step to this row is left out.
        masks: rows of observations that count as missing.
    """

    drop: tuple[int, ...] = ()
    splits: tuple[tuple[int, int], ...] = ()
    masks: tuple[MaskedRows, ...] = ()

    @classmethod
    def parse(
        cls, *, drop: str | Sequence[str] = (), split: str | Sequence[str] = (), mask: str | Sequence[str] = ()
    ) -> LogEdits:
        """The edits in the values of the options of `worldline import`; the text "none" is no edit.

        Args:
            drop: such as "12,40-55".
            split: such as "7@310,7@600".
            mask: such as "temperature:3@100-200", or "temperature:3" for a whole episode.

        Raises:
            InputError: a text has another form.
        """
        ranges = (range(int(first), int(last or first) + 1) for first, last in _values("drop", drop))
        return cls(
            drop=tuple(chain.from_iterable(ranges)),
            splits=tuple((int(episode), int(row)) for episode, row in _values("split", split)),
            masks=tuple(
                MaskedRows(signal=name, episode=int(episode), rows=(int(first), int(last)) if first else None)
                for name, episode, first, last in _values("mask", mask)
            ),
        )

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `worldline import` with these edits, in a fixed order; empty without edits."""
        # Successive numbers have the same distance to their places in the list.
        runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(set(self.drop))), lambda at: at[1] - at[0])]
        texts = {
            "--drop": ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs),
            "--split": ",".join(f"{episode}@{row}" for episode, row in sorted(set(self.splits))),
            "--mask": ",".join(sorted({str(mask) for mask in self.masks})),
        }
        return tuple(part for option, text in texts.items() if text for part in (option, text))


def suggested_edits(findings: Iterable[Finding], num_episodes: int) -> LogEdits:
    """The edits that findings name; episodes that are left out are not edited otherwise.

    Args:
        findings: about a store.
        num_episodes: of the store.
    """
    places = [(finding.kind, finding.signal or "", place) for finding in findings for place in finding.places]
    shifted = {place.episode for kind, _, place in places if kind is FindingKind.SHIFTED}
    changed = min((place.episode for kind, _, place in places if kind is FindingKind.CHANGED), default=num_episodes)
    drop = {*shifted, *range(changed, num_episodes)}
    kept = [part for part in places if part[2].episode not in drop]
    return LogEdits(
        drop=tuple(sorted(drop)),
        splits=tuple((place.episode, place.start) for kind, _, place in kept if kind is FindingKind.JOINED),
        masks=tuple(
            MaskedRows(signal=signal, episode=place.episode, rows=(place.start, place.stop - 1))
            for _, signal, place in kept
            if place.stop is not None
        ),
    )


def edited_logs(logs: Logs, edits: LogEdits) -> Logs:
    """Logs of which episodes are left out or split, and observations are marked as missing.

    Args:
        logs: to read from.
        edits: their episodes and rows are those of `logs`. A wrong row is an `InputError` when its episode is read.

    Raises:
        InputError: the logs have no such episode, a split is at row 0, or a masked signal is no observation.
        UnknownNameError: a masked signal does not exist.
    """
    drop = frozenset(edits.drop)
    splits = {split for split in edits.splits if split[0] not in drop}
    for mask in edits.masks:
        if (role := logs.schema[mask.signal].role) is not Role.OBSERVATION:
            raise InputError(
                f"mask {mask}: {mask.signal!r} has the role {role}, and only observations can be missing. "
                f"Leave the episode out instead: --drop {mask.episode}"
            )
    for number in sorted({*drop, *(number for number, _ in edits.splits), *(mask.episode for mask in edits.masks)}):
        if not 0 <= number < len(logs):
            raise InputError(f"there is no episode {number}. The logs hold {len(logs)}, counted from 0.")
    text = shlex.join(edits.options)
    notes = {LOG_EDITS: " then ".join(filter(None, (logs.notes.get(LOG_EDITS), text))) if text else NO_EDITS}
    unclear = [f"The logs were edited: {text}."] if text else []

    def change(logged: LoggedEpisode) -> Iterator[LoggedEpisode]:
        return iter(()) if logged.number in drop else _edited(logged, edits)

    return ChangedLogs(logs, change, unclear, notes, len(splits) - len(drop))


def _edited(logged: LoggedEpisode, edits: LogEdits) -> Iterator[LoggedEpisode]:
    """The parts of an episode that is kept."""
    number, episode = logged.number, logged.episode
    if episode is None or not is_regular(episode):
        yield logged
        return
    episode, end = _masked(episode, [mask for mask in edits.masks if mask.episode == number]), episode.num_steps + 1
    rows = [0, *sorted({row for part, row in edits.splits if part == number}), end]
    for row in rows[1:-1]:
        if not 0 < row < end:
            raise InputError(f"split {number}@{row}: episode {number} has {end} rows. Give a row from 1 to {end - 1}.")
    for part, (start, stop) in enumerate(pairwise(rows)):
        source = _source_of(logged, part) if len(rows) > 2 else logged.source
        findings = () if part else logged.findings
        yield replace(logged, episode=episode.window(start, stop), source=source, findings=findings)


def _masked(episode: Episode, masks: Sequence[MaskedRows]) -> Episode:
    """The episode with rows marked as missing; their values are those of the last known row."""
    observed, values, end = dict(episode.observed), dict(episode.observations), episode.num_steps + 1
    for mask in masks:
        first, last = mask.rows or (0, end - 1)
        if not 0 <= first <= last < end:
            raise InputError(f"mask {mask}: episode {mask.episode} has the rows 0 to {end - 1}. Give rows among them.")
        known = observed.get(mask.signal, np.ones(end, np.bool_)).astype(np.bool_)
        known[first : last + 1] = False
        observed[mask.signal] = known
        if mask.signal in values:  # else `check_episode` reports it
            values[mask.signal] = filled(values[mask.signal], known)
    return replace(episode, observations=values, observed=observed)


def _source_of(logged: LoggedEpisode, part: int) -> Source:
    """The source of a part: by label and piece, a split of the store keeps the parts of a recording together."""
    if PIECE in logged.source:  # the recording was cut before
        return {**logged.source, PIECE: f"{logged.source[PIECE]}.{part}"}
    return {"label": f"episode {logged.number}", **logged.source, PIECE: part}


def _values(option: str, texts: str | Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The groups of each value of an option; names may contain commas."""
    pattern, form = _FORMS[option]
    value = re.compile(rf"\s*{pattern}\s*(?:,|$)", re.ASCII)
    for text in [texts] if isinstance(texts, str) else texts:
        at = len(text) if text == NO_EDITS else 0
        while at < len(text):
            match = value.match(text, at)
            *_, first, last = match.groups() if match else ("", "")
            if match is None or (option != "split" and last and int(last) < int(first)):
                raise InputError(f"--{option} {text}: expected {form}, got {text[at:]!r}.")
            yield match.groups()
            at = match.end()


class ChangedLogs(Logs):
    """Logs whose episodes are changed after they are read.

    Args:
        logs: to read from.
        change: yields what becomes of an episode.
        unclear: sentences about the change, added to those of the logs.
        notes: added to those of the logs.
        num_more: number of episodes that the change adds; below 0 if it leaves some out.
    """

    def __init__(
        self,
        logs: Logs,
        change: Callable[[LoggedEpisode], Iterator[LoggedEpisode]],
        unclear: Sequence[str],
        notes: Mapping[str, str],
        num_more: int = 0,
    ) -> None:
        notes = {**logs.notes, **notes}
        super().__init__(logs.schema, (*logs.unclear, *unclear), max_error=logs.max_error, notes=notes)
        self.columns, self.importer, self.origin = logs.columns, logs.importer, logs.origin
        self._logs, self._change, self._num_more = logs, change, num_more

    def __len__(self) -> int:
        return len(self._logs) + self._num_more

    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order, changed. One with wrong lengths is unchanged, and `check_episode` reports it."""
        for logged in self._logs.read():
            yield from self._change(logged)


def moved_actions(logs: Logs, lag: int) -> Logs:
    """The logs with their actions moved to the step that they lead.

    Args:
        logs: to read from.
        lag: steps by which the actions are logged too late; below 0 if too early.
    """

    def change(logged: LoggedEpisode) -> Iterator[LoggedEpisode]:
        episode = logged.episode
        if episode is None or not is_regular(episode):
            yield logged
        elif episode.num_steps > abs(lag):
            yield replace(logged, episode=with_moved_actions(episode, lag))
        else:
            steps = plural(episode.num_steps, "step")
            problem = f"the episode has {steps} and is left out: no step remains when its actions are moved"
            fix = "Nothing to do, if it is no loss."
            finding = warning(problem=problem, fix=fix, file=logged.file, episode=logged.number)
            yield replace(logged, episode=None, findings=(*logged.findings, finding))

    by = plural(abs(lag), "step")
    note = f"The actions were moved {by} {'earlier' if lag > 0 else 'later'}, and each episode is {by} shorter."
    return ChangedLogs(logs, change, [note], {ACTION_LAG: str(noted_lag(logs.notes) + lag)})


def with_noop(logs: Logs) -> Logs:
    """The logs with the action `NOOP` in every step; nothing is chosen in them."""

    def change(logged: LoggedEpisode) -> Iterator[LoggedEpisode]:
        if (episode := logged.episode) is not None:
            waits = np.zeros(episode.num_steps, np.int64)
            logged = replace(logged, episode=replace(episode, actions={NOOP.name: waits}))
        yield logged

    note = f"No signal is an action: every step got the action {NOOP.name}, whose only value is {NOOP.components[0]}."
    changed = ChangedLogs(logs, change, [note], {})
    changed.schema = replace(logs.schema, signals=(*logs.schema.signals, NOOP))
    return changed


def is_regular(episode: Episode) -> bool:
    """Whether all signals have the number of rows of their role."""
    rows = {np.shape(values)[:1] for group in (episode.observations, episode.observed) for values in group.values()}
    inputs = (episode.actions, episode.exogenous, episode.rewards)
    steps = {np.shape(values)[:1] for group in inputs for values in group.values()}
    return rows == {(episode.num_steps + 1,)} and steps == {(episode.num_steps,)}
