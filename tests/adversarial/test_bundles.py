"""Bundles whose settings are too large, or whose parts do not fit each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.world.tampering import refresh, tamper, tamper_tensors
from tests.world.tiny import CALM, _jepa, _rssm

from worldline.config import replace_at
from worldline.engines.learned import LearnedEngine
from worldline.errors import BundleError, ConfigError
from worldline.models.jepa import Jepa
from worldline.models.layers.predictors import GruPredictorConfig, TransformerPredictorConfig
from worldline.models.layers.standardizer import Standardizer
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Signal
from worldline.world.bundle_io import open_world, save_world
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

PLANNER = CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2)
HUGE, NAN = 10**9, float("nan")


def engine_of(family: str) -> LearnedEngine:
    if family == "rssm":
        return _rssm(CALM.schema, ("position",))
    engine = _jepa(CALM.schema, ("position",))
    predictors = {
        "gru": GruPredictorConfig(width=16, memory_size=6),
        "transformer": TransformerPredictorConfig(width=16, depth=1, num_heads=2),
    }
    if family not in predictors:
        return engine
    config = replace(engine.model.config, predictor=predictors[family])
    return replace(engine, model=Jepa(schema=CALM.schema, config=config))


def saved(folder: Path, family: str = "jepa") -> Path:
    save_world(folder, LocalWorld(engine_of(family), None, PLANNER))
    return folder


TOO_LARGE: list[tuple[str, str, str, int]] = [
    ("transformer", "model.json", "predictor.depth", HUGE),
    ("transformer", "model.json", "predictor.depth", 100_000),
    ("gru", "model.json", "predictor.memory_size", HUGE),
    ("jepa", "model.json", "predictor.width", 2**62),
    ("jepa", "model.json", "latent_size", 100_000),
    ("rssm", "model.json", "num_classes", 100_000),
    ("jepa", "heads/distance.json", "width", HUGE),
    ("jepa", "planner.json", "num_iterations", HUGE),
    ("jepa", "planner.json", "num_iterations", 100_000),
    ("jepa", "card.json", "num_proposals", HUGE),
]
"""Family, file, setting and value."""


def set_to(folder: Path, file: str, setting: str, value: int) -> None:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        *parents, last = setting.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        assert last in inner
        inner[last] = value
        return config

    tamper(folder, file, change)


@pytest.mark.parametrize(("family", "file", "setting", "value"), TOO_LARGE)
def test_settings_that_are_too_large_are_refused(
    tmp_path: Path, family: str, file: str, setting: str, value: int
) -> None:
    """Without the limits some of these build layers or plan for hours; the test would not end."""
    folder = saved(tmp_path / "world", family)
    open_world(folder)
    set_to(folder, file, setting, value)
    with pytest.raises(BundleError, match=rf"{file}.*"):
        open_world(folder)


def test_shortened_inputs_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "world")
    tamper(folder, "card.json", lambda card: {**card, "inputs": []})
    with pytest.raises(BundleError, match="the model takes position"):
        open_world(folder)


# Memory and time


@cache
def bands() -> Calibration:
    return calibrate(engine_of("jepa"), CALM.episodes(12, 8, seed=0), horizon=3, num_windows=1, seed=0)


def calibrated(folder: Path, width: int = 16) -> None:
    """A world with bands; nearly all weights are in one tensor."""
    small = engine_of("jepa")
    config = replace_at(small.model.config, {"predictor.width": width})
    model = Jepa(schema=CALM.schema, config=config).eval().requires_grad_(False)
    save_world(folder, LocalWorld(replace(small, model=model), bands(), PLANNER))


def large(folder: Path) -> None:
    """64 MB, so that a third copy of a tensor exceeds the limit."""
    calibrated(folder, width=4000)


def diverged(folder: Path) -> None:
    large(folder)
    tamper_tensors(
        folder, "model.safetensors", lambda found: max(found.values(), key=torch.Tensor.numel)[-1].fill_(NAN)
    )


def in_calibration(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        calibrated(folder)
        tamper_tensors(folder, "calibration.safetensors", lambda tensors: tensors.update({name: value}))

    return write


def text_of_lists(name: str, num_bytes: int) -> Callable[[Path], None]:
    """JSON that takes up to 40 times as much as Python objects."""

    def write(folder: Path) -> None:
        saved(folder)
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "notes": [[]] * (num_bytes // 4)}))
        if name != "manifest.json":
            refresh(folder, name)

    return write


def header_of_lists(num_bytes: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        saved(folder)
        header = b'{"a":[' + b"[]," * (num_bytes // 3) + b"0]}"
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        refresh(folder, "model.safetensors")

    return write


def empty_tensors(folder: Path) -> None:
    """A deep network with enough tensors, which are empty."""
    saved(folder, "transformer")
    tamper_tensors(
        folder, "model.safetensors", lambda tensors: tensors.update({str(n): torch.zeros(0) for n in range(9_000)})
    )
    set_to(folder, "model.json", "predictor.depth", 90_000)


HEALTHY: dict[str, Callable[[Path], None]] = {
    "small": calibrated,
    "large": large,
    "long residuals": in_calibration("residuals/position", torch.zeros(2**22, 3, 2)),
}
ATTACKS: dict[str, Callable[[Path], None]] = {
    "diverged": diverged,
    "values of one byte": in_calibration("one_step/position", torch.ones(20 * 2**20, dtype=torch.uint8)),
    "large card": text_of_lists("card.json", 10 * 2**20),
    "lists in the card": text_of_lists("card.json", 2**20 - 8000),
    "large manifest": text_of_lists("manifest.json", 2**21),
    "lists in the manifest": text_of_lists("manifest.json", 2**19 - 8000),
    "large header": header_of_lists(2**23),
    "lists in a header": header_of_lists(2**20 - 100),
    "empty tensors": empty_tensors,
}

OPENING = """
import ctypes, gc, json, sys, time
from worldline.errors import BundleError, ConfigError
from worldline.world.bundle_io import open_world

def memory(field):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(field))
    return 1024 * int(line.split()[1])

def opened(folder):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # resets VmHWM
    before, started_s = memory("VmRSS"), time.monotonic()
    try:
        world, error = open_world(folder, device="cpu"), ""
    except BundleError as refused:
        error = str(refused)
    return error, memory("VmHWM") - before, time.monotonic() - started_s

assert opened(sys.argv[-1])  # the first one loads libraries
gc.freeze()
print(json.dumps([opened(folder) for folder in sys.argv[1:]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_opening_takes_bounded_memory_and_time(tmp_path: Path) -> None:
    """In a process that opened a bundle before: at most twice the size of the bundle plus 50 MB."""
    for name, write in {**HEALTHY, **ATTACKS}.items():
        write(tmp_path / name)
    for number, (family, file, setting, value) in enumerate(TOO_LARGE[::4]):
        set_to(saved(tmp_path / f"setting {number}", family), file, setting, value)
    folders = sorted(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", OPENING, *folders], capture_output=True, check=True, timeout=200)
    for folder, (error, grown, took_s) in zip(folders, json.loads(done.stdout), strict=True):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert bool(error) == (folder.name not in HEALTHY), folder.name
        assert grown <= 2 * size + 50e6, (folder.name, size, grown)
        assert took_s < 10, folder.name


@pytest.mark.parametrize("size", [HUGE, 10**12])
def test_sizes_of_signals_beyond_memory_are_refused(size: int) -> None:
    """A list of the components would take gigabytes, before the weights are compared."""
    signal = Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(size,))
    with pytest.raises(ConfigError, match=f"the signals have {size} components; at most"):
        Standardizer((signal,))
