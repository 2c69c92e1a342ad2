"""The contract of learned models, `WorldModel`, and the tensors that it takes and returns.

Shape letters: B batch, N candidates, S samples (1 if deterministic), H context, T horizon, A action size,
D latent size, E exogenous size. Tensors are in physical units; the model normalises them itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldline.config import BoundedConfig
from worldline.errors import ConfigError, UnsupportedError

AnyBelief = TypeVar("AnyBelief", bound="Belief")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The known inputs of T steps.

    Args:
        actions: concatenated action signals, physical units; discrete ones as one-hot.
        exogenous: concatenated exogenous signals; None if the schema has none.
        step_s: duration of each step, s.
    """

    actions: Float[Tensor, "B N T A"]
    exogenous: Float[Tensor, "B T E"] | None
    step_s: Float[Tensor, "B T"]

    def steps(self, which: slice | Sequence[int]) -> Inputs:
        """The inputs of the steps `which`, a slice or indices."""
        exogenous = None if self.exogenous is None else self.exogenous[:, which]
        return Inputs(actions=self.actions[:, :, which], exogenous=exogenous, step_s=self.step_s[:, which])


@dataclass(frozen=True, kw_only=True)
class Window:
    """H observations and the H-1 inputs between them. Input i leads from observation i to i+1.

    A window that continues a belief has H inputs; the first one leads to the first observation.

    Args:
        observations: per signal [B, H, *shape], in the dtype of the store.
        observed: per signal [B, H]; the model must ignore values where it is False.
        past: inputs with N = 1 and T = H-1 (or H).
        reward: sum over all reward signals, per step; None if the schema has no reward.
        terminated: whether observation i+1 is terminal; None if it was not read.
        episode: number of the logged episode; None if it was not read.
    """

    observations: Mapping[str, Tensor]
    observed: Mapping[str, Bool[Tensor, "B H"]]
    past: Inputs
    reward: Float[Tensor, "B T"] | None = None
    terminated: Bool[Tensor, "B T"] | None = None
    episode: Int[Tensor, " B"] | None = None

    @property
    def length(self) -> int:
        """H."""
        return next(iter(self.observations.values())).shape[1]

    def first(self, length: int) -> Window:
        """The first `length` observations (at least 1) and the inputs between them, for `WorldModel.encode`."""
        return self._part(slice(length), slice(length - 1))

    def step(self, at: int) -> Window:
        """Observation `at` and the input that leads to it, for `WorldModel.update`."""
        place = at - self.length + self.past.step_s.shape[1]
        return self._part(slice(at, at + 1), slice(place, place + 1))

    def _part(self, observations: slice, inputs: slice) -> Window:
        return Window(
            observations={name: values[:, observations] for name, values in self.observations.items()},
            observed={name: values[:, observations] for name, values in self.observed.items()},
            past=self.past.steps(inputs),
        )


class Belief(ABC):
    """A model's estimate of the present state. An immutable dataclass; its leaves are [B, S, ...]."""

    @classmethod
    def of(cls: type[AnyBelief], belief: Belief | None) -> AnyBelief:
        """`belief`, which a model of this class of beliefs made."""
        assert isinstance(belief, cls), f"a {type(belief).__name__} is not a belief of this model"
        return belief

    @abstractmethod
    def features(self) -> Float[Tensor, "B S D"]:
        """The latent that heads read."""

    def select(self: AnyBelief, index: Tensor) -> AnyBelief:
        """The belief of the batch entries in `index` [B'], in this order; entries may repeat.

        Override it if a field is not a tensor [B, ...].
        """
        dataclass_of_tensors = cast("Any", self)
        chosen = {field.name: getattr(self, field.name)[index] for field in fields(dataclass_of_tensors)}
        selected: AnyBelief = replace(dataclass_of_tensors, **chosen)
        return selected


def concatenate(beliefs: Sequence[Belief]) -> Belief | None:
    """The entries of all beliefs in one batch, in order; None if their parts differ in size, as growing caches do."""
    try:
        joined: Belief = join_parts(beliefs)
    except (RuntimeError, ValueError):  # of `torch.cat`, or below
        return None
    return joined


