"""The peer's side of benchmarks/plan.py: runs in its environment and imports nothing of worldline.

`python plan_peer.py serve FOLDER` reads requests and answers one JSON object per line until its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from train_peer import IMAGENET, Training

BLOCKS, BLOCK, ACTION = 5, 5, 2
"""Raw actions per block in its published plans."""
Reply = dict[str, Any]


class Costs:
    """Callback of its solver that keeps the costs and elites of every iteration."""

    output_key = "kept"

    def __init__(self) -> None:
        self.history: list[tuple[torch.Tensor, torch.Tensor]] = []

    def reset(self) -> None:
        """Called before a search."""

    def start_batch(self) -> None:
        """Called before each batch of environments."""

    def end_solve(self) -> None:
        """Called after a search."""

    def __call__(self, *, costs: torch.Tensor, topk_inds: torch.Tensor, **_: object) -> None:
        """Called after each iteration."""
        self.history.append((costs.clone(), topk_inds.clone()))


def shake(model: torch.nn.Module, seed: int) -> None:
    """Adds noise to every weight of the predictor, because a new one ignores actions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("predictor", "pred_proj", "action_encoder")):
                value.add_(0.05 * torch.randn(value.shape, generator=generator))


def frames(path: Path) -> torch.Tensor:
    """Pictures in the format of its data pipeline [B, 1, 3, height, width]."""
    mean, deviation = (torch.tensor(colours)[:, None, None] for colours in IMAGENET)
    return ((torch.from_numpy(np.load(path)).movedim(-1, -3).float() / 255 - mean) / deviation)[:, None]


def solve(model: Any, folder: Path, *, seed: int, samples: int, iterations: int, elites: int) -> Reply:
    """Plans for all pictures in the folder, one after another; writes costs and elites into the folder."""
    gym, solver = import_module("gymnasium"), import_module("stable_worldmodel.solver.cem")
    kept = Costs()
    search = solver.CEMSolver(
        model, batch_size=1, num_samples=samples, n_steps=iterations, topk=elites, seed=seed, callbacks=[kept]
    )
    start, goal = frames(folder / "start.npy"), frames(folder / "goal.npy")
    search.configure(
        action_space=gym.spaces.Box(-1, 1, (len(start), ACTION)),
        n_envs=len(start),
        config=SimpleNamespace(horizon=BLOCKS, action_block=BLOCK),
    )
    begin = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        found = search.solve({"pixels": start, "goal": goal, "action": torch.zeros(len(start), 1, BLOCK * ACTION)})
    elapsed_s = time.perf_counter() - begin
    np.save(folder / "their_actions.npy", found["actions"].numpy())
    np.save(folder / "their_costs.npy", torch.stack([costs for costs, _ in kept.history]).numpy())
    np.save(folder / "their_elites.npy", torch.stack([which for _, which in kept.history]).numpy())
    return {"elapsed_s": elapsed_s}


def answer(request: Reply, models: dict[str, Any], folder: Path) -> Reply:
    do = request.pop("do")
    if do == "versions":
        return {name: version(name) for name in ("stable-worldmodel", "transformers", "torch")}
    if do == "open":
        torch.set_num_threads(request["threads"])
        np.save(folder / "frames-224.npy", np.zeros((1, 1, 224, 224, 3), np.uint8))
        np.save(folder / "actions-224.npy", np.zeros((1, 1, BLOCK * ACTION), np.float32))
        model = Training(folder, 224, 14, request["seed"]).model.eval()
        shake(model, request["seed"])
        torch.save(model.state_dict(), folder / "weights.pt")
        models["model"] = model
        return {}
    return solve(models["model"], folder, **request)


def main() -> None:
    """Serves requests; redirects the peer's output to standard error."""
    if sys.argv[1:2] != ["serve"]:
        print("benchmarks/plan.py runs this file inside the peer's environment.")
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    models: dict[str, Any] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), models, Path(sys.argv[2]))), file=replies, flush=True)


if __name__ == "__main__":
    main()
