"""From a latent back to a picture: the image encoder, run the other way."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.models.layers.encoders import PATCH
from worldline.schema import Signal

LEAST_DEVIATION = 8.0
"""Of a pixel, grey levels: what varies less is noise."""


class ImageDecoder(nn.Module):
    """One hidden layer, two convolutions, patches: most of the work happens on a grid of 8-pixel patches.

    Args:
        signal: an image of any size; what patches draw beyond its right and lower edge is cut off.
        latent_size: D.
        channels: of the convolutions.
        width: of the hidden layer.
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
        """Takes mean and deviation of each pixel from images [B, H, height, width, C]; missing ones do not count."""
        seen = images[observed]
        for row in range(self.high if len(seen) else 0):  # one at a time: as floats all take four times the memory
            deviation, mean = torch.std_mean(seen[:, row].float(), dim=0, correction=0)
            self.mean[row] = mean
            self.deviation[row] = deviation.clamp(min=LEAST_DEVIATION)

    def scores(self, images: Tensor) -> Float[Tensor, "M height width C"]:
        """z-scores of each pixel of `images`, what the network aims at: what never changes is 0 from the start."""
        return (images.float() - self.mean) / self.deviation

    def forward(self, latents: Float[Tensor, "M D"]) -> Float[Tensor, "M height width C"]:
        """z-scores of each pixel."""
        patches = self.layers(latents).unflatten(1, (PATCH, PATCH, self.colours))
        image = patches.permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)
        return torch.as_tensor(image[:, : self.high, : self.wide])

    def images(self, latents: Float[Tensor, "M D"]) -> Float[Tensor, "M height width C"]:
        """Pictures as they would be stored, but for rounding: 0 to 255."""
        return torch.as_tensor((self(latents).float() * self.deviation + self.mean).clamp(0.0, 255.0))
