"""LeWM as published: a vision transformer sees, a causal transformer predicts, SIGReg keeps the latents apart.

Weight for weight that of stable-worldmodel; `lewm_checkpoint.py` reads its files. A step of the schema is one block
of the published model: its action is all raw actions of a frameskip block side by side.

Source: LeWM (arXiv 2603.19312); the encoder is ViT (arXiv 2010.11929).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from worldline.errors import ConfigError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, Window, WorldModel
from worldline.models.layers.batch_norm import BatchNorm
from worldline.models.layers.gather import share_mean
from worldline.models.layers.inputs import fit_inputs, join_inputs
from worldline.models.layers.normaliser import Normaliser
from worldline.models.layers.sigreg import sigreg
from worldline.models.lewm_predictor import Dropout, LewmPredictor
from worldline.models.lewm_rollout import Folded, fold, imagine
from worldline.schema import Kind, Schema, Signal

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)
"""Of red, green and blue, between 0 and 1."""
TOKENS_AT_ONCE: Final = 2048
"""Patches that the encoder takes through all its layers together on a processor: with more, what lies between two
products leaves the cache, and products in half precision lose a quarter of their speed."""
SCORES_AT_ONCE: Final = 2**17
"""Attention scores of a head that are worked on together, so that they stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class LewmConfig:
    """Size of the network and weight of SIGReg; the defaults are the published 18.04 million parameters.

    Args:
        inputs: the one camera; 3 colours, its sides multiples of `patch`.
        latent_size: D, of encoder and predictor alike.
        patch: pixels a side.
        depth: layers of the encoder.
        num_heads: of the encoder; must divide `latent_size`.
        projector_width: hidden layer between a transformer and the latent.
        history: observations, with the inputs between them, that the predictor sees; at least 1.
        predictor_depth: layers of the predictor.
        predictor_heads: of the predictor.
        head_size: of each of the predictor's heads.
        predictor_width: hidden layer in each of the predictor's blocks.
        code_size: numbers that the inputs of a step are first mixed to.
        dropout: share that is dropped in the predictor while it is trained, at least 0 and below 1.
        sigreg_weight: pull towards a standard Gaussian. The statistic here is not multiplied by the number of
            windows in a batch, the published one is: its 0.09 at 128 windows is 11.52, and so is 0.36 at 32.
        num_slices: directions that SIGReg looks along at each step.
    """

    inputs: tuple[str, ...]
    latent_size: int = 192
    patch: int = 14
    depth: int = 12
    num_heads: int = 3
    projector_width: int = 2048
    history: int = 3
    predictor_depth: int = 6
    predictor_heads: int = 16
    head_size: int = 64
    predictor_width: int = 2048
    code_size: int = 10
    dropout: float = 0.1
    sigreg_weight: float = 11.52
    num_slices: int = 1024

    def __post_init__(self) -> None:
        if len(self.inputs) != 1:
            raise ConfigError(f"inputs is {self.inputs}. This family sees exactly one camera; name it.")
        for name in self.__dataclass_fields__.keys() - {"inputs", "dropout", "sigreg_weight"}:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        if self.latent_size % self.num_heads:
            raise ConfigError(f"latent_size {self.latent_size} is not a multiple of num_heads, {self.num_heads}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}. It must be at least 0 and below 1.")
        if self.sigreg_weight < 0:
            raise ConfigError(f"sigreg_weight is {self.sigreg_weight}. It must not be negative.")


