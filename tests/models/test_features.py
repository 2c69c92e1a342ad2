"""Every encoder here is tiny, random, and made on the spot: nothing is fetched."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldline.config import from_json, to_json
from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.contracts.world_model import Inputs, Window
from worldline.errors import ConfigError, MissingExtraError, UnknownNameError
from worldline.models.features import (
    IMAGENET,
    Features,
    FeaturesConfig,
    View,
    features_config,
    load_encoder,
)
from worldline.nn.codes import to_code
from worldline.testing import check_model

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 3))
WRIST = Signal(name="arm.wrist", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 48, 1))
ANGLE = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
HEAT = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="degC")
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="px")
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(3,), unit="m/s")
SCHEMA = Schema(signals=(CAMERA, WRIST, ANGLE, HEAT, LAMP, PUSH, WIND))
SMALL = {"width": 16, "num_heads": 2, "grid": 2, "components": 6, "image_side": 32}
BATCH, LENGTH = 3, 4

VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 48}
TIMM = {"img_size": 48, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def dinov2() -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**VIT, layerscale_value=1.0))


def registers() -> Any:
    settings = transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=3, layerscale_value=1.0)
    return transformers.Dinov2WithRegistersModel(settings)


def dinov3() -> Any:
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**VIT, intermediate_size=48, num_register_tokens=3, layerscale_value=1.0)
    )


def vjepa2() -> Any:
    return transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=8,
            crop_size=48,
            frames_per_clip=4,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
    )


def timm_vit() -> Any:
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, **TIMM)


MAKERS: dict[str, Callable[[], Any]] = {
    "dinov2": dinov2,
    "registers": registers,
    "dinov3": dinov3,
    "vjepa2": vjepa2,
    "timm": timm_vit,
}
NAMES = tuple(MAKERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per encoder its folder, as its library writes it."""
    torch.manual_seed(0)
    found = {}
    for name, make in MAKERS.items():
        found[name], network = tmp_path_factory.mktemp(name), make()
        for parameter in network.parameters():  # as they begin, the features of all images are nearly alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        if name == "timm":
            timm.models.save_for_hf(network, found[name], model_args=TIMM, safe_serialization=True)
        else:
            network.save_pretrained(found[name])
    return found


def config(folder: Path, *inputs: str, **settings: Any) -> FeaturesConfig:
    library = "timm" if "model_args" in (folder / "config.json").read_text() else "transformers"
    made = features_config(inputs=inputs or ("camera",), folder=folder, library=library)
    return replace(made, **{**SMALL, **settings})


def model(folder: Path, *inputs: str, schema: Schema = SCHEMA, **settings: Any) -> Features:
    torch.manual_seed(0)
    return Features.from_folder(schema=schema, config=config(folder, *inputs, **settings))


