"""A pretrained image encoder from a local folder: DINOv2, DINOv3, V-JEPA 2, or a ViT or CNN from timm.

Nothing is downloaded or unpickled, and no setting in the folder can select code to run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from worldline.config import BoundedConfig, Size, SizeOrZero
from worldline.errors import ConfigError, MissingExtraError

ENCODERS: Final = {
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    "dinov3_vit": ("DINOv3ViTConfig", "DINOv3ViTModel"),
    "vjepa2": ("VJEPA2Config", "VJEPA2Model"),
}
"""Configuration class and model class in transformers, per `model_type`."""
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Default mean and standard deviation of red, green and blue, in [0, 1]."""
MAX_FRAMES_AT_ONCE: Final = 128
"""Maximum number of frames per forward pass."""
MEMO_BYTES: Final = 200_000_000
"""Maximum memory of a `Memo`."""
ROW_OVERHEAD_BYTES: Final = 1000
"""Memory of one row of a `Memo` in addition to its values: the key, the dictionary entry and the tensor's header."""
MAX_ENCODER_SIZE, MAX_ENCODER_DEPTH = 20_000, 100
"""Largest numbers in the architecture of an encoder: of a size, and of layers. A bundle could ask for any."""

Library = Literal["transformers", "timm"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(BoundedConfig):
    """A frozen encoder and the features that are taken from it; created by `encoder_config`.

    Args:
        encoder: folder of the weights; not needed once they are loaded.
        architecture: settings that construct the encoder, JSON from the folder.
        weights_sha256: of the weights in the folder.
        library: that constructs the encoder, "transformers" or "timm".
        pixel_mean: of red, green and blue in [0, 1], as in the encoder's training.
        pixel_deviation: standard deviation, likewise.
        image_side: every image is scaled to a square of this side, pixels; a multiple of the encoder's patch size.
            112 is a multiple of 8, 14 and 16.
        stride: for networks with several stages: the last feature map of this stride is used, later stages are
            removed; pixels. 0 for a plain ViT.
        pooling: features of a frame: its "patches", their "mean", or the class token "cls" if the encoder has one.
        grid: patches are averaged to this number of cells per side, at most the number of patches per side.
    """

    encoder: str
    architecture: str
    weights_sha256: str
    library: Library = "transformers"
    pixel_mean: tuple[float, float, float] = IMAGENET[0]
    pixel_deviation: tuple[float, float, float] = IMAGENET[1]
    image_side: Size = 112
    stride: SizeOrZero = 0
    pooling: Literal["patches", "mean", "cls"] = "patches"
    grid: Size = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pixel_deviation) <= 0:
            raise ConfigError(f"pixel_deviation is {self.pixel_deviation}. Each must be positive.")


def encoder_config(folder: Path | str, library: Library | None) -> EncoderConfig:
    """The config for the encoder in a folder; arguments and errors as for `features_config`."""
    path = Path(folder)
    files = _weight_files(path)
    settings = _read_json(path / "config.json")
    if library is None:
        library = "timm" if "architecture" in settings else "transformers"
    if library == "timm":
        colours = settings.get("pretrained_cfg", settings)
        mean, deviation = colours.get("mean", IMAGENET[0]), colours.get("std", IMAGENET[1])
        settings = {"architecture": settings.get("architecture"), "model_args": settings.get("model_args", {})}
    else:
        preprocessors = [path / name for name in ("preprocessor_config.json", "video_preprocessor_config.json")]
        colours = next((_read_json(file) for file in preprocessors if file.exists()), {})
        mean, deviation = colours.get("image_mean", IMAGENET[0]), colours.get("image_std", IMAGENET[1])
    config = EncoderConfig(
        encoder=str(path),
        architecture=json.dumps(settings, sort_keys=True),
        weights_sha256=_sha256(files),
        library=library,
        pixel_mean=_three(mean),
        pixel_deviation=_three(deviation),
    )
    if library == "timm" and _has_stages(config):
        return replace(config, image_side=64, stride=16)  # takes a third of the time of 128 pixels
    return config


