"""The model family `jepa`: a joint-embedding world model, trained end to end from observations and actions.

It predicts the latents of future observations, open loop, and a regulariser prevents collapse. It reconstructs no
pixels.

Missing values. In training, every step with at least one observed signal counts. The encoder receives the observed
values and a flag per signal. Vectors that are part of the latent (`signal_weight`) are compared one by one. At
inference, a missing value of such a vector is replaced by the prediction. The learned part is encoded without missing
signals if the training data had such gaps; otherwise it is predicted.

Sources: LeWM (arXiv 2603.19312) for prediction + SIGReg; LeJEPA (2511.08544) for SIGReg; PLDM (2502.14819) and eb_jepa
for VICReg with temporal similarity and inverse dynamics; 2606.31232 for decoding actions from the change of a latent;
2603.12231 for straightening.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from worldline.errors import ConfigError
from worldline.models.base import Adapts, Belief, Inputs, LatentRollout, Losses, Window, WorldModel
from worldline.models.jepa_belief import Latent
from worldline.models.jepa_config import JepaConfig
from worldline.models.layers.auxiliary_targets import AuxiliaryTargets
from worldline.models.layers.codes import code_size
from worldline.models.layers.conserved_quantity import ConservedQuantity
from worldline.models.layers.correction import Correction
from worldline.models.layers.encoders import ImageEncoder, ObservedFeatures, VectorEncoder, last_whole
from worldline.models.layers.gated import Gated
from worldline.models.layers.gather import share_mean
from worldline.models.layers.inputs import fit_inputs, join_inputs
from worldline.models.layers.linear_forecast import LinearForecast, Past, leave_forecast
from worldline.models.layers.mlp import mlp
from worldline.models.layers.normaliser import Normaliser
from worldline.models.layers.path_errors import bend, signal_error
from worldline.models.layers.predictors import AttentivePredictor, Hidden, PredictorContext, RecurrentPredictor
from worldline.models.layers.sigreg import sigreg
from worldline.models.layers.vicreg import covariance, variance
from worldline.schema import Kind, Schema, Signal

LAW_START_SHARE: Final = 0.5
"""Share of the training after which a conservation law is fitted. Earlier, prediction errors are too large."""
MAX_LAW_ERROR_RATIO: Final = 2.0
"""Maximum ratio of squared path errors with and without the law. Choosing one of two branches has twice the squared
error of their mean, so a correct law may double it."""
MAX_PARTIAL_ERROR_RATIO: Final = 10.0
"""Maximum ratio of squared path errors on all observed values; beyond it the previous law is restored. It applies if
some windows have gaps, because laws are fitted on complete windows only."""
NUM_LAW_WINDOWS: Final = 2000
"""Windows that a law is fitted on."""
MIN_PARTIAL_SHARE: Final = 0.01
"""Share of partly observed training steps above which the encoder may encode partial observations at inference."""


class Jepa(WorldModel, Adapts):
    """The model. Without memory its belief is the latent of the last observation only.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `JepaConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: the encoder does not support the size of an image, the latent is too small, or actions are to be
            decoded but the schema has none.
    """

    Config = JepaConfig
    partial: Tensor

    def __init__(self, *, schema: Schema, config: JepaConfig) -> None:
        super().__init__()
        self.schema, self.config = schema, config
        self.present = slice(config.latent_size)
        self.can_adapt = config.memory == "none" and config.frameskip == 1
        self.context = max(1, config.linear_history) if config.memory == "none" else config.context
        signals = tuple(schema[name] for name in config.inputs)
        vectors = tuple(signal for signal in signals if signal.kind is not Kind.IMAGE)
        self.num_exact = sum(code_size(signal) for signal in vectors) if config.signal_weight > 0 else 0
        num_learned = config.latent_size - self.num_exact
        if num_learned < 1 + config.constant_size:
            raise ConfigError(
                f"latent_size is {config.latent_size}, but the vector inputs need {self.num_exact} and constant_size "
                f"is {config.constant_size}. Set it to at least {self.num_exact + config.constant_size + 1}."
            )
        images = [signal for signal in signals if signal.kind is Kind.IMAGE]
        self.cameras = tuple(signal.name for signal in images)  # not module names: these must not contain dots
        self.images = nn.ModuleList(
            ImageEncoder(signal, channels=config.channels, width=config.encoder_width, out=num_learned)
            for signal in images
        )
        self.vectors = VectorEncoder(vectors, width=config.encoder_width, out=num_learned) if vectors else None
        self.register_buffer("partial", torch.zeros(()))  # share of partly observed training steps
        self.actions = Normaliser(sum(signal.size for signal in schema.actions))
        self.exogenous = Normaliser(sum(signal.size for signal in schema.exogenous))
        self.step_s = Normaliser(1) if config.timed else None
        self.num_actions = len(self.actions.mean)
        self.num_inputs = self.num_actions + len(self.exogenous.mean) + int(config.timed)
        if config.linear_history and not self.num_exact:
            raise ConfigError(f"linear_history is {config.linear_history}, but the inputs hold no vector. Set it to 0.")
        self.linear: LinearForecast | None = None
        if config.linear_history:
            sizes = {"size": self.num_exact, "num_inputs": self.num_inputs, "history": config.linear_history}
            self.linear = LinearForecast(**sizes, values=config.linear_values, trim=config.linear_trim)
        self.predictor = _predictor(config, self.num_inputs, 0 if self.linear is None else self.linear.num_shown)
        if self.linear is not None:
            leave_forecast(self.predictor, self.num_exact)
        self.conserved = _conserved(schema, vectors) if config.conserves else None
        self.inverse, self.delta = self._action_decoders()
        self.targets = config.targets
        auxiliary = tuple(schema[name] for name in self.targets)
        self.told = AuxiliaryTargets(auxiliary, config.latent_size) if auxiliary else None

    def _action_decoders(self) -> tuple[nn.Sequential | None, nn.Sequential | None]:
        config, width = self.config, self.config.predictor_width
        if (config.inverse_weight or config.delta_weight) and not self.num_actions:
            raise ConfigError("inverse_weight and delta_weight decode actions, but the schema has none. Set both to 0.")
        size = config.latent_size - config.constant_size - self.num_exact
        inverse = mlp([2 * size, width, self.num_actions]) if config.inverse_weight else None
        delta = mlp([size, width, config.delta_steps * self.num_actions]) if config.delta_weight else None
        return inverse, delta

    def fit_normaliser(self, window: Window) -> None:
        """Fits scales on observed values, and the linear forecast; never observed signals keep their scale."""
        for name, encoder in zip(self.cameras, self.images, strict=True):
            assert isinstance(encoder, ImageEncoder)  # for the type checker
            encoder.fit(window.observations[name], window.observed[name])
        if self.vectors is not None:
            self.vectors.fit(window.observations, window.observed)
        shown = self._flags(window.observed)
        self.partial.copy_((shown.any(-1) & ~shown.all(-1)).float().mean())
        fit_inputs(window.past, self.actions, self.exogenous, self.step_s)
        if self.told is not None:
            self.told.fit(window)
        if self.linear is not None and self.vectors is not None:
            scores = self.vectors.scores(window.observations, window.observed)
            self.linear.fit(scores, self._inputs(window.past)[:, 0], self.vectors.flags(window.observed))

    @torch.no_grad()
    def on_validation(self, sample: Callable[[int], Window], share: float) -> None:
        """Fits the conservation law anew, in the second half of training."""
        if self.conserved is None or self.vectors is None or share < LAW_START_SHARE:
            return
        window = sample(NUM_LAW_WINDOWS)
        seen, known = self._look(window), self._inputs(window.past)[:, 0]
        warm = min(self.context, (known.shape[1] + 2) // 2)
        flags, scores = self.vectors.flags(window.observed), seen.scores
        assert scores is not None  # for the type checker
        start, truth = self._perceive(seen)[:, 0], scores[:, warm - 1 :]
        complete, counted = flags.flatten(1).all(1), flags[:, warm:]

        def imagined(lawful: bool) -> Float[Tensor, "B T exact"]:
            return self._unroll(seen, start, known, warm, lawful=lawful)[:, warm - 1 :, : self.num_exact].float()

        def error(path: Tensor, where: Tensor) -> float:
            return float((path - truth[:, 1:])[where].square().mean())

        free, inverse = imagined(lawful=False), self.vectors.normaliser.inverse
        previous_law, limit = deepcopy(self.conserved.state_dict()), math.inf
        if not complete.all():
            limit = MAX_PARTIAL_ERROR_RATIO * min(error(free, counted), error(imagined(lawful=True), counted))
        self.conserved.fit(
            inverse(truth[complete]),
            self._physical(known[complete, warm - 1 :]),
            inverse(free[complete]),
            self._scales(self.vectors),
        )
        lawful = imagined(lawful=True)
        # `not <=` instead of `>`: an error that is not finite must also reject the law.
        if not error(lawful, complete) <= MAX_LAW_ERROR_RATIO * error(free, complete):
            self.conserved.drop()
        elif not error(lawful, counted) <= limit:
            self.conserved.load_state_dict(previous_law)

    def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
        """The latent of the last observation; missing parts are predicted from the steps before."""
        del generator
        return self._fold(window, 0 if self._remembers else last_whole(self._flags(window.observed).all(-1)))[-1]

    def encode_each(self, window: Window, count: int, *, generator: torch.Generator) -> list[Belief]:
        """The latents of the last `count` observations; all observations pass the encoder in one batch."""
        del generator
        if self._remembers or not bool(self._flags(window.observed).all()):
            return list[Belief](self._fold(window, 0)[-count:])
        seen = self._look(window, window.past.step_s.shape[1] + 1 - count)
        latents = self._perceive(seen)
        return [self._begin(latents[:, at], seen.at(at)) for at in range(count)]

    @property
    def _remembers(self) -> bool:
        return self.config.memory != "none" or self.linear is not None

    def _fold(self, window: Window, start: int) -> list[Latent]:
        """The belief after each observation from `start` on."""
        seen, known = self._look(window, start), self._inputs(window.past)[:, 0, start:]
        found = [self._begin(self._perceive(seen.at(0)), seen.at(0))]
        for step in range(known.shape[1]):
            found.append(self._advance(found[-1], known[:, step], seen.at(step + 1)))
        return found

    def update(
        self,
        belief: Belief,
        inputs: Inputs,
        observation: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B"]],
        *,
        generator: torch.Generator,
    ) -> Latent:
        """The latent of the new observation if it is complete; the predicted latent if nothing was observed.

        If it is partly observed, missing vectors in the latent are predicted. The learned part is encoded if only such
        vectors are missing, or if the training data had gaps too; otherwise it is predicted.
        """
        del generator
        latent, known = _latent(belief), self._inputs(inputs)[:, 0, 0]
        if latent.correction is None and not self._flags(observed).any():
            return self._step(latent, known)
        window = Window(
            observations={name: observation[name][:, None] for name in self.config.inputs},
            observed={name: observed[name][:, None] for name in self.config.inputs},
            past=inputs.steps(slice(0)),
        )
        return self._advance(latent, known, self._look(window).at(0))

    def adapt(self, window: Window, *, num_steps: int, trust: float, generator: torch.Generator) -> Latent:
        """Like `encode`, with the predictor's last layer corrected on the window (docs/design/adaptation.md)."""
        del generator
        seen, known = self._look(window), self._inputs(window.past)[:, 0]
        belief = self._begin(self._perceive(seen.at(0)), seen.at(0))
        none = belief.latent.new_zeros(len(belief.latent), 0, 0)
        complete = self._flags(window.observed)[:, 0].all(-1)
        belief = replace(
            belief,
            correction=Correction(hidden=none, residuals=none, complete=complete, trust=trust, num_steps=num_steps),
        )
        for step in range(known.shape[1]):
            belief = self._advance(belief, known[:, step], seen.at(step + 1))
        return belief

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Deterministic: S is 1 and `generator` is unused."""
        del generator
        batch, versions, steps, _ = inputs.actions.shape
        known = self._inputs(inputs).flatten(0, 1)
        latent = _latent(belief).repeat(versions)
        path = []
        for step in range(steps):
            latent = self._step(latent, known[:, step])
            path.append(latent.features()[:, 0])
        features = torch.stack(path, 1).reshape(batch, versions, 1, steps, -1)
        return LatentRollout(features=features, final=latent)

    def belief(self, features: Float[Tensor, "B D"]) -> Latent:
        """The belief of `features`; a transformer starts without a past, a frameskip block at its first step."""
        size = self.config.latent_size
        belief = self._begin(features[:, :size])
        if self.linear is not None:
            return replace(belief, memory=self.linear.past(features[:, size:]))
        return replace(belief, memory=Hidden(state=features[:, size:])) if self.config.memory == "gru" else belief

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Prediction error, regulariser, and optional terms. All but `signals` and `targets` use the learned part only.

        Prediction is open loop from the first observation. With memory it is open loop after `context` observations,
        at most half of the window; those before are predicted one step ahead.
        """
        config, exact = self.config, self.num_exact
        seen, shown = self._look(window), self._flags(window.observed).any(-1)
        latents = self._perceive(seen).float()
        known = self._inputs(window.past)[:, 0]
        warm = min(self.context, (latents.shape[1] + 1) // 2)
        imagined = self._unroll(seen, latents[:, 0], known, warm, learning=True).float()
        begun = shown.clone()
        begun[:, warm:] = False  # predictions do not use these observations
        compared = (shown[:, 1:] & begun.long().cumsum(1).bool()[:, :-1]).float()
        error = (imagined - latents[:, 1:])[..., exact:].square().mean(-1)
        found = {"prediction": (1.0, share_mean(error, compared))}
        found |= self._spread(latents[..., exact:].transpose(0, 1), shown.T, generator)
        found |= self._decoded(latents[..., exact:], shown, known[..., : self.num_actions])
        if self.vectors is not None and exact:
            flags = self.vectors.flags(window.observed)
            pair = latents[..., :exact], imagined[..., :exact]
            found["signals"] = (config.signal_weight, signal_error(*pair, flags, shown, self.vectors.change, warm))
        if self.told is not None:
            both = self.told.error(latents, window) + self.told.error(imagined, window)
            found["targets"] = config.target_weight, both / 2
        return Losses(
            terms={name: term for name, (_, term) in found.items()},
            weights={name: weight for name, (weight, _) in found.items()},
        )

    def forecast_error(
        self, stored: Float[Tensor, "B T1 D"], imagined: Float[Tensor, "B T D"], whole: Bool[Tensor, "B T1"]
    ) -> Float[Tensor, ""]:
        """Prediction error as in the loss: relative to persistence for vectors, absolute for the learned part."""
        learned = slice(self.num_exact, self.config.latent_size)
        error = super().forecast_error(stored[..., learned], imagined[..., learned], whole)
        if self.vectors is None or not self.num_exact:
            return error
        pair = stored[..., : self.num_exact], imagined[..., : self.num_exact]
        known = whole[..., None].expand_as(pair[0])
        signals = signal_error(*pair, known, torch.ones_like(whole), self.vectors.change, 1)
        return torch.as_tensor(error + self.config.signal_weight * signals)

    def _unroll(
        self,
        seen: ObservedFeatures,
        start: Tensor,
        known: Tensor,
        warm: int,
        *,
        learning: bool = False,
        lawful: bool = True,
    ) -> Float[Tensor, "B T D"]:
        """The predicted latents; each of the first `warm` - 1 is corrected by its observation before the next step.

        `learning` cuts gradients after `gradient_steps`; `lawful` applies the conservation law, if one was found.
        """
        belief, path = self._begin(start, seen.at(0)), []
        for step in range(known.shape[1]):
            belief = self._step(belief, known[:, step], lawful=lawful)
            path.append(belief.latent)
            if step + 1 < warm:
                belief = self._correct(belief, seen.at(step + 1))
            elif learning and self.config.gradient_steps and not (step + 1) % self.config.gradient_steps:
                belief = belief.detach()
        return torch.stack(path, 1)

    def _spread(
        self, by_time: Float[Tensor, "H B L"], shown: Bool[Tensor, "H B"], generator: torch.Generator
    ) -> dict[str, tuple[float, Tensor]]:
        """The loss terms that prevent collapse."""
        config, found = self.config, dict[str, tuple[float, Tensor]]()

        def gaussian(latents: Tensor, counted: Tensor) -> tuple[float, Tensor]:
            term = sigreg(latents, num_slices=config.num_slices, generator=generator, counted=counted)
            return config.sigreg_weight, term

        if config.sigreg_weight:
            found["sigreg"] = gaussian(by_time, shown)
        if config.constant_size:
            change = by_time[-1:] - by_time[:1]
            found["constant"] = gaussian(by_time[..., -config.constant_size :], shown)
            found["change"] = gaussian(change[..., : change.shape[-1] // 2], shown[-1:] & shown[:1])
        if config.variance_weight:
            found["variance"] = config.variance_weight, variance(by_time, counted=shown)
        if config.covariance_weight:
            found["covariance"] = config.covariance_weight, covariance(by_time, counted=shown)
        return found

    def _decoded(
        self, learned: Float[Tensor, "B H L"], shown: Bool[Tensor, "B H"], actions: Float[Tensor, "B T A"]
    ) -> dict[str, tuple[float, Tensor]]:
        """The optional loss terms on successive latents: similarity, decoded actions, straightening."""
        config, found = self.config, dict[str, tuple[float, Tensor]]()
        moving = learned[..., : learned.shape[-1] - config.constant_size]
        both = (shown[:, 1:] & shown[:, :-1]).float()
        if config.similarity_weight:
            change = learned.diff(dim=1).square().mean(-1)
            found["similarity"] = config.similarity_weight, share_mean(change, both)
        if self.inverse is not None:
            error = self.inverse(torch.cat([moving[:, :-1], moving[:, 1:]], -1)).float() - actions
            found["inverse"] = config.inverse_weight, share_mean(error.square().mean(-1), both)
        if self.delta is not None:
            count = min(config.delta_steps, actions.shape[1])
            decoded = self.delta(moving[:, count:] - moving[:, :-count]).float()
            error = decoded[..., : count * self.num_actions] - actions.unfold(1, count, 1).mT.flatten(2)
            apart = (shown[:, count:] & shown[:, :-count]).float()
            found["delta"] = config.delta_weight, share_mean(error.square().mean(-1), apart)
        if config.straightening_weight:
            found["straightening"] = config.straightening_weight, bend(moving, both)
        return found

    def _flags(self, observed: Mapping[str, Bool[Tensor, "*lead"]]) -> Bool[Tensor, "*lead inputs"]:
        return torch.stack([observed[name] for name in self.config.inputs], -1)

    def _look(self, window: Window, start: int = 0) -> ObservedFeatures:
        """The observations from `start` on, encoded separately [B, H]."""
        values = {name: window.observations[name][:, start:] for name in self.config.inputs}
        observed = {name: window.observed[name][:, start:] for name in self.config.inputs}
        lead = self._flags(observed).shape[:2]
        pictures = [
            encoder(values[name].flatten(0, 1), observed[name].flatten()).unflatten(0, lead)
            for name, encoder in zip(self.cameras, self.images, strict=True)
        ]
        return ObservedFeatures(
            pictures=torch.stack(pictures).sum(0) if pictures else None,
            scores=None if self.vectors is None else self.vectors.scores(values, observed),
            observed=observed,
        )

    def _perceive(
        self, seen: ObservedFeatures, predicted: Float[Tensor, "*lead D"] | None = None
    ) -> Float[Tensor, "*lead D"]:
        """The latent of observations; missing parts are taken from `predicted` if given."""
        learned, exact, gaps = seen.pictures, None, [seen.observed[name] for name in self.cameras]
        if self.vectors is not None:
            assert seen.scores is not None  # for the type checker
            scores, known = seen.scores, self._flags(seen.observed)[..., self._places()]
            if self.num_exact and predicted is not None:
                scores = torch.where(self.vectors.flags(seen.observed), scores, predicted[..., : self.num_exact])
                known = torch.ones_like(known)
            part = self.vectors.of_scores(scores, known)
            learned = part if learned is None else learned + part
            exact, gaps = scores if self.num_exact else None, [*gaps, known.all(-1)]
        assert learned is not None
        if predicted is not None:
            trained = torch.stack(gaps).all(0) | (self.partial > MIN_PARTIAL_SHARE)
            encodable = self._flags(seen.observed).any(-1) & trained
            learned = torch.where(encodable[..., None], learned, predicted[..., self.num_exact :])
        return learned if exact is None else torch.cat([exact, learned], -1)

    def _places(self) -> list[int]:
        return [place for place, name in enumerate(self.config.inputs) if name not in self.cameras]

    def _begin(self, latent: Float[Tensor, "B D"], seen: ObservedFeatures | None = None) -> Latent:
        """The belief of a latent without earlier steps; vectors that are not in `seen` count as predicted."""
        config = self.config
        if self.linear is not None:
            past = self.linear.begin(len(latent), latent.device)
            if seen is not None and self.vectors is not None:
                past = replace(past, guessed=(~self.vectors.flags(seen.observed)).long())
            return Latent(latent=latent, memory=past)
        if config.memory == "gru":
            return Latent(latent=latent, memory=Hidden(state=latent.new_zeros(len(latent), config.memory_size)))
        if config.frameskip == 1:
            return Latent(latent=latent)
        inputs = latent.new_zeros(len(latent), config.frameskip, self.num_inputs)
        full = torch.full((len(latent),), config.frameskip, device=latent.device)
        return Latent(latent=latent, memory=PredictorContext(base=latent, inputs=inputs, count=full))

    def _advance(self, belief: Latent, known: Float[Tensor, "B I"], seen: ObservedFeatures) -> Latent:
        """The belief one step later, corrected by the observation; an adaptation also uses the prediction error."""
        correction = belief.correction
        if correction is None:
            return self._correct(self._step(belief, known), seen)
        learned, complete = self._step(replace(belief, correction=None), known), self._flags(seen.observed).all(-1)
        corrected = self._correct(learned if complete.all() else self._step(belief, known), seen)
        hidden, _ = self._hidden(self._predictor_input(belief, known.to(belief.latent.dtype))[0])
        residual = self._as_output(corrected.latent - learned.latent)
        return replace(corrected, correction=correction.add(hidden, residual, complete))

    def _correct(self, predicted: Latent, seen: ObservedFeatures) -> Latent:
        latent, memory = self._perceive(seen, predicted.latent), predicted.memory
        if isinstance(memory, PredictorContext):  # else predictions would go on from the block's old base latent
            memory = memory.end(self._flags(seen.observed).any(-1))
        if isinstance(memory, Past) and self.vectors is not None:
            residual = (latent - predicted.latent)[:, : self.num_exact]
            memory = memory.correct(residual, self.vectors.flags(seen.observed))
        return replace(predicted, latent=latent, memory=memory)

    def _inputs(self, inputs: Inputs) -> Float[Tensor, "B N T I"]:
        return join_inputs(inputs, self.actions, self.exogenous, self.step_s)

    def _step(self, belief: Latent, known: Float[Tensor, "M I"], *, lawful: bool = True) -> Latent:
        """The belief one step later without an observation. It obeys the conservation law unless `lawful` is False."""
        base, memory, known = belief.latent, belief.memory, known.to(belief.latent.dtype)
        forecast: Tensor | float = 0.0
        if self.config.memory != "none":
            change, memory = self.predictor(base, known, memory)
        elif isinstance(memory, PredictorContext):
            memory = memory.take(base, known)
            base, share = memory.base, (memory.count / self.config.frameskip).to(known.dtype)
            change = self.predictor(torch.cat([base, memory.inputs.flatten(1), share[:, None]], -1))
        else:
            taken, forecast, memory = self._predictor_input(belief, known)
            correction = belief.correction
            if correction is None or not correction.hidden.shape[1]:
                change = self.predictor(taken)
            else:
                hidden, last = self._hidden(taken)
                change = last(hidden) + correction(hidden)
        change = pad(torch.as_tensor(change), (0, self.config.constant_size))
        if self.vectors is not None and self.num_exact:
            exact, learned = change.split([self.num_exact, change.shape[-1] - self.num_exact], -1)
            change = torch.cat([exact * self._unit(self.vectors) + forecast, learned], -1)
        latent = base + change
        if lawful and self.conserved is not None and self.conserved.found:
            latent = self._lawful(base, known, latent)
        return Latent(latent=latent, memory=memory, correction=belief.correction)

    def _lawful(self, base: Tensor, known: Tensor, latent: Tensor) -> Float[Tensor, "M D"]:
        """The predicted latent, with its vectors moved until the law holds."""
        assert self.vectors is not None  # for the type checker
        assert self.conserved is not None
        normaliser = self.vectors.normaliser
        with torch.autocast(latent.device.type, enabled=False):
            before, after = (normaliser.inverse(part[:, : self.num_exact].float()) for part in (base, latent))
            inputs = self._physical(known.float())
            exact = normaliser(self.conserved(before, inputs, after, self._scales(self.vectors)))
        return torch.cat([exact.to(latent.dtype), latent[:, self.num_exact :]], -1)

    def _physical(self, known: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead inputs"]:
        actions, others = known[..., : self.num_actions], known[..., self.num_actions :]
        exogenous = others[..., : len(self.exogenous.mean)]
        return torch.cat([self.actions.inverse(actions), self.exogenous.inverse(exogenous)], -1)

    def _predictor_input(self, belief: Latent, known: Tensor) -> tuple[Tensor, Tensor | float, Past | None]:
        """The input [M, taken] of a predictor without memory, the linear forecast, and the past of the next step."""
        parts, forecast, memory = [belief.latent, known], 0.0, None
        if isinstance(belief.memory, Past) and self.linear is not None and self.vectors is not None:
            forecast, memory = self.linear(belief.latent[:, : self.num_exact], known, belief.memory)
            parts.append(self.linear.shown(belief.memory, forecast / self.vectors.change).to(known.dtype))
        return torch.cat(parts, -1), forecast, memory

    def _hidden(self, taken: Float[Tensor, "M taken"]) -> tuple[Float[Tensor, "M width"], nn.Module]:
        """The input of the predictor's last layer, and that layer."""
        assert isinstance(self.predictor, nn.Sequential)
        return self.predictor[:-1](taken), self.predictor[-1]

    def _unit(self, vectors: VectorEncoder) -> Float[Tensor, " exact"]:
        """Scale of the predictor's output for vectors, z-scores."""
        return vectors.change if self.linear is None else self.linear.unit(vectors.change)

    def _scales(self, vectors: VectorEncoder) -> Float[Tensor, " exact"]:
        """Scale of the predictor's output for vectors, physical units."""
        return self._unit(vectors) * vectors.normaliser.deviation

    def _as_output(self, change: Float[Tensor, "M D"]) -> Float[Tensor, "M out"]:
        """The output of the last layer that gives this change."""
        change = change[:, : change.shape[1] - self.config.constant_size]
        if self.vectors is None or not self.num_exact:
            return change
        return torch.cat([change[:, : self.num_exact] / self._unit(self.vectors), change[:, self.num_exact :]], -1)


def _predictor(config: JepaConfig, num_inputs: int, num_past: int) -> nn.Module:
    width = config.predictor_width
    sizes = {"latent_size": config.latent_size, "num_inputs": num_inputs, "width": width}
    out = config.latent_size - config.constant_size
    if config.memory == "transformer":
        reach = {"depth": config.depth, "num_heads": config.num_heads, "span": config.context}
        return AttentivePredictor(**sizes, **reach, out=out)
    if config.memory == "gru":
        return RecurrentPredictor(**sizes, memory_size=config.memory_size, out=out)
    taken = config.latent_size + (num_inputs + num_past if config.frameskip == 1 else config.frameskip * num_inputs + 1)
    if config.gated:
        return nn.Sequential(Gated(taken, width), nn.Linear(2 * width, out))
    return mlp([taken, width, width, out])


def _conserved(schema: Schema, vectors: tuple[Signal, ...]) -> ConservedQuantity | None:
    """The law over these concatenated signals and the inputs; angles and discrete values are left out."""
    states, place = [], 0
    for signal in vectors:
        if signal.kind is Kind.VECTOR and signal.period is None:
            states.append(slice(place, place + signal.size))
        place += code_size(signal)
    inputs, place = [], 0
    for signal in (*schema.actions, *schema.exogenous):
        if signal.kind is Kind.VECTOR:
            inputs.append(slice(place, place + signal.size))
        place += signal.size
    return ConservedQuantity(states=states, inputs=inputs) if states else None


def _latent(belief: Belief) -> Latent:
    assert isinstance(belief, Latent), f"a {type(belief).__name__} is not a belief of this model"
    return belief
