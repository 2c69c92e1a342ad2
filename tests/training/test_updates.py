from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.models.jepa import Jepa
from worldline.training.updates import OPEN_LOOP_RATE, TrainingConfig, Updates

Build = Callable[..., Jepa]
SHORT = TrainingConfig(num_updates=8, batch_size=8, clip_norm=0.1, precision="float32")


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def test_a_gradient_changes_nothing_until_it_is_applied(store: Store, parts: Split, build: Build) -> None:
    model = build()
    updates = Updates(model, store, parts, ("position",), SHORT)
    before = weights(model)
    found = updates.gradient(0)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert torch.equal(weights(model), before)
    assert found.norm > 0.1
    assert float(clipped) == pytest.approx(0.1, rel=1e-4)
    assert not found.losses.total.requires_grad
    updates.apply(0)
    assert not torch.equal(weights(model), before)


def test_caution_lowers_the_learning_rate(store: Store, parts: Split, build: Build) -> None:
    def moved(caution: float) -> torch.Tensor:
        model = build()
        updates = Updates(model, store, parts, ("position",), replace(SHORT, weight_decay=0.0))
        before = weights(model)
        updates.gradient(0)
        updates.apply(0, caution=caution)
        return weights(model) - before

    torch.testing.assert_close(moved(0.5), 0.5 * moved(1.0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("precision", "half"), [("auto", True), ("float32", False)])
def test_losses_are_computed_in_the_precision_asked_for(
    store: Store, parts: Split, build: Build, monkeypatch: pytest.MonkeyPatch, precision: Any, half: bool
) -> None:
    monkeypatch.setattr("worldline.device.has_bfloat16", lambda: True)
    model, seen = build(), list[bool]()
    model.predictor.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    Updates(model, store, parts, ("position",), replace(SHORT, precision=precision)).gradient(0)
    assert set(seen) == {half}


def test_open_loop_updates_come_last_and_start_a_new_schedule(store: Store, parts: Split, build: Build) -> None:
    config = replace(SHORT, num_updates=10, open_loop_share=0.4, learning_rate=1.0, warm_up=0.2)
    model, rates, stages = build(), list[float](), list[bool | None]()
    updates = Updates(model, store, parts, ("position",), config)
    for step in range(10):
        updates.gradient(step)
        stages.append(model.open_loop)
        updates.apply(step, caution=1e-9)  # the weights hardly change
        rates.append(1e9 * updates.optimizer.param_groups[0]["lr"])
    assert stages == [False] * 6 + [True] * 4
    assert rates[0] == pytest.approx(1.0)
    assert rates[5] < 0.3
    assert (rates[6], rates[6:]) == (pytest.approx(OPEN_LOOP_RATE), sorted(rates[6:], reverse=True))
