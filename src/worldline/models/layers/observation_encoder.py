"""The encoder of observations to latents, and the layout of these latents.

Missing values. The encoder receives the observed values and a flag per signal. At inference, a missing value of an
exact vector is replaced by the prediction. The learned features are encoded without missing signals if the training
data had such gaps; otherwise they are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from worldline.config import BoundedConfig, Size
from worldline.errors import ConfigError
from worldline.models.base import Window
from worldline.models.layers.codes import Observed, code_size, split_signals
from worldline.models.layers.encoders import ImageEncoder, VectorEncoder
from worldline.models.layers.standardizer import InputNormaliser
from worldline.schema import Schema

MIN_PARTIAL_SHARE: Final = 0.01
"""Share of partly observed training steps above which the encoder may encode partial observations at inference."""


@dataclass(frozen=True, kw_only=True)
class ObservedFeatures:
    """Encoded observations, before missing parts are filled in.

    Args:
        pictures: sum of the features of all cameras; None without a camera.
        scores: z-scores of the vectors, 0 where missing; None without vectors.
        observed: per signal.
    """

    pictures: Float[Tensor, "*lead L"] | None
    scores: Float[Tensor, "*lead size"] | None
    observed: Observed

    def at(self, step: int) -> ObservedFeatures:
        """One step of [B, H]."""
        return ObservedFeatures(
            pictures=None if self.pictures is None else self.pictures[:, step],
            scores=None if self.scores is None else self.scores[:, step],
            observed={name: flags[:, step] for name, flags in self.observed.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentLayout:
    """The parts of a latent: exact z-scores of vectors, then learned features, whose last ones are constant.

    Args:
        size: D.
        constant_size: number of features that no step changes.
        vectors: encoder of the exact vectors, with their scales; None if there are none.
        inputs: z-scores of the inputs.
    """

    size: int
    constant_size: int
    vectors: VectorEncoder | None
    inputs: InputNormaliser

    @cached_property
    def num_exact(self) -> int:
        """Size of the exact vectors."""
        return 0 if self.vectors is None else self.vectors.size

    @property
    def num_outputs(self) -> int:
        """Size of a predictor's output: all that a step can change."""
        return self.size - self.constant_size

    def to_change(self, output: Float[Tensor, "B out"], unit: Float[Tensor, " exact"] | None) -> Float[Tensor, "B D"]:
        """The change of a latent that a predictor's output stands for; `unit` scales the exact vectors, if any."""
        output = pad(output, (0, self.constant_size))
        if unit is None:
            return output
        return torch.cat([output[:, : self.num_exact] * unit, output[:, self.num_exact :]], -1)

    def to_output(self, change: Float[Tensor, "B D"], unit: Float[Tensor, " exact"] | None) -> Float[Tensor, "B out"]:
        """The inverse of `to_change`."""
        change = change[:, : self.num_outputs]
        if unit is None:
            return change
        return torch.cat([change[:, : self.num_exact] / unit, change[:, self.num_exact :]], -1)


@dataclass(frozen=True, kw_only=True)
class ObservationEncoderConfig(BoundedConfig):
    """Sizes of an observation encoder.

    Args:
        channels: of the convolutions of image encoders.
        width: units of the hidden layers.
    """

    channels: Size = 96
    width: Size = 512


