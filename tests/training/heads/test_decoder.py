from __future__ import annotations

import torch

from worldline.schema import Kind, Role, Signal
from worldline.training.heads.decoder import Decoder, DecoderConfig


def image(name: str, *shape: int) -> Signal:
    return Signal(name=name, role=Role.OBSERVATION, kind=Kind.IMAGE, shape=shape)


FRONT, SIDE = image("arm.front", 30, 48, 3), image("side", 32, 32, 1)


def test_a_picture_is_rounded_and_never_wraps_around() -> None:
    head = Decoder(DecoderConfig(latent_size=4, images=(SIDE,), channels=4, width=8)).eval()
    head.of(0).deviation.fill_(0.0)
    for grey, due in ((99.6, 100), (300.0, 255), (-5.0, 0)):
        head.of(0).mean.fill_(grey)
        assert (head(torch.zeros(2, 4))["side"] == due).all()
