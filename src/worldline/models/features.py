"""The model family `features`: a learned predictor on the features of a frozen pretrained image encoder.

The encoder is DINOv2, DINOv3 or V-JEPA 2 from transformers, or a plain ViT or a CNN from timm. It is read from a local
folder: nothing is downloaded, and nothing is unpickled. Its weights then belong to the state of the model.

    config = features_config(inputs=("camera",), folder="dinov2-small")
    model = Features.from_folder(schema=schema, config=replace(config, depth=3))  # then fit_normaliser, then train

A frame becomes a grid of patches, each reduced to its principal components. The predictor is a transformer, conditioned
on the inputs. A patch attends to the other patches of its frame and to its own past.

Each distinct frame is encoded once, which is most of the cost of training on many frames. Planning needs no encoder.
The weights keep the names of their library, so a bundle needs a version of the library with the same names.

Sources: DINO-WM (2411.04983) for predicting frozen patch features; V-JEPA 2-AC (2506.09985) for the open-loop term;
TimeSformer (2102.05095) for divided space-time attention; LeWM (2603.19312) for AdaLN-zero on the actions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from worldline.config import Depth, Size, SizeOrZero
from worldline.device import autocast, device_of
from worldline.errors import ConfigError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel, unroll
from worldline.models.frozen_encoder import EncoderConfig, FrozenEncoder, Library, Memo, View, encoder_config
from worldline.models.layers.codes import Observations, Observed, code_size, join_codes, split_signals
from worldline.models.layers.gather import share_mean, whole_mean
from worldline.models.layers.mlp import mlp
from worldline.models.layers.standardizer import MIN_CHANGE, InputNormaliser, Normaliser
from worldline.models.layers.transformer import Cache, CausalTransformer
from worldline.schema import Schema

MAX_FITTED_FRAMES: Final = 1024
"""Maximum number of frames that `fit_normaliser` encodes."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(ModelConfig, EncoderConfig):
    """The frozen encoder and the sizes of the predictor; created by `features_config`.

    Args:
        inputs: observation signals, at least one image. Vectors and discrete values bypass the encoder.
        components: principal components kept per patch, or of the pooled vector; 0 keeps all channels unrotated.
        width: of the predictor, a multiple of twice `num_heads`.
        depth: rounds of attention in the predictor, each first in time, then in space.
        num_heads: attention heads.
        span: frames that attention in time covers, including the present one.
    """

    components: SizeOrZero = 32
    width: Size = 128
    depth: Depth = 2
    num_heads: Size = 4
    span: Size = 3


def features_config(*, inputs: tuple[str, ...], folder: Path | str, library: Library | None = None) -> FeaturesConfig:
    """The config for the encoder in a folder, with default sizes for its type; `dataclasses.replace` changes them.

    Args:
        inputs: see `FeaturesConfig`.
        folder: as written by `save_pretrained`, or by timm's `save_for_hf` with `safe_serialization=True`. It holds
            `config.json` and weights as `model.safetensors` (sharded files only for transformers). Models from
            transformers with another colour scaling than ImageNet also need `preprocessor_config.json`.
        library: that wrote the folder, "transformers" or "timm"; inferred from `config.json` by default.

    Raises:
        ConfigError: the folder does not exist, a file is missing or damaged, or timm does not know the architecture.
        MissingExtraError: timm wrote the folder and is not installed.
    """
    return FeaturesConfig(inputs=inputs, **asdict(encoder_config(folder, library)))


