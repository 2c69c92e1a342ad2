from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.lewm_toys import BATCH, CAMERA, LENGTH, PUSH, SMALL, encoded, model, schema, window
from tests.models.windows import complete, cut, fit, hide, seeded
from torch import Tensor

from worldline.errors import ConfigError, UnknownNameError
from worldline.models import lewm
from worldline.models.base import Window
from worldline.models.lewm import Lewm, LewmConfig
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
    assert (len(net.state_dict()), net.context) == (303 - 12 * 4 + 4, 3)
    assert net.deterministic


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


def test_what_lies_further_back_than_the_history_is_forgotten() -> None:
    net, seen = model(history=3).eval(), window()
    long, short = encoded(net, seen), encoded(net, cut(seen, slice(LENGTH - 3, None)))
    assert (long.latents.shape, long.inputs.shape) == ((BATCH, 3, 8), (BATCH, 2, 5))
    torch.testing.assert_close(long.latents, short.latents)
    assert torch.equal(long.inputs, short.inputs)
    assert long.features().shape == (BATCH, 1, 8)


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