class FrozenEncoder(nn.Module):
    """The pretrained network. It is never trained, is always in evaluation mode, and starts without weights.

    Raises:
        ConfigError: the library cannot construct it, or `image_side`, `grid` or `pooling` do not fit it.
        MissingExtraError: the library is not installed.
    """

    loaded: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        built = _build(config)
        self.stage = _stage(built, config.stride) if config.stride else None
        if self.stage is not None:
            stage = built.feature_info[self.stage]
            patch, channels = stage["reduction"], stage["num_chs"]
        elif config.library == "timm":
            patch, channels = built.patch_embed.patch_size, built.embed_dim
        else:
            patch, channels = built.config.patch_size, built.config.hidden_size
        # The grid of patches must fit the images, and the pooling the tokens of the encoder.
        patch, side = patch if isinstance(patch, int) else patch[0], config.image_side
        self.channels = int(channels)
        self.cells = side // patch
        self.is_video = json.loads(config.architecture).get("model_type") == "vjepa2"
        self.places = config.grid**2 if config.pooling == "patches" else 1
        if side % patch:
            fit = max(1, round(side / patch)) * patch
            raise ConfigError(f"image_side is {side}, not a multiple of the patch size {patch}. Set it to {fit}.")
        if config.pooling == "patches" and config.grid > self.cells:
            raise ConfigError(
                f"grid is {config.grid}, but a frame has {self.cells} patches per side. "
                f"Set grid to at most {self.cells}."
            )
        has_class = getattr(built.embeddings if config.library == "transformers" else built, "cls_token", None)
        if config.pooling == "cls" and has_class is None:
            raise ConfigError("pooling is 'cls', but this encoder has no class token. Choose 'mean' or 'patches'.")
        self.network = _with_all_buffers(built).requires_grad_(False)
        self.register_buffer("loaded", torch.zeros((), dtype=torch.bool))
        self.train()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Returns the module in evaluation mode; `mode` is ignored."""
        super().train(False)
        return self

    def load(self, folder: Path) -> None:
        """Loads the weights from `folder`; errors as for `load_encoder`."""
        digest = _sha256(_weight_files(folder))
        if digest != self.config.weights_sha256:
            raise ConfigError(
                f"the weights in {folder} have sha256 {digest[:12]}..., but the config belongs to weights with sha256 "
                f"{self.config.weights_sha256[:12]}... Pass their folder, or create a new config with features_config."
            )
        source = _with_all_buffers(_build(self.config, folder))
        self.network.load_state_dict(source.state_dict())
        self.loaded.fill_(True)

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "M height width C"]) -> Float[Tensor, "M P channels"]:
        """The patches of the grid, row by row, or the pooled vector (P = 1)."""
        if not len(images):
            return torch.zeros(0, self.places, self.channels, device=images.device)
        return torch.cat([self._encode(some) for some in images.split(MAX_FRAMES_AT_ONCE)])

    def _encode(self, images: UInt8[Tensor, "M height width C"]) -> Float[Tensor, "M P channels"]:
        config, side = self.config, self.config.image_side
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if pixels.shape[2:] != (side, side):
            pixels = interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
        colours = config.pixel_mean, config.pixel_deviation
        mean, deviation = (torch.tensor(each, device=pixels.device)[:, None, None] for each in colours)
        tokens = self._tokens((pixels - mean) / deviation).float()  # one channel is broadcast to three
        if config.pooling == "cls":
            return tokens[:, :1]
        patches = tokens[:, -(self.cells**2) :]  # class token and registers come first
        if config.pooling == "mean":
            return patches.mean(1, keepdim=True)
        grid = patches.transpose(1, 2).unflatten(2, (self.cells, self.cells))
        return adaptive_avg_pool2d(grid, config.grid).flatten(2).transpose(1, 2)

    def _tokens(self, pixels: Float[Tensor, "M 3 side side"]) -> Float[Tensor, "M tokens channels"]:
        network: Any = self.network
        if self.stage is not None:
            (feature_map,) = network.forward_intermediates(
                pixels, indices=[self.stage], stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
            return torch.as_tensor(feature_map).flatten(2).transpose(1, 2)
        if self.config.library == "timm":
            return torch.as_tensor(network.forward_features(pixels))
        if self.is_video:  # a frame is encoded as a still clip
            clip = pixels[:, None].expand(-1, network.config.tubelet_size, -1, -1, -1)
            return torch.as_tensor(network(pixel_values_videos=clip).last_hidden_state)
        return torch.as_tensor(network(pixel_values=pixels).last_hidden_state)


class View(nn.Module):
    """Patches of one camera as z-scores: centred per place, scaled per channel, projected on principal components.

    The mean per place is removed, so that components describe differences between frames. All components are divided by
    one common number, so that a squared error weights them as it would weight the channels.

    Args:
        places: P.
        channels: per patch.
        components: number of components that are kept; 0 keeps the channels.
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor | None

    def __init__(self, *, places: int, channels: int, components: int) -> None:
        super().__init__()
        if components > channels:
            raise ConfigError(f"components is {components}. It must be at most {channels}, the channels of a patch.")
        self.size = components or channels
        self.register_buffer("mean", torch.zeros(places, channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("basis", torch.eye(channels, components) if components else None)

    @torch.no_grad()
    def fit(self, patches: Float[Tensor, "M P channels"]) -> None:
        """Fits means, standard deviations and components on patches of many frames."""
        mean = patches.double().mean(0)
        rest = patches.double() - mean
        deviation = rest.square().mean((0, 1)).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6 * (1 + mean.abs().mean(0)), deviation, 1.0))
        if self.basis is None:
            return
        scores = rest.flatten(0, 1) / self.deviation
        variances, directions = torch.linalg.eigh(scores.T @ scores / len(scores))
        usual = variances[-self.size :].mean().clamp(min=1e-12).sqrt()
        self.basis.copy_(directions[:, -self.size :].flip(1) / usual)

    def forward(self, patches: Float[Tensor, "M P channels"]) -> Float[Tensor, "M P size"]:
        """z-scores, or their principal components."""
        scores = (patches - self.mean) / self.deviation
        return scores if self.basis is None else torch.as_tensor(scores @ self.basis)


