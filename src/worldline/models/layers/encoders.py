"""From observations to learned numbers: one encoder for a camera, one for all vectors and discrete values at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.layers.batch_norm import BatchNorm
from worldline.models.layers.changes import changes
from worldline.models.layers.codes import code_size, join_codes
from worldline.models.layers.mlp import mlp
from worldline.models.layers.normaliser import Normaliser
from worldline.schema import Kind, Signal

PATCH: Final = 8
BLOCK: Final = 256
"""Pictures that are looked at together to find their scale."""
PIECE: Final = 1024
"""Pictures that are looked at together in use; in training a batch is one."""
SMALLEST, LARGEST = 32, 256
"""Pixels a side."""
FINEST: Final = 1e-4
"""The smallest change of a vector in one step that is told from none, as a share of its deviation."""


class ImageEncoder(nn.Module):
    """Patches, two convolutions, one hidden layer: most of the work happens on a grid of 8-pixel patches.

    Args:
        signal: an image; height and width are multiples of 16 from 32 to 256.
        channels: of the convolutions.
        width: of the hidden layer.
        out: numbers that come out.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, signal: Signal, *, channels: int, width: int, out: int) -> None:
        super().__init__()
        high, wide, colours = signal.shape
        if any(side % (2 * PATCH) or not SMALLEST <= side <= LARGEST for side in (high, wide)):
            raise ConfigError(
                f"image {signal.name!r} is {high} by {wide} pixels. Both must be multiples of {2 * PATCH} from "
                f"{SMALLEST} to {LARGEST}. Scale it: worldline import --size 64."
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
            nn.Linear(channels * cells, width, bias=False),  # a bias would be taken away by what follows
            BatchNorm(width),
            nn.GELU(),
            nn.Linear(width, out),
        )

    @torch.no_grad()
    def fit(self, images: Tensor, observed: Bool[Tensor, "B H"]) -> None:
        """Takes mean and deviation of each colour from images [B, H, height, width, C]; missing ones do not count."""
        if not observed.any():
            return
        count, total, squares = 0, torch.zeros(images.shape[-1]).double(), torch.zeros(images.shape[-1]).double()
        for some in images[observed].split(BLOCK):  # all at once may not fit into memory as numbers
            values = some.flatten(0, 2).double()
            count += len(values)
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = (total / count).float()
        deviation = (squares / count - (total / count).square()).clamp(min=0).sqrt().float()
        self.mean.copy_(mean[:, None, None])
        self.deviation.copy_(deviation.clamp(min=1.0)[:, None, None])

    def forward(self, images: Tensor, observed: Bool[Tensor, "M"]) -> Float[Tensor, "M out"]:
        """What is learned of `images` [M, height, width, C]; a missing image is the mean image."""
        if not self.training and len(images) > PIECE:  # as numbers, all of them would fill the memory
            pieces = zip(images.split(PIECE), observed.split(PIECE), strict=True)
            return torch.cat([self(some, seen) for some, seen in pieces])
        # Whole rows at once, in place: normalising colour by colour took a fifth of the time of a training step.
        wide = images.shape[2]
        mean, deviation = self.mean.flatten().repeat(wide), self.deviation.flatten().repeat(wide)
        rows = images.flatten(2).to(mean.dtype, copy=True)
        scores = rows.sub_(mean).div_(deviation).masked_fill_(~observed[:, None, None], 0.0)
        return torch.as_tensor(self.layers(scores.view(images.shape).permute(0, 3, 1, 2)))


