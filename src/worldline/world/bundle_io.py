"""A world to a bundle, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldline.bundle import Bundle, read_bundle, write_bundle
from worldline.config import from_json, to_json
from worldline.engines.base import CallCost, Card, Engine, Parts, Storable
from worldline.engines.learned import Adaptation, LearnedEngine
from worldline.episode import Arrays
from worldline.errors import BundleError, DataError, UnsupportedError
from worldline.models.base import WorldModel
from worldline.models.heads.decoder import Decoder, DecoderConfig
from worldline.models.heads.distance import Distance, DistanceConfig
from worldline.models.heads.inverse import Inverse, InverseConfig
from worldline.models.heads.landmarks import Landmarks, LandmarksConfig
from worldline.models.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.models.heads.outcome import Reward, RewardConfig, Termination, TerminationConfig
from worldline.models.heads.readout import Readout, ReadoutConfig
from worldline.planning.planners.base import Planner
from worldline.registry import load, name_of
from worldline.schema import Kind, Schema
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld

Content = str | bytes | Mapping[str, Tensor]
Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)

_AGAIN = "Fetch the bundle again, or save the world anew with this version"


@dataclass(frozen=True, kw_only=True)
class BundleCard:
    """What a bundle says of its world.

    Args:
        name: on the engine's card.
        inputs: observation signals that the engine takes.
        notes: short facts in words, on the engine's card when the bundle was written.
        num_proposals: see `LocalWorld`.
        call: see `LocalWorld`.
    """

    name: str
    inputs: tuple[str, ...]
    notes: Mapping[str, str]
    num_proposals: int
    call: CallCost | None = None


@dataclass(frozen=True, kw_only=True)
class StoredEngine:
    """An engine that is not a learned one, beside its arrays.

    Args:
        kind: registered name of the engine.
        config: for its `from_parts`, which checks it.
    """

    kind: str
    config: Mapping[str, Any]


def save_world(
    path: Path | str, world: LocalWorld, *, run: Mapping[str, Any] | None = None, report: str | None = None
) -> Bundle:
    """The bundle that holds this world; replaces one that is there.

    Args:
        path: a folder.
        world: over a learned engine or a `Storable` one, which is registered, as its planner is.
        run: how it came about: configuration, seeds, data, versions, times; plain JSON values. None for nothing.
        report: HTML; None for none.

    Raises:
        UnsupportedError: a part of the world cannot be stored; says which and why.
        BundleError: `path` holds something that is not a bundle.
    """
    engine, card = world.engine, world.engine.describe()
    if isinstance(engine, LearnedEngine):
        model, own = name_of("model", type(engine.model)), _learned_files(engine)
    elif isinstance(engine, Storable):
        model, own = name_of("engine", type(engine)), _engine_files(engine)
    else:
        raise UnsupportedError(
            f"the engine {card.name!r} cannot be stored: {type(engine).__name__} is not Storable. Implement to_parts "
            "and from_parts of contracts.engine.Storable, or keep the code that makes it."
        )
    contents: dict[str, Content] = {
        "schema.json": to_json(card.schema),
        "planner.json": to_json(world.planner),
        "card.json": to_json(
            BundleCard(
                name=card.name,
                inputs=card.inputs,
                notes=card.notes,
                num_proposals=world.num_proposals,
                call=world.call,
            )
        ),
        **own,
    }
    if world.calibration is not None:
        contents["calibration.safetensors"] = _tensors(world.calibration.to_arrays())
    if run is not None:
        contents["run.json"] = json.dumps(run, indent=2)
    if report is not None:
        contents["report.html"] = report
    return write_bundle(Path(path), contents, model=model, notes={"planner": name_of("planner", type(world.planner))})


def _learned_files(engine: LearnedEngine) -> dict[str, Content]:
    if engine.adaptation is not None:
        raise UnsupportedError(
            "an adaptation is not stored. Save the world without it, and give it to worldline.open(adaptation=...)."
        )
    contents: dict[str, Content] = {
        "model.json": to_json(engine.model.config),
        "model.safetensors": _weights(engine.model),
    }
    heads = {
        "readout": engine.readout,
        "mahalanobis": engine.mahalanobis,
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
    return contents


def _engine_files(engine: Storable) -> dict[str, Content]:
    parts = engine.to_parts()
    stored = StoredEngine(kind=name_of("engine", type(engine)), config=parts.config)
    try:
        text = json.dumps({"kind": stored.kind, "config": dict(stored.config)}, indent=2)
    except TypeError as error:
        raise UnsupportedError(
            f"the configuration of {stored.kind!r} is not plain JSON: {error}. Let to_parts give numbers, text, lists "
            "and mappings only."
        ) from error
    return {"engine.json": text, "engine.safetensors": _tensors(parts.arrays)}


def open_world(
    path: Path | str, *, planner: Planner | str | None = None, adaptation: Adaptation | None = None
) -> LocalWorld:
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
        UnknownNameError: it needs a model, engine, lab or planner that is not installed.
        UnsupportedError: its model cannot adapt, or no model stands behind it.
    """
    bundle = read_bundle(Path(path))
    engine, calibration = open_engine(bundle), None
    if "calibration.safetensors" in bundle.files:
        calibration = Calibration.from_arrays(_arrays(bundle, "calibration"))
        _check_calibration(bundle, engine.describe(), calibration)
    if adaptation is not None:
        if not isinstance(engine, LearnedEngine):
            raise UnsupportedError(
                f"{bundle.folder}: only a learned world adapts, and this one is {bundle.manifest.model!r}. Leave "
                "adaptation out."
            )
        engine = replace(engine, adaptation=adaptation)
        calibration = None if calibration is None else calibration.without_errors()
    card = _card(bundle)
    return LocalWorld(engine, calibration, _planner(bundle, planner), num_proposals=card.num_proposals, call=card.call)


