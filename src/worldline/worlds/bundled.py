"""A learned world to a bundle, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from worldline.bundle import Bundle, read_bundle, write_bundle
from worldline.config import from_json, to_json
from worldline.contracts.planner import Planner
from worldline.contracts.schema import Schema
from worldline.contracts.world import World
from worldline.contracts.world_model import WorldModel
from worldline.engines.learned import Adaptation, LearnedEngine
from worldline.errors import BundleError
from worldline.heads.decoder import Decoder, DecoderConfig
from worldline.heads.distance import Distance, DistanceConfig
from worldline.heads.familiarity import Familiarity, FamiliarityConfig
from worldline.heads.inverse import Inverse, InverseConfig
from worldline.heads.landmarks import Landmarks, LandmarksConfig
from worldline.heads.outcome import Reward, RewardConfig, Termination, TerminationConfig
from worldline.heads.readout import Readout, ReadoutConfig
from worldline.registry import load, names
from worldline.worlds.calibration import Calibration
from worldline.worlds.local import LocalWorld

Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class BundleCard:
    """What a bundle says of its engine.

    Args:
        name: of the world.
        inputs: observation signals that the model takes.
        notes: short facts in words.
        num_proposals: see `LocalWorld`.
    """

    name: str
    inputs: tuple[str, ...]
    notes: Mapping[str, str]
    num_proposals: int


def save_world(
    path: Path | str,
    engine: LearnedEngine,
    calibration: Calibration,
    planner: Planner,
    *,
    num_proposals: int,
    model: str,
    run: Mapping[str, Any],
    report: str | None,
) -> Bundle:
    """The bundle that holds this world; replaces one that is there.

    Args:
        path: a folder.
        engine: the learned engine.
        calibration: of the engine.
        planner: that the world plans with.
        num_proposals: see `LocalWorld`.
        model: the model's registered name.
        run: how it was learned: configuration, seeds, data, versions, times; plain JSON values.
        report: HTML.
    """
    contents: dict[str, str | bytes | Mapping[str, Tensor]] = {
        "schema.json": to_json(engine.schema),
        "model.json": to_json(engine.model.config),
        "model.safetensors": _weights(engine.model),
        "calibration.safetensors": {k: torch.from_numpy(np.array(v)) for k, v in calibration.to_arrays().items()},
        "planner.json": to_json(planner),
        "run.json": json.dumps(run, indent=2),
        "card.json": to_json(
            BundleCard(name=engine.name, inputs=engine.inputs, notes=engine.notes, num_proposals=num_proposals)
        ),
    }
    heads = {
        "readout": engine.readout,
        "familiarity": engine.familiarity,
        "distance": engine.distance_head,
        "inverse": engine.inverse_head,
        "landmarks": engine.landmarks,
        "reward": engine.reward_head,
        "termination": engine.termination_head,
        "decoder": engine.decoder,
    }
    for name, head in heads.items():
        if head is not None:
            contents[f"heads/{name}.json"] = to_json(head.config)
            contents[f"heads/{name}.safetensors"] = _weights(head)
    if report is not None:
        contents["report.html"] = report
    return write_bundle(Path(path), contents, model=model, notes={"planner": _registered(planner)})


def open_world(
    path: Path | str, *, planner: Planner | str | None = None, adaptation: Adaptation | None = None
) -> World:
    """The world in a bundle.

    Args:
        path: a folder that `save_world` wrote.
        planner: to plan with: one of your own, or the registered name of one, with its default settings; None for
            the one that the bundle holds.
        adaptation: how the world corrects itself by the histories that it is shown; None for not at all. The bundle
            stays as it is. Bands, surprise and `Chance` are left out, since the calibration is that of the world as it
            was learned: for them `calibrate` the engine with its adaptation.

    Raises:
        BundleError: it is damaged, incomplete, of another version, or its parts do not fit each other.
        UnknownNameError: it needs a model or planner that is not installed.
        UnsupportedError: its model cannot adapt.
    """
    bundle = read_bundle(Path(path))
    arrays = {name: tensor.numpy() for name, tensor in bundle.tensors("calibration.safetensors").items()}
    calibration = Calibration.from_arrays(arrays)
    engine = replace(open_engine(bundle), adaptation=adaptation)
    calibration = calibration if adaptation is None else calibration.without_errors()
    return LocalWorld(engine, calibration, _planner(bundle, planner), num_proposals=_card(bundle).num_proposals)


def open_engine(bundle: Bundle) -> LearnedEngine:
    """The engine in a bundle; see `open_world`."""
    schema = from_json(Schema, bundle.text("schema.json"), where=bundle.folder / "schema.json")
    family: type[WorldModel] = load("model", bundle.manifest.model)
    card = _card(bundle)
    return LearnedEngine(
        model=_load(bundle, "model", family.Config, lambda config: family(schema=schema, config=config)),
        schema=schema,
        inputs=card.inputs,
        readout=_load(bundle, "heads/readout", ReadoutConfig, Readout),
        familiarity=_load(bundle, "heads/familiarity", FamiliarityConfig, Familiarity),
        distance_head=_load_if_there(bundle, "heads/distance", DistanceConfig, Distance),
        inverse_head=_load_if_there(bundle, "heads/inverse", InverseConfig, Inverse),
        landmarks=_load_if_there(bundle, "heads/landmarks", LandmarksConfig, Landmarks),
        reward_head=_load_if_there(bundle, "heads/reward", RewardConfig, Reward),
        termination_head=_load_if_there(bundle, "heads/termination", TerminationConfig, Termination),
        decoder=_load_if_there(bundle, "heads/decoder", DecoderConfig, Decoder),
        name=card.name,
        notes=card.notes,
    )


def _planner(bundle: Bundle, asked: Planner | str | None) -> Planner:
    if isinstance(asked, Planner):
        return asked
    if asked is not None:
        named: Planner = load("planner", asked)()
        return named
    kind: type[Planner] = load("planner", bundle.manifest.notes.get("planner", ""))
    return from_json(kind, bundle.text("planner.json"), where=bundle.folder / "planner.json")


def _card(bundle: Bundle) -> BundleCard:
    return from_json(BundleCard, bundle.text("card.json"), where=bundle.folder / "card.json")


def _load(bundle: Bundle, name: str, config_class: type[Config], build: Callable[[Config], Module]) -> Module:
    """The network of this name: built without memory, then given the tensors of the bundle, if they fit exactly."""
    config = from_json(config_class, bundle.text(f"{name}.json"), where=bundle.folder / f"{name}.json")
    tensors = bundle.tensors(f"{name}.safetensors")
    with torch.device("meta"):
        network = build(config)
    due = {key: (value.shape, value.dtype) for key, value in network.state_dict().items()}
    given = {key: (value.shape, value.dtype) for key, value in tensors.items()}
    if due != given:
        wrong = sorted(key for key in due.keys() | given.keys() if due.get(key) != given.get(key))
        raise BundleError(
            f"{bundle.folder}: {name}.safetensors does not fit {name}.json: {wrong[0]} is {given.get(wrong[0])} where "
            f"{due.get(wrong[0])} is due. Fetch the bundle again, or learn it anew with this version."
        )
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def _load_if_there(
    bundle: Bundle, name: str, config_class: type[Config], build: Callable[[Config], Module]
) -> Module | None:
    return _load(bundle, name, config_class, build) if f"{name}.json" in bundle.files else None


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _registered(planner: Planner) -> str:
    """The name of the planner's class in the registry."""
    return next(name for name in names("planner") if load("planner", name) is type(planner))
