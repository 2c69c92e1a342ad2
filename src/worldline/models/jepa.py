"""A joint-embedding world model, learned end to end from observations and actions.

It predicts the latents of future observations, open loop, and a regulariser keeps the latents from collapsing. No
pixel is ever reconstructed.

Source: LeWM (arXiv 2603.19312) for prediction + SIGReg; LeJEPA (arXiv 2511.08544) for SIGReg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from worldline.contracts.schema import Kind, Schema
from worldline.contracts.world_model import Belief, Imagined, Inputs, Losses, Window, WorldModel
from worldline.errors import ConfigError
from worldline.nn.codes import code_size
from worldline.nn.encoders import ImageEncoder, VectorEncoder
from worldline.nn.mlp import mlp
from worldline.nn.normaliser import Normaliser
from worldline.nn.sigreg import sigreg


@dataclass(frozen=True, kw_only=True)
class JepaConfig:
    """Size of the network and weight of each term.

    Args:
        inputs: observation signals that the encoder sees.
        latent_size: D.
        channels: of the image encoder's convolutions.
        encoder_width: of the encoder's hidden layer.
        predictor_width: of the predictor's two hidden layers.
        sigreg_weight: pull of the latents towards a standard Gaussian.
        constant_size: how many numbers of each latent, its last, no input can change: they hold what stays the same
            within an episode and differs between episodes, such as a wall. 0 for none (docs/design/constants.md).
        num_slices: directions that SIGReg looks along at each step.
        signal_weight: of the error of the vector inputs. Above 0 they are themselves the first numbers of each
            latent, so that none of their digits are lost; the encoder adds the rest (docs/design/vectors.md).
        timed: whether the predictor is told how long each step takes; for logs whose steps differ. A world that was
            learned predicts steps of the schema's length.
    """

    inputs: tuple[str, ...]
    latent_size: int = 64
    channels: int = 96
    encoder_width: int = 512
    predictor_width: int = 256
    sigreg_weight: float = 5.0
    constant_size: int = 0
    num_slices: int = 64
    signal_weight: float = 0.0
    timed: bool = False

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty. Name at least one observation signal for the encoder.")
        for name in ("latent_size", "channels", "encoder_width", "predictor_width", "num_slices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        for name in ("sigreg_weight", "signal_weight", "constant_size"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must not be negative.")


@dataclass(frozen=True, kw_only=True)
class Latent(Belief):
    """A belief that is one latent and nothing else."""

    latent: Float[Tensor, "B D"]

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The latent; S is 1."""
        return self.latent[:, None]

    def select(self, index: Tensor) -> Latent:
        """The latents of the batch entries in `index`."""
        return Latent(latent=self.latent[index])