def steered(net: Features) -> Features:
    """As after some training: AdaLN-zero begins where inputs do nothing."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return net


def window(batch: int = BATCH, length: int = LENGTH, *, exogenous: bool = True) -> Window:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    def whole(signal: Signal, high: int) -> torch.Tensor:
        return torch.randint(high, (batch, length, *signal.shape), generator=generator)

    observations = {
        "camera": whole(CAMERA, 256).to(torch.uint8),
        "arm.wrist": whole(WRIST, 256).to(torch.uint8),
        "angle": 90 * normal(length, 1),
        "heat": 20 + 5 * normal(length, 2),
        "lamp": whole(LAMP, 3),
    }
    return Window(
        observations=observations,
        observed={name: torch.ones(batch, length, dtype=torch.bool) for name in observations},
        past=Inputs(
            actions=normal(1, length - 1, 2),
            exogenous=normal(length - 1, 3) if exogenous else None,
            step_s=torch.ones(batch, length - 1),
        ),
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def features(net: Features, seen: Window) -> torch.Tensor:
    return net.encode(seen, generator=seeded()).features()[:, 0]


def pixels(images: torch.Tensor) -> torch.Tensor:
    mean, deviation = (torch.tensor(each)[:, None, None] for each in IMAGENET)
    return (images.permute(0, 3, 1, 2) / 255 - mean) / deviation


@torch.no_grad()
def by_the_library(name: str, folder: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Patches [M, cells, cells, channels] and class token, computed without the code under test."""
    if name == "timm":
        network = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **TIMM).eval()
        network.load_state_dict(load_file(folder / "model.safetensors"))
        tokens = network.forward_features(images.permute(0, 3, 1, 2) / 127.5 - 1)  # its own mean and deviation
    elif name == "vjepa2":
        network = transformers.VJEPA2Model.from_pretrained(folder, crop_size=32).eval()
        clip = torch.stack([pixels(images)] * 2, 1)
        tokens = network(pixel_values_videos=clip, skip_predictor=True).last_hidden_state
    else:
        tokens = transformers.AutoModel.from_pretrained(folder).eval()(pixels(images)).last_hidden_state
    return tokens[:, -16:].unflatten(1, (4, 4)), None if name == "vjepa2" else tokens[:, 0]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_the_library(name: str, folders: dict[str, Path]) -> None:
    seen = window(length=1)
    patches, class_token = by_the_library(name, folders[name], seen.observations["camera"][:, 0])

    def found(**settings: Any) -> torch.Tensor:
        return features(model(folders[name], components=0, **settings), seen)

    def due(values: torch.Tensor) -> Any:
        return pytest.approx(values.flatten(1).numpy(), rel=1e-5, abs=1e-5)

    assert patches.std(0).mean() > 0.05  # different images differ
    assert found(grid=4).numpy() == due(patches)
    pooled = patches.unflatten(2, (2, 2)).unflatten(1, (2, 2)).mean((2, 4))
    assert found(grid=2).numpy() == due(pooled)
    assert found(pooling="mean").numpy() == due(patches.mean((1, 2)))
    if class_token is not None:
        assert found(pooling="cls").numpy() == due(class_token)


def test_an_image_is_scaled_to_the_side_and_grey_is_three_colours_alike(folders: dict[str, Path]) -> None:
    seen = window(length=1)
    grey = seen.observations["arm.wrist"]
    large = torch.nn.functional.interpolate(
        grey[:, 0].permute(0, 3, 1, 2) / 1.0, (32, 32), mode="bilinear", antialias=True
    )
    due, _ = by_the_library("dinov2", folders["dinov2"], large.expand(-1, 3, -1, -1).permute(0, 2, 3, 1))
    found = features(model(folders["dinov2"], "arm.wrist", grid=4, components=0), seen)
    torch.testing.assert_close(found, due.flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "inputs", "settings"),
    [
        ("dinov2", ("camera",), {}),
        ("registers", ("camera", "arm.wrist"), {"depth": 1, "span": 2}),
        ("dinov3", ("camera", "angle", "lamp", "heat"), {"components": 0}),
        ("vjepa2", ("camera", "heat"), {"pooling": "mean"}),
        ("timm", ("camera",), {"pooling": "cls", "span": 1}),
    ],
    ids=NAMES,
)
def test_conforms(name: str, inputs: tuple[str, ...], settings: dict[str, Any], folders: dict[str, Path]) -> None:
    check_model(steered(model(folders[name], *inputs, **settings)), window(), horizon=3)


def test_conforms_once_its_normaliser_is_fitted_and_without_exogenous_inputs(folders: dict[str, Path]) -> None:
    schema = Schema(signals=(CAMERA, HEAT, PUSH))
    net = steered(model(folders["dinov2"], "camera", "heat", schema=schema))
    net.fit_normaliser(window(exogenous=False))
    check_model(net, window(exogenous=False), horizon=3)


def test_inputs_do_nothing_until_it_is_trained(folders: dict[str, Path]) -> None:
    check_model(model(folders["timm"]), window(), horizon=2, expect_action_effect=False)
    with pytest.raises(AssertionError, match="actions_matter"):
        check_model(model(folders["timm"]), window(), horizon=2)


def test_the_encoder_stays_frozen(folders: dict[str, Path]) -> None:
    net = model(folders["dinov3"])
    before = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    present = features(net, window())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    net.train()
    assert net.predictor.training
    assert not any(module.training for module in net.encoder.modules())
    net.loss(window(), generator=seeded()).total.backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in net.encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in net.encoder.parameters())
    assert torch.equal(features(net, window().first(1)), features(model(folders["dinov3"]), window().first(1)))
    assert present.shape == (BATCH, 24)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_brings_everything_into_a_model_built_without_memory(name: str, folders: dict[str, Path]) -> None:
    net = steered(model(folders[name], "camera", "heat"))
    net.fit_normaliser(window())
    text = to_json(net.config).replace(json.dumps(str(folders[name])), '"nowhere"')
    with torch.device("meta"):
        empty = Features(schema=SCHEMA, config=from_json(FeaturesConfig, text, where="test"))
    assert empty.config.encoder == "nowhere"
    empty.load_state_dict({key: value.contiguous() for key, value in net.state_dict().items()}, assign=True)
    assert {value.device.type for value in (*empty.parameters(), *empty.buffers())} == {"cpu"}
    torch.testing.assert_close(features(empty.eval(), window()), features(net.eval(), window()))
    empty.fit_normaliser(window())


