"""The registry of named components. Built-ins and plugins are imported on first use."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from worldline.errors import InputError, UnknownNameError, UnsupportedError

__all__ = ["BUILTIN", "imported", "load", "name_of", "names", "register"]

BUILTIN: dict[str, dict[str, str]] = {
    "model": {
        "ensemble": "worldline.models.ensemble:Ensemble",
        "features": "worldline.models.features:Features",
        "jepa": "worldline.models.jepa:Jepa",
        "linear": "worldline.models.linear:LinearModel",
        "lewm": "worldline.models.lewm:Lewm",
        "recurrent": "worldline.models.recurrent:Recurrent",
        "rssm": "worldline.models.rssm:Rssm",
        "token": "worldline.models.token:TokenModel",
    },
    "tracker": {
        "jsonl": "worldline.training.tracking:JsonLines",
        "tensorboard": "worldline.training.tracking:TensorBoard",
    },
    "planner": {
        "cem": "worldline.planning.planners.cem:CrossEntropy",
        "categorical": "worldline.planning.planners.cem:Categorical",
        "first_proposal": "worldline.planning.planners.small_searches:FirstProposal",
        "gradient": "worldline.planning.planners.gradient:GradientPlanner",
        "guided": "worldline.planning.planners.small_searches:Guided",
        "icem": "worldline.planning.planners.cem:ImprovedCrossEntropy",
        "lagrangian": "worldline.planning.planners.lagrangian:AugmentedLagrangian",
        "mppi": "worldline.planning.planners.cem:PathIntegral",
        "predictive_sampling": "worldline.planning.planners.small_searches:PredictiveSampling",
        "shooting": "worldline.planning.planners.small_searches:Shooting",
    },
    "engine": {
        "language": "worldline.engines.language.engine:LanguageEngine",
        "learned": "worldline.engines.learned:LearnedEngine",
        "persistence": "worldline.engines.baselines:Persistence",
        "constant_velocity": "worldline.engines.baselines:ConstantVelocity",
        "linear": "worldline.engines.baselines:Linear",
        "action_blind": "worldline.engines.baselines:ActionBlind",
        "forecast": "worldline.engines.forecast.engine:ForecastEngine",
    },
    "importer": {  # in the order of format detection
        "store": "worldline.data.open_logs:StoreLogs",
        "minari": "worldline.data.formats.minari:MinariLogs",
        "lerobot": "worldline.data.formats.lerobot.logs:LeRobotLogs",
        "robomimic": "worldline.data.formats.hdf5.robomimic:RobomimicLogs",
        "hdf5": "worldline.data.formats.hdf5.columns:Hdf5Logs",
        "npz": "worldline.data.formats.npz:read_npz",
        "video": "worldline.data.formats.tables.video:VideoLogs",
        "table": "worldline.data.formats.tables.tables:TableLogs",
    },
    "exporter": {
        "csv": "worldline.data.formats.tables.export:export_csv",
        "parquet": "worldline.data.formats.tables.export:export_parquet",
        "hdf5": "worldline.data.formats.hdf5.export:export_hdf5",
        "lerobot": "worldline.data.formats.lerobot.export:export_lerobot",
    },
    "test": {},
    "lab": {"two-rooms": "worldline.labs.two_rooms:TwoRooms"},
    "command": {},
    "recipe": {
        "ensemble": "worldline.recipes.ensemble:ensemble",
        "ensemble-memory": "worldline.recipes.ensemble:ensemble_memory",
        "ensemble-delays": "worldline.recipes.ensemble:ensemble_delays",
        "recurrent": "worldline.recipes.ensemble:recurrent",
        "linear": "worldline.recipes.linear:linear",
        "fracast": "worldline.recipes.forecast:fracast",
        "chronos": "worldline.recipes.forecast:chronos",
        "memory": "worldline.recipes.memory:memory",
        "film": "worldline.recipes.pixels:film",
        "pixels": "worldline.recipes.pixels:pixels",
        "film-and-vectors": "worldline.recipes.pixels:film_and_vectors",
        "pixels-and-vectors": "worldline.recipes.pixels:pixels_and_vectors",
        "two-rooms": "worldline.recipes.two_rooms:two_rooms",
        "two-rooms-random": "worldline.recipes.two_rooms:two_rooms_random",
        "vectors": "worldline.recipes.vectors:vectors",
    },
}
"""Per kind, name to "module:attribute". Third parties add names with the entry-point group `worldline.<kind>s`, or with
`register`."""

_REGISTERED: dict[str, dict[str, Any]] = {}
"""Per kind, the parts that this process registered by name."""


def register(kind: str, name: str, part: Any) -> None:
    """Registers a class or function under a name in this process. An installed package uses an entry point instead.

    Args:
        kind: such as "model" or "planner"; a key of `BUILTIN`.
        name: under which it is loaded, and found again in bundles; an earlier part of this name is replaced.
        part: the class or function.

    Raises:
        UnknownNameError: the kind does not exist.
        InputError: the name is that of a built-in part or of an installed package.
    """
    if name in names(kind) and name not in _REGISTERED.get(kind, {}):
        raise InputError(f"a {kind} {name!r} exists already. Choose another name.")
    _REGISTERED.setdefault(kind, {})[name] = part


def names(kind: str) -> list[str]:
    """Every name of this kind, built-in and third-party, sorted; imports nothing.

    Raises:
        UnknownNameError: the kind does not exist.
    """
    if kind not in BUILTIN:
        raise UnknownNameError("kind of part", kind, BUILTIN)
    return sorted(
        {
            *BUILTIN[kind],
            *_REGISTERED.get(kind, {}),
            *(point.name for point in entry_points(group=f"worldline.{kind}s")),
        }
    )


def load(kind: str, name: str) -> Any:
    """Imports the class or function of this kind and name.

    Raises:
        UnknownNameError: the name is not registered; the message suggests the nearest.
        MissingExtraError: it needs an extra that is not installed.
    """
    if name in BUILTIN.get(kind, {}):
        module, _, attribute = BUILTIN[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    if name in _REGISTERED.get(kind, {}):
        return _REGISTERED[kind][name]
    if name not in names(kind):
        raise UnknownNameError(kind, name, names(kind))
    return entry_points(group=f"worldline.{kind}s", name=name)[name].load()


def name_of(kind: str, part: type) -> str:
    """The registered name of the class `part`; the inverse of `load`.

    Raises:
        UnsupportedError: the class is not registered; the message says how to register it.
    """
    for name, address in BUILTIN.get(kind, {}).items():
        if address == f"{part.__module__}:{part.__qualname__}":
            return name
    for name, registered in _REGISTERED.get(kind, {}).items():
        if registered is part:
            return name
    package = part.__module__.partition(".")[0]
    for point in entry_points(group=f"worldline.{kind}s"):
        # A package registers its own classes, so entry points of other packages need not be imported.
        if point.module.partition(".")[0] == package and load(kind, point.name) is part:
            return point.name
    raise UnsupportedError(
        f"{part.__qualname__} is not registered as a {kind}, so it cannot be loaded by name. Call "
        f"worldline.registry.register({kind!r}, ...), or register it as an entry point of the group worldline.{kind}s."
    )


def imported(kind: str, path: str) -> Any:
    """The object that the user names as "module:name". Only for trusted input, because importing runs code.

    Raises:
        InputError: the module does not exist, or `path` has another form.
        UnknownNameError: the module does not have the name.
    """
    name, _, attribute = path.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"{kind} is {path!r}. Write module:name, such as my_package.my_module:my_{kind}.")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, but one that it imports is missing
        problem = f"{kind} is {path!r}, but there is no module {error.name!r}"
        raise InputError(f"{problem}. Check the spelling, and that its folder is in PYTHONPATH.") from error
    if attribute not in vars(module):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError(f"{kind} in {name}", attribute, known)
    return vars(module)[attribute]
