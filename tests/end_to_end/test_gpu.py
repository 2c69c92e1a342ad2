"""Bundles, trainings and checkpoints on a real GPU; run with `make gpu`. `test_devices` simulates a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.end_to_end.test_devices import assert_checkpoint_moves, small_steps, toy_logs
from tests.golden.answers import BUNDLES
from tests.golden.make import SPECS, small
from tests.golden.test_golden import NAMES, answers_of, differences

from worldline.device import choose_device
from worldline.workflows.training import learn_world

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_answers_as_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)  # the answers of the CPU are in float32 too
    here, there = (answers_of(BUNDLES / name, name, device) for device in ("cuda", "cpu"))
    assert differences(here, there, tolerance=1e-3) == []


@pytest.mark.parametrize("name", sorted(SPECS.keys() - {"features"}))
def test_a_family_is_learned(name: str, tmp_path: Path) -> None:
    store = toy_logs(SPECS[name], tmp_path / "logs")
    recipe = small_steps(small(SPECS[name], None)(store))
    learned = learn_world(store, recipe, folder=tmp_path / "run", device=choose_device("cuda"))
    assert {value.device.type for value in learned.engine.model.state_dict().values()} == {"cuda"}
    assert np.isfinite(learned.trained.control)


def test_a_checkpoint_moves_between_devices(tmp_path: Path) -> None:
    assert_checkpoint_moves(tmp_path, choose_device("cuda"))
