from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tests.models.encoder_folders import (
    BATCH,
    NAMES,
    SCHEMA,
    TIMM,
    config,
    copy,
    features,
    model,
    seeded,
    timm,
    transformers,
    window,
    write_folders,
)

from worldline.config import from_json, to_json
from worldline.errors import ConfigError, MissingExtraError
from worldline.models.features import Features, FeaturesConfig, features_config
from worldline.models.frozen_encoder import IMAGENET, FrozenEncoder, Memo, View


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per encoder its folder."""
    return write_folders(tmp_path_factory)


def pixels(images: torch.Tensor) -> torch.Tensor:
    mean, deviation = (torch.tensor(each)[:, None, None] for each in IMAGENET)
    return (images.permute(0, 3, 1, 2) / 255 - mean) / deviation


@torch.no_grad()
def by_the_library(name: str, folder: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Patches [M, cells, cells, channels] and class token where there is one, computed without the code under test."""
    if name == "timm":
        network = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **TIMM).eval()
        network.load_state_dict(load_file(folder / "model.safetensors"))
        tokens = network.forward_features(images.permute(0, 3, 1, 2) / 127.5 - 1)  # its own mean and deviation
    elif name == "cnn":
        network = timm.create_model("test_efficientnet").eval()
        network.load_state_dict(load_file(folder / "model.safetensors"))
        maps = network.forward_intermediates(pixels(images), intermediates_only=True)
        return next(each for each in maps if each.shape[2] == 4).permute(0, 2, 3, 1), None
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


@torch.no_grad()
def test_of_a_cnn_the_last_map_of_a_stride_is_taken_and_no_later_stage_is_kept(folders: dict[str, Path]) -> None:
    chosen = features_config(inputs=("camera",), folder=folders["cnn"])
    assert (chosen.library, chosen.image_side, chosen.stride, chosen.grid) == ("timm", 64, 16, 4)
    whole = timm.create_model("test_efficientnet").eval()
    whole.load_state_dict(load_file(folders["cnn"] / "model.safetensors"))
    large = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8, generator=seeded())
    maps = whole.forward_intermediates(pixels(large), intermediates_only=True)
    sizes = {}
    for stride, due in zip((2, 4, 8, 16, 32), maps, strict=True):
        encoder = FrozenEncoder(replace(chosen, stride=stride, grid=64 // stride))
        encoder.load(folders["cnn"])
        found = encoder(large)
        assert found.shape == (2, encoder.places, encoder.channels)
        torch.testing.assert_close(found, due.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
        sizes[stride] = len(encoder.network.state_dict())
    assert sorted(sizes, key=sizes.__getitem__) == [2, 4, 8, 16, 32]
    assert sizes[2] < sizes[8] < sizes[32] < len(whole.state_dict())


def test_weights_of_another_network_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    copy(folders["cnn"], tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**whole, "architecture": "test_resnet"}))
    with pytest.raises(ConfigError, match=r"the weights in .* lack \d+ tensors"):
        model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**whole, "model_args": {"nonsense": 1}}))
    with pytest.raises(ConfigError, match=r"timm cannot build the encoder of .*nonsense"):
        features_config(inputs=("camera",), folder=tmp_path)


def test_an_image_is_scaled_to_the_side_and_grey_is_three_colours_alike(folders: dict[str, Path]) -> None:
    seen = window(length=1)
    grey = seen.observations["arm.wrist"]
    large = F.interpolate(grey[:, 0].permute(0, 3, 1, 2) / 1.0, (32, 32), mode="bilinear", antialias=True)
    due, _ = by_the_library("dinov2", folders["dinov2"], large.expand(-1, 3, -1, -1).permute(0, 2, 3, 1))
    found = features(model(folders["dinov2"], "arm.wrist", grid=4, components=0), seen)
    torch.testing.assert_close(found, due.flatten(1), rtol=1e-4, atol=1e-5)


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

    unread("is not a folder", tmp_path / "missing")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    unread(r"holds no model\.safetensors\. Download it, or convert pickled weights")
    copy(folders["dinov2"], tmp_path)
    (tmp_path / "config.json").unlink()
    unread(r"config\.json cannot be read")
    (tmp_path / "config.json").write_text("[1]")
    unread(r"config\.json is not a JSON object")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused("holds a model of type 'bert'. Supported types: dinov2, dinov2_with_registers, dinov3_vit, vjepa2")
    unread("has architecture None, which timm does not know", folders["dinov2"], "timm")


