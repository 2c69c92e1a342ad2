"""Autocast to bfloat16 on CPUs with bfloat16 instructions."""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast() -> torch.autocast:
    """A context in which products run in bfloat16 if the CPU supports it, otherwise in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16())
