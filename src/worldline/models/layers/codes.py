"""Codes: continuous representations of signals, the inputs of encoders and the outputs of readouts.

The code of a vector is the vector, that of an angle its sine and cosine, that of a discrete value one-hot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.errors import ConfigError
from worldline.schema import Kind, Schema, Signal

Observations = Mapping[str, Tensor]
"""Per signal its values."""
Observed = Mapping[str, Bool[Tensor, "*lead"]]
"""Per signal whether each value was observed."""
MAX_IMAGES: Final = 64
"""Maximum number of images that a model encodes, with one network each."""
MAX_COMPONENTS: Final = 4096
"""Maximum size of all codes together in families that have something for each component."""


def code_size(signal: Signal) -> int:
    """Size of the code of a vector or discrete signal."""
    return 2 * signal.size if signal.period is not None else signal.size


def to_code(signal: Signal, values: Tensor) -> Float[Tensor, "... size"]:
    """The code of `values` [..., *shape], physical units; NaN stays NaN."""
    if signal.kind is Kind.DISCRETE:
        return torch.nn.functional.one_hot(values.long(), signal.size).float()
    if signal.period is None:
        return values.float()
    turn = values.float() * (2 * math.pi / signal.period)
    return torch.cat([turn.sin(), turn.cos()], -1)


def from_code(signal: Signal, code: Float[Tensor, "... size"]) -> Tensor:
    """The values [..., *shape] of exact or predicted codes.

    A discrete value is the most likely one. An angle is in [low, low + period), or [0, period) without a bound.
    """
    if signal.kind is Kind.DISCRETE:
        return code.argmax(-1)
    if signal.period is None:
        return code
    sine, cosine = code.chunk(2, -1)
    low = torch.tensor(0.0 if signal.low is None else signal.low, device=code.device)
    turn = torch.atan2(sine, cosine) * (signal.period / (2 * math.pi)) - low
    turned = turn.remainder(signal.period)
    # `remainder` rounds tiny negative angles up to the period.
    return torch.where(turned >= signal.period, 0.0, turned) + low


def join_codes(signals: Sequence[Signal], values: Mapping[str, Tensor]) -> Float[Tensor, "... size"]:
    """The codes of all `signals`, concatenated along the last axis in order."""
    return torch.cat([to_code(signal, values[signal.name]) for signal in signals], -1)


def check_num_images(images: Sequence[Signal]) -> None:
    """Raises ConfigError for more than `MAX_IMAGES`."""
    if len(images) > MAX_IMAGES:
        raise ConfigError(f"{len(images)} images are too many. A model takes at most {MAX_IMAGES}.")


def split_signals(schema: Schema, names: Sequence[str]) -> tuple[tuple[Signal, ...], tuple[Signal, ...]]:
    """The images among the signals of these names, and the other signals.

    Raises:
        UnknownNameError: there is no such signal.
        ConfigError: there are too many images.
    """
    signals = [schema[name] for name in names]
    images = tuple(signal for signal in signals if signal.kind is Kind.IMAGE)
    check_num_images(images)
    return images, tuple(signal for signal in signals if signal.kind is not Kind.IMAGE)


def vector_signals(schema: Schema, names: Sequence[str], *, family: str) -> tuple[Signal, ...]:
    """The signals of these names, of which none is an image.

    Args:
        schema: the signals.
        names: inputs of a model.
        family: its registered name, for the message.

    Raises:
        UnknownNameError: there is no such signal.
        ConfigError: an input is an image, or the signals have too many components.
    """
    images, vectors = split_signals(schema, names)
    if images:
        raise ConfigError(
            f"input {images[0].name!r} is an image, and the family {family!r} has no image encoder. Remove the input, "
            "or choose a family with one: jepa, rssm, features, lewm."
        )
    check_num_components(vectors, family)
    return vectors


def check_num_components(signals: Sequence[Signal], family: str) -> None:
    """Raises ConfigError for more than `MAX_COMPONENTS`."""
    if (count := sum(code_size(signal) for signal in signals)) > MAX_COMPONENTS:
        raise ConfigError(f"the signals have {count} components. The family {family!r} takes {MAX_COMPONENTS}.")