class FeaturePredictor(nn.Module):
    """Predicts the change of a frame from the frame, its past and the inputs.

    In each round every patch attends to its own past, then to its frame. The codes of vectors and discrete values are
    one additional token of the frame.

    Args:
        config: gives the sizes.
        places: number of tokens of all images together.
        size: features per image token.
        num_codes: size of all codes together; 0 for none.
        num_inputs: size of one step's inputs.
    """

    def __init__(self, config: FeaturesConfig, *, places: int, size: int, num_codes: int, num_inputs: int) -> None:
        super().__init__()
        width, heads = config.width, config.num_heads
        self.places, self.size, self.num_codes = places, size, num_codes
        self.num_tokens = places + (num_codes > 0)
        self.inputs = mlp([num_inputs, width, width])
        self.enter = nn.Linear(size, width)
        self.leave = nn.Linear(width, size)
        self.enter_codes = nn.Linear(num_codes, width) if num_codes else None
        self.leave_codes = nn.Linear(width, num_codes) if num_codes else None
        self.norm = nn.LayerNorm(width)
        self.place = nn.Parameter(torch.randn(self.num_tokens, width))
        self.time = nn.ModuleList(
            CausalTransformer(width=width, depth=1, num_heads=heads, span=config.span, condition=width)
            for _ in range(config.depth)
        )
        self.space = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.depth if self.num_tokens > 1 else 0)
        )

    def forward(
        self, frames: Float[Tensor, "B T D"], known: Float[Tensor, "B T I"], past: tuple[Cache, ...]
    ) -> tuple[Float[Tensor, "B T D"], tuple[Cache, ...]]:
        """The change in each step, and the caches after the last step.

        Args:
            frames: features of T consecutive frames.
            known: inputs after each frame.
            past: caches of the frames before, one per round; empty at the start.
        """
        tokens = self._enter(frames)
        batch, steps, number, _ = tokens.shape
        condition = self.inputs(known).repeat_interleave(number, 0)
        caches = []
        for layer, time in enumerate(self.time):
            alone = tokens.transpose(1, 2).flatten(0, 1)  # each token with its own past
            alone, cache = time(alone, condition, past[layer] if past else None)
            tokens = alone.unflatten(0, (batch, number)).transpose(1, 2)
            if number > 1:
                tokens = self.space[layer](tokens.flatten(0, 1)).unflatten(0, (batch, steps))
            caches.append(cache)
        tokens = self.norm(tokens)
        changes = [self.leave(tokens[:, :, : self.places]).flatten(2)]
        if self.leave_codes is not None:
            changes.append(self.leave_codes(tokens[:, :, -1]))
        return torch.cat(changes, -1).float(), tuple(caches)

    def _enter(self, frames: Float[Tensor, "B T D"]) -> Float[Tensor, "B T Q width"]:
        images, codes = frames.split([self.places * self.size, self.num_codes], -1)
        tokens = self.enter(images.unflatten(-1, (self.places, self.size)))
        if self.enter_codes is not None:
            tokens = torch.cat([tokens, self.enter_codes(codes)[:, :, None]], 2)
        return torch.as_tensor(tokens + self.place)


