from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.encoder_folders import (
    ANGLE,
    BATCH,
    CAMERA,
    HEAT,
    LAMP,
    LENGTH,
    NAMES,
    PUSH,
    SCHEMA,
    config,
    features,
    model,
    window,
    write_folders,
)
from tests.models.windows import complete, cut, fit, seeded

from worldline.config import from_json, to_json
from worldline.errors import ConfigError, UnknownNameError
from worldline.models.base import Window
from worldline.models.features import Features, FeaturesConfig, load_encoder
from worldline.models.layers.codes import to_code
from worldline.schema import Schema
from worldline.testing import check_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per encoder its folder."""
    return write_folders(tmp_path_factory)


def steered(net: Features) -> Features:
    """As after some training: AdaLN-zero begins where inputs do nothing."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize(("name", "inputs", "settings"), [
    ("registers", ("camera", "arm.wrist"), {"depth": 1, "span": 2}),
    ("dinov3", ("camera", "angle", "lamp", "heat"), {"components": 0}),
    ("timm", ("camera",), {"pooling": "cls", "span": 1}),
    ("cnn", ("camera", "heat"), {"pooling": "mean"}),
])  # fmt: skip
def test_conforms(name: str, inputs: tuple[str, ...], settings: dict[str, Any], folders: dict[str, Path]) -> None:
    check_model(steered(model(folders[name], *inputs, **settings)), window(), horizon=2, num_candidates=2)


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
from worldline.schema import Schema
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
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


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


def test_only_steps_after_a_frame_that_was_seen_count(folders: dict[str, Path]) -> None:
    """Of 5 frames, frame 1 is missing: step 0 has no target, and step 1 no start."""
    seen, net = window(length=5), steered(model(folders["dinov2"], span=1)).eval()
    hidden = {name: flags.clone() for name, flags in seen.observed.items()}
    hidden["camera"][:, 1] = False
    frames = torch.stack([features(net, cut(seen, slice(step, step + 1))) for step in range(5)], 1)
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


def test_learns_to_see_ahead(folders: dict[str, Path]) -> None:
    """Open loop, the trained model errs far less than a frame that stands still, and than the mean frame (1)."""
    net = model(folders["dinov2"], schema=Schema(signals=(CAMERA, PUSH)), components=8, width=32, num_heads=4, span=2)
    net.fit_normaliser(pushed(128, seeded()))
    fit(net, lambda generator: pushed(32, generator), 60, lr=1e-2)
    seen = pushed(64, seeded(9))
    truth = torch.stack([features(net, cut(seen, slice(step, step + 1))) for step in range(4)], 1)
    imagined = net.rollout(net.belief(truth[:, 0]), seen.past, generator=seeded()).features[:, 0, 0].detach()
    error = (imagined - truth[:, 1:]).square().mean((0, 2))
    still = (truth[:, :1] - truth[:, 1:]).square().mean((0, 2))
    assert (error < 0.4 * still).all()
    assert (error < 0.5).all()


def pushed(batch: int, generator: torch.Generator, length: int = 4) -> Window:
    """A pale square on a ring, moved left or right by each action, by its own width or not at all."""
    moves = torch.randint(-1, 2, (batch, length - 1), generator=generator)
    start = torch.randint(4, (batch, 1), generator=generator)
    corner = 8 * torch.cat([start, start + moves.cumsum(1)], 1)
    covered = (torch.arange(32) - corner[..., None]) % 32 < 8
    square = covered[..., None, :] & (torch.arange(32)[:, None] < 8)
    camera = (square[..., None] * torch.tensor([255, 200, 150])).to(torch.uint8)
    push = torch.stack([moves, torch.zeros_like(moves)], -1)
    return complete({"camera": camera}, push.float())