class Jepa(WorldModel):
    """The model. Its belief is one latent: it remembers nothing that the last full observation does not show.

    Args:
        schema: the signals; actions and exogenous inputs are taken from it in order.
        config: see `JepaConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: an image of a size that the encoder does not take, or a latent that is too small.
    """

    Config = JepaConfig

    def __init__(self, *, schema: Schema, config: JepaConfig) -> None:
        super().__init__()
        self.schema, self.config = schema, config
        signals = tuple(schema[name] for name in config.inputs)
        vectors = tuple(signal for signal in signals if signal.kind is not Kind.IMAGE)
        self.num_exact = sum(code_size(signal) for signal in vectors) if config.signal_weight > 0 else 0
        num_learned = config.latent_size - self.num_exact
        if num_learned < 1 + config.constant_size:
            raise ConfigError(
                f"latent_size is {config.latent_size}, and the vector inputs alone fill {self.num_exact}, what stays "
                f"constant {config.constant_size}. Raise it."
            )
        images = [signal for signal in signals if signal.kind is Kind.IMAGE]
        self.cameras = tuple(signal.name for signal in images)  # a module cannot be called `arm.front`
        width = config.encoder_width
        self.images = nn.ModuleList(
            ImageEncoder(signal, channels=config.channels, width=width, out=num_learned) for signal in images
        )
        self.vectors = VectorEncoder(vectors, width=width, out=num_learned) if vectors else None
        self.actions = Normaliser(sum(signal.size for signal in schema.actions))
        self.exogenous = Normaliser(sum(signal.size for signal in schema.exogenous))
        self.step_s = Normaliser(1) if config.timed else None
        num_inputs = len(self.actions.mean) + len(self.exogenous.mean) + int(config.timed)
        width = config.predictor_width
        num_moving = config.latent_size - config.constant_size
        self.predictor = mlp([config.latent_size + num_inputs, width, width, num_moving])

    def fit_normaliser(self, window: Window) -> None:
        """Per channel of an image, per component of everything else; missing values do not count.

        What was never observed keeps the scale that it has.
        """
        for name, encoder in zip(self.cameras, self.images, strict=True):
            assert isinstance(encoder, ImageEncoder)  # for the type checker
            encoder.fit(window.observations[name], window.observed[name])
        if self.vectors is not None:
            self.vectors.fit(window.observations, window.observed)
        self.actions.fit(window.past.actions.flatten(0, 2))
        if window.past.exogenous is not None:
            self.exogenous.fit(window.past.exogenous.flatten(0, 1))
        if self.step_s is not None:
            self.step_s.fit(window.past.step_s.flatten()[:, None])

    def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
        """The latent of the last observation; where one was missing, what the steps before lead to."""
        complete = torch.stack([window.observed[name] for name in self.config.inputs]).all(0)
        start = int(complete.long().argmax(1).min()) if not complete[:, -1].all() else complete.shape[1] - 1
        at = {name: window.observations[name][:, start] for name in self.config.inputs}
        seen = {name: window.observed[name][:, start] for name in self.config.inputs}
        belief = Latent(latent=self._encode(at, seen))
        for step in range(start, complete.shape[1] - 1):
            at = {name: window.observations[name][:, step + 1] for name in self.config.inputs}
            seen = {name: window.observed[name][:, step + 1] for name in self.config.inputs}
            belief = self.update(belief, _at_step(window.past, step), at, seen, generator=generator)
        return belief

    def update(
        self,
        belief: Belief,
        inputs: Inputs,
        observation: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B"]],
        *,
        generator: torch.Generator,
    ) -> Latent:
        """The new observation's latent where all of it was seen, else the predicted one."""
        del generator
        predicted = self._predict(belief.features()[:, 0], self._inputs(inputs)[:, 0, 0])
        complete = torch.stack([observed[name] for name in self.config.inputs]).all(0)
        if not complete.any():
            return Latent(latent=predicted)
        return Latent(latent=self._encode(observation, observed).where(complete[:, None], predicted))

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> Imagined:
        """Deterministic: S is 1 and `generator` is not used."""
        del generator
        batch, versions, steps, _ = inputs.actions.shape
        known = self._inputs(inputs).flatten(0, 1)
        latent = belief.features()[:, 0].repeat_interleave(versions, 0)
        path = []
        for step in range(steps):
            latent = self._predict(latent, known[:, step])
            path.append(latent)
        features = torch.stack(path, 1).reshape(batch, versions, 1, steps, -1)
        return Imagined(features=features, final=Latent(latent=latent))

    def belief(self, features: Float[Tensor, "B D"]) -> Latent:
        """Features are the belief."""
        return Latent(latent=features)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Open-loop prediction error, SIGReg, and the options of the config; all but `signals` of the learned part."""
        config, exact = self.config, self.num_exact
        batch, length = next(iter(window.observations.values())).shape[:2]
        flat = {name: window.observations[name].flatten(0, 1) for name in config.inputs}
        seen = {name: window.observed[name].flatten(0, 1) for name in config.inputs}
        latents = self._encode(flat, seen).float().unflatten(0, (batch, length))
        imagined = self.rollout(Latent(latent=latents[:, 0]), window.past, generator=generator).features[:, 0, 0]
        complete = torch.stack([window.observed[name] for name in config.inputs]).all(0)
        compared = (complete[:, 1:] & complete[:, :1]).float()
        error = (imagined.float() - latents[:, 1:])[..., exact:].square().mean(-1)
        terms = {"prediction": (error * compared).sum() / compared.sum().clamp(min=1)}
        weights = {"prediction": 1.0}
        by_time = latents[..., exact:].transpose(0, 1)
        if config.sigreg_weight:
            terms["sigreg"] = sigreg(by_time, num_slices=config.num_slices, generator=generator)
            weights["sigreg"] = config.sigreg_weight
        if config.constant_size:
            constant, change = by_time[..., -config.constant_size :], by_time[-1:] - by_time[:1]
            half = change[..., : change.shape[-1] // 2]
            terms["constant"] = sigreg(constant, num_slices=config.num_slices, generator=generator)
            terms["change"] = sigreg(half, num_slices=config.num_slices, generator=generator)
            weights |= {"constant": config.sigreg_weight, "change": config.sigreg_weight}
        if self.vectors is not None and exact:
            known = self.vectors.flags(window.observed)[:, 1:] & complete[:, :1, None]
            terms["signals"] = _signal_error(latents[..., :exact], imagined[..., :exact], known, self.vectors.change)
            weights["signals"] = config.signal_weight
        return Losses(terms=terms, weights=weights)

    def _encode(self, observations: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Float[Tensor, "M D"]:
        parts = [
            encoder(observations[name], observed[name]) for name, encoder in zip(self.cameras, self.images, strict=True)
        ]
        if self.vectors is not None:
            parts.append(self.vectors(observations, observed))
        learned = torch.as_tensor(torch.stack(parts).sum(0))
        if self.vectors is None or not self.num_exact:
            return learned
        return torch.cat([self.vectors.scores(observations, observed), learned], -1)

    def _inputs(self, inputs: Inputs) -> Float[Tensor, "B N T I"]:
        parts = [self.actions(inputs.actions)]
        versions = parts[0].shape[1]
        if inputs.exogenous is not None:
            parts.append(self.exogenous(inputs.exogenous)[:, None].expand(-1, versions, -1, -1))
        if self.step_s is not None:
            parts.append(self.step_s(inputs.step_s[..., None])[:, None].expand(-1, versions, -1, -1))
        return torch.cat(parts, -1)

    def _predict(self, latent: Tensor, known: Tensor) -> Float[Tensor, "M D"]:
        step = torch.as_tensor(self.predictor(torch.cat([latent, known.to(latent.dtype)], -1)))
        step = pad(step, (0, self.config.constant_size))
        if self.vectors is None or not self.num_exact:
            return latent + step
        exact, learned = step.split([self.num_exact, step.shape[-1] - self.num_exact], -1)
        return latent + torch.cat([exact * self.vectors.change, learned], -1)


def _signal_error(
    scores: Float[Tensor, "B H size"],
    imagined: Float[Tensor, "B T size"],
    known: Bool[Tensor, "B T size"],
    change: Float[Tensor, " size"],
) -> Float[Tensor, ""]:
    """Squared error of each component and step over that of standing still: slow signals count like fast ones."""
    count = known.sum(0).clamp(min=1)
    error = ((imagined - scores[:, 1:]).square() * known).sum(0) / count
    standing_still = ((scores[:, :1] - scores[:, 1:]).square() * known).sum(0) / count
    return (error / (standing_still + change.square())).mean()


def _at_step(inputs: Inputs, step: int) -> Inputs:
    here = slice(step, step + 1)
    exogenous = None if inputs.exogenous is None else inputs.exogenous[:, here]
    return Inputs(actions=inputs.actions[:, :, here], exogenous=exogenous, step_s=inputs.step_s[:, here])
