"""Migration of bundles of earlier formats.

Files are translated when a bundle is read; the bundle stays unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

BUNDLE_FORMAT: Final = 2
"""The format that this version writes. It reads this format and all earlier ones."""

_FILES: Final = {
    "heads/familiarity.json": "heads/mahalanobis.json",
    "heads/familiarity.safetensors": "heads/mahalanobis.safetensors",
}
"""Renamed files: name in format 1 to current name."""

_TENSORS: Final = {"calibration.safetensors": {"strangeness": "ood", "strange": "ood_scores"}}
"""Renamed tensors: per file, first part of the name in format 1 to its current value."""

_INPUTS: Final = (r"(actions|exogenous|step_s)\.", r"inputs.\1.")
_MODEL_TENSORS: Final = {
    **dict.fromkeys(("ensemble", "features", "lewm", "rssm"), (_INPUTS,)),
    "jepa": (
        _INPUTS,
        (r"(images|vectors|partial|inputs)(?=\.|$)", r"encoder.\1"),
        (r"predictor\.(?=\d)", "predictor.layers."),
        (r"linear\.", "predictor.linear."),
        (r"conserved\.", "predictor.law."),
        (r"(inverse|delta)\.", r"auxiliary.\1."),
        (r"told\.", "auxiliary.targets."),
    ),
}
"""Renamed tensors of models: per family, starts of names in format 1 and replacements, applied in order."""

_JEPA_SETTINGS: Final = {
    "encoder": {"channels": "channels", "encoder_width": "width"},
    "auxiliary": {
        name: name
        for name in (
            "similarity_weight",
            "inverse_weight",
            "delta_weight",
            "delta_steps",
            "straightening_weight",
            "targets",
            "target_weight",
        )
    },
}
"""Settings of the model family `jepa` that moved in format 2: per part, earlier name to current name."""

_JEPA_PREDICTORS: Final = {
    "gru": ("memory_size", "context"),
    "transformer": ("depth", "num_heads", "context"),
    "block": ("gated", "frameskip"),
    "conserved": ("gated", "linear_history", "linear_values", "linear_trim"),
    "linear-residual": ("gated", "linear_history", "linear_values", "linear_trim"),
    "mlp": ("gated",),
}
"""Per predictor its earlier settings, in addition to `predictor_width`."""


def current_file(name: str, number: int) -> str:
    """The current name of a file in a bundle of format `number`."""
    return _FILES.get(name, name) if number == 1 else name


def stored_file(name: str, number: int) -> str:
    """The name in a bundle of format `number` of the file that is now called `name`."""
    return next((old for old, new in _FILES.items() if new == name), name) if number == 1 else name


def current_tensor(file: str, name: str, number: int, model: str) -> str:
    """The current name of a tensor.

    Args:
        file: the current name of its file.
        name: its name in a bundle of format `number`.
        number: the format of the bundle.
        model: registered name of the model.
    """
    if number == 1 and file == "model.safetensors":
        for start, replacement in _MODEL_TENSORS.get(model, ()):
            name = re.sub(f"^{start}", replacement, name)
    first, slash, rest = name.partition("/")
    return f"{_TENSORS.get(file, {}).get(first, first)}{slash}{rest}" if number == 1 else name


def current_text(file: str, text: str, number: int, model: str) -> str:
    """The current content of a JSON file; arguments as for `current_tensor`."""
    if number != 1 or model != "jepa" or file != "model.json":
        return text
    try:
        settings = json.loads(text)
    except ValueError:
        return text  # the reader reports what is wrong
    return json.dumps(_current_jepa(settings)) if isinstance(settings, dict) else text


def _current_jepa(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The nested settings; those that did not move stay as they are.

    SIGReg together with VICReg becomes SIGReg alone: only a training would notice, and bundles are not trained further.
    """
    left = dict(settings)

    def taken(names: Mapping[str, str]) -> dict[str, Any]:
        return {new: left.pop(old) for old, new in names.items() if old in left}

    memory, frameskip = left.pop("memory", "none"), left.get("frameskip", 1)
    kind = "mlp" if memory == "none" else memory
    if frameskip != 1:
        kind = "block"
    elif left.get("linear_history"):
        kind = "conserved" if left.get("conserves") else "linear-residual"
    width = taken({"predictor_width": "width"})
    own = _JEPA_PREDICTORS.get(kind, ()) if isinstance(kind, str) else ()
    predictor = {"kind": kind, **width, **taken({name: name.removeprefix("linear_") for name in own})}
    sigreg = taken({"sigreg_weight": "weight", "num_slices": "num_slices"})
    vicreg = taken({name: name for name in ("variance_weight", "covariance_weight")})
    if any(vicreg.values()) and not sigreg.get("weight"):
        regularizer = {"kind": "vicreg", **vicreg}
    else:
        regularizer = {"kind": "sigreg", **sigreg}
    encoder, auxiliary = (taken(_JEPA_SETTINGS[part]) for part in ("encoder", "auxiliary"))
    without_effect = {"conserves"}.union(*_JEPA_PREDICTORS.values())  # settings of the other predictors
    return {
        **{name: value for name, value in left.items() if name not in without_effect},
        "encoder": encoder,
        "predictor": predictor,
        "regularizer": regularizer,
        "auxiliary": {**auxiliary, **width},
    }
