from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.stores import stored
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from worldline.data.splits import Split, split_store
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.errors import BundleError, CollapseError
from worldline.models.base import Losses, Window
from worldline.models.jepa import Jepa
from worldline.models.layers.predictors import MlpPredictorConfig
from worldline.models.layers.regularizers import SigregConfig
from worldline.progress import Progress
from worldline.testing.toys import Integrator
from worldline.training.loop import Trained, recompute_batch_norm, train
from worldline.training.tracking import JsonLines
from worldline.training.updates import TrainingConfig

Build = Callable[..., Jepa]
FREE = SigregConfig(weight=0.0)
SHORT = TrainingConfig(num_updates=12, window=4, batch_size=8, num_checks=4, min_rank=0.5, min_deviation=0.0)


def normed(build: Build) -> Jepa:
    """A model with batch normalisation after its first layer; always with the same weights."""
    model = build()
    assert model.encoder.vectors is not None
    model.encoder.vectors.layers.insert(1, nn.BatchNorm1d(16))
    return model


def run(model: Jepa, store: Store, config: TrainingConfig, folder: Path, **options: Any) -> Trained:
    return train(model, store, split_store(store), model.config.inputs, config, folder=folder, **options)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(one == other and torch.equal(a, b) for (one, a), (other, b) in pairs)


@pytest.fixture
def rates() -> Iterator[list[float]]:
    """The learning rate of each update."""
    found: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    yield found
    hook.remove()


def rows(trained: Trained) -> list[dict[str, float]]:
    return list(trained.curves)


def test_the_loss_falls_and_the_curves_say_so(store: Store, build: Build, tmp_path: Path) -> None:
    config = TrainingConfig(num_updates=200, window=4, batch_size=32, num_checks=5, min_rank=0.5, learning_rate=1e-2)
    model, seen = build(), []
    trained = run(model, store, config, tmp_path, progress=lambda now: seen.append((now.step, now.total)))
    assert seen == [(step, 200) for step in range(1, 201)]
    assert [row["step"] for row in trained.curves] == [40, 80, 120, 160, 200]
    terms = {f"{part}_{term}" for part in ("train", "validation") for term in ("prediction", "sigreg")}
    health = {"effective_rank", "deviation", "straightness"}
    control = {"open_loop_skill", "zero_action_gap", "shuffled_action_gap", "action_decodability", "control"}
    assert all(set(row) == {"step", "validation", *terms, *health, *control} for row in trained.curves)
    first, last = trained.curves[0], trained.curves[-1]
    assert last["validation_prediction"] < 0.5 * first["validation_prediction"]
    assert last["train_sigreg"] < first["train_sigreg"]
    assert last["control"] > first["control"]
    assert trained.notes == ()
    assert trained.elapsed_s > 0
    assert not model.training


def test_one_seed_gives_one_result_whatever_the_global_state(store: Store, build: Build, tmp_path: Path) -> None:
    first, second, other = build(), build(), build()
    one = run(first, store, SHORT, tmp_path)
    torch.manual_seed(99)
    two = run(second, store, SHORT, tmp_path)
    run(other, store, replace(SHORT, seed=1), tmp_path)
    assert same(first, second)
    assert rows(one) == rows(two)
    assert not same(first, other)


def interrupted(model: Jepa, store: Store, folder: Path, at: int, config: Any = SHORT, **options: Any) -> None:
    def stop(now: Progress) -> None:
        if now.step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, store, config, folder, progress=stop, **options)


SLOW = [pytest.param(at, False, marks=pytest.mark.slow) for at in (1, 12)]  # each trains three times


@pytest.mark.parametrize(("at", "batch_norm"), [(6, False), (7, True), *SLOW])
def test_a_run_that_was_interrupted_goes_on_to_the_same_result(
    at: int, batch_norm: bool, store: Store, build: Build, tmp_path: Path
) -> None:
    whole, part, resumed = (normed(build) if batch_norm else build() for _ in range(3))
    due = run(whole, store, SHORT, tmp_path / "whole")
    interrupted(part, store, tmp_path / "part", at)
    nn.init.zeros_(resumed.predictor.layers[0].weight)  # the checkpoint's weights count, not these
    found = run(resumed, store, SHORT, tmp_path / "part", resume=True)
    assert same(whole, resumed)
    assert rows(found) == rows(due)


