"""The model family `rssm`: a recurrent state-space model with discrete stochastic latents.

The state has a deterministic recurrent part (`hidden`) and a set of categorical samples (`drawn`). The prior is the
distribution of the samples before an observation, the posterior after it. The model learns to reconstruct observations,
with a posterior that the prior can predict.

Source: the world model of DreamerV3 (arXiv 2301.04104). Unlike there, vectors are z-scored instead of passed through
symlog. Their scale is known, because logs exist before training, and z-scores keep small changes of large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from worldline.config import Bounds, Size, Weight
from worldline.device import uniform
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel
from worldline.models.layers.codes import split_signals
from worldline.models.layers.encoders import ImageEncoder, VectorEncoder
from worldline.models.layers.gather import share_draw, share_mean
from worldline.models.layers.image_decoder import ImageDecoder
from worldline.models.layers.mlp import mlp
from worldline.models.layers.standardizer import InputNormaliser, Normaliser
from worldline.schema import Role, Schema

UNIFORM_SHARE: Final = 0.01
"""Share of the uniform distribution in every categorical distribution, so that no divergence is infinite."""
NUM_REWARD_BINS, MAX_SYMLOG_REWARD = 63, 6.0
"""Two-hot bins of the reward, up to 402 standard deviations. The paper uses 255 bins up to a symlog of 20, because its
rewards are not standardised."""
Groups = Float[Tensor, "*lead groups classes"]
"""Numbers of the classes of each categorical group."""


@dataclass(frozen=True, kw_only=True)
class RssmConfig(ModelConfig):
    """Sizes of the networks and weights of the loss terms.

    A reconstruction weight is the value in nats of the full variance of a signal: higher weights give finer states.

    Args:
        inputs: observation signals that are encoded and reconstructed.
        hidden_size: of the recurrent state.
        num_groups: number of categorical variables.
        num_classes: classes of each categorical variable.
        width: units of all hidden layers except those of images.
        channels: of the image encoder's and decoder's convolutions.
        image_width: units of the hidden layer of the image encoder and decoder.
        image_weight: of an image's squared error, averaged over its z-scored pixels.
        vector_weight: of the squared error of each z-scored component.
        dynamics_weight: of the loss that moves the prior towards the posterior.
        representation_weight: of the loss that moves the posterior towards the prior.
        free_nats: divergence per step below which there is no loss.
        continuation: whether the state also learns if an episode terminates; see `Window.terminated`.
        num_samples: S, posterior samples of a belief.
        context: number of observations that a belief needs for its full accuracy.
    """

    hidden_size: Size = 256
    num_groups: Size = 16
    num_classes: Annotated[int, Bounds(at_least=2, at_most=10_000)] = 16
    width: Size = 256
    channels: Size = 48
    image_width: Size = 512
    image_weight: Weight = 500.0
    vector_weight: Weight = 50.0
    dynamics_weight: Weight = 1.0
    representation_weight: Weight = 0.1
    free_nats: Weight = 1.0
    continuation: bool = False
    num_samples: Size = 1
    context: Size = 8


@dataclass(frozen=True, kw_only=True)
class RssmBelief(Belief):
    """The state of the model.

    Args:
        state: the recurrent state, then the one-hot samples.
    """

    state: Float[Tensor, "B S D"]

    def features(self) -> Float[Tensor, "B S D"]:
        """The state."""
        return self.state


@dataclass(frozen=True, kw_only=True)
class Path:
    """States and distributions over a window.

    Args:
        states: after each observation.
        prior: log-probabilities before each observation.
        posterior: log-probabilities after each observation.
    """

    states: Float[Tensor, "B H S D"]
    prior: Float[Tensor, "B H S groups classes"]
    posterior: Float[Tensor, "B H S groups classes"]


def log_probabilities(logits: Float[Tensor, "*lead classes"]) -> Float[Tensor, "*lead classes"]:
    """Log-probabilities of the softmax, mixed with the uniform distribution."""
    shares = logits.float().softmax(-1)
    return ((1 - UNIFORM_SHARE) * shares + UNIFORM_SHARE / logits.shape[-1]).log()


def draw(
    chances: Float[Tensor, "*lead classes"], noise: Float[Tensor, "*#lead classes"]
) -> Float[Tensor, "*lead classes"]:
    """One-hot samples of categorical distributions, with straight-through gradients.

    Args:
        chances: log-probabilities.
        noise: uniform in [0, 1); equal noise and equal distributions give equal samples.

    Source: Gumbel-max; straight-through gradients (arXiv 1308.3432).
    """
    gumbel = -(-noise.log()).log()
    chosen = torch.zeros_like(chances).scatter(-1, (chances + gumbel).argmax(-1, keepdim=True), 1.0)
    probabilities = chances.exp()
    return chosen + (probabilities - probabilities.detach())


def divergence(left: Groups, right: Groups, *, free_nats: float) -> Float[Tensor, "*lead"]:
    """KL(left ‖ right) of log-probabilities, summed over the groups, in nats; clipped below at `free_nats`."""
    return (left.exp() * (left - right)).sum((-2, -1)).clamp(min=free_nats)


class Recurrence(nn.Module):
    """One step of the recurrent state: a gated recurrent unit with layer normalisation.

    Args:
        drawn: size of the one-hot samples.
        known: size of the inputs.
        hidden: size of the recurrent state.
        width: units of the layer before the recurrent cell.
    """

    def __init__(self, *, drawn: int, known: int, hidden: int, width: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.before = nn.Sequential(nn.Linear(drawn + known, width), nn.LayerNorm(width), nn.GELU())
        self.gates = nn.Sequential(nn.Linear(width + hidden, 3 * hidden), nn.LayerNorm(3 * hidden))

    def forward(
        self, state: Float[Tensor, "*lead D"], known: Float[Tensor, "*lead known"]
    ) -> Float[Tensor, "*lead hidden"]:
        """The recurrent state after a step with inputs `known`."""
        hidden, drawn = state.tensor_split([self.hidden], -1)
        taken = self.before(torch.cat([drawn, known], -1))
        reset, new, share = self.gates(torch.cat([taken, hidden], -1)).float().chunk(3, -1)
        share = torch.sigmoid(share - 1)  # the bias keeps most of the state at initialisation
        return torch.as_tensor(share * torch.tanh(torch.sigmoid(reset) * new) + (1 - share) * hidden)


class Rssm(WorldModel):
    """The model.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order. Predicting rewards shapes the state.
        config: see `RssmConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: the encoder does not support the size of an image.
    """

    Config = RssmConfig
    deterministic = False

    def __init__(self, *, schema: Schema, config: RssmConfig) -> None:
        super().__init__()
        self.schema, self.config, self.context = schema, config, config.context
        self.present = slice(config.hidden_size, None)  # the recurrent state also holds past actions
        width, num_drawn = config.width, config.num_groups * config.num_classes
        size = config.hidden_size + num_drawn
        images, vectors = split_signals(schema, config.inputs)
        self.cameras = tuple(signal.name for signal in images)  # not module names: these must not contain dots
        of_images = {"channels": config.channels, "width": config.image_width}
        self.images = nn.ModuleList(ImageEncoder(signal, out=width, **of_images) for signal in images)
        self.vectors = VectorEncoder(vectors, width=width, out=width) if vectors else None
        self.inputs = InputNormaliser(schema)
        self.recurrence = Recurrence(drawn=num_drawn, known=self.inputs.size, hidden=config.hidden_size, width=width)
        self.prior = mlp([config.hidden_size, width, num_drawn], norm=True)
        self.posterior = mlp([config.hidden_size + width + len(config.inputs), width, num_drawn], norm=True)
        self.image_decoders = nn.ModuleList(ImageDecoder(signal, latent_size=size, **of_images) for signal in images)
        self.vector_decoder = mlp([size, width, self.vectors.size], norm=True) if self.vectors else None
        self.rewards = Normaliser(1)
        self.reward_head = mlp([size, width, NUM_REWARD_BINS], norm=True) if schema.of(Role.REWARD) else None
        if (
            self.reward_head is not None
        ):  # predicts the mean until trained; random weights on the large outer bins would not
            for parameter in self.reward_head[-1].parameters():
                nn.init.zeros_(parameter)
        self.continuation_head = mlp([size, width, 1], norm=True) if config.continuation else None

    def fit_normaliser(self, window: Window) -> None:
        """Fits each image channel and each component on observed values; never observed signals keep their scale."""
        for name, encoder, decoder in zip(self.cameras, self.images, self.image_decoders, strict=True):
            for network in (encoder, decoder):
                assert isinstance(network, ImageEncoder | ImageDecoder)  # for the type checker
                network.fit(window.observations[name], window.observed[name])
        if self.vectors is not None:
            self.vectors.fit(window.observations, window.observed)
        self.inputs.fit(window.past)
        if window.reward is not None:
            self.rewards.fit(window.reward.flatten()[:, None])

    def encode(self, window: Window, *, generator: torch.Generator) -> RssmBelief:
        """The state after the last observation; the state before the first is 0."""
        path = self._filter(window, num_samples=self.config.num_samples, generator=generator)
        return RssmBelief(state=path.states[:, -1])

    def encode_each(self, window: Window, count: int, *, generator: torch.Generator) -> list[Belief]:
        """The states after the last `count` observations; all images pass the encoder in one batch."""
        states = self._filter(window, num_samples=self.config.num_samples, generator=generator).states
        return [RssmBelief(state=state) for state in states[:, -count:].unbind(1)]

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> RssmBelief:
        """The state one step later; sampled from the prior if nothing was observed."""
        state = belief.features()
        known = self.inputs(step.past)[:, 0].expand(-1, state.shape[1], -1)
        embedded, seen = self._embed(step)
        state, _, _ = self._update(self.recurrence(state, known), embedded[:, 0], seen[:, 0], generator)
        return RssmBelief(state=state)

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Samples the prior at each step, with noise [B, 1, S, ...] that all candidates share."""
        _, versions, steps, _ = inputs.actions.shape
        known = self.inputs(inputs)
        start = belief.features()
        state = start[:, None].expand(-1, versions, -1, -1)
        path = []
        for step in range(steps):
            now = known[:, :, None, step].expand(-1, -1, start.shape[1], -1)
            hidden = self.recurrence(state, now)
            chances = self._chances(self.prior(hidden))
            drawn = draw(chances, self._noise(start[:, None], generator))
            state = torch.cat([hidden, drawn.flatten(-2)], -1)
            path.append(state)
        return LatentRollout(features=torch.stack(path, 3), final=RssmBelief(state=state.flatten(0, 1)))

    def belief(self, features: Float[Tensor, "B D"]) -> RssmBelief:
        """The belief with `features` as state."""
        return RssmBelief(state=features[:, None])

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Reconstruction errors, divergences and errors of the heads, each averaged over its observed steps."""
        config = self.config
        path = self._filter(window, num_samples=1, generator=generator)
        states, prior, posterior = path.states[:, :, 0], path.prior[:, :, 0], path.posterior[:, :, 0]
        seen = torch.stack([window.observed[name] for name in config.inputs]).any(0)
        # Two divergences with different weights: the prior learns faster than the posterior gives way (KL balancing).
        dynamics = divergence(posterior.detach(), prior, free_nats=config.free_nats)
        representation = divergence(posterior, prior.detach(), free_nats=config.free_nats)
        terms = {"dynamics": _mean(dynamics, seen), "representation": _mean(representation, seen)}
        weights = {"dynamics": config.dynamics_weight, "representation": config.representation_weight}
        if self.cameras:
            terms["images"] = _mean(self._image_error(states, window), seen)
            weights["images"] = config.image_weight
        if self.vectors is not None:
            terms["vectors"] = _mean(self._vector_error(states, window), seen)
            weights["vectors"] = config.vector_weight
        if self.reward_head is not None:
            terms["reward"], weights["reward"] = self._reward_error(states[:, 1:], window), 1.0
        if self.continuation_head is not None:
            terms["continuation"], weights["continuation"] = self._continuation_error(states[:, 1:], window), 1.0
        return Losses(terms=terms, weights=weights)

    def _filter(self, window: Window, *, num_samples: int, generator: torch.Generator) -> Path:
        embedded, seen = self._embed(window)
        known = self.inputs(window.past)[:, 0, :, None].expand(-1, -1, num_samples, -1)
        hidden = embedded.new_zeros(len(seen), num_samples, self.config.hidden_size, dtype=torch.float32)
        states, priors, posteriors = list[Tensor](), list[Tensor](), list[Tensor]()
        for step in range(seen.shape[1]):
            if step:
                hidden = self.recurrence(states[-1], known[:, step - 1])
            state, prior, posterior = self._update(hidden, embedded[:, step], seen[:, step], generator)
            states.append(state)
            priors.append(prior)
            posteriors.append(posterior)
        return Path(states=torch.stack(states, 1), prior=torch.stack(priors, 1), posterior=torch.stack(posteriors, 1))

    def _update(
        self,
        hidden: Float[Tensor, "B S hidden"],
        embedded: Float[Tensor, "B E"],
        seen: Bool[Tensor, "B signals"],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The state [B, S, D], and the prior and posterior log-probabilities [B, S, groups, classes]."""
        news = torch.cat([embedded, seen.to(embedded.dtype)], -1)[:, None].expand(-1, hidden.shape[1], -1)
        prior = self._chances(self.prior(hidden))
        posterior = self._chances(self.posterior(torch.cat([hidden, news], -1)))
        posterior = posterior.where(seen.any(-1)[:, None, None, None], prior)
        drawn = draw(posterior, self._noise(hidden, generator))
        return torch.cat([hidden, drawn.flatten(-2)], -1), prior, posterior

    def _chances(self, logits: Float[Tensor, "*lead drawn"]) -> Groups:
        return log_probabilities(logits.unflatten(-1, (self.config.num_groups, self.config.num_classes)))

    def _noise(self, like: Float[Tensor, "*lead D"], generator: torch.Generator) -> Groups:
        shape = (*like.shape[:-1], self.config.num_groups, self.config.num_classes)
        draw = partial(uniform, generator=generator, device=like.device)
        return share_draw(draw, shape) if self.training else draw(shape)

    def _embed(self, window: Window) -> tuple[Float[Tensor, "B H E"], Bool[Tensor, "B H signals"]]:
        """The features of each observation, and whether each signal was observed."""
        observed = window.observed
        seen = torch.stack([observed[name] for name in self.config.inputs], -1)
        parts = list[Tensor]()
        for name, encoder in zip(self.cameras, self.images, strict=True):
            features = encoder(window.observations[name].flatten(0, 1), observed[name].flatten())
            parts.append(features.unflatten(0, seen.shape[:2]) * observed[name][..., None])
        if self.vectors is not None:
            parts.append(self.vectors(window.observations, observed))
        return torch.stack(parts).sum(0), seen

    def _image_error(self, states: Float[Tensor, "B H D"], window: Window) -> Float[Tensor, "B H"]:
        error = states.new_zeros(states.shape[:2])
        for name, decoder in zip(self.cameras, self.image_decoders, strict=True):
            assert isinstance(decoder, ImageDecoder)  # for the type checker
            target = decoder.scores(window.observations[name].flatten(0, 1))
            square = (decoder(states.flatten(0, 1)).float() - target).square().mean((1, 2, 3))
            error = error + square.unflatten(0, states.shape[:2]).where(window.observed[name], 0.0)
        return error

    def _vector_error(self, states: Float[Tensor, "B H D"], window: Window) -> Float[Tensor, "B H"]:
        assert self.vectors is not None  # for the type checker
        assert self.vector_decoder is not None
        target = self.vectors.scores(window.observations, window.observed)
        known = self.vectors.flags(window.observed)
        return torch.as_tensor(((self.vector_decoder(states).float() - target).square() * known).sum(-1))

    def _reward_error(self, states: Float[Tensor, "B T D"], window: Window) -> Float[Tensor, ""]:
        assert self.reward_head is not None  # for the type checker
        reward = states.new_zeros(states.shape[:2]) if window.reward is None else window.reward
        bins = symexp_bins(NUM_REWARD_BINS, limit=MAX_SYMLOG_REWARD, device=states.device)
        target = self.rewards(reward[..., None])[..., 0]
        return _mean_if(window.reward is not None, two_hot_loss(self.reward_head(states).float(), target, bins))

    def _continuation_error(self, states: Float[Tensor, "B T D"], window: Window) -> Float[Tensor, ""]:
        assert self.continuation_head is not None  # for the type checker
        ended = states.new_zeros(states.shape[:2]) if window.terminated is None else window.terminated.float()
        logits = self.continuation_head(states).float()[..., 0]
        error = binary_cross_entropy_with_logits(logits, 1 - ended, reduction="none")
        return _mean_if(window.terminated is not None, error)


def _mean(values: Float[Tensor, "*lead"], known: Bool[Tensor, "*lead"]) -> Float[Tensor, ""]:
    return share_mean(values, known.float())


def _mean_if(available: bool, values: Float[Tensor, "*lead"]) -> Float[Tensor, ""]:
    """The mean, or 0 if the window has no targets: the head then gets a gradient of 0."""
    return _mean(values, torch.full_like(values, available, dtype=torch.bool))


def symexp_bins(num_bins: int, *, limit: float, device: torch.device | None = None) -> Float[Tensor, " K"]:
    """Bins in increasing order, symmetric about an exact 0, evenly spaced after symlog, sign(x) ln(|x| + 1).

    Args:
        num_bins: K, odd and at least 3.
        limit: symlog of the largest bin, above 0.
        device: of the result.
    """
    positive = torch.linspace(0.0, limit, num_bins // 2 + 1, device=device).expm1()
    return torch.cat([-positive[1:].flip(0), positive])


def two_hot(values: Float[Tensor, "*lead"], bins: Float[Tensor, " K"]) -> Float[Tensor, "*lead K"]:
    """Weights on the two bins around each value, with the value as mean; values are clipped to the outer bins."""
    inside = values.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, inside.contiguous()).clamp(min=1)
    low, high = bins[above - 1], bins[above]
    share = ((inside - low) / (high - low))[..., None]
    weights = torch.zeros(*values.shape, len(bins), dtype=values.dtype, device=values.device)
    return weights.scatter(-1, above[..., None] - 1, 1 - share).scatter(-1, above[..., None], share)


def two_hot_loss(
    logits: Float[Tensor, "*lead K"], values: Float[Tensor, "*lead"], bins: Float[Tensor, " K"]
) -> Float[Tensor, "*lead"]:
    """Cross-entropy between the predicted distribution and the two-hot encoding of `values`."""
    return -(two_hot(values, bins) * logits.log_softmax(-1)).sum(-1)
