from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.stores import stored

from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.episode import Episode
from worldline.models.base import Belief
from worldline.models.jepa import Jepa
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.training.batches import fold, split, to_inputs, to_window, trace

Build = Callable[..., Jepa]
TOY = Integrator(camera=False)

FORCE = Signal(name="force", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="N")
GEAR = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
TURN = Signal(name="turn", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="rad")
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(2,), unit="m/s")
DAY = Signal(name="day", role=Role.EXOGENOUS, kind=Kind.DISCRETE, shape=(), num_values=2)
MIXED = Schema(signals=(FORCE, WIND, GEAR, DAY, TURN), step_s=0.25)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_inputs_are_joined_in_the_order_of_the_schema_with_labels_as_one_hot() -> None:
    actions = {
        "turn": np.array([[[[7.0], [8.0]]]], np.float32),  # given in another order than the schema's
        "gear": np.array([[[2, 0]]]),
        "force": np.array([[[[1.0, 2.0], [3.0, 4.0]]]], np.float32),
    }
    exogenous = {"day": np.array([[1, 0]]), "wind": np.array([[[5.0, 6.0], [7.0, 8.0]]], np.float32)}
    inputs = to_inputs(actions, exogenous, MIXED)
    assert inputs.actions.tolist() == [[[[1, 2, 0, 0, 1, 7], [3, 4, 1, 0, 0, 8]]]]
    assert inputs.exogenous is not None
    assert inputs.exogenous.tolist() == [[[5, 6, 0, 1], [7, 8, 1, 0]]]
    assert inputs.step_s.tolist() == [[0.25, 0.25]]


def test_without_exogenous_signals_there_is_none_and_an_unknown_step_lasts_a_second() -> None:
    inputs = to_inputs({"turn": np.zeros((2, 3, 4, 1), np.float32)}, {}, Schema(signals=(TURN,)))
    assert inputs.exogenous is None
    assert torch.equal(inputs.step_s, torch.ones(2, 4))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 5), st.integers(0, 1000))
def test_splitting_undoes_joining(sizes: list[int], num: int, horizon: int, seed: int) -> None:
    schema = Schema(
        signals=tuple(
            Signal(name=f"a{i}", role=Role.ACTION, kind=Kind.VECTOR, shape=(size,)) for i, size in enumerate(sizes)
        )
    )
    rng = np.random.default_rng(seed)
    named = {f"a{i}": rng.normal(size=(2, num, horizon, size)).astype(np.float32) for i, size in enumerate(sizes)}
    parts = split(schema.actions, to_inputs(named, {}, schema).actions)
    assert list(parts) == list(named)
    for name, value in named.items():
        np.testing.assert_array_equal(parts[name], value)


def test_a_window_is_what_was_logged(store: Store) -> None:
    windows = Windows(store, 4, [3, 5], ["position", "push", "wind"])
    window = to_window(windows.read(np.array([[3, 2], [5, 0]])), store.schema)
    for row, (number, start) in enumerate([(3, 2), (5, 0)]):
        episode, span = store.episode(number), slice(start, start + 3)
        np.testing.assert_array_equal(
            window.observations["position"][row], episode.observations["position"][start : start + 4]
        )
        np.testing.assert_array_equal(window.past.actions[row, 0], episode.actions["push"][span])
        assert window.past.exogenous is not None
        np.testing.assert_array_equal(window.past.exogenous[row], episode.exogenous["wind"][span])
    assert window.observed["position"].all()
    torch.testing.assert_close(window.past.step_s, torch.full((2, 3), 0.1))


def test_masks_and_images_keep_their_dtype(tmp_path: Path) -> None:
    toy = Integrator(wind=False)
    one = toy.episodes(1, 5, seed=0)[0]
    seen = np.array([True, False, True, True, False, True])
    store = Store.create(tmp_path / "store", toy.schema)
    store.append(Episode(observations=one.observations, actions=one.actions, observed={"position": seen}))
    windows = Windows(store, 6, [0], ["camera", "position", "push"])
    window = to_window(windows.read(np.array([[0, 0]])), store.schema)
    assert window.observations["camera"].dtype == torch.uint8
    assert window.observed["position"].tolist() == [seen.tolist()]
    assert window.observed["camera"].all()
    assert window.past.exogenous is None


def test_folding_gives_what_encoding_each_beginning_gives(store: Store, build: Build) -> None:
    model = build().eval()
    windows = Windows(store, 6, range(10), ["position", "push", "wind"])
    window = to_window(windows.sample(8, np.random.default_rng(0)), store.schema)
    window.observed["position"][0, 3] = False
    window.observed["position"][2, 0] = False
    features = fold(model, window, generator=seeded())
    assert (features.shape, features.dtype) == ((8, 6, 8), torch.float32)
    assert not features.requires_grad
    for length in range(1, 7):
        encoded = model.encode(window.first(length), generator=seeded()).features()[:, 0]
        torch.testing.assert_close(features[:, length - 1], encoded)


def test_a_trace_is_a_whole_episode_in_the_order_asked_for(tmp_path: Path, build: Build) -> None:
    toy = Integrator(camera=False)
    episodes = [toy.episodes(1, length, seed=number)[0] for number, length in enumerate([5, 3, 5, 7])]
    store = stored(tmp_path / "store", toy.schema, episodes)
    model = build().eval()
    traces = trace(model, store, [3, 0, 2, 1], ["position"], generator=seeded())
    for number, one in zip([3, 0, 2, 1], traces, strict=True):
        episode = store.episode(number)
        assert one.features.shape == (episode.num_steps + 1, 8)
        np.testing.assert_array_equal(one.actions, episode.actions["push"])
        assert one.exogenous is not None
        np.testing.assert_array_equal(one.exogenous, episode.exogenous["wind"])
        whole = Windows(store, episode.num_steps + 1, [number], ["position", "push", "wind"])
        alone = to_window(whole.read(np.array([[number, 0]])), store.schema)
        due = fold(model, alone, generator=seeded())[0]
        torch.testing.assert_close(one.features, due, rtol=0.05, atol=0.05)  # half precision where there is any


def traced(model: Jepa, path: Path, lengths: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> int:
    """The updates that it takes to trace episodes of these lengths."""
    episodes, updates = (TOY.episodes(1, length, seed=number)[0] for number, length in enumerate(lengths)), list[int]()
    store = stored(path, model.schema, episodes)

    def counted(*arguments: Any, **settings: Any) -> Belief:
        updates.append(1)
        return type(model).update(model, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(model, "update", counted)
        found = trace(model, store, range(len(lengths)), ["position"], generator=seeded())
    assert [len(one.features) for one in found] == [length + 1 for length in lengths]
    return len(updates)


@pytest.mark.parametrize("lengths", [range(28, 92), range(2, 66)])
def test_episodes_of_different_lengths_take_few_more_updates_than_equal_ones(
    tmp_path: Path, build: Build, lengths: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build().eval()
    mean = math.ceil(sum(lengths) / len(lengths))
    equal = traced(model, tmp_path / "equal", [mean] * len(lengths), monkeypatch)
    mixed = np.random.default_rng(0).permutation(lengths).tolist()
    different = traced(model, tmp_path / "different", mixed, monkeypatch)
    assert equal == 2 * mean
    assert different <= 1.3 * equal


def test_a_trace_needs_no_exogenous_signals(tmp_path: Path, build: Build) -> None:
    toy = Integrator(camera=False, wind=False)
    calm = stored(tmp_path / "store", toy.schema, toy.episodes(1, 4, seed=0))
    assert trace(build(schema=toy.schema).eval(), calm, [0], ["position"], generator=seeded())[0].exogenous is None
