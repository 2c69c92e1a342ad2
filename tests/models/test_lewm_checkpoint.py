from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.windows import complete, seeded
from torch import Tensor

from worldline.errors import ConfigError
from worldline.models.base import Inputs, Losses, Window
from worldline.models.lewm import Lewm
from worldline.models.lewm_checkpoint import read_lewm
from worldline.schema import Kind, Role, Schema, Signal

REFERENCES = Path(__file__).parent / "references" / "lewm"
SCRIPT = Path(__file__).parents[2] / "scripts" / "lewm-references"
PEER = os.environ.get("WORLDLINE_PEER_PYTHON", "")
OLD_NAMES = (
    (r"^encoder\.layers\.(\d+)\.attention\.(q|k|v)_proj\.", r"encoder.encoder.layer.\1.attention.attention.\2\2."),
    (r"^encoder\.layers\.(\d+)\.attention\.o_proj\.", r"encoder.encoder.layer.\1.attention.output.dense."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1\.", r"encoder.encoder.layer.\1.intermediate.dense."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2\.", r"encoder.encoder.layer.\1.output.dense."),
    (r"^encoder\.layers\.", r"encoder.encoder.layer."),
    (r"\.qq\.", ".query."),
    (r"\.kk\.", ".key."),
    (r"\.vv\.", ".value."),
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the peer computed."""

    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    about: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Reference:
        tensors = load_file(path.with_suffix(".safetensors"))
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "inputs": {}, "outputs": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        return cls(**parts, about=json.loads(path.with_suffix(".json").read_text()))

    def schema(self, *sides: int) -> Schema:
        side, size = self.about["sizes"]["image"], self.about["sizes"]["action"]
        camera = Signal(name="top", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(*(sides or (side, side)), 3))
        return Schema(signals=(camera, Signal(name="block", role=Role.ACTION, kind=Kind.VECTOR, shape=(size,))))

    def window(self, length: int = 4) -> Window:
        return complete({"top": self.inputs["pixels"][:, :length]}, self.inputs["actions"][:, : length - 1])

    def write(self, folder: Path, *, old_names: bool = False, pickled: bool = False) -> Path:
        """A checkpoint as it is published."""
        weights = dict(self.weights)
        if old_names:
            for pattern, old in OLD_NAMES:
                weights = {re.sub(pattern, old, name): value for name, value in weights.items()}
        (folder / "config.json").write_text(json.dumps(self.about["config"]))
        if pickled:
            torch.save(weights, folder / "weights.pt")
        else:
            save_file(weights, folder / "weights.safetensors")
        return folder


@pytest.fixture(scope="module")
def small() -> Reference:
    return Reference.load(REFERENCES / "small")


def check(reference: Reference, model: Lewm) -> None:
    """Forward pass, loss and rollout within 1e-5 of the peer's, SIGReg within 1e-6."""
    outputs, window = reference.outputs, reference.window()
    for mode in ("eval", "train"):  # in training BatchNorm takes the statistics of the batch
        model.train(mode == "train")
        state = {name: value.clone() for name, value in model.state_dict().items()}
        losses = loss(model, window, seed=reference.about["slices_seed"], dropout=0.0)
        near(losses.terms["prediction"], outputs[f"{mode}.prediction_loss"])
        batch = len(reference.inputs["pixels"])
        near(losses.terms["sigreg"], outputs[f"{mode}.sigreg_loss"] / batch, within=1e-6)
        model.load_state_dict(state)
    model.eval()
    for length in range(1, 5):
        belief = model.encode(reference.window(length), generator=seeded())
        near(belief.features()[:, 0], outputs["eval.latents"][:, length - 1])
        if length > 1:
            start = model.encode(reference.window(length - 1), generator=seeded())
            last = reference.window(length).past
            step = Inputs(actions=last.actions[:, :, -1:], exogenous=None, step_s=last.step_s[:, -1:])
            near(
                model.rollout(start, step, generator=seeded()).features[:, 0, 0, 0],
                outputs["eval.predicted"][:, length - 2],
            )
    plans = reference.inputs["plans"]
    future = Inputs(actions=plans, exogenous=None, step_s=torch.ones(plans.shape[0], plans.shape[2]))
    imagined = model.rollout(model.encode(reference.window(3), generator=seeded()), future, generator=seeded())
    near(imagined.features[:, :, 0], outputs["rollout"])


def near(found: Tensor, due: Tensor, within: float = 1e-5) -> None:
    torch.testing.assert_close(found.detach(), due, rtol=within, atol=within)


def loss(model: Lewm, window: Window, *, seed: int, dropout: float) -> Losses:
    """The loss with this dropout: what is dropped depends on torch's version, so the references drop nothing."""
    config = model.config
    model.config = replace(config, dropout=dropout)
    found = model.loss(window, generator=seeded(seed))
    model.config = config
    return found


@pytest.mark.parametrize("old_names", [False, True], ids=["transformers-5", "transformers-4"])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pt"])
def test_it_computes_what_the_peer_computes(small: Reference, tmp_path: Path, old_names: bool, pickled: bool) -> None:
    folder = small.write(tmp_path, old_names=old_names, pickled=pickled)
    model = read_lewm(folder, schema=small.schema(), camera="top")
    assert not model.training
    model.config = replace(model.config, num_slices=small.about["sizes"]["slices"])
    check(small, model)


def test_another_image_size_scales_the_positions_as_the_peer_does(small: Reference, tmp_path: Path) -> None:
    images = small.inputs["other_size"]
    high, wide = images.shape[2:4]
    model = read_lewm(small.write(tmp_path), schema=small.schema(high, wide), camera="top")
    seen = torch.ones(images.shape[:2], dtype=torch.bool)
    past = Inputs(actions=torch.zeros(2, 1, 0, 6), exogenous=None, step_s=torch.ones(2, 0))
    window = Window(observations={"top": images}, observed={"top": seen}, past=past)
    found = model.encode(window, generator=seeded()).features()[:, 0]
    assert found.shape == small.outputs["other_size"][:, 0].shape
    near(found, small.outputs["other_size"][:, 0])


def test_every_weight_counts(small: Reference, tmp_path: Path) -> None:
    """Without any one of the published tensors, or with one too many, a checkpoint is refused."""
    folder = small.write(tmp_path)
    needed = [name for name in small.weights if not name.endswith("num_batches_tracked")]  # torch fills it in; unused
    for name in [*needed, "surplus"]:
        weights = {**small.weights, "surplus": torch.zeros(1)} if name == "surplus" else dict(small.weights)
        if name != "surplus":
            del weights[name]
        save_file(weights, folder / "weights.safetensors")
        with pytest.raises(ConfigError):
            read_lewm(folder, schema=small.schema(), camera="top")


def test_actions_that_do_not_fit_are_refused(small: Reference, tmp_path: Path) -> None:
    schema = small.schema()
    odd = Schema(signals=(schema["top"], Signal(name="block", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,))))
    with pytest.raises(ConfigError, match=r"(?s)size mismatch for to_codes.0.weight.* frameskip block"):
        read_lewm(small.write(tmp_path), schema=odd, camera="top")


