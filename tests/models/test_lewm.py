from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.lewm_toys import BATCH, CAMERA, LENGTH, PUSH, SMALL, encoded, model, schema, window
from tests.models.windows import complete, cut, fit, hide, seeded
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from worldline.errors import ConfigError, UnknownNameError
from worldline.models import lewm
from worldline.models.base import Window
from worldline.models.layers.regularizers import sigreg
from worldline.models.lewm import HalfAttention, Lewm, LewmConfig, WholeLinear
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model
from worldline.testing.rollouts import pick_entries


def prediction(net: Lewm, on: Window) -> Tensor:
    return net.loss(on, generator=seeded()).terms["prediction"]


@pytest.mark.parametrize(
    ("exogenous", "settings"), [(True, {}), (False, {"history": 1}), (True, {"history": 4, "sigreg_weight": 0.0})]
)
def test_conforms(exogenous: bool, settings: dict[str, Any]) -> None:
    check_model(model(exogenous=exogenous, **settings), window(exogenous=exogenous))


def test_conforms_with_two_observations_and_before_it_is_trained() -> None:
    net = Lewm(schema=schema(), config=LewmConfig(inputs=("camera",), **SMALL))
    check_model(net, window(length=3), expect_action_effect=False)


def test_the_defaults_are_the_published_size() -> None:
    camera = replace(CAMERA, shape=(224, 224, 3))
    block = replace(PUSH, shape=(10,))
    with torch.device("meta"):
        net = Lewm(schema=Schema(signals=(camera, block)), config=LewmConfig(inputs=("camera",)))
    assert sum(parameter.numel() for parameter in net.parameters()) == 18_034_478
    # Of 303 published tensors three products become one, in weight and bias, twelve times; two normalisers come on top.
    assert len(net.state_dict()) == 303 - 12 * 4 + 4
    assert net.context == 3
    assert net.deterministic


