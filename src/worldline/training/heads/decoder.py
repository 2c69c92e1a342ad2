"""The decoder head: images from latents, for display only. No other result depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size
from worldline.data.store import Store
from worldline.device import autocast
from worldline.models.layers.codes import check_num_images
from worldline.models.layers.image_decoder import ImageDecoder
from worldline.schema import Signal
from worldline.training.batches import to_tensor
from worldline.training.heads.base import Fit, Head, HeadData, descend
from worldline.training.stored_latents import LatentTable

MAX_FRAMES, MAX_BYTES = 4096, 2**28
"""Maximum number and size of the images that the decoder is fitted on."""
MAX_VALIDATION_FRAMES: Final = 256
UPDATE_PIXELS: Final = 2**17
"""Approximate number of pixels per update; a few frames suffice, because each has many pixels."""
MIN_BATCH: Final = 8
RATE_RATIO: Final = 5.0
"""Learning rate, relative to that of the other heads."""


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


class Decoder(Head):
    """Decodes each image from a latent. Details that the latent does not contain are blurred."""

    name = "decoder"
    updates = "decoder_updates"
    Config = DecoderConfig
    config: DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
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
        lead, signals = latents.shape[:-1], self.config.images
        drawn = [self.of(number).images(flat).round().to(torch.uint8) for number in range(len(signals))]
        return {s.name: image.reshape(*lead, *s.shape) for s, image in zip(signals, drawn, strict=True)}

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether there are updates, and the model takes images."""
        return bool(data.config.decoder_updates and data.images)

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Decoder:
        """The decoder, fitted on up to `MAX_FRAMES` frames.

        Updates use fewer frames than states if images are large, and a higher learning rate.
        """
        table, images, generator = data.table, data.images, data.imagination.generator
        head = cls(DecoderConfig(latent_size=table.features.shape[1], images=images)).to(table.device)
        # Random frames of all episodes, as many as fit into memory.
        frame_bytes = sum(signal.size for signal in images)
        count = min(len(table.features), MAX_FRAMES, max(1, MAX_BYTES // frame_bytes))
        rows = torch.randperm(len(table.features), generator=generator, device=table.device)[:count]
        frames = [_frames(data.store, table, signal, rows) for signal in images]
        for number, (pictures, known) in enumerate(frames):
            head.of(number).fit(pictures[:, None], known[:, None])

        def error(some: Tensor) -> Tensor:
            """The squared error of these frames, summed over the cameras; missing frames do not count."""
            latents, parts = table.features[rows[some]], []
            for number, (pictures, known) in enumerate(frames):
                camera, seen = head.of(number), known[some].float()
                with autocast(table.device):
                    shown = camera(latents).float()
                squared = (shown - camera.scores(pictures[some])).square().mean((1, 2, 3))
                parts.append((squared * seen).sum() / seen.sum().clamp(min=1))
            return torch.stack(parts).sum()

        held_out = table.held_out[rows]
        validation, fitted = held_out.nonzero()[:MAX_VALIDATION_FRAMES, 0], (~held_out).nonzero()[:, 0]
        pixels = sum(signal.shape[0] * signal.shape[1] for signal in images)
        batch_size = min(fit.batch_size, max(MIN_BATCH, UPDATE_PIXELS // pixels))
        fit = replace(fit, learning_rate=RATE_RATIO * fit.learning_rate)
        for optimizer in fit.optimise(head, (lambda: float(error(validation))) if len(validation) else None):
            drawn = torch.randint(len(fitted), (batch_size,), generator=generator, device=table.device)
            descend(optimizer, error(fitted[drawn]))
        return head


def _frames(store: Store, table: LatentTable, signal: Signal, rows: Tensor) -> tuple[Tensor, Bool[Tensor, " K"]]:
    """The images [K, height, width, channels] of these rows, and whether each was observed."""
    places = torch.stack([table.episode[rows], rows - table.first[rows]], 1).cpu().numpy()
    pictures = np.empty((len(rows), 1, *signal.shape), signal.dtype)
    store.read_into(signal.name, places, pictures)
    known = [store.observed(signal.name, episode, step, step + 1)[0] for episode, step in places.tolist()]
    return to_tensor(pictures[:, 0], table.device), to_tensor(np.array(known), table.device)