@pytest.mark.slow
def test_a_bundle_is_opened_where_no_library_was_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    """There the library is imported while the model is built without memory."""
    net = model(folders["dinov3"]).eval()
    save_file({"due": features(net, window())}, tmp_path / "due.safetensors")
    save_file(dict(net.state_dict()), tmp_path / "state.safetensors")
    save_file({"camera": window().observations["camera"]}, tmp_path / "window.safetensors")
    (tmp_path / "config.json").write_text(to_json(net.config))
    (tmp_path / "schema.json").write_text(to_json(SCHEMA))
    script = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
from worldline.config import from_json
from worldline.contracts.schema import Schema
from worldline.models.features import Features, FeaturesConfig
assert "transformers" not in sys.modules and "timm" not in sys.modules
here = Path(sys.argv[1])
schema = from_json(Schema, (here / "schema.json").read_text(), where="schema")
with torch.device("meta"):
    net = Features(schema=schema, config=from_json(FeaturesConfig, (here / "config.json").read_text(), where="config"))
net.load_state_dict(load_file(here / "state.safetensors"), assign=True)
camera = load_file(here / "window.safetensors")["camera"]
frames, _ = net._frames({"camera": camera}, {"camera": torch.ones(camera.shape[:2], dtype=torch.bool)})
torch.testing.assert_close(frames[:, -1], load_file(here / "due.safetensors")["due"])
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_components_are_orthogonal_and_weigh_errors_as_the_channels_do() -> None:
    torch.manual_seed(0)
    mix = torch.randn(5, 5)
    patches = torch.randn(200, 4, 5) @ mix + 10 * torch.randn(4, 5)
    view = View(places=4, channels=5, components=5)
    view.fit(patches)
    scores = view(patches)
    covariance = scores.flatten(0, 1).T.cov()
    variances = covariance.diagonal()
    torch.testing.assert_close(covariance, variances.diag(), atol=1e-3, rtol=0)
    assert torch.equal(variances, variances.sort(descending=True).values)
    assert variances.mean() == pytest.approx(1, rel=1e-2)
    torch.testing.assert_close(scores.mean(0), torch.zeros(4, 5), atol=1e-4, rtol=0)  # at each place
    z = (patches - patches.mean(0)) / view.deviation
    torch.testing.assert_close((scores[0] - scores[1]).square().sum(), (z[0] - z[1]).square().sum(), rtol=1e-3, atol=0)


def test_few_components_are_those_that_vary_most() -> None:
    torch.manual_seed(0)
    wave, noise = torch.randn(300, 1, 1), torch.randn(300, 1, 6)
    view = View(places=1, channels=6, components=1)
    patches = wave * torch.tensor([1.0, -2, 3, 1, -1, 2]) + 0.05 * noise
    view.fit(patches)
    pair = torch.stack([view(patches).flatten(), wave.flatten()])
    assert abs(pair.corrcoef()[0, 1]) > 0.99


def test_what_was_never_observed_or_never_changes_keeps_its_scale(folders: dict[str, Path]) -> None:
    seen, net = window(), model(folders["dinov2"], "camera", "heat")
    nothing = {name: torch.zeros_like(flags) for name, flags in seen.observed.items()}
    before = net.state_dict()["views.0.basis"].clone()
    net.fit_normaliser(replace(seen, observed=nothing))
    assert torch.equal(net.state_dict()["views.0.basis"], before)
    assert torch.equal(net.change, torch.ones_like(net.change))
    still = {name: values[:1, :1].expand_as(values) for name, values in seen.observations.items()}
    net.fit_normaliser(replace(seen, observations=still))
    assert net.change == pytest.approx(1e-4)
    assert features(net, seen).isfinite().all()


