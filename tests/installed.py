"""Installs a package that lies among the tests as a user would, without a trace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def installed(source: Path, folder: Path, package: str) -> Iterator[Path]:
    """The folder that the package is installed in; it is on the path meanwhile."""
    shutil.copytree(source, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--quiet", "--target", str(folder / "site"), str(folder / "source")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "site")
        yield folder / "site"
    sys.modules.pop(package, None)
