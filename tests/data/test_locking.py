from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from worldline.data.fsync import locked
from worldline.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def test_a_lock_that_is_held_is_refused_without_waiting_and_free_after_an_error(file: Path) -> None:
    def failing() -> None:
        with locked(file):
            with pytest.raises(InputError, match="busy"), locked(file, busy="busy"):
                pass
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        failing()
    with locked(file, busy="busy"):
        pass


STORE_WITHOUT_FCNTL = """
    import sys
    sys.modules["fcntl"] = None
    import worldline.data.importing, worldline.data.store, worldline.catalog.aliases
"""


def test_stores_and_catalogs_are_imported_without_fcntl() -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(STORE_WITHOUT_FCNTL)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
