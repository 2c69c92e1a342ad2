"""The model family `ensemble`: a probabilistic ensemble on vectors and discrete values.

Several small networks receive the last few observations and inputs. Each predicts mean and variance of the change of
every signal. A variance on which all members agree is aleatoric (noise). Disagreement between the members is epistemic:
the training data are too few there.

Sources: PETS (arXiv 1805.12114) for the ensemble, its variance bounds and TS-infinity; beta-NLL (arXiv 2203.09168).
docs/design/vectors.md explains the path loss and the scaling of changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from worldline.config import require_at_least
from worldline.device import normal, uniform
from worldline.errors import ConfigError, InputError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, Window, WorldModel
from worldline.models.layers.codes import vector_signals
from worldline.models.layers.gather import share_draw, share_mean, whole_mean
from worldline.models.layers.inputs import InputNormaliser
from worldline.models.layers.standardizer import Standardizer
from worldline.schema import Schema

NUM_HIDDEN_LAYERS: Final = 3
"""Hidden layers per member."""
BOUND_WEIGHT: Final = 0.01
"""Loss weight that pulls the upper and lower variance bounds together, as in PETS."""


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Sizes of the networks and weights of the loss terms.

    Args:
        inputs: observation signals that the model encodes and predicts; no images.
        num_members: M, number of networks, at least 2.
        history: number of observations that a prediction uses, at least 1.
        width: units of each of the three hidden layers.
        beta: exponent of beta-NLL, 0 to 1. 0 is the plain likelihood; at 1, errors count alike at any noise level.
        path_weight: weight of the open-loop error over whole paths, relative to the single-step loss.
        blanked: share of the observed values that training masks. The networks so learn their uncertainty when a
            sensor drops out.
        timed: whether the duration of each step is an input; for logs with steps of different durations.
    """

    inputs: tuple[str, ...]
    num_members: int = 5
    history: int = 3
    width: int = 200
    beta: float = 0.5
    path_weight: float = 1.0
    blanked: float = 0.05
    timed: bool = False

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty. Name at least one vector or discrete observation signal.")
        require_at_least(2, self, "num_members")
        require_at_least(1, self, "history", "width")
        require_at_least(0, self, "path_weight")
        if not 0 <= self.beta <= 1:
            raise ConfigError(f"beta is {self.beta}. It must lie between 0 and 1.")
        if not 0 <= self.blanked < 1:
            raise ConfigError(f"blanked is {self.blanked}. It must be at least 0 and below 1.")


@dataclass(frozen=True, kw_only=True)
class EnsembleBelief(Belief):
    """The last observations of each member, newest first. Particle m always belongs to member m.

    Args:
        codes: z-scores; the member's prediction where a value is missing.
        stale: age of each value. 0 if it was observed or predicted in a rollout, k / (k + 1) after k steps without an
            observation, 1 if it was never observed.
        inputs: z-scores of the inputs between the observations, newest first.
    """

    codes: Float[Tensor, "B M history size"]
    stale: Float[Tensor, "B M history signals"]
    inputs: Float[Tensor, "B M gaps I"]

    def features(self) -> Float[Tensor, "B M D"]:
        """All parts concatenated; the present z-scores come first."""
        return torch.cat([self.codes.flatten(2), self.stale.flatten(2), self.inputs.flatten(2)], -1)

    def push(self, codes: Tensor, stale: Tensor, now: Tensor) -> EnsembleBelief:
        """The belief one step later. `codes` and `stale` [B, M, ...] are new; `now` [B, I] led to them."""
        inputs = now[:, None, None].expand(-1, codes.shape[1], -1, -1)
        return EnsembleBelief(
            codes=torch.cat([codes[:, :, None], self.codes[:, :, :-1]], 2),
            stale=torch.cat([stale[:, :, None], self.stale[:, :, :-1]], 2),
            inputs=torch.cat([inputs, self.inputs], 2)[:, :, : self.inputs.shape[2]],
        )


