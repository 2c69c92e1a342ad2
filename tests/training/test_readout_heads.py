"""A dot that is pushed about; a latent is where it is, so everything that is to be read follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.stores import stored
from tests.training.test_measures import Exact
from torch import Tensor

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.batches import Trace
from worldline.training.heads.base import Fit, Head, HeadData, HeadsConfig
from worldline.training.heads.decoder import Decoder
from worldline.training.heads.outcomes import Reward, Termination
from worldline.training.heads.readout import Readout
from worldline.training.stored_latents import Imagination, LatentTable

EDGE = 1.5
"""An episode ends where the dot gets further than this to the right."""
CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 1))
SCHEMA = Schema(
    signals=(
        Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
        Signal(name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), period=360.0),
        Signal(name="corner", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=4),
        CAMERA,
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0)),
        Signal(name="closeness", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="effort", role=Role.REWARD, kind=Kind.VECTOR, shape=(2,)),
    )
)
FIT = Fit(updates=0, batch_size=64, unroll=3, width=32, learning_rate=5e-3, tick=lambda: None)


def seen(position: np.ndarray) -> dict[str, np.ndarray]:
    pixels = np.linspace(-3, 3, 32)
    blur = np.exp(-((pixels - position[:, :1]) ** 2))[:, None] * np.exp(-((pixels - position[:, 1:]) ** 2))[:, :, None]
    return {
        "position": position,
        "heading": (100 + 90 * position[:, :1]) % 360,
        "corner": ((position > 0) @ np.array([1, 2])).astype(np.int64),
        "camera": (255 * blur[..., None]).astype(np.uint8),
    }


def earned(after: np.ndarray, push: np.ndarray) -> dict[str, np.ndarray]:
    return {"closeness": -(after**2).sum(1, keepdims=True), "effort": -0.5 * push}


def episode(seed: int, num_steps: int = 12) -> Episode:
    draw = np.random.default_rng(seed)
    path, pushes = [draw.normal(size=2) * [0.5, 1]], []
    while len(pushes) < num_steps and path[-1][0] <= EDGE:
        pushes.append(draw.uniform(-1, 1, 2))
        path.append(0.9 * path[-1] + pushes[-1])
    position, push = np.stack(path).astype(np.float32), np.array(pushes, np.float32).reshape(-1, 2)
    return Episode(
        observations={name: value.astype(SCHEMA[name].dtype) for name, value in seen(position).items()},
        actions={"push": push},
        rewards={name: value.astype(np.float32) for name, value in earned(position[1:], push).items()},
        observed={"position": draw.random(len(position)) < 0.8, "corner": draw.random(len(position)) < 0.8},
        terminated=bool(position[-1, 0] > EDGE),
    )


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("dots") / "store", SCHEMA, map(episode, range(60)))


def trace(features: Tensor, actions: Tensor) -> Trace:
    step_s, whole = torch.ones(len(actions)), torch.ones(len(features), dtype=torch.bool)
    return Trace(features=features, actions=actions, exogenous=None, step_s=step_s, whole=whole)


def table(store: Store) -> LatentTable:
    """Where the dot is, missing or not, as its latent."""
    numbers = [number for number in range(len(store)) if store.num_steps[number] > 0]
    logged = [store.episode(number) for number in numbers]
    pairs = [(np.array(one.observations["position"]), np.array(one.actions["push"])) for one in logged]
    return LatentTable.of([trace(*map(torch.from_numpy, pair)) for pair in pairs], numbers)


def imagination() -> Imagination:
    return Imagination(Exact(), SCHEMA, torch.Generator().manual_seed(0))


def data(store: Store, rows: LatentTable | None = None) -> HeadData:
    return HeadData(
        store=store, table=table(store) if rows is None else rows, imagination=imagination(), inputs=("camera",),
        config=HeadsConfig(decoder_updates=1),
    )  # fmt: skip


def fitted(kind: type[Head], store: Store, rows: LatentTable | None = None, **settings: float) -> Any:
    made = data(store, rows)
    assert kind.can_fit(made)
    return kind.fit_to(made, replace(FIT, **settings), {})


def fresh() -> tuple[Tensor, dict[str, np.ndarray], np.ndarray]:
    """Places that were not logged, what is seen there, and pushes."""
    draw = np.random.default_rng(1000)
    position = (draw.uniform(-1.4, 1.4, (300, 2))).astype(np.float32)
    return torch.from_numpy(position), seen(position), draw.uniform(-1, 1, (300, 2)).astype(np.float32)


def turned(found: Tensor, truth: np.ndarray) -> np.ndarray:
    return np.abs((found.numpy() - truth + 180) % 360 - 180)


def test_the_table_knows_where_each_row_is_from(dots: Store) -> None:
    made = table(dots)
    row = int((made.episode == 7).nonzero()[2])
    np.testing.assert_array_equal(made.features[row], dots.read("position", 7, 2, 3)[0])
    assert int(made.steps_after[row]) == int(dots.num_steps[7]) - 2
    assert made.numbers == [number for number in range(60) if dots.num_steps[number] > 0]
    share = made.held_out[made.first.unique()].float().mean()
    assert float(share) == pytest.approx(0.2, abs=0.02)


def test_one_episode_is_never_held_out_and_two_are_shared() -> None:
    still = trace(torch.zeros(3, 1), torch.zeros(2, 1))
    assert not LatentTable.of([still], [5]).held_out.any()
    assert LatentTable.of([still, still], [5, 2]).held_out.tolist() == [False] * 3 + [True] * 3
    assert LatentTable.of([still, still], [5, 2]).numbers == [5, 2]


def test_paths_follow_the_log_to_its_end_and_say_where_that_is(dots: Store) -> None:
    made = table(dots)
    row = int((made.steps_after == 2).nonzero()[0])
    paths = imagination().paths(made, torch.tensor([row]), 4)
    assert paths.inside[:, 0].tolist() == [True, True, True, False, False]
    torch.testing.assert_close(paths.features[:3, 0], made.features[row : row + 3], rtol=1e-4, atol=1e-5)
    assert paths.rows[:3, 0].tolist() == [row, row + 1, row + 2]


def test_without_updates_what_is_linear_is_read_exactly(dots: Store) -> None:
    head = fitted(Readout, dots)
    places, truth, _ = fresh()
    torch.testing.assert_close(head(places)["position"], places, rtol=0, atol=1e-5)
    assert turned(head(places)["heading"], truth["heading"]).mean() > 10


def test_with_updates_the_rest_is_read_too_and_what_was_exact_stays_so(dots: Store) -> None:
    torch.manual_seed(0)
    head = fitted(Readout, dots, updates=500)
    places, truth, _ = fresh()
    read = head(places)
    torch.testing.assert_close(read["position"], places, rtol=0, atol=1e-5)
    assert turned(read["heading"], truth["heading"]).mean() < 5
    assert (read["corner"].numpy() == truth["corner"]).mean() > 0.95


def test_an_image_alone_leaves_nothing_to_read(dots: Store, tmp_path: object) -> None:
    schema = replace(SCHEMA, signals=(CAMERA, SCHEMA["push"]))
    logged = (episode(seed) for seed in range(3))
    bare = (replace(o, observations={"camera": o.observations["camera"]}, observed={}, rewards={}) for o in logged)
    store = stored(f"{tmp_path}/store", schema, bare)
    head = fitted(Readout, store, table(dots))
    assert head(torch.zeros(4, 2)) == {}


def test_rewards_are_told_from_where_a_step_leads_and_what_was_done(dots: Store) -> None:
    torch.manual_seed(0)
    head = fitted(Reward, dots, updates=400)
    places, _, push = fresh()
    truth = sum(value.sum(1) for value in earned(places.numpy(), push).values())
    error = head(places, torch.from_numpy(push)).numpy() - truth
    assert np.sqrt((error**2).mean()) < 0.1 * truth.std()


def test_terminal_states_are_told(dots: Store) -> None:
    torch.manual_seed(0)
    head = fitted(Termination, dots, updates=400)
    places = torch.tensor([[EDGE + 0.2, 0.0], [EDGE + 0.3, 1.0], [EDGE - 0.4, 0.0], [-1.0, 0.0]])
    ends = head(places)
    assert (ends[:2] > 0.8).all()
    assert (ends[2:] < 0.1).all()


@pytest.mark.parametrize("held_out", [True, False])
def test_ends_on_one_side_only_are_learned_all_the_same(dots: Store, held_out: bool) -> None:
    """Judged on episodes without an end, nothing would be better than to foresee none."""
    made = table(dots)
    ends = torch.from_numpy(dots.terminated[made.episode.numpy()])
    torch.manual_seed(0)
    made = replace(made, held_out=ends if held_out else ~ends)
    head = fitted(Termination, dots, made, updates=200)
    assert float(head(torch.tensor([EDGE + 0.4, 0.0]))) > 0.7


def test_pictures_are_shown(dots: Store) -> None:
    torch.manual_seed(0)
    head = fitted(Decoder, dots, updates=200, batch_size=32)
    places, truth, _ = fresh()
    shown = head(places)["camera"].numpy().astype(float)
    error = np.sqrt(((shown - truth["camera"]) ** 2).mean())
    assert error < 0.25 * truth["camera"].std(0).mean()


def test_a_missing_picture_does_not_matter(tmp_path: object) -> None:
    """Every second picture is missing and black in the log."""
    store = Store.create(f"{tmp_path}/store", SCHEMA)
    for seed in range(10):
        one = episode(seed)
        there = np.arange(one.num_steps + 1) % 2 == 0
        pictures = np.where(there[:, None, None, None], 200, 0).astype(np.uint8) * np.ones((32, 32, 1), np.uint8)
        store.append(replace(one, observations={**one.observations, "camera": pictures}, observed={"camera": there}))
    head = fitted(Decoder, store, updates=5)
    drawn = head(torch.zeros(1, 2))["camera"].numpy().astype(int)
    assert np.abs(drawn - 200).max() <= 8  # five updates leave some of the first weights; black would pull by 100