class Memo:
    """A cache of the features of each distinct frame, so that no frame is encoded twice with the same weights.

    The key is a hash of the pixels. Rows are kept in memory as float32. Beyond `MEMO_BYTES` the least recently used
    rows are dropped. Copies and pickled copies start empty, because their weights may change.

    Args:
        size: features per frame.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: OrderedDict[bytes, Float[Tensor, "size"]] = OrderedDict()  # least recently used first
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Memo], tuple[int]]:
        return Memo, (self.size,)

    @torch.no_grad()
    def recall(
        self,
        images: UInt8[Tensor, "M height width C"],
        make: Callable[[UInt8[Tensor, "m height width C"]], Float[Tensor, "m size"]],
        *,
        maker: str,
    ) -> Float[Tensor, "M size"]:
        """The features of each image; `make` computes those that are not cached, each distinct image once.

        Args:
            images: frames.
            make: called at most once; its result for an image must not depend on the other images.
            maker: name of `make`, part of the key.
        """
        if not len(images):
            return make(images)
        keys = _fingerprints(images, maker)
        with self._lock:
            rows = {key: self.rows[key] for key in keys if key in self.rows}
        places = {key: place for place, key in enumerate(keys) if key not in rows}
        if places:
            made = make(images[torch.tensor(list(places.values()), device=images.device)]).float().cpu()
            # Copies, because a view of one row would keep all rows of the batch in memory.
            rows |= {key: row.clone() for key, row in zip(places, made, strict=True)}
        self._keep(rows)
        return torch.stack([rows[key] for key in keys]).to(images.device)

    def forget(self) -> None:
        """Empties the cache. Call it whenever the weights change."""
        with self._lock:
            self.rows.clear()

    def _keep(self, used: Mapping[bytes, Tensor]) -> None:
        """Marks these rows as most recently used, and drops the least recently used ones beyond the limit."""
        with self._lock:
            for key, row in used.items():
                self.rows[key] = row
                self.rows.move_to_end(key)
            while len(self.rows) * (4 * self.size + ROW_OVERHEAD_BYTES) > MEMO_BYTES:
                self.rows.popitem(last=False)


def _fingerprints(images: UInt8[Tensor, "M height width C"], maker: str) -> list[bytes]:
    """A hash of 16 bytes per image; it also depends on the image size, the maker and the autocast precision."""
    device = images.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    start = hashlib.blake2b(f"{maker} {precision} {tuple(images.shape[1:])}\n".encode(), digest_size=16)
    keys = []
    for pixels in images.cpu().contiguous().numpy():
        digest = start.copy()
        digest.update(pixels)
        keys.append(digest.digest())
    return keys


def _build(config: EncoderConfig, folder: Path | None = None) -> Any:
    """The library's network, with initial weights, or with those in `folder`."""
    with _explained(config):
        return (_build_timm if config.library == "timm" else _build_transformers)(config, folder)


@contextmanager
def _explained(config: EncoderConfig) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.library} cannot build the encoder of {config.encoder}: {error}. Check that its config.json and "
            "its weights are valid and belong together."
        ) from error