def test_vectors_are_the_last_features_exactly(folders: dict[str, Path]) -> None:
    seen, net = window(batch=40), model(folders["dinov2"], "heat", "camera", "angle", "lamp")
    net.fit_normaliser(seen)
    codes = torch.cat([to_code(signal, seen.observations[signal.name]) for signal in (HEAT, ANGLE, LAMP)], -1)
    flat = codes.flatten(0, 1)
    due = (codes[:, -1] - flat.mean(0)) / flat.std(0)
    torch.testing.assert_close(features(net, seen)[:, -7:], due, rtol=1e-4, atol=1e-5)


def test_what_is_missing_of_a_frame_is_predicted_and_the_rest_is_seen(folders: dict[str, Path]) -> None:
    seen, net = window(), steered(model(folders["dinov2"], "camera", "heat")).eval()
    hidden = {**seen.observed, "camera": seen.observed["camera"].clone()}
    hidden["camera"][1, -1] = False
    found, whole = features(net, replace(seen, observed=hidden)), features(net, seen)
    before = net.encode(seen.first(LENGTH - 1), generator=seeded())
    predicted = net.rollout(before, seen.past.steps(slice(-1, None)), generator=seeded()).features[:, 0, 0, 0]
    torch.testing.assert_close(found[1, :24], predicted[1, :24])
    torch.testing.assert_close(found[1, 24:], whole[1, 24:])
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])


def test_the_past_matters_as_far_as_attention_reaches(folders: dict[str, Path]) -> None:
    seen = window(length=5)
    camera = seen.observations["camera"].clone()
    camera[:, 2] = 255 - camera[:, 2]
    other = replace(seen, observations={**seen.observations, "camera": camera})
    moved = {}
    for span in (2, 3):  # with one round, frames 3 and 4 matter to what follows frame 4, or frame 2 as well
        net = steered(model(folders["dinov2"], span=span, depth=1)).eval()
        pair = [net.encode(each, generator=seeded()) for each in (seen, other)]
        assert net.context == span
        found = [net.rollout(each, seen.past.steps(slice(1)), generator=seeded()).features for each in pair]
        moved[span] = float((found[0] - found[1]).detach().abs().max())
    assert moved[2] == 0
    assert moved[3] > 1e-5


def test_the_first_guess_is_that_each_feature_changes_as_it_usually_does(folders: dict[str, Path]) -> None:
    seen, net = window(batch=8), model(folders["dinov2"], "camera", "heat").eval()
    net.fit_normaliser(seen)
    frames = torch.stack([features(net, alone(seen, step)) for step in range(LENGTH)], 1)
    usual = frames.diff(dim=1).square().mean((0, 1)).sqrt()
    for layer in (net.predictor.leave, net.predictor.leave_codes):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.ones_(layer.bias)
    imagined = net.rollout(net.belief(frames[:, 0]), seen.past, generator=seeded()).features[:, 0, 0]
    due = frames[:, :1] + torch.arange(1, LENGTH)[:, None] * usual
    torch.testing.assert_close(imagined, due, rtol=2e-2, atol=2e-2)  # the fit encodes in half precision


def test_both_terms_are_squared_errors_of_what_is_predicted(folders: dict[str, Path]) -> None:
    seen, net = window(length=3), steered(model(folders["dinov2"])).eval()
    frames = torch.stack([features(net, alone(seen, step)) for step in range(3)], 1)
    start = net.belief(frames[:, 0])
    open_loop = net.rollout(start, seen.past, generator=seeded()).features[:, 0, 0]
    second = net.encode(seen.first(2), generator=seeded())
    forced = net.rollout(second, seen.past.steps(slice(1, 2)), generator=seeded()).features[:, 0, 0]
    terms = net.loss(seen, generator=seeded()).terms
    torch.testing.assert_close(terms["open_loop"], (open_loop - frames[:, 1:]).square().mean())
    one_step = torch.cat([open_loop[:, :1], forced], 1)
    torch.testing.assert_close(terms["one_step"], (one_step - frames[:, 1:]).square().mean())
    assert set(terms) == {"one_step", "open_loop"}


