"""Saves a world as a bundle and opens it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldline.bundle import Bundle, Content, read_bundle, write_bundle
from worldline.config import BoundedConfig, SizeOrZero, from_json, to_json
from worldline.device import CPU, check_fork, choose_device
from worldline.engines.base import CallCost, Card, Engine, Parts, Storable
from worldline.engines.learned import Adaptation, LearnedEngine
from worldline.episode import Arrays, History
from worldline.errors import BundleError, ConfigError, DataError, UnsupportedError
from worldline.models.base import WorldModel
from worldline.planning.planners.base import Planner
from worldline.registry import load, name_of
from worldline.schema import Kind, Schema
from worldline.training.heads.fitting import HEADS
from worldline.training.heads.mahalanobis import MahalanobisScore
from worldline.training.heads.readout import Readout
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld
from worldline.world.smoke_test import from_arrays, to_arrays

Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)

_AGAIN = "Fetch the bundle again, or save the world again with this version"

MAX_SETTINGS_BYTES = 2**20
"""Largest size of a file of settings, which takes up to 40 times as much as Python objects."""
WINDOWS = "smoke.safetensors"
WORLD_NUMBERS = ("num_proposals", "call", "bytes_per_candidate")
"""Fields of a `LocalWorld` that the card of a bundle holds."""
"""The windows for the smoke test, see `LocalWorld.windows`."""


@dataclass(frozen=True, kw_only=True)
class BundleCard(BoundedConfig):
    """The part of a world's card that the bundle stores.

    Args:
        name: name on the engine's card.
        inputs: observation signals that the engine takes.
        notes: notes of the engine's card when the bundle was written.
        num_proposals: see `LocalWorld`.
        call: see `LocalWorld`.
        bytes_per_candidate: see `LocalWorld`; 0 in older bundles.
        parts: of bundles of earlier versions; not used.
    """

    name: str
    inputs: tuple[str, ...]
    notes: Mapping[str, str]
    num_proposals: SizeOrZero
    call: CallCost | None = None
    bytes_per_candidate: int = 0
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredEngine:
    """The configuration of an engine that is not a learned one; its arrays are stored separately.

    Args:
        kind: registered name of the engine.
        config: configuration for `from_parts`, which checks it.
    """

    kind: str
    config: Mapping[str, Any]


def save_world(
    path: Path | str,
    world: LocalWorld,
    *,
    run: Mapping[str, Any] | None = None,
    settings: str | None = None,
    report: str | None = None,
) -> Bundle:
    """Writes a world to a bundle; an existing bundle at `path` is replaced.

    Args:
        path: a folder.
        world: a world over a learned or `Storable` engine. The engine and the planner must be registered.
        run: provenance as plain JSON values: configuration, seeds, data, versions, times. None for none.
        settings: TOML that repeats the run, see `workflows.learn_result.run_toml`; None for none.
        report: HTML; None for none.

    Raises:
        UnsupportedError: a part of the world cannot be stored. The message names the part and the reason.
        BundleError: `path` holds something that is not a bundle, or a weight is not finite.
    """
    engine, card = world.engine, world.engine.describe()
    if isinstance(engine, LearnedEngine):
        model, own = name_of("model", type(engine.model)), _learned_files(engine)
    elif isinstance(engine, Storable):
        model, own = name_of("engine", type(engine)), _engine_files(engine)
    else:
        raise UnsupportedError(
            f"the engine {card.name!r} cannot be stored: {type(engine).__name__} is not Storable. Implement to_parts "
            "and from_parts of worldline.engines.base.Storable, or create the engine in code each time."
        )
    contents: dict[str, Content] = {"schema.json": to_json(card.schema), "planner.json": to_json(world.planner), **own}
    if world.calibration is not None:
        contents["calibration.safetensors"] = _tensors(world.calibration.to_arrays())
    if world.windows is not None:
        contents[WINDOWS] = _tensors(to_arrays(world.windows))
    own_numbers = {name: getattr(world, name) for name in WORLD_NUMBERS}
    contents["card.json"] = to_json(BundleCard(name=card.name, inputs=card.inputs, notes=card.notes, **own_numbers))
    run_text = None if run is None else json.dumps(run, indent=2)
    records = {"run.json": run_text, "run.toml": settings, "report.html": report}
    contents |= {name: text for name, text in records.items() if text is not None}
    return write_bundle(Path(path), contents, model=model, notes={"planner": name_of("planner", type(world.planner))})


def _learned_files(engine: LearnedEngine) -> dict[str, Content]:
    if engine.adaptation is not None:
        raise UnsupportedError(
            "an adaptation cannot be stored. Save the world without it, and pass it to worldline.open(adaptation=...)."
        )
    contents, heads = dict[str, Content](), {f"heads/{name}": head for name, head in engine.heads.items()}
    for name, part in {"model": engine.model, **heads}.items():
        contents |= {f"{name}.json": to_json(part.config), f"{name}.safetensors": _weights(part)}
    return contents


def _engine_files(engine: Storable) -> dict[str, Content]:
    parts = engine.to_parts()
    stored = StoredEngine(kind=name_of("engine", type(engine)), config=parts.config)
    try:
        text = json.dumps({"kind": stored.kind, "config": dict(stored.config)}, indent=2)
    except TypeError as error:
        raise UnsupportedError(
            f"the configuration of {stored.kind!r} is not plain JSON: {error}. Let to_parts return only numbers, text, "
            "lists and mappings."
        ) from error
    return {"engine.json": text, "engine.safetensors": _tensors(parts.arrays)}


def open_world(
    path: Path | str,
    *,
    planner: Planner | str | None = None,
    adaptation: Adaptation | None = None,
    device: str = "auto",
) -> LocalWorld:
    """Opens the world in a bundle.

    Args:
        path: a folder that `save_world` wrote.
        planner: a planner, or the registered name of one with its default settings. None for the planner of the bundle.
        adaptation: how the world adapts to the histories that it gets; None for no adaptation. The bundle is not
            changed. The adapted world has no bands, surprise or `Chance`, because the calibration belongs to the
            unadapted world. To get them, call `calibrate` on the adapted engine.
        device: of a learned world; see `worldline.device.choose_device`.

    Raises:
        BundleError: the bundle is damaged, incomplete, of another version, or its parts do not fit each other.
        UnknownNameError: the bundle needs a model, engine, lab or planner that is not installed.
        UnsupportedError: the model cannot adapt, or the engine is not a learned one.
        InputError: the device is unknown or not available.
    """
    bundle = read_bundle(Path(path))
    # Each part is checked against the engine, because parts of different bundles may be valid by themselves.
    engine, calibration = open_engine(bundle, choose_device(device)), None
    if "calibration.safetensors" in bundle.files:
        calibration = _calibration(bundle, engine.describe())
    windows = _windows(bundle, engine.describe())
    if adaptation is not None:
        if not isinstance(engine, LearnedEngine):
            raise UnsupportedError(
                f"{bundle.folder}: only learned worlds adapt; this one is {bundle.manifest.model!r}. Leave out "
                "adaptation."
            )
        engine = replace(engine, adaptation=adaptation)
        calibration = None if calibration is None else calibration.without_errors()
    card = _settings(bundle, "card.json", BundleCard)
    numbers = {name: getattr(card, name) for name in WORLD_NUMBERS}
    return LocalWorld(engine, calibration, _planner(bundle, planner), windows=windows, **numbers)


def open_engine(bundle: Bundle, device: torch.device = CPU) -> Engine:
    """Opens the engine in a bundle; a learned one on `device`. See `open_world`."""
    schema = _settings(bundle, "schema.json", Schema)
    if "engine.json" in bundle.files:
        return _open_stored(bundle, schema)
    check_fork()  # weights are checked by torch
    family: type[WorldModel] = load("model", bundle.manifest.model)
    card = _settings(bundle, "card.json", BundleCard)
    model = _load(bundle, device, "model", family.Config, lambda config: family(schema=schema, config=config))
    if card.inputs != model.config.inputs:
        raise BundleError(
            f"{bundle.folder / 'card.json'}: inputs are {', '.join(card.inputs)}, and the model takes "
            f"{', '.join(model.config.inputs)}. {_AGAIN}."
        )
    required = (Readout, MahalanobisScore)
    heads = {
        kind.name: _load(bundle, device, f"heads/{kind.name}", kind.Config, kind)
        for kind in HEADS
        if kind in required or f"heads/{kind.name}.json" in bundle.files
    }
    return LearnedEngine(model=model, schema=schema, inputs=card.inputs, heads=heads, name=card.name, notes=card.notes)


def _open_stored(bundle: Bundle, schema: Schema) -> Engine:
    """Opens an engine that is not a learned one. Only registered engines are imported."""
    where, stored = bundle.folder / "engine.json", _settings(bundle, "engine.json", StoredEngine)
    kind: object = load("engine", stored.kind)
    if not (isinstance(kind, type) and issubclass(kind, Storable)) or stored.kind != bundle.manifest.model:
        raise BundleError(
            f"{where}: the engine {stored.kind!r} is not Storable, or the manifest has {bundle.manifest.model!r}. "
            f"{_AGAIN}."
        )
    try:
        engine = kind.from_parts(schema, Parts(config=stored.config, arrays=_arrays(bundle, "engine")))
    except DataError as error:
        raise BundleError(f"{where.with_suffix('')}: {error}") from error
    assert isinstance(engine, Engine)  # as registered
    stored_card, card = _settings(bundle, "card.json", BundleCard), engine.describe()
    if (stored_card.name, stored_card.inputs) != (card.name, card.inputs):
        raise BundleError(
            f"{bundle.folder / 'card.json'}: name or inputs differ from the engine in engine.json. {_AGAIN}."
        )
    return engine


def _calibration(bundle: Bundle, card: Card) -> Calibration:
    """The calibration, which must fit the engine."""
    where = bundle.folder / "calibration.safetensors"
    try:
        calibration = Calibration.from_arrays(_arrays(bundle, "calibration"))
    except DataError as error:
        raise BundleError(f"{where}: {error}") from error
    # A calibration of another engine may be valid by itself; its signals and shapes must be those of this engine.
    vectors = {name: card.schema[name].shape for name in card.predicts if card.schema[name].kind is Kind.VECTOR}
    ranges = {name: ends.shape[1:] for name, ends in calibration.logged_range.items()}
    wrong = not ranges.items() <= {signal.name: signal.shape for signal in card.schema.signals}.items()
    if calibration.has_error_scores:
        scales, residuals = calibration.scale, calibration.residuals
        wrong |= calibration.one_step.keys() != set(card.predicts)
        wrong |= {name: scale.shape[1:] for name, scale in scales.items()} != vectors
        wrong |= any(paths.shape[1:] != scales[name].shape for name, paths in residuals.items())
    if wrong:
        raise BundleError(f"{where}: its signals differ from those of the engine. {_AGAIN}.")
    return calibration


def _windows(bundle: Bundle, card: Card) -> History | None:
    """The windows for the smoke test, which must fit the engine; None if the bundle stores none."""
    if WINDOWS not in bundle.files:
        return None
    try:
        return from_arrays(_arrays(bundle, "smoke"), card)
    except DataError as error:
        raise BundleError(f"{bundle.folder / WINDOWS}: {error}") from error


def _planner(bundle: Bundle, requested: Planner | str | None) -> Planner:
    if isinstance(requested, Planner):
        return requested
    if requested is not None:
        named: Planner = load("planner", requested)()
        return named
    kind: type[Planner] = load("planner", bundle.manifest.notes.get("planner", ""))
    return _settings(bundle, "planner.json", kind)


def _settings(bundle: Bundle, name: str, config_class: type[Config]) -> Config:
    """The configuration in a file of the bundle, a frozen dataclass."""
    where, text = bundle.folder / name, bundle.text(name)
    if len(text) > MAX_SETTINGS_BYTES:
        raise BundleError(f"{where} has {len(text)} characters, more than {MAX_SETTINGS_BYTES}. {_AGAIN}.")
    try:
        return from_json(config_class, text, where=where)
    except ConfigError as error:
        raise BundleError(f"{error} {_AGAIN}.") from error


def _load(
    bundle: Bundle, device: torch.device, name: str, config_class: type[Config], build: Callable[[Config], Module]
) -> Module:
    """The network of the bundle, whose tensors must match its configuration exactly."""
    config = _settings(bundle, f"{name}.json", config_class)
    # Tensors on the meta device have a shape but no memory, so no size in the configuration is allocated.
    try:
        with torch.device("meta"):
            network = build(config)
    except UnsupportedError:
        raise
    except (ConfigError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise BundleError(f"{bundle.folder}: no network has the settings in {name}.json: {error}") from error
    tensors = bundle.tensors(f"{name}.safetensors")
    states = network.state_dict(), tensors
    expected, stored = ({key: (tuple(part.shape), part.dtype) for key, part in state.items()} for state in states)
    if wrong := sorted(key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key)):
        raise BundleError(
            f"{bundle.folder}: {name}.safetensors does not fit {name}.json: expected {expected.get(wrong[0])} for "
            f"{wrong[0]}, got {stored.get(wrong[0])}. {_AGAIN}."
        )
    _check_finite(tensors, bundle.folder / f"{name}.safetensors")
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False).to(device)


def _arrays(bundle: Bundle, name: str) -> dict[str, NDArray[np.generic]]:
    arrays = dict[str, NDArray[np.generic]]()
    for key, tensor in bundle.tensors(file := f"{name}.safetensors").items():
        try:
            arrays[key] = tensor.numpy()
        except TypeError as error:
            problem = f"{key} has the type {tensor.dtype}, which NumPy lacks; expected float32 or another type of NumPy"
            raise BundleError(f"{bundle.folder / file}: {problem}. {_AGAIN}.") from error
    return arrays


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def _weights(network: nn.Module) -> dict[str, Tensor]:
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    _check_finite(weights, type(network).__name__)
    return weights


def _check_finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Raises if a weight is NaN or infinite: such a network answers nonsense."""
    for name, value in tensors.items():
        # In parts, because isfinite copies its argument.
        parts = value.flatten().split(2**20)
        if bad := sum(int((~part.isfinite()).sum()) for part in parts):
            raise BundleError(
                f"{where}: {bad} of {value.numel()} values of {name!r} are NaN or infinite. Learn the world again; a "
                "lower learning rate or logs without extreme values help if the training diverged."
            )
