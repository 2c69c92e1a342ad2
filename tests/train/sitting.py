"""One sitting of a training, in a process of its own: `python sitting.py STORE FOLDER UPDATES LOSS [--resume]`.

Writes the weights to FOLDER/weights.safetensors. Under torchrun, the first process does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from worldline.data.splits import split
from worldline.data.store import open_store
from worldline.models.jepa import Jepa, JepaConfig
from worldline.train.loop import TrainingConfig, train
from worldline.train.parallel import is_main, processes

LOSSES = {
    "sigreg": {"sigreg_weight": 1.0},
    "vicreg": {
        "sigreg_weight": 0.0,
        "variance_weight": 16.0,
        "covariance_weight": 8.0,
        "similarity_weight": 12.0,
        "inverse_weight": 1.0,
    },
}


def main() -> None:
    torch.set_num_threads(1)
    path, folder, updates, loss = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    store = open_store(path)
    torch.manual_seed(0)
    config = JepaConfig(
        inputs=("camera", "position"),
        latent_size=12,
        channels=8,
        encoder_width=32,
        predictor_width=32,
        num_slices=16,
        **LOSSES[loss],
    )
    model = Jepa(schema=store.schema, config=config)
    training = TrainingConfig(
        num_updates=updates, window=4, batch_size=16, num_checks=40, num_validation=32, precision="float32",
        choose="last", min_rank=0.5, min_deviation=0.0,
    )  # fmt: skip
    with processes():
        parts = split(len(store), seed=0)
        train(model, store, parts, config.inputs, training, folder=folder, resume="--resume" in sys.argv)
        if is_main():
            save_file(dict(model.state_dict()), folder / "weights.safetensors")


if __name__ == "__main__":
    main()
