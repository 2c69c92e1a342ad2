"""The result of learning, and the bundle that is written of it: run manifest, settings, and page."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worldline.audit.training_measurements import Choice
from worldline.config import to_json, to_toml
from worldline.data.store import Store
from worldline.device import describe_device
from worldline.recipes.recipe import NUMBERS, Recipe
from worldline.registry import BUILTIN
from worldline.workflows.check import LateActions
from worldline.workflows.choosing import named_recipe
from worldline.workflows.decoded_windows import decoded_rmse
from worldline.workflows.evaluation import Evaluation
from worldline.workflows.held_out import fingerprints
from worldline.workflows.learn_options import TABLE, UNNAMED, Options
from worldline.workflows.training import Learned
from worldline.world.base import World


@dataclass(frozen=True, kw_only=True)
class LearnResult(Evaluation):
    """All measurements of a learning run. The bundle holds the best world for control.

    Args:
        bundle: folder of the world.
        store: the imported logs with the schema that was used.
        choice: the comparison of models; None if a recipe was given.
        late: actions that are logged too late; None if they are not.
        unclear: ambiguities in the logs and the assumptions made.
        total_s: total wall time.
    """

    bundle: Path
    store: Store
    choice: Choice | None
    late: LateActions | None
    unclear: tuple[str, ...]
    total_s: float

    @property
    def world(self) -> World:
        """The learned world."""
        return self.learned.world


def learn_figures(result: LearnResult) -> dict[str, object]:
    """RMSE by signal, horizon in steps, and world ("world" is the trained one), with times and settings.

    Errors of images are in grey levels of decoded frames; "decoder" is the loss of the decoder itself.
    """
    diagnostics, errors = result.diagnostics, dict[str, dict[str, dict[str, float]]]()
    if diagnostics is not None:
        for curve in diagnostics.errors:
            steps = errors.setdefault(curve.signal, {})
            for step in diagnostics.horizons:
                steps.setdefault(str(step), {})[curve.world or "world"] = curve.rmse.value[step - 1]
    return {
        "episodes": len(result.store),
        "steps": int(result.store.num_steps.sum()),
        "recipe": result.learned.recipe.name,
        "choice": None if result.choice is None else asdict(result.choice),
        "model": result.learned.recipe.model,
        "updates": result.learned.recipe.training.num_updates,
        "seeds": [asdict(seed) for seed in result.seeds],
        "rmse": {**errors, **decoded_rmse(result.decoded)},
        **costs(result.learned, result.total_s),
        "findings": list(result.findings),
        "unclear": list(result.unclear),
    }


def costs(learned: Learned, total_s: float) -> dict[str, Any]:
    """Times [s], peak memory [GB] and device of a training.

    Args:
        learned: the world.
        total_s: time of the whole call.
    """
    times = {"learn_s": learned.learn_s, "refine_s": learned.refine_s, "heads_s": learned.heads_s, "total_s": total_s}
    used = {"peak_memory_gb": peak_memory_gb(), "device": describe_device(learned.engine.device)}
    return {name: round(value, 2) for name, value in times.items()} | used


def run_manifest(
    store: Store, learned: Learned, *, times_s: Mapping[str, float], findings: Sequence[str], unclear: Sequence[str]
) -> dict[str, Any]:
    """All information to reproduce the training, as plain JSON values.

    Args:
        store: of the logs.
        learned: from them.
        times_s: wall time of each part.
        findings: notes on the logs.
        unclear: ambiguities in the logs and the assumptions made.
    """
    recipe, split = learned.recipe, learned.split
    return {
        "recipe": recipe.name,
        "family": recipe.model,
        "model": json.loads(to_json(recipe.model_config)),
        "training": json.loads(to_json(recipe.training)),
        "heads": json.loads(to_json(recipe.heads)),
        "planner": json.loads(to_json(recipe.planner)),
        "horizon": recipe.horizon,
        "num_windows": recipe.num_windows,
        "seed": recipe.training.seed,
        "data": {
            "hash": learned.engine.describe().notes["data"],
            "episodes": len(store),
            "steps": int(store.num_steps.sum()),
            "fingerprints": fingerprints(store, store.schema),
        },
        "split": {name: [*part] if isinstance(part, tuple) else part for name, part in vars(split).items()},
        "versions": versions(),
        "device": describe_device(learned.engine.device),
        "times_s": {name: round(value, 2) for name, value in times_s.items()},
        "peak_memory_gb": peak_memory_gb(),
        "findings": list(findings),
        "unclear": list(unclear),
        "curves": [dict(row) for row in learned.trained.curves],
        "refinement": {"updates": recipe.heads.dynamics_updates, "losses": list(learned.refine_losses)},
        "chosen_step": learned.trained.chosen_step,
        "went_back": list(learned.trained.notes),
    }


def facts(run: Mapping[str, Any]) -> dict[str, str]:
    """The facts table of a report, from a run manifest."""
    data, split, times = run["data"], run["split"], run["times_s"]
    rows = {
        "Data": f"{data['episodes']:,} episodes, {data['steps']:,} steps, sha256 {data['hash'][:12]}…",
        "Split": ", ".join(f"{len(split[part]):,} {part.replace('_', ' ')}" for part in split if part != "rule")
        + f"; {split['rule']}",
        "Recipe": f"{run['recipe']}, seed {run['seed']}",
        "Device": f"{run['device']}, peak memory {run['peak_memory_gb']:.1f} GB",
        "Wall time": ", ".join(f"{name} {value:.0f} s" for name, value in times.items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items()),
    }
    if run["findings"]:
        rows["Noticed in the logs"] = " ".join(run["findings"][:10])
    if run["unclear"]:
        rows["Assumed of the logs"] = " ".join(run["unclear"])
    return rows


def versions() -> dict[str, str]:
    """Versions of the packages that affect results."""
    packages = {name: version(name) for name in ("worldline", "torch", "numpy")}
    return {**packages, "Python": platform.python_version()}


def peak_memory_gb() -> float:
    """Peak memory of this process, in 10^9 bytes."""
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def run_toml(store: Store, options: Options, recipe: Recipe, *, horizon: int) -> str:
    """A TOML file that repeats a run as `config`, on the same logs.

    Args:
        store: the logs.
        options: resolved.
        recipe: with its final settings.
        horizon: of the calibration.
    """
    table = {
        "recipe": _recipe_name(named_recipe(store, options)),
        "model": options.model,
        "weights": None if options.weights is None else str(options.weights),
        "split": options.split,
        "seed": options.seeds.start,
        "num_seeds": len(options.seeds),
    }
    values = {**recipe.settings(), "horizon": horizon}
    numbers = {name: values.pop(name) for name in NUMBERS}
    lines = to_toml({**numbers, TABLE: table, **values})
    return f"# Repeats this run: worldline learn LOGS --config run.toml --out world/\n{lines}\n"


def _recipe_name(recipe: str | Callable[[Store], Recipe]) -> str:
    """The registered name of a recipe, else "module:name" if it can be imported."""
    if isinstance(recipe, str):
        return recipe
    module, name = getattr(recipe, "__module__", ""), getattr(recipe, "__qualname__", "")
    registered = {address: name for name, address in BUILTIN["recipe"].items()}
    if (address := f"{module}:{name}") in registered:
        return registered[address]
    known = module != "__main__" and getattr(sys.modules.get(module), name, None) is recipe
    return address if known else UNNAMED
