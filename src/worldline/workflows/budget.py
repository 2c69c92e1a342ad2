"""How large a model, and how many updates, fit into a given time on this machine: measured, not guessed."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.errors import ConfigError
from worldline.models.base import WorldModel
from worldline.recipes.families import resized
from worldline.recipes.recipe import Recipe
from worldline.registry import load
from worldline.training.batches import to_window
from worldline.training.heads import HeadsConfig, fit_heads
from worldline.training.loop import RECALIBRATION_BATCHES, Run

Clock = Callable[[], float]
"""Seconds since some moment; `time.process_time` does not count those of other work on the machine."""

SIZES = (2.0, 1.0, 0.5)
"""Of the layers, relative to the recipe's, in the order in which they are tried."""
TRAINING, HEADS = 0.6, 0.25
"""Shares of the time. The rest is for measuring, calibrating and the report."""
CHECKS = 0.25
"""Share of the time of a training that its checks may take: where they would take more, there are fewer."""
MOST = 4.0
"""Updates beyond so many times the recipe's are not worth their time; a larger model is."""
TIMED, TIMED_S = 10, 2.0
"""Updates that are timed, after one that is not, or as many as take so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """A size and lengths that were chosen for a budget.

    Args:
        size: of the layers, relative to the recipe's.
        num_updates: of the training.
        num_checks: of the training, at most the recipe's.
        heads: updates of each head, relative to the recipe's.
    """

    size: float
    num_updates: int
    num_checks: int
    heads: float

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe of this size and length."""
        sized = resized(recipe, self.size)
        training = replace(sized.training, num_updates=self.num_updates, num_checks=self.num_checks)
        return replace(sized, training=training, heads=_shortened(sized.heads, self.heads))


def size_for(store: Store, recipe: Recipe, budget_s: float, *, clock: Clock = time.monotonic) -> Sizing:
    """The largest model that still gets the recipe's number of updates, and as many as fit.

    Args:
        store: to learn from.
        recipe: whose size and lengths are scaled.
        budget_s: for training, heads and calibration.
        clock: that it is measured by.

    Raises:
        ConfigError: not even the smallest model gets a tenth of the recipe's updates.
    """
    split, planned = recipe.split(store), recipe.training.num_updates
    for size in SIZES:
        sized = resized(recipe, size)
        pace = _time_training(store, split, sized, clock)
        affordable = pace.updates_in(TRAINING * budget_s)
        if affordable >= planned:
            break
    if affordable < planned / 10:
        needed = (planned / 10 * pace.update_s + pace.check_s + pace.settle_s) / TRAINING
        raise ConfigError(
            f"{budget_s:.0f} s a seed are too short for the recipe {recipe.name!r} on this machine: an update takes "
            f"{1000 * pace.update_s:.0f} ms, a check {pace.check_s:.1f} s. "
            f"Give at least {math.ceil(needed / 60)} min a seed."
        )
    heads_s = _time_heads(store, split, sized, clock)
    return Sizing(
        size=size,
        num_updates=min(affordable, int(MOST * planned)),
        num_checks=pace.checks_in(TRAINING * budget_s),
        heads=min(MOST, max(0.1, HEADS * budget_s / heads_s)),
    )


def within(store: Store, recipe: Recipe, *, train_s: float, heads_s: float, clock: Clock = time.monotonic) -> Sizing:
    """The recipe's size, with as many of its updates and checks as fit into these times by a clock; at least 1."""
    pace = _time_training(store, recipe.split(store), recipe, clock)
    return Sizing(
        size=1.0,
        num_updates=max(1, min(recipe.training.num_updates, pace.updates_in(train_s))),
        num_checks=pace.checks_in(train_s),
        heads=min(1.0, heads_s / _time_heads(store, recipe.split(store), recipe, clock)),
    )


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """How long a training takes.

    Args:
        update_s: each update, reading included.
        check_s: each check.
        settle_s: what comes after the last update.
        num_checks: of the recipe.
    """

    update_s: float
    check_s: float
    settle_s: float
    num_checks: int

    def checks_in(self, seconds: float) -> int:
        share = CHECKS * seconds / self.check_s if self.check_s > 0 else math.inf
        return max(1, int(min(self.num_checks, share)))

    def updates_in(self, seconds: float) -> int:
        return int((seconds - self.settle_s - self.checks_in(seconds) * self.check_s) / self.update_s)


def _time_training(store: Store, split: Split, recipe: Recipe, clock: Clock) -> _Pace:
    model, times_s = _fresh(store, recipe), list[float]()
    untrained = replace(recipe.training, min_rank=1.0, min_deviation=0.0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(model, store, split, recipe.model_config.inputs, untrained, Path(folder))
    model.fit_normaliser(to_window(run.updates.windows.sample(64, np.random.default_rng(0)), store.schema))
    while len(times_s) <= TIMED and sum(times_s[1:]) < TIMED_S:  # the first one does not count
        started = clock()
        run.updates.gradient()
        run.updates.apply(len(times_s))
        times_s.append(clock() - started)
    started = clock()
    run.check()
    checked = clock()
    run.recalibrate_batch_norm(1, seed=0)
    settled = clock()
    return _Pace(
        update_s=statistics.median(times_s[1:]),
        check_s=checked - started,
        settle_s=RECALIBRATION_BATCHES * (settled - checked),
        num_checks=recipe.training.num_checks,
    )


def _time_heads(store: Store, split: Split, recipe: Recipe, clock: Clock) -> float:
    """Seconds that the recipe's heads take, from two short fits on a few episodes."""
    model, few = _fresh(store, recipe).eval(), replace(split, train=split.train[:8])
    shares, times_s = (0.01, 0.03), []
    for share in shares:
        started = clock()
        fit_heads(model, store, few, recipe.model_config.inputs, _shortened(recipe.heads, share))
        times_s.append(clock() - started)
    updates_s = (times_s[1] - times_s[0]) / (shares[1] - shares[0])
    encode_s = max(0.0, times_s[0] - shares[0] * updates_s) * len(split.train) / len(few.train)
    return max(1.0, updates_s + encode_s)


def _fresh(store: Store, recipe: Recipe) -> WorldModel:
    model: WorldModel = load("model", recipe.model)(schema=store.schema, config=recipe.model_config)
    if recipe.pretrained is not None:
        recipe.pretrained(model)
    return model


def _shortened(heads: HeadsConfig, share: float) -> HeadsConfig:
    """The same heads with a share of the updates; what has none gets none."""
    names = [name for name in vars(heads) if name.endswith("_updates")]
    return replace(heads, **{name: math.ceil(share * getattr(heads, name)) for name in names})