def open_engine(bundle: Bundle) -> Engine:
    """The engine in a bundle; see `open_world`."""
    schema = from_json(Schema, bundle.text("schema.json"), where=bundle.folder / "schema.json")
    if "engine.json" in bundle.files:
        return _open_stored(bundle, schema)
    family: type[WorldModel] = load("model", bundle.manifest.model)
    card = _card(bundle)
    return LearnedEngine(
        model=_load(bundle, "model", family.Config, lambda config: family(schema=schema, config=config)),
        schema=schema,
        inputs=card.inputs,
        readout=_load(bundle, "heads/readout", ReadoutConfig, Readout),
        mahalanobis=_load(bundle, "heads/mahalanobis", MahalanobisConfig, MahalanobisScore),
        distance_head=_load_if_there(bundle, "heads/distance", DistanceConfig, Distance),
        inverse_head=_load_if_there(bundle, "heads/inverse", InverseConfig, Inverse),
        landmarks=_load_if_there(bundle, "heads/landmarks", LandmarksConfig, Landmarks),
        reward_head=_load_if_there(bundle, "heads/reward", RewardConfig, Reward),
        termination_head=_load_if_there(bundle, "heads/termination", TerminationConfig, Termination),
        decoder=_load_if_there(bundle, "heads/decoder", DecoderConfig, Decoder),
        name=card.name,
        notes=card.notes,
    )


def _open_stored(bundle: Bundle, schema: Schema) -> Engine:
    """An engine that is not a learned one. Only what is registered as an engine is imported."""
    where = bundle.folder / "engine.json"
    stored = from_json(StoredEngine, bundle.text("engine.json"), where=where)
    if stored.kind != bundle.manifest.model:
        raise BundleError(f"{where}: kind {stored.kind!r}, but the manifest says {bundle.manifest.model!r}. {_AGAIN}.")
    kind: object = load("engine", stored.kind)
    if not (isinstance(kind, type) and issubclass(kind, Storable)):
        raise BundleError(f"{where}: an engine {stored.kind!r} cannot be stored in this form. {_AGAIN}.")
    try:
        engine = kind.from_parts(schema, Parts(config=stored.config, arrays=_arrays(bundle, "engine")))
    except DataError as error:
        raise BundleError(f"{where.with_suffix('')}: {error}") from error
    if not isinstance(engine, Engine):
        raise BundleError(f"{where}: {stored.kind!r} is not an engine. {_AGAIN}.")
    told, due = _card(bundle), engine.describe()
    if (told.name, told.inputs) != (due.name, due.inputs):
        raise BundleError(f"{bundle.folder / 'card.json'}: not the card of the engine in engine.json. {_AGAIN}.")
    return engine


def _check_calibration(bundle: Bundle, card: Card, calibration: Calibration) -> None:
    """Refuses a calibration of other signals than the engine's."""
    vectors = {name: card.schema[name].shape for name in card.predicts if card.schema[name].kind is Kind.VECTOR}
    if calibration.tells_errors and (
        calibration.one_step.keys() != set(card.predicts)
        or {name: scale.shape[1:] for name, scale in calibration.scale.items()} != vectors
    ):
        raise BundleError(f"{bundle.folder / 'calibration.safetensors'}: not that of this engine. {_AGAIN}.")


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


def _arrays(bundle: Bundle, name: str) -> dict[str, NDArray[np.generic]]:
    return {key: tensor.numpy() for key, tensor in bundle.tensors(f"{name}.safetensors").items()}


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    for name, value in arrays.items():
        if value.dtype.kind not in "fiub":
            raise UnsupportedError(f"array {name!r} holds {value.dtype}, and only numbers can be stored.")
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}
