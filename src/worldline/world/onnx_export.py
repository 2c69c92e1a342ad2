"""A learned world as ONNX files with a description in JSON, for programs without Python."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import torch

from worldline.errors import InputError, MissingExtraError
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld
from worldline.world.prediction_errors import num_samples
from worldline.world.step_networks import StepNetwork, step_networks

if TYPE_CHECKING:
    from onnx import ModelProto

LEVELS: Final = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Probabilities of bands, as far as the calibration supports them."""
OPSET: Final = 20


def export_onnx(world: LocalWorld, folder: Path | str) -> None:
    """Writes `start.onnx`, `update.onnx`, `step.onnx` and `world.json`; see `StepNetworks` and docs/howto/export.md.

    One call of `step` computes one future of a deterministic world, and 16 of a stochastic one.

    Args:
        world: a learned one.
        folder: new or empty.

    Raises:
        InputError: the folder holds files.
        UnsupportedError: as in `step_networks`.
        MissingExtraError: the extra `play` is not installed.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty. Name a new folder.")
    made = step_networks(world.engine, num_samples(world.describe()))
    networks = {"start": made.start, "update": made.update, "step": made.step}
    models = {name: to_onnx(network) for name, network in networks.items()}
    facts = world_facts(world) | {
        "networks": {
            name: {"arguments": _described(network.arguments), "results": _described(network.results)}
            for name, network in networks.items()
        }
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    (folder / "world.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts)))


def to_onnx(network: StepNetwork) -> ModelProto:
    """The network as an ONNX model with fixed sizes.

    Raises:
        MissingExtraError: the extra `play` is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - `torch.onnx` needs it and reports its absence less clearly
    except ImportError as error:
        raise MissingExtraError(str(error.name).partition(".")[0], "play") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that need no attention
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # likewise
        try:
            program = torch.onnx.export(
                network.traced(),
                tuple(network.arguments.values()),
                input_names=list(network.arguments),
                output_names=list(network.results),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        finally:
            logging.disable(disabled)
    assert program is not None  # with dynamo
    return program.model_proto


def world_facts(world: LocalWorld) -> dict[str, Any]:
    """What a program needs besides the networks: signals, order of the arguments, and bands. Plain values for JSON."""
    card = world.describe()
    schema = card.schema
    facts: dict[str, Any] = {
        "format": 1,
        "name": card.name,
        "step_s": schema.step_s,
        "context": card.context,
        "deterministic": card.deterministic,
        "signals": msgspec.to_builtins(schema.signals),
        "observed": list(card.inputs),
        "inputs": [signal.name for signal in (*schema.actions, *schema.exogenous)],
        "predicts": list(card.predicts),
    }
    return facts | ({} if world.calibration is None else {"bands": band_table(world.calibration)})


def band_table(calibration: Calibration) -> dict[str, Any]:
    """The half widths of bands: at step t of T steps, `scores[level][T - 1] * scale[t]`; null for infinite.

    Returns:
        `levels`, and per number of observations of a history (`from`, ascending) per signal: `scale` [T, n], `scores`
        [levels, T], and `horizon`, the last step with skill.
    """
    default = calibration.default_level
    levels = sorted({level for level in (*LEVELS, default) if level <= calibration.highest_level + 1e-9})
    parts = {1: calibration} if not calibration.shorter else {**calibration.shorter, calibration.length: calibration}
    histories = []
    for length, part in sorted(parts.items()):
        signals = {}
        for name, scale in part.scale.items():
            flat = scale.reshape(len(scale), -1)
            half = [[part.band_half_width(name, t + 1, level)[t] for t in range(len(scale))] for level in levels]
            scores = np.array(half).reshape(len(levels), *flat.shape)[..., 0] / flat[:, 0]
            signals[name] = {
                "scale": flat.tolist(),
                "scores": np.where(np.isfinite(scores), scores, np.nan).tolist(),
                "horizon": int(part.skill[name]),
            }
        histories.append({"from": length, "signals": signals})
    return {"default": default, "levels": levels, "histories": histories}


def _described(named: dict[str, torch.Tensor]) -> list[dict[str, object]]:
    return [
        {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in named.items()
    ]
