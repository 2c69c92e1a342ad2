"""Logs that several recipes share."""

from __future__ import annotations

import pytest

from worldline.data.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """16 episodes of the greenhouse."""
    from greenhouse_logs import record_greenhouse

    return record_greenhouse(tmp_path_factory.mktemp("greenhouse") / "store", num_episodes=16, seed=0)