@cache
def _product() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """OneDNN's product of float32 matrices, x W' + b; None where torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile would call
    return None if operator is None else lambda values, weight, bias: operator(values, weight, bias, "none", [], "")


class WholeLinear(torch.autograd.Function):
    """A linear layer in float32 through oneDNN; torch takes MKL, which on some processors is half as fast."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The layer's output for `values` [..., in]."""
        product = _product()
        assert product is not None
        ctx.save_for_backward(values, weight)
        return product(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients in values, weight and bias."""
        product, (values, weight) = _product(), ctx.saved_tensors
        assert product is not None
        due = gradients[0].flatten(0, -2)
        to_values = product(gradients[0], weight.t(), None) if ctx.needs_input_grad[0] else None
        return to_values, product(due.t(), values.flatten(0, -2).t(), None), due.sum(0)


class HalfAttention(torch.autograd.Function):
    """Attention in half precision on a processor, where the built-in one takes 3 to 6 times as long.

    A few frames at a time, so that their scores stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, joined: Float[Tensor, "M P joined"], num_heads: int) -> Float[Tensor, "M P D"]:
        """What the tokens attend to, from queries, keys and values side by side."""
        query, key, value = _by_head(joined.unflatten(-1, (3, num_heads, -1)))
        query = query * query.shape[-1] ** -0.5
        ctx.num_heads = num_heads
        kept = list[Tensor]()
        found = joined.new_empty(*joined.shape[:2], num_heads, query.shape[-1])
        for rows, frames in _some(query, num_heads):
            weights = torch.bmm(query[rows], key[rows].transpose(1, 2)).softmax(-1)
            kept.append(weights)
            _put(torch.bmm(weights, value[rows]), found[frames])
        ctx.save_for_backward(query, key, value, *kept)
        return found.flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Float[Tensor, "M P joined"], None]:
        """The gradient in `joined`."""
        (query, key, value, *kept), num_heads = ctx.saved_tensors, ctx.num_heads
        (due,) = _by_head(gradients[0].unflatten(-1, (1, num_heads, -1)))
        out = gradients[0].new_empty(*gradients[0].shape[:2], 3, num_heads, query.shape[-1])
        to_query, to_key, to_value = out.unbind(2)
        for (rows, frames), weights in zip(_some(query, num_heads), kept, strict=True):
            through = torch.bmm(due[rows], value[rows].transpose(1, 2))
            scores = torch._softmax_backward_data(through, weights, -1, weights.dtype)
            _put(torch.bmm(scores, key[rows]), to_query[frames])
            _put(torch.bmm(scores.transpose(1, 2), query[rows]), to_key[frames])
            _put(torch.bmm(weights.transpose(1, 2), due[rows]), to_value[frames])
        out[:, :, 0] *= query.shape[-1] ** -0.5
        return out.flatten(2), None


def _some(query: Float[Tensor, "rows P size"], num_heads: int) -> Iterator[tuple[slice, slice]]:
    """Rows that fit into the cache, and which frames they are of."""
    size = -(-SCORES_AT_ONCE // query.shape[1] ** 2)
    for first in range(0, len(query) // num_heads, size):
        yield slice(first * num_heads, (first + size) * num_heads), slice(first, first + size)


def _put(by_head: Float[Tensor, "rows P size"], into: Float[Tensor, "M P heads size"]) -> None:
    into.copy_(by_head.unflatten(0, (-1, into.shape[2])).transpose(1, 2))


def _by_head(joined: Float[Tensor, "M P parts heads size"]) -> Float[Tensor, "parts rows P size"]:
    """A row for each head of each frame."""
    return torch.as_tensor(joined.permute(2, 0, 3, 1, 4).flatten(1, 2))


class EncoderLayer(nn.Module):
    """Attention among the tokens of a frame and a two-layer network, each added to what comes in."""

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
        """The tokens one layer up; products are taken in `kind`."""
        joined = _linear(self.joined, self.before_attention(tokens).to(kind))
        if kind is torch.bfloat16 and joined.device.type == "cpu":
            found = HalfAttention.apply(joined, self.num_heads)  # type: ignore[no-untyped-call] # torch does not say
        else:
            query, key, value = joined.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            found = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self._widen(tokens + _linear(self.out, found), kind)

    def first(self, tokens: Float[Tensor, "M P D"], kind: torch.dtype) -> Float[Tensor, "M D"]:
        """The first token alone one layer up: what is left to do in the last layer, a tenth of the whole.

        With one query, keys and values need not be made: q · (K x) = (qK) · x, and Σ a (V x) = V (Σ a x).
        """
        seen = self.before_attention(tokens).to(kind)
        to_query, to_key, to_value = self.joined.weight.to(kind).unflatten(0, (3, self.num_heads, -1))
        bias, key_bias, value_bias = self.joined.bias.to(kind).unflatten(0, (3, self.num_heads, -1))
        query = torch.einsum("md,hsd->mhs", seen[:, 0], to_query) + bias
        scores = torch.einsum("mhs,hsd->mhd", query, to_key) @ seen.transpose(1, 2)
        scores = scores + (query * key_bias).sum(-1, keepdim=True)  # equal for all: changes nothing, but has a gradient
        weights = (scores.float() * query.shape[-1] ** -0.5).softmax(-1).to(kind)
        found = torch.einsum("mhd,hsd->mhs", weights @ seen, to_value) + value_bias
        return self._widen(tokens[:, 0] + _linear(self.out, found.flatten(1)), kind)

    def _widen(self, tokens: Float[Tensor, "*any D"], kind: torch.dtype) -> Float[Tensor, "*any D"]:
        inner = gelu(_linear(self.up, self.before_mlp(tokens).to(kind)))
        return tokens + _linear(self.down, inner)


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    """What the layer gives, in the precision of `values`."""
    if values.dtype is torch.float32 and values.device.type == "cpu" and _product() is not None:
        return torch.as_tensor(WholeLinear.apply(values, layer.weight, layer.bias))  # type: ignore[no-untyped-call] # as above
    return linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))