def test_an_interrupt_in_the_middle_of_an_update_waits_for_its_end(store: Store, build: Build, tmp_path: Path) -> None:
    whole, model, resumed, done = build(), build(), build(), []
    run(whole, store, SHORT, tmp_path / "whole")
    calls = iter(range(10_000))

    def press_ctrl_c(*_: object) -> None:
        if next(calls) == 10:
            os.kill(os.getpid(), signal.SIGINT)

    model.predictor.register_forward_hook(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(model, store, SHORT, tmp_path / "part", progress=lambda now: done.append(now.step))
    assert 0 < len(done) < 12
    run(resumed, store, SHORT, tmp_path / "part", resume=True)
    assert same(whole, resumed)


def test_a_run_that_is_complete_is_not_run_again(store: Store, build: Build, tmp_path: Path) -> None:
    whole, again, updates = normed(build), normed(build), list[int]()
    due = run(whole, store, SHORT, tmp_path)
    found = run(again, store, SHORT, tmp_path, resume=True, progress=lambda now: updates.append(now.step))
    assert not updates
    assert same(whole, again)
    assert rows(found) == rows(due)


def test_only_the_same_run_goes_on(store: Store, build: Build, parts: Split, tmp_path: Path) -> None:
    interrupted(build(), store, tmp_path / "run", 5)
    refused = pytest.raises(BundleError, match="another configuration or other data")
    with refused:
        run(build(), store, replace(SHORT, learning_rate=1e-3), tmp_path / "run", resume=True)
    with refused:
        run(build(regularizer=SigregConfig(weight=4.0)), store, SHORT, tmp_path / "run", resume=True)
    with refused:
        run(build(predictor=MlpPredictorConfig(width=17)), store, SHORT, tmp_path / "run", resume=True)
    with refused:
        fewer = replace(parts, train=parts.train[1:])
        train(build(), store, fewer, ("position",), SHORT, folder=tmp_path / "run", resume=True)
    toy = Integrator(camera=False)
    other = stored(tmp_path / "other", toy.schema, toy.episodes(24, 20, seed=1))
    with refused:
        run(build(), other, SHORT, tmp_path / "run", resume=True)
    run(build(), store, SHORT, tmp_path / "run", resume=True)


def test_a_model_that_nothing_keeps_from_collapsing_is_stopped(store: Store, build: Build, tmp_path: Path) -> None:
    config = TrainingConfig(num_updates=400, window=4, batch_size=32, num_checks=20, learning_rate=1e-2)
    steps: list[int] = []
    with pytest.raises(CollapseError, match="weight of SIGReg"):
        run(build(regularizer=FREE), store, config, tmp_path, progress=lambda now: steps.append(now.step))
    assert len(steps) < 400
    run(build(), store, replace(config, num_updates=60, num_checks=3), tmp_path)


def test_outliers_that_no_gradient_survives_are_named(build: Build, tmp_path: Path) -> None:
    toy = Integrator(camera=False)
    episodes = toy.episodes(8, 10, seed=0)
    for one in episodes:
        one.observations["position"][:] += np.float32(1e38)
    store = stored(tmp_path / "store", toy.schema, episodes)
    with pytest.raises(CollapseError, match=r"loss is not finite.*outliers"):
        run(build(), store, SHORT, tmp_path / "run")


def failing(build: Build, at: set[int], broken: Callable[[Losses], Losses]) -> Jepa:
    """A model whose loss is broken at some of its calls in training."""
    calls = 0

    class Failing(Jepa):
        def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
            nonlocal calls
            found = super().loss(window, generator=generator)
            calls += self.training
            return broken(found) if self.training and calls in at else found

    model = build()
    model.__class__ = Failing
    return model


def scaled(factor: float) -> Callable[[Losses], Losses]:
    return lambda losses: replace(losses, terms={name: factor * term for name, term in losses.terms.items()})


@pytest.mark.parametrize(
    ("factor", "reason"), [(math.nan, "loss is not finite"), (math.inf, "loss is not finite"), (1e4, "loss jumped")]
)
def test_a_run_that_breaks_goes_back_and_says_why(
    store: Store, build: Build, rates: list[float], tmp_path: Path, factor: float, reason: str
) -> None:
    steps, model = list[int](), failing(build, {8}, scaled(factor))
    trained = run(model, store, SHORT, tmp_path, progress=lambda now: steps.append(now.step))
    (note,) = trained.notes
    assert f"after 7 updates the {reason}" in note
    assert "returned to update 6" in note
    assert steps == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 12]
    assert rates[7] == pytest.approx(rates[6] / 2)  # update 7 again
    assert [row["step"] for row in trained.curves] == [3, 6, 9, 12]
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_run_that_breaks_again_and_again_is_stopped(store: Store, build: Build, tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match="6th time"):
        run(failing(build, set(range(8, 20)), scaled(math.nan)), store, SHORT, tmp_path)


