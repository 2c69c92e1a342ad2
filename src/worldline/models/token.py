"""The model family `token`: a next-token transformer over the components of signals.

The tokens of a step are its actions and exogenous inputs, then its observations, one token per component. Only
observations are predicted, autoregressively: within a step each component depends on those before it. A rollout draws
them one by one, with a cache of keys and values. It differs from plain binning in three ways:

* Inputs are interpolated between the two nearest bins, so that no precision is lost.
* Samples are smooth functions of the actions. One uniform number, which all candidates share, goes through the inverse
  of the predicted distribution function, whose gradient is exact. The variance that bins add is removed again.
* Half of the bins follow the quantiles of the data, half are evenly spaced over its range.

Limitation: slow signals. A change far below the width of a bin is smaller than the error of the network. The crop
weight of the greenhouse moves by a tenth of a bin per step, and its predictions are worse than persistence
(docs/families.md).

With `actions=False` the sequence holds only observations, and the model is not action-conditioned.

Sources: IRIS (arXiv 2209.00588) for worlds as sequences of tokens; HL-Gauss (arXiv 2403.03950) for smoothed targets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, one_hot

from worldline.config import Depth, Share, Size, Weight
from worldline.device import uniform
from worldline.errors import ConfigError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel
from worldline.models.layers.codes import check_num_components, code_size, to_code, vector_signals
from worldline.models.layers.gather import share_draw, share_mean
from worldline.models.layers.standardizer import Normaliser
from worldline.models.layers.transformer import Cache, CausalTransformer
from worldline.schema import Kind, Schema, Signal

MIN_RANGE: Final = 1e-3
"""Range below which a component counts as constant, in standard deviations."""
QUANTILES_PER_LEVEL: Final = 16
"""Number of quantiles per level among which the levels are picked."""
EVEN_SHARE: Final = 0.1
"""Weight of evenly spaced levels: no gap is smaller than this share of an even gap."""
MARGIN_DEVIATIONS: Final = 3.0
"""Range of the levels beyond the data, in standard deviations of the smoothed target."""
MIN_PROBABILITY: Final = 1e-6
"""Lower bound of a probability in a denominator."""
MIN_VARIANCE_SHARE: Final = 1e-4
"""Share of the variance of a sample that always remains, so that the gradient of its root is finite."""
MIN_WAVES, MAX_WAVES = 0.25, 8.0
"""Number of sine waves over a table, for the smooth initial vectors of bins."""


@dataclass(frozen=True, kw_only=True)
class TokenConfig(ModelConfig):
    """Sizes of the vocabulary and the network.

    Args:
        inputs: observation signals, vector or discrete, in the order of their tokens.
        actions: whether actions and exogenous inputs have tokens; if False, the model is not action-conditioned.
        num_bins: tokens per component of a vector; 6 times `smoothing` of them lie beyond the data.
        smoothing: standard deviation of the target distribution around the true value, in bins; 0 for one-hot targets.
        context_steps: steps that attention covers. Train on longer windows: attention over more steps than a window is
            untrained.
        width: of tokens and layers, a multiple of `2 * num_heads`.
        depth: number of layers.
        num_heads: attention heads.
        hidden: share of the observed values that training masks, so that the model learns to handle missing values.
        num_samples: S, samples per candidate.
    """

    actions: bool = True
    num_bins: Size = 128
    smoothing: Weight = 1.5
    context_steps: Size = 8
    width: Size = 64
    depth: Depth = 2
    num_heads: Size = 4
    hidden: Share = 0.05
    num_samples: Size = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_bins < (least := 2 + 2 * self.margin):
            raise ConfigError(f"num_bins is {self.num_bins}. It must be at least {least}.")

    @property
    def margin(self) -> int:
        """Number of levels beyond the data at each end."""
        return math.ceil(MARGIN_DEVIATIONS * self.smoothing)


class Token(nn.Module, ABC):
    """The embedding of one token, and the conversion of a predicted distribution to values."""

    size: int
    """Number of components of a signal's code that the token covers."""
    num_tokens: int
    """Size of its vocabulary."""

    @abstractmethod
    def fit(self, code: Float[Tensor, "M size"]) -> None:
        """Fits scale and bins on observed values."""

    @abstractmethod
    def scores(self, code: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead size"]:
        """Standardised features of codes in physical units."""

    @abstractmethod
    def embed(self, scores: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead width"]:
        """The vector of a token; differentiable in the scores."""

    @abstractmethod
    def error(self, logits: Float[Tensor, "*lead num"], scores: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead"]:
        """Cross-entropy, nats."""

    @abstractmethod
    def draw(self, logits: Float[Tensor, "*lead num"], uniform: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead size"]:
        """The quantile `uniform`, in [0, 1), of the predicted distribution; differentiable."""

    @abstractmethod
    def mean(self, logits: Float[Tensor, "*lead num"]) -> Float[Tensor, "*lead size"]:
        """The expected scores."""


class Bins(Token):
    """One component of a vector: K increasing levels, each in a bin with edges halfway to its neighbours.

    Args:
        num_bins: K.
        smoothing: see `TokenConfig`.
        margin: levels beyond the data at each end, for the smoothed targets of the outer values.
        width: of its embeddings.
    """

    levels: Tensor

    def __init__(self, *, num_bins: int, smoothing: float, margin: int, width: int) -> None:
        super().__init__()
        self.size, self.num_tokens, self.smoothing, self.margin = 1, num_bins, smoothing, margin
        self.normaliser = Normaliser(1)
        self.register_buffer("levels", torch.linspace(-4.0, 4.0, num_bins))
        self.table = nn.Parameter(smooth_table(num_bins, width))

    @torch.no_grad()
    def fit(self, code: Float[Tensor, "M 1"]) -> None:
        """Sets half of the levels evenly over the range and half at quantiles, with a minimum distance.

        Quantiles are those of the distinct values: a frequent value, such as that of a closed valve, needs one bin.
        """
        if len(code) < 2:
            return
        self.normaliser.fit(code)
        values = self.normaliser(code)[:, 0].unique()
        first, reach = values[0], values[-1] - values[0]
        if reach < MIN_RANGE:
            return
        # Levels are picked among evenly spaced values and quantiles together, and pulled towards even spacing.
        num = self.num_tokens - 2 * self.margin
        shares = torch.linspace(0, 1, QUANTILES_PER_LEVEL * num, device=values.device)
        even = first + shares * reach
        mixed = torch.cat([even, torch.quantile(values, shares)]).sort().values
        picked = torch.linspace(0, 1, num, device=values.device)
        levels = (1 - EVEN_SHARE) * mixed[(picked * (len(mixed) - 1)).long()] + EVEN_SHARE * (first + picked * reach)
        # Levels beyond the data hold the tails of smoothed targets.
        beyond = torch.arange(1, self.margin + 1, device=values.device)
        below = levels[0] - beyond.flip(0) * (levels[1] - levels[0])
        self.levels.copy_(torch.cat([below, levels, levels[-1] + beyond * (levels[-1] - levels[-2])]))

    def scores(self, code: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead 1"]:
        """z-scores."""
        return torch.as_tensor(self.normaliser(code))

    def embed(self, scores: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead width"]:
        """Embeddings interpolated between the two nearest levels; values are clipped to the outermost levels."""
        inside = scores[..., 0].clamp(self.levels[0], self.levels[-1])
        above = torch.searchsorted(self.levels, inside.detach().contiguous(), right=True)
        above = above.clamp(1, self.num_tokens - 1)
        low, high = self.levels[above - 1], self.levels[above]
        share = ((inside - low) / (high - low))[..., None]
        return embedding(above - 1, self.table) * (1 - share) + embedding(above, self.table) * share

    def error(self, logits: Float[Tensor, "*lead K"], scores: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead"]:
        """Cross-entropy with the true bin, or with a Gaussian around the true value (HL-Gauss)."""
        log_chances, edges = logits.float().log_softmax(-1), self._edges()
        number = self.bin(scores)
        if not self.smoothing:
            return -log_chances.gather(-1, number)[..., 0]
        inside = scores.clamp(self.levels[0], self.levels[-1])
        below = torch.special.ndtr((edges - inside) / (self.smoothing * edges.diff()[number]))
        target = below.diff(dim=-1) / (below[..., -1:] - below[..., :1])
        return torch.as_tensor(-(target * log_chances).sum(-1))

    def draw(self, logits: Float[Tensor, "*lead K"], uniform: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead 1"]:
        """A sample, uniform within its bin, then moved to the mean to remove the variance of bins and smoothing.

        So predictions of a world without noise are almost free of noise for any width of bins.
        """
        chances, edges, mean = logits.float().softmax(-1), self._edges(), self.mean(logits)
        reached = chances.cumsum(-1)
        number = (reached <= uniform[..., None]).sum(-1, keepdim=True).clamp(max=self.num_tokens - 1)
        left = (reached.gather(-1, number) - uniform[..., None]) / chances.gather(-1, number).clamp(min=MIN_PROBABILITY)
        drawn = edges[number + 1] - left.clamp(0, 1) * edges.diff()[number]
        variance = (chances * (self._middles() - mean).square()).sum(-1, keepdim=True)
        bins = (chances * edges.diff().square()).sum(-1, keepdim=True)
        own = (variance - bins * (self.smoothing**2 + 1 / 12)) / (variance + bins / 12)
        return mean + (drawn - mean) * own.clamp(min=MIN_VARIANCE_SHARE).sqrt()

    def mean(self, logits: Float[Tensor, "*lead K"]) -> Float[Tensor, "*lead 1"]:
        """The mean over the centres of the bins."""
        return (logits.float().softmax(-1) * self._middles()).sum(-1, keepdim=True)

    def bin(self, scores: Float[Tensor, "*lead"]) -> Int[Tensor, "*lead"]:
        """The index of the bin of each z-score, 0 to K - 1; values beyond the range are in the outermost bin."""
        return torch.searchsorted(self._edges()[1:-1].contiguous(), scores.detach().contiguous(), right=True)

    def _edges(self) -> Float[Tensor, " K1"]:
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.cat([self.levels[:1], middles, self.levels[-1:]])

    def _middles(self) -> Float[Tensor, " K"]:
        edges = self._edges()
        return (edges[1:] + edges[:-1]) / 2


class Choices(Token):
    """A discrete value; its features are its one-hot code."""

    def __init__(self, *, num_values: int, width: int) -> None:
        super().__init__()
        self.size = self.num_tokens = num_values
        self.table = nn.Parameter(torch.randn(num_values, width))

    def fit(self, code: Float[Tensor, "M size"]) -> None:
        """Does nothing."""

    def scores(self, code: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead size"]:
        """The code."""
        return code

    def embed(self, scores: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead width"]:
        """The embeddings of all values, weighted by `scores`."""
        return torch.as_tensor(scores @ self.table)

    def error(self, logits: Float[Tensor, "*lead V"], scores: Float[Tensor, "*lead V"]) -> Float[Tensor, "*lead"]:
        """Cross-entropy with the true value."""
        return -(scores * logits.float().log_softmax(-1)).sum(-1)

    def draw(self, logits: Float[Tensor, "*lead V"], uniform: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead V"]:
        """One value, with straight-through gradients of the probabilities."""
        chances = logits.float().softmax(-1)
        number = (chances.cumsum(-1) <= uniform[..., None]).sum(-1).clamp(max=self.num_tokens - 1)
        return one_hot(number, self.num_tokens) + (chances - chances.detach())

    def mean(self, logits: Float[Tensor, "*lead V"]) -> Float[Tensor, "*lead V"]:
        """The probabilities."""
        return logits.float().softmax(-1)


@dataclass(frozen=True, kw_only=True)
class TokenState(Belief):
    """The sequence of tokens so far.

    Args:
        scores: features of the present; predicted means where a value is missing.
        last: embedding of the last token, which is not in the cache yet.
        cache: of all tokens before it.
    """

    scores: Float[Tensor, "B S D"]
    last: Float[Tensor, "M 1 width"]
    cache: Cache

    def features(self) -> Float[Tensor, "B S D"]:
        """The features of the present."""
        return self.scores

    def select(self, index: Tensor) -> TokenState:
        """The states of the batch entries in `index`."""
        samples = self.scores.shape[1]
        rows = (index[:, None] * samples + torch.arange(samples, device=index.device)).flatten()
        return TokenState(scores=self.scores[index], last=self.last[rows], cache=self.cache.select(rows))


class TokenModel(WorldModel):
    """The model. Its memory covers the last `context_steps` steps per layer.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `TokenConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: an input is an image, or the width does not fit the number of heads.
    """

    Config = TokenConfig
    deterministic = False

    def __init__(self, *, schema: Schema, config: TokenConfig) -> None:
        super().__init__()
        self.schema, self.config, self.context = schema, config, config.context_steps
        self.action_conditioned = config.actions
        self.signals = vector_signals(schema, config.inputs, family="token")
        self.told = nn.ModuleList(
            token for signal in self.signals for token in _make(signal, code_size(signal), config, margin=config.margin)
        )
        inputs = (*schema.actions, *schema.exogenous) if config.actions else ()
        check_num_components(inputs, "token")
        self.given = nn.ModuleList(token for signal in inputs for token in _make(signal, signal.size, config, margin=0))
        self.heads = nn.ModuleList(_head(token, config.width) for token in _tokens(self.told))
        self.missing = nn.Parameter(torch.randn(len(self.told), config.width))
        self.begin = nn.Parameter(torch.randn(config.width))
        width, depth, num_tokens = config.width, config.depth, len(self.told) + len(self.given)
        self.rollout_width, span = 2 * depth * width * num_tokens, config.context_steps * num_tokens
        self.transformer = CausalTransformer(width=width, depth=depth, num_heads=config.num_heads, span=span)

    def fit_normaliser(self, window: Window) -> None:
        """Fits scale and bins of every component on observed values; never observed signals keep their bins."""
        first = 0
        for signal in self.signals:
            last = first + _num_tokens(signal)
            seen = to_code(signal, window.observations[signal.name][window.observed[signal.name]])
            for token, code in _parts(self.told[first:last], seen):
                token.fit(code)
            first = last
        if len(self.given):
            for token, code in _parts(self.given, _join(window.past).flatten(0, 2)):
                token.fit(code)

    def encode(self, window: Window, *, generator: torch.Generator) -> TokenState:
        """The state after all observations. Draws nothing: features of missing values are predicted means."""
        scores, known = self._scores(window)
        belief = self._begin(scores[:, 0], known[:, 0])
        for at in range(1, window.length):
            belief = self.update(belief, window.step(at), generator=generator)
        return belief

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> TokenState:
        """The state with the tokens of this step appended. Draws nothing."""
        assert isinstance(belief, TokenState)
        scores, known = self._scores(step)
        tokens = self._given(step.past)[:, 0, 0].repeat_interleave(self.config.num_samples, 0)
        return self._append(belief.last, tokens, scores[:, 0], known[:, 0], belief.cache)

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Draws every token from its distribution given all tokens before it."""
        assert isinstance(belief, TokenState)
        batch, samples, _ = belief.scores.shape
        versions, steps = inputs.actions.shape[1:3]
        device = belief.scores.device
        # One row per world, candidate and sample. The caches of all candidates of a world share its past.
        rows = torch.arange(batch * samples, device=device).reshape(batch, 1, samples)
        rows = rows.expand(-1, versions, -1).flatten()
        last, cache = belief.last[rows], belief.cache.select(rows)
        ahead = self._given(inputs).repeat_interleave(samples, 1).flatten(0, 1)
        path = []
        for step in range(steps):
            # One uniform number per sample and component, which all candidates share.
            share = uniform((batch, 1, samples, len(self.told)), generator, device)
            share = share.expand(-1, versions, -1, -1).flatten(0, 2)
            scores, last, cache = self._imagine(last, ahead[:, step], share, cache)
            path.append(scores)
        features = torch.stack(path, 1).reshape(batch, versions, samples, steps, -1)
        final = TokenState(scores=features[..., -1, :].flatten(0, 1), last=last, cache=cache)
        return LatentRollout(features=features, final=final)

    def belief(self, features: Float[Tensor, "B D"]) -> TokenState:
        """A sequence that begins with the present."""
        known = torch.ones(len(features), len(self.told), dtype=torch.bool, device=features.device)
        return self._begin(features, known)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Mean cross-entropy of each observed component given all tokens before it."""
        scores, known = self._scores(window)
        shown = known
        if self.training and self.config.hidden:
            chance = share_draw(lambda shape: uniform(shape, generator, known.device), known.shape)
            shown = known & (chance >= self.config.hidden)
        observed, inputs = self._embed(scores, shown), self._given(window.past)[:, 0]
        num_observed, num_given = observed.shape[2], inputs.shape[2]
        start = torch.cat([self.begin.expand(len(observed), 1, -1), observed[:, 0]], 1)
        rest = torch.cat([inputs, observed[:, 1:]], 2).flatten(1, 2)
        read, _ = self.transformer(torch.cat([start, rest], 1)[:, :-1])
        later = read[:, num_observed:].unflatten(1, (-1, num_given + num_observed))[:, :, num_given:]
        before = torch.cat([read[:, None, :num_observed], later], 1)  # output before each token, which predicts it
        errors = [
            token.error(head(before[..., number, :]), score)
            for number, (head, (token, score)) in enumerate(zip(self.heads, _parts(self.told, scores), strict=True))
        ]
        return Losses(terms={"tokens": share_mean(torch.stack(errors, -1), known.float())}, weights={"tokens": 1.0})

    def _begin(self, scores: Float[Tensor, "B D"], known: Bool[Tensor, "B C"]) -> TokenState:
        last = self.begin.expand(len(scores) * self.config.num_samples, 1, -1)
        return self._append(last, last[:, :0], scores, known, None)

    def _append(
        self,
        last: Float[Tensor, "M 1 width"],
        inputs: Float[Tensor, "M G width"],
        scores: Float[Tensor, "B D"],
        known: Bool[Tensor, "B C"],
        cache: Cache | None,
    ) -> TokenState:
        """The state one observation later, in one pass."""
        samples = self.config.num_samples
        observed = self._embed(scores, known).repeat_interleave(samples, 0)
        read, cache = self.transformer(torch.cat([last, inputs, observed[:, :-1]], 1), cache=cache)
        present = scores.repeat_interleave(samples, 0)
        if not known.all():
            before = read[:, inputs.shape[1] :].unbind(1)
            tokens = _tokens(self.told)
            expected = [token.mean(head(at)) for token, head, at in zip(tokens, self.heads, before, strict=True)]
            seen = [flag.expand(-1, token.size) for token, flag in zip(tokens, known.split(1, -1), strict=True)]
            present = present.where(torch.cat(seen, -1).repeat_interleave(samples, 0), torch.cat(expected, -1))
        return TokenState(scores=present.unflatten(0, (-1, samples)), last=observed[:, -1:], cache=cache)

    def _imagine(
        self,
        last: Float[Tensor, "M 1 width"],
        inputs: Float[Tensor, "M G width"],
        uniform: Float[Tensor, "M C"],
        cache: Cache,
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M 1 width"], Cache]:
        """The next observation, drawn token by token, the last token, and the cache of all tokens before it."""
        unread, scores = torch.cat([last, inputs], 1), []
        for token, head, chance in zip(_tokens(self.told), self.heads, uniform.unbind(1), strict=True):
            read, cache = self.transformer(unread, cache=cache)
            scores.append(token.draw(head(read[:, -1]), chance))
            unread = token.embed(scores[-1])[:, None]
        return torch.cat(scores, -1), unread, cache

    def _scores(self, window: Window) -> tuple[Float[Tensor, "B H D"], Bool[Tensor, "B H C"]]:
        """The features, and which tokens were observed; missing values count as 0."""
        codes, known = [], []
        for signal in self.signals:
            seen, values = window.observed[signal.name], window.observations[signal.name]
            codes.append(to_code(signal, values.where(seen.reshape(seen.shape + (1,) * len(signal.shape)), 0)))
            known += [seen] * _num_tokens(signal)
        scores = [token.scores(code) for token, code in _parts(self.told, torch.cat(codes, -1))]
        return torch.cat(scores, -1), torch.stack(known, -1)

    def _embed(self, scores: Float[Tensor, "*lead D"], seen: Bool[Tensor, "*lead C"]) -> Float[Tensor, "*lead C width"]:
        tokens = torch.stack([token.embed(score) for token, score in _parts(self.told, scores)], -2)
        return tokens.where(seen[..., None], self.missing)

    def _given(self, inputs: Inputs) -> Float[Tensor, "B N T G width"]:
        if not len(self.given):
            return inputs.actions.new_zeros(*inputs.actions.shape[:3], 0, self.config.width)
        parts = _parts(self.given, _join(inputs))
        return torch.stack([token.embed(token.scores(code)) for token, code in parts], -2)


def smooth_table(num: int, width: int) -> Float[Tensor, "num width"]:
    """Random vectors, one per row, with similar neighbours: sine waves, shorter ones with smaller amplitude."""
    # No linspace: transformers makes it ignore the device context in which a model is built.
    place = torch.arange(num)[:, None] / max(1, num - 1)
    waves = torch.logspace(math.log10(MIN_WAVES), math.log10(MAX_WAVES), width)
    heights = waves.rsqrt() / waves.reciprocal().mean().sqrt()
    return math.sqrt(2) * heights * torch.sin(2 * math.pi * (waves * place + torch.rand(width)))


def _make(signal: Signal, size: int, config: TokenConfig, *, margin: int) -> list[Token]:
    if signal.kind is Kind.DISCRETE:
        return [Choices(num_values=size, width=config.width)]
    bins, width = config.num_bins, config.width
    return [Bins(num_bins=bins, smoothing=config.smoothing, margin=margin, width=width) for _ in range(size)]


def _head(token: Token, width: int) -> nn.Linear:
    """The layer that returns logits, initialised with similar weights for neighbouring bins."""
    head = nn.Linear(width, token.num_tokens)
    if isinstance(token, Bins):
        with torch.no_grad():
            head.weight.copy_(smooth_table(token.num_tokens, width) * (0.3 / math.sqrt(width)))
            head.bias.zero_()
    return head


def _num_tokens(signal: Signal) -> int:
    return 1 if signal.kind is Kind.DISCRETE else code_size(signal)


def _tokens(modules: nn.ModuleList) -> list[Token]:
    return cast("list[Token]", list(modules))


def _parts(modules: nn.ModuleList, numbers: Float[Tensor, "*lead size"]) -> list[tuple[Token, Tensor]]:
    """Each token with its components of `numbers`."""
    tokens = _tokens(modules)
    return list(zip(tokens, numbers.split([token.size for token in tokens], -1), strict=True))


def _join(inputs: Inputs) -> Float[Tensor, "B N T I"]:
    if inputs.exogenous is None:
        return inputs.actions
    return torch.cat([inputs.actions, inputs.exogenous[:, None].expand(-1, inputs.actions.shape[1], -1, -1)], -1)
