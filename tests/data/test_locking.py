from __future__ import annotations

import re
from pathlib import Path

import pytest

import worldline
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


def test_no_module_needs_fcntl_to_be_imported() -> None:
    """Windows has none."""
    for path in Path(worldline.__file__).parent.rglob("*.py"):
        assert not re.search(r"^(import|from) fcntl", path.read_text(), re.MULTILINE), path