class Encoder(nn.Module):
    """Frames to the first token of a vision transformer.

    Args:
        signal: an image of 3 colours.
        config: see `LewmConfig`.
    """

    def __init__(self, signal: Signal, config: LewmConfig) -> None:
        super().__init__()
        high, wide, colours = signal.shape
        if colours != 3 or high % config.patch or wide % config.patch:
            raise ConfigError(
                f"image {signal.name!r} has shape {signal.shape}. This family takes 3 colours, and sides that are "
                f"multiples of its patch, {config.patch}. Scale the image, or set patch."
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
        """The first token of each frame; a missing one is the mean of ImageNet."""
        device = images.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.position.dtype
        most = max(1, TOKENS_AT_ONCE // len(self.position)) if device == "cpu" else max(1, len(images))
        size = -(-len(images) // max(1, -(-len(images) // most)))  # equal parts
        with torch.autocast(device, enabled=False):  # `kind` says what is half; the sums between layers stay whole
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
        """The pixels of each patch, by row, column and colour, normalised as those of ImageNet."""
        tiles = images.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch)).transpose(2, 3)
        pixels = tiles.flatten(3).flatten(1, 2).to(self.position.dtype)
        mean, deviation = (
            pixels.new_tensor(colours).mul(255).repeat(self.patch**2) for colours in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        return torch.as_tensor(pixels.sub_(mean).div_(deviation).where(observed[:, None, None], 0.0))


@dataclass(frozen=True, kw_only=True)
class LatentHistory(Belief):
    """The latents of the last steps, at most `history` of them, and the inputs between.

    Args:
        latents: the last one is the present.
        inputs: z-scores.
    """

    latents: Float[Tensor, "B K D"]
    inputs: Float[Tensor, "B K-1 I"]

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The latent of the present; S is 1."""
        return self.latents[:, -1:]

    def select(self, index: Tensor) -> LatentHistory:
        """The histories of the batch entries in `index`."""
        return LatentHistory(latents=self.latents[index], inputs=self.inputs[index])


class Lewm(WorldModel):
    """The model. It is blind to the past beyond `history` observations.

    A missing image is replaced by the latent that was predicted, or by that of ImageNet's mean where nothing came
    before; it is left out of the loss.

    Args:
        schema: the signals; actions and exogenous inputs are taken from it in order.
        config: see `LewmConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: the input is no image of 3 colours, or its sides are no multiples of the patch.
    """

    Config = LewmConfig

    def __init__(self, *, schema: Schema, config: LewmConfig) -> None:
        super().__init__()
        self.schema, self.config, self.context = schema, config, config.history
        camera = schema[config.inputs[0]]
        if camera.kind is not Kind.IMAGE:
            raise ConfigError(f"input {camera.name!r} is a {camera.kind}. This family sees an image; name a camera.")
        self.camera = camera.name
        self.actions = Normaliser(sum(signal.size for signal in schema.actions))
        self.exogenous = Normaliser(sum(signal.size for signal in schema.exogenous))
        width, num_inputs = config.latent_size, len(self.actions.mean) + len(self.exogenous.mean)
        self.encoder = Encoder(camera, config)
        self.projector = _projector(config)
        self.to_codes = nn.Sequential(
            nn.Linear(num_inputs, config.code_size),
            nn.Linear(config.code_size, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )
        self.predictor = LewmPredictor(
            history=config.history,
            width=width,
            depth=config.predictor_depth,
            num_heads=config.predictor_heads,
            head_size=config.head_size,
            hidden=config.predictor_width,
        )
        self.from_predictor = _projector(config)
        self._ready: dict[torch.dtype, tuple[object, Folded]] = {}

    def fit_normaliser(self, window: Window) -> None:
        """Of actions and exogenous inputs; images are normalised as those of ImageNet."""
        fit_inputs(window.past, self.actions, self.exogenous)

    def encode(self, window: Window, *, generator: torch.Generator) -> LatentHistory:
        """The history up to the last observation; where one was missing, what the steps before lead to."""
        images, seen = window.observations[self.camera], window.observed[self.camera]
        start = max(0, seen.shape[1] - self.config.history)
        if not seen[:, start:].all():
            start = 0
        latents = self._see(images[:, start:], seen[:, start:])
        inputs = self._inputs(window.past)[:, 0, start:]
        belief = LatentHistory(latents=latents[:, :1], inputs=inputs[:, :0])
        for step in range(1, latents.shape[1]):
            here = inputs[:, step - 1 : step]
            belief = self._step(belief, here, latents[:, step], seen[:, start + step], generator)
        return belief

    def update(
        self,
        belief: Belief,
        inputs: Inputs,
        observation: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B"]],
        *,
        generator: torch.Generator,
    ) -> LatentHistory:
        """The history with the new observation's latent where it was seen, else with the predicted one."""
        assert isinstance(belief, LatentHistory)
        images, seen = observation[self.camera], observed[self.camera]
        latents = self._see(images[:, None], seen[:, None])[:, 0]
        return self._step(belief, self._inputs(inputs)[:, 0], latents, seen, generator)

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Each step predicted from up to `history` before it, S is 1; draws nothing but dropout in training.

        Without gradients, in evaluation mode, it takes a faster way to the same latents, see `lewm_rollout`.
        """
        assert isinstance(belief, LatentHistory)
        versions = inputs.actions.shape[1]
        ahead = self._inputs(inputs).to(belief.inputs.dtype)
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
        """A history of one."""
        num_inputs = len(self.actions.mean) + len(self.exogenous.mean)
        return LatentHistory(latents=features[:, None], inputs=features.new_zeros(len(features), 0, num_inputs))

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Error one step ahead, at each step of every stretch of `history` observations, and SIGReg of all latents.

        The published model trains on windows of `history` + 1, which hold one such stretch.
        """
        config, seen = self.config, window.observed[self.camera]
        latents = self._see(window.observations[self.camera], seen)
        inputs = self._inputs(window.past)[:, 0]
        span = min(config.history, inputs.shape[1])
        codes = _stretches(self.to_codes(inputs), span)
        predicted = self._predict(_stretches(latents[:, :-1], span), codes, generator, last_only=False)
        error = (predicted - _stretches(latents[:, 1:], span)).square().mean(-1)
        counted = seen.unfold(1, span + 1, 1).flatten(0, 1).float().cumprod(-1)[:, 1:]
        terms = {"prediction": share_mean(error, counted)}
        weights = {"prediction": 1.0}
        if config.sigreg_weight:
            terms["sigreg"] = sigreg(
                latents.transpose(0, 1), num_slices=config.num_slices, generator=generator, counted=seen.T
            )
            weights["sigreg"] = config.sigreg_weight
        return Losses(terms=terms, weights=weights)

    def _see(self, images: Tensor, seen: Bool[Tensor, "B H"]) -> Float[Tensor, "B H D"]:
        first = self.encoder(images.flatten(0, 1), seen.flatten())
        return torch.as_tensor(self.projector(first).float().unflatten(0, seen.shape))

    def _inputs(self, inputs: Inputs) -> Float[Tensor, "B N T I"]:
        return join_inputs(inputs, self.actions, self.exogenous)

    def _predict(
        self, latents: Tensor, codes: Tensor, generator: torch.Generator, *, last_only: bool
    ) -> Float[Tensor, "M K D"]:
        drop = Dropout(rate=self.config.dropout if self.training else 0.0, generator=generator)
        tokens = self.predictor(latents, codes, drop=drop, last_only=last_only)
        projected = self.from_predictor(tokens.flatten(0, 1))
        return torch.as_tensor(projected.float().unflatten(0, tokens.shape[:2]))

    def _folded(self) -> Folded:
        """The predictor's weights, made ready to imagine; kept until torch counts a change in one of them."""
        device = self.predictor.position.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.predictor.position.dtype
        parts = (*self.predictor.parameters(), *self.from_predictor.parameters(), *self.from_predictor.buffers())
        if any(part.is_inference() for part in parts):
            return fold(self.predictor, self.from_predictor, kind)  # torch does not count their changes
        state = tuple((part.data_ptr(), part._version) for part in parts)
        kept, found = self._ready.get(kind, (None, None))
        if found is None or kept != state:
            found = fold(self.predictor, self.from_predictor, kind)
            self._ready[kind] = state, found
        return found

    def _unroll(
        self, belief: LatentHistory, ahead: Float[Tensor, "B N T I"], generator: torch.Generator
    ) -> Float[Tensor, "B N T D"]:
        """Each window predicted as if it were the first."""
        batch, versions, steps, _ = ahead.shape
        known = torch.cat([belief.inputs.repeat_interleave(versions, 0), ahead.flatten(0, 1)], 1)
        codes, path = self.to_codes(known), list(belief.latents.repeat_interleave(versions, 0).unbind(1))
        before = len(path)
        for now in range(before, before + steps):
            first = max(0, now - self.config.history)
            latents = torch.stack(path[first:], 1)
            path.append(self._predict(latents, codes[:, first:now], generator, last_only=True)[:, 0])
        return torch.as_tensor(torch.stack(path[before:], 1).unflatten(0, (batch, versions)))

    def _step(
        self,
        belief: LatentHistory,
        inputs: Tensor,
        latents: Tensor,
        seen: Bool[Tensor, "B"],
        generator: torch.Generator,
    ) -> LatentHistory:
        """The history one step on, with `latents` [B, D] where they were seen."""
        known = torch.cat([belief.inputs, inputs.to(belief.inputs.dtype)], 1)
        if not seen.all():
            predicted = self._predict(belief.latents, self.to_codes(known), generator, last_only=True)[:, 0]
            latents = latents.where(seen[:, None], predicted)
        last = slice(max(0, known.shape[1] + 1 - self.config.history), None)
        return LatentHistory(latents=torch.cat([belief.latents, latents[:, None]], 1)[:, last], inputs=known[:, last])


def _projector(config: LewmConfig) -> nn.Sequential:
    width = config.projector_width
    return nn.Sequential(
        nn.Linear(config.latent_size, width), BatchNorm(width), nn.GELU(), nn.Linear(width, config.latent_size)
    )


def _stretches(values: Float[Tensor, "B T size"], span: int) -> Float[Tensor, "stretches span size"]:
    """Every stretch of `span` steps, those of a batch entry one after another."""
    return values.unfold(1, span, 1).flatten(0, 1).transpose(1, 2)
