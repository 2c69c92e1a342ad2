from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.world.tiny import CALM, _jepa, _learned

from worldline.engines.learned import LearnedEngine
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.predictors import GruPredictorConfig
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.call_cost import candidate_bytes
from worldline.world.local import LocalWorld

HORIZON = 30
ROOMS = TwoRooms("random")
WALK = explore(ROOMS, 0, 8)
STATUS = Path("/proc/self/status")


def pixels() -> LearnedEngine:
    predictor = GruPredictorConfig(width=512, memory_size=128)
    config = JepaConfig(inputs=("camera",), latent_size=128, predictor=predictor)
    engine = _learned(Jepa(schema=ROOMS.schema, config=config), ROOMS.schema, ("camera",), 256)
    corrected = Readout(ReadoutConfig(latent_size=256, signals=engine.readout.config.signals))
    torch.nn.init.ones_(corrected.layers[-1].weight)
    return replace(engine, heads=engine.heads | {Readout.name: corrected.eval().requires_grad_(False)})


def resident_bytes(field: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def real_bytes(num_candidates: int) -> float:
    """Growth of the resident memory at its peak, per candidate that is scored."""
    world = LocalWorld(pixels(), None, CrossEntropy())
    moves = np.zeros((num_candidates, HORIZON, 2), np.float32)
    goal = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 1.0})
    world.score(WALK.history(3, 4), {"move": moves[:2]}, goal)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes("VmRSS")
    world.score(WALK.history(3, 4), {"move": moves}, goal)
    return (resident_bytes("VmHWM") - before) / num_candidates


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_estimate_is_right_within_a_factor_of_four() -> None:
    with torch.random.fork_rng(devices=[]):
        estimate = candidate_bytes(pixels(), horizon=HORIZON)
    # A fresh process has no freed memory that could be used again.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        real = fresh.submit(real_bytes, 600).result(timeout=120)
    assert real / 4 < estimate < 4 * real


def test_the_card_states_it() -> None:
    world = LocalWorld(_jepa(CALM.schema, ("position",)), None, CrossEntropy(), bytes_per_candidate=12_345)
    assert world.describe().bytes_per_candidate == 12_345
    assert replace(world, bytes_per_candidate=0).describe().bytes_per_candidate == 0
