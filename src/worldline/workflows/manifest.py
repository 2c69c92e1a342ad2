"""The run manifest of a bundle: configuration, data, split, versions, device and times."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from worldline.config import to_json
from worldline.data.store import Store
from worldline.device import describe_device
from worldline.workflows.held_out import fingerprints
from worldline.workflows.learned import Learned


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
            "hash": learned.data_hash,
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
    found = {
        "Data": f"{data['episodes']:,} episodes, {data['steps']:,} steps, sha256 {data['hash'][:12]}…",
        "Split": ", ".join(f"{len(split[part]):,} {part.replace('_', ' ')}" for part in split if part != "rule")
        + f"; {split['rule']}",
        "Recipe": f"{run['recipe']}, seed {run['seed']}",
        "Device": f"{run['device']}, peak memory {run['peak_memory_gb']:.1f} GB",
        "Wall time": ", ".join(f"{name} {value:.0f} s" for name, value in times.items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items()),
    }
    losses = run["refinement"]["losses"]
    if losses:
        found["Dynamics refined"] = (
            f"{run['refinement']['updates']:,} updates on stored latents, "
            f"mean loss {losses[0]:.3g} in the first tenth and {losses[-1]:.3g} in the last"
        )
    if run["findings"]:
        found["Noticed in the logs"] = " ".join(run["findings"][:10])
    if run["unclear"]:
        found["Assumed of the logs"] = " ".join(run["unclear"])
    return found


def versions() -> dict[str, str]:
    """Versions of the packages that affect results."""
    packages = {name: version(name) for name in ("worldline", "torch", "numpy")}
    return {**packages, "Python": platform.python_version()}


def peak_memory_gb() -> float:
    """Peak memory of this process, in 10^9 bytes."""
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)
