"""The model family `linear`: an autoregression with inputs (ARX) on vectors and discrete values, in closed form.

It predicts the change of the values in one step from the last h values and inputs. Nothing is trained: `fit_normaliser`
fits everything by ridge regression, in seconds. `choose_lags` chooses h and the penalty by open-loop errors.

Source: Ljung, System Identification (1999), chapter 4, for ARX models; chapter 16 for their choice by cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.config import Positive, Share, Size
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel, unroll
from worldline.models.layers.changes import signal_error
from worldline.models.layers.codes import vector_signals
from worldline.models.layers.linear_forecast import RIDGE, LinearForecast, Past, ScoredWindows, choose_forecast
from worldline.models.layers.offset import GAIN
from worldline.models.layers.standardizer import InputNormaliser, Standardizer
from worldline.models.layers.tracing import is_traced
from worldline.schema import Schema

HISTORIES: Final = (1, 2, 3, 5, 8, 12, 18, 24)
"""Candidates for the number of steps that a prediction uses."""
RIDGES: Final = (1e-3, 1e-4, 1e-6, RIDGE)
"""Candidates for the penalty, tried with the chosen history."""
FIRST_RIDGE: Final = 1e-6
"""Penalty while the history is chosen; long ones of few rows need some."""
MAX_COLUMNS: Final = 600
"""Maximum number of values and inputs in all steps of a history; the time of a fit grows with its square."""
MAX_EXTRA_ERROR: Final = 0.01
"""Relative increase of the error that is accepted for a shorter history. Each step makes beliefs larger."""

MAX_OFFSET_ERROR: Final = 0.02
"""Relative increase of the error that is accepted for an offset, without which plans have steady errors."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig(ModelConfig):
    """Lags and penalty.

    Args:
        inputs: observation signals that the model takes and predicts; no images.
        history: h, number of last observations and inputs in a prediction, at least 1.
        ridge: penalty on the squared weights, relative to the mean square of the z-scores; above 0.
        timed: whether the duration of each step is an input; for logs with steps of different durations.
        gain: of the estimate of a constant disturbance from recent errors, see `layers.offset`; 0 for none.
    """

    history: Size = 1
    ridge: Positive = RIDGE
    timed: bool = False
    gain: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class LinearBelief(Belief):
    """The present values and the steps before.

    Args:
        values: z-scores; the prediction where a value is missing.
        past: the steps before.
    """

    values: Float[Tensor, "B size"]
    past: Past

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The values, then the past; S is 1."""
        return torch.cat([self.values, self.past.flat()], -1)[:, None]

    def select(self, index: Tensor) -> LinearBelief:
        """The belief of the batch entries in `index`."""
        return LinearBelief(values=self.values[index], past=self.past.select(index))


class LinearModel(WorldModel):
    """The model. It has buffers only, so there is nothing to train.

    With fewer than h observations it uses a fit on as many as there are. A missing value is replaced by its prediction.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `LinearConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: an input is an image.
    """

    Config = LinearConfig
    closed_form = True
    linear = True

    def __init__(self, *, schema: Schema, config: LinearConfig) -> None:
        super().__init__()
        signals = vector_signals(schema, config.inputs, family="linear")
        self.schema, self.config, self.context = schema, config, config.history
        self.codes = Standardizer(signals)
        self.inputs = InputNormaliser(schema, timed=config.timed)
        self.present = slice(len(self.codes.owner))
        self.forecast = self.candidate(config.history, config.ridge, config.gain)

    def candidate(self, history: int, ridge: float, gain: float = 0.0) -> LinearForecast:
        """A forecast of the values of this model that is not fitted."""
        size, num_inputs = len(self.codes.owner), self.inputs.size
        return LinearForecast(size=size, num_inputs=num_inputs, history=history, ridge=ridge, gain=gain)

    def fit_normaliser(self, window: Window) -> None:
        """Fits scales and forecast. A signal that was never observed keeps its scale and is predicted not to change."""
        self.forecast.fit(**vars(self.fit_scales(window)))

    def fit_scales(self, window: Window) -> ScoredWindows:
        """Fits the scales only, and returns the z-scores of `window`."""
        self.codes.fit(window.observations, window.observed)
        self.inputs.fit(window.past)
        return self._scores(window)

    def encode(self, window: Window, *, generator: torch.Generator) -> LinearBelief:
        """The last values and inputs; missing values are predicted from the steps before."""
        scored = self._scores(window)
        if not is_traced() and scored.observed.all():
            values, past = self.forecast.observe(scored.values, scored.known)
            return LinearBelief(values=values, past=past)
        belief = self._begin(scored.values[:, 0], scored.observed[:, 0])
        for step in range(scored.known.shape[1]):
            belief = self._step(belief, scored.known[:, step])
            belief = self._correct(belief, scored.values[:, step + 1], scored.observed[:, step + 1])
        return belief

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> LinearBelief:
        """The belief one step later; draws nothing."""
        scored = self._scores(step)
        predicted = self._step(LinearBelief.of(belief), scored.known[:, 0])
        return self._correct(predicted, scored.values[:, 0], scored.observed[:, 0])

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Deterministic: S is 1 and `generator` is unused."""
        known = self.inputs(inputs)
        index = torch.arange(len(known), device=known.device).repeat_interleave(known.shape[1])
        return unroll(LinearBelief.of(belief).select(index), known, self._step)

    def belief(self, features: Float[Tensor, "B D"]) -> LinearBelief:
        """The belief of `features`."""
        size = self.forecast.size
        return LinearBelief(values=features[:, :size], past=self.forecast.past(features[:, size:]))

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """The open-loop error after `context` observations, at most half of the window, relative to persistence."""
        scored = self._scores(window)
        warm = min(self.context, (scored.values.shape[1] + 1) // 2)
        path = self.forecast.unroll(**vars(scored), warm=warm)
        values, observed = scored.values[:, warm - 1 :], scored.observed[:, warm - 1 :]
        error = signal_error(values, path, observed, observed.any(-1), self.codes.change, 1)
        return Losses(terms={"signals": error}, weights={"signals": 1.0})

    def _scores(self, window: Window) -> ScoredWindows:
        return ScoredWindows(
            values=self.codes(window.observations, window.observed),
            known=self.inputs(window.past)[:, 0],
            observed=self._observed(window.observed),
        )

    def _observed(self, observed: Mapping[str, Tensor]) -> Bool[Tensor, "*lead size"]:
        """Whether each component of the codes was observed."""
        names = self.config.inputs
        return torch.stack([observed[names[owner]] for owner in self.codes.owner], -1)

    def _begin(self, scores: Float[Tensor, "B size"], observed: Bool[Tensor, "B size"]) -> LinearBelief:
        values, past = self.forecast.start(scores, observed)
        return LinearBelief(values=values, past=past)

    def _step(self, belief: LinearBelief, known: Float[Tensor, "B I"]) -> LinearBelief:
        change, past = self.forecast(belief.values, known, belief.past)
        return LinearBelief(values=belief.values + change, past=past)

    def _correct(self, predicted: LinearBelief, scores: Tensor, observed: Tensor) -> LinearBelief:
        values, past = self.forecast.correct(predicted.values, predicted.past, scores, observed)
        return LinearBelief(values=values, past=past)


def choose_lags(schema: Schema, config: LinearConfig, window: Window) -> LinearConfig:
    """The configuration with the history and the penalty that predict held-out windows best in open loop.

    It has an offset, unless that makes these predictions worse.

    Args:
        schema: the signals.
        config: its history is the largest that is tried.
        window: many windows of the training data, of more observations than the history.
    """
    model = LinearModel(schema=schema, config=replace(config, history=1))
    scored = model.fit_scales(window)
    longest = max(1, min(config.history, MAX_COLUMNS // model.forecast.both))
    histories = [history for history in HISTORIES if history <= longest]
    lags = [model.candidate(history, FIRST_RIDGE) for history in histories]
    history = histories[choose_forecast(lags, scored, warm=longest, slack=MAX_EXTRA_ERROR)]
    penalised = [model.candidate(history, ridge) for ridge in RIDGES]
    ridge = RIDGES[choose_forecast(penalised, scored, warm=longest, slack=0.0)]
    gains = [model.candidate(history, ridge, gain) for gain in (GAIN, 0.0)]
    half = max(longest, scored.values.shape[1] // 2)  # observations that an offset is estimated from
    gain = (GAIN, 0.0)[choose_forecast(gains, scored, warm=half, slack=MAX_OFFSET_ERROR)]
    return replace(config, history=history, ridge=ridge, gain=gain)