@dataclass(frozen=True, kw_only=True)
class MemberPrediction:
    """Each member's prediction of the next step, z-scores."""

    mean: Float[Tensor, "B M size"]
    variance: Float[Tensor, "B M size"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Aleatoric and epistemic variance of a prediction, per component of the codes, physical units squared.

    The code of an angle has two components (sine, cosine); that of a discrete signal has one per value.

    Args:
        aleatoric: mean of the members' variances.
        epistemic: variance of the members' means.
    """

    aleatoric: Float[Tensor, "B N T size"]
    epistemic: Float[Tensor, "B N T size"]


class MemberLinear(nn.Module):
    """One linear layer per member, computed as one batched product.

    Args:
        num_members: M.
        wide: input features.
        narrow: output features.
    """

    def __init__(self, num_members: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_members, wide, narrow))
        self.bias = nn.Parameter(torch.empty(num_members, 1, narrow))
        for parameter, limit in ((self.weight, (3 / wide) ** 0.5), (self.bias, wide**-0.5)):
            nn.init.uniform_(parameter, -limit, limit)

    def forward(self, values: Float[Tensor, "M R wide"]) -> Float[Tensor, "M R narrow"]:
        """The output of each member for its rows."""
        return torch.baddbmm(self.bias, values, self.weight)


class Ensemble(WorldModel):
    """The model. Its belief holds the last `history` observations, once per member.

    A missing value is replaced by each member's prediction and marked with its age. The last observed value is not
    carried forward, because that would ignore the inputs since then. A value that was never observed is predicted as
    the mean, with the variance of the training data.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `EnsembleConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: an input is an image.
    """

    Config = EnsembleConfig
    deterministic = False

    def __init__(self, *, schema: Schema, config: EnsembleConfig) -> None:
        super().__init__()
        signals = vector_signals(schema, config.inputs, family="ensemble")
        self.schema, self.config, self.context = schema, config, config.history
        self.codes = Standardizer(signals)
        self.present = slice(len(self.codes.owner))
        self.inputs = InputNormaliser(schema, timed=config.timed)
        members, width, size = config.num_members, config.width, len(self.codes.owner)
        wide = config.history * (size + len(signals) + self.inputs.size)
        self.layers = nn.ModuleList(
            [MemberLinear(members, wide, width)]
            + [MemberLinear(members, width, width) for _ in range(NUM_HIDDEN_LAYERS - 1)]
            + [MemberLinear(members, width, 2 * size)]
        )
        self.upper = nn.Parameter(torch.full((members, size), 0.5))  # bound of the log variance of z-scores
        self.lower = nn.Parameter(torch.full((members, size), -10.0))  # bound in units of one step's change

    def fit_normaliser(self, window: Window) -> None:
        """Fits each component on its observed values. A signal that was never observed keeps its scale."""
        self.codes.fit(window.observations, window.observed)
        self.inputs.fit(window.past)

    def encode(self, window: Window, *, generator: torch.Generator) -> EnsembleBelief:
        """The last observations, with gaps filled by each member's prediction; draws nothing."""
        del generator
        codes, seen = self.codes(window.observations, window.observed), self._seen(window.observed)
        return self._follow(codes, seen, self.inputs(window.past)[:, 0])[-1]

    def update(
        self,
        belief: Belief,
        inputs: Inputs,
        observation: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B"]],
        *,
        generator: torch.Generator,
    ) -> EnsembleBelief:
        """The belief one step later; draws nothing."""
        del generator
        codes, seen = self.codes(observation, observed), self._seen(observed)
        return self._observe(_memory(belief), self.inputs(inputs)[:, 0, 0], codes, seen)

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """One particle per member, each with independent noise at every step (TS-infinity)."""
        batch, versions, steps, _ = inputs.actions.shape
        known = self.inputs(inputs).flatten(0, 1)
        memory = _repeat(_memory(belief), versions)
        path = []
        for step in range(steps):
            predicted = self._predict(memory, known[:, step])
            noise = _noise(predicted.mean[::versions], generator).repeat_interleave(versions, 0)
            memory = _imagine(memory, predicted.mean + predicted.variance.sqrt() * noise, known[:, step])
            path.append(memory.features())
        features = torch.stack(path, 2).unflatten(0, (batch, versions))
        return LatentRollout(features=features, final=memory)

    def belief(self, features: Float[Tensor, "B D"]) -> EnsembleBelief:
        """The belief that `features` hold; all members share it."""
        config, signals = self.config, len(self.codes.signals)
        sizes = [config.history * len(self.codes.owner), config.history * signals]
        shared = features[:, None].expand(-1, config.num_members, -1)
        codes, stale, inputs = shared.split([*sizes, (config.history - 1) * self.inputs.size], -1)
        return EnsembleBelief(
            codes=codes.unflatten(-1, (config.history, -1)),
            stale=stale.unflatten(-1, (config.history, signals)),
            inputs=inputs.unflatten(-1, (config.history - 1, self.inputs.size)),
        )

    @torch.no_grad()
    def uncertainty(
        self, belief: Belief, inputs: Inputs, *, generator: torch.Generator, num_particles: int = 32
    ) -> Spread:
        """Aleatoric and epistemic variance of each step, by the law of total variance conditioned on the member.

        The first step is exact. Later steps use particles: the variance of a member is the mean variance over its
        particles plus the variance of its means over them. Particles come in pairs with opposite noise, so the means
        of a linear world are exact at every step.

        Args:
            belief: from `encode` or `update`.
            inputs: T steps of N candidates.
            generator: for the particles; all N candidates share the noise.
            num_particles: per member; even.

        Raises:
            InputError: `num_particles` is odd or not positive.

        Source: Depeweg et al. (arXiv 1710.07283), section 3, for the decomposition.
        """
        if num_particles < 2 or num_particles % 2:
            raise InputError(f"num_particles is {num_particles}. It must be even and positive: particles form pairs.")
        batch, versions, steps, _ = inputs.actions.shape
        known = self.inputs(inputs).flatten(0, 1).repeat_interleave(num_particles, 0)
        memory = _repeat(_memory(belief), versions * num_particles)
        aleatoric, epistemic = [], []
        for step in range(steps):
            predicted = self._predict(memory, known[:, step])
            mean = predicted.mean.unflatten(0, (batch, versions, num_particles))
            within = predicted.variance.unflatten(0, (batch, versions, num_particles)).mean(2) + mean.var(
                2, correction=0
            )
            aleatoric.append(within.mean(2))
            epistemic.append(mean.mean(2).var(2, correction=0))
            half = _noise(mean[:, :1, : num_particles // 2], generator)
            noise = torch.cat([half, -half], 2).expand_as(mean).flatten(0, 2)
            memory = _imagine(memory, predicted.mean + predicted.variance.sqrt() * noise, known[:, step])
        unit = self.codes.deviation.square()
        return Spread(aleatoric=torch.stack(aleatoric, 2) * unit, epistemic=torch.stack(epistemic, 2) * unit)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Single-step likelihood, open-loop error over whole paths, and the distance of the variance bounds.

        In training each member weights each window by a random count (Poisson, mean 1). The counts are drawn anew at
        each call, so in the long run all members learn from the same data. This departs from the fixed bootstraps of
        PETS. Some observed values are masked; they remain targets.
        """
        config = self.config
        codes, seen = self.codes(window.observations, window.observed), self._seen(window.observed)
        now, visible = self.inputs(window.past)[:, 0], seen
        share = torch.ones(len(codes), config.num_members, 1, device=codes.device)
        if self.training:

            def counts(shape: tuple[int, ...]) -> Tensor:
                return torch.poisson(torch.ones(shape, device=generator.device), generator).to(codes.device)

            share = share_draw(counts, share.shape)
            chance = share_draw(lambda shape: uniform(shape, generator, seen.device), seen.shape)
            visible = seen & (chance >= config.blanked)
        with torch.no_grad():
            memories = self._follow(codes, visible, now)
        terms = {"step": self._step_loss(memories, codes, seen, now, share)}
        terms["bounds"] = (self.upper - self.lower).mean()
        weights = {"step": 1.0, "bounds": BOUND_WEIGHT}
        if config.path_weight:
            terms["path"] = self._path_loss(memories, codes, seen, now, share)
            weights["path"] = config.path_weight
        return Losses(terms=terms, weights=weights)

    def _step_loss(
        self, memories: list[EnsembleBelief], codes: Tensor, seen: Tensor, now: Tensor, share: Tensor
    ) -> Float[Tensor, ""]:
        """beta-NLL of each observed value given the observations before it, in units of one step's change."""
        length = len(memories) - 1
        memory = EnsembleBelief(
            codes=torch.cat([one.codes for one in memories[:-1]]),
            stale=torch.cat([one.stale for one in memories[:-1]]),
            inputs=torch.cat([one.inputs for one in memories[:-1]]),
        )
        predicted = self._predict(memory, now.transpose(0, 1).flatten(0, 1))
        target = codes[:, 1:].transpose(0, 1).flatten(0, 1)[:, None]
        known = seen[:, 1:, self.codes.owner].transpose(0, 1).flatten(0, 1)[:, None] & ~self._never(memory)
        variance = predicted.variance / self.codes.change.square()
        error = ((predicted.mean - target) / self.codes.change).square()
        likelihood = 0.5 * (error / variance + variance.log()) * variance.detach() ** self.config.beta
        return share_mean(likelihood, known * share.repeat(length, 1, 1), 0).mean()

    def _path_loss(
        self, memories: list[EnsembleBelief], codes: Tensor, seen: Tensor, now: Tensor, share: Tensor
    ) -> Float[Tensor, ""]:
        """Open-loop squared error of each member's means, divided by that of persistence (docs/design/vectors.md)."""
        start = min(self.config.history, now.shape[1]) - 1
        memory, path = memories[start], []
        observed_before = ~self._never(memory)
        for step in range(start, now.shape[1]):
            memory = _imagine(memory, self._predict(memory, now[:, step]).mean, now[:, step])
            path.append(memory.codes[:, :, 0])
        target, known = codes[:, start + 1 :].transpose(0, 1), seen[:, start:, self.codes.owner].transpose(0, 1)
        both = (known[1:] & known[0]).float()
        persistence = whole_mean((target - codes[:, start]).square(), both, 1)
        error = (torch.stack(path) - target[:, :, None]).square()
        error = share_mean(error, (known[1:, :, None] & observed_before) * share, 1)
        return (error / (persistence + self.codes.change.square())[:, None]).mean()

    def _follow(
        self, codes: Float[Tensor, "B H size"], seen: Bool[Tensor, "B H signals"], now: Tensor
    ) -> list[EnsembleBelief]:
        """The belief after each observation; `now` [B, H-1, I] are the inputs between them."""
        members, history = self.config.num_members, self.config.history
        first = codes[:, 0].where(seen[:, 0, self.codes.owner], 0.0)
        stale = torch.ones(len(codes), members, history, len(self.codes.signals), device=codes.device)
        stale[:, :, 0] = (~seen[:, :1]).to(stale.dtype)
        memory = EnsembleBelief(
            codes=first[:, None, None].expand(-1, members, history, -1),
            stale=stale,
            inputs=torch.zeros(len(codes), members, history - 1, self.inputs.size, device=codes.device),
        )
        memories = [memory]
        for step in range(1, codes.shape[1]):
            memories.append(self._observe(memories[-1], now[:, step - 1], codes[:, step], seen[:, step]))
        return memories

    def _observe(
        self, memory: EnsembleBelief, now: Tensor, codes: Tensor, seen: Bool[Tensor, "B signals"]
    ) -> EnsembleBelief:
        stale = (~seen)[:, None] / (2 - memory.stale[:, :, 0])
        held = codes[:, None].expand(-1, memory.codes.shape[1], -1)
        if not seen.all():
            held = held.where(seen[:, None, self.codes.owner], self._predict(memory, now).mean)
        return memory.push(held, stale, now)

    def _predict(self, memory: EnsembleBelief, now: Float[Tensor, "B I"]) -> MemberPrediction:
        """Each member's prediction of the step with inputs `now`."""
        change, present = self.codes.change, memory.codes[:, :, 0]
        observed_once = memory.stale[..., self.codes.owner] < 1
        moved = memory.codes[:, :, :-1] - memory.codes[:, :, 1:]
        moved = (moved / change).where(observed_once[:, :, :-1] & observed_once[:, :, 1:], 0.0)
        inputs = torch.cat([now[:, None].expand(-1, present.shape[1], -1), memory.inputs.flatten(2)], -1)
        hidden = torch.cat([present, moved.flatten(2), memory.stale.flatten(2), inputs], -1).transpose(0, 1)
        for layer in self.layers[:-1]:
            hidden = silu(layer(hidden))
        step, spread = self.layers[-1](hidden).float().transpose(0, 1).chunk(2, -1)
        upper = self.upper - 2 * change.log()
        spread = upper - softplus(upper - spread)
        spread = self.lower + softplus(spread - self.lower)
        never = self._never(memory)
        return MemberPrediction(
            mean=present + (step * change).where(~never, 0.0),
            variance=spread.exp() * change.square() + never.float(),  # 1 is the variance of z-scores
        )

    def _never(self, memory: EnsembleBelief) -> Bool[Tensor, "B M size"]:
        return memory.stale[:, :, 0, self.codes.owner] == 1

    def _seen(self, observed: Mapping[str, Bool[Tensor, "*lead"]]) -> Bool[Tensor, "*lead signals"]:
        return torch.stack([observed[signal.name] for signal in self.codes.signals], -1)


def _memory(belief: Belief) -> EnsembleBelief:
    if not isinstance(belief, EnsembleBelief):
        raise InputError(f"belief is a {type(belief).__name__}. Pass a belief that `encode` of this model returned.")
    return belief


def _repeat(memory: EnsembleBelief, times: int) -> EnsembleBelief:
    index = torch.arange(len(memory.codes), device=memory.codes.device)
    return memory.select(index.repeat_interleave(times))


def _imagine(memory: EnsembleBelief, codes: Float[Tensor, "B M size"], now: Float[Tensor, "B I"]) -> EnsembleBelief:
    """The belief one step later, with predicted values that count as observed."""
    return memory.push(codes, torch.zeros_like(memory.stale[:, :, 0]), now)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return normal(like.shape, generator, like.device)
