"""Trains in a separate process: `python interrupted.py STORE FOLDER UPDATES LOSS [NUM_CHECKS] [--resume] [--rank R]`.

LOSS is one of `MODELS`. The weights are written to FOLDER/weights.safetensors, under torchrun by the first process. The
folder of the frozen encoder is in the parent folder of the store. With `--rank`, 0 or 1, two processes are in a process
group before the training, as in Ray Train.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import distributed, nn

from worldline.data.splits import split_store
from worldline.data.store import open_store
from worldline.data.windows import Windows
from worldline.models.base import WorldModel
from worldline.models.ensemble import Ensemble, EnsembleConfig
from worldline.models.features import Features, features_config
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
from worldline.models.layers.gather import num_processes
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.predictors import MlpPredictorConfig
from worldline.models.layers.regularizers import SigregConfig, VicregConfig
from worldline.models.lewm import Lewm, LewmConfig
from worldline.models.rssm import Rssm, RssmConfig
from worldline.models.token import TokenConfig, TokenModel
from worldline.schema import Schema
from worldline.training.batches import to_window, window_signals
from worldline.training.distributed import is_main, processes, rank, world_size
from worldline.training.loop import train
from worldline.training.updates import TrainingConfig

BOTH = ("camera", "position")
JEPA = JepaConfig(
    inputs=BOTH,
    latent_size=12,
    encoder=ObservationEncoderConfig(channels=8, width=32),
    predictor=MlpPredictorConfig(width=32),
    regularizer=SigregConfig(weight=1.0, num_slices=16),
)


def sigreg(schema: Schema, encoder: Path) -> WorldModel:
    return Jepa(schema=schema, config=JEPA)


def vicreg(schema: Schema, encoder: Path) -> WorldModel:
    auxiliary = AuxiliaryConfig(similarity_weight=12.0, inverse_weight=1.0, width=32)
    return Jepa(schema=schema, config=replace(JEPA, regularizer=VicregConfig(), auxiliary=auxiliary))


def signals(schema: Schema, encoder: Path) -> WorldModel:
    """What the other two leave out: exact vectors, targets, the shape of the path, a constant part."""
    auxiliary = AuxiliaryConfig(delta_weight=1.0, straightening_weight=0.1, targets=("speed",), width=32)
    return Jepa(schema=schema, config=replace(JEPA, signal_weight=1.0, constant_size=2, auxiliary=auxiliary))


def rssm(schema: Schema, encoder: Path) -> WorldModel:
    sizes = {"hidden_size": 16, "num_groups": 4, "num_classes": 4, "width": 16, "channels": 8, "image_width": 32}
    return Rssm(schema=schema, config=RssmConfig(inputs=BOTH, **sizes, continuation=True))


def ensemble(schema: Schema, encoder: Path) -> WorldModel:
    return Ensemble(schema=schema, config=EnsembleConfig(inputs=("position", "speed"), num_members=3, width=16))


def token(schema: Schema, encoder: Path) -> WorldModel:
    sizes = {"num_bins": 24, "width": 16, "depth": 1, "num_heads": 2, "context_steps": 3}
    return TokenModel(schema=schema, config=TokenConfig(inputs=("position", "speed"), **sizes))


def features(schema: Schema, encoder: Path) -> WorldModel:
    config = features_config(inputs=BOTH, folder=encoder)
    sizes = {"width": 16, "num_heads": 2, "depth": 1, "grid": 2, "components": 6, "image_side": 32}
    model = Features.from_folder(schema=schema, config=replace(config, **sizes))
    return freeze(model, "predictor.space.0.self_attn.in_proj_bias", "predictor.time.0.blocks.0.qkv.bias")


def lewm(schema: Schema, encoder: Path) -> WorldModel:
    sizes = {
        "latent_size": 16, "patch": 8, "depth": 1, "num_heads": 2, "projector_width": 16, "predictor_depth": 1,
        "predictor_heads": 2, "head_size": 8, "predictor_width": 16, "num_slices": 8,
    }  # fmt: skip
    model = Lewm(schema=schema, config=LewmConfig(inputs=("camera",), **sizes))
    for parameter in model.encoder.parameters():
        if parameter.ndim > 1:  # as they begin, all frames look nearly alike, and their differences are rounding
            nn.init.normal_(parameter, std=0.3)
    return freeze(
        model, "encoder.layers.0.joined.bias", "encoder.norm.bias", "projector.0.bias", "predictor.norm.bias",
        "from_predictor.0.bias",
    )  # fmt: skip


def freeze(model: WorldModel, *names: str) -> WorldModel:
    """The model with parameters left as they are that what follows takes away again, such as a bias of attention keys.

    Their gradients are rounding and nothing else, of which AdamW makes whole steps.
    """
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


MODELS: dict[str, Callable[[Schema, Path], WorldModel]] = {
    make.__name__: make for make in (sigreg, vicreg, signals, rssm, ensemble, token, features, lewm)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("updates", type=int)
    parser.add_argument("loss", choices=MODELS)
    parser.add_argument("checks", type=int, nargs="?", default=40)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--rank", type=int)
    given = parser.parse_args()
    if given.rank is not None:
        meeting = f"file://{given.folder}.group"
        distributed.init_process_group("gloo", init_method=meeting, rank=given.rank, world_size=2)
        assert (num_processes(), world_size(), rank()) == (1, 2, given.rank)
    torch.set_num_threads(1)
    store = open_store(given.store)
    torch.manual_seed(0)
    model = MODELS[given.loss](store.schema, given.store.parent / "encoder")
    training = TrainingConfig(
        num_updates=given.updates, window=4, batch_size=16, num_checks=given.checks, num_validation=32,
        precision="float32", choose="last", min_rank=0.5, min_deviation=0.0,
    )  # fmt: skip
    parts = split_store(store)
    names = window_signals(store.schema, (*model.config.inputs, *model.targets))
    seen = Windows(store, training.window, parts.train, names).sample(64, np.random.default_rng(0))
    model.fit_normaliser(to_window(seen, store.schema))
    with processes():
        train(model, store, parts, model.config.inputs, training, folder=given.folder, resume=given.resume)
        if is_main():
            save_file(dict(model.state_dict()), given.folder / "weights.safetensors")
    if given.rank is not None:
        assert num_processes() == 1, "the group of the training is still joined"
        assert distributed.get_world_size() == 2, "the group of the caller is gone"
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
