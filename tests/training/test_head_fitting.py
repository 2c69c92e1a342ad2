from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from worldline.training.heads.base import NUM_LOOKS, Fit, descend


class Dial(nn.Module):
    """One number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


FIT = Fit(updates=200, batch_size=1, unroll=1, width=1, learning_rate=0.05, tick=lambda: None)


def turned(dial: Dial, fit: Fit, *, towards: float, judged_at: float | None = None) -> float:
    """Where the dial ends that is trained to stand at `towards`, judged by how far it is from `judged_at`."""
    judge = None if judged_at is None else lambda: float((dial.value.detach() - judged_at).abs())
    for optimizer in fit.optimise(dial, judge):
        descend(optimizer, (dial.value - towards).square())
    assert not dial.training
    assert not dial.value.requires_grad
    return float(dial.value)


def test_without_a_judge_the_last_weights_are_kept() -> None:
    assert turned(Dial(3.0), FIT, towards=0.0) == pytest.approx(0.0, abs=0.2)


def test_the_best_of_those_that_were_looked_at_is_kept() -> None:
    found = turned(Dial(3.0), FIT, towards=0.0, judged_at=1.5)
    assert found == pytest.approx(1.5, abs=0.75)
    assert found != pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("updates", [0, 1, 3, 25])
def test_the_start_is_kept_where_training_only_harms(updates: int) -> None:
    assert turned(Dial(3.0), replace(FIT, updates=updates), towards=0.0, judged_at=5.0) == 3.0


@pytest.mark.parametrize("updates", [1, 3, 25])
def test_the_end_is_looked_at(updates: int) -> None:
    free = turned(Dial(3.0), replace(FIT, updates=updates), towards=0.0)
    assert turned(Dial(3.0), replace(FIT, updates=updates), towards=0.0, judged_at=-9.0) == free < 3.0


def test_a_judge_is_asked_a_few_times_only_and_every_update_is_told() -> None:
    told, asked, dial = [], [], Dial(1.0)

    def judge() -> float:
        asked.append(torch.is_grad_enabled())
        return 0.0

    for optimizer in replace(FIT, tick=lambda: told.append(1)).optimise(dial, judge):
        descend(optimizer, dial.value.square())
    assert len(told) == FIT.updates
    assert asked == [False] * (NUM_LOOKS + 1)


def test_an_error_that_is_no_number_is_never_the_best() -> None:
    dial, seen = Dial(1.0), iter([2.0, 1.0, *[float("nan")] * 20])
    for optimizer in replace(FIT, updates=20).optimise(dial, lambda: next(seen)):
        descend(optimizer, dial.value)
    after_the_first_look = 1.0 - float(dial.value)
    assert 0.05 < after_the_first_look < 0.15  # two updates of twenty
