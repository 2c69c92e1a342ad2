"""Encoders of observations: one per camera, and one for all vectors and discrete values together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.layers.batch_norm import BatchNorm
from worldline.models.layers.changes import changes
from worldline.models.layers.codes import Observations, Observed, code_size, join_codes
from worldline.models.layers.mlp import mlp
from worldline.models.layers.standardizer import MIN_CHANGE, Normaliser
from worldline.schema import Kind, Signal

PATCH: Final = 8
"""Side of a patch, pixels."""
MAX_FITTED_AT_ONCE: Final = 256
"""Maximum number of images that `ImageEncoder.fit` converts to floating point at once."""
MAX_ENCODED_AT_ONCE: Final = 1024
"""Maximum number of images per forward pass at inference; in training a batch is never split."""
MIN_SIDE, MAX_SIDE = 32, 256
"""Height and width of an image, pixels."""


class ImageEncoder(nn.Module):
    """Patch embedding, two convolutions and one hidden layer. Most work happens on the grid of 8-pixel patches.

    Args:
        signal: an image; height and width are multiples of 16 from 32 to 256.
        channels: of the convolutions.
        width: units of the hidden layer.
        out: output features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, signal: Signal, *, channels: int, width: int, out: int) -> None:
        super().__init__()
        high, wide, colours = signal.shape
        if any(side % (2 * PATCH) or not MIN_SIDE <= side <= MAX_SIDE for side in (high, wide)):
            raise ConfigError(
                f"image {signal.name!r} is {high} by {wide} pixels. Both must be multiples of {2 * PATCH} from "
                f"{MIN_SIDE} to {MAX_SIDE}. Scale it: worldline import --size 64."
            )
        self.register_buffer("mean", torch.full((colours, 1, 1), 127.5))
        self.register_buffer("deviation", torch.full((colours, 1, 1), 64.0))
        cells = (high // (2 * PATCH)) * (wide // (2 * PATCH))
        self.layers = nn.Sequential(
            nn.Conv2d(colours, channels, PATCH, stride=PATCH),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(channels * cells, width, bias=False),  # batch normalisation removes any bias
            BatchNorm(width),
            nn.GELU(),
            nn.Linear(width, out),
        )

    @torch.no_grad()
    def fit(self, images: Tensor, observed: Bool[Tensor, "B H"]) -> None:
        """Fits mean and standard deviation of each colour on the observed images of [B, H, height, width, C]."""
        if not observed.any():
            return
        total = torch.zeros(images.shape[-1], dtype=torch.double, device=images.device)
        count, squares = 0, torch.zeros_like(total)
        for some in images[observed].split(MAX_FITTED_AT_ONCE):  # in double precision all at once may not fit in memory
            values = some.flatten(0, 2).double()
            count += len(values)
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = (total / count).float()
        deviation = (squares / count - (total / count).square()).clamp(min=0).sqrt().float()
        self.mean.copy_(mean[:, None, None])
        self.deviation.copy_(deviation.clamp(min=1.0)[:, None, None])

    def forward(self, images: Tensor, observed: Bool[Tensor, "M"]) -> Float[Tensor, "M out"]:
        """Features of `images` [M, height, width, C]; a missing image is replaced by the mean image."""
        if not self.training and len(images) > MAX_ENCODED_AT_ONCE:  # bounds memory
            parts = zip(images.split(MAX_ENCODED_AT_ONCE), observed.split(MAX_ENCODED_AT_ONCE), strict=True)
            return torch.cat([self(some, seen) for some, seen in parts])
        # Normalises whole rows in place: normalising per colour took a fifth of the time of a training step.
        wide = images.shape[2]
        mean, deviation = self.mean.flatten().repeat(wide), self.deviation.flatten().repeat(wide)
        rows = images.flatten(2).to(mean.dtype, copy=True)
        scores = rows.sub_(mean).div_(deviation).masked_fill_(~observed[:, None, None], 0.0)
        return torch.as_tensor(self.layers(scores.view(images.shape).permute(0, 3, 1, 2)))


class VectorEncoder(nn.Module):
    """Encodes all vector and discrete signals together, with a flag per signal for whether it was observed.

    Args:
        signals: at least one.
        width: units of the two hidden layers.
        out: output features.
    """

    change: Tensor

    def __init__(self, signals: tuple[Signal, ...], *, width: int, out: int) -> None:
        super().__init__()
        self.signals = signals
        self.size = sum(code_size(signal) for signal in signals)
        self.normaliser = Normaliser(self.size)
        self.register_buffer("change", torch.ones(self.size))  # standard deviation of one step's change, z-scores
        self.layers = mlp([self.size + len(signals), width, width, out])

    @torch.no_grad()
    def fit(self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "B H"]]) -> None:
        """Fits means, standard deviations and sizes of changes on the observed values of [B, H, *shape].

        A signal with fewer than two observations keeps its scale. A change over a gap is divided by the square root of
        the gap, as for a random walk.
        """
        codes = self._codes(observations, observed)
        place = 0
        for signal in self.signals:
            columns, seen = slice(place, place + code_size(signal)), observed[signal.name]
            place = columns.stop
            if seen.sum() < 2:
                continue
            own = Normaliser(code_size(signal)).to(codes.device)
            own.fit(codes[..., columns][seen])
            self.normaliser.mean[columns], self.normaliser.deviation[columns] = own.mean, own.deviation
            scores = own(codes[..., columns])
            change, gap = changes(scores, seen[..., None].expand_as(scores))
            if count := (gap[..., 0] > 0).sum():
                size = ((change.square() / gap.clamp(min=1)).sum((0, 1)) / count).sqrt()
                self.change[columns] = size.clamp(min=MIN_CHANGE)

    def flags(self, observed: Observed) -> Bool[Tensor, "*lead size"]:
        """Whether each component of the codes was observed."""
        flags = [observed[s.name][..., None].repeat_interleave(code_size(s), -1) for s in self.signals]
        return torch.cat(flags, -1)

    def scores(self, observations: Observations, observed: Observed) -> Float[Tensor, "*lead size"]:
        """z-scores of the concatenated codes; 0 where missing."""
        scores = self.normaliser(self._codes(observations, observed))
        return torch.as_tensor(scores.where(self.flags(observed), 0.0))

    def forward(self, observations: Observations, observed: Observed) -> Float[Tensor, "*lead out"]:
        """Features of values [*lead, *shape]."""
        flags = torch.stack([observed[signal.name] for signal in self.signals], -1)
        return self.of_scores(self.scores(observations, observed), flags)

    def of_scores(
        self, scores: Float[Tensor, "*lead size"], known: Bool[Tensor, "*lead signals"]
    ) -> Float[Tensor, "*lead out"]:
        """Features of z-scores, with a flag per signal for whether it is known."""
        lead = scores.shape[:-1]
        flat = torch.cat([scores, known.to(scores.dtype)], -1).reshape(lead.numel(), -1)
        return torch.as_tensor(self.layers(flat)).reshape(*lead, -1)

    def _codes(self, observations: Observations, observed: Observed) -> Float[Tensor, "*lead size"]:
        """The concatenated codes. Missing discrete values may be invalid numbers, so they are set to 0."""
        own = {s.name: observations[s.name].where(observed[s.name], 0) for s in self.signals if s.kind is Kind.DISCRETE}
        return join_codes(self.signals, {**observations, **own})
