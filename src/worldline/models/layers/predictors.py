"""Predictors of the next latent, each with its configuration and its memory.

Sources: LeWM (arXiv 2603.19312) for a causal transformer over latents, conditioned on the inputs; eb_jepa for a
recurrent cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu

from worldline.config import BoundedConfig, Depth, Size
from worldline.errors import ConfigError
from worldline.models.layers.correction import Correction
from worldline.models.layers.memory import Memory
from worldline.models.layers.mlp import mlp
from worldline.models.layers.observation_encoder import LatentLayout
from worldline.models.layers.transformer import Cache, CausalTransformer

BOUND: Final = 4.0
"""Inputs of the responses are clipped at this many standard deviations, so that no rollout diverges linearly."""


class Gated(nn.Module):
    """Linear responses to the inputs, each times a gate in (0, 1), and the residual network that sets the gates.

    A jump, such as that of a velocity at a wall, is the product of a linear function and a step. A network without
    products approximates it by many smooth functions and blurs it. Smooth functions are left to the residual network.

    Args:
        size: of the inputs, which are z-scores.
        width: units of the network, and number of responses.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.begin, self.hidden, self.add = nn.Linear(size, width), nn.Linear(width, width), nn.Linear(width, width)
        self.gates, self.responses = nn.Linear(width, width), nn.Linear(size, width)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)

    def forward(self, inputs: Float[Tensor, "M size"]) -> Float[Tensor, "M twice"]:
        """The gated responses, then the output of the residual network."""
        known = gelu(self.begin(inputs))
        known = known + self.add(gelu(self.hidden(known)))
        return torch.cat([self.responses(inputs.clamp(-BOUND, BOUND)) * torch.sigmoid(self.gates(known)), known], -1)


Latents = Float[Tensor, "B D"]
Known = Float[Tensor, "B I"]
"""z-scores of the inputs of a step."""
Step = tuple[Latents, Memory | None]
"""The next latent, and the memory after the step."""
MaybeMemory = Memory | None
"""None for predictors without a memory."""
ExactFlags = Bool[Tensor, "B H exact"]
"""Whether each exact value was observed."""
Prepared = tuple[Float[Tensor, "B taken"], Float[Tensor, "B D"] | float, Memory | None]
"""The input of a network, the part of the change that is not learned, and the memory after the step."""


@dataclass(frozen=True, kw_only=True)
class ObservedPaths:
    """Windows of the training data, and the model's predictions for them.

    Args:
        scores: z-scores of the exact vectors, from the observation on after which predictions are open loop.
        observed: whether each of all components of the window was observed.
        known: z-scores of the inputs of the open-loop steps.
        imagine: returns the open-loop predictions of the exact vectors by the present weights.
    """

    scores: Float[Tensor, "B T1 exact"]
    observed: Bool[Tensor, "B H exact"]
    known: Float[Tensor, "B T I"]
    imagine: Callable[[], Float[Tensor, "B T exact"]]


class Predictor(nn.Module, ABC):
    """Predicts the latent after one step from the present one, the inputs of the step, and a memory.

    Args:
        layout: of the latents, from their encoder.
    """

    context: int = 1
    """Number of observations that a memory needs for its full accuracy."""
    remembers: bool = False
    """Whether predictions depend on steps before the last observation."""
    rollout_width: int = 0
    """As `WorldModel.rollout_width`."""

    def __init__(self, layout: LatentLayout) -> None:
        super().__init__()
        self.layout = layout

    @abstractmethod
    def forward(self, latent: Latents, known: Known, memory: Memory | None) -> Step:
        """The next latent and memory.

        Args:
            latent: of the present.
            known: z-scores of the inputs.
            memory: from `begin`, `restore` or the step before.
        """

    def fit(self, exact: Float[Tensor, "B H exact"], known: Float[Tensor, "B T I"], observed: ExactFlags) -> None:
        """Fits parts that are solved for before training, on the exact vectors (z-scores); by default none."""

    def refit(self, paths: Callable[[], ObservedPaths], share: float) -> None:
        """Fits parts that depend on the present weights, at each validation; by default none.

        Args:
            paths: draws windows of the training data, and predicts them.
            share: completed share of the training.
        """

    def begin(self, latent: Latents, observed: Bool[Tensor, "B exact"] | None = None) -> Memory | None:
        """The memory of a latent without earlier steps; `observed` is True for vectors that are not predictions."""
        return None

    def after_observation(self, memory: Memory | None, shown: Bool[Tensor, " B"]) -> Memory | None:
        """The memory after a step that ended with an observation where `shown` is True; by default the same."""
        return memory

    def restore(self, latent: Latents, flat: Float[Tensor, "B numbers"]) -> Memory | None:
        """The memory whose `Memory.flat` is `flat`; one without earlier steps if the memory is not in the features."""
        return self.begin(latent)

    def unit(self) -> Float[Tensor, " exact"] | None:
        """Scale of the network's output for exact vectors, z-scores: the usual change in one step."""
        return None if self.layout.vectors is None else self.layout.vectors.change