def test_another_model_is_refused(small: Reference, tmp_path: Path) -> None:
    folder = small.write(tmp_path)
    (folder / "config.json").write_text(json.dumps({"_target_": "stable_worldmodel.wm.pldm.PLDM"}))
    with pytest.raises(ConfigError, match="lacks 'encoder'"):
        read_lewm(folder, schema=small.schema(), camera="top")


def test_a_folder_holds_one_checkpoint(small: Reference, tmp_path: Path) -> None:
    folder = small.write(tmp_path)
    (folder / "weights_epoch_2.pt").touch()
    with pytest.raises(ConfigError, match="has 2 such files"):
        read_lewm(folder, schema=small.schema(), camera="top")
    (folder / "weights_epoch_2.pt").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"must hold config\.json"):
        read_lewm(folder, schema=small.schema(), camera="top")


def test_no_code_is_run(small: Reference, tmp_path: Path) -> None:
    """Constructor names are not looked up, and a pickle that would run something is refused."""
    folder = small.write(tmp_path)
    tree = small.about["config"]
    tree = {**tree, "_target_": "os.abort", "encoder": {**tree["encoder"], "_target_": "os.abort"}}
    (folder / "config.json").write_text(json.dumps(tree))
    read_lewm(folder, schema=small.schema(), camera="top")
    (folder / "weights.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt cannot be read .*state_dict\(\)"):
        read_lewm(folder, schema=small.schema(), camera="top")


@pytest.mark.parametrize(("name", "content"), [
    ("config.json", b"{"),
    ("config.json", b"[1]"),
    ("config.json", b"\xff"),
    ("weights.safetensors", b"cut"),
    ("weights.pt", b"no checkpoint"),
    ("weights.pt", b""),
])  # fmt: skip
def test_a_damaged_file_is_named(small: Reference, tmp_path: Path, name: str, content: bytes) -> None:
    folder = small.write(tmp_path)
    if name == "weights.pt":
        (folder / "weights.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(name)):
        read_lewm(folder, schema=small.schema(), camera="top")


class Trap:
    """Unpickled, it would end the process."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return os.abort, ()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not PEER, reason="set WORLDLINE_PEER_PYTHON to a Python that has stable-worldmodel 0.1.1")
def test_the_published_size_computes_what_the_peer_computes(tmp_path: Path) -> None:
    subprocess.run([PEER, str(SCRIPT), str(tmp_path / "made"), "--full"], check=True)
    full = Reference.load(tmp_path / "made" / "full")
    assert len(full.weights) == 303
    model = read_lewm(full.write(tmp_path), schema=full.schema(), camera="top")
    assert model.config == Lewm.Config(inputs=("top",))
    check(full, model)


@pytest.mark.slow
@pytest.mark.skipif(not PEER, reason="set WORLDLINE_PEER_PYTHON to a Python that has stable-worldmodel 0.1.1")
def test_the_committed_reference_is_what_the_peer_computes(small: Reference, tmp_path: Path) -> None:
    subprocess.run([PEER, str(SCRIPT), str(tmp_path)], check=True)
    again = Reference.load(tmp_path / "small")
    assert all(torch.equal(value, again.weights[name]) for name, value in small.weights.items())
    for name, value in small.outputs.items():
        near(value, again.outputs[name])
