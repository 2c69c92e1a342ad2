"""Episode, History and Future: T+1 observations, T actions; action t leads from observation t to t+1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Episode", "Future", "History"]

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class History:
    """The past up to the present: H observations and the inputs between them.

    Either all arrays or none have a leading axis of W worlds. A new history has H-1 inputs. A history that continues
    an earlier belief has H inputs; the first one leads to the first observation.

    Args:
        observations: per signal [H, *shape], physical units.
        actions: per signal [H-1, *shape] (or H).
        exogenous: per signal [H-1, *shape] (or H); empty if the schema has none.
        observed: per signal [H] bool, False if the value is missing and must be ignored. An absent name means that
            no value is missing.
    """

    observations: Arrays
    actions: Arrays
    exogenous: Arrays = field(default_factory=dict)
    observed: Arrays = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One logged episode.

    Args:
        observations: per signal [T+1, *shape], physical units.
        actions: per signal [T, *shape].
        exogenous: per signal [T, *shape]: known inputs during step t.
        rewards: per signal [T, *shape].
        observed: per observation signal [T+1] bool; an absent name means that no value is missing.
        terminated: whether the last observation is a terminal state.
        truncated: whether a limit ended the episode.
        seed: the reset seed from which a simulator can replay the episode; None if unknown.
        step_s: [T] float32, duration of each step in seconds; None if all took the schema's `step_s`.
    """

    observations: Arrays
    actions: Arrays
    exogenous: Arrays = field(default_factory=dict)
    rewards: Arrays = field(default_factory=dict)
    observed: Arrays = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = True
    seed: int | None = None
    step_s: NDArray[np.float32] | None = None

    @property
    def num_steps(self) -> int:
        """T, the number of transitions."""
        return len(next(iter(self.observations.values()))) - 1

    def history(self, at: int, length: int) -> History:
        """The `length` observations that end with observation `at`, and the inputs between them.

        Args:
            at: index of the last observation, in [length - 1, T].
            length: H, at least 1.
        """
        first = at - length + 1
        return History(
            observations={k: v[first : at + 1] for k, v in self.observations.items()},
            actions={k: v[first:at] for k, v in self.actions.items()},
            exogenous={k: v[first:at] for k, v in self.exogenous.items()},
            observed={k: v[first : at + 1] for k, v in self.observed.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Future:
    """N candidate sequences of T future inputs.

    Args:
        actions: per signal [W, N, T, *shape].
        exogenous: per signal [W, T, *shape]; empty if the schema has none.
    """

    actions: Arrays
    exogenous: Arrays = field(default_factory=dict)