class AdaptablePredictor(Predictor, ABC):
    """A predictor whose last layer is linear and can be corrected within a belief.

    Args:
        layout: of the latents.
        config: of the network.
        num_taken: size of the network's input.
    """

    def __init__(self, layout: LatentLayout, config: NetworkConfig, num_taken: int) -> None:
        super().__init__(layout)
        self.layers = network(config, num_taken, layout.num_outputs)

    @abstractmethod
    def prepare(self, latent: Latents, known: Known, memory: Memory | None) -> Prepared:
        """The input of the network, the part of the change that is not learned, and the memory after the step."""

    def forward(self, latent: Latents, known: Known, memory: MaybeMemory, correction: Correction | None = None) -> Step:
        """The next latent and memory; a correction is added to the output of the last layer."""
        taken, drift, memory = self.prepare(latent, known, memory)
        if correction is None or not correction.hidden.shape[1]:
            output = self.layers(taken)
        else:
            hidden = self.layers[:-1](taken)
            output = self.layers[-1](hidden) + correction(hidden)
        return latent + (self.layout.to_change(output, self.unit()) + drift), memory

    def hidden(self, latent: Latents, known: Known, memory: Memory | None) -> Float[Tensor, "B width"]:
        """The input of the last layer."""
        return torch.as_tensor(self.layers[:-1](self.prepare(latent, known, memory)[0]))

    def residual(self, change: Float[Tensor, "B D"]) -> Float[Tensor, "B out"]:
        """What the output of the last layer lacks if the predicted latent lacks `change`."""
        return self.layout.to_output(change, self.unit())


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(BoundedConfig):
    """The network of a predictor without recurrence.

    Args:
        width: units of the two hidden layers.
        gated: whether the network has gated linear responses (`Gated`), for contacts.
    """

    width: Size = 256
    gated: bool = False


def network(config: NetworkConfig, num_taken: int, out: int) -> nn.Sequential:
    """A network whose last layer is linear."""
    if config.gated:
        return nn.Sequential(Gated(num_taken, config.width), nn.Linear(2 * config.width, out))
    return mlp([num_taken, config.width, config.width, out])


@dataclass(frozen=True, kw_only=True)
class MlpPredictorConfig(NetworkConfig):
    """Configures `MlpPredictor`."""

    kind: Literal["mlp"] = "mlp"


class MlpPredictor(AdaptablePredictor):
    """A network that receives the latent and the inputs; without memory."""

    def __init__(self, config: MlpPredictorConfig, layout: LatentLayout) -> None:
        super().__init__(layout, config, layout.size + layout.inputs.size)

    def prepare(self, latent: Latents, known: Known, memory: Memory | None) -> Prepared:
        """Latent and inputs."""
        return torch.cat([latent, known], -1), 0.0, memory


@dataclass(frozen=True, kw_only=True)
class GruPredictorConfig(BoundedConfig):
    """Configures `GruPredictor`.

    Args:
        width: units of the hidden layer after the recurrent cell.
        memory_size: size of the recurrent state, which follows the latent in the features.
        context: observations that a belief needs. In training the memory receives at most half of a window, so use
            windows of twice the context.
    """

    kind: Literal["gru"] = "gru"
    width: Size = 256
    memory_size: Size = 64
    context: Size = 3


@dataclass(frozen=True, kw_only=True)
class RecurrentState(Memory):
    """The state of a recurrent predictor.

    Args:
        state: after all steps.
        recent: inputs of the cell at the last context - 1 steps; 0 before the first step.
        count: number of steps in `recent`.
    """

    state: Float[Tensor, "B size"]
    recent: Float[Tensor, "B steps I"]
    count: Int[Tensor, " B"]

    def flat(self) -> Float[Tensor, "B size"]:
        """The state."""
        return self.state


