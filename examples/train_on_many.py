"""Trains a world in several processes.

Each of these commands starts two:

    torchrun --nproc-per-node 2 examples/train_on_many.py STORE WORLD
    accelerate launch --multi_gpu --num_processes 2 examples/train_on_many.py STORE WORLD
    python examples/train_on_many.py STORE WORLD --ray 2

STORE is a folder that `worldline import` wrote. All processes need the same files: STORE, and the folder of WORLD.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import worldline


def train(options: dict[str, Any]) -> None:
    """Learns the world. Every process calls it; the first one writes the files."""
    world = worldline.learn(**options)
    print(f"Process {os.environ.get('RANK', '0')} has the world {world.describe().name}.", flush=True)


def train_with_ray(options: dict[str, Any], num_processes: int) -> None:
    """Starts the processes on the Ray cluster of this machine, or on the one in RAY_ADDRESS."""
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = ScalingConfig(num_workers=num_processes, use_gpu=torch.cuda.is_available())
    run = RunConfig(storage_path=f"{options['out']}.ray")
    TorchTrainer(train, train_loop_config=options, scaling_config=scaling, run_config=run).fit()


def main(argv: Sequence[str] | None = None) -> None:
    """Trains in the processes of a launcher, or with `--ray` in new ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder of the logs")
    parser.add_argument("world", type=Path, help="new folder for the world")
    parser.add_argument("--config", help="settings, such as the run.toml of another world")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted training")
    parser.add_argument("--ray", type=int, metavar="N", help="number of processes that Ray starts")
    called = parser.parse_args(argv)
    options = {
        "logs": str(called.store.absolute()),
        "out": str(called.world.absolute()),
        "recipe": "vectors",
        "config": called.config and str(Path(called.config).absolute()),
        "resume": called.resume,
    }
    if called.ray:
        train_with_ray(options, called.ray)
    else:
        train(options)


if __name__ == "__main__":
    main()
