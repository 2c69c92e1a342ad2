"""The worlds of docs/worlds.md, small and untrained, because abilities do not depend on accuracy.

`python -m tests.surface.worlds_shown` writes the page.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tests.engines.forecast.tiny_chronos import tiny_chronos
from tests.engines.language.chat_server import ChatServer, latest
from tests.served_world import serving_world

from worldline.catalog.fallback import FallbackWorld
from worldline.catalog.versions import HOME, Catalog, open_named
from worldline.config import replace_at
from worldline.data.windows import WindowBatch
from worldline.engines.base import Card, Engine
from worldline.engines.fixed_lag import typical_values
from worldline.engines.forecast.engine import ForecastEngine
from worldline.engines.forecast.forecasters import Chronos, Fracast
from worldline.engines.language.chat import Chat
from worldline.engines.language.endpoint import Endpoint
from worldline.engines.language.engine import LanguageEngine
from worldline.engines.learned import LearnedEngine
from worldline.engines.oracle import OracleEngine
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.models.base import WorldModel
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.registry import load, names
from worldline.schema import Kind, Schema
from worldline.testing.toys import Integrator
from worldline.training.batches import to_window
from worldline.training.heads.base import by_name
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world import fit_calibration
from worldline.world.base import PlanStatus, World
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteWorld

Shown = tuple[World, Episode]
PAGE = Path(__file__).parents[2] / "docs" / "worlds.md"
SIZES: dict[str, dict[str, Any]] = {
    "jepa": {"latent_size": 8, "encoder.width": 16, "predictor.width": 16, "regularizer.num_slices": 8},
    "ensemble": {"num_members": 2, "width": 16},
    "recurrent": {"num_members": 2, "history": 3, "width": 16, "context": 3},
    "linear": {},
    "token": {"num_bins": 24, "width": 16, "depth": 1, "num_heads": 2, "context_steps": 4},
    "rssm": {"hidden_size": 16, "num_groups": 4, "num_classes": 4, "width": 16, "context": 3},
    "lewm": {
        "latent_size": 16, "depth": 1, "num_heads": 2, "projector_width": 16, "predictor_depth": 1,
        "predictor_heads": 2, "head_size": 8, "predictor_width": 16, "num_slices": 8, "patch": 16,
    },
    "features": {"width": 16, "num_heads": 2, "depth": 1, "grid": 2, "components": 6, "image_side": 32},
}  # fmt: skip
OF_IMAGES = ("features", "lewm")
TOY = Integrator(noise=0.1, wind=False)
PLANNER = CrossEntropy(num_candidates=8, num_iterations=1)


def toy_schema() -> Schema:
    """The toy seen by a camera of 32 by 32 pixels and 3 colours."""
    signals = tuple(replace(s, shape=(32, 32, 3)) if s.kind is Kind.IMAGE else s for s in TOY.schema.signals)
    return replace(TOY.schema, signals=signals)


@cache
def toy_episodes() -> Sequence[Episode]:
    def large(episode: Episode) -> Episode:
        camera = episode.observations["camera"].repeat(4, 1).repeat(4, 2).repeat(3, 3)
        return replace(episode, observations={**episode.observations, "camera": camera})

    return [large(episode) for episode in TOY.episodes(12, 14, seed=0)]


@cache
def lab_episodes() -> Sequence[Episode]:
    return [explore(TwoRooms(), seed, 6) for seed in range(6)]


def model(family: str, inputs: tuple[str, ...]) -> WorldModel:
    """An untrained model of the toy."""
    kind = load("model", family)
    if family == "features":
        from tests.models.encoder_folders import dinov2  # skips where its libraries are not installed

        from worldline.models.features import Features, features_config

        with tempfile.TemporaryDirectory() as folder:
            dinov2().save_pretrained(folder)
            known = replace_at(features_config(inputs=inputs, folder=folder), SIZES[family])
            made: WorldModel = Features.from_folder(schema=toy_schema(), config=known)
    else:
        made = kind(schema=toy_schema(), config=replace_at(kind.Config(inputs=inputs), SIZES[family]))
    episodes = toy_episodes()
    batch = WindowBatch(
        observations={k: np.stack([e.observations[k] for e in episodes]) for k in ("position", "camera")},
        observed={k: np.ones((len(episodes), 15), bool) for k in ("position", "camera")},
        actions={"push": np.stack([e.actions["push"] for e in episodes])},
        exogenous={},
        rewards={},
        terminated=np.zeros((len(episodes), 14), bool),
        step_s=np.full((len(episodes), 14), TOY.schema.step_s, np.float32),
        starts=np.stack([np.arange(len(episodes)), np.zeros(len(episodes), int)], 1),
    )
    made.fit_normaliser(to_window(batch, toy_schema()))
    return made.eval().requires_grad_(False)


def learned(family: str) -> Engine:
    """The model with untrained heads."""
    inputs = ("camera",) if family in OF_IMAGES else ("position",)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = model(family, inputs)
        past = toy_episodes()[0].history(9, 10)
        bare = LearnedEngine(
            model=net,
            schema=toy_schema(),
            inputs=inputs,
            heads=by_name(
                Readout(ReadoutConfig(latent_size=1, signals=())), MahalanobisScore(MahalanobisConfig(latent_size=1))
            ),
        )
        one = {name: value[None] for name, value in past.observations.items()}
        belief = bare.observe(
            None, replace(past, observations=one, actions={"push": past.actions["push"][None]}), seed=0
        )
        size = belief.features().shape[-1]
        shown = len(range(size)[net.present])
        readout = Readout(ReadoutConfig(latent_size=size, signals=toy_schema().observations[:1], width=8))
        mahalanobis = MahalanobisScore(MahalanobisConfig(latent_size=size))
        mahalanobis.fit(torch.randn(4 * size + 8, size))
        return replace(
            bare,
            heads=by_name(
                readout.eval(), mahalanobis, Distance(DistanceConfig(latent_size=shown, width=8, size=8)).eval()
            ),
        )


def fitted(engine: str) -> Engine:
    made: Engine = load("engine", engine).fit(toy_episodes(), toy_schema())
    return made


def simulator() -> Engine:
    return SimulatorEngine(make_environment=TwoRooms, schema=TwoRooms().schema, locate=TwoRooms().locate)


def over(make: Callable[[], Engine], episodes: Callable[[], Sequence[Episode]]) -> Callable[[ExitStack], Shown]:
    """A calibrated world over an engine."""

    def shown(running: ExitStack) -> Shown:
        del running
        engine = make()
        calibration = calibrate(engine, episodes(), horizon=2, num_windows=2, seed=0)
        return LocalWorld(engine, calibration, PLANNER, num_proposals=0), episodes()[0]

    return shown


def language(running: ExitStack) -> Shown:
    """A language model that predicts no change."""
    server = running.enter_context(ChatServer(lambda history, *_: {"position": latest(history["position"])}))
    endpoint = Endpoint(base_url=server.base_url, model="tiny", temperature=0.0, num_retries=0)
    engine = LanguageEngine(schema=toy_schema(), chat=Chat(endpoint), context=2)
    calibration = calibrate(engine, toy_episodes(), horizon=2, num_windows=2, seed=0, trust_steps=0, with_causes=False)
    return LocalWorld(engine, calibration, PLANNER, num_proposals=0), toy_episodes()[0]


def forecast(make: Callable[[Path], Fracast | Chronos]) -> Callable[[ExitStack], Shown]:
    """A pretrained forecaster, calibrated in a few windows because its forecasts take long."""

    def shown(running: ExitStack) -> Shown:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        typical = typical_values(toy_episodes(), toy_schema().observations)
        engine = ForecastEngine(
            schema=toy_schema(), forecaster=make(folder), inputs=("position",), context=2, typical=typical
        )
        with patch.object(fit_calibration, "SCALE_WINDOWS", 16):
            calibration = calibrate(engine, toy_episodes()[:8], horizon=2, num_windows=2, seed=0, with_causes=False)
        return LocalWorld(engine, calibration, PLANNER, num_proposals=0), toy_episodes()[0]

    return shown


def remote(running: ExitStack) -> Shown:
    world, episode = LINEAR(running)
    return RemoteWorld(running.enter_context(serving_world(world))), episode


def named(running: ExitStack) -> Shown:
    world, episode = LINEAR(running)
    home = Path(running.enter_context(tempfile.TemporaryDirectory()))
    running.enter_context(patch.dict(os.environ, {HOME: str(home / "catalog")}))
    save_world(home / "bundle", world)
    Catalog().publish(home / "bundle", "toy", alias="prod")
    return open_named("toy@prod"), episode


def fallback(running: ExitStack) -> Shown:
    made = [make(running) for make in (LINEAR, language, PERSISTENCE)]
    return FallbackWorld([world for world, _ in made]), made[0][1]


LINEAR, PERSISTENCE = (over(partial(fitted, name), toy_episodes) for name in ("linear", "persistence"))
SHOWN: dict[str, Callable[[ExitStack], Shown]] = {
    **{f"learned, `{family}`": over(partial(learned, family), toy_episodes) for family in names("model")},
    "`simulator`": over(simulator, lab_episodes),
    "`oracle`": over(lambda: OracleEngine(lab=TwoRooms()), lab_episodes),
    "`forecast`, Fracast": forecast(lambda _: Fracast()),
    "`forecast`, Chronos-2": forecast(lambda folder: Chronos.from_folder(tiny_chronos(folder))),
    "`language`": language,
    "`linear`": LINEAR,
    "`action_blind`": over(partial(fitted, "action_blind"), toy_episodes),
    "`constant_velocity`": over(partial(fitted, "constant_velocity"), toy_episodes),
    "`persistence`": PERSISTENCE,
    "remote, over `linear`": remote,
    "named, over `linear`": named,
    "fallback: `linear`, `language`, `persistence`": fallback,
}
"""A function per row that makes the world and an episode of it. The world is usable while the servers run."""


HORIZON = 2
NO = "–"


def word(able: bool) -> str:
    return "yes" if able else NO


def ask(world: World, episode: Episode) -> dict[str, str]:
    """The abilities on the world's card and those found by calling each method, by column of the table."""
    card = world.describe()
    at = card.context - 1
    past = episode.history(at, card.context)
    now = replace(past, observations={name: past.observations[name] for name in card.inputs}, observed={})
    actions = {name: value[at : at + HORIZON] for name, value in episode.actions.items()}
    ahead = {name: value[at : at + HORIZON] for name, value in episode.exogenous.items()} or None
    said = world.predict(now, actions, exogenous=ahead, level=0.5)
    kinds = {card.schema[name].kind for name in card.predicts}
    price = "not measured"
    if card.call is not None:
        price = f"{card.call.price:g} {card.call.currency}" if card.call.price else "none"
    trust = NO if np.isnan(said.trust).any() else "belief" if "novelty" in card.abilities else "input"
    return {
        "predicts": ", ".join(f"{kind}s" if kind is not Kind.DISCRETE else "labels" for kind in Kind if kind in kinds),
        "bands": word(any(forecast.low is not None for forecast in said.signals.values())),
        "goals on signals": _goals(world, card, episode, now, ahead),
        "goals in steps": word(_measures(world, now, {n: episode.observations[n][-1] for n in card.inputs}, ahead)),
        "gradient planner": word("differentiable" in card.abilities),
        "what if": str(world.what_if(episode, at, actions).abduction).replace("_", " "),
        "trust by": trust,
        "draws samples": word(not card.deterministic),
        "price of a call": price,
    }


