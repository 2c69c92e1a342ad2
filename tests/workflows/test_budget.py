"""How long an update takes, on a clock that counts losses: one second for each piece of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from worldline.contracts.world_model import Losses, Window
from worldline.data.store import Store
from worldline.models.jepa import Jepa
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.testing.toys import Integrator
from worldline.workflows import budget
from worldline.workflows.budget import CHECKS, TIMED, updates_within

Clock = Callable[[float], list[int]]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    toy = Integrator(camera=False)
    made = Store.create(tmp_path_factory.mktemp("toy") / "store", toy.schema)
    for episode in toy.episodes(20, 12, seed=0):
        made.append(episode)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets how many seconds each loss takes; gives the sizes of the batches that losses were computed of."""

    def start(second: float) -> list[int]:
        sizes, loss = list[int](), Jepa.loss

        def counted(self: Jepa, window: Window, *, generator: torch.Generator) -> Losses:
            sizes.append(len(window.past.step_s))
            return loss(self, window, generator=generator)

        monkeypatch.setattr(Jepa, "loss", counted)
        monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: second * len(sizes)))
        return sizes

    return start


def recipe(store: Store, **training: object) -> Recipe:
    made = vectors(store)
    return replace(made, training=replace(made.training, num_updates=10_000, batch_size=16, **training))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_batch_in_four_pieces_is_four_times_the_work(logs: Store, clock: Clock, accumulate: int) -> None:
    sizes = clock(1.0)
    found = updates_within(logs, recipe(logs, accumulate=accumulate), 4000.0)
    assert found == 4000 // accumulate - CHECKS
    assert set(sizes) == {16 // accumulate}


@pytest.mark.parametrize(("second", "updates"), [(0.001, TIMED), (0.9, 3), (100.0, 1)])
def test_it_times_some_updates_but_not_for_long(logs: Store, clock: Clock, second: float, updates: int) -> None:
    sizes = clock(second)
    updates_within(logs, recipe(logs), 4000.0)
    assert len(sizes) == 1 + updates


def test_one_slow_update_does_not_count(logs: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = clock(0.0)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: 0.1 * len(sizes) + (len(sizes) > 4)))
    assert updates_within(logs, recipe(logs), 100.0) == pytest.approx(1000 - CHECKS, abs=1)
