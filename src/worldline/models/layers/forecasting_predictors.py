"""Predictors that learn the residual of a linear forecast of the vectors, with and without a conservation law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from worldline.config import Bounds, Size, SizeOrZero
from worldline.errors import ConfigError
from worldline.models.layers.codes import code_size
from worldline.models.layers.conserved_quantity import ConservedQuantity
from worldline.models.layers.correction import Correction
from worldline.models.layers.encoders import VectorEncoder
from worldline.models.layers.linear_forecast import LinearForecast, Past
from worldline.models.layers.memory import Memory
from worldline.models.layers.observation_encoder import LatentLayout
from worldline.models.layers.predictors import (
    AdaptablePredictor,
    ExactFlags,
    Known,
    Latents,
    MaybeMemory,
    NetworkConfig,
    ObservedPaths,
    Prepared,
    Step,
)
from worldline.schema import Kind, Signal

LAW_START_SHARE: Final = 0.5
"""Share of the training after which a conservation law is fitted. Earlier, prediction errors are too large."""
MAX_LAW_ERROR_RATIO: Final = 2.0
"""Maximum ratio of squared path errors with and without the law. Choosing one of two branches has twice the squared
error of their mean, so a correct law may double it."""
MAX_PARTIAL_ERROR_RATIO: Final = 10.0
"""Maximum ratio of squared path errors on all observed values; beyond it the previous law is restored. It applies if
some windows have gaps, because laws are fitted on complete windows only."""


@dataclass(frozen=True, kw_only=True)
class ForecastConfig(NetworkConfig):
    """The network and the linear forecast of a predictor, which needs exact vectors in the latent.

    Args:
        width: units of the two hidden layers.
        gated: as for `NetworkConfig`.
        history: h, steps of the linear forecast. The network also receives these steps, or those of `taken`.
        values: number of last observations in the linear forecast, which always uses the inputs of all h steps; 0 for
            all. A few suffice if only inputs act with a delay.
        taken: number of last steps that the network receives if `values` is above 0; 0 for as many as `values`.
        trim: share of the steps with the largest residuals, such as contacts, that the fit ignores. 0 to below 0.5.
    """

    history: Size = 2
    values: SizeOrZero = 0
    taken: SizeOrZero = 0
    trim: Annotated[float, Bounds(at_least=0, below=0.5)] = 0.0


def forecast_of(config: ForecastConfig, layout: LatentLayout) -> LinearForecast:
    """A linear forecast that is not fitted."""
    sizes = {"size": layout.num_exact, "num_inputs": layout.inputs.size, "history": config.history}
    return LinearForecast(**sizes, values=config.values, taken=config.taken, trim=config.trim)


class LinearResidualPredictor(AdaptablePredictor):
    """Forecasts the exact vectors linearly from the last h steps; a network learns the residual and all other features.

    The forecast is solved for before training. Linear parts of a world so become exact.

    Raises:
        ConfigError: the latent holds no exact vectors.
    """

    remembers = True

    def __init__(self, config: ForecastConfig, layout: LatentLayout) -> None:
        if layout.vectors is None:
            raise ConfigError(
                "the predictor forecasts vectors linearly, but the inputs hold no vector. Name a vector input, or "
                "choose another predictor, such as MlpPredictorConfig()."
            )
        linear = forecast_of(config, layout)
        super().__init__(layout, config, layout.size + layout.inputs.size + linear.num_shown)
        self.linear, self.context = linear, config.history
        leave = self.layers[-1]
        assert isinstance(leave, nn.Linear)
        nn.init.zeros_(leave.weight[: layout.num_exact])  # so that the network adds 0 to the forecast at first
        nn.init.zeros_(leave.bias[: layout.num_exact])

    def fit(self, exact: Float[Tensor, "B H exact"], known: Float[Tensor, "B T I"], observed: ExactFlags) -> None:
        """Solves for the linear forecast."""
        self.linear.fit(exact, known, observed)

    def smallest_history(self, slack: float) -> int:
        """The smallest history with residuals that are at most a share of `slack` larger than those of the whole."""
        return self.linear.enough(self._vectors.change, slack)

    def begin(self, latent: Latents, observed: Bool[Tensor, "B exact"] | None = None) -> Past:
        """An empty past."""
        past = self.linear.begin(len(latent), latent.device)
        return past if observed is None else replace(past, guessed=(~observed).long())

    def restore(self, latent: Latents, flat: Float[Tensor, "B numbers"]) -> Past:
        """The past of the features."""
        return self.linear.past(flat)

    def prepare(self, latent: Latents, known: Float[Tensor, "B I"], memory: Memory | None) -> Prepared:
        """Latent, inputs and past; the linear forecast; the past of the next step."""
        assert isinstance(memory, Past)
        forecast, after = self.linear(latent[:, : self.layout.num_exact], known, memory)
        shown = self.linear.shown(memory, forecast / self._vectors.change).to(known.dtype)
        drift = pad(forecast, (0, self.layout.size - self.layout.num_exact))
        return torch.cat([latent, known, shown], -1), drift, after

    def unit(self) -> Float[Tensor, " exact"]:
        """The usual change in one step, or the residual of the forecast."""
        return self.linear.unit(self._vectors.change)

    @property
    def _vectors(self) -> VectorEncoder:
        assert self.layout.vectors is not None  # checked at construction
        return self.layout.vectors


@dataclass(frozen=True, kw_only=True)
class LinearResidualPredictorConfig(ForecastConfig):
    """Configures `LinearResidualPredictor`."""

    kind: Literal["linear-residual"] = "linear-residual"


@dataclass(frozen=True, kw_only=True)
class ConservedPredictorConfig(ForecastConfig):
    """Configures `ConservedPredictor`."""

    kind: Literal["conserved"] = "conserved"


class ConservedPredictor(LinearResidualPredictor):
    """A linear forecast and a network that obey a conservation law, such as of an energy, if the logs show one.

    The law (`models/layers/conserved_quantity.py`) is fitted at each validation in the second half of training.
    """

    def __init__(self, config: ConservedPredictorConfig, layout: LatentLayout) -> None:
        super().__init__(config, layout)
        self.law = _law(self._vectors.signals, layout.inputs.signals)

    def forward(self, latent: Latents, known: Known, memory: MaybeMemory, correction: Correction | None = None) -> Step:
        """The next latent, with its vectors moved until the law holds."""
        after, memory = super().forward(latent, known, memory, correction)
        if self.law is None or not self.law.found:
            return after, memory
        num_exact, normaliser = self.layout.num_exact, self._vectors.normaliser
        with torch.autocast(latent.device.type, enabled=False):
            old, new = (normaliser.inverse(part[:, :num_exact].float()) for part in (latent, after))
            exact = normaliser(self.law(old, self.layout.inputs.inverse(known.float()), new, self._scales()))
        return torch.cat([exact.to(after.dtype), after[:, num_exact:]], -1), memory

    def refit(self, paths: Callable[[], ObservedPaths], share: float) -> None:
        """Fits the law anew, and drops it or restores the previous one if paths with it have too large errors."""
        if self.law is None or share < LAW_START_SHARE:
            return
        drawn, inverse = paths(), self._vectors.normaliser.inverse
        complete = drawn.observed.flatten(1).all(1)
        counted = drawn.observed[:, drawn.observed.shape[1] - drawn.known.shape[1] :]

        def error(path: Tensor, where: Tensor) -> float:
            return float((path - drawn.scores[:, 1:])[where].square().mean())

        previous, limit = deepcopy(self.law.state_dict()), math.inf
        if not complete.all():
            limit = error(drawn.imagine(), counted)
        self.law.drop()
        free = drawn.imagine()
        limit = MAX_PARTIAL_ERROR_RATIO * min(error(free, counted), limit)
        known = self.layout.inputs.inverse(drawn.known[complete])
        self.law.fit(inverse(drawn.scores[complete]), known, inverse(free[complete]), self._scales())
        lawful = drawn.imagine()
        # `not <=` instead of `>`: an error that is not finite must also reject the law.
        if not error(lawful, complete) <= MAX_LAW_ERROR_RATIO * error(free, complete):
            self.law.drop()
        elif not complete.all() and not error(lawful, counted) <= limit:
            self.law.load_state_dict(previous)

    def _scales(self) -> Float[Tensor, " exact"]:
        """Scale of the network's output for vectors, physical units."""
        return self.unit() * self._vectors.normaliser.deviation


def _law(vectors: tuple[Signal, ...], inputs: tuple[Signal, ...]) -> ConservedQuantity | None:
    """The law over concatenated vectors and inputs; angles and discrete values are left out."""
    states = _places(vectors, [code_size(signal) for signal in vectors], lambda signal: signal.period is None)
    known = _places(inputs, [signal.size for signal in inputs], lambda _: True)
    return ConservedQuantity(states=states, inputs=known) if states else None


def _places(signals: Sequence[Signal], sizes: Sequence[int], taken: Callable[[Signal], bool]) -> list[slice]:
    """The places of the vectors that are taken."""
    places = zip(signals, sizes, accumulate(sizes), strict=True)
    return [slice(end - size, end) for s, size, end in places if s.kind is Kind.VECTOR and taken(s)]
