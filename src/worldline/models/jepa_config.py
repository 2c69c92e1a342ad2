"""What a JEPA is made of: sizes, weights of its terms, and what it knows of earlier steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JepaConfig:
    """Size of the network and weight of each term.

    Args:
        inputs: observation signals that the encoder sees.
        latent_size: D.
        channels: of the image encoder's convolutions.
        encoder_width: of the encoder's hidden layer.
        predictor_width: of the predictor's hidden layers.
        sigreg_weight: pull of the latents towards a standard Gaussian.
        constant_size: how many numbers of each latent, its last, no input can change: they hold what stays the same
            within an episode and differs between episodes, such as a wall. 0 for none (docs/design/constants.md).
        num_slices: directions that SIGReg looks along at each step.
        signal_weight: of the error of the vector inputs. Above 0 they are themselves the first numbers of each
            latent, so that none of their digits are lost; the encoder adds the rest (docs/design/vectors.md).
        timed: whether the predictor is told how long each step takes; for logs whose steps differ. A world that was
            learned predicts steps of the schema's length.
        variance_weight: of what the deviation of each number lacks to 1. VICReg instead of SIGReg is
            `sigreg_weight=0` and 16, 8, 12, 1 for this and the next three (eb_jepa).
        covariance_weight: of the squared covariance of two numbers.
        similarity_weight: of the squared change of the latent in one step.
        inverse_weight: of the error of the action, decoded from the latents before and after it.
        delta_weight: of the error of `delta_steps` actions, decoded from the change of the latent over them. Keeps
            what moves where walls or backgrounds differ between episodes; published with 10 alone, 1 beside SIGReg.
        delta_steps: N of them, or as many as a window has.
        straightening_weight: of 1 - cosine between successive changes of the latent; published with 0.1. Paths that
            are straight are easier to plan along by gradient.
        memory: what the predictor knows of earlier steps: "none" (a network of two hidden layers), "transformer"
            (causal attention over the latents), "gru" (a recurrent state). For worlds whose present observation does
            not show their state, such as a velocity.
        context: observations that a belief with memory needs, and steps that attention reaches. Training shows up to
            half of a window to the memory; give it windows of twice the context.
        memory_size: numbers of the GRU's state, which stand beside the latent in the features.
        depth: layers of the transformer.
        num_heads: of its attention; `predictor_width` must be a multiple of twice this.
        frameskip: k, steps that the predictor takes at once. From the latent k steps ago and the actions since then it
            predicts the present one, so errors add up every k steps only. 1 for none; needs memory "none".
        linear_history: h, steps that a linear forecast of the vectors that are part of the latent is made from, solved
            for before training. The predictor sees them too and learns what the forecast misses, so that a world
            which is linear in part is exact there. 0 for none; needs signal_weight, memory "none" and frameskip 1.
        linear_values: observations that the linear forecast is made from, the last ones, beside the inputs of all
            `linear_history` steps; 0 for as many as those. A few suffice where only what was done shows late.
        linear_trim: share of the steps, those that the linear forecast misses most, such as contacts, that it is not
            solved for. 0 to below 0.5.
        gated: whether the predictor switches straight responses on and off (`models/layers/gated.py`), for what happens at
            contacts, instead of a network of two hidden layers. Needs memory "none".
        gradient_steps: of a path, that a gradient reaches back; 0 for all. Through many contacts it tells nothing.
        conserves: whether to look for a quantity that changes by a law which predictions break, such as an energy, and
            to hold predictions to it (`models/layers/conserved_quantity.py`). It is sought at each check of the second half of training,
            which goes on with it. Needs linear_history.
        targets: vector or discrete observation signals that the model does not take, and that must show in its latents,
            real and imagined: logged for training, such as the pose that a motion capture gives, and not there in use.
        target_weight: of their error, a linear map away from the latent.
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
                f"predictor_width is {self.predictor_width}, and the transformer needs a multiple of twice num_heads, "
                f"{2 * self.num_heads}. Change one of them."
            )
        if self.linear_history and (not self.signal_weight or self.memory != "none" or self.frameskip > 1):
            raise ConfigError(
                f"linear_history is {self.linear_history} with signal_weight {self.signal_weight}, memory "
                f"{self.memory!r} and frameskip {self.frameskip}. It needs signal_weight above 0, 'none' and 1."
            )
        if self.gated and self.memory != "none":
            raise ConfigError(f"gated is True and memory {self.memory!r}. Gates need memory 'none'.")
        if self.conserves and not self.linear_history:
            raise ConfigError("conserves is True and linear_history 0. Set it to at least 1, or conserves to False.")
        if self.memory != "none" and self.frameskip > 1:
            raise ConfigError(
                f"frameskip is {self.frameskip} and memory {self.memory!r}. Blocks of steps need memory 'none'; or set "
                "frameskip to 1."
            )
