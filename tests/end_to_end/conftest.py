"""The engines of a package of its own, as a user would install it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.installed import installed

PLUGIN = Path(__file__).parents[1] / "engine_plugin"


@pytest.fixture(scope="module")
def engine_plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that `worldline_nearest` is installed in."""
    with installed(PLUGIN, tmp_path_factory.mktemp("plugin"), "worldline_nearest") as folder:
        yield folder
