"""The model family `lewm`: LeWM as published, with a ViT encoder, a causal transformer as predictor, and SIGReg.

Its weights correspond one to one to stable-worldmodel; `lewm_checkpoint.py` reads those files. One step of the schema
is one frameskip block of the published model: its action concatenates all raw actions of the block.

Source: LeWM (arXiv 2603.19312); the encoder is ViT (arXiv 2010.11929).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from worldline.config import Depth, Share, Size, Weight
from worldline.errors import ConfigError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel
from worldline.models.layers.batch_norm import BatchNorm
from worldline.models.layers.gather import share_mean
from worldline.models.layers.regularizers import sigreg
from worldline.models.layers.standardizer import InputNormaliser
from worldline.models.lewm_predictor import Dropout, LewmPredictor
from worldline.models.lewm_rollout import Folded, fold, imagine
from worldline.schema import Kind, Schema, Signal

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)
"""Per colour (red, green, blue), in [0, 1]."""
TOKENS_AT_ONCE: Final = 2048
"""Tokens that the encoder processes at once on CPU. With more, activations leave the cache between two products, and
products in half precision lose a quarter of their speed."""
SCORES_AT_ONCE: Final = 2**17
"""Attention scores per head that are computed at once, so that they stay in the CPU cache."""


@dataclass(frozen=True, kw_only=True)
class LewmConfig(ModelConfig):
    """Sizes of the networks and weight of SIGReg; the defaults are the published 18.04 million parameters.

    Args:
        inputs: one camera with 3 colours; its sides are multiples of `patch`.
        latent_size: D, width of the encoder and the predictor.
        patch: side of a patch, pixels.
        depth: layers of the encoder.
        num_heads: attention heads of the encoder; must divide `latent_size`.
        projector_width: units of the hidden layer between a transformer and the latent.
        history: observations, with the inputs between them, that the predictor uses; at least 1.
        predictor_depth: layers of the predictor.
        predictor_heads: attention heads of the predictor.
        head_size: of each of the predictor's heads.
        predictor_width: units of the hidden layer in each block of the predictor.
        code_size: size of the first linear embedding of a step's inputs.
        dropout: rate in the predictor during training, at least 0 and below 1.
        sigreg_weight: weight of SIGReg. Unlike the published statistic, ours is not multiplied by the number of windows
            in a batch: the published 0.09 at 128 windows, or 0.36 at 32, is 11.52 here.
        num_slices: random directions of SIGReg per update.
    """

    latent_size: Size = 192
    patch: Size = 14
    depth: Depth = 12
    num_heads: Size = 3
    projector_width: Size = 2048
    history: Size = 3
    predictor_depth: Depth = 6
    predictor_heads: Size = 16
    head_size: Size = 64
    predictor_width: Size = 2048
    code_size: Size = 10
    dropout: Share = 0.1
    sigreg_weight: Weight = 11.52
    num_slices: Size = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.inputs) != 1:
            raise ConfigError(f"inputs is {self.inputs}. The family 'lewm' needs exactly one camera; name it.")
        if self.latent_size % self.num_heads:
            raise ConfigError(
                f"latent_size is {self.latent_size}. It must be a multiple of num_heads, {self.num_heads}."
            )


@cache
def _product() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """The oneDNN product of float32 matrices, x W' + b; None if torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile would call
    return None if operator is None else lambda values, weight, bias: operator(values, weight, bias, "none", [], "")


