"""Fits model size and number of updates to a time budget, by measurements on this machine."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worldline.config import from_json, to_json
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.device import CPU
from worldline.errors import ConfigError
from worldline.models.base import WorldModel
from worldline.recipes.families import resized
from worldline.recipes.recipe import Recipe
from worldline.training.heads.base import HeadsConfig
from worldline.training.heads.fitting import fit_heads
from worldline.training.loop import RECALIBRATION_BATCHES, Run
from worldline.workflows.training import build_model

Clock = Callable[[], float]
"""Seconds since a fixed time; `time.process_time` excludes other load on the machine."""

SIZES = (2.0, 1.0, 0.5)
"""Layer sizes relative to the recipe's, in the order of trial."""
TRAINING, HEADS = 0.6, 0.25
"""Shares of the budget. The rest is for measuring, calibration and the report. Without head updates the training gets
both."""
CHECKS = 0.25
"""Highest share of the training time for validation checks; with slow checks there are fewer."""
MAX_UPDATES_RATIO = 4.0
"""Highest number of updates relative to the recipe's; a larger model makes better use of the time."""
BUDGET = "budget.json"
"""File of the sizes that fit the budget, in the folder of an unfinished run."""
TIMED, TIMED_S = 10, 2.0
"""Number of timed updates after one for warm-up, and seconds after which timing ends."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """Model size and training lengths for a budget.

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
        """The recipe with this size and these lengths."""
        sized = resized(recipe, self.size)
        training = replace(sized.training, num_updates=self.num_updates, num_checks=self.num_checks)
        return replace(sized, training=training, heads=shortened(sized.heads, self.heads))


def stored_sizing(folder: Path, measure: Callable[[], Sizing]) -> Sizing:
    """The sizes that fit the budget; those of a choice or an interrupted run are stored in its folder."""
    plan = folder / BUDGET
    if plan.exists():
        return from_json(Sizing, plan.read_text(), where=plan)
    sizing = measure()
    folder.mkdir(parents=True, exist_ok=True)
    plan.write_text(to_json(sizing))
    return sizing


def size_for(
    store: Store, recipe: Recipe, budget_s: float, *, device: torch.device = CPU, clock: Clock = time.monotonic
) -> Sizing:
    """The largest model that gets the recipe's number of updates within the budget, or more updates if they fit.

    Args:
        store: training data.
        recipe: its size and lengths are scaled.
        budget_s: seconds for training, heads and calibration.
        device: of the training.
        clock: measures time.

    Raises:
        ConfigError: the smallest model gets less than a tenth of the recipe's updates.
    """
    split, planned = recipe.split(store), recipe.training.num_updates
    train_s = training_share(recipe.heads) * budget_s
    for size in SIZES:
        sized = resized(recipe, size)
        model = build_model(store, split, sized).to(device)
        pace = _time_training(model, store, split, sized, clock)
        affordable = pace.updates_in(train_s)
        if affordable >= planned:
            break
    if affordable < planned / 10:
        needed = (planned / 10 * pace.update_s + pace.check_s + pace.settle_s) * budget_s / train_s
        raise ConfigError(
            f"{budget_s:.0f} s per seed are too short for the recipe {recipe.name!r} on this machine: an update takes "
            f"{1000 * pace.update_s:.0f} ms, a check {pace.check_s:.1f} s. "
            f"Give at least {math.ceil(needed / 60)} min per seed."
        )
    heads_s = _time_heads(model, store, split, sized, clock)
    return Sizing(
        size=size,
        num_updates=min(affordable, int(MAX_UPDATES_RATIO * planned)),
        num_checks=pace.checks_in(train_s),
        heads=min(MAX_UPDATES_RATIO, max(0.1, HEADS * budget_s / heads_s)),
    )


def within(
    store: Store, recipe: Recipe, *, train_s: float, heads_s: float = math.inf, clock: Clock = time.monotonic
) -> Sizing:
    """The recipe's size with the updates and checks that fit into these times, at least 1."""
    split = recipe.split(store)
    model = build_model(store, split, recipe)
    pace = _time_training(model, store, split, recipe, clock)
    return Sizing(
        size=1.0,
        num_updates=max(1, min(recipe.training.num_updates, pace.updates_in(train_s))),
        num_checks=pace.checks_in(train_s),
        heads=1.0 if heads_s == math.inf else min(1.0, heads_s / _time_heads(model, store, split, recipe, clock)),
    )


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Measured durations of a training.

    Args:
        update_s: of one update with its data loading.
        check_s: of one validation check.
        settle_s: of the recalibration of batch norm after the last update.
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


def _time_training(model: WorldModel, store: Store, split: Split, recipe: Recipe, clock: Clock) -> _Pace:
    """Measures some updates and one check; the model is trained by them."""
    untrained = replace(recipe.training, min_rank=1.0, min_deviation=0.0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(model, store, split, recipe.model_config.inputs, untrained, Path(folder))
    update_s = _time_updates(run, 0, clock)
    if untrained.open_loop_share:
        last_s = _time_updates(run, untrained.first_open_loop, clock)
        update_s += untrained.open_loop_share * (last_s - update_s)
    started = clock()
    run.evaluate()
    checked = clock()
    run.recalibrate_batch_norm(1, seed=0)
    settled = clock()
    return _Pace(
        update_s=update_s,
        check_s=checked - started,
        settle_s=RECALIBRATION_BATCHES * (settled - checked),
        num_checks=recipe.training.num_checks,
    )


def _time_updates(run: Run, step: int, clock: Clock) -> float:
    """The median duration of an update after `step` of them, s."""
    times_s = list[float]()
    while len(times_s) <= TIMED and sum(times_s[1:]) < TIMED_S:  # the first one is for warm-up
        started = clock()
        run.updates.gradient(step)
        run.updates.apply(step)
        times_s.append(clock() - started)
    return statistics.median(times_s[1:])


def _time_heads(model: WorldModel, store: Store, split: Split, recipe: Recipe, clock: Clock) -> float:
    """Seconds for fitting the recipe's heads, extrapolated from two short fits on a few episodes."""
    model, few = model.eval(), replace(split, train=split.train[:8])
    shares, times_s = (0.01, 0.03), []
    for share in shares:
        started = clock()
        fit_heads(model, store, few, recipe.model_config.inputs, shortened(recipe.heads, share))
        times_s.append(clock() - started)
    updates_s = (times_s[1] - times_s[0]) / (shares[1] - shares[0])
    encode_s = max(0.0, times_s[0] - shares[0] * updates_s) * len(split.train) / len(few.train)
    return max(1.0, updates_s + encode_s)


def training_share(heads: HeadsConfig) -> float:
    """Share of the budget for the training: more if no head is fitted by updates, but a readout in closed form."""
    updated = heads.goals or heads.readout_updates or heads.dynamics_updates or heads.decoder_updates
    return TRAINING if updated else TRAINING + HEADS


def shortened(heads: HeadsConfig, share: float) -> HeadsConfig:
    """The heads with a share of their updates; 0 stays 0."""
    names = [name for name in vars(heads) if name.endswith("_updates")]
    return replace(heads, **{name: math.ceil(share * getattr(heads, name)) for name in names})
