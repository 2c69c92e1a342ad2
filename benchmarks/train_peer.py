"""The peer's side of benchmarks/train.py: runs in its environment and imports nothing of worldline.

`python train_peer.py serve FOLDER` reads requests and answers one JSON object per line until its input ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HISTORY, SIGREG_WEIGHT, CLIP_NORM = 3, 0.09, 1.0
"""From its training script, like the optimiser, the loss and the order of the calls below."""

Reply = dict[str, Any]


class Training:
    """The peer's model at one image size, and steps of training."""

    def __init__(self, folder: Path, image: int, patch: int, seed: int) -> None:
        family, parts = (import_module(f"stable_worldmodel.wm.lewm{name}") for name in ("", ".module"))
        transformers = import_module("transformers")
        torch.manual_seed(seed)
        vit = transformers.ViTConfig(
            hidden_size=192,
            num_hidden_layers=12,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=image,
            patch_size=patch,
        )
        blocks = {"depth": 6, "heads": 16, "dim_head": 64, "mlp_dim": 2048, "dropout": 0.1}
        self.model = family.LeWM(
            encoder=transformers.ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
            predictor=parts.Predictor(num_frames=HISTORY, input_dim=192, hidden_dim=192, output_dim=192, **blocks),
            action_encoder=parts.Embedder(input_dim=10, emb_dim=192),
            projector=parts.MLP(192, 2048, 192, torch.nn.BatchNorm1d),
            pred_proj=parts.MLP(192, 2048, 192, torch.nn.BatchNorm1d),
        )
        self.sigreg = import_module("stable_worldmodel.wm.loss").SIGReg(num_proj=1024)
        torch.save(self.model.state_dict(), folder / f"weights-{image}.pt")
        frames = torch.from_numpy(np.load(folder / f"frames-{image}.npy"))
        mean, deviation = (torch.tensor(colours)[:, None, None] for colours in IMAGENET)
        self.frames = (frames.movedim(-1, -3).float() / 255 - mean) / deviation  # its data pipeline returns floats
        self.actions = torch.from_numpy(np.load(folder / f"actions-{image}.npy"))
        self.optimizer = make_optimizer(self.model)

    def step(self, which: slice, *, half: bool, seed: int) -> float:
        """The loss of one step of training on some windows."""
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found = self.model.encode({"pixels": self.frames[which], "action": self.actions[which]})
            latents, codes = found["emb"], found["act_emb"]
            predicted = self.model.predict(latents[:, :HISTORY], codes[:, :HISTORY])
            loss = (predicted - latents[:, 1:]).pow(2).mean() + SIGREG_WEIGHT * self.sigreg(latents.transpose(0, 1))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        return float(loss.detach())


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Optimiser of the published run; used by both sides."""
    return torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3)


def timed(training: Any, steps: int, batch: int, *, half: bool) -> Reply:
    """Time of some steps; used by both sides."""
    used, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for number in range(steps):
        training.step(slice(0, batch), half=half, seed=number)
    wall_s, now = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "windows": steps * batch,
        "wall_s": wall_s,
        "cpu_s": now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime,
        "system_s": now.ru_stime - used.ru_stime,
    }


def follow(training: Any, steps: int, batch: int, *, half: bool) -> list[float]:
    """Losses of the first steps, with a new batch each; used by both sides."""
    count = len(training.frames) // batch
    return [training.step(slice(n % count * batch, (n % count + 1) * batch), half=half, seed=n) for n in range(steps)]


def answer(request: Reply, open_ones: dict[int, Training], folder: Path) -> Reply:
    do, image = request.pop("do"), request.pop("image", 0)
    if do == "versions":
        return {name: version(name) for name in ("stable-worldmodel", "transformers", "torch")}
    if do == "open":
        torch.set_num_threads(request["threads"])
        open_ones[image] = Training(folder, image, request["patch"], request["seed"])
        return {"parameters": sum(value.numel() for value in open_ones[image].model.parameters())}
    if do == "follow":
        return {"losses": follow(open_ones[image], **request)}
    if do == "close":
        del open_ones[image]
        return {}
    return timed(open_ones[image], **request)


def main() -> None:
    """Serves requests; redirects the peer's output to standard error."""
    if sys.argv[1:2] != ["serve"]:
        print("benchmarks/train.py runs this file inside the peer's environment.")
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    open_ones: dict[int, Training] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), open_ones, Path(sys.argv[2]))), file=replies, flush=True)


if __name__ == "__main__":
    main()
