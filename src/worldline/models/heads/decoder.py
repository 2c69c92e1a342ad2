"""The decoder head: images from latents, for display only. No other result depends on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size
from worldline.models.layers.codes import check_num_images
from worldline.models.layers.image_decoder import ImageDecoder
from worldline.schema import Signal


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        images: image signals to decode.
        channels: of the convolutions.
        width: of the hidden layer.
    """

    latent_size: Size
    images: tuple[Signal, ...]
    channels: Size = 48
    width: Size = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_images(self.images)


class Decoder(nn.Module):
    """Decodes each image from a latent. Details that the latent does not contain are blurred."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.cameras = nn.ModuleList(
            ImageDecoder(signal, latent_size=config.latent_size, channels=config.channels, width=config.width)
            for signal in config.images
        )

    def of(self, number: int) -> ImageDecoder:
        """The network of the image with index `number` in the config."""
        camera = self.cameras[number]
        assert isinstance(camera, ImageDecoder)  # for the type checker
        return camera

    def forward(self, latents: Float[Tensor, "*lead D"]) -> dict[str, Tensor]:
        """Images per signal, [*lead, height, width, channels], uint8."""
        flat = latents.reshape(-1, latents.shape[-1])
        return {
            signal.name: self.of(number)
            .images(flat)
            .round()
            .to(torch.uint8)
            .reshape(*latents.shape[:-1], *signal.shape)
            for number, signal in enumerate(self.config.images)
        }
