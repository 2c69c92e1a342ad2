"""The configuration of the family `jepa`: sizes, weights of the loss terms, and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JepaConfig:
    """Sizes of the networks and weights of the loss terms.

    Args:
        inputs: observation signals of the encoder.
        latent_size: D.
        channels: of the image encoder's convolutions.
        encoder_width: units of the encoder's hidden layer.
        predictor_width: units of the predictor's hidden layers.
        sigreg_weight: of SIGReg, which pulls the latents towards a standard Gaussian.
        constant_size: size of the last part of each latent, which no step changes. It holds what is constant within
            an episode and differs between episodes, such as a wall. 0 for none (docs/design/constants.md).
        num_slices: random directions of SIGReg per update.
        signal_weight: of the error of the vector inputs. Above 0 their z-scores are the first part of each latent, at
            full precision; the encoder adds the learned part (docs/design/vectors.md).
        timed: whether the duration of each step is an input; for logs with steps of different durations. A learned
            world always predicts steps of the schema's duration.
        variance_weight: of the shortfall of each component's standard deviation from 1 (VICReg). For VICReg instead of
            SIGReg set `sigreg_weight=0`, and 16, 8, 12, 1 for this and the next three weights (eb_jepa).
        covariance_weight: of the squared covariance of two components (VICReg).
        similarity_weight: of the squared change of the latent in one step.
        inverse_weight: of the error of the action, decoded from the latents before and after it.
        delta_weight: of the error of `delta_steps` actions, decoded from the change of the latent over them. Keeps
            moving objects in the latent if walls or backgrounds differ between episodes. Published values: 10 alone, 1
            together with SIGReg.
        delta_steps: number of decoded actions, at most the steps of a window.
        straightening_weight: of 1 - cosine between successive changes of the latent; published value 0.1. Gradient
            planning is easier along straight paths.
        memory: of the predictor: "none" (a network of two hidden layers), "transformer" (causal attention over the
            latents), "gru" (a recurrent state). Needed if one observation does not determine the state, for example
            the velocity.
        context: observations that a belief with memory needs, and steps that attention covers. In training the memory
            receives at most half of a window, so use windows of twice the context.
        memory_size: size of the GRU's state, which follows the latent in the features.
        depth: layers of the transformer.
        num_heads: attention heads; `predictor_width` must be a multiple of twice this.
        frameskip: k, steps that one prediction spans. The predictor uses the latent up to k steps ago and the actions
            since then, so errors accumulate only every k steps. 1 for none; needs memory "none".
        linear_history: h, steps of a linear forecast of the vectors in the latent. It is solved for before training;
            the predictor also receives these steps and learns the residual. Linear parts of a world so become exact.
            0 for none; needs signal_weight, memory "none" and frameskip 1.
        linear_values: number of last observations in the linear forecast, which always uses the inputs of all
            `linear_history` steps; 0 for all. A few suffice if only inputs act with a delay.
        linear_trim: share of the steps with the largest residuals, such as contacts, that the fit of the linear
            forecast ignores. 0 to below 0.5.
        gated: whether the predictor uses gated linear responses (`models/layers/gated.py`), for contacts, instead of a
            network of two hidden layers. Needs memory "none".
        gradient_steps: steps over which gradients flow back through a rollout; 0 for all. Gradients through many
            contacts are uninformative.
        conserves: whether to fit a conservation law, such as of an energy, and to make predictions obey it
            (`models/layers/conserved_quantity.py`). It is fitted at each validation in the second half of training.
            Needs linear_history.
        targets: auxiliary targets: vector or discrete observation signals that are not inputs. A linear map reads them
            from encoded and predicted latents. They are needed in training only, such as the pose from motion capture.
        target_weight: of the error of the auxiliary targets.
    """

    inputs: tuple[str, ...]
    latent_size: int = 64
    channels: int = 96
    encoder_width: int = 512
    predictor_width: int = 256
    sigreg_weight: float = 5.0
    constant_size: int = 0
    num_slices: int = 64
    signal_weight: float = 0.0
    timed: bool = False
    variance_weight: float = 0.0
    covariance_weight: float = 0.0
    similarity_weight: float = 0.0
    inverse_weight: float = 0.0
    delta_weight: float = 0.0
    delta_steps: int = 5
    straightening_weight: float = 0.0
    memory: Literal["none", "transformer", "gru"] = "none"
    context: int = 3
    memory_size: int = 64
    depth: int = 2
    num_heads: int = 4
    frameskip: int = 1
    linear_history: int = 0
    linear_values: int = 0
    linear_trim: float = 0.0
    gated: bool = False
    gradient_steps: int = 0
    conserves: bool = False
    targets: tuple[str, ...] = ()
    target_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty. Name at least one observation signal for the encoder.")
        sizes = ("latent_size", "channels", "encoder_width", "predictor_width", "num_slices", "delta_steps", "context")
        for name in (*sizes, "memory_size", "depth", "num_heads", "frameskip"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        weights = (
            "sigreg", "signal", "variance", "covariance", "similarity", "inverse", "delta", "straightening", "target",
        )  # fmt: skip
        counts = "constant_size", "linear_history", "linear_values", "gradient_steps"
        for name in (*(f"{weight}_weight" for weight in weights), *counts):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must not be negative.")
        if not 0 <= self.linear_trim < 0.5:
            raise ConfigError(f"linear_trim is {self.linear_trim}. It must be at least 0 and below 0.5.")
        if self.memory not in ("none", "transformer", "gru"):
            raise ConfigError(f"memory is {self.memory!r}. Choose none, transformer or gru.")
        if self.memory == "transformer" and self.predictor_width % (2 * self.num_heads):
            raise ConfigError(
                f"predictor_width is {self.predictor_width}. The transformer needs a multiple of twice num_heads, "
                f"{2 * self.num_heads}. Change one of them."
            )
        if self.linear_history and (not self.signal_weight or self.memory != "none" or self.frameskip > 1):
            raise ConfigError(
                f"linear_history is {self.linear_history} with signal_weight {self.signal_weight}, memory "
                f"{self.memory!r} and frameskip {self.frameskip}. It needs signal_weight above 0, 'none' and 1."
            )
        if self.gated and self.memory != "none":
            raise ConfigError(f"gated is True and memory is {self.memory!r}. Set memory to 'none', or gated to False.")
        if self.conserves and not self.linear_history:
            raise ConfigError(
                "conserves is True and linear_history is 0. Set linear_history to at least 1, or conserves to False."
            )
        if self.memory != "none" and self.frameskip > 1:
            raise ConfigError(
                f"frameskip is {self.frameskip} and memory is {self.memory!r}. Set memory to 'none', or frameskip to 1."
            )
