"""Worlds in forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_answers_or_raises_but_never_hangs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.adversarial.forked_worlds", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "OK\n", done.stderr
