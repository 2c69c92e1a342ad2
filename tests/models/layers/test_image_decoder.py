from __future__ import annotations

import pytest
import torch
from torch import nn

from worldline.models.layers.image_decoder import LEAST_DEVIATION, ImageDecoder
from worldline.schema import Kind, Role, Signal


def camera(high: int, wide: int, colours: int = 3) -> Signal:
    return Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(high, wide, colours))


def decoder(signal: Signal) -> ImageDecoder:
    torch.manual_seed(0)
    return ImageDecoder(signal, latent_size=6, channels=4, width=16)


def pictures(*lead: int, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (*lead, side, side, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3), (48, 80, 1), (256, 32, 4), (8, 8, 1), (40, 33, 3)])
def test_pictures_of_every_size(shape: tuple[int, int, int]) -> None:
    net = decoder(camera(*shape))
    latents = 100 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    assert net(latents).shape == (2, *shape)
    images = net.images(latents)
    assert images.shape == (2, *shape)
    assert images.min() >= 0
    assert images.max() <= 255
    assert (images[0] != images[1]).any()


def test_each_number_of_a_patch_is_the_pixel_it_stands_for() -> None:
    """The last layer gives rows, columns and colours of each patch, in this order."""
    net = decoder(camera(32, 48))
    last = net.layers[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.arange(8 * 8 * 3))
    image = net(torch.randn(1, 6))[0]
    row, column, colour = torch.meshgrid(torch.arange(32), torch.arange(48), torch.arange(3), indexing="ij")
    assert torch.equal(image, ((row % 8 * 8 + column % 8) * 3 + colour).float())


def test_the_scale_is_that_of_each_pixel_where_it_was_observed() -> None:
    images, observed = pictures(4, 3), torch.ones(4, 3, dtype=torch.bool)
    observed[1, 2] = False
    net = decoder(camera(32, 32))
    net.fit(images, observed)
    seen = images[observed].float()
    torch.testing.assert_close(net.mean, seen.mean(0))
    scores = net.scores(images[observed])
    torch.testing.assert_close(scores.std(0, correction=0), torch.ones(32, 32, 3), rtol=1e-3, atol=1e-3)
    for parameter in net.layers[-1].parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(net.images(torch.randn(1, 6))[0], net.mean)


def test_nothing_observed_leaves_the_scale_and_a_flat_picture_is_not_blown_up() -> None:
    net = decoder(camera(32, 32))
    net.fit(pictures(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    assert net.mean.unique().tolist() == [127.5]
    net.fit(torch.full((2, 2, 32, 32, 3), 9, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.bool))
    assert (net.mean.unique().tolist(), net.deviation.unique().tolist()) == ([9.0], [LEAST_DEVIATION])


def test_it_learns_pictures_by_heart() -> None:
    torch.manual_seed(0)
    net = ImageDecoder(camera(32, 32), latent_size=6, channels=8, width=32)
    due = pictures(4, side=4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    latents = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (net(latents) - net.scores(due)).square().mean()
        loss.backward()
        optimizer.step()
    error = (net.images(latents) - due).abs().mean()
    assert error < 0.2 * (due.float().mean(0) - due).abs().mean()