@pytest.mark.parametrize(
    ("choose", "sign", "worse"), [("control", 1, 0.1), pytest.param("validation", -1, 0.0, marks=pytest.mark.slow)]
)
def test_the_best_weights_are_kept(store: Store, build: Build, tmp_path: Path, choose: str, sign: int, worse) -> None:
    class Fading(Jepa):
        """Its actions lose their effect on the way."""

        def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
            if self.training and torch.is_grad_enabled():
                window = replace(
                    window, past=replace(window.past, actions=window.past.actions.roll(int(steps[0] > 60), 0))
                )
            return super().loss(window, generator=generator)

    steps, model, last = [0], build(), build()
    model.__class__ = last.__class__ = Fading
    config = replace(SHORT, num_updates=120, batch_size=32, num_checks=6, learning_rate=1e-2, choose=choose)

    def see(now: Progress) -> None:
        steps.insert(0, now.step)
        last.load_state_dict(model.state_dict())

    trained = run(model, store, config, tmp_path, progress=see)
    best = max(trained.curves, key=lambda row: sign * row[choose])
    assert trained.chosen_step == best["step"] <= 80
    assert sign * (best[choose] - trained.curves[-1][choose]) > worse
    assert not same(model, last)


def test_weights_are_validated_before_open_loop_updates(store: Store, build: Build, tmp_path: Path) -> None:
    trained = run(build(), store, replace(SHORT, num_updates=10, num_checks=2, open_loop_share=0.3), tmp_path)
    assert [row["step"] for row in trained.curves] == [5, 7, 10]


def test_trackers_are_told_of_each_check(store: Store, build: Build, tmp_path: Path) -> None:
    interrupted(build(), store, tmp_path / "run", 7, trackers=[JsonLines(tmp_path)])
    with (tmp_path / "run-seed0.jsonl").open("a") as file:
        file.write('{"step": 9, "control": 0.0}\n')  # of a check after the checkpoint that the run goes on from
    trained = run(build(), store, SHORT, tmp_path / "run", resume=True, trackers=[JsonLines(tmp_path)])
    settings, *lines = map(json.loads, (tmp_path / "run-seed0.jsonl").read_text().splitlines())
    assert (settings["run"], settings["settings"]["training"]["num_updates"]) == ("run-seed0", 12)
    assert lines == rows(trained)


def test_the_learning_rate_rises_and_falls(store: Store, build: Build, rates: list[float], tmp_path: Path) -> None:
    run(build(), store, replace(SHORT, num_updates=40, num_checks=1, learning_rate=0.01, warm_up=0.25), tmp_path)
    np.testing.assert_allclose(rates[:10], 0.001 * np.arange(1, 11))
    assert rates[9] == max(rates)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[25] == pytest.approx(0.005)
    assert rates[-1] < 1e-4


def test_batch_normalisation_ends_with_exact_statistics(store: Store, build: Build) -> None:
    model = normed(build).eval()
    windows = Windows(store, 4, range(len(store)), ["position", "push", "wind"])
    layer = next(one for one in model.modules() if isinstance(one, nn.BatchNorm1d))
    nn.init.constant_(layer.running_mean, 1e3)  # as stale as can be
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().clone()))
    weights = {name: value.clone() for name, value in model.named_parameters()}
    recompute_batch_norm(model, windows, store, num_batches=5, seed=3)
    hook.remove()
    assert len(seen) == 5
    mean = torch.stack([batch.mean(0) for batch in seen]).mean(0)
    variance = torch.stack([batch.var(0) for batch in seen]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layer.running_var, variance, rtol=1e-3, atol=1e-5)
    assert layer.momentum == 0.1
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


class FrozenNorm(nn.BatchNorm1d):
    """As those of a pretrained encoder: in evaluation mode whatever the model is in."""

    def train(self, mode: bool = True) -> FrozenNorm:
        del mode
        super().train(False)
        return self


def test_what_is_frozen_keeps_its_statistics(store: Store, build: Build, tmp_path: Path) -> None:
    model = build()
    assert model.encoder.vectors is not None
    model.encoder.vectors.layers.insert(1, FrozenNorm(16).train())
    layer = model.encoder.vectors.layers[1]
    nn.init.constant_(layer.running_mean, 3.0)
    run(model, store, SHORT, tmp_path)
    assert (layer.running_mean.tolist(), layer.momentum) == ([3.0] * 16, 0.1)
