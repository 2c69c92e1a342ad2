"""Exported networks in onnxruntime predict what the world predicts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldline.device import Draws
from worldline.engines.learned import LearnedEngine
from worldline.episode import History
from worldline.errors import InputError, UnsupportedError
from worldline.schema import Kind
from worldline.training.batches import to_inputs
from worldline.world.bundle_io import open_world
from worldline.world.local import LocalWorld
from worldline.world.onnx_export import band_table, export_onnx
from worldline.world.step_networks import step_networks

ort = pytest.importorskip("onnxruntime", reason="needs the extra play")
BUNDLES = Path(__file__).parents[1] / "golden" / "bundles"
NUM_STEPS = 20
LENGTH = 6
SLOW = partial(pytest.param, marks=pytest.mark.slow)  # their export takes several seconds
Arrays = dict[str, NDArray[Any]]


def history_of(world: LocalWorld, rng: np.random.Generator) -> History:
    """Random observations, the first of which are partly missing."""
    schema, inputs = world.describe().schema, world.describe().inputs
    values: Arrays = {}
    for signal in (*schema.observations, *schema.actions, *schema.exogenous):
        if signal.kind is Kind.IMAGE:
            values[signal.name] = rng.integers(0, 256, (LENGTH, *signal.shape), dtype=np.uint8)
        else:
            values[signal.name] = rng.uniform(-0.5, 0.5, (LENGTH, *signal.shape)).astype(np.float32)
    missing = {name: np.arange(LENGTH) != 2 + number for number, name in enumerate(inputs)}
    return History(
        observations={name: values[name] for name in inputs},
        observed={name: np.array(flags) for name, flags in missing.items()},
        actions={signal.name: values[signal.name][1:] for signal in schema.actions},
        exogenous={signal.name: values[signal.name][1:] for signal in schema.exogenous},
    )


class Runtime:
    """A program that reads only the exported files."""

    def __init__(self, folder: Path) -> None:
        self.facts = json.loads((folder / "world.json").read_text())
        self.sessions = {name: ort.InferenceSession(folder / f"{name}.onnx") for name in ("start", "update", "step")}
        self.numbers, self.rng = list[torch.Tensor](), np.random.default_rng(1)

    def run(self, name: str, known: Arrays) -> Arrays:
        """The results; draws are remembered in `numbers`."""
        network, drawn = self.facts["networks"][name], {}
        for argument in network["arguments"]:
            if argument["name"].startswith("noise."):
                drawn[argument["name"]] = self.rng.uniform(0.01, 0.99, argument["shape"]).astype(np.float32)
                self.numbers.append(torch.from_numpy(drawn[argument["name"]]))
        both = known | drawn
        names = [result["name"] for result in network["results"]]
        arguments = {argument["name"]: both[argument["name"]] for argument in network["arguments"]}
        results = dict(zip(names, self.sessions[name].run(names, arguments), strict=True))
        return {key.replace("next.", "belief."): value for key, value in results.items()}

    def belief(self, history: History) -> Arrays:
        belief: Arrays = {}
        for now in range(LENGTH):
            seen = {f"observation.{name}": value[now : now + 1] for name, value in history.observations.items()}
            flags = [[history.observed[name][now] for name in self.facts["observed"]]]
            seen["observed"] = np.array(flags, np.float32)
            belief = self.run("update" if now else "start", belief | seen | {"inputs": self.inputs(history, now - 1)})
        return belief

    def inputs(self, steps: History, now: int) -> NDArray[Any]:
        known = {**steps.actions, **steps.exogenous}
        return np.concatenate([known[name][now : now + 1] for name in self.facts["inputs"]], 1, dtype=np.float32)

    def path(self, history: History, future: History) -> NDArray[Any]:
        """The signals [T, rows, size]."""
        rows = self.facts["networks"]["step"]["arguments"][0]["shape"][0]
        belief = {name: np.repeat(part, rows, 0) for name, part in self.belief(history).items()}
        path = []
        for now in range(NUM_STEPS):
            belief = self.run("step", belief | {"inputs": np.repeat(self.inputs(future, now), rows, 0)})
            path.append(belief.pop("signals"))
        return np.stack(path)


@pytest.mark.parametrize("name", ["ensemble", *(SLOW(name) for name in ("linear-model", "jepa-memory", "rssm"))])
def test_a_rollout_in_onnxruntime_equals_pytorch(name: str, tmp_path: Path) -> None:
    world = open_world(BUNDLES / name, device="cpu")
    engine, rng = world.engine, np.random.default_rng(0)
    assert isinstance(engine, LearnedEngine)
    export_onnx(world, tmp_path)
    runtime, schema = Runtime(tmp_path), engine.schema
    history = history_of(world, rng)
    future = History(
        observations={},
        actions={s.name: rng.uniform(-1, 1, (NUM_STEPS, *s.shape)).astype(np.float32) for s in schema.actions},
        exogenous={s.name: rng.uniform(-1, 1, (NUM_STEPS, *s.shape)).astype(np.float32) for s in schema.exogenous},
    )
    path = runtime.path(history, future)
    if world.describe().deterministic:
        predicted = world.predict(history, future.actions, exogenous=future.exogenous or None).signals
        expected = np.concatenate([predicted[name].mean for name in runtime.facts["predicts"]], -1)[:, None]
    else:  # the same draws
        rows, draws = path.shape[1], Draws(runtime.numbers)
        past = History(**{key: {n: v[None] for n, v in vars(history)[key].items()} for key in vars(history)})
        belief = engine.model.encode(engine._window(past), generator=draws)
        repeated = {name: np.tile(value, (rows, 1, 1, 1)) for name, value in future.actions.items()}
        known = {name: np.tile(value, (rows, 1, 1)) for name, value in future.exogenous.items()}
        rollout = engine.model.rollout(
            belief.select(torch.zeros(rows, dtype=torch.long)), to_inputs(repeated, known, schema), generator=draws
        )
        assert len(draws.drawn) == len(runtime.numbers)
        read = engine.readout(rollout.features[:, 0]).values()
        expected = torch.cat([value.mean(1) for value in read], -1).transpose(0, 1).numpy()
    assert np.ptp(expected) > 1e-2
    np.testing.assert_allclose(path, np.broadcast_to(expected, path.shape), atol=1e-4, rtol=1e-4)


def test_the_band_table_gives_the_bands_of_predictions() -> None:
    world = open_world(BUNDLES / "linear-model", device="cpu")
    assert world.calibration is not None
    bands = band_table(world.calibration)
    history = history_of(world, np.random.default_rng(0))
    future = {"push": np.zeros((4, 2), np.float32)}
    forecast = world.predict(history, future, exogenous={"wind": np.zeros((4, 2), np.float32)}, level=0.8)
    band = bands["histories"][-1]["signals"]["position"]
    score = band["scores"][bands["levels"].index(0.8)][3]
    half = forecast.signals["position"].half_width
    assert half is not None
    np.testing.assert_allclose(half, score * np.array(band["scale"])[:4], rtol=1e-5)


def test_worlds_without_fixed_networks_name_the_reason(tmp_path: Path) -> None:
    for name, reason in {"linear": "'linear' has no networks", "jepa-transformer": "grows with each step"}.items():
        with pytest.raises(UnsupportedError, match=reason):
            step_networks(open_world(BUNDLES / name, device="cpu").engine)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        export_onnx(open_world(BUNDLES / "linear-model", device="cpu"), tmp_path)
