"""Searches the learning rate and a size of a recipe: `python examples/tune.py LOGS --library optuna`, or `ray`.

A trial learns a world and deletes it. At the end it prints the options of the best one for `worldline learn`. Optuna
runs the trials one after another, and Ray Tune runs them at once on a machine or cluster.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import worldline
from worldline.errors import CollapseError

RATES, WIDTHS = (3e-4, 1e-2), (64, 128, 256)
POOR = 10.0  # score of a training that collapsed


def score(config: dict[str, Any]) -> float:
    """The validation error of a configuration."""
    try:
        return worldline.trial(config)
    except CollapseError:
        return POOR


def with_optuna(fixed: dict[str, Any], num_trials: int) -> dict[str, Any]:
    """The best settings by Optuna."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("training.learning_rate", *RATES, log=True)
        width = trial.suggest_categorical("model.width", WIDTHS)
        return score({**fixed, "training.learning_rate": rate, "model.width": width})

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=num_trials)
    return dict(study.best_params)


def with_ray(fixed: dict[str, Any], num_trials: int) -> dict[str, Any]:
    """The best settings by Ray Tune."""
    from ray import tune

    space = {"training.learning_rate": tune.loguniform(*RATES), "model.width": tune.choice(WIDTHS)}
    tuner = tune.Tuner(
        lambda config: {"score": score({**fixed, **config})},
        param_space=space,
        tune_config=tune.TuneConfig(metric="score", mode="min", num_samples=num_trials),
    )
    return dict(tuner.fit().get_best_result().config or {})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Searches, and prints the best settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, help="folder of the logs, best a store")
    parser.add_argument("--library", choices=("optuna", "ray"), default="optuna", help="runs the search")
    parser.add_argument("--trials", type=int, default=20, help="number of trials")
    parser.add_argument("--updates", type=int, default=1000, help="updates of each training")
    called = parser.parse_args(argv)
    search = {"optuna": with_optuna, "ray": with_ray}[called.library]
    fixed = {"logs": str(called.logs.absolute()), "recipe": "ensemble", "training.num_updates": called.updates}
    best = search(fixed, called.trials)
    print(*(f"--set {path}={value}" for path, value in best.items()))
    return best


if __name__ == "__main__":
    main()
