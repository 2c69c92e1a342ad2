"""The image decoder: images from latents, the mirror of the image encoder."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.models.layers.encoders import PATCH
from worldline.schema import Signal

LEAST_DEVIATION = 8.0
"""Minimum standard deviation of a pixel, grey levels; smaller variation counts as noise."""


class ImageDecoder(nn.Module):
    """One hidden layer, two convolutions and patches. Most work happens on the grid of 8-pixel patches.

    Args:
        signal: an image of any size; patches are cropped at its right and lower edge.
        latent_size: D.
        channels: of the convolutions.
        width: units of the hidden layer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, signal: Signal, *, latent_size: int, channels: int, width: int) -> None:
        super().__init__()
        high, wide, colours = signal.shape
        self.register_buffer("mean", torch.full((high, wide, colours), 127.5))
        self.register_buffer("deviation", torch.full((high, wide, colours), 64.0))
        cells = -(-high // (2 * PATCH)), -(-wide // (2 * PATCH))
        self.high, self.wide, self.colours = high, wide, colours
        self.layers = nn.Sequential(
            nn.Linear(latent_size, width),
            nn.GELU(),
            nn.Linear(width, channels * cells[0] * cells[1]),
            nn.Unflatten(-1, (channels, *cells)),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, PATCH * PATCH * colours, 1),
        )

    @torch.no_grad()
    def fit(self, images: Tensor, observed: Bool[Tensor, "B H"]) -> None:
        """Fits mean and standard deviation of each pixel on the observed images of [B, H, height, width, C]."""
        seen = images[observed]
        for row in range(self.high if len(seen) else 0):  # row by row: floats need four times the memory of uint8
            deviation, mean = torch.std_mean(seen[:, row].float(), dim=0, correction=0)
            self.mean[row] = mean
            self.deviation[row] = deviation.clamp(min=LEAST_DEVIATION)

    def scores(self, images: Tensor) -> Float[Tensor, "M height width C"]:
        """z-scores of each pixel of `images`, the targets of the network; a constant pixel is 0."""
        return (images.float() - self.mean) / self.deviation

    def forward(self, latents: Float[Tensor, "M D"]) -> Float[Tensor, "M height width C"]:
        """Predicted z-scores of each pixel."""
        patches = self.layers(latents).unflatten(1, (PATCH, PATCH, self.colours))
        image = patches.permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)
        return torch.as_tensor(image[:, : self.high, : self.wide])

    def images(self, latents: Float[Tensor, "M D"]) -> Float[Tensor, "M height width C"]:
        """Images with values from 0 to 255, not rounded."""
        return torch.as_tensor((self(latents).float() * self.deviation + self.mean).clamp(0.0, 255.0))