def test_only_steps_after_a_frame_that_was_seen_count(folders: dict[str, Path]) -> None:
    """Of 5 frames, frame 1 is missing: step 0 has no target, and step 1 no start."""
    seen, net = window(length=5), steered(model(folders["dinov2"], span=1)).eval()
    hidden = {name: flags.clone() for name, flags in seen.observed.items()}
    hidden["camera"][:, 1] = False
    frames = torch.stack([features(net, alone(seen, step)) for step in range(5)], 1)
    error = []
    for step in (2, 3):
        past = seen.past.steps(slice(step, step + 1))
        predicted = net.rollout(net.belief(frames[:, step]), past, generator=seeded()).features[:, 0, 0, 0]
        error.append((predicted - frames[:, step + 1]).square().mean())
    whole = net.rollout(net.belief(frames[:, 0]), seen.past, generator=seeded()).features[:, 0, 0]
    open_loop = (whole - frames[:, 1:])[:, 1:].square().mean()
    terms = net.loss(replace(seen, observed=hidden), generator=seeded()).terms
    torch.testing.assert_close(terms["one_step"], torch.stack(error).mean())
    torch.testing.assert_close(terms["open_loop"], open_loop)
    hidden["camera"][1:, 0] = False  # open loop, what follows from a frame that is not known
    open_loop = (whole - frames[:, 1:])[:1, 1:].square().mean()
    terms = net.loss(replace(seen, observed=hidden), generator=seeded()).terms
    torch.testing.assert_close(terms["open_loop"], open_loop)


def test_the_error_of_vectors_is_relative_to_standing_still(folders: dict[str, Path]) -> None:
    """A model that predicts no change errs by what it would, whatever the unit and pace of the signal."""
    for pace in (1.0, 0.01):
        seen, net = window(batch=32), model(folders["dinov2"], "camera", "heat")
        heat = seen.observations["heat"]
        paced = replace(
            seen, observations={**seen.observations, "heat": 100 * heat[:, :1] + pace * (heat - heat[:, :1])}
        )
        net.fit_normaliser(paced)
        for parameter in (*net.predictor.leave.parameters(), *net.predictor.leave_codes.parameters()):
            torch.nn.init.zeros_(parameter)
        terms = net.loss(paced, generator=seeded()).terms
        heat = paced.observations["heat"]
        usual = heat.diff(dim=1).square().mean((0, 1))
        still = (heat[:, 1:] - heat[:, :1]).square().mean((0, 1))
        due = (still / (still + usual)).mean()
        torch.testing.assert_close(terms["open_loop_signals"], due, rtol=1e-2, atol=0)
        torch.testing.assert_close(terms["one_step_signals"], torch.tensor(0.5), rtol=1e-2, atol=0)


def test_nothing_observed_at_all_is_no_division_by_zero(folders: dict[str, Path]) -> None:
    seen, net = window(), model(folders["dinov2"], "camera", "heat")
    blind = replace(seen, observed={name: torch.zeros_like(flags) for name, flags in seen.observed.items()})
    losses = net.loss(blind, generator=seeded())
    assert losses.total == 0
    assert features(net, blind).isfinite().all()


