"""The model family `jepa`: a joint-embedding world model, trained end to end from observations and actions.

It is composed of an encoder of observations, a predictor of the next latent, and a regulariser that prevents collapse.
It predicts the latents of future observations, open loop, and reconstructs no pixels. In training, every step with at
least one observed signal counts. Vectors that are part of the latent (`signal_weight`) are compared one by one.

Sources: LeWM (arXiv 2603.19312) for prediction + SIGReg; LeJEPA (2511.08544) for SIGReg; PLDM (2502.14819) and eb_jepa
for VICReg.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from worldline.config import Size, SizeOrZero, Weight
from worldline.models.base import Adapts, Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel, unroll
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig, AuxiliaryLosses
from worldline.models.layers.changes import signal_error
from worldline.models.layers.correction import Correction
from worldline.models.layers.forecasting_predictors import (
    ConservedPredictor,
    ConservedPredictorConfig,
    ForecastConfig,
    LinearResidualPredictor,
    LinearResidualPredictorConfig,
)
from worldline.models.layers.gather import share_mean
from worldline.models.layers.memory import Memory
from worldline.models.layers.observation_encoder import ObservationEncoder, ObservationEncoderConfig, ObservedFeatures
from worldline.models.layers.predictors import (
    AdaptablePredictor,
    GruPredictor,
    GruPredictorConfig,
    MlpPredictor,
    MlpPredictorConfig,
    ObservedPaths,
    Predictor,
    TransformerPredictor,
    TransformerPredictorConfig,
)
from worldline.models.layers.regularizers import Regularizer, Sigreg, SigregConfig, Vicreg, VicregConfig
from worldline.models.layers.tracing import is_traced
from worldline.schema import Schema

PredictorConfig = Annotated[
    MlpPredictorConfig
    | GruPredictorConfig
    | TransformerPredictorConfig
    | LinearResidualPredictorConfig
    | ConservedPredictorConfig,
    Field(discriminator="kind"),
]
RegularizerConfig = Annotated[SigregConfig | VicregConfig, Field(discriminator="kind")]

_PARTS: Final[Mapping[type, Callable[..., Any]]] = {
    MlpPredictorConfig: MlpPredictor,
    GruPredictorConfig: GruPredictor,
    TransformerPredictorConfig: TransformerPredictor,
    LinearResidualPredictorConfig: LinearResidualPredictor,
    ConservedPredictorConfig: ConservedPredictor,
    SigregConfig: Sigreg,
    VicregConfig: Vicreg,
}
"""The module of each configuration."""
NUM_REFIT_WINDOWS: Final = 2000
"""Windows for parts of the predictor that are fitted at each validation."""


@dataclass(frozen=True, kw_only=True)
class JepaConfig(ModelConfig):
    """The parts of the model, and what they share.

    Args:
        inputs: observation signals of the encoder.
        latent_size: D.
        constant_size: size of the last part of each latent, which no step changes. It holds what is constant within
            an episode and differs between episodes, such as a wall. 0 for none (docs/design/constants.md).
        signal_weight: of the error of the vector inputs. Above 0, or if the predictor forecasts vectors, their z-scores
            are the first part of each latent, at full precision; the encoder adds the learned part
            (docs/design/vectors.md).
        timed: whether the duration of each step is an input; for logs with steps of different durations. A learned
            world always predicts steps of the schema's duration.
        gradient_steps: steps over which gradients flow back through a rollout; 0 for all. Gradients through many
            contacts are uninformative.
        encoder: sizes of the encoder.
        predictor: of the next latent. Choose one with memory if one observation does not determine the state, for
            example the velocity.
        regularizer: prevents collapse.
        auxiliary: further losses.
    """

    latent_size: Size = 64
    constant_size: SizeOrZero = 0
    signal_weight: Weight = 0.0
    timed: bool = False
    gradient_steps: SizeOrZero = 0
    encoder: ObservationEncoderConfig = field(default_factory=ObservationEncoderConfig)
    predictor: PredictorConfig = field(default_factory=MlpPredictorConfig)
    regularizer: RegularizerConfig = field(default_factory=SigregConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)


@dataclass(frozen=True, kw_only=True)
class Latent(Belief):
    """One latent and the memory of the predictor.

    Args:
        latent: of the present.
        memory: of earlier steps.
        correction: of the predictor, for W worlds; B / W consecutive entries share one correction. None for none.
    """

    latent: Float[Tensor, "B D"]
    memory: Memory | None = None
    correction: Correction | None = None

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The latent, then the part of the memory that belongs to the features; S is 1."""
        flat = None if self.memory is None else self.memory.flat()
        return (self.latent if flat is None else torch.cat([self.latent, flat.to(self.latent.dtype)], -1))[:, None]

    def detach(self) -> Latent:
        """The latent and the memory without gradient history."""
        return replace(self, latent=self.latent.detach(), memory=None if self.memory is None else self.memory.detach())

    def select(self, index: Tensor) -> Latent:
        """The latents and memories of the batch entries in `index`."""
        memory, correction = self.memory, self.correction
        if correction is not None:
            correction = correction.select(index // (len(self.latent) // len(correction.hidden)))
        memory = None if memory is None else memory.select(index)
        return Latent(latent=self.latent[index], memory=memory, correction=correction)

    def repeat(self, count: int) -> Latent:
        """Each entry `count` times in a row. The correction is shared, because it is large."""
        index = torch.arange(len(self.latent), device=self.latent.device).repeat_interleave(count)
        return replace(replace(self, correction=None).select(index), correction=self.correction)


class Jepa(WorldModel, Adapts):
    """The model. Without memory its belief is the latent of the last observation only.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `JepaConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: a part does not fit the signals. The encoder does not support the size of an image, the latent is
            too small, or the predictor forecasts vectors and the inputs hold none. The schema has no action to decode.
    """

    Config = JepaConfig

    def __init__(self, *, schema: Schema, config: JepaConfig) -> None:
        super().__init__()
        self.schema, self.config = schema, config
        self.encoder = ObservationEncoder(
            config.encoder,
            schema=schema,
            inputs=config.inputs,
            size=config.latent_size,
            constant_size=config.constant_size,
            exact=config.signal_weight > 0 or isinstance(config.predictor, ForecastConfig),
            timed=config.timed,
        )
        layout = self.encoder.layout
        self.predictor: Predictor = _PARTS[type(config.predictor)](config.predictor, layout)
        self.regularizer: Regularizer = _PARTS[type(config.regularizer)](config.regularizer)
        self.auxiliary = AuxiliaryLosses(config.auxiliary, schema=schema, layout=layout)
        self.layout, self.num_exact = layout, layout.num_exact
        self.present, self.targets = slice(layout.size), config.auxiliary.targets
        self.context, self.can_adapt = self.predictor.context, isinstance(self.predictor, AdaptablePredictor)
        self.rollout_width = self.predictor.rollout_width

    def fit_normaliser(self, window: Window) -> None:
        """Fits scales on observed values, and a linear forecast; never observed signals keep their scale."""
        self.encoder.fit(window)
        self.auxiliary.fit(window)
        exact = self.encoder.exact_scores(window)
        self.predictor.fit(exact, self.encoder.inputs(window.past)[:, 0], self.encoder.exact_flags(window.observed))

    @torch.no_grad()
    def on_validation(self, sample: Callable[[int], Window], share: float) -> None:
        """Fits the parts of the predictor that depend on the current weights, such as a conservation law."""

        def paths() -> ObservedPaths:
            window = sample(NUM_REFIT_WINDOWS)
            seen, known = self.encoder.encode(window), self.encoder.inputs(window.past)[:, 0]
            start, warm = self.encoder.to_latent(seen)[:, 0], self._num_warm(known.shape[1] + 1)
            return ObservedPaths(
                scores=self.encoder.exact_scores(window)[:, warm - 1 :],
                observed=self.encoder.exact_flags(window.observed),
                known=known[:, warm - 1 :],
                imagine=lambda: self._unroll(seen, start, known, warm)[:, warm - 1 :, : self.num_exact].float(),
            )

        self.predictor.refit(paths, share)

    def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
        """The latent of the last observation; missing parts are predicted from the steps before."""
        complete = self.encoder.flags(window.observed).all(-1)
        return self._encode(window, 0 if self.predictor.remembers else _last_whole(complete))[-1]

    def encode_each(self, window: Window, count: int, *, generator: torch.Generator) -> list[Belief]:
        """The latents of the last `count` observations; all observations pass the encoder in one batch."""
        if self.predictor.remembers or not bool(self.encoder.flags(window.observed).all()):
            return list[Belief](self._encode(window, 0)[-count:])
        seen = self.encoder.encode(window, window.past.step_s.shape[1] + 1 - count)
        latents = self.encoder.to_latent(seen)
        return [self._begin(latents[:, at], seen.at(at)) for at in range(count)]

    def _encode(self, window: Window, start: int, correction: Correction | None = None) -> list[Latent]:
        """The belief after each observation from `start` on; a correction at the start grows with each step."""
        seen, known = self.encoder.encode(window, start), self.encoder.inputs(window.past)[:, 0, start:]
        beliefs = [replace(self._begin(self.encoder.to_latent(seen.at(0)), seen.at(0)), correction=correction)]
        for step in range(known.shape[1]):
            beliefs.append(self._update(beliefs[-1], known[:, step], seen.at(step + 1)))
        return beliefs

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Latent:
        """The latent of the new observation if it is complete; the predicted latent if nothing was observed.

        If it is partly observed, missing vectors in the latent are predicted. The learned part is encoded if only such
        vectors are missing, or if the training data had gaps too; otherwise it is predicted.
        """
        latent, known = Latent.of(belief), self.encoder.inputs(step.past)[:, 0, 0]
        nothing = not is_traced() and not self.encoder.flags(step.observed).any()
        if latent.correction is None and nothing:
            return self._step(latent, known)
        return self._update(latent, known, self.encoder.encode(step).at(0))

    def adapt(self, window: Window, *, num_steps: int, trust: float, generator: torch.Generator) -> Latent:
        """Like `encode`, with the predictor's last layer corrected on the window (docs/design/adaptation.md)."""
        complete = self.encoder.flags(window.observed)[:, 0].all(-1)
        none = window.past.step_s.new_zeros(len(complete), 0, 0)
        correction = Correction(hidden=none, residuals=none, complete=complete, trust=trust, num_steps=num_steps)
        return self._encode(window, 0, correction)[-1]

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Deterministic: S is 1 and `generator` is unused."""
        known = self.encoder.inputs(inputs)
        return unroll(Latent.of(belief).repeat(known.shape[1]), known, self._step)

    def belief(self, features: Float[Tensor, "B D"]) -> Latent:
        """The belief of `features`; a transformer starts without a past."""
        latent, flat = features[:, : self.layout.size], features[:, self.layout.size :]
        return Latent(latent=latent, memory=self.predictor.restore(latent, flat))

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Prediction error, regulariser, and optional terms. All but `signals` and `targets` use the learned part only.

        Prediction is open loop from the first observation. With memory it is open loop after `context` observations,
        at most half of the window; those before are predicted one step ahead.
        """
        exact, encoder = self.num_exact, self.encoder
        seen, shown = encoder.encode(window), encoder.flags(window.observed).any(-1)
        latents = encoder.to_latent(seen).float()
        known, warm = encoder.inputs(window.past)[:, 0], self._num_warm(latents.shape[1])
        imagined = self._unroll(seen, latents[:, 0], known, warm, self.config.gradient_steps).float()
        begun = shown.clone()
        begun[:, warm:] = False  # predictions do not use these observations
        compared = (shown[:, 1:] & begun.long().cumsum(1).bool()[:, :-1]).float()
        error = (imagined - latents[:, 1:])[..., exact:].square().mean(-1)
        parts = {"prediction": (1.0, share_mean(error, compared))}
        parts |= self.regularizer(latents[..., exact:].transpose(0, 1), shown.T, self.layout.constant_size, generator)
        if exact:
            flags = encoder.exact_flags(window.observed)
            parts["signals"] = self.config.signal_weight, self._signal_error(latents, imagined, flags, shown, warm)
        actions = known[..., : self.layout.inputs.num_actions]
        parts |= self.auxiliary(latents, imagined, window, shown=shown, actions=actions)
        terms = {name: term for name, (_, term) in parts.items()}
        return Losses(terms=terms, weights={name: weight for name, (weight, _) in parts.items()})

    def forecast_error(
        self, stored: Float[Tensor, "B T1 D"], imagined: Float[Tensor, "B T D"], whole: Bool[Tensor, "B T1"]
    ) -> Float[Tensor, ""]:
        """Prediction error as in the loss: relative to persistence for vectors, absolute for the learned part."""
        learned = slice(self.num_exact, self.layout.size)
        error = super().forecast_error(stored[..., learned], imagined[..., learned], whole)
        if not self.num_exact:
            return error
        known = whole[..., None].expand(*whole.shape, self.num_exact)
        signals = self._signal_error(stored, imagined, known, torch.ones_like(whole), 1)
        return torch.as_tensor(error + self.config.signal_weight * signals)

    def _signal_error(self, latents: Tensor, path: Tensor, known: Tensor, seen: Tensor, warm: int) -> Float[Tensor, ""]:
        """The error of the exact vectors; arguments as for `signal_error`."""
        assert self.layout.vectors is not None  # else there are no exact vectors
        pair = latents[..., : self.num_exact], path[..., : self.num_exact]
        return signal_error(*pair, known, seen, self.layout.vectors.change, warm)

    def _num_warm(self, length: int) -> int:
        """Number of observations in a window of this length from which predictions are made."""
        return min(self.context, (length + 1) // 2)

    def _unroll(
        self, seen: ObservedFeatures, start: Tensor, known: Tensor, warm: int, gradient_steps: int = 0
    ) -> Float[Tensor, "B T D"]:
        """The predicted latents; each of the first `warm` - 1 is corrected by its observation before the next step.

        Gradients are cut after `gradient_steps` steps; 0 for never.
        """
        belief, path = self._begin(start, seen.at(0)), []
        for step in range(known.shape[1]):
            belief = self._step(belief, known[:, step])
            path.append(belief.latent)
            if step + 1 < warm:
                belief = self._correct(belief, seen.at(step + 1))
            elif gradient_steps and not (step + 1) % gradient_steps:
                belief = belief.detach()
        return torch.stack(path, 1)

    def _begin(self, latent: Float[Tensor, "B D"], seen: ObservedFeatures) -> Latent:
        """The belief of an observation without earlier steps."""
        return Latent(latent=latent, memory=self.predictor.begin(latent, self.encoder.exact_flags(seen.observed)))

    def _step(self, belief: Latent, known: Float[Tensor, "M I"]) -> Latent:
        """The belief one step later without an observation."""
        corrections = () if belief.correction is None else (belief.correction,)
        latent, memory = self.predictor(belief.latent, known.to(belief.latent.dtype), belief.memory, *corrections)
        return Latent(latent=latent, memory=memory, correction=belief.correction)

    def _correct(self, predicted: Latent, seen: ObservedFeatures) -> Latent:
        """The belief after an observation."""
        encoder, memory = self.encoder, predicted.memory
        latent = encoder.to_latent(seen, predicted.latent)
        if memory is not None:
            memory = memory.correct(latent - predicted.latent, encoder.exact_flags(seen.observed))
        return replace(predicted, latent=latent, memory=memory)

    def _update(self, belief: Latent, known: Float[Tensor, "B I"], seen: ObservedFeatures) -> Latent:
        """The belief one step later, corrected by the observation; an adaptation also uses the prediction error."""
        correction = belief.correction
        if correction is None:
            step = self._step(belief, known)
            memory = self.predictor.after_observation(step.memory, self.encoder.flags(seen.observed).any(-1))
            return self._correct(replace(step, memory=memory), seen)
        assert isinstance(self.predictor, AdaptablePredictor)  # else there are no corrections
        complete = self.encoder.flags(seen.observed).all(-1)
        learned = self._step(replace(belief, correction=None), known)
        corrected = self._correct(learned if complete.all() else self._step(belief, known), seen)
        hidden = self.predictor.hidden(belief.latent, known.to(belief.latent.dtype), belief.memory)
        residual = self.predictor.residual(corrected.latent - learned.latent)
        return replace(corrected, correction=correction.add(hidden, residual, complete))


def _last_whole(complete: Bool[Tensor, "B H"]) -> int:
    """The latest start at which no batch entry loses its last complete observation; 0 if one has none."""
    steps = torch.arange(complete.shape[1], device=complete.device)
    return int(torch.where(complete, steps, 0).amax(1).min())