class WholeLinear(torch.autograd.Function):
    """A linear layer in float32 with oneDNN. Torch uses MKL, which is half as fast on some CPUs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The layer's output for `values` [..., in]."""
        product = _product()
        assert product is not None
        ctx.save_for_backward(values, weight)
        return product(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients with respect to values, weight and bias."""
        product, (values, weight) = _product(), ctx.saved_tensors
        assert product is not None
        gradient = gradients[0].flatten(0, -2)
        to_values = product(gradients[0], weight.t(), None) if ctx.needs_input_grad[0] else None
        return to_values, product(gradient.t(), values.flatten(0, -2).t(), None), gradient.sum(0)


class HalfAttention(torch.autograd.Function):
    """Attention in half precision on CPU, where torch's own takes 3 to 6 times as long.

    It processes a few frames at a time, so that their scores stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, joined: Float[Tensor, "M P joined"], num_heads: int) -> Float[Tensor, "M P D"]:
        """The attention output for concatenated queries, keys and values."""
        query, key, value = _by_head(joined.unflatten(-1, (3, num_heads, -1)))
        query = query * query.shape[-1] ** -0.5
        ctx.num_heads = num_heads
        kept = list[Tensor]()
        mixed = joined.new_empty(*joined.shape[:2], num_heads, query.shape[-1])
        for rows, frames in _some(query, num_heads):
            weights = torch.bmm(query[rows], key[rows].transpose(1, 2)).softmax(-1)
            kept.append(weights)
            _put(torch.bmm(weights, value[rows]), mixed[frames])
        ctx.save_for_backward(query, key, value, *kept)
        return mixed.flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Float[Tensor, "M P joined"], None]:
        """The gradient with respect to `joined`."""
        (query, key, value, *kept), num_heads = ctx.saved_tensors, ctx.num_heads
        (gradient,) = _by_head(gradients[0].unflatten(-1, (1, num_heads, -1)))
        out = gradients[0].new_empty(*gradients[0].shape[:2], 3, num_heads, query.shape[-1])
        to_query, to_key, to_value = out.unbind(2)
        for (rows, frames), weights in zip(_some(query, num_heads), kept, strict=True):
            through = torch.bmm(gradient[rows], value[rows].transpose(1, 2))
            scores = torch._softmax_backward_data(through, weights, -1, weights.dtype)
            _put(torch.bmm(scores, key[rows]), to_query[frames])
            _put(torch.bmm(scores.transpose(1, 2), query[rows]), to_key[frames])
            _put(torch.bmm(weights.transpose(1, 2), gradient[rows]), to_value[frames])
        out[:, :, 0] *= query.shape[-1] ** -0.5
        return out.flatten(2), None


def _some(query: Float[Tensor, "rows P size"], num_heads: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows that fit into the cache, with the slices of their frames."""
    size = -(-SCORES_AT_ONCE // query.shape[1] ** 2)
    for first in range(0, len(query) // num_heads, size):
        yield slice(first * num_heads, (first + size) * num_heads), slice(first, first + size)


def _put(by_head: Float[Tensor, "rows P size"], into: Float[Tensor, "M P heads size"]) -> None:
    into.copy_(by_head.unflatten(0, (-1, into.shape[2])).transpose(1, 2))


def _by_head(joined: Float[Tensor, "M P parts heads size"]) -> Float[Tensor, "parts rows P size"]:
    """One row per head of each frame."""
    return torch.as_tensor(joined.permute(2, 0, 3, 1, 4).flatten(1, 2))


class EncoderLayer(nn.Module):
    """Attention among the tokens of a frame and a two-layer network, with residual connections."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention = nn.LayerNorm(width, eps=1e-12)
        self.joined = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Float[Tensor, "M P D"], kind: torch.dtype) -> Float[Tensor, "M P D"]:
        """The output tokens; products are computed in `kind`."""
        joined = _linear(self.joined, self.before_attention(tokens).to(kind))
        if kind is torch.bfloat16 and joined.device.type == "cpu":
            mixed = HalfAttention.apply(joined, self.num_heads)  # type: ignore[no-untyped-call]  # torch has no types here
        else:
            query, key, value = joined.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self._widen(tokens + _linear(self.out, mixed), kind)

    def first(self, tokens: Float[Tensor, "M P D"], kind: torch.dtype) -> Float[Tensor, "M D"]:
        """The output of the first token only, which is all that the last layer needs, in a tenth of the time.

        With one query, keys and values need not be computed: q · (K x) = (qK) · x, and Σ a (V x) = V (Σ a x).
        """
        seen = self.before_attention(tokens).to(kind)
        to_query, to_key, to_value = self.joined.weight.to(kind).unflatten(0, (3, self.num_heads, -1))
        bias, key_bias, value_bias = self.joined.bias.to(kind).unflatten(0, (3, self.num_heads, -1))
        query = torch.einsum("md,hsd->mhs", seen[:, 0], to_query) + bias
        scores = torch.einsum("mhs,hsd->mhd", query, to_key) @ seen.transpose(1, 2)
        scores = scores + (query * key_bias).sum(
            -1, keepdim=True
        )  # equal for all keys, so softmax cancels it; kept for the gradient of the bias
        weights = (scores.float() * query.shape[-1] ** -0.5).softmax(-1).to(kind)
        mixed = torch.einsum("mhd,hsd->mhs", weights @ seen, to_value) + value_bias
        return self._widen(tokens[:, 0] + _linear(self.out, mixed.flatten(1)), kind)

    def _widen(self, tokens: Float[Tensor, "*any D"], kind: torch.dtype) -> Float[Tensor, "*any D"]:
        inner = gelu(_linear(self.up, self.before_mlp(tokens).to(kind)))
        return tokens + _linear(self.down, inner)


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    if values.dtype is torch.float32 and values.device.type == "cpu" and _product() is not None:
        return torch.as_tensor(WholeLinear.apply(values, layer.weight, layer.bias))  # type: ignore[no-untyped-call] # as above
    return linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))


