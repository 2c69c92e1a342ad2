"""Every backing of the two worlds of the examples, made quickly: each is a name that `worldline.open` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest
from greenhouse_logs import record_greenhouse
from greenhouse_plant import greenhouse
from tests.data.stores import stored
from tests.engines.language.chat_server import ChatServer, Dynamics, Values, latest
from tests.served_world import serving_world

import worldline
from worldline.catalog.fallback import FallbackWorld
from worldline.catalog.versions import Catalog
from worldline.data.store import Store
from worldline.engines.base import Engine
from worldline.engines.baselines import Linear
from worldline.engines.fixed_lag import typical_values
from worldline.engines.forecast.engine import ForecastEngine
from worldline.engines.forecast.forecasters import Fracast
from worldline.engines.language.chat import Chat
from worldline.engines.language.endpoint import HOSTS_VARIABLE, Endpoint
from worldline.engines.language.engine import LanguageEngine
from worldline.engines.oracle import OracleEngine
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Episode, Future, History
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.planners.base import Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.small_searches import Shooting
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.registry import load
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.world.base import World
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

PLANNER = CrossEntropy(num_candidates=64, num_iterations=3)
FEW = CrossEntropy(num_candidates=32, num_iterations=2)
"""For engines that step an environment for every candidate."""
VERY_FEW: dict[str, Planner] = {
    "greenhouse": CrossEntropy(num_candidates=6, num_iterations=1, num_elites=2),
    "two-rooms": Shooting(num_candidates=6),
}
"""For engines that send a request for every step of a candidate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Workshop:
    """Logs of one of the worlds, and a place for what is made from them.

    Args:
        kind: "greenhouse" or "two-rooms".
        folder: for bundles.
        store: the logs; the last quarter is for calibration.
        recipe: learns from the logs in seconds.
        horizon: that bands are calibrated for.
        dynamics: from the logs, what an ideal language model would know of the world.
        running: servers, until the tests are over.
        patch: the environment, likewise.
        made: the names of the backings that were made.
    """

    kind: str
    folder: Path
    store: Store
    recipe: Callable[[Store], Recipe]
    horizon: int
    dynamics: Callable[[Workshop], Dynamics]
    running: ExitStack
    patch: pytest.MonkeyPatch
    made: dict[str, str] = field(default_factory=dict)

    @cached_property
    def fitting(self) -> Sequence[Episode]:
        return [self.store.episode(number) for number in range(3 * len(self.store) // 4)]

    @cached_property
    def held_out(self) -> Sequence[Episode]:
        return [self.store.episode(number) for number in range(3 * len(self.store) // 4, len(self.store))]

    def name(self, backing: str) -> str:
        """The name that opens a backing, which is made when it is first asked for."""
        if backing not in self.made:
            self.made[backing] = BACKINGS[self.kind][backing](self)
        return self.made[backing]

    def fit(self, engine: str) -> Engine:
        """The engine of this name, fitted to the logs."""
        made: Engine = load("engine", engine).fit(self.fitting, self.store.schema)
        return made

    def save(self, name: str, engine: Engine, *, calibrated: bool = True) -> str:
        """The folder of the bundle of a world over this engine."""
        calibration = None
        if calibrated:
            calibration = calibrate(engine, self.held_out, horizon=self.horizon, num_windows=8, seed=0)
        folder = self.folder / f"{self.kind}-{name}"
        save_world(folder, LocalWorld(engine, calibration, PLANNER))
        return str(folder)

    def serve(self, world: World) -> str:
        """The URL of the world, until the tests are over."""
        return self.running.enter_context(serving_world(world))


def fitted(engine: str) -> Callable[[Workshop], str]:
    """A bundle of an engine that is fitted to logs, by its registered name."""

    def make(workshop: Workshop) -> str:
        return workshop.save(engine, workshop.fit(engine))

    return make


def learned(workshop: Workshop) -> str:
    bundle = workshop.folder / f"{workshop.kind}-learned"
    learn_logs(workshop.store.path, bundle, Options(recipe=workshop.recipe))
    return str(bundle)


def uncalibrated(workshop: Workshop) -> str:
    """No bands, and trust NaN."""
    return workshop.save("uncalibrated", workshop.fit("linear"), calibrated=False)


def oracle(workshop: Workshop) -> str:
    """A URL: the lab is not stored in a bundle."""
    engine = OracleEngine(lab=TwoRooms(camera=False))
    calibration = calibrate(engine, workshop.held_out, horizon=workshop.horizon, num_windows=8, seed=0)
    return workshop.serve(LocalWorld(engine, calibration, PLANNER))


def simulator(workshop: Workshop) -> str:
    """A URL. Resets the lab into what is seen."""
    lab = TwoRooms(camera=False)
    engine = SimulatorEngine(make_environment=partial(TwoRooms, camera=False), schema=lab.schema, locate=lab.locate)
    return workshop.serve(LocalWorld(engine, None, FEW))


def language(workshop: Workshop) -> str:
    """A bundle that names a chat endpoint, which the user lists."""
    server = workshop.running.enter_context(ChatServer(workshop.dynamics(workshop)))
    endpoint = Endpoint(base_url=server.base_url, model="tiny", temperature=0.0)
    workshop.patch.setenv(HOSTS_VARIABLE, endpoint.origin, prepend=" ")
    engine = LanguageEngine(schema=workshop.store.schema, chat=Chat(endpoint), context=1)
    calibration = calibrate(
        engine, workshop.held_out[:4], horizon=2, num_windows=2, seed=0, trust_steps=0, with_causes=False
    )
    folder = workshop.folder / f"{workshop.kind}-language"
    save_world(folder, LocalWorld(replace(engine, call=engine.measured()), calibration, VERY_FEW[workshop.kind]))
    return str(folder)


def forecast(workshop: Workshop) -> str:
    """A pretrained forecaster, without bands: their calibration would take a minute."""
    names = tuple(signal.name for signal in workshop.store.schema.observations)
    typical = typical_values(workshop.fitting, workshop.store.schema.observations)
    engine = ForecastEngine(
        schema=workshop.store.schema, forecaster=Fracast(), inputs=names, context=12, typical=typical
    )
    return workshop.save("forecast", engine, calibrated=False)


def remote(workshop: Workshop) -> str:
    """A URL."""
    return workshop.serve(worldline.open(workshop.name("linear")))


def named(workshop: Workshop) -> str:
    """An alias, which is moved from the first version to the second in one of the tests."""
    Catalog().publish(workshop.name("linear"), workshop.kind, alias="prod")
    Catalog().publish(workshop.name("nearest"), workshop.kind)
    return f"{workshop.kind}@prod"


def fallback(workshop: Workshop) -> str:
    """A URL behind which one of another URL is asked, then a language model, then what is trivial."""
    order = [worldline.open(workshop.name(one)) for one in ("remote", "language", "persistence")]
    return workshop.serve(FallbackWorld(order))


def affine(workshop: Workshop) -> Dynamics:
    """The linear trend of the logs, a step at a time."""
    engine = Linear.fit(workshop.fitting, workshop.store.schema, context=1)

    def after(history: Values, actions: Values, exogenous: Values) -> Values:
        now = {name: latest(values)[None, None].astype(np.float32) for name, values in history.items()}
        none = {name: np.zeros((1, 0, *value.shape), np.float32) for name, value in {**actions, **exogenous}.items()}
        past = History(
            observations=now,
            actions={name: none[name] for name in actions},
            exogenous={name: none[name] for name in exogenous},
        )
        future = Future(
            actions={name: value[None, None, None].astype(np.float32) for name, value in actions.items()},
            exogenous={name: value[None, None].astype(np.float32) for name, value in exogenous.items()},
        )
        seen = engine.imagine(engine.observe(None, past, seed=0), future, num_samples=1, seed=0).signals
        return {name: value[0, 0, 0, 0].astype(float) for name, value in seen.items()}

    return after


def moves(workshop: Workshop) -> Dynamics:
    """A dot that goes where it is moved, and a wall that stays."""
    del workshop  # it knows

    def after(history: Values, actions: Values, exogenous: Values) -> Values:
        return {"position": latest(history["position"]) + actions["move"], "wall": latest(history["wall"])}

    return after


BLIND = ("action_blind", "persistence", "constant_velocity", "forecast")
"""They do not heed actions, so there is nothing to plan with."""
EVERYWHERE: dict[str, Callable[[Workshop], str]] = {
    "learned": learned,
    "linear": fitted("linear"),
    "nearest": fitted("nearest"),
    "uncalibrated": uncalibrated,
    "action_blind": fitted("action_blind"),
    "persistence": fitted("persistence"),
    "constant_velocity": fitted("constant_velocity"),
    "forecast": forecast,
    "language": language,
    "remote": remote,
    "named": named,
    "fallback": fallback,
}
BACKINGS: dict[str, dict[str, Callable[[Workshop], str]]] = {
    "greenhouse": EVERYWHERE,
    "two-rooms": {**EVERYWHERE, "oracle": oracle, "simulator": simulator},
}
"""Per world and backing what makes it and gives the name to pass to `worldline.open`. A backing more is a line here."""


def greenhouse_workshop(folder: Path, running: ExitStack, patch: pytest.MonkeyPatch) -> Workshop:
    def recipe(store: Store) -> Recipe:
        known = greenhouse(store)
        training = replace(known.training, num_updates=120, num_checks=1, window=5)
        return replace(known, training=training, horizon=12, num_windows=4, planner=PLANNER)

    store = record_greenhouse(folder / "greenhouse", num_episodes=16, seed=0)
    return Workshop(
        kind="greenhouse",
        folder=folder,
        store=store,
        recipe=recipe,
        horizon=12,
        dynamics=affine,
        running=running,
        patch=patch,
    )


def two_rooms_workshop(folder: Path, running: ExitStack, patch: pytest.MonkeyPatch) -> Workshop:
    def recipe(store: Store) -> Recipe:
        known = vectors(store)
        training = replace(known.training, num_updates=120, num_checks=1, window=5)
        heads = replace(known.heads, goals=True, distance_updates=20, inverse_updates=20, width=32)
        return replace(known, training=training, heads=heads, horizon=6, num_windows=2, planner=PLANNER)

    lab = TwoRooms(camera=False)
    store = stored(folder / "two-rooms", lab.schema, (explore(lab, seed, 30) for seed in range(120)))
    return Workshop(
        kind="two-rooms",
        folder=folder,
        store=store,
        recipe=recipe,
        horizon=6,
        dynamics=moves,
        running=running,
        patch=patch,
    )
