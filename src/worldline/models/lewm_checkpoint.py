"""Conversion of LeWM checkpoints of stable-worldmodel to `Lewm`, without running any of their code.

A checkpoint is a folder with `config.json` and one file of weights. `config.json` is a tree of constructor names; only
its numbers are read. The names of encoder weights changed in transformers 5; both variants are supported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from worldline.errors import ConfigError
from worldline.models.lewm import Lewm, LewmConfig
from worldline.schema import Schema

ENCODER_HEADS: Final = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
"""Number of attention heads per named encoder size."""

RENAMES: Final = (
    (r"^encoder\.encoder\.layer\.", "encoder.layers."),  # transformers 4
    (r"(encoder\.layers\.\d+)\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r"\1.attention.\2_proj."),
    (r"(encoder\.layers\.\d+)\.attention\.(output\.dense|o_proj)\.", r"\1.out."),
    (r"(encoder\.layers\.\d+)\.(intermediate\.dense|mlp\.fc1)\.", r"\1.up."),
    (r"(encoder\.layers\.\d+)\.(output\.dense|mlp\.fc2)\.", r"\1.down."),
    (r"\.layernorm_before\.", ".before_attention."),
    (r"\.layernorm_after\.", ".before_mlp."),
    (r"^encoder\.layernorm\.", "encoder.norm."),
    (r"^encoder\.embeddings\.cls_token$", "encoder.first"),
    (r"^encoder\.embeddings\.position_embeddings$", "encoder.position"),
    (r"^encoder\.embeddings\.patch_embeddings\.projection\.", "encoder.from_pixels."),
    (r"^predictor\.pos_embedding$", "predictor.position"),
    (r"^predictor\.transformer\.norm\.", "predictor.norm."),
    (r"^predictor\.transformer\.layers\.", "predictor.blocks."),
    (r"\.attn\.norm\.", ".before_attention."),
    (r"\.attn\.to_qkv\.", ".joined."),
    (r"\.attn\.to_out\.0\.", ".out."),
    (r"\.mlp\.net\.0\.", ".before_mlp."),
    (r"\.mlp\.net\.1\.", ".up."),
    (r"\.mlp\.net\.4\.", ".down."),
    (r"\.adaLN_modulation\.1\.", ".steer."),
    (r"^action_encoder\.patch_embed\.", "to_codes.0."),
    (r"^action_encoder\.embed\.0\.", "to_codes.1."),
    (r"^action_encoder\.embed\.2\.", "to_codes.3."),
    (r"^projector\.net\.", "projector."),
    (r"^pred_proj\.net\.", "from_predictor."),
)
"""Patterns of published weight names and their replacements, applied in order."""


def read_lewm(folder: Path | str, *, schema: Schema, camera: str) -> Lewm:
    """The published model in `folder`, in evaluation mode.

    The model takes actions as z-scores, but the checkpoint holds no means and standard deviations. Call
    `fit_normaliser` with a sample of its training data, unless the schema's actions are z-scores already.

    Args:
        folder: with `config.json` and one file `*.pt` or `*.safetensors`.
        schema: its actions are the concatenated raw actions of a frameskip block.
        camera: the image signal of the model. If its size differs from the training images, position embeddings are
            interpolated as in the published code.

    Raises:
        ConfigError: the folder is incomplete, holds another model, or does not fit the schema.
    """
    folder = Path(folder)
    files = sorted([*folder.glob("*.pt"), *folder.glob("*.safetensors")])
    if len(files) != 1 or not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} must hold config.json and one file *.pt or *.safetensors; it has {len(files)} such files. "
            "Put each checkpoint into a separate folder."
        )
    # Sizes come from the tensors, and names from a table; nothing in the folder is executed.
    tree, loaded = _read(folder / "config.json", files[0])
    tensors = from_published(loaded)
    config = published_config(tree.get("model", tree), tensors, camera)
    model = Lewm(schema=schema, config=config)
    # Only the grid of patches may differ from the training images; all other shapes must match.
    grid = tuple(side // config.patch for side in schema[camera].shape[:2])
    tensors["encoder.position"] = _scaled(tensors["encoder.position"], grid)
    tensors |= {k: v for k, v in model.state_dict().items() if k.startswith("inputs.")}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(
            f"{files[0]}: {error} Check that it is a LeWM, and that the schema's actions are the concatenated raw "
            "actions of a frameskip block."
        ) from error
    return model.eval()


def _read(tree: Path, weights: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    file = tree
    try:
        settings = dict(json.loads(tree.read_text()))
        file = weights
        loaded = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
        return settings, dict(loaded)
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise ConfigError(
            f"{file} cannot be read ({type(error).__name__}). Download it again, or save only the model's "
            "state_dict(): pickled code is not run."
        ) from error


def published_config(tree: Mapping[str, Any], tensors: Mapping[str, Tensor], camera: str) -> LewmConfig:
    """The sizes of a published model, from its tensors and, where these do not determine them, from its config.

    Args:
        tree: its `config.json`.
        tensors: from `from_published`.
        camera: the image signal of the model.

    Raises:
        ConfigError: a required number is missing.
    """
    try:
        # Shapes do not determine the number of heads.
        encoder, predictor = tree["encoder"], tree["predictor"]
        heads = encoder.get("num_attention_heads") or ENCODER_HEADS[encoder["size"]]
        predictor_heads = predictor["heads"]
        return LewmConfig(
            inputs=(camera,),
            latent_size=tensors["encoder.position"].shape[-1],
            patch=round((tensors["encoder.from_pixels.weight"].shape[1] / 3) ** 0.5),
            depth=_count(tensors, r"encoder\.layers\.(\d+)\."),
            num_heads=heads,
            projector_width=len(tensors["projector.0.weight"]),
            history=len(tensors["predictor.position"]),
            predictor_depth=_count(tensors, r"predictor\.blocks\.(\d+)\."),
            predictor_heads=predictor_heads,
            head_size=len(tensors["predictor.blocks.0.joined.weight"]) // (3 * predictor_heads),
            predictor_width=len(tensors["predictor.blocks.0.up.weight"]),
            code_size=len(tensors["to_codes.0.weight"]),
            dropout=float(predictor.get("dropout", 0.0)),
        )
    except KeyError as problem:
        raise ConfigError(f"the checkpoint lacks {problem}, so it is not a LeWM. Pass a checkpoint of LeWM.") from None


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors with our names and layout; unknown ones keep their names.

    Args:
        tensors: state dict of the published model, with the names of transformers 4 or 5.
    """
    renamed = {_renamed(name): value for name, value in tensors.items()}
    for name in [name for name in renamed if ".attention.q_proj." in name]:
        parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if renamed.keys() >= set(parts):
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace("attention.q_proj", "joined")] = joined
    for name in renamed.keys() & _RESHAPES.keys():
        renamed[name] = _RESHAPES[name](renamed[name])
    return renamed


_RESHAPES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "encoder.first": lambda value: value[0, 0],
    "encoder.position": lambda value: value[0],
    "encoder.from_pixels.weight": lambda value: value.permute(0, 2, 3, 1).flatten(1),  # colours last
    "predictor.position": lambda value: value[0],
    "to_codes.0.weight": lambda value: value[..., 0],  # a convolution over one step
}


def _renamed(name: str) -> str:
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def _scaled(position: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Position embeddings [1 + patches, D] of a square grid, interpolated to another grid of patches."""
    side = round((len(position) - 1) ** 0.5)
    if grid == (side, side):
        return position
    square = position[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    scaled = interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([position[:1], scaled[0].flatten(1).T])
