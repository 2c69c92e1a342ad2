"""A next-token transformer: every number becomes a token, and each token is guessed from all that came before it.

A step is a sentence: its actions and exogenous inputs, then its observations, one component after another. Only
observations are guessed. A rollout draws them one by one from a cache of keys and values, so that within a step each
component knows those before it. Three things make it stronger than plain bins, at the price of none:

* What goes in is interpolated between the two nearest bins, so that no digit is lost.
* What is drawn depends smoothly on the actions: one uniform number, the same for all candidates, goes through the
  inverse of the predicted distribution, whose gradient is exact; the spread that the bins added is taken back.
* Half of the bins lie where the data do, half evenly over their range.

What it does badly is slow signals: a change far below the width of a bin drowns in what the network errs by. On 30
episodes of the greenhouse (600 updates, 43 s on one core, one seed) the mean of 8 futures errs, after 6 and 24 hours,
by 0.27 and 0.10 of what standing still errs by for CO2, 0.12 and 0.13 for temperature, 0.23 and 0.25 for humidity; but
by 4.8 and 2.5 times as much for the weight of the crop, which moves by a tenth of a bin in a step.

With `actions=False` it only watches: the sequence holds observations alone, and actions have no effect.

Sources: IRIS (arXiv 2209.00588) for worlds as sequences of tokens; HL-Gauss (arXiv 2403.03950) for smoothed targets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, one_hot

from worldline.errors import ConfigError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, Window, WorldModel
from worldline.models.layers.codes import code_size, to_code
from worldline.models.layers.gather import share_draw, share_mean
from worldline.models.layers.normaliser import Normaliser
from worldline.models.layers.transformer import Cache, CausalTransformer
from worldline.schema import Kind, Schema, Signal

CONSTANT: Final = 1e-3
"""Range, in deviations, below which a component counts as constant."""
FINENESS: Final = 16
"""Quantiles a level from which the levels are picked."""
EVEN: Final = 0.1
"""How much of the way levels are moved to even ones: no gap is smaller than this share of an even one."""
MARGIN: Final = 3.0
"""How far levels reach beyond the data, in deviations of the smoothed target."""
RAREST: Final = 1e-6
"""The smallest chance that is divided by."""
LEAST_SPREAD: Final = 1e-4
"""Share of the variance of a draw that is always kept, so that its root has a gradient."""
LONGEST_WAVE, SHORTEST_WAVE = 0.25, 8.0
"""Waves a table, of the smooth vectors that bins begin with."""


@dataclass(frozen=True, kw_only=True)
class TokenConfig:
    """Size of vocabulary and network.

    Args:
        inputs: observation signals, vector or discrete, in the order in which they are told.
        actions: whether actions and exogenous inputs are told too; False for the model that only watches.
        num_bins: tokens for each component of a vector, 6 times `smoothing` of which lie beyond the data.
        smoothing: deviation of the target around the true value, in bins; 0 for the true bin alone.
        context_steps: steps that attention reaches back. Train on windows that are longer than this: further back
            than a window it has never looked.
        width: of tokens and layers, a multiple of `2 * num_heads`.
        depth: layers.
        num_heads: of attention.
        hidden: share of the observed values that are hidden in training, so that missing ones are known.
        num_samples: S, futures that are drawn for each candidate.
    """

    inputs: tuple[str, ...]
    actions: bool = True
    num_bins: int = 128
    smoothing: float = 1.5
    context_steps: int = 8
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    hidden: float = 0.05
    num_samples: int = 1

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty. Name at least one observation signal.")
        if self.smoothing < 0:
            raise ConfigError(f"smoothing is {self.smoothing}. It must not be negative.")
        least = {
            "num_bins": 2 + 2 * self.margin,
            "context_steps": 1,
            "width": 1,
            "depth": 1,
            "num_heads": 1,
            "num_samples": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least {bound}.")
        if not 0 <= self.hidden < 1:
            raise ConfigError(f"hidden is {self.hidden}. It is a share, at least 0 and below 1.")

    @property
    def margin(self) -> int:
        """Levels of observations beyond the data at either end."""
        return math.ceil(MARGIN * self.smoothing)


class Token(nn.Module, ABC):
    """What stands for one token: numbers to a vector, and a predicted distribution back to numbers."""

    size: int
    """How many numbers of a signal's code it covers."""
    num_tokens: int
    """Size of its vocabulary."""

    @abstractmethod
    def fit(self, code: Float[Tensor, "M size"]) -> None:
        """Takes scale and bins from observed values."""

    @abstractmethod
    def scores(self, code: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead size"]:
        """Physical numbers as features."""

    @abstractmethod
    def embed(self, scores: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead width"]:
        """The vector of a token; differentiable in the scores."""

    @abstractmethod
    def error(self, logits: Float[Tensor, "*lead num"], scores: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead"]:
        """Cross-entropy, nats."""

    @abstractmethod
    def draw(self, logits: Float[Tensor, "*lead num"], uniform: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead size"]:
        """The scores at which the predicted distribution function is `uniform`, in [0, 1); differentiable."""

    @abstractmethod
    def mean(self, logits: Float[Tensor, "*lead num"]) -> Float[Tensor, "*lead size"]:
        """The expected scores."""


class Bins(Token):
    """One component of a vector: K rising levels, around each a bin that reaches half way to those beside it.

    Args:
        num_bins: K.
        smoothing: see `TokenConfig`.
        margin: levels beyond the data at either end, for the smoothed target of values that lie there.
        width: of its vectors.
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
        """Half of the levels evenly over the range, half at quantiles, and none much nearer than even ones.

        A value that is frequent, such as a valve that is shut, needs one bin and not many: it counts once.
        """
        if len(code) < 2:
            return
        self.normaliser.fit(code)
        values = self.normaliser(code)[:, 0].unique()
        if values[-1] - values[0] < CONSTANT:
            return
        num = self.num_tokens - 2 * self.margin
        shares = torch.linspace(0, 1, FINENESS * num, device=values.device)
        even = values[0] + shares * (values[-1] - values[0])
        mixed = torch.cat([even, torch.quantile(values, shares)]).sort().values
        picked = torch.linspace(0, 1, num, device=values.device)
        levels = (1 - EVEN) * mixed[(picked * (len(mixed) - 1)).long()] + EVEN * (
            values[0] + picked * (values[-1] - values[0])
        )
        beyond = torch.arange(1, self.margin + 1, device=values.device)
        below = levels[0] - beyond.flip(0) * (levels[1] - levels[0])
        self.levels.copy_(torch.cat([below, levels, levels[-1] + beyond * (levels[-1] - levels[-2])]))

    def scores(self, code: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead 1"]:
        """z-scores."""
        return torch.as_tensor(self.normaliser(code))

    def embed(self, scores: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead width"]:
        """Interpolated between the two nearest levels; what lies beyond the outermost is as that one."""
        inside = scores[..., 0].clamp(self.levels[0], self.levels[-1])
        above = torch.searchsorted(self.levels, inside.detach().contiguous(), right=True)
        above = above.clamp(1, self.num_tokens - 1)
        low, high = self.levels[above - 1], self.levels[above]
        share = ((inside - low) / (high - low))[..., None]
        return embedding(above - 1, self.table) * (1 - share) + embedding(above, self.table) * share

    def error(self, logits: Float[Tensor, "*lead K"], scores: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead"]:
        """Against the true bin, or a Gaussian around the true value."""
        log_chances, edges = logits.float().log_softmax(-1), self._edges()
        number = self.bin(scores)
        if not self.smoothing:
            return -log_chances.gather(-1, number)[..., 0]
        inside = scores.clamp(self.levels[0], self.levels[-1])
        below = torch.special.ndtr((edges - inside) / (self.smoothing * edges.diff()[number]))
        target = below.diff(dim=-1) / (below[..., -1:] - below[..., :1])
        return torch.as_tensor(-(target * log_chances).sum(-1))

    def draw(self, logits: Float[Tensor, "*lead K"], uniform: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead 1"]:
        """Even within each bin, then nearer to the mean: the spread that bins and smoothing added is taken back.

        So a world without noise is imagined almost without noise, however wide the bins.
        """
        chances, edges, mean = logits.float().softmax(-1), self._edges(), self.mean(logits)
        reached = chances.cumsum(-1)
        number = (reached <= uniform[..., None]).sum(-1, keepdim=True).clamp(max=self.num_tokens - 1)
        left = (reached.gather(-1, number) - uniform[..., None]) / chances.gather(-1, number).clamp(min=RAREST)
        drawn = edges[number + 1] - left.clamp(0, 1) * edges.diff()[number]
        variance = (chances * (self._middles() - mean).square()).sum(-1, keepdim=True)
        bins = (chances * edges.diff().square()).sum(-1, keepdim=True)
        own = (variance - bins * (self.smoothing**2 + 1 / 12)) / (variance + bins / 12)
        return mean + (drawn - mean) * own.clamp(min=LEAST_SPREAD).sqrt()

    def mean(self, logits: Float[Tensor, "*lead K"]) -> Float[Tensor, "*lead 1"]:
        """Of the middles of the bins."""
        return (logits.float().softmax(-1) * self._middles()).sum(-1, keepdim=True)

    def bin(self, scores: Float[Tensor, "*lead"]) -> Int[Tensor, "*lead"]:
        """The number of the bin of each z-score, 0 to K - 1; beyond the range that of the outermost."""
        return torch.searchsorted(self._edges()[1:-1].contiguous(), scores.detach().contiguous(), right=True)

    def _edges(self) -> Float[Tensor, " K1"]:
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.cat([self.levels[:1], middles, self.levels[-1:]])

    def _middles(self) -> Float[Tensor, " K"]:
        edges = self._edges()
        return (edges[1:] + edges[:-1]) / 2


class Choices(Token):
    """A discrete value, as one-hot; its features are the one-hot itself."""

    def __init__(self, *, num_values: int, width: int) -> None:
        super().__init__()
        self.size = self.num_tokens = num_values
        self.table = nn.Parameter(torch.randn(num_values, width))

    def fit(self, code: Float[Tensor, "M size"]) -> None:
        """Nothing to take."""

    def scores(self, code: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead size"]:
        """The code."""
        return code

    def embed(self, scores: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead width"]:
        """The vectors of all values, each weighed with its share."""
        return torch.as_tensor(scores @ self.table)

    def error(self, logits: Float[Tensor, "*lead V"], scores: Float[Tensor, "*lead V"]) -> Float[Tensor, "*lead"]:
        """Against the true value."""
        return -(scores * logits.float().log_softmax(-1)).sum(-1)

    def draw(self, logits: Float[Tensor, "*lead V"], uniform: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead V"]:
        """One value, with the gradient of the chances (straight-through)."""
        chances = logits.float().softmax(-1)
        number = (chances.cumsum(-1) <= uniform[..., None]).sum(-1).clamp(max=self.num_tokens - 1)
        return one_hot(number, self.num_tokens) + (chances - chances.detach())

    def mean(self, logits: Float[Tensor, "*lead V"]) -> Float[Tensor, "*lead V"]:
        """The chances."""
        return logits.float().softmax(-1)


@dataclass(frozen=True, kw_only=True)
class TokenState(Belief):
    """What was told so far.

    Args:
        scores: of the present; expected ones where a value is missing.
        last: the last token, which the transformer has not read yet.
        cache: of all tokens before it.
    """

    scores: Float[Tensor, "B S D"]
    last: Float[Tensor, "M 1 width"]
    cache: Cache

    def features(self) -> Float[Tensor, "B S D"]:
        """The present."""
        return self.scores

    def select(self, index: Tensor) -> TokenState:
        """The stories of the batch entries in `index`."""
        samples = self.scores.shape[1]
        rows = (index[:, None] * samples + torch.arange(samples, device=index.device)).flatten()
        return TokenState(scores=self.scores[index], last=self.last[rows], cache=self.cache.select(rows))


class TokenModel(WorldModel):
    """The model. It remembers the last `context_steps` steps.

    Args:
        schema: the signals; actions and exogenous inputs are taken from it in order.
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
        self.signals = tuple(schema[name] for name in config.inputs)
        images = [signal.name for signal in self.signals if signal.kind is Kind.IMAGE]
        if images:
            raise ConfigError(
                f"input {images[0]!r} is an image, and the family 'token' has no tokens for images. Leave it out, or "
                "take a family that has an encoder for them: jepa, rssm, features, lewm."
            )
        self.told = nn.ModuleList(
            token for signal in self.signals for token in _make(signal, code_size(signal), config, margin=config.margin)
        )
        given = (*schema.actions, *schema.exogenous) if config.actions else ()
        self.given = nn.ModuleList(token for signal in given for token in _make(signal, signal.size, config, margin=0))
        self.heads = nn.ModuleList(_head(token, config.width) for token in _tokens(self.told))
        self.missing = nn.Parameter(torch.randn(len(self.told), config.width))
        self.begin = nn.Parameter(torch.randn(config.width))
        self.transformer = CausalTransformer(
            width=config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            span=config.context_steps * (len(self.told) + len(self.given)),
        )

    def fit_normaliser(self, window: Window) -> None:
        """Scales and bins of every component; missing values do not count.

        What was never observed keeps the bins that it has.
        """
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
        """The story of all observations. Draws nothing: where a value is missing, features are what is expected."""

        def at(values: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
            return {name: values[name][:, step] for name in self.config.inputs}

        belief = self._begin(*self._scores(at(window.observations, 0), at(window.observed, 0)))
        for step in range(window.past.step_s.shape[1]):
            seen = at(window.observations, step + 1), at(window.observed, step + 1)
            belief = self.update(belief, window.past.steps(slice(step, step + 1)), *seen, generator=generator)
        return belief

    def update(
        self,
        belief: Belief,
        inputs: Inputs,
        observation: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B"]],
        *,
        generator: torch.Generator,
    ) -> TokenState:
        """The inputs and the observation are told as well. Draws nothing."""
        del generator
        assert isinstance(belief, TokenState)
        scores, known = self._scores(observation, observed)
        given = self._given(inputs)[:, 0, 0].repeat_interleave(self.config.num_samples, 0)
        return self._tell(belief.last, given, scores, known, belief.cache)

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Every token is drawn, in turn, from what is predicted given all before it."""
        assert isinstance(belief, TokenState)
        batch, samples, _ = belief.scores.shape
        versions, steps = inputs.actions.shape[1:3]
        device = belief.scores.device
        rows = torch.arange(batch * samples, device=device).reshape(batch, 1, samples)
        rows = rows.expand(-1, versions, -1).flatten()
        last, cache = belief.last[rows], belief.cache.select(rows)
        if not torch.is_grad_enabled():
            num_tokens = len(self.told) + len(self.given)
            cache = cache.ring(steps * num_tokens, self.transformer.span + num_tokens)
        given = self._given(inputs).repeat_interleave(samples, 1).flatten(0, 1)
        path = []
        for step in range(steps):
            uniform = torch.rand(batch, 1, samples, len(self.told), generator=generator, device=device)
            uniform = uniform.expand(-1, versions, -1, -1).flatten(0, 2)
            scores, last, cache = self._imagine(last, given[:, step], uniform, cache)
            path.append(scores)
        features = torch.stack(path, 1).reshape(batch, versions, samples, steps, -1)
        final = TokenState(
            scores=features[..., -1, :].flatten(0, 1),
            last=last,
            cache=cache.in_order().within(self.transformer.span - 1),
        )
        return LatentRollout(features=features, final=final)

    def belief(self, features: Float[Tensor, "B D"]) -> TokenState:
        """A story that begins with the present."""
        known = torch.ones(len(features), len(self.told), dtype=torch.bool, device=features.device)
        return self._begin(features, known)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Cross-entropy of each observed component given everything before it, their mean."""
        scores, known = self._scores(window.observations, window.observed)
        shown = known
        if self.training and self.config.hidden:
            chance = share_draw(lambda shape: torch.rand(shape, generator=generator, device=known.device), known.shape)
            shown = known & (chance >= self.config.hidden)
        told, given = self._told(scores, shown), self._given(window.past)[:, 0]
        num_told, num_given = told.shape[2], given.shape[2]
        start = torch.cat([self.begin.expand(len(told), 1, -1), told[:, 0]], 1)
        rest = torch.cat([given, told[:, 1:]], 2).flatten(1, 2)
        read, _ = self.transformer(torch.cat([start, rest], 1)[:, :-1])
        later = read[:, num_told:].unflatten(1, (-1, num_given + num_told))[:, :, num_given:]
        before = torch.cat([read[:, None, :num_told], later], 1)  # what each token is guessed from
        errors = [
            token.error(head(before[..., number, :]), score)
            for number, (head, (token, score)) in enumerate(zip(self.heads, _parts(self.told, scores), strict=True))
        ]
        return Losses(terms={"tokens": share_mean(torch.stack(errors, -1), known.float())}, weights={"tokens": 1.0})

    def _begin(self, scores: Float[Tensor, "B D"], known: Bool[Tensor, "B C"]) -> TokenState:
        last = self.begin.expand(len(scores) * self.config.num_samples, 1, -1)
        return self._tell(last, last[:, :0], scores, known, None)

    def _tell(
        self,
        last: Float[Tensor, "M 1 width"],
        given: Float[Tensor, "M G width"],
        scores: Float[Tensor, "B D"],
        known: Bool[Tensor, "B C"],
        cache: Cache | None,
    ) -> TokenState:
        """The story one observation later, in one pass."""
        samples = self.config.num_samples
        told = self._told(scores, known).repeat_interleave(samples, 0)
        read, cache = self.transformer(torch.cat([last, given, told[:, :-1]], 1), cache=cache)
        present = scores.repeat_interleave(samples, 0)
        if not known.all():
            before = read[:, given.shape[1] :].unbind(1)
            expected = [
                token.mean(head(at)) for token, head, at in zip(_tokens(self.told), self.heads, before, strict=True)
            ]
            seen = [
                flag.expand(-1, token.size) for token, flag in zip(_tokens(self.told), known.split(1, -1), strict=True)
            ]
            present = present.where(torch.cat(seen, -1).repeat_interleave(samples, 0), torch.cat(expected, -1))
        return TokenState(scores=present.unflatten(0, (-1, samples)), last=told[:, -1:], cache=cache)

    def _imagine(
        self,
        last: Float[Tensor, "M 1 width"],
        given: Float[Tensor, "M G width"],
        uniform: Float[Tensor, "M C"],
        cache: Cache,
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M 1 width"], Cache]:
        """The next observation token by token, the last of them, and the cache of all before that one."""
        unread, scores = torch.cat([last, given], 1), []
        for token, head, chance in zip(_tokens(self.told), self.heads, uniform.unbind(1), strict=True):
            read, cache = self.transformer(unread, cache=cache)
            scores.append(token.draw(head(read[:, -1]), chance))
            unread = token.embed(scores[-1])[:, None]
        return torch.cat(scores, -1), unread, cache

    def _scores(
        self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "*lead"]]
    ) -> tuple[Float[Tensor, "*lead D"], Bool[Tensor, "*lead C"]]:
        """The features, and which tokens were observed; what was not has the scores of 0."""
        codes, known = [], []
        for signal in self.signals:
            seen, values = observed[signal.name], observations[signal.name]
            codes.append(to_code(signal, values.where(seen.reshape(seen.shape + (1,) * len(signal.shape)), 0)))
            known += [seen] * _num_tokens(signal)
        scores = [token.scores(code) for token, code in _parts(self.told, torch.cat(codes, -1))]
        return torch.cat(scores, -1), torch.stack(known, -1)

    def _told(self, scores: Float[Tensor, "*lead D"], known: Bool[Tensor, "*lead C"]) -> Float[Tensor, "*lead C width"]:
        tokens = torch.stack([token.embed(score) for token, score in _parts(self.told, scores)], -2)
        return tokens.where(known[..., None], self.missing)

    def _given(self, inputs: Inputs) -> Float[Tensor, "B N T G width"]:
        if not len(self.given):
            return inputs.actions.new_zeros(*inputs.actions.shape[:3], 0, self.config.width)
        parts = _parts(self.given, _join(inputs))
        return torch.stack([token.embed(token.scores(code)) for token, code in parts], -2)


def smooth_table(num: int, width: int) -> Float[Tensor, "num width"]:
    """Random vectors, one a row, of which near ones are alike: waves, the shorter the weaker."""
    # No linspace: transformers leaves it blind to the device that a model is built on.
    place = torch.arange(num)[:, None] / max(1, num - 1)
    waves = torch.logspace(math.log10(LONGEST_WAVE), math.log10(SHORTEST_WAVE), width)
    heights = waves.rsqrt() / waves.reciprocal().mean().sqrt()
    return math.sqrt(2) * heights * torch.sin(2 * math.pi * (waves * place + torch.rand(width)))


def _make(signal: Signal, size: int, config: TokenConfig, *, margin: int) -> list[Token]:
    if signal.kind is Kind.DISCRETE:
        return [Choices(num_values=size, width=config.width)]
    bins, width = config.num_bins, config.width
    return [Bins(num_bins=bins, smoothing=config.smoothing, margin=margin, width=width) for _ in range(size)]


def _head(token: Token, width: int) -> nn.Linear:
    """From what was read to logits; near bins begin with near ones."""
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
    """Each token beside the numbers that are its own."""
    tokens = _tokens(modules)
    return list(zip(tokens, numbers.split([token.size for token in tokens], -1), strict=True))


def _join(inputs: Inputs) -> Float[Tensor, "B N T I"]:
    if inputs.exogenous is None:
        return inputs.actions
    return torch.cat([inputs.actions, inputs.exogenous[:, None].expand(-1, inputs.actions.shape[1], -1, -1)], -1)