def join_parts(parts: Sequence[Any]) -> Any:
    """Tensors, or dataclasses and sequences of tensors, concatenated along the first axis.

    Raises:
        RuntimeError: tensors differ in the size of another axis.
        ValueError: other values differ.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if is_dataclass(first):
        names = [field.name for field in fields(first)]
        joined = {name: join_parts([getattr(part, name) for part in parts]) for name in names}
        return replace(cast("Any", first), **joined)
    if isinstance(first, tuple | list):
        return type(first)(join_parts(group) for group in zip(*parts, strict=True))
    if any(part != first for part in parts):
        raise ValueError(f"{parts} differ")
    return first


@dataclass(frozen=True, kw_only=True)
class LatentRollout:
    """An open-loop rollout.

    Args:
        features: [..., k, :] is the latent after input k.
        final: the belief after the last input, with batch size B*N, from which a rollout can continue.
    """

    features: Float[Tensor, "B N S T D"]
    final: Belief


def unroll(
    start: AnyBelief, known: Float[Tensor, "B N T I"], step: Callable[[AnyBelief, Tensor], AnyBelief]
) -> LatentRollout:
    """A rollout without random numbers, S = 1.

    Args:
        start: the belief of each candidate, B*N entries.
        known: the inputs of each step.
        step: returns the belief after a step with inputs [B*N, I].
    """
    belief, path = start, list[Tensor]()
    for now in known.flatten(0, 1).unbind(1):
        belief = step(belief, now)
        path.append(belief.features()[:, 0])
    features = torch.stack(path, 1).unflatten(0, known.shape[:2])
    return LatentRollout(features=features[:, :, None], final=belief)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Named scalar terms and their weights.

    Args:
        terms: unweighted scalars.
        weights: one per term.
    """

    terms: Mapping[str, Float[Tensor, ""]]
    weights: Mapping[str, float]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The weighted sum."""
        return torch.stack([self.weights[name] * term for name, term in self.terms.items()]).sum()


@dataclass(frozen=True, kw_only=True)
class ModelConfig(BoundedConfig):
    """Base of the configurations of model families.

    Args:
        inputs: observation signals that the model takes; at least one, each once.
    """

    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inputs:
            raise ConfigError("inputs is empty. Name at least one observation signal.")
        if len(set(self.inputs)) < len(self.inputs):
            raise ConfigError(f"inputs is {self.inputs}. Name each signal once.")


class WorldModel(nn.Module, ABC):
    """A learned model that predicts observations from past observations and inputs.

    Constructed as `Model(schema=..., config=Model.Config(...))`.
    """

    Config: ClassVar[type[Any]]
    """The frozen dataclass that configures this family, a `ModelConfig`."""

    config: Any
    """The configuration of this model."""

    context: int = 1
    """Number of observations that a belief needs for its full accuracy; fewer are accepted."""

    targets: tuple[str, ...] = ()
    """Auxiliary targets: observation signals that only the loss and `fit_normaliser` read, besides the inputs."""

    present: slice = slice(None)
    """The features that describe the present state. The others hold past inputs or past observations."""

    linear: bool = False
    """Whether predicted signals are affine in the actions, so that convex plans are exact. Planning tests it."""
    closed_form: bool = False
    """Whether `fit_normaliser` fits the whole model. It then gets all training data, and there is no training."""

    fits_linear: bool = False
    """Whether `fit_normaliser` fits a linear part, so that it gets all training data as for a model in closed form."""

    shares: tuple[float, ...] = (1.0,)
    """Shares of the trained part, of which validations choose; the rest is a part that was fitted before."""

    num_episodes: int = 0
    """Number of episodes in the logs, for families that leave out some in a part of the fit. Training sets it."""

    deterministic: bool = True
    """Whether encode, update and rollout draw no random numbers."""

    open_loop: bool | None = None
    """Parts of `loss` in families with one of single steps and one of open-loop predictions: only the second (True),
    only the first (False), or both. Training sets it, see `TrainingConfig.open_loop_share`."""

    action_conditioned: bool = True
    """Whether predictions depend on the actions."""

    rollout_width: int = 0
    """Values that a rollout holds per step and sample besides the features, such as the cache of a transformer."""

    @property
    def num_folds(self) -> int:
        """Number of parts of the logs, in their order, for which `without_fold` gives a model; 0 for none."""
        return 0

    def without_fold(self, fold: int) -> WorldModel:
        """A model of the same kind that was fitted without a part of the logs, from 0 to `num_folds` - 1.

        Raises:
            UnsupportedError: `num_folds` is 0.
        """
        raise UnsupportedError(
            f"{type(self).__name__} was fitted to all parts of the logs, so none is without part {fold}. Choose a "
            "family with num_folds above 0, such as an ensemble with folds=True."
        )

    @abstractmethod
    def fit_normaliser(self, window: Window) -> None:
        """Sets the means and standard deviations of all signals from `window`, a large sample of the training data.

        A model in closed form gets windows that cover the training data, in the order of the logs.
        """

    def single_steps(self, window: Window) -> Callable[[torch.Generator], Losses] | None:
        """A loss on random single steps of `window`, which replaces `loss` while `open_loop` is False.

        Args:
            window: covers the training data, as for a model in closed form.

        Returns:
            None by default: the model learns from windows.
        """
        return None

    def shrunk(self, share: float) -> AbstractContextManager[None]:
        """A context in which only a share of the trained part counts, see `shares`."""
        return nullcontext()

    def on_validation(self, sample: Callable[[int], Window], share: float) -> None:
        """Fits parts that depend on the current weights. Called at each validation; does nothing by default.

        Args:
            sample: returns the given number of windows of the training data; the same windows at every call.
            share: completed share of the training, above 0 to 1.
        """

    @abstractmethod
    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        """The belief after the last observation of `window`."""

    def encode_each(self, window: Window, count: int, *, generator: torch.Generator) -> list[Belief]:
        """The beliefs after each of the last `count` observations, oldest first. Encodes each observation once."""
        first = window.length - count + 1
        beliefs = [self.encode(window.first(first), generator=generator)]
        for at in range(first, window.length):
            beliefs.append(self.update(beliefs[-1], window.step(at), generator=generator))
        return beliefs

    @abstractmethod
    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Belief:
        """The belief one step later. Repeated updates over a window must equal `encode` of the window.

        Args:
            belief: from `encode` or `update`.
            step: one observation (H = 1) and the input that leads to it (T = 1).
            generator: for random draws.
        """

    @abstractmethod
    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Predicts the latents under `inputs`: pure, differentiable in the actions, with the same noise for all N."""

    @abstractmethod
    def belief(self, features: Float[Tensor, "B D"]) -> Belief:
        """The belief of stored features, without knowledge of earlier steps. Heads are fitted on it."""

    def forecast_error(
        self, stored: Float[Tensor, "B T1 D"], imagined: Float[Tensor, "B T D"], whole: Bool[Tensor, "B T1"]
    ) -> Float[Tensor, ""]:
        """Mean squared error between predicted and stored features; `refine_dynamics` minimises it.

        Args:
            stored: features after each observation.
            imagined: features predicted open loop from the first stored one.
            whole: whether all inputs of the model were observed. Stored features where it is False are partly
                predictions of the model, so they are not targets.
        """
        counted = whole[:, 1:].float()
        return ((imagined - stored[:, 1:]).square().mean(-1) * counted).sum() / counted.sum().clamp(min=1)

    @abstractmethod
    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """The training loss on a batch of windows."""


class Adapts(ABC):
    """Optional ability: corrects predictions by recent prediction errors, in the belief only; weights do not change."""

    can_adapt: bool = True
    """Whether this configuration of the model can adapt; `adapt` is called only if it can."""

    @abstractmethod
    def adapt(self, window: Window, *, num_steps: int, trust: float, generator: torch.Generator) -> Belief:
        """The belief after the last observation of `window`. It corrects all predictions made from it.

        `update` of this belief continues the adaptation: the result must equal `adapt` on the longer window.

        Args:
            window: the last `num_steps` + 1 observations suffice.
            num_steps: maximum number of recent steps that the correction uses, at least 1; unobserved values do not
                count.
            trust: in the trained weights, above 0; larger values give smaller corrections.
            generator: for random draws.
        """