def _build_transformers(config: EncoderConfig, folder: Path | None) -> Any:
    """The network from transformers. Only sizes are read: no setting can select code to run or a download."""
    architecture, library = json.loads(config.architecture), _library("transformers")
    kind = architecture.get("model_type")
    if kind not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ConfigError(f"{config.encoder} holds a model of type {kind!r}. Supported types: {known}.")
    config_class, model_class = (getattr(library, name) for name in ENCODERS[kind])
    general = inspect.signature(library.PretrainedConfig).parameters
    own = {name for name in inspect.signature(config_class).parameters if name not in general and name[0] != "_"}
    sizes = {name: value for name, value in architecture.items() if name in own}
    if kind == "vjepa2":  # its position embeddings depend on the clip size
        sizes |= {"crop_size": config.image_side, "frames_per_clip": sizes.get("tubelet_size", 2)}
    _check_sizes(sizes)
    settings = config_class(**sizes, attn_implementation="sdpa")
    if folder is None:
        network = model_class(settings)
    else:
        network, loading = model_class.from_pretrained(
            folder,
            config=settings,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        _refuse_missing(folder, [name for name in loading["missing_keys"] if not name.startswith("predictor.")])
    return network.encoder if kind == "vjepa2" else network


def _build_timm(config: EncoderConfig, folder: Path | None) -> Any:
    """The network from timm. Only arguments of the network are passed on: none can make timm read or download files."""
    if config.stride:
        network = _create_timm(config)
        network.prune_intermediate_layers([_stage(network, config.stride)], prune_norm=True)
    else:
        network = _create_timm(config, dynamic_img_size=True)
    if folder is not None:
        files = _weight_files(folder)
        if len(files) > 1:
            raise ConfigError(f"{folder} holds {len(files)} weight files. Keep only model.safetensors.")
        tensors, expected = load_file(files[0]), network.state_dict().keys()
        _refuse_missing(folder, expected - tensors.keys())
        network.load_state_dict({name: tensors[name] for name in expected})  # drops the classifier
    return network


def _create_timm(config: EncoderConfig, **settings: bool) -> Any:
    """The network without its classifier, with initial weights."""
    architecture, library = json.loads(config.architecture), _library("timm")
    name, arguments = architecture.get("architecture"), architecture.get("model_args", {})
    if not isinstance(name, str) or not library.is_model(name):
        raise ConfigError(f"{config.encoder} has architecture {name!r}, which timm does not know. Update timm.")
    refused = sorted(arguments.keys() & inspect.signature(library.create_model).parameters.keys())
    if refused:
        raise ConfigError(f"{config.encoder}: model_args sets {', '.join(refused)}. Remove it from config.json.")
    _check_sizes(arguments)
    return library.create_model(name, pretrained=False, **{**arguments, "num_classes": 0, **settings})


def _check_sizes(value: object, name: str = "architecture") -> None:
    """Raises ConfigError if a setting, or one in it, is so large that the network could not be built in seconds."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_sizes(inner, key)
    elif isinstance(value, list):
        for inner in (len(value), *value):
            _check_sizes(inner, name)
    elif isinstance(value, int):
        limit = MAX_ENCODER_DEPTH if re.search("layer|depth|block", name) else MAX_ENCODER_SIZE
        if value > limit:
            raise ConfigError(f"{name} of the encoder is {value}. It must be at most {limit}.")


def _has_stages(config: EncoderConfig) -> bool:
    """Whether the feature maps of this timm network have several strides, unlike those of a plain ViT."""
    with _explained(config), torch.device("meta"):
        return len({stage["reduction"] for stage in _create_timm(config).feature_info}) > 1


def _stage(network: Any, stride: int) -> int:
    """The last stage whose map has this stride."""
    strides = [stage["reduction"] for stage in network.feature_info]
    if stride not in strides:
        raise ConfigError(
            f"stride is {stride}, but the encoder's feature maps have strides {', '.join(map(str, strides))}. "
            "Choose one of these."
        )
    return max(number for number, each in enumerate(strides) if each == stride)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "features") from error


def _with_all_buffers(network: nn.Module) -> nn.Module:
    """`network` with all buffers persistent: a bundle must also hold those that the library would recompute."""
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer)
    return network


def _refuse_missing(folder: Path, names: Iterable[str]) -> None:
    missing = sorted(names)
    if missing:
        raise ConfigError(
            f"the weights in {folder} lack {len(missing)} tensors, for example {missing[0]}. Download the folder "
            "again, or use a library version with the same weight names."
        )


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Pass the folder that holds config.json and model.safetensors.")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no model.safetensors. Download it, or convert pickled weights to it first.")
    return files


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Download the folder again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} is not a JSON object. Download the folder again.")
    return value


def _three(values: Sequence[float | int]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ConfigError(f"the encoder's colour statistics are {list(values)}. Expected 3: red, green and blue.")
    red, green, blue = map(float, values)
    return red, green, blue