def test_the_first_token_alone_is_what_the_whole_layer_gives() -> None:
    layer = lewm.EncoderLayer(8, 2).double()
    tokens = torch.randn(3, 5, 8, dtype=torch.float64, generator=seeded())
    whole = layer(tokens, torch.float64)[:, 0]
    alone = layer.first(tokens, torch.float64)
    torch.testing.assert_close(alone, whole)
    weights = torch.randn(whole.shape, dtype=torch.float64, generator=seeded())
    for found, due in zip(
        torch.autograd.grad((alone * weights).sum(), layer.parameters()),
        torch.autograd.grad((whole * weights).sum(), layer.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(found, due)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("at_once", [1, 25, 1000])
def test_half_attention_is_attention(monkeypatch: pytest.MonkeyPatch, frames: int, at_once: int) -> None:
    """In double precision, where it can be told: values, and gradients against differences."""
    monkeypatch.setattr(lewm, "SCORES_AT_ONCE", at_once)
    joined = torch.randn(frames, 5, 3 * 6, dtype=torch.float64, generator=seeded()).requires_grad_()
    before = joined.detach().clone()
    query, key, value = joined.unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    due = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(HalfAttention.apply(joined, 2), due)
    assert torch.autograd.gradcheck(lambda one: HalfAttention.apply(one, 2), (joined,))
    assert torch.equal(joined, before)


def test_a_linear_layer_through_onednn_is_a_linear_layer() -> None:
    if lewm._product() is None:
        pytest.skip("torch was built without oneDNN")
    values, weight, bias = (torch.randn(shape, generator=seeded()) for shape in ((3, 5, 7), (4, 7), (4,)))
    given = [one.requires_grad_() for one in (values, weight, bias)]
    found, due = WholeLinear.apply(*given), linear(*given)
    torch.testing.assert_close(found, due)
    for mine, other in zip(
        torch.autograd.grad(found.square().sum(), given), torch.autograd.grad(due.square().sum(), given), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_without_onednn_it_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = model().eval(), window()
    due = encoded(net, seen).latents
    monkeypatch.setattr(lewm, "_product", lambda: None)
    torch.testing.assert_close(encoded(net, seen).latents, due, rtol=1e-5, atol=1e-5)


def test_half_precision_stays_close() -> None:
    net, seen = model(), window(batch=16)
    whole = net.loss(seen, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        half = net.loss(seen, generator=seeded())
    half.total.backward()
    for name, term in whole.terms.items():
        torch.testing.assert_close(half.terms[name], term, rtol=0.03, atol=0)
        assert half.terms[name] != term
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in net.parameters())


def test_frames_are_encoded_alike_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = model(), window()
    due = net.loss(seen, generator=seeded()).total
    monkeypatch.setattr(lewm, "TOKENS_AT_ONCE", 1)
    torch.testing.assert_close(net.loss(seen, generator=seeded()).total, due)


def test_pixels_are_normalised_as_those_of_imagenet() -> None:
    """A patch of one colour, by row, column and colour."""
    net = model()
    images = torch.zeros(1, 16, 24, 3, dtype=torch.uint8)
    images[0, 8:, 16:] = torch.tensor([255, 0, 51])
    patches = net.encoder._patches(images, torch.ones(1, dtype=torch.bool))
    due = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    torch.testing.assert_close(patches[0, 5].reshape(8, 8, 3), due.expand(8, 8, 3))
    blank = net.encoder._patches(images, torch.zeros(1, dtype=torch.bool))
    assert not blank.any()


def test_what_lies_further_back_than_the_history_is_forgotten() -> None:
    net, seen = model(history=3).eval(), window()
    long, short = encoded(net, seen), encoded(net, cut(seen, slice(LENGTH - 3, None)))
    assert long.latents.shape == (BATCH, 3, 8)
    assert long.inputs.shape == (BATCH, 2, 5)
    torch.testing.assert_close(long.latents, short.latents)
    assert torch.equal(long.inputs, short.inputs)
    assert long.features().shape == (BATCH, 1, 8)


@pytest.mark.parametrize("back", [1, 2])
def test_what_lies_within_the_history_counts(back: int) -> None:
    net, seen = model(history=3).eval(), window()
    future = cut(window(seed=6), slice(0, 2)).past
    start = encoded(net, seen)
    images = seen.observations["camera"].clone()
    images[:, -1 - back] = images[:, -1 - back].flip(0)
    other = encoded(net, replace(seen, observations={"camera": images}))
    pair = [net.rollout(one, future, generator=seeded()).features for one in (start, other)]
    assert torch.equal(start.features(), other.features())
    assert (pair[0] - pair[1]).abs().max() > 1e-4


def test_a_rollout_is_teacher_forcing_on_its_own_latents() -> None:
    """Its steps, put back as if they had been seen, are predicted again: one window at a time."""
    net, seen = model(dropout=0.0).eval(), window(length=2)
    future = window(seed=6).past
    imagined = net.rollout(encoded(net, seen), future, generator=seeded()).features[:, 0, 0]
    path = torch.cat([encoded(net, seen).latents, imagined], 1)
    codes = net.to_codes(torch.cat([net.inputs(seen.past), net.inputs(future)], 2)[:, 0])
    for step in range(2, path.shape[1]):
        some = slice(max(0, step - 3), step)
        again = net._predict(path[:, some], codes[:, some], seeded(), last_only=False)[:, -1]
        torch.testing.assert_close(again, path[:, step], rtol=1e-4, atol=1e-5)


def test_prediction_is_the_error_over_stretches_of_the_history() -> None:
    net, seen = model().eval(), window()
    stretches = [cut(seen, slice(first, first + 4)) for first in range(LENGTH - 3)]
    parts = torch.stack([prediction(net, one) for one in stretches])
    torch.testing.assert_close(prediction(net, seen), parts.mean())


def test_prediction_on_one_stretch_by_hand() -> None:
    net, seen = model().eval(), window(length=4)
    latents = torch.stack([encoded(net, cut(seen, slice(k, k + 1))).latents[:, 0] for k in range(4)], 1)
    errors = []
    for step in range(3):
        start = encoded(net, cut(seen, slice(0, step + 1)))
        action = cut(seen, slice(step, step + 2)).past
        imagined = net.rollout(start, action, generator=seeded()).features[:, 0, 0, 0]
        errors.append((imagined - latents[:, step + 1]).square().mean())
    torch.testing.assert_close(prediction(net, seen), torch.stack(errors).mean(), rtol=1e-4, atol=1e-6)


def test_the_terms_and_their_weights() -> None:
    net, seen = model(sigreg_weight=2.0).eval(), window(length=3)
    found = net.loss(seen, generator=seeded())
    assert found.weights == {"prediction": 1.0, "sigreg": 2.0}
    latents = torch.stack([encoded(net, cut(seen, slice(k, k + 1))).latents[:, 0] for k in range(3)])
    torch.testing.assert_close(found.terms["sigreg"], sigreg(latents, num_slices=8, generator=seeded()))
    assert set(model(sigreg_weight=0.0).loss(seen, generator=seeded()).terms) == {"prediction"}


def test_a_missing_image_is_left_out_of_the_loss() -> None:
    """Where it is the target, and wherever it is among what the predictor sees."""
    net, seen = model().eval(), window(length=4)
    first, second = (pick_entries(seen, torch.tensor([entry])) for entry in (0, 1))
    clean = [prediction(net, cut(one, slice(0, 2))) for one in (first, second)]
    gap = hide(seen, 0, 2, "camera")
    whole = prediction(net, second)
    due = (clean[0] + 3 * whole) / 4  # of the first entry one step is left, of the second all three
    torch.testing.assert_close(prediction(net, pick_entries(gap, torch.arange(2))), due, rtol=1e-4, atol=1e-6)
    blind = replace(seen, observed={"camera": torch.zeros(BATCH, 4, dtype=torch.bool)})
    nothing = net.loss(blind, generator=seeded())
    assert nothing.terms["prediction"] == 0
    assert nothing.total.isfinite()


@pytest.mark.parametrize("missing", [LENGTH - 1, LENGTH - 2, 1])
def test_the_predicted_latent_takes_the_place_of_a_missing_image(missing: int) -> None:
    net, seen = model().eval(), window()
    gap = encoded(net, cut(hide(seen, 1, missing, "camera"), slice(0, missing + 1)))
    start = encoded(net, cut(seen, slice(0, missing)))
    last = cut(seen, slice(missing - 1, missing + 1)).past
    predicted = net.rollout(start, last, generator=seeded()).features[:, 0, 0, 0]
    torch.testing.assert_close(gap.latents[1, -1], predicted[1], rtol=1e-4, atol=1e-5)
    whole = encoded(net, cut(seen, slice(0, missing + 1)))
    torch.testing.assert_close(gap.latents[[0, 2, 3], -1], whole.latents[[0, 2, 3], -1])


def test_dropout_is_drawn_in_training_alone_and_from_the_generator() -> None:
    net, seen = model(dropout=0.5), window()

    def losses() -> list[float]:
        return [float(net.loss(seen, generator=seeded(seed)).terms["prediction"].detach()) for seed in (1, 1, 2)]

    state = torch.get_rng_state()
    first, again, other = losses()
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)
    net.eval()
    first, _, other = losses()
    assert first == other


def test_it_learns_what_an_action_does() -> None:
    """A bright column that the action moves left or right; blind to actions, 0.17 of the change or more is left."""
    torch.manual_seed(0)
    settings = {**SMALL, "latent_size": 16, "predictor_heads": 2, "head_size": 8, "predictor_width": 32, "dropout": 0.0}
    push = Schema(signals=(CAMERA, replace(PUSH, shape=(1,))))
    net = Lewm(schema=push, config=LewmConfig(inputs=("camera",), **{**settings, "sigreg_weight": 1.0}))
    fit(net, lambda generator: moving_column(32, generator), 120, lr=8e-3).train()
    seen = moving_column(64, seeded(9))
    latents = net._encode_images(seen.observations["camera"], seen.observed["camera"]).detach()
    still = latents.diff(dim=1).square().mean()
    assert prediction(net, seen) < 0.1 * still


def moving_column(batch: int, generator: torch.Generator) -> Window:
    place = torch.randint(24, (batch, 1), generator=generator)
    moves = torch.randint(2, (batch, 3), generator=generator) * 2 - 1
    places = (torch.cat([place, place + 3 * moves.cumsum(1)], 1) % 24)[..., None, None, None]
    lit = (torch.arange(24)[:, None] - places) % 24 < 4
    images = (lit * 255).to(torch.uint8).expand(batch, 4, 16, 24, 3)
    return complete({"camera": images}, moves[..., None].float())


def test_signals_that_it_cannot_take_are_refused() -> None:
    config = LewmConfig(inputs=("camera",), **SMALL)
    with pytest.raises(UnknownNameError, match="Did you mean 'camera'"):
        Lewm(schema=schema(), config=replace(config, inputs=("camra",)))
    with pytest.raises(ConfigError, match="multiples of its patch, 8"):
        Lewm(schema=Schema(signals=(replace(CAMERA, shape=(16, 20, 3)), PUSH)), config=config)
    with pytest.raises(ConfigError, match="takes 3 colours"):
        Lewm(schema=Schema(signals=(replace(CAMERA, shape=(16, 16, 1)), PUSH)), config=config)
    heat = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    with pytest.raises(ConfigError, match="'heat' is a vector"):
        Lewm(schema=Schema(signals=(heat, PUSH)), config=replace(config, inputs=("heat",)))