def test_learns_to_see_ahead(folders: dict[str, Path]) -> None:
    """Open loop, the trained model errs far less than a frame that stands still, and than the mean frame (1)."""
    net = model(folders["dinov2"], schema=Schema(signals=(CAMERA, PUSH)), components=8, width=32, num_heads=4, span=2)
    net.fit_normaliser(pushed(256, seed=0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for step in range(100):
        losses = net.loss(pushed(32, seed=step + 1), generator=seeded())
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    seen = pushed(64, seed=10**6)
    truth = torch.stack([features(net.eval(), alone(seen, step)) for step in range(4)], 1)
    imagined = net.rollout(net.belief(truth[:, 0]), seen.past, generator=seeded()).features[:, 0, 0].detach()
    error = (imagined - truth[:, 1:]).square().mean((0, 2))
    still = (truth[:, :1] - truth[:, 1:]).square().mean((0, 2))
    assert (error < 0.3 * still).all()
    assert (error < 0.4).all()


def pushed(batch: int, *, seed: int, length: int = 4) -> Window:
    """A pale square on a ring, moved left or right by each action, by its own width or not at all."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randint(-1, 2, (batch, length - 1), generator=generator)
    start = torch.randint(4, (batch, 1), generator=generator)
    corner = 8 * torch.cat([start, start + moves.cumsum(1)], 1)
    covered = (torch.arange(32) - corner[..., None]) % 32 < 8
    square = covered[..., None, :] & (torch.arange(32)[:, None] < 8)
    camera = (square[..., None] * torch.tensor([255, 200, 150])).to(torch.uint8)
    push = torch.stack([moves, torch.zeros_like(moves)], -1)
    return Window(
        observations={"camera": camera},
        observed={"camera": torch.ones(batch, length, dtype=torch.bool)},
        past=Inputs(actions=push[:, None].float(), exogenous=None, step_s=torch.ones(batch, length - 1)),
    )


def alone(seen: Window, step: int) -> Window:
    """One observation by itself."""
    here = slice(step, step + 1)
    return Window(
        observations={name: values[:, here] for name, values in seen.observations.items()},
        observed={name: flags[:, here] for name, flags in seen.observed.items()},
        past=seen.past.steps(slice(0)),
    )


def test_the_config_says_what_the_folder_holds(folders: dict[str, Path], tmp_path: Path) -> None:
    found = features_config(inputs=("camera",), folder=folders["timm"], library="timm")
    assert found.pixel_mean == (0.5, 0.5, 0.5)
    assert json.loads(found.architecture)["model_args"]["embed_dim"] == 24
    copy(folders["vjepa2"], tmp_path)
    assert features_config(inputs=("camera",), folder=tmp_path).pixel_mean == IMAGENET[0]
    colours = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 1]}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(colours))
    found = features_config(inputs=("camera",), folder=tmp_path)
    assert (found.pixel_mean, found.pixel_deviation) == ((0.1, 0.2, 0.3), (0.5, 0.6, 1.0))
    assert from_json(FeaturesConfig, to_json(found), where="test") == found


def test_a_folder_that_lacks_something_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    def refused(message: str, folder: Path = tmp_path, library: str = "transformers") -> None:
        made = features_config(inputs=("camera",), folder=folder, library=library)
        with pytest.raises(ConfigError, match=message):
            Features.from_folder(schema=SCHEMA, config=made)

    def unread(message: str, folder: Path = tmp_path, library: str = "transformers") -> None:
        with pytest.raises(ConfigError, match=message):
            features_config(inputs=("camera",), folder=folder, library=library)

    unread("is no folder", tmp_path / "missing")
    unread(r"holds no model\.safetensors\. Fetch it into the folder")
    copy(folders["dinov2"], tmp_path)
    (tmp_path / "config.json").unlink()
    unread(r"config\.json cannot be read")
    (tmp_path / "config.json").write_text("[1]")
    unread(r"config\.json holds no settings")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused("holds a model of type 'bert'. Known to this family: dinov2, dinov2_with_registers, dinov3_vit, vjepa2")
    refused("holds an architecture None that timm does not know", folders["dinov2"], "timm")


@pytest.mark.parametrize("ending", ["bin", "pt", "pth"])
def test_pickled_weights_are_refused(ending: str, tmp_path: Path, folders: dict[str, Path]) -> None:
    pickle_weights(folders["dinov2"], tmp_path, ending)
    with pytest.raises(ConfigError, match=f"pytorch_model.{ending} is pickled, and is not opened. Convert it: python"):
        features_config(inputs=("camera",), folder=tmp_path)


@pytest.mark.slow
def test_the_command_that_is_given_converts_pickled_weights(tmp_path: Path, folders: dict[str, Path]) -> None:
    pickle_weights(folders["dinov2"], tmp_path, "bin")
    with pytest.raises(ConfigError) as refused:
        features_config(inputs=("camera",), folder=tmp_path)
    command = shlex.split(str(refused.value).partition("Convert it: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path)
    torch.testing.assert_close(features(model(tmp_path), window()), features(model(folders["dinov2"]), window()))


def pickle_weights(source: Path, destination: Path, ending: str) -> None:
    copy(source, destination)
    torch.save(load_file(destination / "model.safetensors"), destination / f"pytorch_model.{ending}")
    (destination / "model.safetensors").unlink()


def test_weights_are_those_that_the_config_was_made_for(tmp_path: Path, folders: dict[str, Path]) -> None:
    copy(folders["dinov2"], tmp_path)
    made = config(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="the config was made for others"):
        Features.from_folder(schema=SCHEMA, config=made)


@pytest.mark.parametrize("name", ["dinov2", "timm"])
def test_weights_that_lack_a_tensor_are_refused(name: str, tmp_path: Path, folders: dict[str, Path]) -> None:
    copy(folders[name], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in sorted(weights) if "norm1" in key)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=f"lack 1 tensors, {re.escape(gone)}"):
        model(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    copy(folders["dinov2"], tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="transformers cannot build the encoder"):
        model(tmp_path)


def test_a_config_cannot_make_timm_read_a_file(tmp_path: Path, folders: dict[str, Path]) -> None:
    whole = json.loads((folders["timm"] / "config.json").read_text())
    copy(folders["timm"], tmp_path)
    for name in ("checkpoint_path", "pretrained"):
        (tmp_path / "config.json").write_text(json.dumps({**whole, "model_args": {name: "evil.bin"}}))
        with pytest.raises(ConfigError, match=f"model_args sets {name}"):
            model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**whole, "architecture": "hf-hub:someone/something"}))
    with pytest.raises(ConfigError, match="timm does not know"):
        model(tmp_path)


def test_a_config_cannot_name_code_for_transformers(tmp_path: Path, folders: dict[str, Path]) -> None:
    whole = json.loads((folders["dinov2"] / "config.json").read_text())
    copy(folders["dinov2"], tmp_path)
    code = {
        "return_dict": False,
        "auto_map": {"AutoModel": "evil.Evil"},
        "attn_implementation": "someone/kernel",
        "_attn_implementation": "x/y",
    }
    (tmp_path / "config.json").write_text(json.dumps({**whole, **code}))
    net = model(tmp_path)
    network: Any = net.encoder.network
    assert type(network) is transformers.Dinov2Model
    assert network.config._attn_implementation == "sdpa"
    assert torch.equal(features(net, window()), features(model(folders["dinov2"]), window()))


def test_a_model_without_weights_is_not_trained(folders: dict[str, Path]) -> None:
    net = Features(schema=SCHEMA, config=config(folders["dinov2"]))
    with pytest.raises(ConfigError, match=r"Build the model with Features\.from_folder"):
        net.fit_normaliser(window())
    load_encoder(net, folders["dinov2"])
    net.fit_normaliser(window())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": ()}, "inputs is empty"),
        ({"library": "tim"}, "Did you mean 'timm'"),
        ({"pooling": "patch"}, "Did you mean 'patches'"),
        ({"grid": 0}, "grid is 0"),
        ({"span": 0}, "span is 0"),
        ({"components": -1}, "components is -1"),
        ({"pixel_deviation": (1.0, 0.0, 1.0)}, "Each must be positive"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeaturesConfig(**{"inputs": ("camera",), "encoder": "", "architecture": "{}", "weights_sha256": "", **settings})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dinov2", {"image_side": 36}, "image_side is 36, and the patches are 8 wide. Set it to 32"),
        ("timm", {"grid": 5}, "grid is 5, and a frame has 4 patches a side"),
        ("vjepa2", {"pooling": "cls"}, "this encoder has no class token"),
        ("dinov3", {"components": 25}, "components is 25, and a patch has 24 channels"),
        ("dinov3", {"width": 18, "num_heads": 6}, "width 18 must be a multiple of"),
    ],
)
def test_settings_that_do_not_fit_the_encoder_are_refused(
    name: str, settings: dict[str, Any], message: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=message):
        model(folders[name], **settings)


def test_signals_that_it_cannot_take_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'camera'"):
        model(folders["dinov2"], "camra")
    with pytest.raises(ConfigError, match="none of the inputs heat, lamp is an image"):
        model(folders["dinov2"], "heat", "lamp")
    depth = replace(CAMERA, shape=(32, 32, 4))
    with pytest.raises(ConfigError, match="image 'camera' has 4 channels"):
        model(folders["dinov2"], schema=Schema(signals=(depth, PUSH)))


@pytest.mark.parametrize("name", ["dinov2", "timm"])
def test_a_missing_library_is_named_with_its_extra(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(folders[name])
    monkeypatch.setitem(sys.modules, made.library, None)
    with pytest.raises(MissingExtraError, match=rf"'{made.library}' is not installed.*worldline\[features\]"):
        Features(schema=SCHEMA, config=made)


def copy(source: Path, destination: Path) -> None:
    for file in source.iterdir():
        (destination / file.name).write_bytes(file.read_bytes())