def test_weights_are_those_that_the_config_was_made_for(tmp_path: Path, folders: dict[str, Path]) -> None:
    copy(folders["dinov2"], tmp_path)
    made = config(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="the config belongs to weights with sha256"):
        Features.from_folder(schema=SCHEMA, config=made)


@pytest.mark.parametrize("name", ["dinov2", "timm"])
def test_weights_that_lack_a_tensor_are_refused(name: str, tmp_path: Path, folders: dict[str, Path]) -> None:
    copy(folders[name], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in sorted(weights) if "norm1" in key)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=f"lack 1 tensors, for example {re.escape(gone)}"):
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


@pytest.mark.parametrize(("name", "setting"), [("dinov2", "num_hidden_layers"), ("timm", "depth")])
def test_an_architecture_has_limits(name: str, setting: str, tmp_path: Path, folders: dict[str, Path]) -> None:
    """A bundle could name any, and its reader would build layers for hours."""
    whole = json.loads((folders[name] / "config.json").read_text())
    copy(folders[name], tmp_path)
    large = {"model_args": {setting: 10**6}} if name == "timm" else {setting: 10**6}
    (tmp_path / "config.json").write_text(json.dumps({**whole, **large}))
    with pytest.raises(ConfigError, match=f"{setting} of the encoder is 1000000. It must be at most 100"):
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


@pytest.mark.parametrize("name", ["dinov2", "timm"])
def test_a_missing_extra_is_named(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(folders[name])
    monkeypatch.setitem(sys.modules, made.library, None)
    with pytest.raises(MissingExtraError, match=rf"'{made.library}' is not installed.*\[features\]"):
        Features(schema=SCHEMA, config=made)


def test_a_memo_tells_makers_sizes_and_precisions_apart() -> None:
    memo, frames = Memo(1), torch.zeros(1, 2, 3, 1, dtype=torch.uint8)

    def made(value: float, images: torch.Tensor, maker: str = "left") -> float:
        return float(memo.recall(images, lambda some: torch.full((len(some), 1), value), maker=maker))

    assert (made(1.0, frames), made(2.0, frames), made(3.0, frames, maker="right")) == (1, 1, 3)
    assert made(4.0, frames.transpose(1, 2)) == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert made(5.0, frames) == 5
    assert made(6.0, frames) == 1
    memo.forget()
    assert made(7.0, frames) == 7


def test_a_full_memo_drops_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, calls, memo = torch.arange(9, dtype=torch.uint8)[:, None, None, None], list[int](), Memo(3)
    monkeypatch.setattr("worldline.models.frozen_encoder.MEMO_BYTES", 4 * (4 * 3 + 1000) + 1)

    def recall(*numbers: int) -> list[int]:
        """The frames that had to be made."""
        before = len(calls)
        found = memo.recall(frames[list(numbers)], make, maker="left")
        assert found.tolist() == [[number] * 3 for number in numbers]
        return calls[before:]

    def make(images: torch.Tensor) -> torch.Tensor:
        calls.extend(images.flatten().tolist())
        return images.flatten(1).float().expand(-1, 3)

    assert (recall(0, 1, 2, 3), recall(0)) == ([0, 1, 2, 3], [])
    assert recall(4, 5) == [4, 5]  # in place of 1 and 2
    assert (recall(0, 3, 4, 5), recall(1)) == ([], [1])
    assert recall(*range(9)) == [0, 2, 6, 7, 8]  # more than it can hold
    assert recall(2, 6, 7, 8) == []
    assert len(memo.rows) == 4
    assert all(row.untyped_storage().nbytes() == 12 for row in memo.rows.values())
