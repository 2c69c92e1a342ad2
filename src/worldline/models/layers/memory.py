"""What a network that predicts step by step keeps of earlier steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

AnyMemory = TypeVar("AnyMemory", bound="Memory")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Base class: every field is a tensor [B, ...], unless `select` and `detach` are overridden. Immutable."""

    def select(self: AnyMemory, index: Tensor) -> AnyMemory:
        """The memories of the batch entries in `index`."""
        return self._each(lambda values: values[index])

    def detach(self: AnyMemory) -> AnyMemory:
        """The memory without gradient history."""
        return self._each(Tensor.detach)

    def flat(self) -> Float[Tensor, "B numbers"] | None:
        """The part that belongs to the features of a belief; None if there is none."""
        return None

    def correct(self: AnyMemory, residual: Float[Tensor, "B D"], observed: Bool[Tensor, "B exact"]) -> AnyMemory:
        """The memory after an observation; by default the same.

        Args:
            residual: latent with the observation minus predicted latent.
            observed: whether each exact vector was observed.
        """
        return self

    def _each(self: AnyMemory, change: Callable[[Tensor], Tensor]) -> AnyMemory:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})
