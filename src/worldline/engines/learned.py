"""A learned model with its heads, as an engine. Latents are private to it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.device import autocast, check_fork, device_of
from worldline.engines.base import (
    Card,
    Decodes,
    Engine,
    EngineBelief,
    GoalDistance,
    Noise,
    Novelty,
    ReplayedHistory,
    Samples,
)
from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.models.base import Adapts, Belief, Inputs, Window, WorldModel, concatenate
from worldline.planning.base import LazySignals, Rollout
from worldline.schema import Kind, Schema
from worldline.training.batches import goal_latents, to_inputs, to_tensor
from worldline.training.heads.base import AnyHead, Head
from worldline.training.heads.decoder import Decoder
from worldline.training.heads.distance import Distance, goal_obstacles
from worldline.training.heads.inverse import Inverse
from worldline.training.heads.mahalanobis import MahalanobisScore
from worldline.training.heads.outcomes import Reward, Termination
from worldline.training.heads.readout import Readout

MAX_LATENT_VALUES: Final = 2**27
"""Largest number of latent values of one rollout part: 4 bytes each, and many times that with gradients."""
MAX_BELIEF_VALUES: Final = 2**24
"""Largest number of values in the beliefs of one rollout part. A model with a large belief, such as a key-value cache,
copies it several times during a rollout. Small parts also stay in the processor's cache: a step of one future took 0.15
ms with 1,024 futures per part, and 0.27 ms with 16,384."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedGoal:
    """A goal observation for the heads.

    Args:
        latent: of the goal.
        embedding: of it, for the distance head, [W, 1, 1, 1, size].
    """

    latent: Float[Tensor, "W D"]
    embedding: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """A rollout of some worlds and candidates.

    Args:
        place: the worlds and the candidates.
        belief: of these worlds, each `repeats` times.
        inputs: of these candidates, likewise.
        generator: for the draws.
        repeats: beliefs per world.
        num_samples: S of the result.
    """

    place: tuple[slice, slice]
    belief: Belief
    inputs: Inputs
    generator: torch.Generator
    repeats: int
    num_samples: int

    def samples(self, features: Float[Tensor, "B N R T D"]) -> Float[Tensor, "W N S T D"]:
        """The features of the rollout with all samples of a world on one axis."""
        by_world: Tensor = features.unflatten(0, (-1, self.repeats)).transpose(1, 2).flatten(2, 3)
        return by_world[:, :, : self.num_samples]


