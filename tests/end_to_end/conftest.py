"""The worlds of the examples, and the engines of a package of its own, as a user would install it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "engine_plugin"


@pytest.fixture(scope="module")
def engine_plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that `worldline_nearest` is installed in; it is on the path, and leaves no trace."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--quiet", "--target", str(folder / "site"), str(folder / "source")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "site")
        yield folder / "site"
    for name in [name for name in sys.modules if name.partition(".")[0] == "worldline_nearest"]:
        del sys.modules[name]