def test_a_model_without_weights_is_not_trained(folders: dict[str, Path]) -> None:
    net = Features(schema=SCHEMA, config=config(folders["dinov2"]))
    with pytest.raises(ConfigError, match=r"Build the model with Features\.from_folder"):
        net.fit_normaliser(window())
    load_encoder(net, folders["dinov2"])
    net.fit_normaliser(window())


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("dinov2", {"image_side": 36}, "image_side is 36, not a multiple of the patch size 8. Set it to 32"),
    ("timm", {"grid": 5}, "grid is 5, but a frame has 4 patches per side. Set grid to at most 4"),
    ("vjepa2", {"pooling": "cls"}, "this encoder has no class token"),
    ("cnn", {"image_side": 36}, "image_side is 36, not a multiple of the patch size 8. Set it to 32"),
    ("cnn", {"stride": 5}, "stride is 5, but the encoder's feature maps have strides 2, 4, 8, 16, 32. Choose one"),
    ("cnn", {"stride": 16, "grid": 3}, "grid is 3, but a frame has 2 patches per side"),
    ("cnn", {"pooling": "cls"}, "this encoder has no class token"),
    ("dinov3", {"components": 25}, "components is 25. It must be at most 24, the channels of a patch"),
    ("dinov3", {"width": 18, "num_heads": 6}, "width is 18. It must be a multiple of"),
])  # fmt: skip
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


def counted(net: Features, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each later call of the encoder encodes."""
    calls: list[int] = []
    encode = net.encoder.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return encode(images)

    monkeypatch.setattr(net.encoder, "forward", forward)
    return calls


def test_no_frame_is_encoded_twice(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen, net = window(), model(folders["dinov2"], "camera", "arm.wrist", "heat")
    net.fit_normaliser(seen)
    calls = counted(net, monkeypatch)
    first = net.loss(seen, generator=seeded()).total
    assert calls == [BATCH * LENGTH, BATCH * LENGTH]  # one call a camera
    assert torch.equal(net.loss(seen, generator=seeded()).total, first)
    assert torch.equal(features(net.eval(), seen), features(net, seen))
    assert len(calls) == 2
    camera = seen.observations["camera"].clone()
    camera[1, 2, 0, 0, 0] += 1
    other = replace(seen, observations={**seen.observations, "camera": camera})
    net.loss(other, generator=seeded())
    assert calls[2:] == [1]
    fresh = model(folders["dinov2"], "camera", "arm.wrist", "heat")
    fresh.load_state_dict(net.state_dict())
    found, due = (each._frames(other.observations, other.observed)[0] for each in (net, fresh))
    torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-5)  # one was encoded alone, and among others


def test_what_is_remembered_goes_with_the_weights(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen, net = window(), model(folders["dinov2"])
    before, state = features(net, seen), {key: value.clone() for key, value in net.state_dict().items()}
    assert not any("memo" in key for key in state)
    net.fit_normaliser(seen)
    after = features(net, seen)
    assert (after - before).abs().max() > 0.1
    torch.nn.ModuleList([net]).load_state_dict({f"0.{key}": value for key, value in state.items()})
    assert torch.equal(features(net, seen), before)
    calls = counted(net, monkeypatch)
    load_encoder(net, folders["dinov2"])
    features(net, seen)
    assert calls == [BATCH * LENGTH]
    twin = deepcopy(net)
    assert not twin.memo.rows
    twin.load_state_dict(state)  # its own memo is emptied, not the one it was copied from
    assert len(net.memo.rows) == BATCH * LENGTH


def test_cameras_that_show_the_same_frame_keep_their_own_views(folders: dict[str, Path]) -> None:
    twin = replace(CAMERA, name="twin")
    seen = window(exogenous=False)
    camera = seen.observations["camera"]
    observed = dict.fromkeys(("camera", "twin"), seen.observed["camera"])
    fitted = replace(seen, observations={"camera": camera, "twin": camera // 2}, observed=observed)
    net = model(folders["dinov2"], "camera", "twin", schema=Schema(signals=(CAMERA, twin, PUSH)))
    net.fit_normaliser(fitted)
    same = features(net, replace(fitted, observations={"camera": camera, "twin": camera}))
    assert (same[:, :24] - same[:, 24:]).abs().max() > 0.1