@final
@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a learned engine corrects its predictions by the history. Each belief has its own correction; weights stay.

    Args:
        num_steps: largest number of steps that a correction uses, at least 1. `Card.context` grows to cover them.
        trust: in the learned weights, above 0; see `Adapts`.

    Raises:
        ConfigError: a value is too small or not finite.
    """

    num_steps: int = 40
    trust: float = 0.03

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not 0 < self.trust < math.inf:
            raise ConfigError(f"num_steps {self.num_steps} must be at least 1, trust {self.trust} above 0 and finite.")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedEngine(Engine, Novelty, GoalDistance, Decodes):
    """Wraps a model and its heads: signals at the interface, latents inside.

    Args:
        model: in evaluation mode, on the same device as the heads.
        schema: the signals.
        inputs: observation signals that the model takes.
        heads: by name, see `training.heads`. Readout and Mahalanobis score are required; goal observations need a
            distance, proposals an inverse, rewards, terminations and images their heads.
        adaptation: None for no adaptation. A calibration holds for one setting only.
        name: on the card.
        notes: on the card.

    Raises:
        UnsupportedError: the model does not support adaptation.
    """

    model: WorldModel
    schema: Schema
    inputs: tuple[str, ...]
    heads: Mapping[str, Head]
    adaptation: Adaptation | None = None
    name: str = "learned"
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.adaptation is not None and not (isinstance(self.model, Adapts) and self.model.can_adapt):
            raise UnsupportedError(
                f"{type(self.model).__name__} cannot adapt with this configuration. Use a 'jepa' with the predictor "
                "'mlp', 'linear-residual' or 'conserved', or set adaptation to None."
            )

    @property
    def device(self) -> torch.device:
        """The device of the model and its heads."""
        return device_of(self.model)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The image signals of the decoder."""
        decoder = self.head(Decoder)
        return () if decoder is None else tuple(signal.name for signal in decoder.config.images)

    def head(self, kind: type[AnyHead]) -> AnyHead | None:
        """The head of this kind; None if it was not fitted."""
        head = self.heads.get(kind.name)
        return head if isinstance(head, kind) else None

    def required_head(self, kind: type[AnyHead]) -> AnyHead:
        """The head of this kind, which was fitted."""
        head = self.head(kind)
        assert head is not None
        return head

    @property
    def readout(self) -> Readout:
        """From latents to the predicted signals."""
        return self.required_head(Readout)

    @property
    def mahalanobis(self) -> MahalanobisScore:
        """The out-of-distribution score."""
        return self.required_head(MahalanobisScore)

    def describe(self) -> Card:
        """The signals and abilities of this engine."""
        return self._card

    @cached_property
    def _card(self) -> Card:
        return Card(
            name=self.name,
            engine="learned",
            schema=self.schema,
            inputs=self.inputs,
            predicts=tuple(signal.name for signal in self.readout.config.signals),
            context=max(self.model.context, 0 if self.adaptation is None else self.adaptation.num_steps + 1),
            deterministic=self.model.deterministic,
            action_conditioned=self.model.action_conditioned,
            abilities=(
                "differentiable",
                "novelty",
                *(("linear",) if self.model.linear else ()),
                *(() if self.head(Distance) is None else ("reaches",)),
                *(() if self.head(Decoder) is None else ("decodes",)),
            ),
            notes=self.notes,
        )

    @torch.no_grad()
    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Belief:
        """The model's belief."""
        check_fork()
        signals = [self.schema[name] for name in self.inputs]
        _, length = check_observations(steps, signals)
        check_inputs(steps, self.schema, length - 1 if belief is None else length)
        generator = torch.Generator("cpu").manual_seed(seed)
        window = self._window(steps)
        if belief is None and self.adaptation is not None and isinstance(self.model, Adapts):
            how = self.adaptation
            return self.model.adapt(window, num_steps=how.num_steps, trust=how.trust, generator=generator)
        if belief is None:
            return self.model.encode(window, generator=generator)
        held = _belief(belief)
        for step in range(length):
            held = self.model.update(held, window.step(step), generator=generator)
        return held

    @torch.no_grad()
    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The model's rollout, as signals. A deterministic model returns S = 1."""
        check_future(future, self.schema)
        inputs = to_inputs(future.actions, future.exogenous, self.schema, self.device)
        return Samples(signals=self._imagined(_belief(belief), inputs, num_samples, seed))

    @torch.no_grad()
    def replay(self, steps: History, num_steps: int, *, num_samples: int, seed: int) -> ReplayedHistory:
        """The belief, and one-step predictions that are rolled out in one batch where beliefs have equal sizes."""
        check_fork()
        worlds, length = check_observations(steps, [self.schema[name] for name in self.inputs])
        check_inputs(steps, self.schema, length - 1)
        window, generator = self._window(steps), torch.Generator("cpu").manual_seed(seed)
        if self.adaptation is None:
            beliefs = self.model.encode_each(window, num_steps + 1, generator=generator)
        else:
            beliefs = [self.observe(None, steps.window(0, length - num_steps, axis=1), seed=seed)]
            for now in range(length - num_steps, length):
                beliefs.append(self.model.update(beliefs[-1], window.step(now), generator=generator))
        if not num_steps:
            return ReplayedHistory(belief=beliefs[-1], signals={})
        before, inputs = concatenate(beliefs[:-1]), window.past.steps(slice(length - 1 - num_steps, None))
        if before is None:
            steps_ahead = [(belief, inputs.steps(slice(at, at + 1))) for at, belief in enumerate(beliefs[:-1])]
        else:  # all worlds of the first step, then all of the second, and so on
            by_step = Inputs(
                actions=inputs.actions[:, 0].transpose(0, 1).flatten(0, 1)[:, None, None],
                exogenous=None if inputs.exogenous is None else inputs.exogenous.transpose(0, 1).flatten(0, 1)[:, None],
                step_s=inputs.step_s.transpose(0, 1).flatten()[:, None],
            )
            steps_ahead = [(before, by_step)]
        parts = [self._imagined(belief, inputs, num_samples, seed) for belief, inputs in steps_ahead]
        replayed = dict[str, NDArray[np.generic]]()
        for name in parts[0]:
            values = np.concatenate([signals[name][:, 0, :, 0] for signals in parts])
            replayed[name] = np.moveaxis(values.reshape(num_steps, worlds, *values.shape[1:]), 0, 1)
        return ReplayedHistory(belief=beliefs[-1], signals=replayed)

    def _imagined(self, belief: Belief, inputs: Inputs, num_samples: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The signals [W, N, S, T, *shape] of a rollout. Latents of all parts need not fit into memory together."""
        worlds, versions, horizon, _ = inputs.actions.shape
        lead = (worlds, versions, belief.features().shape[1] if self.model.deterministic else num_samples, horizon)
        signals = {s.name: np.empty((*lead, *s.shape), s.dtype) for s in self.readout.config.signals}
        for part in self._parts(belief, inputs, num_samples, seed):
            features = self.model.rollout(part.belief, part.inputs, generator=part.generator).features
            for name, values in self.readout(part.samples(features)).items():
                signals[name][part.place] = values.cpu().numpy()
        return signals

    def rollout(
        self,
        belief: EngineBelief,
        actions: Float[Tensor, "W N T A"],
        exogenous: Float[Tensor, "W T E"] | None,
        *,
        num_samples: int,
        noise: Noise | None = None,
        seed: int,
    ) -> Rollout:
        """The model's rollout. Heads read its latents when their result is requested, and at most once.

        A deterministic model returns S = 1. Goal distance, reward and termination are means over the samples.
        """
        horizon = actions.shape[2]
        step_s = torch.full((len(actions), horizon), self.schema.step_s or 1.0, device=actions.device)
        inputs = Inputs(actions=actions, exogenous=exogenous, step_s=step_s)
        rows: dict[int, list[Tensor]] = {}
        for part in self._parts(_belief(belief), inputs, num_samples, seed):
            rolled_out = self.model.rollout(part.belief, part.inputs, generator=part.generator)
            rows.setdefault(part.place[0].start, []).append(part.samples(rolled_out.features))
        features = torch.cat([torch.cat(row, 1) if len(row) > 1 else row[0] for row in rows.values()])
        reward, termination = self.head(Reward), self.head(Termination)
        shared = actions[:, :, None].expand(-1, -1, features.shape[2], -1, -1)
        return Rollout(
            signals=LazySignals(self.describe().predicts, lambda: self.readout(features)),
            goal_distance=None if self.head(Distance) is None else lambda goal: self._distance(features, goal),
            ood_score=cache(lambda: self.mahalanobis(features.mean(2))),
            images=None if self.head(Decoder) is None else lambda: self._images(features),
            reward=None if reward is None else cache(lambda: reward(features, shared).mean(2)),
            termination=None if termination is None else cache(lambda: termination(features).mean(2)),
        )

    @torch.no_grad()
    def encode_goal(self, belief: EngineBelief, goal: Arrays) -> EncodedGoal:
        """The goal for the distance head."""
        head = self.head(Distance)
        if head is None:
            obstacles = goal_obstacles(self.schema)
            add = "Learn it with goals=True or `--goals`, or set"
            raise UnsupportedError(
                f"{self.name} has no distance head, which goals in steps and on signals that are not predicted need. "
                + (f"It cannot have one: {', '.join(obstacles)}. Set" if obstacles else add)
                + f" a goal on predicted signals without in_steps: {', '.join(self.describe().predicts)}."
            )
        embed = head.embed_pictures if self._missing(goal) else head.embed
        latent = self._goal(goal)
        with autocast(self.device):
            return EncodedGoal(latent=latent, embedding=embed(latent)[:, None, None, None].float())

    @torch.no_grad()
    def proposals(
        self,
        belief: EngineBelief,
        goal: object,
        horizon: int,
        *,
        num_proposals: int,
        pending: Float[Tensor, "W D A"] | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Float[Tensor, "W 1 T A"] | None:
        """The actions of the inverse head, rolled out step by step: P is 1. None without that head.

        The head takes the number of remaining steps. There is no proposal for worlds with exogenous signals, because a
        goal does not hold them. There is none either if the last step would probably exceed `budget_s`.
        """
        ends_s = math.inf if budget_s is None else time.monotonic() + budget_s
        held, generator = _belief(belief), torch.Generator("cpu").manual_seed(seed)
        wanted, inverse = own_belief(goal, EncodedGoal).latent, self.head(Inverse)
        if inverse is None or self.schema.exogenous:
            return None
        step_s = torch.full((len(wanted), 1), self.schema.step_s or 1.0, device=wanted.device)
        if pending is not None and pending.shape[1]:
            sent = Inputs(actions=pending[:, None], exogenous=None, step_s=step_s.expand(-1, pending.shape[1]))
            held = self.model.rollout(held, sent, generator=generator).final
        actions, started_s = list[Tensor](), time.monotonic()
        for step in range(horizon):
            now_s = time.monotonic()
            if now_s + (horizon - step) * (now_s - started_s) / max(step, 1) > ends_s:
                return None
            left = torch.full((len(wanted),), horizon - step, device=wanted.device)
            now = held.features().mean(1)[:, self.model.present]
            action = inverse(now, wanted, left)[:, None, None]
            inputs = Inputs(actions=action, exogenous=None, step_s=step_s)
            held = self.model.rollout(held, inputs, generator=generator).final
            actions.append(action)
        return torch.cat(actions, 2)

    @torch.no_grad()
    def novelty(self, belief: EngineBelief) -> Float[np.ndarray, "W"]:
        """The Mahalanobis distance of the latent to the training data."""
        return np.asarray(self.mahalanobis(_belief(belief).features().mean(1)).cpu().numpy())

    def max_candidates(self, belief: EngineBelief, horizon: int, num_samples: int) -> int:
        """The largest N whose latents fit into memory together."""
        num_worlds, held_samples, size = _belief(belief).features().shape
        drawn = held_samples if self.model.deterministic else max(num_samples, held_samples)
        return max(1, MAX_LATENT_VALUES // max(1, num_worlds * drawn * horizon * size))

    def _images(self, features: Float[Tensor, "W N S T D"]) -> dict[str, Tensor]:
        """Per image signal [W, N, T, *shape], drawn from predicted latents, the mean over the samples."""
        worlds = [self.required_head(Decoder)(world) for world in features]

        def mean(images: Tensor) -> Tensor:
            return images.float().mean(1).round().to(images.dtype)

        return {name: torch.stack([mean(world[name]) for world in worlds]) for name in worlds[0]}

    def _distance(self, features: Float[Tensor, "W N S T D"], goal: object) -> Float[Tensor, "W N T"]:
        """Steps from predicted latents to an encoded goal, the mean over the samples."""
        encoded, head = own_belief(goal, EncodedGoal), self.required_head(Distance)
        with autocast(self.device):
            start = head.embed(features[..., self.model.present]).float()
        return head.between(start, encoded.embedding).mean(2)

    def _parts(self, belief: Belief, inputs: Inputs, num_samples: int, seed: int) -> Iterator[_Part]:
        """Rollouts of some worlds and candidates each, so that memory is bounded. Candidates share their draws."""
        num_worlds, num_versions, horizon, _ = inputs.actions.shape
        _, held_samples, size = belief.features().shape
        repeats = 1 if self.model.deterministic else -(-num_samples // held_samples)
        num_latent_values = repeats * held_samples * horizon * size  # per candidate
        num_belief_values = repeats * -(-_count(belief) // max(1, num_worlds))
        by_latents = MAX_LATENT_VALUES // max(1, num_latent_values)
        max_versions = max(1, min(by_latents, MAX_BELIEF_VALUES // max(1, num_belief_values)))
        max_worlds = max(1, max_versions // max(1, num_versions))
        generator = torch.Generator("cpu").manual_seed(seed)
        for world in range(0, num_worlds, max_worlds):
            start = generator.get_state()
            for version in range(0, num_versions, max_versions):
                generator.set_state(start)  # all candidates of a world have the same draws
                place = slice(world, world + max_worlds), slice(version, version + max_versions)
                # Each world is repeated to draw more samples than its belief holds.
                index = torch.arange(num_worlds, device=inputs.actions.device)[place[0]].repeat_interleave(repeats)
                yield _Part(
                    place=place,
                    belief=belief.select(index),
                    inputs=Inputs(
                        actions=inputs.actions[place].repeat_interleave(repeats, 0),
                        exogenous=None if inputs.exogenous is None else inputs.exogenous[index],
                        step_s=inputs.step_s[index],
                    ),
                    generator=generator,
                    repeats=repeats,
                    num_samples=repeats * held_samples if self.model.deterministic else num_samples,
                )

    def _missing(self, goal: Arrays) -> tuple[str, ...]:
        """The model inputs that the goal lacks: none, or all except the images.

        Raises:
            UnsupportedError: the goal lacks other inputs.
        """
        missing = tuple(name for name in self.inputs if name not in goal)
        others = tuple(name for name in self.inputs if self.schema[name].kind is not Kind.IMAGE)
        distance = self.head(Distance)
        by_pictures = distance is not None and distance.config.pictures
        if missing and not (by_pictures and missing == others):
            alone = f", or give the images alone: {', '.join(n for n in self.inputs if n not in others)}"
            raise UnsupportedError(
                f"the distance head compares complete observations, and the goal lacks {', '.join(missing)}. "
                f"Add it{alone if by_pictures else ''}; or set the goal on predicted signals only."
            )
        return missing

    def _goal(self, goal: Arrays) -> Float[Tensor, "W D"]:
        """The latent of a goal observation."""
        missing, one = self._missing(goal), next(iter(goal.values()))
        values = {name: goal[name][:, None] for name in self.inputs if name not in missing}
        unknown = {name: np.zeros((len(one), 1, *self.schema[name].shape), self.schema[name].dtype) for name in missing}
        steps = History(
            observations={**values, **unknown},
            actions={},
            observed={name: np.zeros((len(one), 1), bool) for name in missing},
        )
        worlds, _ = check_observations(steps, [self.schema[name] for name in self.inputs])
        none = torch.zeros(worlds, 1, 0, sum(signal.size for signal in self.schema.actions), device=self.device)
        size = sum(signal.size for signal in self.schema.exogenous)
        past = Inputs(
            actions=none, exogenous=none.new_zeros(worlds, 0, size) if size else None, step_s=none.new_zeros(worlds, 0)
        )
        return goal_latents(self.model, self._observations(steps, past))

    def _window(self, steps: History) -> Window:
        past = to_inputs({k: v[:, None] for k, v in steps.actions.items()}, steps.exogenous, self.schema, self.device)
        return self._observations(steps, past)

    def _observations(self, steps: History, past: Inputs) -> Window:
        return Window(
            observations={name: to_tensor(steps.observations[name], self.device) for name in self.inputs},
            observed={name: to_tensor(steps.mask(name), self.device) for name in self.inputs},
            past=past,
        )


def _belief(belief: EngineBelief) -> Belief:
    """The belief that a computation begins with; it may be from the process before a fork."""
    check_fork()
    if not isinstance(belief, Belief):
        raise InputError(f"belief is a {type(belief).__name__}. Pass one that this engine returned.")
    return belief


def _count(held: object) -> int:
    """The number of values in a belief or a part of it."""
    if isinstance(held, Tensor):
        return held.numel()
    if is_dataclass(held):
        return sum(_count(getattr(held, one.name)) for one in fields(held))
    if isinstance(held, Mapping):
        held = tuple(held.values())
    return sum(_count(one) for one in held) if isinstance(held, tuple | list) else 0
