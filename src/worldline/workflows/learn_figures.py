"""The figures of a learned world, for JSON."""

from __future__ import annotations

from dataclasses import asdict

from worldline.device import describe_device
from worldline.workflows.decoded_windows import decoded_rmse
from worldline.workflows.learn import LearnResult
from worldline.workflows.manifest import peak_memory_gb


def learn_figures(result: LearnResult) -> dict[str, object]:
    """RMSE by signal, horizon in steps, and world ("world" is the trained one), with times and settings.

    Errors of images are in grey levels of decoded frames; "decoder" is the loss of the decoder itself.
    """
    found, errors = result.diagnostics, dict[str, dict[str, dict[str, float]]]()
    if found is not None:
        for curve in found.errors:
            steps = errors.setdefault(curve.signal, {})
            for step in found.horizons:
                steps.setdefault(str(step), {})[curve.world or "world"] = curve.rmse.value[step - 1]
    return {
        "episodes": len(result.store),
        "steps": int(result.store.num_steps.sum()),
        "recipe": result.learned.recipe.name,
        "choice": None if result.choice is None else asdict(result.choice),
        "model": result.learned.recipe.model,
        "updates": result.learned.recipe.training.num_updates,
        "seeds": [asdict(one) for one in result.seeds],
        "rmse": {**errors, **decoded_rmse(result.decoded)},
        "learn_s": round(result.learned.learn_s, 2),
        "refine_s": round(result.learned.refine_s, 2),
        "heads_s": round(result.learned.heads_s, 2),
        "total_s": round(result.total_s, 2),
        "peak_memory_gb": peak_memory_gb(),
        "device": describe_device(result.learned.engine.device),
        "findings": list(result.findings),
        "unclear": list(result.unclear),
    }
