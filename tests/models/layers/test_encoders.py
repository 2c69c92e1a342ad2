from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.models.windows import HEADING, LAMP, POSITION, seeded

from worldline.models.layers.encoders import ImageEncoder, VectorEncoder
from worldline.schema import Kind, Role, Signal

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 48, 3))


SIGNALS = (POSITION, HEADING, LAMP)
BATCH, LENGTH = 6, 5


def camera(shape: tuple[int, int, int] = (32, 48, 3)) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(replace(CAMERA, shape=shape), channels=4, width=8, out=5).eval()


def pictures(*lead: int, shape: tuple[int, int, int] = (32, 48, 3)) -> torch.Tensor:
    return torch.randint(256, (*lead, *shape), generator=seeded(), dtype=torch.uint8)


def values(length: int = LENGTH) -> dict[str, torch.Tensor]:
    generator = seeded(3)
    return {
        "position": 5 + 2 * torch.randn(BATCH, length, 2, generator=generator),
        "heading": 360 * torch.rand(BATCH, length, 1, generator=generator),
        "lamp": torch.randint(3, (BATCH, length), generator=generator),
    }


def everything(length: int = LENGTH) -> dict[str, torch.Tensor]:
    return {signal.name: torch.ones(BATCH, length, dtype=torch.bool) for signal in SIGNALS}


def vectors(*signals: Signal) -> VectorEncoder:
    torch.manual_seed(0)
    return VectorEncoder(signals or SIGNALS, width=8, out=5)


def test_each_colour_is_normalised_by_itself() -> None:
    made, images = camera(), pictures(4, 2)
    made.fit(images, torch.ones(4, 2, dtype=torch.bool))
    flat = images.flatten(0, 1)
    scores = (flat.float() - flat.float().mean((0, 1, 2))) / flat.float().std((0, 1, 2), correction=1)
    due = made.layers(scores.permute(0, 3, 1, 2))
    torch.testing.assert_close(made(flat, torch.ones(8, dtype=torch.bool)), due, rtol=1e-4, atol=1e-5)


def test_a_missing_image_is_the_mean_image() -> None:
    made, images = camera(), pictures(3)
    made.fit(pictures(3, 1), torch.ones(3, 1, dtype=torch.bool))
    found = made(images, torch.tensor([True, False, True]))
    mean = made.mean.permute(1, 2, 0).expand(1, 32, 48, 3)
    torch.testing.assert_close(found[1], made(mean, torch.tensor([True]))[0])
    torch.testing.assert_close(found[0], made(images[:1], torch.tensor([True]))[0])


@pytest.mark.parametrize("shape", [(32, 32, 3), (96, 96, 3), (64, 256, 1), (48, 32, 4)])
def test_any_size_in_range_is_taken(shape: tuple[int, int, int]) -> None:
    assert camera(shape)(pictures(2, shape=shape), torch.ones(2, dtype=torch.bool)).shape == (2, 5)


def test_what_is_missing_does_not_matter_but_for_its_flag() -> None:
    made, seen, observed = vectors(), values(), everything()
    made.fit(seen, observed)
    observed["lamp"][0] = observed["position"][0] = False
    spoilt = {**seen, "lamp": seen["lamp"].clone(), "position": seen["position"].clone()}
    spoilt["lamp"][0], spoilt["position"][0] = -7, torch.nan  # a discrete value that does not exist
    assert torch.equal(made(spoilt, observed), made(seen, observed))
    zeros = made.scores(spoilt, observed)[0]
    assert (zeros[:, [0, 1, 4, 5, 6]] == 0).all()
    assert (zeros[:, 2:4] != 0).any()
    flags = torch.stack([observed[signal.name] for signal in SIGNALS], -1)
    assert torch.equal(made.of_scores(made.scores(seen, observed), flags), made(seen, observed))
    assert not torch.allclose(made.of_scores(made.scores(seen, observed), torch.ones_like(flags)), made(seen, observed))


def test_a_change_that_nobody_saw_happen_has_a_size() -> None:
    """A position that leaps once, behind a screen three steps wide, and stands still wherever it is seen."""
    made, observed = vectors(POSITION), {"position": torch.ones(8, 9, dtype=torch.bool)}
    seen = torch.zeros(8, 9, 2)
    seen[:, 5:] = 1.0
    observed["position"][:, 3:5] = False
    made.fit({"position": seen.masked_fill(~observed["position"][..., None], torch.nan)}, observed)
    leap = 1 / made.normaliser.deviation
    torch.testing.assert_close(made.change, (leap.square() / 3 / 6).sqrt())  # six changes were seen, one over 3 steps


def test_each_signal_is_fitted_where_it_was_observed() -> None:
    """A slow sensor takes nothing from a fast one."""
    made, whole, seen, observed = vectors(), vectors(), values(), everything()
    whole.fit(seen, observed)
    observed["heading"][:, 1:] = False
    made.fit({**seen, "heading": seen["heading"].masked_fill(~observed["heading"][..., None], torch.nan)}, observed)
    for name in ("mean", "deviation"):
        found, due = getattr(made.normaliser, name), getattr(whole.normaliser, name)
        torch.testing.assert_close(found[[0, 1, 4, 5, 6]], due[[0, 1, 4, 5, 6]])
    torch.testing.assert_close(made.change[[0, 1, 4, 5, 6]], whole.change[[0, 1, 4, 5, 6]])
    turn = torch.deg2rad(seen["heading"][:, 0])
    torch.testing.assert_close(made.normaliser.mean[2:4], torch.cat([turn.sin(), turn.cos()], -1).mean(0))


def test_the_change_of_a_slow_sensor_is_that_of_a_random_walk_over_its_gap() -> None:
    made = vectors(POSITION)
    path = torch.randn(400, 9, 2, generator=seeded()).cumsum(1)
    observed = torch.ones(400, 9, dtype=torch.bool)
    observed[:, torch.arange(9) % 4 != 0] = False
    made.fit({"position": path}, {"position": observed})
    torch.testing.assert_close(made.change * made.normaliser.deviation, torch.ones(2), rtol=0.1, atol=0.0)


def test_what_was_seen_once_at_most_keeps_its_scale() -> None:
    made, observed = vectors(), everything()
    observed["position"][:] = False
    observed["position"][0, 0] = True
    made.fit(values(), observed)
    assert (made.normaliser.mean[:2].tolist(), made.normaliser.deviation[:2].tolist()) == ([0, 0], [1, 1])
    assert (made.normaliser.mean[2:] != 0).all()
