from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldline.config import replace_at
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.episode import Episode
from worldline.errors import UnsupportedError
from worldline.models.base import Window
from worldline.planning.base import Goal
from worldline.recipes.pixels import film, pixels, pixels_and_vectors
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model
from worldline.training.batches import to_window, window_signals
from worldline.workflows.learn import trainings
from worldline.workflows.learn_options import Options
from worldline.workflows.training import Learned, build_model, learn_world
from worldline.world.base import PlanStatus

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 1))
PLACE = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
TURN = Signal(name="turn", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="rad", low=(0.0,), period=6.0)
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2)
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), low=(-3.0, -3.0), high=(3.0, 3.0))
EVERYTHING = (CAMERA, PLACE, TURN, LAMP, PUSH)


def episode(seed: int, num_steps: int = 20) -> Episode:
    """A bright spot is pushed about; a third of its places were not measured, where the log says 1e6."""
    draw = np.random.default_rng(seed)
    push = draw.uniform(-3, 3, (num_steps, 2)).astype(np.float32)
    place = [draw.uniform(6, 26, 2)]
    for each in push:
        place.append(np.clip(place[-1] + each, 4, 28))
    path, seen = np.array(place, np.float32), draw.random(num_steps + 1) < 2 / 3
    away = [(np.arange(32) - path[:, axis, None]) ** 2 for axis in (0, 1)]
    spot = np.exp(-(away[1][:, :, None] + away[0][:, None, :]) / 8)
    return Episode(
        observations={
            "camera": (250 * spot[..., None]).astype(np.uint8),
            "place": np.where(seen[:, None], path, 1e6).astype(np.float32),
            "turn": draw.uniform(0, 6, (num_steps + 1, 1)).astype(np.float32),
            "lamp": draw.integers(0, 2, num_steps + 1),
        },
        actions={"push": push},
        observed={"place": seen},
        truncated=True,
    )


def logs(path: Path, signals: Sequence[Signal], episodes: Sequence[Episode] = ()) -> Store:
    names = {signal.name for signal in signals}
    store = Store.create(path, Schema(signals=tuple(signals), step_s=0.1))
    for one in episodes or [episode(0)]:
        observed = {name: flags for name, flags in one.observed.items() if name in names}
        seen = {name: values for name, values in one.observations.items() if name in names}
        store.append(replace(one, observations=seen, observed=observed))
    return store


def small(recipe: Recipe) -> Recipe:
    config = replace_at(recipe.model_config, {"encoder.channels": 8, "encoder.width": 64, "predictor.width": 64})
    return replace(recipe, model_config=config)


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """60 episodes of camera and place."""
    place = tmp_path_factory.mktemp("spot") / "store"
    return logs(place, (CAMERA, PLACE, PUSH), [episode(seed) for seed in range(60)])


@pytest.mark.parametrize(
    ("signals", "name"),
    [((CAMERA, PLACE, PUSH), "pixels-and-vectors"), ((CAMERA, LAMP, PUSH), "pixels"), ((PLACE, LAMP, PUSH), "vectors")],
)
def test_by_default_all_images_and_vectors_go_in(tmp_path: Path, signals: tuple[Signal, ...], name: str) -> None:
    store = logs(tmp_path / "store", signals)
    ((recipe, _),) = trainings(store, tmp_path, Options(), None)
    assert recipe.name == name
    assert set(recipe.model_config.inputs) == {one.name for one in signals} & {"camera", "place"}


def test_vectors_are_part_of_the_latent_beside_what_pictures_get(tmp_path: Path) -> None:
    store = logs(tmp_path / "store", EVERYTHING)
    alone, both = pixels(store), pixels_and_vectors(store)
    assert both.model_config.inputs == ("camera", "place", "turn")
    assert both.model_config.latent_size == alone.model_config.latent_size + 2 + 2  # an angle is a sine and a cosine
    assert both.model_config.signal_weight > 0
    assert both.heads.readout_updates > 0  # for the lamp, which is not
    assert pixels_and_vectors(logs(tmp_path / "lampless", (CAMERA, PLACE, PUSH))).heads.readout_updates == 0


def test_it_needs_both(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="needs a vector"):
        pixels_and_vectors(logs(tmp_path / "pictures", (CAMERA, LAMP, PUSH)))
    with pytest.raises(UnsupportedError, match="needs an image"):
        pixels_and_vectors(logs(tmp_path / "vectors", (PLACE, PUSH)))


