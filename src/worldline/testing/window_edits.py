"""Edits of windows and inputs of a model: selection, splicing, reordering and masking."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from worldline.models.base import Inputs, Window
from worldline.testing.comparing import map_arrays


def redraw(past: Inputs, shape: tuple[int, int, int], generator: torch.Generator) -> Inputs:
    """Inputs [B, N, T] whose steps are drawn from those of `past`."""
    batch, _, horizon = shape

    def draw(rows: Tensor, size: tuple[int, ...]) -> Tensor:
        return rows[torch.randint(len(rows), size, generator=generator, device=rows.device)]

    return Inputs(
        actions=draw(past.actions.flatten(0, 2), shape),
        exogenous=None if past.exogenous is None else draw(past.exogenous.flatten(0, 1), (batch, horizon)),
        step_s=draw(past.step_s.flatten(0, 1), (batch, horizon)),
    )


def one_candidate_each(inputs: Inputs) -> Inputs:
    """The B*N candidates as entries with one candidate each, B outermost."""
    num = inputs.actions.shape[1]
    return replace(
        map_arrays(inputs, lambda value: value.repeat_interleave(num, 0)),
        actions=inputs.actions.flatten(0, 1).unsqueeze(1),
    )


def splice(first: Inputs, second: Inputs, step: int) -> Inputs:
    """`first` before `step`, `second` from `step` on."""
    mixed = map_arrays(first, torch.clone)
    mixed.actions[:, :, step:], mixed.step_s[:, step:] = second.actions[:, :, step:], second.step_s[:, step:]
    if mixed.exogenous is not None and second.exogenous is not None:
        mixed.exogenous[:, step:] = second.exogenous[:, step:]
    return mixed


def hide(window: Window, hidden: Bool[Tensor, "B H"], values: str) -> Window:
    """`window` with some observations marked as missing.

    Args:
        window: any.
        hidden: True where all signals are missing.
        values: the hidden values: "kept" true ones, "other" wrong ones, "nan" NaN for continuous signals.
    """
    observations = {}
    for name, value in window.observations.items():
        wrong = value.flip(0, 1)
        if value.is_floating_point():
            wrong = torch.full_like(value, torch.nan) if values == "nan" else wrong + 1.0
        place = hidden.reshape(hidden.shape + (1,) * (value.ndim - 2))
        observations[name] = value if values == "kept" else torch.where(place, wrong, value)
    return replace(window, observations=observations, observed=map_arrays(window.observed, lambda mask: mask & ~hidden))