def _goals(world: World, card: Card, episode: Episode, now: History, ahead: Arrays | None) -> str:
    """Whether it plans towards a vector. A world that is not action-conditioned refuses to plan."""
    vectors = [name for name in card.predicts if card.schema[name].kind is Kind.VECTOR]
    if not vectors or not card.action_conditioned:
        return NO if card.action_conditioned else "not action-conditioned"
    goal = Goal(targets={vectors[0]: episode.observations[vectors[0]][-1]}, tolerance={vectors[0]: 1.0})
    plan = world.plan(now, goal, horizon=HORIZON, exogenous=ahead)
    return word(plan.status is not PlanStatus.REFUSED)


def _measures(world: World, now: History, goal: Arrays, ahead: Arrays | None) -> bool:
    signals = world.describe().schema.actions
    idle = {s.name: np.zeros((1, HORIZON, *s.shape), s.dtype) for s in signals}
    try:
        world.score(now, idle, Goal(targets=goal, in_steps=True), exogenous=ahead)
    except UnsupportedError:
        return False
    return True


def page() -> str:
    """The page with the table of this version."""
    with ExitStack() as running:
        rows = {name: ask(*make(running)) for name, make in SHOWN.items()}
    heads = ("world", *next(iter(rows.values())))
    lines = [heads, ("---",) * len(heads), *((name, *cells.values()) for name, cells in rows.items())]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return PAGE.read_text().partition("| world |")[0] + table


if __name__ == "__main__":
    PAGE.write_text(page())
