"""How long an update takes, on a clock that counts losses: one second for each piece of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.data.stores import stored

from worldline.data.store import Store
from worldline.models.base import Losses, Window
from worldline.models.jepa import Jepa
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.testing.toys import Integrator
from worldline.training.loop import Run
from worldline.training.updates import TrainingConfig
from worldline.workflows.budget import HEADS, MAX_UPDATES_RATIO, TIMED, TRAINING, size_for, within

NUM_CHECKS = TrainingConfig.num_checks
"""Each with one loss."""


class Counter:
    """The sizes of the batches that losses were computed of and the widths of the models, and a clock by them."""

    def __init__(self) -> None:
        self.sizes, self.widths = list[int](), list[int]()

    def clock(self, second: float) -> Callable[[], float]:
        """Seconds that so many losses take."""
        return lambda: second * len(self.sizes)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    toy = Integrator(camera=False)
    return stored(tmp_path_factory.mktemp("toy") / "store", toy.schema, toy.episodes(20, 12, seed=0))


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter, loss = Counter(), Jepa.loss

    def counted(self: Jepa, window: Window, *, generator: torch.Generator) -> Losses:
        counter.sizes.append(len(window.past.step_s))
        counter.widths.append(self.config.predictor.width)
        return loss(self, window, generator=generator)

    monkeypatch.setattr(Jepa, "loss", counted)
    return counter


def recipe(store: Store, **training: object) -> Recipe:
    made = vectors(store)
    return replace(made, training=replace(made.training, num_updates=10_000, batch_size=16, **training))


def test_each_update_computes_one_batch(logs: Store, counter: Counter) -> None:
    found = within(logs, recipe(logs), train_s=4000.0, heads_s=1.0, clock=counter.clock(1.0))
    assert found.num_updates == 4000 - NUM_CHECKS
    assert set(counter.sizes[:-1]) == {16}


def test_checks_that_would_take_most_of_the_time_are_fewer(logs: Store, counter: Counter) -> None:
    """A check takes one loss, and here 120 seconds in all; an update takes 1."""
    checking = []

    def clock() -> float:
        return len(counter.sizes) + 119.0 * len(checking)

    with pytest.MonkeyPatch.context() as patch:
        check = Run.evaluate
        patch.setattr(Run, "evaluate", lambda run: checking.append(1) or check(run))
        found = within(logs, recipe(logs), train_s=1000.0, heads_s=1.0, clock=clock)
    assert found.num_checks == 2  # 240 s of 250
    assert found.num_updates == 1000 - 2 * 120
    planned = recipe(logs)
    training = found.apply(planned).training
    assert (training.num_checks, training.num_updates) == (2, 760)


@pytest.mark.parametrize(("second", "updates"), [(0.001, TIMED), (0.9, 3), (100.0, 1)])
def test_it_times_some_updates_but_not_for_long(logs: Store, counter: Counter, second: float, updates: int) -> None:
    within(logs, recipe(logs), train_s=4000.0, heads_s=1.0, clock=counter.clock(second))
    assert len(counter.sizes) == 1 + updates + 1  # the last one is of a check


@pytest.mark.parametrize(
    ("budget_s", "size", "updates"), [(20.0, 2.0, MAX_UPDATES_RATIO), (1.0, 1.0, 1.0), (0.1, 0.5, 0.2)]
)
def test_the_largest_model_that_gets_its_updates_is_chosen(
    logs: Store, counter: Counter, budget_s: float, size: float, updates: float
) -> None:
    """Where an update takes as long as the layers are wide, and 1 second is what the recipe itself takes."""
    planned = recipe(logs)
    width = planned.model_config.predictor.width
    second = (TRAINING + HEADS) / (planned.training.num_updates + NUM_CHECKS)

    def clock() -> float:
        return second * sum(counter.widths) / width

    found = size_for(logs, planned, 1.001 * budget_s, clock=clock)
    assert found.size == size
    assert found.num_updates == pytest.approx(updates * planned.training.num_updates, rel=0.1)
    assert found.heads == pytest.approx(min(MAX_UPDATES_RATIO, max(0.1, HEADS * 1.001 * budget_s)))
    assert found.apply(planned).model_config.predictor.width == size * width
