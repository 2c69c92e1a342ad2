from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.world.tiny import CALM, _jepa, _rssm

from worldline.engines.learned import LearnedEngine
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.candidate_memory import measure_candidate_bytes
from worldline.world.local import LocalWorld

Make = Callable[..., LearnedEngine]

HORIZON = 30
EPISODES = CALM.episodes(2, 40, seed=0)
STATUS = Path("/proc/self/status")


def resident_bytes(field: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def real_bytes(make: Make, num_candidates: int) -> float:
    """Growth of the resident memory at its peak, per candidate that is scored."""
    world = LocalWorld(make(CALM.schema, ("position",)), None, CrossEntropy())
    pushes = np.zeros((num_candidates, HORIZON, 2), np.float32)
    goal = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 1.0})
    world.score(EPISODES[0].history(3, 4), {"push": pushes[:2]}, goal)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes("VmRSS")
    world.score(EPISODES[0].history(3, 4), {"push": pushes}, goal)
    return (resident_bytes("VmHWM") - before) / num_candidates


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("make", "num_candidates"), [(_jepa, 8_000), pytest.param(_rssm, 1_500, marks=pytest.mark.slow)]
)
def test_the_figure_is_right_within_a_factor_of_four(make: Make, num_candidates: int) -> None:
    with torch.random.fork_rng(devices=[]):
        engine = make(CALM.schema, ("position",))
    found = measure_candidate_bytes(engine, EPISODES, horizon=HORIZON)
    # A fresh process has no freed memory that could be used again.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        real = fresh.submit(real_bytes, make, num_candidates).result(timeout=120)
    assert real / 4 < found < 4 * real


def test_it_grows_with_the_horizon() -> None:
    engine = _jepa(CALM.schema, ("position",))
    short, long = (measure_candidate_bytes(engine, EPISODES, horizon=horizon) for horizon in (5, 30))
    assert 3 * short < long < 9 * short


def test_the_card_states_it() -> None:
    world = LocalWorld(_jepa(CALM.schema, ("position",)), None, CrossEntropy(), bytes_per_candidate=12_345)
    assert world.describe().bytes_per_candidate == 12_345
    assert replace(world, bytes_per_candidate=0).describe().bytes_per_candidate == 0
