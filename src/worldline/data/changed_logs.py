"""Logs whose episodes are changed after they are read, and the move of their actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        super().__init__(
            logs.schema, (*logs.unclear, *unclear), max_error=logs.max_error, notes={**logs.notes, **notes}
        )
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


def is_regular(episode: Episode) -> bool:
    """Whether all signals have the number of rows of their role."""
    rows = {np.shape(values)[:1] for group in (episode.observations, episode.observed) for values in group.values()}
    inputs = (episode.actions, episode.exogenous, episode.rewards)
    steps = {np.shape(values)[:1] for group in inputs for values in group.values()}
    return rows == {(episode.num_steps + 1,)} and steps == {(episode.num_steps,)}