class VectorEncoder(nn.Module):
    """All vector and discrete signals at once, each with a flag that says whether it was observed.

    Args:
        signals: at least one.
        width: of the two hidden layers.
        out: numbers that come out.
    """

    change: Tensor

    def __init__(self, signals: tuple[Signal, ...], *, width: int, out: int) -> None:
        super().__init__()
        self.signals = signals
        self.size = sum(code_size(signal) for signal in signals)
        self.normaliser = Normaliser(self.size)
        self.register_buffer("change", torch.ones(self.size))  # deviation of one step's change, z-scores
        self.layers = mlp([self.size + len(signals), width, width, out])

    @torch.no_grad()
    def fit(self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "B H"]]) -> None:
        """Takes means, deviations and sizes of changes from values [B, H, *shape]; each signal where it was observed.

        What was observed less than twice keeps the scale that it has. A change over a gap is divided by the gap's root,
        as if the signal wandered at random; what changes only while it is unseen has its scale from there.
        """
        codes = self._codes(observations, observed)
        place = 0
        for signal in self.signals:
            here, seen = slice(place, place + code_size(signal)), observed[signal.name]
            place = here.stop
            if seen.sum() < 2:
                continue
            own = Normaliser(code_size(signal)).to(codes.device)
            own.fit(codes[..., here][seen])
            self.normaliser.mean[here], self.normaliser.deviation[here] = own.mean, own.deviation
            scores = own(codes[..., here])
            change, gap = changes(scores, seen[..., None].expand_as(scores))
            if count := (gap[..., 0] > 0).sum():
                size = ((change.square() / gap.clamp(min=1)).sum((0, 1)) / count).sqrt()
                self.change[here] = size.clamp(min=FINEST)

    def flags(self, observed: Mapping[str, Bool[Tensor, "*lead"]]) -> Bool[Tensor, "*lead size"]:
        """Which numbers of the codes were observed."""
        flags = [observed[s.name][..., None].repeat_interleave(code_size(s), -1) for s in self.signals]
        return torch.cat(flags, -1)

    def scores(
        self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "*lead"]]
    ) -> Float[Tensor, "*lead size"]:
        """z-scores of the codes side by side; 0 where missing."""
        scores = self.normaliser(self._codes(observations, observed))
        return torch.as_tensor(scores.where(self.flags(observed), 0.0))

    def forward(
        self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "*lead"]]
    ) -> Float[Tensor, "*lead out"]:
        """What is learned of values [*lead, *shape]."""
        flags = torch.stack([observed[signal.name] for signal in self.signals], -1)
        return self.of_scores(self.scores(observations, observed), flags)

    def of_scores(
        self, scores: Float[Tensor, "*lead size"], known: Bool[Tensor, "*lead signals"]
    ) -> Float[Tensor, "*lead out"]:
        """What is learned of z-scores, each signal flagged as known or not."""
        lead = scores.shape[:-1]  # a batch normalisation in there takes one batch axis
        flat = torch.cat([scores, known.to(scores.dtype)], -1).reshape(lead.numel(), -1)
        return torch.as_tensor(self.layers(flat)).reshape(*lead, -1)

    def _codes(
        self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "*lead"]]
    ) -> Float[Tensor, "*lead size"]:
        """The codes side by side; a missing discrete value may be any number, so it is taken as 0."""
        values = {
            s.name: observations[s.name].where(observed[s.name], 0) for s in self.signals if s.kind is Kind.DISCRETE
        }
        return join_codes(self.signals, {**observations, **values})


@dataclass(frozen=True, kw_only=True)
class ObservedFeatures:
    """What observations show, before anything is filled in.

    Args:
        pictures: the cameras' part of what is learned; None without a camera.
        scores: of the vectors, 0 where missing; None without any.
        observed: per signal.
    """

    pictures: Float[Tensor, "*lead L"] | None
    scores: Float[Tensor, "*lead size"] | None
    observed: Mapping[str, Bool[Tensor, "*lead"]]

    def at(self, step: int) -> ObservedFeatures:
        """One step of [B, H]."""
        return ObservedFeatures(
            pictures=None if self.pictures is None else self.pictures[:, step],
            scores=None if self.scores is None else self.scores[:, step],
            observed={name: flags[:, step] for name, flags in self.observed.items()},
        )


def last_whole(complete: Bool[Tensor, "B H"]) -> int:
    """The last step from which on every entry of the batch has a complete observation, or the first of all."""
    steps = torch.arange(complete.shape[1], device=complete.device)
    return int(torch.where(complete, steps, 0).amax(1).min())
