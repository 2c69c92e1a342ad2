"""Damage to files, as disks and downloads do it, for all formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from worldline.data.base import LoggedEpisode
from worldline.data.checks import Severity
from worldline.errors import ConfigError, DataError

FEW = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
DAMAGES = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
"""A place in a file, the bit that flips there, and whether the file ends there instead."""

Damage = tuple[float, int, bool]


def damaged(content: bytes, damage: Damage) -> bytes:
    place, bit, cut = damage
    at, changed = int(place * len(content)), bytearray(content)
    changed[at] ^= 1 << bit
    return content[:at] if cut else bytes(changed)


def damage_file(file: Path, damage: Damage) -> None:
    file.write_bytes(damaged(file.read_bytes(), damage))


def assert_read_or_refused(read: Callable[[Path], list[LoggedEpisode]], path: Path) -> list[LoggedEpisode]:
    """The episodes; none if the logs are refused. Each lost episode must have an error."""
    try:
        logged = read(path)
    except (DataError, ConfigError):
        return []
    for one in logged:
        assert one.episode is not None or any(finding.severity is Severity.ERROR for finding in one.findings)
    return logged
