from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from worldline.data.fsync import locked
from worldline.errors import InputError

HOLDER = """
    import sys, time
    from pathlib import Path
    from worldline.data.fsync import locked
    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


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


def test_a_process_that_is_killed_releases_its_lock(file: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="busy"), locked(file, busy="busy"):
            pass
        process.kill()
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
