from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.contracts.world_model import Inputs, Losses, Window
from worldline.errors import ConfigError, UnknownNameError
from worldline.models.jepa import Jepa, JepaConfig
from worldline.nn.sigreg import sigreg
from worldline.testing import check_model

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3))
POSITION = Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
HEAT = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="m")
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(3,), unit="m/s")
SMALL = {"latent_size": 8, "channels": 4, "encoder_width": 16, "predictor_width": 16, "num_slices": 8}
BATCH, LENGTH = 4, 4


def schema(*, exogenous: bool = True) -> Schema:
    return Schema(signals=(CAMERA, POSITION, HEAT, LAMP, PUSH, *((WIND,) if exogenous else ())))


def model(*inputs: str, exogenous: bool = True, **settings: Any) -> Jepa:
    torch.manual_seed(0)
    return Jepa(schema=schema(exogenous=exogenous), config=JepaConfig(inputs=inputs, **{**SMALL, **settings}))


def window(*, exogenous: bool = True, batch: int = BATCH, length: int = LENGTH) -> Window:
    generator = seeded(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Window(
        observations={
            "camera": torch.randint(256, (batch, length, 64, 64, 3), generator=generator, dtype=torch.uint8),
            "position": normal(batch, length, 2),
            "heat": 20 + 5 * normal(batch, length, 1),
        },
        observed={name: torch.ones(batch, length, dtype=torch.bool) for name in ("camera", "position", "heat")},
        past=Inputs(
            actions=normal(batch, 1, length - 1, 2),
            exogenous=normal(batch, length - 1, 3) if exogenous else None,
            step_s=torch.ones(batch, length - 1),
        ),
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(of: Jepa, on: Window) -> Losses:
    return of.loss(on, generator=seeded())


def hide(on: Window, name: str, entry: int, step: int) -> Window:
    observed = {**on.observed, name: on.observed[name].clone()}
    observed[name][entry, step] = False
    observations = {**on.observations, name: on.observations[name].clone()}
    observations[name][entry, step] = 0 if name == "camera" else torch.nan
    return replace(on, observations=observations, observed=observed)


@pytest.mark.parametrize("exogenous", [True, False], ids=["wind", "calm"])
@pytest.mark.parametrize(
    ("inputs", "weights"),
    [
        (("camera",), {}),
        (("camera",), {"sigreg_weight": 0.0, "signal_weight": 1.0}),
        (("position", "heat"), {"signal_weight": 1.0}),
        (("position",), {"constant_size": 3}),
        (("camera", "position"), {"constant_size": 2, "signal_weight": 1.0}),
        (("heat", "camera", "position"), {}),
    ],
)
def test_conforms(inputs: tuple[str, ...], weights: dict[str, float], exogenous: bool) -> None:
    check_model(model(*inputs, exogenous=exogenous, **weights), window(exogenous=exogenous))


@pytest.mark.parametrize("inputs", [("camera",), ("position",)])
def test_conforms_once_its_normaliser_is_fitted(inputs: tuple[str, ...]) -> None:
    fitted = model(*inputs, signal_weight=1.0)
    fitted.fit_normaliser(window())
    check_model(fitted, window())


@pytest.mark.parametrize("name", ["camera", "position"])
def test_what_was_never_observed_keeps_its_scale(name: str) -> None:
    seen = window()
    net = model(name)
    net.fit_normaliser(replace(seen, observed={**seen.observed, name: torch.zeros_like(seen.observed[name])}))
    untouched = model(name).state_dict()
    for key, value in net.state_dict().items():
        if not key.startswith(("actions", "exogenous")):
            assert torch.equal(value, untouched[key]), key


def test_the_terms_are_those_of_the_config() -> None:
    found = loss(model("camera", "position", sigreg_weight=2.0, constant_size=3, signal_weight=4.0), window())
    assert found.weights == {"prediction": 1.0, "sigreg": 2.0, "constant": 2.0, "change": 2.0, "signals": 4.0}
    assert set(found.terms) == set(found.weights)
    assert set(loss(model("camera", sigreg_weight=0.0, signal_weight=4.0), window()).terms) == {"prediction"}


def test_no_input_changes_what_is_constant() -> None:
    net, seen = model("position", constant_size=3).eval(), window()
    start = net.belief(encoded(net, seen, 0))
    imagined = net.rollout(start, seen.past, generator=seeded()).features[:, 0, 0]
    known = start.latent[:, None].expand_as(imagined)
    assert torch.equal(imagined[..., -3:], known[..., -3:])
    assert (imagined[..., :-3] != known[..., :-3]).all()


def test_prediction_is_open_loop_from_the_first_latent() -> None:
    net, seen = model("position").eval(), window()
    latents = torch.stack([encoded(net, seen, step) for step in range(LENGTH)], 1)
    start = net.belief(latents[:, 0])
    imagined = net.rollout(start, seen.past, generator=seeded()).features[:, 0, 0]
    due = (imagined - latents[:, 1:]).square().mean()
    torch.testing.assert_close(loss(net, seen).terms["prediction"], due)


def test_sigreg_looks_at_the_latents_of_each_step_at_what_is_constant_and_at_half_of_the_change() -> None:
    net, seen = model("position", constant_size=3).eval(), window()
    latents = torch.stack([encoded(net, seen, step) for step in range(LENGTH)])
    generator = seeded()
    found = loss(net, seen).terms
    torch.testing.assert_close(found["sigreg"], sigreg(latents, num_slices=8, generator=generator))
    torch.testing.assert_close(found["constant"], sigreg(latents[..., -3:], num_slices=8, generator=generator))
    half = (latents[-1:] - latents[:1])[..., :4]
    torch.testing.assert_close(found["change"], sigreg(half, num_slices=8, generator=generator))


def test_the_gradient_runs_through_the_targets_too() -> None:
    """There is no stop-gradient: the last observation is only ever a target, and is moved as well."""
    net, seen = model("position", sigreg_weight=0.0), window()
    position = seen.observations["position"].clone().requires_grad_()
    net.loss(
        replace(seen, observations={**seen.observations, "position": position}), generator=seeded()
    ).total.backward()
    assert position.grad is not None
    assert position.grad[:, -1].abs().min() > 0


def test_with_a_signal_weight_the_vectors_are_the_first_numbers_of_the_latent() -> None:
    net, seen = model("camera", "position", "heat", signal_weight=1.0).eval(), window()
    net.fit_normaliser(seen)
    latents = encoded(net, seen, 1)
    position, heat = (seen.observations[name] for name in ("position", "heat"))
    scores = torch.cat([(x[:, 1] - x.mean((0, 1))) / x.flatten(0, 1).std(0) for x in (position, heat)], -1)
    torch.testing.assert_close(latents[:, :3], scores)
    assert latents.shape == (BATCH, 8)


def test_the_error_of_signals_is_relative_to_that_of_standing_still() -> None:
    """A model whose vectors stand still errs by 1 at each step but for what one step usually changes."""
    net, seen = model("position", signal_weight=1.0), window(batch=64)
    net.fit_normaliser(seen)
    for parameter in net.predictor.parameters():
        torch.nn.init.zeros_(parameter)
    position = seen.observations["position"]
    scores = (position - position.mean((0, 1))) / position.flatten(0, 1).std(0)
    still = (scores[:, 1:] - scores[:, :1]).square().mean(0)
    usual = scores.diff(dim=1).square().mean((0, 1))
    torch.testing.assert_close(loss(net, seen).terms["signals"], (still / (still + usual)).mean())


def test_a_slow_signal_counts_like_a_fast_one() -> None:
    """Were steps a hundred times shorter, predicted changes and errors would be, too."""
    net, seen, losses = model("heat", signal_weight=1.0), window(batch=64), []
    heat = seen.observations["heat"]
    start = 20 + 100 * (heat[:, :1] - 20)
    for pace in (1.0, 0.01):
        paced = replace(seen, observations={**seen.observations, "heat": start + pace * (heat - heat[:, :1])})
        net.fit_normaliser(paced)
        losses.append(float(loss(net, paced).terms["signals"].detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_the_vectors_leave_room_for_what_is_learned() -> None:
    with pytest.raises(ConfigError, match="latent_size is 3, and the vector inputs alone fill 3"):
        model("position", "heat", latent_size=3, signal_weight=1.0)
    with pytest.raises(ConfigError, match="what stays constant 5"):
        model("position", "heat", latent_size=8, signal_weight=1.0, constant_size=5)
    assert model("position", "heat", latent_size=3).num_exact == 0


def test_missing_values_spoil_no_gradient() -> None:
    net = model("camera", "position", "heat", signal_weight=1.0, constant_size=2)
    seen = hide(hide(hide(window(), "position", 0, 0), "heat", 1, LENGTH - 1), "camera", 2, 1)
    losses = loss(net, seen)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_nothing_observed_at_all_is_no_division_by_zero() -> None:
    seen = window()
    blind = replace(seen, observed={name: torch.zeros_like(flags) for name, flags in seen.observed.items()})
    found = loss(model("position", signal_weight=1.0), blind).terms
    assert found["prediction"] == 0
    assert found["signals"] == 0


def test_a_step_that_was_seen_in_part_only_is_predicted_instead() -> None:
    net, seen = model("camera", "position").eval(), window()
    gap = hide(seen, "position", 1, LENGTH - 1)
    whole, part = (net.encode(one, generator=seeded()).features()[:, 0] for one in (seen, gap))
    torch.testing.assert_close(part[[0, 2, 3]], whole[[0, 2, 3]])
    before = encoded(net, seen, LENGTH - 2)
    last = replace(
        seen.past,
        actions=seen.past.actions[:, :, -1:],
        exogenous=seen.past.exogenous[:, -1:],
        step_s=torch.ones(BATCH, 1),
    )
    predicted = net.rollout(net.belief(before), last, generator=seeded()).features[:, 0, 0, 0]
    torch.testing.assert_close(part[1], predicted[1])


def test_the_normaliser_knows_physical_units() -> None:
    """In kelvin or degrees, pixels or metres: once fitted, the model is the same."""
    seen, scaled = window(), window()
    scaled = replace(
        seen,
        observations={**seen.observations, "heat": seen.observations["heat"] * 1.8 + 32},
        past=replace(seen.past, actions=100 * seen.past.actions, exogenous=3 * seen.past.exogenous - 7),
    )
    first, second = model("heat").eval(), model("heat").eval()
    first.fit_normaliser(seen)
    second.fit_normaliser(scaled)
    for name, term in loss(first, seen).terms.items():
        torch.testing.assert_close(loss(second, scaled).terms[name], term, rtol=1e-4, atol=1e-6)


def test_a_missing_image_is_the_mean_image() -> None:
    net = model("camera").eval()
    grey = window()
    grey.observations["camera"].fill_(100)
    net.fit_normaliser(grey)
    missing = replace(window(), observed={"camera": torch.zeros(BATCH, LENGTH, dtype=torch.bool)})
    torch.testing.assert_close(encoded(net, missing, 0), encoded(net, grey, 0))


def test_equal_seeds_give_equal_losses_whatever_the_global_state() -> None:
    net = model("position")
    torch.manual_seed(1)
    first = loss(net, window()).total
    torch.manual_seed(2)
    assert loss(net, window()).total == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": ()}, "inputs is empty"),
        ({"latent_size": 0}, "latent_size is 0"),
        ({"channels": -1}, "channels is -1"),
        ({"num_slices": 0}, "num_slices is 0"),
        ({"sigreg_weight": -1.0}, "sigreg_weight is -1"),
        ({"signal_weight": -0.1}, "signal_weight is -0.1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JepaConfig(**{"inputs": ("camera",), **settings})


def test_signals_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'camera'"):
        model("camra")
    odd = replace(CAMERA, shape=(96, 100, 3))
    with pytest.raises(ConfigError, match=r"96 by 100 .*multiples of 16"):
        Jepa(schema=Schema(signals=(odd, PUSH)), config=JepaConfig(inputs=("camera",)))


def encoded(net: Jepa, on: Window, step: int) -> torch.Tensor:
    """The latent of one observation by itself."""
    alone = Window(
        observations={name: values[:, step : step + 1] for name, values in on.observations.items()},
        observed={name: flags[:, step : step + 1] for name, flags in on.observed.items()},
        past=Inputs(
            actions=on.past.actions[:, :, :0],
            exogenous=None if on.past.exogenous is None else on.past.exogenous[:, :0],
            step_s=on.past.step_s[:, :0],
        ),
    )
    return net.encode(alone, generator=seeded()).features()[:, 0]
