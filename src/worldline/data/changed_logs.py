"""Logs whose episodes are changed after they are read, and the move of their actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from worldline.data.base import ACTION_LAG, LoggedEpisode, Logs, noted_lag
from worldline.data.checks import warning
from worldline.data.conversion import with_moved_actions
from worldline.episode import Episode
from worldline.formatting import plural


class ChangedLogs(Logs):
    """Logs whose episodes are changed after they are read.

    Args:
        logs: to read from.
        unclear: sentences about the change, added to those of the logs.
        notes: added to those of the logs.
    """

    def __init__(self, logs: Logs, unclear: Sequence[str], notes: Mapping[str, str]) -> None:
        super().__init__(
            logs.schema, (*logs.unclear, *unclear), max_error=logs.max_error, notes={**logs.notes, **notes}
        )
        self.columns, self.importer, self.origin = logs.columns, logs.importer, logs.origin
        self._logs = logs

    def __len__(self) -> int:
        return len(self._logs)

    @abstractmethod
    def changed(self, logged: LoggedEpisode) -> Iterator[LoggedEpisode]:
        """What becomes of an episode."""

    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order, changed."""
        for logged in self._logs.read():
            yield from self.changed(logged)


class MovedActions(ChangedLogs):
    """Logs with their actions moved to the step that they lead.

    Args:
        logs: to read from.
        lag: steps by which the actions are logged too late; below 0 if too early.
    """

    def __init__(self, logs: Logs, lag: int) -> None:
        by = plural(abs(lag), "step")
        note = f"The actions were moved {by} {'earlier' if lag > 0 else 'later'}, and each episode is {by} shorter."
        super().__init__(logs, (note,), {ACTION_LAG: str(noted_lag(logs.notes) + lag)})
        self._lag = lag

    def changed(self, logged: LoggedEpisode) -> Iterator[LoggedEpisode]:
        """The episode; a warning in its place if no step remains."""
        if logged.episode is None or not is_regular(logged.episode):  # `check_episode` reports it
            yield logged
        elif logged.episode.num_steps <= abs(self._lag):
            steps = plural(logged.episode.num_steps, "step")
            problem = f"the episode has {steps} and is left out: no step remains when its actions are moved"
            finding = warning(
                problem=problem, fix="Nothing to do, if it is no loss.", file=logged.file, episode=logged.number
            )
            yield replace(logged, episode=None, findings=(*logged.findings, finding))
        else:
            yield replace(logged, episode=with_moved_actions(logged.episode, self._lag))


def is_regular(episode: Episode) -> bool:
    """Whether all signals have the number of rows of their role."""
    rows = {np.shape(values)[:1] for group in (episode.observations, episode.observed) for values in group.values()}
    inputs = (episode.actions, episode.exogenous, episode.rewards)
    steps = {np.shape(values)[:1] for group in inputs for values in group.values()}
    return rows == {(episode.num_steps + 1,)} and steps == {(episode.num_steps,)}