def test_its_model_conforms_on_pictures_and_masked_vectors(spot: Store) -> None:
    recipe = small(pixels_and_vectors(spot))
    model, names = build_model(spot, recipe.split(spot), recipe), window_signals(spot.schema, ("camera", "place"))
    batch = Windows(spot, 5, range(len(spot)), names).sample(8, np.random.default_rng(0))
    masked = to_window(batch, spot.schema)
    assert not masked.observed["place"].all()
    missing = ~masked.observed["place"][..., None]

    def filled(place: float) -> Window:
        values = masked.observations["place"].masked_fill(missing, place)
        return replace(masked, observations={**masked.observations, "place": values})

    everything = {name: torch.ones_like(flags) for name, flags in masked.observed.items()}
    check_model(model, replace(filled(16.0), observed=everything))
    window = filled(16.0), filled(float("nan"))
    losses = [model.loss(one, generator=torch.Generator().manual_seed(0)).total for one in window]
    torch.testing.assert_close(*losses)
    model.eval()
    beliefs = [model.encode(one, generator=torch.Generator()).features() for one in window]
    torch.testing.assert_close(*beliefs)


@pytest.fixture(scope="module")
def world(spot: Store, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Learned in some seconds."""
    recipe = small(pixels_and_vectors(spot))
    training = replace(recipe.training, num_updates=200, batch_size=16, num_checks=2, min_deviation=0.0, min_rank=1.0)
    few = {"dynamics_updates": 100, "distance_updates": 800, "inverse_updates": 30}
    heads = replace(recipe.heads, **few, width=64, unroll=3)
    recipe = replace(recipe, training=training, heads=heads, horizon=5)
    return learn_world(spot, recipe, folder=tmp_path_factory.mktemp("spot_run"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_predicts_vectors_from_logs_with_gaps(spot: Store, world: Learned) -> None:
    errors, still = [], []
    for number in world.split.held_out:
        one = spot.episode(number)
        place, seen = one.observations["place"], one.observed["place"]
        for at in (at for at in range(3, one.num_steps) if seen[at] and seen[at - 1]):
            push = {"push": one.actions["push"][at - 1 : at]}
            found = world.world.predict(one.history(at - 1, 2), push, level=0.5).signals["place"]
            errors.append(found.mean[0] - place[at])
            still.append(place[at] - place[at - 1])
    assert np.square(errors).mean() < 0.4 * np.square(still).mean()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_goal_may_be_the_picture_alone(spot: Store, world: Learned) -> None:
    """The distance to what the pictures show, and to what pictures and vectors show, is that to the place."""
    draw, steps = np.random.default_rng(0), []
    for number in world.split.held_out:
        one = spot.episode(number)
        seen, place = np.flatnonzero(one.observed["place"]), one.observations["place"]
        for now, then in draw.choice(seen, (10, 2)).tolist():
            picture = {"camera": one.observations["camera"][then]}
            goals = Goal(targets=picture), Goal(targets={**picture, "place": place[then]})
            rest = {"push": np.zeros((1, 1, 2), np.float32)}
            costs = [float(world.world.score(one.history(now, 1), rest, goal).cost[0]) for goal in goals]
            steps.append([np.abs(place[then] - place[now]).max() / 3, *costs])
    due, pictured, whole = np.array(steps).T
    assert np.corrcoef(due, whole)[0, 1] > 0.75
    assert np.corrcoef(due, pictured)[0, 1] > 0.7
    plan = world.world.plan(one.history(int(seen[0]), 1), Goal(targets=picture), horizon=2)
    assert plan.status in (PlanStatus.SEARCHED, PlanStatus.OUT_OF_TIME)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_goal_on_signals_is_as_ever(spot: Store, world: Learned) -> None:
    one = spot.episode(world.split.held_out[0])
    now = int(np.flatnonzero(one.observed["place"])[0])
    start = one.observations["place"][now]
    target = np.clip(start + np.where(start > 16, -3, 3), 4, 28).astype(np.float32)
    plan = world.world.plan(one.history(now, 1), Goal(targets={"place": target}), horizon=2)
    assert np.sign(plan.actions["push"][0]) == pytest.approx(np.sign(target - start))


def test_film_looks_at_pictures_alone_and_remembers(tmp_path: Path) -> None:
    recipe = film(logs(tmp_path / "store", EVERYTHING))
    config = recipe.model_config
    assert (config.inputs, config.auxiliary.targets) == (("camera",), ("place", "turn"))
    assert recipe.training.window == 2 * config.predictor.context <= 25
    assert not recipe.heads.goals
    assert recipe.horizon == 20  # to the end of an episode; learning takes off what is remembered
    with pytest.raises(UnsupportedError, match="needs an image"):
        film(logs(tmp_path / "vectors", (PLACE, PUSH)))
