"""What a researcher writes: a model that encodes windows, imagines, and says its loss.

Shape letters: B batch, N candidates, S samples (1 if deterministic), H context, T horizon, A action size,
D latent size, E exogenous size. Tensors are in the user's own units; the model owns its normaliser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """T known steps.

    Args:
        actions: concatenated action signals, physical units; discrete ones as one-hot.
        exogenous: concatenated exogenous signals, or None where there are none.
        step_s: seconds that each step lasts.
    """

    actions: Float[Tensor, "B N T A"]
    exogenous: Float[Tensor, "B T E"] | None
    step_s: Float[Tensor, "B T"]

    def steps(self, which: slice) -> Inputs:
        """The inputs of some of the steps."""
        exogenous = None if self.exogenous is None else self.exogenous[:, which]
        return Inputs(actions=self.actions[:, :, which], exogenous=exogenous, step_s=self.step_s[:, which])


@dataclass(frozen=True, kw_only=True)
class Window:
    """H observations and the H-1 inputs between them; input i takes observation i to i+1.

    Args:
        observations: per signal [B, H, *shape], in the dtype of the store.
        observed: per signal [B, H]; where False the value must not matter.
        past: inputs with N = 1 and T = H-1.
        reward: of each step, the sum over all reward signals; None where the logs hold none.
        terminated: whether observation i+1 ends the episode for good; None where it was not asked for.
    """

    observations: Mapping[str, Tensor]
    observed: Mapping[str, Bool[Tensor, "B H"]]
    past: Inputs
    reward: Float[Tensor, "B T"] | None = None
    terminated: Bool[Tensor, "B T"] | None = None

    def first(self, length: int) -> Window:
        """The first `length` observations, at least 1, and what lies between them."""
        return Window(
            observations={name: values[:, :length] for name, values in self.observations.items()},
            observed={name: values[:, :length] for name, values in self.observed.items()},
            past=self.past.steps(slice(length - 1)),
            reward=None if self.reward is None else self.reward[:, : length - 1],
            terminated=None if self.terminated is None else self.terminated[:, : length - 1],
        )


class Belief(ABC):
    """What a model holds about the present. Immutable; its leaves are [B, S, ...]."""

    @abstractmethod
    def features(self) -> Float[Tensor, "B S D"]:
        """The latent that heads read."""

    @abstractmethod
    def select(self, index: Tensor) -> Belief:
        """The belief of the batch entries in `index` [B'], repeated or reordered as it says."""


@dataclass(frozen=True, kw_only=True)
class LatentRollout:
    """An open-loop rollout.

    Args:
        features: [..., k, :] is the latent after input k.
        final: the belief after the last input, batch B*N, to continue from.
    """

    features: Float[Tensor, "B N S T D"]
    final: Belief


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Named scalar terms and their weights.

    Args:
        terms: the unweighted scalars.
        weights: one for each term.
    """

    terms: Mapping[str, Float[Tensor, ""]]
    weights: Mapping[str, float]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The weighted sum."""
        return torch.stack([self.weights[name] * term for name, term in self.terms.items()]).sum()


class WorldModel(nn.Module, ABC):
    """A learned model of how observations follow from observations and inputs.

    Built as `Model(schema=..., config=Model.Config(...))`.
    """

    Config: ClassVar[type[Any]]
    """The frozen dataclass that configures this family. Its field `inputs` names the observation signals it takes."""

    config: Any
    """This model's own configuration."""

    context: int = 1
    """Observations that a belief needs to be as good as it can; fewer are accepted."""

    targets: tuple[str, ...] = ()
    """Observation signals that the loss and `fit_normaliser` read beside the inputs."""

    present: slice = slice(None)
    """Which of the features show the present state; the others remember inputs, or what was seen before."""

    deterministic: bool = True
    """Whether encode, update and rollout draw nothing."""

    action_conditioned: bool = True
    """Whether what is imagined depends on the actions."""

    @abstractmethod
    def fit_normaliser(self, window: Window) -> None:
        """Takes means and deviations of all signals from `window`, a large sample of the training data."""

    def on_validation(self, sample: Callable[[int], Window], share: float) -> None:
        """Solves for what depends on the weights of the moment, at each check of a training; by default nothing.

        Args:
            sample: gives so many windows of the training data, the same ones each time that it is called.
            share: of the training that is done, above 0 to 1.
        """
        del sample, share

    @abstractmethod
    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        """The belief after the last observation of `window`."""

    @abstractmethod
    def update(
        self,
        belief: Belief,
        inputs: Inputs,
        observation: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B"]],
        *,
        generator: torch.Generator,
    ) -> Belief:
        """The belief one step later; folding it over a window must equal `encode`.

        Args:
            belief: from `encode` or `update`.
            inputs: the one step taken, N = 1 and T = 1.
            observation: per signal [B, *shape].
            observed: per signal; where False the value must not matter.
            generator: for any draw.
        """

    @abstractmethod
    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """What `inputs` would lead to: pure, differentiable in the actions, with the same noise for all N."""

    @abstractmethod
    def belief(self, features: Float[Tensor, "B D"]) -> Belief:
        """The belief that stored features stand for, with nothing known of what came before; heads are fitted on it."""

    def forecast_error(
        self, stored: Float[Tensor, "B T1 D"], imagined: Float[Tensor, "B T D"], whole: Bool[Tensor, "B T1"]
    ) -> Float[Tensor, ""]:
        """How far imagined features are from stored ones, the first of which they set out from; refining lessens it.

        Args:
            stored: what the model held after each observation.
            imagined: from the first of them on.
            whole: whether all inputs were observed; where False the stored ones are in part the model's own guess.
        """
        due = whole[:, 1:].float()
        return ((imagined - stored[:, 1:]).square().mean(-1) * due).sum() / due.sum().clamp(min=1)

    @abstractmethod
    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """The training loss on a batch of windows."""


class Adapts(ABC):
    """Optional: can correct what it predicts by what was just seen, in the belief alone; no weight changes."""

    can_adapt: bool = True
    """Whether this configuration of the model can; where not, `adapt` is not called."""

    @abstractmethod
    def adapt(self, window: Window, *, num_steps: int, trust: float, generator: torch.Generator) -> Belief:
        """The belief after the last observation of `window`, which corrects all that is imagined from it.

        Folding `update` goes on with that: it must equal adapting to the longer window.

        Args:
            window: `num_steps` + 1 observations of it are enough.
            num_steps: the last steps that count, at most; at least 1. What was not observed does not.
            trust: in what was learned before, above 0: the larger, the smaller the correction.
            generator: for any draw.
        """
