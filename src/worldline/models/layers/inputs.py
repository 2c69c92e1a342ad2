"""The inputs of a step as concatenated z-scores: actions, exogenous signals and, optionally, the step's duration."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.models.base import Inputs
from worldline.models.layers.normaliser import Normaliser


def fit_inputs(past: Inputs, actions: Normaliser, exogenous: Normaliser, step_s: Normaliser | None = None) -> None:
    """Fits normalisers on the inputs of a window.

    Args:
        past: with N = 1.
        actions: of the concatenated actions.
        exogenous: of the concatenated exogenous signals; of size 0 if the schema has none.
        step_s: of the step's duration; None for a model without this input.
    """
    actions.fit(past.actions.flatten(0, 2))
    if past.exogenous is not None:
        exogenous.fit(past.exogenous.flatten(0, 1))
    if step_s is not None:
        step_s.fit(past.step_s.flatten()[:, None])


def join_inputs(
    inputs: Inputs, actions: Normaliser, exogenous: Normaliser, step_s: Normaliser | None = None
) -> Float[Tensor, "B N T I"]:
    """Concatenated z-scores of all inputs; arguments as for `fit_inputs`."""
    parts = [actions(inputs.actions)]
    versions = parts[0].shape[1]
    if inputs.exogenous is not None:
        parts.append(exogenous(inputs.exogenous)[:, None].expand(-1, versions, -1, -1))
    if step_s is not None:
        parts.append(step_s(inputs.step_s[..., None])[:, None].expand(-1, versions, -1, -1))
    return torch.cat(parts, -1)
