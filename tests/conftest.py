"""Settings for every test: as many threads as there are free cores, and repeatable hypothesis runs under CI."""

from __future__ import annotations

import os

import hypothesis
import torch


def _free_cores() -> int:
    """Cores that nobody else is using just now, at least 1."""
    return max(1, (os.cpu_count() or 1) - round(os.getloadavg()[0]))


torch.set_num_threads(min(torch.get_num_threads(), _free_cores()))
# Time limits for an example say more about the neighbours on the machine than about the code.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "local")