class Encoder(nn.Module):
    """A vision transformer that returns the class token of each frame.

    Args:
        signal: an image with 3 colours.
        config: see `LewmConfig`.
    """

    def __init__(self, signal: Signal, config: LewmConfig) -> None:
        super().__init__()
        high, wide, colours = signal.shape
        if colours != 3 or high % config.patch or wide % config.patch:
            raise ConfigError(
                f"image {signal.name!r} has shape {signal.shape}. The family 'lewm' takes 3 colours, and sides that "
                f"are multiples of its patch, {config.patch}. Scale the image, or set patch."
            )
        self.patch = config.patch
        width = config.latent_size
        num_patches = (high // self.patch) * (wide // self.patch)
        self.from_pixels = nn.Linear(self.patch**2 * 3, width)
        self.first = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty(1 + num_patches, width))
        self.layers = nn.ModuleList(EncoderLayer(width, config.num_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1 or name == "first":
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: UInt8[Tensor, "M height width 3"], observed: Bool[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """The class token of each frame; a missing frame is replaced by the mean colour of ImageNet."""
        device = images.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.position.dtype
        limit = max(1, TOKENS_AT_ONCE // len(self.position)) if device == "cpu" else max(1, len(images))
        size = -(-len(images) // max(1, -(-len(images) // limit)))  # equal parts
        with torch.autocast(device, enabled=False):  # only products use `kind`; residual sums stay in full precision
            pairs = zip(images.split(size), observed.split(size), strict=True)
            return torch.cat([self._encode(some, seen, kind) for some, seen in pairs])

    def _encode(self, images: Tensor, observed: Tensor, kind: torch.dtype) -> Float[Tensor, "M D"]:
        patches = _linear(self.from_pixels, self._patches(images, observed).to(kind))
        first = self.first.expand(len(images), 1, -1)
        tokens = torch.cat([first, patches.to(first.dtype)], 1) + self.position
        *layers, last = self.layers
        for layer in layers:
            tokens = layer(tokens, kind)
        assert isinstance(last, EncoderLayer)  # for the type checker
        return torch.as_tensor(self.norm(last.first(tokens, kind)))

    def _patches(self, images: Tensor, observed: Tensor) -> Float[Tensor, "M P pixels"]:
        """The pixels of each patch by row, column and colour, normalised with the statistics of ImageNet."""
        tiles = images.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch)).transpose(2, 3)
        pixels = tiles.flatten(3).flatten(1, 2).to(self.position.dtype)
        colours = IMAGENET_MEAN, IMAGENET_DEVIATION
        mean, deviation = (pixels.new_tensor(each).mul(255).repeat(self.patch**2) for each in colours)
        return torch.as_tensor(pixels.sub_(mean).div_(deviation).where(observed[:, None, None], 0.0))


@dataclass(frozen=True, kw_only=True)
class LatentHistory(Belief):
    """The latents of the last steps, at most `history`, and the inputs between them.

    Args:
        latents: the last one is the present.
        inputs: z-scores.
    """

    latents: Float[Tensor, "B K D"]
    inputs: Float[Tensor, "B K-1 I"]

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The present latent; S is 1."""
        return self.latents[:, -1:]


class Lewm(WorldModel):
    """The model. Its memory is limited to `history` observations.

    The latent of a missing image is predicted; at the start it is that of ImageNet's mean colour. Missing images do not
    count in the loss.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `LewmConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: the input is not an image with 3 colours, or its sides are not multiples of the patch.
    """

    Config = LewmConfig

    def __init__(self, *, schema: Schema, config: LewmConfig) -> None:
        super().__init__()
        self.schema, self.config, self.context = schema, config, config.history
        camera = schema[config.inputs[0]]
        if camera.kind is not Kind.IMAGE:
            raise ConfigError(f"input {camera.name!r} is a {camera.kind}. The family 'lewm' needs an image signal.")
        self.camera = camera.name
        self.inputs = InputNormaliser(schema)
        width = config.latent_size
        self.encoder = Encoder(camera, config)
        self.projector = _projector(config)
        self.to_codes = nn.Sequential(
            nn.Linear(self.inputs.size, config.code_size),
            nn.Linear(config.code_size, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )
        sizes = {"num_heads": config.predictor_heads, "head_size": config.head_size, "hidden": config.predictor_width}
        self.predictor = LewmPredictor(history=config.history, width=width, depth=config.predictor_depth, **sizes)
        self.from_predictor = _projector(config)
        self._ready: dict[torch.dtype, tuple[object, Folded]] = {}

    def fit_normaliser(self, window: Window) -> None:
        """Fits actions and exogenous inputs; images are normalised with the statistics of ImageNet."""
        self.inputs.fit(window.past)

    def encode(self, window: Window, *, generator: torch.Generator) -> LatentHistory:
        """The history up to the last observation; the latents of missing images are predicted."""
        images, seen = window.observations[self.camera], window.observed[self.camera]
        start = max(0, seen.shape[1] - self.config.history)
        if not seen[:, start:].all():
            start = 0
        latents = self._encode_images(images[:, start:], seen[:, start:])
        inputs = self.inputs(window.past)[:, 0, start:]
        belief = LatentHistory(latents=latents[:, :1], inputs=inputs[:, :0])
        for step in range(1, latents.shape[1]):
            now = inputs[:, step - 1 : step]
            belief = self._update(belief, now, latents[:, step], seen[:, start + step], generator)
        return belief

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> LatentHistory:
        """The history with the latent of the new image, or the predicted one if it is missing."""
        assert isinstance(belief, LatentHistory)
        seen = step.observed[self.camera]
        latents = self._encode_images(step.observations[self.camera], seen)
        return self._update(belief, self.inputs(step.past)[:, 0], latents[:, 0], seen[:, 0], generator)

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Predicts each step from up to `history` steps before it; S is 1. Only dropout in training draws.

        In evaluation mode without gradients a faster implementation gives the same latents (`lewm_rollout.py`).
        """
        assert isinstance(belief, LatentHistory)
        versions = inputs.actions.shape[1]
        ahead = self.inputs(inputs).to(belief.inputs.dtype)
        if self.training or torch.is_grad_enabled():
            features = self._unroll(belief, ahead, generator)
        else:
            codes = self.to_codes(belief.inputs), self.to_codes(ahead)
            features = imagine(self._folded(), belief.latents, *(part.float() for part in codes))
        last = self.config.history
        path = torch.cat([belief.latents.repeat_interleave(versions, 0), features.flatten(0, 1)], 1)[:, -last:]
        known = torch.cat([belief.inputs.repeat_interleave(versions, 0), ahead.flatten(0, 1)], 1)
        final = LatentHistory(latents=path, inputs=known[:, known.shape[1] + 1 - path.shape[1] :])
        return LatentRollout(features=features[:, :, None], final=final)

    def belief(self, features: Float[Tensor, "B D"]) -> LatentHistory:
        """A history of one step."""
        return LatentHistory(latents=features[:, None], inputs=features.new_zeros(len(features), 0, self.inputs.size))

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """One-step error at each step of every subsequence of `history` observations, and SIGReg of all latents.

        The published model trains on windows of `history` + 1, which contain one such subsequence.
        """
        config, seen = self.config, window.observed[self.camera]
        latents = self._encode_images(window.observations[self.camera], seen)
        inputs = self.inputs(window.past)[:, 0]
        # Each subsequence is a sample, so that the model learns from one to `history` steps of context.
        span = min(config.history, inputs.shape[1])
        codes = _subsequences(self.to_codes(inputs), span)
        predicted = self._predict(_subsequences(latents[:, :-1], span), codes, generator, last_only=False)
        error = (predicted - _subsequences(latents[:, 1:], span)).square().mean(-1)
        counted = seen.unfold(1, span + 1, 1).flatten(0, 1).float().cumprod(-1)[:, 1:]
        terms = {"prediction": share_mean(error, counted)}
        weights = {"prediction": 1.0}
        if config.sigreg_weight:
            by_time = latents.transpose(0, 1)
            terms["sigreg"] = sigreg(by_time, num_slices=config.num_slices, generator=generator, counted=seen.T)
            weights["sigreg"] = config.sigreg_weight
        return Losses(terms=terms, weights=weights)

    def _encode_images(self, images: Tensor, seen: Bool[Tensor, "B H"]) -> Float[Tensor, "B H D"]:
        first = self.encoder(images.flatten(0, 1), seen.flatten())
        return torch.as_tensor(self.projector(first).float().unflatten(0, seen.shape))

    def _predict(
        self, latents: Tensor, codes: Tensor, generator: torch.Generator, *, last_only: bool
    ) -> Float[Tensor, "M K D"]:
        drop = Dropout(rate=self.config.dropout if self.training else 0.0, generator=generator)
        tokens = self.predictor(latents, codes, drop=drop, last_only=last_only)
        projected = self.from_predictor(tokens.flatten(0, 1))
        return torch.as_tensor(projected.float().unflatten(0, tokens.shape[:2]))

    def _folded(self) -> Folded:
        """The folded weights of the predictor, cached until torch's version counters show a change."""
        device = self.predictor.position.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.predictor.position.dtype
        parts = (*self.predictor.parameters(), *self.from_predictor.parameters(), *self.from_predictor.buffers())
        if any(part.is_inference() for part in parts):
            return fold(self.predictor, self.from_predictor, kind)  # inference tensors have no version counters
        state = tuple((part.data_ptr(), part._version) for part in parts)
        cached, folded = self._ready.get(kind, (None, None))
        if folded is None or cached != state:
            folded = fold(self.predictor, self.from_predictor, kind)
            self._ready[kind] = state, folded
        return folded

    def _unroll(
        self, belief: LatentHistory, ahead: Float[Tensor, "B N T I"], generator: torch.Generator
    ) -> Float[Tensor, "B N T D"]:
        """The rollout with gradients, one prediction per step."""
        batch, versions, steps, _ = ahead.shape
        known = torch.cat([belief.inputs.repeat_interleave(versions, 0), ahead.flatten(0, 1)], 1)
        codes, path = self.to_codes(known), list(belief.latents.repeat_interleave(versions, 0).unbind(1))
        before = len(path)
        for now in range(before, before + steps):
            first = max(0, now - self.config.history)
            latents = torch.stack(path[first:], 1)
            path.append(self._predict(latents, codes[:, first:now], generator, last_only=True)[:, 0])
        return torch.as_tensor(torch.stack(path[before:], 1).unflatten(0, (batch, versions)))

    def _update(
        self, belief: LatentHistory, inputs: Tensor, latent: Tensor, seen: Bool[Tensor, "B"], generator: torch.Generator
    ) -> LatentHistory:
        """The history one step later, with `latents` [B, D] where they were observed."""
        known = torch.cat([belief.inputs, inputs.to(belief.inputs.dtype)], 1)
        if not seen.all():
            predicted = self._predict(belief.latents, self.to_codes(known), generator, last_only=True)[:, 0]
            latent = latent.where(seen[:, None], predicted)
        last = slice(max(0, known.shape[1] + 1 - self.config.history), None)
        return LatentHistory(latents=torch.cat([belief.latents, latent[:, None]], 1)[:, last], inputs=known[:, last])


def _projector(config: LewmConfig) -> nn.Sequential:
    size, width = config.latent_size, config.projector_width
    return nn.Sequential(nn.Linear(size, width), BatchNorm(width), nn.GELU(), nn.Linear(width, size))


def _subsequences(values: Float[Tensor, "B T size"], span: int) -> Float[Tensor, "stretches span size"]:
    """Every subsequence of `span` steps, ordered by batch entry."""
    return values.unfold(1, span, 1).flatten(0, 1).transpose(1, 2)
