"""Noise that is correlated over time: with white noise, actions cancel each other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def persistent(shape: tuple[int, ...], correlation: float, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
    """Standard normal noise; each component is a stationary AR(1) process over the steps.

    Args:
        shape: [B, N, T, A].
        correlation: of neighbouring steps, in [0, 1).
        generator: for the draws.
    """
    noise = torch.randn(shape, generator=generator, device=generator.device)
    for step in range(1, noise.shape[2]):
        # With this factor the variance stays 1.
        fresh = (1 - correlation**2) ** 0.5 * noise[:, :, step]
        noise[:, :, step] = correlation * noise[:, :, step - 1] + fresh
    return noise


def coloured(shape: tuple[int, ...], exponent: float, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
    """Normal noise of variance 1 with a power spectrum f ** -exponent over the steps.

    Args:
        shape: [B, N, T, A].
        exponent: 0 for white noise, 1 for pink, 2 for red.
        generator: for the draws.

    Source: iCEM (2008.06389), section 3.1.
    """
    white = torch.randn(shape, generator=generator, device=generator.device)
    frequencies = torch.fft.fftfreq(shape[2], device=generator.device).abs()
    frequencies[0] = 1 / shape[2]  # avoids a division by 0: the constant counts as the lowest frequency
    gain = (frequencies ** (-exponent / 2))[:, None]
    spectrum = torch.fft.fft(white, dim=2) * gain
    noise = torch.fft.ifft(spectrum, dim=2).real
    return torch.as_tensor(noise / gain.square().mean().sqrt())