class ObservationEncoder(nn.Module):
    """Encodes the observations of a step to a latent, and its inputs to z-scores.

    Args:
        config: sizes.
        schema: actions and exogenous signals are used in its order.
        inputs: observation signals that are encoded.
        size: D.
        constant_size: number of features that no step changes.
        exact: whether the z-scores of the vectors are the first part of the latent.
        timed: whether the duration of a step is an input.

    Raises:
        UnknownNameError: the schema lacks an input.
        ConfigError: the size of an image is not supported, or the latent is too small.
    """

    partial: Tensor
    """Share of partly observed training steps."""

    def __init__(
        self,
        config: ObservationEncoderConfig,
        *,
        schema: Schema,
        inputs: tuple[str, ...],
        size: int,
        constant_size: int = 0,
        exact: bool = False,
        timed: bool = False,
    ) -> None:
        super().__init__()
        images, vectors = split_signals(schema, inputs)
        num_exact = sum(code_size(signal) for signal in vectors) if exact else 0
        if size < num_exact + constant_size + 1:
            raise ConfigError(
                f"latent_size is {size}, but the vector inputs need {num_exact} and constant_size "
                f"is {constant_size}. Set it to at least {num_exact + constant_size + 1}."
            )
        out = size - num_exact
        self.names = inputs
        self.cameras = tuple(signal.name for signal in images)  # not module names: these must not contain dots
        self.images = nn.ModuleList(
            ImageEncoder(signal, channels=config.channels, width=config.width, out=out) for signal in images
        )
        self.vectors = VectorEncoder(vectors, width=config.width, out=out) if vectors else None
        self.register_buffer("partial", torch.zeros(()))
        self.inputs = InputNormaliser(schema, timed=timed)
        self.layout = LatentLayout(
            size=size, constant_size=constant_size, vectors=self.vectors if exact else None, inputs=self.inputs
        )

    def fit(self, window: Window) -> None:
        """Fits all scales on observed values; never observed signals keep their scale."""
        for name, encoder in zip(self.cameras, self.images, strict=True):
            assert isinstance(encoder, ImageEncoder)  # for the type checker
            encoder.fit(window.observations[name], window.observed[name])
        if self.vectors is not None:
            self.vectors.fit(window.observations, window.observed)
        shown = self.flags(window.observed)
        self.partial.copy_((shown.any(-1) & ~shown.all(-1)).float().mean())
        self.inputs.fit(window.past)

    def flags(self, observed: Observed) -> Bool[Tensor, "*lead inputs"]:
        """Whether each signal was observed."""
        return torch.stack([observed[name] for name in self.names], -1)

    def exact_flags(self, observed: Observed) -> Bool[Tensor, "*lead exact"]:
        """Whether each component of the exact vectors was observed."""
        vectors = self.layout.vectors
        return self.flags(observed)[..., :0] if vectors is None else vectors.flags(observed)

    def exact_scores(self, window: Window) -> Float[Tensor, "B H exact"]:
        """z-scores of the exact vectors; 0 where missing."""
        if self.layout.vectors is None:
            return self.flags(window.observed)[..., :0].float()
        return self.layout.vectors.scores(window.observations, window.observed)

    def encode(self, window: Window, start: int = 0) -> ObservedFeatures:
        """The observations from `start` on, encoded separately [B, H]."""
        values = {name: window.observations[name][:, start:] for name in self.names}
        observed = {name: window.observed[name][:, start:] for name in self.names}
        lead = self.flags(observed).shape[:2]
        pictures = [
            encoder(values[name].flatten(0, 1), observed[name].flatten()).unflatten(0, lead)
            for name, encoder in zip(self.cameras, self.images, strict=True)
        ]
        return ObservedFeatures(
            pictures=torch.stack(pictures).sum(0) if pictures else None,
            scores=None if self.vectors is None else self.vectors.scores(values, observed),
            observed=observed,
        )

    def to_latent(
        self, seen: ObservedFeatures, predicted: Float[Tensor, "*lead D"] | None = None
    ) -> Float[Tensor, "*lead D"]:
        """The latent of observations; missing parts are taken from `predicted` if given."""
        num_exact = self.layout.num_exact
        learned, exact, gaps = seen.pictures, None, [seen.observed[name] for name in self.cameras]
        if self.vectors is not None:
            assert seen.scores is not None  # for the type checker
            scores = seen.scores
            known = torch.stack([seen.observed[signal.name] for signal in self.vectors.signals], -1)
            if num_exact and predicted is not None:
                scores = torch.where(self.vectors.flags(seen.observed), scores, predicted[..., :num_exact])
                known = torch.ones_like(known)
            part = self.vectors.of_scores(scores, known)
            learned = part if learned is None else learned + part
            exact, gaps = scores if num_exact else None, [*gaps, known.all(-1)]
        assert learned is not None
        if predicted is not None:
            trained = torch.stack(gaps).all(0) | (self.partial > MIN_PARTIAL_SHARE)
            encodable = self.flags(seen.observed).any(-1) & trained
            learned = torch.where(encodable[..., None], learned, predicted[..., num_exact:])
        return learned if exact is None else torch.cat([exact, learned], -1)