@dataclass(frozen=True, kw_only=True)
class FrameBelief(Belief):
    """The present frame, and the attention caches of the frames before it.

    Args:
        present: features of the present frame.
        past: one cache per round; its batch axis holds the tokens of each batch entry in turn; empty at the start.
        num_tokens: tokens per frame.
    """

    present: Float[Tensor, "B D"]
    past: tuple[Cache, ...]
    num_tokens: int

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The present frame; S is 1."""
        return self.present[:, None]

    def select(self, index: Tensor) -> FrameBelief:
        """The beliefs of the batch entries in `index`."""
        rows = (index[:, None] * self.num_tokens + torch.arange(self.num_tokens, device=index.device)).flatten()
        past = tuple(cache.select(rows) for cache in self.past)
        return FrameBelief(present=self.present[index], past=past, num_tokens=self.num_tokens)


class Features(WorldModel):
    """The model. Its features are the patches of each image input in turn, then the codes of all other inputs.

    The constructor does not load encoder weights. They come from a bundle or, before training, from `from_folder`.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `features_config`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: no input is an image, an image has neither 1 nor 3 channels, or the encoder does not fit.
        MissingExtraError: the encoder's library is not installed.
    """

    Config = FeaturesConfig
    change: Tensor

    def __init__(self, *, schema: Schema, config: FeaturesConfig) -> None:
        super().__init__()
        self.schema, self.config, self.context = schema, config, config.span
        images, self.others = split_signals(schema, config.inputs)
        if not images:
            raise ConfigError(
                f"none of the inputs {', '.join(config.inputs)} is an image. Add one, or choose the family 'jepa'."
            )
        odd = next((signal for signal in images if signal.shape[2] not in (1, 3)), None)
        if odd is not None:
            raise ConfigError(f"image {odd.name!r} has {odd.shape[2]} channels. The encoder needs 1 or 3.")
        self.cameras = tuple(signal.name for signal in images)
        self.encoder = FrozenEncoder(config)
        places, channels = self.encoder.places, self.encoder.channels
        views = [View(places=places, channels=channels, components=config.components) for _ in self.cameras]
        self.views = nn.ModuleList(views)
        self.view_size = places * views[0].size
        self.num_seen = len(views) * self.view_size
        self.memo = Memo(self.view_size)
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.codes = Normaliser(sum(code_size(signal) for signal in self.others))
        num_codes = len(self.codes.mean)
        self.register_buffer("change", torch.ones(self.num_seen + num_codes))  # root mean square change in one step
        self.inputs = InputNormaliser(schema)
        self.predictor = FeaturePredictor(
            config, places=len(views) * places, size=views[0].size, num_codes=num_codes, num_inputs=self.inputs.size
        )
        self.rollout_width = 2 * config.depth * config.width * self.predictor.num_tokens

    @classmethod
    def from_folder(cls, *, schema: Schema, config: FeaturesConfig) -> Features:
        """An untrained model with the encoder's weights from the folder in its config; see `load_encoder`."""
        model = cls(schema=schema, config=config)
        load_encoder(model, config.encoder)
        return model

    @torch.no_grad()
    def fit_normaliser(self, window: Window) -> None:
        """Fits the scales of all signals, the components of patches and the sizes of changes, on observed values.

        At most about 1,000 frames are encoded. A signal that was never observed keeps its scale.

        Raises:
            ConfigError: the encoder has no weights yet.
        """
        if not self.encoder.loaded:
            raise ConfigError("the encoder has no weights. Build the model with Features.from_folder.")
        known = self._known(window.observed)[..., self.num_seen :].all(-1)
        if self.others and known.any():
            self.codes.fit(join_codes(self.others, self._filled(window.observations, window.observed))[known])
        self.inputs.fit(window.past)
        # The encoder is slow, so a part of the windows fits components and changes.
        first = slice(max(1, MAX_FITTED_FRAMES // known.shape[1]))
        observations = {name: values[first] for name, values in window.observations.items()}
        observed = {name: flags[first] for name, flags in window.observed.items()}
        with autocast(device_of(self)):
            patches = [self.encoder(observations[name][observed[name]]) for name in self.cameras]
        for view, seen in zip(self._views(), patches, strict=True):
            if len(seen):
                view.fit(seen)
        self.memo.forget()
        reduced = [view(seen).flatten(1).float() for view, seen in zip(self._views(), patches, strict=True)]
        frames, flags = self._assemble(reduced, observations, observed)
        both = flags[:, 1:] & flags[:, :-1]
        change = ((frames.diff(dim=1).square() * both).sum((0, 1)) / both.sum((0, 1))).sqrt()
        self.change.copy_(torch.where(both.any(0).any(0), change.clamp(min=MIN_CHANGE), self.change))

    def encode(self, window: Window, *, generator: torch.Generator) -> FrameBelief:
        """The last frame with the caches of all frames before; missing parts of a frame are predicted."""
        frames, flags = self._frames(window.observations, window.observed)
        known = self.inputs(window.past)[:, 0]
        belief = self.belief(frames[:, 0])
        for step in range(known.shape[1]):
            belief = self._update(belief, known[:, step], frames[:, step + 1], flags[:, step + 1])
        return belief

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> FrameBelief:
        """The new frame; its missing parts are predicted."""
        frames, flags = self._frames(step.observations, step.observed)
        return self._update(FrameBelief.of(belief), self.inputs(step.past)[:, 0, 0], frames[:, 0], flags[:, 0])

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Deterministic: S is 1 and `generator` is unused. Needs no encoder."""
        known = self.inputs(inputs)
        index = torch.arange(len(known), device=known.device).repeat_interleave(known.shape[1])
        return unroll(FrameBelief.of(belief).select(index), known, self._step)

    def belief(self, features: Float[Tensor, "B D"]) -> FrameBelief:
        """The frame, without earlier frames."""
        return FrameBelief(present=features, past=(), num_tokens=self.predictor.num_tokens)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Squared errors with teacher forcing, and open loop from the first frame.

        Vectors and discrete values have separate terms, divided by the error of persistence, so that slow and fast
        signals get equal weight. Only predictions from completely observed frames count. A missing frame is replaced by
        the mean frame.
        """
        frames, flags = self._frames(window.observations, window.observed)
        known, start, target = self.inputs(window.past)[:, 0], frames[:, :-1], frames[:, 1:]
        one_step, _ = self._predict(start, known, ())
        open_loop = self.rollout(self.belief(frames[:, 0]), window.past, generator=generator).features[:, 0, 0]
        complete = flags.all(-1, keepdim=True)
        # Predictions from a frame with missing parts are not counted, because the mean stands for these parts.
        passes = {
            "one_step": (one_step, start, flags[:, 1:] & complete[:, :-1]),
            "open_loop": (open_loop, frames[:, :1].expand_as(target), flags[:, 1:] & complete[:, :1]),
        }
        terms, seen, exact = {}, slice(self.num_seen), slice(self.num_seen, None)
        for name, (predicted, before, compared) in passes.items():
            error, persistence, weight = (predicted - target).square(), (before - target).square(), compared.float()
            terms[name] = share_mean(error[..., seen], weight[..., seen])
            if self.others:
                relative = error / (whole_mean(persistence, weight, (0, 1)) + self.change.square())
                terms[f"{name}_signals"] = share_mean(relative[..., exact], weight[..., exact])
        return Losses(terms=terms, weights=dict.fromkeys(terms, 1.0))

    @torch.no_grad()
    def _frames(
        self, observations: Observations, observed: Observed
    ) -> tuple[Float[Tensor, "*lead D"], Bool[Tensor, "*lead D"]]:
        """Features (0 where missing), and which of them were observed."""
        reduced = [
            self._reduced(number, observations[name][observed[name]])  # missing frames are not encoded
            for number, name in enumerate(self.cameras)
        ]
        return self._assemble(reduced, observations, observed)

    def _reduced(self, camera: int, images: UInt8[Tensor, "M height width C"]) -> Float[Tensor, "M _"]:
        """The reduced patches of each image of one camera."""

        def make(fresh: UInt8[Tensor, "m height width C"]) -> Float[Tensor, "m _"]:
            return torch.as_tensor(self._views()[camera](self.encoder(fresh)).flatten(1).float())

        return self.memo.recall(images, make, maker=str(camera))

    def _assemble(
        self, reduced: list[Float[Tensor, "_ _"]], observations: Observations, observed: Observed
    ) -> tuple[Float[Tensor, "*lead D"], Bool[Tensor, "*lead D"]]:
        known, parts = self._known(observed), []
        for name, seen in zip(self.cameras, reduced, strict=True):
            part = torch.zeros(*observed[name].shape, self.view_size, device=seen.device)
            part[observed[name]] = seen
            parts.append(part)
        if self.others:
            scores = self.codes(join_codes(self.others, self._filled(observations, observed)))
            parts.append(scores.where(known[..., self.num_seen :], 0.0))
        return torch.cat(parts, -1), known

    def _filled(self, observations: Observations, observed: Observed) -> dict[str, Tensor]:
        flags = {s.name: observed[s.name].reshape(observed[s.name].shape + (1,) * len(s.shape)) for s in self.others}
        return {name: observations[name].where(flag, 0) for name, flag in flags.items()}

    def _known(self, observed: Observed) -> Bool[Tensor, "*lead D"]:
        sizes = dict.fromkeys(self.cameras, self.view_size) | {s.name: code_size(s) for s in self.others}
        return torch.cat([observed[name][..., None].repeat_interleave(n, -1) for name, n in sizes.items()], -1)

    def _update(
        self, belief: FrameBelief, known: Float[Tensor, "B I"], frame: Float[Tensor, "B D"], flags: Bool[Tensor, "B D"]
    ) -> FrameBelief:
        predicted = self._step(belief, known)
        return replace(predicted, present=frame.where(flags, predicted.present))

    def _step(self, belief: FrameBelief, known: Float[Tensor, "B I"]) -> FrameBelief:
        """The predicted frame one step later."""
        present, past = self._predict(belief.present[:, None], known[:, None], belief.past)
        return FrameBelief(present=present[:, 0], past=past, num_tokens=belief.num_tokens)

    def _predict(
        self, frames: Float[Tensor, "B T D"], known: Float[Tensor, "B T I"], past: tuple[Cache, ...]
    ) -> tuple[Float[Tensor, "B T D"], tuple[Cache, ...]]:
        """The frames one step later. The network's output is scaled by the usual change of each feature."""
        step, past = self.predictor(frames, known, past)
        return frames + step * self.change, past

    def _views(self) -> list[View]:
        return cast("list[View]", list(self.views))


def _forget(model: Features, keys: Any) -> None:
    del keys
    model.memo.forget()


def load_encoder(model: Features, folder: Path | str) -> None:
    """Loads the encoder's weights from `folder` into `model`, in place. Call it first on a new model.

    Args:
        model: with the config of this folder; not on the meta device.
        folder: see `features_config`.

    Raises:
        ConfigError: the weights in the folder are damaged, or the config belongs to other weights.
    """
    model.encoder.load(Path(folder))
    model.memo.forget()
