"""Encoders to test with: each is tiny, random, and made on the spot; nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.windows import LAMP, WIND, random_window, seeded

from worldline.models.base import Window
from worldline.models.features import Features, FeaturesConfig, features_config
from worldline.schema import Kind, Role, Schema, Signal

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 3))
WRIST = Signal(name="arm.wrist", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 48, 1))
ANGLE = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
HEAT = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="degC")


PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="px")


SCHEMA = Schema(signals=(CAMERA, WRIST, ANGLE, HEAT, LAMP, PUSH, WIND))
SMALL = {"width": 16, "num_heads": 2, "grid": 2, "components": 6, "image_side": 32}
BATCH, LENGTH = 3, 4

VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 48}
TIMM = {"img_size": 48, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def dinov2() -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**VIT, layerscale_value=1.0))


def registers() -> Any:
    settings = transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=3, layerscale_value=1.0)
    return transformers.Dinov2WithRegistersModel(settings)


def dinov3() -> Any:
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**VIT, intermediate_size=48, num_register_tokens=3, layerscale_value=1.0)
    )


def vjepa2() -> Any:
    return transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=8, crop_size=48,
            frames_per_clip=4, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        )
    )  # fmt: skip


def timm_vit() -> Any:
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, **TIMM)


def timm_cnn() -> Any:
    return timm.create_model("test_efficientnet", pretrained=False)


MAKERS: dict[str, Callable[[], Any]] = {
    "dinov2": dinov2, "registers": registers, "dinov3": dinov3, "vjepa2": vjepa2, "timm": timm_vit, "cnn": timm_cnn,
}  # fmt: skip
NAMES = tuple(MAKERS)


def write_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per encoder its folder, as its library writes it."""
    torch.manual_seed(0)
    found = {}
    for name, make in MAKERS.items():
        found[name], network = tmp_path_factory.mktemp(name), make()
        for parameter in network.parameters():  # as they begin, the features of all images are nearly alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        if name in ("timm", "cnn"):
            given = TIMM if name == "timm" else {}
            timm.models.save_for_hf(network, found[name], model_args=given, safe_serialization=True)
        else:
            network.save_pretrained(found[name])
    return found


def config(folder: Path, *inputs: str, **settings: Any) -> FeaturesConfig:
    made = features_config(inputs=inputs or ("camera",), folder=folder)
    return replace(made, **{**SMALL, "stride": 8 if made.stride else 0, **settings})


def model(folder: Path, *inputs: str, schema: Schema = SCHEMA, **settings: Any) -> Features:
    torch.manual_seed(0)
    return Features.from_folder(schema=schema, config=config(folder, *inputs, **settings))


def window(batch: int = BATCH, length: int = LENGTH, *, exogenous: bool = True) -> Window:
    signals = SCHEMA.signals if exogenous else SCHEMA.signals[:-1]
    seen = random_window(Schema(signals=signals), batch, length)
    seen.observations["heat"].mul_(5).add_(20)
    return seen


def features(net: Features, seen: Window) -> torch.Tensor:
    return net.encode(seen, generator=seeded()).features()[:, 0]


def copy(source: Path, destination: Path) -> None:
    for file in source.iterdir():
        (destination / file.name).write_bytes(file.read_bytes())
