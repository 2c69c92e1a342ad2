"""A pretrained image encoder from a folder on this machine: DINOv2, DINOv3, V-JEPA 2, or a ViT or CNN from timm.

Nothing is fetched, nothing is unpickled, and nothing in the folder can name code to run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from worldline.errors import ConfigError, MissingExtraError, UnknownNameError

ENCODERS: Final = {
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    "dinov3_vit": ("DINOv3ViTConfig", "DINOv3ViTModel"),
    "vjepa2": ("VJEPA2Config", "VJEPA2Model"),
}
"""Of transformers, per `model_type`: the classes of its configuration and of the model."""
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of red, green and blue in [0, 1], where a folder does not give its own."""
CHUNK: Final = 128
"""Frames that are encoded at once."""
MEMO_BYTES: Final = 200_000_000
"""Memory that a `Memo` takes at most."""
ROW_BYTES: Final = 1000
"""Memory of one row of a `Memo` beside its numbers: the key, the place in the dictionary and the tensor's header."""
PICKLED: Final = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
CONVERT: Final = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('{0}', weights_only=True); "
    "s.save_file({{k: v.clone() for k, v in w.items()}}, 'model.safetensors', metadata={{'format': 'pt'}})\""
)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A frozen encoder and what is kept of a frame; made by `encoder_config`.

    Args:
        encoder: the folder that the weights come from; not needed once they are loaded.
        architecture: what builds the encoder, JSON from the folder.
        weights_sha256: of the weights in the folder.
        library: that builds the encoder, "transformers" or "timm".
        pixel_mean: of red, green and blue in [0, 1], as the encoder was trained.
        pixel_deviation: the same.
        image_side: pixels of the square to which every image is scaled, a multiple of the encoder's patch. 112 is one
            of 8, 14 and 16.
        stride: pixels from one patch to the next, of a network whose maps shrink from stage to stage: the last map of
            this stride is taken, and later stages are left out. 0 for a plain ViT, whose patches are its own.
        pooling: what stands for a frame: its "patches", their "mean", or the class token "cls" where there is one.
        grid: cells a side to which patches are averaged, at most as many as there are.
    """

    encoder: str
    architecture: str
    weights_sha256: str
    library: str = "transformers"
    pixel_mean: tuple[float, float, float] = IMAGENET[0]
    pixel_deviation: tuple[float, float, float] = IMAGENET[1]
    image_side: int = 112
    stride: int = 0
    pooling: str = "patches"
    grid: int = 4

    def __post_init__(self) -> None:
        for name, known in (("library", ("transformers", "timm")), ("pooling", ("patches", "mean", "cls"))):
            if getattr(self, name) not in known:
                raise ConfigError(str(UnknownNameError(name, getattr(self, name), known)))
        for name in ("image_side", "grid"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        if self.stride < 0:
            raise ConfigError(f"stride is {self.stride}. It must not be negative; 0 is for a plain ViT.")
        if min(self.pixel_deviation) <= 0:
            raise ConfigError(f"pixel_deviation is {self.pixel_deviation}. Each must be positive.")


def encoder_config(folder: Path | str, library: str | None) -> EncoderConfig:
    """The config for the encoder in a folder; arguments and errors are those of `features_config`."""
    path = Path(folder)
    files = _weight_files(path)
    whole = _read_json(path / "config.json")
    if library is None:
        library = "timm" if "architecture" in whole else "transformers"
    if library == "timm":
        colours = whole.get("pretrained_cfg", whole)
        mean, deviation = colours.get("mean", IMAGENET[0]), colours.get("std", IMAGENET[1])
        whole = {"architecture": whole.get("architecture"), "model_args": whole.get("model_args", {})}
    else:
        found = [path / name for name in ("preprocessor_config.json", "video_preprocessor_config.json")]
        colours = next((_read_json(file) for file in found if file.exists()), {})
        mean, deviation = colours.get("image_mean", IMAGENET[0]), colours.get("image_std", IMAGENET[1])
    made = EncoderConfig(
        encoder=str(path),
        architecture=json.dumps(whole, sort_keys=True),
        weights_sha256=_sha256(files),
        library=library,
        pixel_mean=_three(mean),
        pixel_deviation=_three(deviation),
    )
    if library == "timm" and _shrinks(made):
        return replace(made, image_side=64, stride=16)  # a third of the time that 128 pixels take
    return made


class FrozenEncoder(nn.Module):
    """The pretrained network: never trained, always in evaluation mode, without weights until they are loaded.

    Raises:
        ConfigError: the library cannot build it, or image side, grid or pooling do not fit it.
        MissingExtraError: the library is not installed.
    """

    loaded: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        built = _build(config)
        self.stage = _stage(built, config.stride) if config.stride else None
        if self.stage is not None:
            found = built.feature_info[self.stage]
            patch, channels = found["reduction"], found["num_chs"]
        elif config.library == "timm":
            patch, channels = built.patch_embed.patch_size, built.embed_dim
        else:
            patch, channels = built.config.patch_size, built.config.hidden_size
        patch = patch if isinstance(patch, int) else patch[0]
        self.channels = int(channels)
        self.cells = config.image_side // patch
        self.is_video = json.loads(config.architecture).get("model_type") == "vjepa2"
        self.places = config.grid**2 if config.pooling == "patches" else 1
        if config.image_side % patch:
            fit = max(1, round(config.image_side / patch)) * patch
            raise ConfigError(f"image_side is {config.image_side}, and the patches are {patch} wide. Set it to {fit}.")
        if config.pooling == "patches" and config.grid > self.cells:
            raise ConfigError(f"grid is {config.grid}, and a frame has {self.cells} patches a side. Lower it.")
        has_class = getattr(built.embeddings if config.library == "transformers" else built, "cls_token", None)
        if config.pooling == "cls" and has_class is None:
            raise ConfigError("pooling is 'cls', and this encoder has no class token. Choose 'mean' or 'patches'.")
        self.network = _with_all_buffers(built).requires_grad_(False)
        self.register_buffer("loaded", torch.zeros((), dtype=torch.bool))
        self.train()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Itself, in evaluation mode whatever `mode` says."""
        del mode
        super().train(False)
        return self

    def load(self, folder: Path) -> None:
        """Takes the weights from `folder`; errors are those of `load_encoder`."""
        found = _sha256(_weight_files(folder))
        if found != self.config.weights_sha256:
            raise ConfigError(
                f"the weights in {folder} have sha256 {found[:12]}..., and the config was made for others, "
                f"{self.config.weights_sha256[:12]}... Give their folder, or make the config anew with features_config."
            )
        source = _with_all_buffers(_build(self.config, folder))
        self.network.load_state_dict(source.state_dict())
        self.loaded.fill_(True)

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "M height width C"]) -> Float[Tensor, "M P channels"]:
        """The patches of the grid, row by row, or the one pooled vector, as the library gives them."""
        if not len(images):
            return torch.zeros(0, self.places, self.channels, device=images.device)
        return torch.cat([self._encode(some) for some in images.split(CHUNK)])

    def _encode(self, images: UInt8[Tensor, "M height width C"]) -> Float[Tensor, "M P channels"]:
        config, side = self.config, self.config.image_side
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if pixels.shape[2:] != (side, side):
            pixels = interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (
            torch.tensor(each, device=pixels.device)[:, None, None]
            for each in (config.pixel_mean, config.pixel_deviation)
        )
        tokens = self._tokens((pixels - mean) / deviation).float()  # a single channel becomes three alike
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
            (found,) = network.forward_intermediates(
                pixels, indices=[self.stage], stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
            if found.shape[2:] != (self.cells, self.cells):
                raise ConfigError(
                    f"of {self.config.image_side} pixels the encoder makes {found.shape[2]} by {found.shape[3]} "
                    f"patches, and stride {self.config.stride} says {self.cells} by {self.cells}. Take another stride."
                )
            return torch.as_tensor(found).flatten(2).transpose(1, 2)
        if self.config.library == "timm":
            return torch.as_tensor(network.forward_features(pixels))
        if self.is_video:  # a frame is a clip in which nothing moves
            clip = pixels[:, None].expand(-1, network.config.tubelet_size, -1, -1, -1)
            return torch.as_tensor(network(pixel_values_videos=clip).last_hidden_state)
        return torch.as_tensor(network(pixel_values=pixels).last_hidden_state)


class View(nn.Module):
    """Patches of one camera as z-scores: centred at each place, scaled by channel, rotated to principal components.

    What a place always shows is taken away, so that components are spent on what differs between frames. All
    components are divided by one number, so that a squared error weighs them as it would weigh the channels.

    Args:
        places: P.
        channels: of a patch.
        components: that are kept; 0 keeps the channels.
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor | None

    def __init__(self, *, places: int, channels: int, components: int) -> None:
        super().__init__()
        if components > channels:
            raise ConfigError(f"components is {components}, and a patch has {channels} channels. Lower it.")
        self.size = components or channels
        self.register_buffer("mean", torch.zeros(places, channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("basis", torch.eye(channels, components) if components else None)

    @torch.no_grad()
    def fit(self, patches: Float[Tensor, "M P channels"]) -> None:
        """Takes means, deviations and components from patches of many frames."""
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
        """z-scores, or the components of them."""
        scores = (patches - self.mean) / self.deviation
        return scores if self.basis is None else torch.as_tensor(scores @ self.basis)


class Memo:
    """What was made of each distinct frame, so that none is encoded twice while the weights stay as they are.

    A frame is known by its pixels, so any change of one makes it another. Rows are kept in memory as float32. Beyond
    `MEMO_BYTES` the least recently used ones are dropped. Copies, and what is pickled, begin empty: their weights may
    go other ways.

    Args:
        size: numbers made of a frame.
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
        """Of each image what `make` gives for it, which is asked only for those not seen before, each of them once.

        Args:
            images: frames.
            make: is called at most once, and must not depend on which images are together.
            maker: tells what two makers give for the same image apart.
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
        """Empties it; due whenever the weights change."""
        with self._lock:
            self.rows.clear()

    def _keep(self, used: Mapping[bytes, Tensor]) -> None:
        """Makes these rows the most recently used ones, and drops the least recently used beyond the limit."""
        with self._lock:
            for key, row in used.items():
                self.rows[key] = row
                self.rows.move_to_end(key)
            while len(self.rows) * (4 * self.size + ROW_BYTES) > MEMO_BYTES:
                self.rows.popitem(last=False)


def _fingerprints(images: UInt8[Tensor, "M height width C"], maker: str) -> list[bytes]:
    """Of each image 16 bytes, which differ for another size, maker or precision of products too."""
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
    """The library's network, with weights as they begin, or with those in `folder`."""
    with _explained(config):
        return (_build_timm if config.library == "timm" else _build_transformers)(config, folder)


@contextmanager
def _explained(config: EncoderConfig) -> Iterator[None]:
    """Whatever the library raises becomes a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.library} cannot build the encoder of {config.encoder}: {error}. Check its config.json, and that "
            "its weights belong to it."
        ) from error


def _build_transformers(config: EncoderConfig, folder: Path | None) -> Any:
    """Only the sizes in the architecture are read: nothing in it can name code or a place to fetch from."""
    architecture, library = json.loads(config.architecture), _library("transformers")
    kind = architecture.get("model_type")
    if kind not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ConfigError(f"{config.encoder} holds a model of type {kind!r}. Known to this family: {known}.")
    config_class, model_class = (getattr(library, name) for name in ENCODERS[kind])
    general = inspect.signature(library.PretrainedConfig).parameters
    own = {name for name in inspect.signature(config_class).parameters if name not in general and name[0] != "_"}
    sizes = {name: value for name, value in architecture.items() if name in own}
    if kind == "vjepa2":  # its positions are those of a clip of this size
        sizes |= {"crop_size": config.image_side, "frames_per_clip": sizes.get("tubelet_size", 2)}
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
    """Only what describes the network is passed on, and nothing that tells timm to read or fetch a file."""
    if config.stride:
        network = _create_timm(config)
        network.prune_intermediate_layers([_stage(network, config.stride)], prune_norm=True)
    else:
        network = _create_timm(config, dynamic_img_size=True)
    if folder is not None:
        files = _weight_files(folder)
        if len(files) > 1:
            raise ConfigError(f"{folder} holds {len(files)} weight files. Leave one, model.safetensors.")
        tensors, due = load_file(files[0]), network.state_dict().keys()
        _refuse_missing(folder, due - tensors.keys())
        network.load_state_dict({name: tensors[name] for name in due})  # the classifier is left out
    return network


def _create_timm(config: EncoderConfig, **settings: bool) -> Any:
    """The whole network but for its classifier, with weights as they begin."""
    architecture, library = json.loads(config.architecture), _library("timm")
    name, given = architecture.get("architecture"), architecture.get("model_args", {})
    if not isinstance(name, str) or not library.is_model(name):
        raise ConfigError(f"{config.encoder} holds an architecture {name!r} that timm does not know. Update timm.")
    refused = sorted(given.keys() & inspect.signature(library.create_model).parameters.keys())
    if refused:
        raise ConfigError(f"{config.encoder}: model_args sets {', '.join(refused)}. Take it out of config.json.")
    return library.create_model(name, pretrained=False, **{**given, "num_classes": 0, **settings})


def _shrinks(config: EncoderConfig) -> bool:
    """Whether the maps of this network of timm shrink from stage to stage, unlike those of a plain ViT."""
    with _explained(config), torch.device("meta"):
        return len({stage["reduction"] for stage in _create_timm(config).feature_info}) > 1


def _stage(network: Any, stride: int) -> int:
    """The last stage whose map has this stride."""
    strides = [stage["reduction"] for stage in network.feature_info]
    if stride not in strides:
        raise ConfigError(
            f"stride is {stride}, and the encoder's maps have {', '.join(map(str, strides))}. Choose one."
        )
    return max(number for number, each in enumerate(strides) if each == stride)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "features") from error


def _with_all_buffers(network: nn.Module) -> nn.Module:
    """`network`, with those buffers in its state too that the library computes anew: a bundle has no other source."""
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer)
    return network


def _refuse_missing(folder: Path, names: Iterable[str]) -> None:
    missing = sorted(names)
    if missing:
        raise ConfigError(
            f"the weights in {folder} lack {len(missing)} tensors, {missing[0]} among them. Fetch the folder again, or "
            "take a version of the library that knows its names."
        )


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Give the one that holds config.json and model.safetensors.")
    files = sorted(folder.glob("model*.safetensors"))
    pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLED)
    if not files and pickled:
        raise ConfigError(f"{pickled[0]} is pickled, and is not opened. Convert it: {CONVERT.format(pickled[0].name)}")
    if not files:
        raise ConfigError(f"{folder} holds no model.safetensors. Fetch it into the folder; nothing is downloaded here.")
    return files


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Fetch the folder again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} holds no settings. Fetch the folder again.")
    return value


def _three(values: Sequence[float | int]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ConfigError(f"the encoder's colours are {list(values)}. It must take red, green and blue.")
    red, green, blue = map(float, values)
    return red, green, blue
