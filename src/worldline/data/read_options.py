"""What a user tells the import about logs: options of reading, and corrections of the inferred schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worldline.errors import InputError

SchemaEdits = Mapping[str, Mapping[str, Any]]
"""Fields by signal, such as {"heater": {"role": "action", "low": 0}}; see `worldline.data.schema_edits`."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Settings for reading logs. Formats without timestamped rows accept only `action_lag`.

    Args:
        episode: column with the episode of each row. Default: by name.
        time: column with times. Default: by name.
        gap_s: gap in seconds that ends an episode. Default: ten typical steps.
        rate_hz: resample to this number of steps per second, with the last value at or before each time. Default: no
            resampling.
        max_steps: cut longer episodes into this number of steps. Default: whole.
        action_lag: steps by which the logs hold actions too late: 1 if a row holds the action that led to its
            measurements. -1 if a row holds the action that is applied one row later. The actions are moved, and each
            episode becomes shorter by this number of steps. Default: as in the store, else 0.
    """

    episode: str | None = None
    time: str | None = None
    gap_s: float | None = None
    rate_hz: float | None = None
    max_steps: int | None = field(default=None, metadata={"option": {"min": 1}})
    action_lag: int | None = None

    def __post_init__(self) -> None:
        for name in ("gap_s", "rate_hz", "max_steps"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}. It must be a positive number.")