class GruPredictor(Predictor):
    """A network that receives the latent and a recurrent state, for states that one observation does not determine.

    After an observation, the state depends on the last `context` observations only. In training it never depends on
    more, so with a longer history the predictions would become worse.
    """

    remembers = True

    def __init__(self, config: GruPredictorConfig, layout: LatentLayout) -> None:
        super().__init__(layout)
        self.context, self.memory_size = config.context, config.memory_size
        self.cell = nn.GRUCell(layout.size + layout.inputs.size, config.memory_size)
        self.layers = mlp([layout.size + config.memory_size, config.width, layout.num_outputs])

    def begin(self, latent: Latents, observed: Bool[Tensor, "B exact"] | None = None) -> RecurrentState:
        """A state of zeros."""
        return self.restore(latent, latent.new_zeros(len(latent), self.memory_size))

    def restore(self, latent: Latents, flat: Float[Tensor, "B numbers"]) -> RecurrentState:
        """The state itself, without the steps that led to it."""
        recent = latent.new_zeros(len(latent), self.context - 1, self.cell.input_size, dtype=torch.float32)
        count = torch.zeros(len(latent), dtype=torch.long, device=latent.device)
        return RecurrentState(state=flat, recent=recent, count=count)

    def after_observation(self, memory: Memory | None, shown: Bool[Tensor, " B"]) -> RecurrentState:
        """The state after the recent steps alone, if there are context - 1 of them."""
        assert isinstance(memory, RecurrentState)
        state = torch.zeros_like(memory.state, dtype=torch.float32)
        for step in range(self.context - 1):
            state = self._next(memory.recent[:, step], state)
        complete = shown & (memory.count == self.context - 1)
        return replace(memory, state=torch.where(complete[:, None], state, memory.state))

    def _next(self, taken: Float[Tensor, "B I"], state: Float[Tensor, "B size"]) -> Float[Tensor, "B size"]:
        with torch.autocast(taken.device.type, enabled=False):  # rounding errors would add up over many steps
            return torch.as_tensor(self.cell(taken.float(), state.float()))

    def forward(self, latent: Latents, known: Known, memory: Memory | None) -> Step:
        """The next latent and state."""
        assert isinstance(memory, RecurrentState)
        taken = torch.cat([latent, known], -1)
        state = self._next(taken, memory.state)
        output = self.layers(torch.cat([latent, state.to(latent.dtype)], -1))
        recent, count = memory.recent, memory.count
        if self.context > 1:
            recent = torch.cat([recent[:, 1:], taken.float()[:, None]], 1)
            count = (count + 1).clamp(max=self.context - 1)
        memory = RecurrentState(state=state, recent=recent, count=count)
        return latent + self.layout.to_change(output, self.unit()), memory


@dataclass(frozen=True, kw_only=True)
class TransformerPredictorConfig(BoundedConfig):
    """Configures `TransformerPredictor`.

    Args:
        width: of the layers, a multiple of `2 * num_heads`.
        depth: number of layers.
        num_heads: attention heads.
        context: steps that attention covers, and observations that a belief needs. In training the memory receives at
            most half of a window, so use windows of twice the context.
    """

    kind: Literal["transformer"] = "transformer"
    width: Size = 256
    depth: Depth = 2
    num_heads: Size = 4
    context: Size = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"width is {self.width}. The transformer needs a multiple of twice num_heads, {2 * self.num_heads}. "
                "Change one of them."
            )


class TransformerPredictor(Predictor):
    """Causal attention over the latents; every layer is conditioned on the inputs."""

    remembers = True

    def __init__(self, config: TransformerPredictorConfig, layout: LatentLayout) -> None:
        super().__init__(layout)
        self.context, width = config.context, config.width
        self.rollout_width = 2 * config.depth * width
        self.enter = nn.Linear(layout.size, width)
        sizes = {"depth": config.depth, "num_heads": config.num_heads, "span": config.context}
        self.layers = CausalTransformer(width=width, condition=layout.inputs.size, **sizes)
        self.leave = nn.Linear(width, layout.num_outputs)

    def forward(self, latent: Latents, known: Known, memory: Memory | None) -> Step:
        """The next latent, and the cache including this step; a memory of None is an empty past."""
        assert memory is None or isinstance(memory, Cache)
        # A slice of one step is strided; torch would compute its product row by row, with copies of the weights.
        steer = known.contiguous()[:, None] if self.layout.inputs.size else None
        tokens, cache = self.layers(self.enter(latent)[:, None], steer, memory)
        return latent + self.layout.to_change(self.leave(tokens[:, 0]), self.unit()), cache
