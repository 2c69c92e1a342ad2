"""A learned model with its heads, as an engine. Latents are private to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Final, TypeVar, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.engines.base import Card, Differentiable, Engine, EngineBelief, GoalDistance, Noise, Novelty, Samples
from worldline.engines.validation import check_future, check_inputs, check_observations
from worldline.episode import Arrays, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.models.base import Adapts, Belief, Inputs, Window, WorldModel
from worldline.models.heads.decoder import Decoder
from worldline.models.heads.distance import Distance
from worldline.models.heads.inverse import Inverse
from worldline.models.heads.landmarks import Aim, Landmarks
from worldline.models.heads.mahalanobis import MahalanobisScore
from worldline.models.heads.outcome import Reward, Termination
from worldline.models.heads.readout import Readout
from worldline.models.layers.precision import autocast
from worldline.schema import Kind, Schema
from worldline.training.batches import goal_latents, split_actions, to_inputs, to_tensor

Head = TypeVar("Head")
Part = tuple[slice, slice]
"""A slice of the worlds and a slice of the versions of their future."""

MAX_LATENT_VALUES: Final = 2**27
"""Largest number of latent values of one rollout part: 4 bytes each, and many times that with gradients."""
MAX_BELIEF_VALUES: Final = 2**24
"""Largest number of values in the beliefs of one rollout part. A model with a large belief, such as a key-value cache,
copies it several times during a rollout. Small parts also stay in the processor's cache: a step of one future took 0.15
ms with 1,024 futures per part, and 0.27 ms with 16,384."""


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
class LearnedEngine(Engine, Differentiable, Novelty, GoalDistance):
    """Wraps a model and its heads: signals at the interface, latents inside.

    Args:
        model: in evaluation mode.
        schema: the signals.
        inputs: observation signals that the model takes.
        readout: from latents to the predicted signals.
        mahalanobis: the out-of-distribution score.
        distance_head: for goal observations; None if they are not supported.
        inverse_head: for proposals; None for no proposals.
        landmarks: intermediate goals on the way to distant ones; None to use the goal only.
        reward_head: for `rewards`; None if they are not supported.
        termination_head: for `termination`; None if it is not supported.
        decoder: from latents to images, for reports only.
        adaptation: None for no adaptation. A calibration holds for one setting only.
        name: on the card.
        notes: on the card.

    Raises:
        UnsupportedError: the model does not support adaptation.
    """

    model: WorldModel
    schema: Schema
    inputs: tuple[str, ...]
    readout: Readout
    mahalanobis: MahalanobisScore
    distance_head: Distance | None = None
    inverse_head: Inverse | None = None
    landmarks: Landmarks | None = None
    reward_head: Reward | None = None
    termination_head: Termination | None = None
    decoder: Decoder | None = None
    adaptation: Adaptation | None = None
    name: str = "learned"
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.adaptation is not None and not (isinstance(self.model, Adapts) and self.model.can_adapt):
            raise UnsupportedError(
                f"{type(self.model).__name__} cannot adapt with this configuration. Use a 'jepa' with memory 'none' "
                "and frameskip 1, or set adaptation to None."
            )

    def describe(self) -> Card:
        """The signals and abilities of this engine."""
        return Card(
            name=self.name,
            engine="learned",
            schema=self.schema,
            inputs=self.inputs,
            predicts=tuple(signal.name for signal in self.readout.config.signals),
            context=max(self.model.context, 0 if self.adaptation is None else self.adaptation.num_steps + 1),
            deterministic=self.model.deterministic,
            action_conditioned=self.model.action_conditioned,
            abilities=("differentiable", "novelty", *(() if self.distance_head is None else ("reaches",))),
            notes=self.notes,
        )

    @torch.no_grad()
    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Belief:
        """The model's belief."""
        signals = [self.schema[name] for name in self.inputs]
        worlds, length = check_observations(steps, signals)
        check_inputs(steps, self.schema, length - 1 if belief is None else length)
        generator = torch.Generator().manual_seed(seed)
        window = self._window(steps, worlds, length)
        if belief is None and self.adaptation is not None and isinstance(self.model, Adapts):
            how = self.adaptation
            return self.model.adapt(window, num_steps=how.num_steps, trust=how.trust, generator=generator)
        if belief is None:
            return self.model.encode(window, generator=generator)
        held = _belief(belief)
        for step in range(length):
            inputs = window.past.steps(slice(step, step + 1))
            observation = {name: values[:, step] for name, values in window.observations.items()}
            observed = {name: flags[:, step] for name, flags in window.observed.items()}
            held = self.model.update(held, inputs, observation, observed, generator=generator)
        return held

    @torch.no_grad()
    def imagine(
        self,
        belief: EngineBelief,
        future: Future,
        *,
        num_samples: int,
        noise: Noise | None = None,
        seed: int,
    ) -> Samples:
        """The model's rollout, as signals. A deterministic model returns S = 1."""
        del noise
        check_future(future, self.schema)
        inputs = to_inputs(future.actions, future.exogenous, self.schema)
        held, (worlds, versions, horizon, _) = _belief(belief), inputs.actions.shape
        drawn = held.features().shape[1] if self.model.deterministic else num_samples
        shape = (worlds, versions, drawn, horizon)
        found = {s.name: np.empty(shape + s.shape, s.dtype) for s in self.readout.config.signals}
        for part, features in self._rollouts(held, inputs, num_samples, seed):
            for name, values in self.readout(features).items():
                found[name][part] = values.numpy()
        return Samples(signals=found)

    def pull_back(
        self, belief: EngineBelief, future: Future, slopes: Arrays, *, num_samples: int, seed: int
    ) -> dict[str, NDArray[np.generic]]:
        """Gradients through readout and rollout.

        Raises:
            InputError: slopes are not of a predicted vector signal, or not [W, N, S, T, *shape].
        """
        check_future(future, self.schema)
        inputs = to_inputs(future.actions, future.exogenous, self.schema)
        with torch.enable_grad():
            leaf = inputs.actions.clone().requires_grad_()
            found = torch.zeros_like(leaf)
            for part, features in self._rollouts(_belief(belief), replace(inputs, actions=leaf), num_samples, seed):
                signals, total = self.readout(features), 0 * leaf.sum()
                for name, slope in slopes.items():
                    shape = None if name not in signals else (*leaf.shape[:2], *signals[name].shape[2:])
                    if slope.shape != shape or self.schema[name].kind is not Kind.VECTOR:
                        raise InputError(
                            f"slopes of {name!r} have shape {slope.shape}. Give those of a predicted vector signal, "
                            f"[W, N, S, T, *shape]{'' if shape is None else f' = {shape}'}."
                        )
                    total = total + (signals[name] * to_tensor(slope)[part]).sum()
                found += torch.autograd.grad(total, leaf)[0]
        kinds = {signal.name: signal.kind for signal in self.schema.actions}
        return {n: value for n, value in split_actions(found, self.schema).items() if kinds[n] is Kind.VECTOR}

    @torch.no_grad()
    def distance(self, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """Steps to the goal by the distance head, averaged over the model's samples.

        With landmarks, the distance to a far goal is that to the next landmark plus the logged distance from there. For
        a goal of images alone, no landmarks are used if the model has other inputs.
        """
        fix = "Learn it with goals, or set signal goals only."
        head = _fitted(self.distance_head, "distance", fix)
        embed = head.embed_pictures if self._missing(goal) else head.embed
        aim = self._aim(_belief(belief), goal)
        with autocast():
            target = embed(aim.latent)[:, None, None, None].float()

            def steps(features: Tensor, part: Part) -> Tensor:
                return head.between(head.embed(features[..., self.model.present]).float(), target[part[0]])

            found = self._mean_ahead(belief, future, steps, seed)
        return np.asarray((found + aim.after[:, None, None]).numpy())

    @torch.no_grad()
    def rewards(self, belief: EngineBelief, future: Future, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """The expected reward of each step of `future`, summed over all reward signals.

        Raises:
            UnsupportedError: the reward head was not fitted.
        """
        head = _fitted(self.reward_head, "reward", "Learn it from logs that hold a reward, with outcome_updates.")
        actions = to_inputs(future.actions, future.exogenous, self.schema).actions[:, :, None]
        found = self._mean_ahead(
            belief,
            future,
            lambda features, part: head(features, actions[part].expand(-1, -1, features.shape[2], -1, -1)),
            seed,
        )
        return np.asarray(found.numpy())

    @torch.no_grad()
    def termination(self, belief: EngineBelief, future: Future, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """The probability that each step of `future` ends the episode, given that no step before it did.

        Raises:
            UnsupportedError: the termination head was not fitted.
        """
        fix = "Learn it from logs with terminated episodes, with outcome_updates."
        head = _fitted(self.termination_head, "termination", fix)
        return np.asarray(self._mean_ahead(belief, future, lambda features, _: head(features), seed).numpy())

    @torch.no_grad()
    def propose(
        self,
        belief: EngineBelief,
        goal: Arrays,
        horizon: int,
        *,
        num_proposals: int,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Mapping[str, NDArray[np.generic]]:
        """The actions of the inverse head, rolled out step by step: P is 1, or 0 without that head.

        The head takes the number of remaining steps. P is 0 for worlds with exogenous signals, because a goal does not
        hold them. P is also 0 if the steps so far indicate that the last one would exceed `budget_s`.
        """
        del num_proposals
        ends_s = math.inf if budget_s is None else time.monotonic() + budget_s
        held, generator = _belief(belief), torch.Generator().manual_seed(seed)
        wanted = self._aim(held, goal).latent
        size = sum(signal.size for signal in self.schema.actions)
        none = split_actions(torch.zeros(len(wanted), 0, horizon, size), self.schema)
        if self.inverse_head is None or self.schema.exogenous:
            return none
        if pending is not None:
            sent = to_inputs({name: value[:, None] for name, value in pending.items()}, {}, self.schema)
            held = self.model.rollout(held, sent, generator=generator).final
        actions, started_s = list[Tensor](), time.monotonic()
        for step in range(horizon):
            now_s = time.monotonic()
            if now_s + (horizon - step) * (now_s - started_s) / max(step, 1) > ends_s:
                return none
            left = torch.full((len(wanted),), horizon - step)
            now = held.features().mean(1)[:, self.model.present]
            action = self.inverse_head(now, wanted, left)[:, None, None]
            step_s = torch.full((len(wanted), 1), self.schema.step_s or 1.0)
            inputs = Inputs(actions=action, exogenous=None, step_s=step_s)
            held = self.model.rollout(held, inputs, generator=generator).final
            actions.append(action)
        return split_actions(torch.cat(actions, 2), self.schema)

    @torch.no_grad()
    def novelty(self, belief: EngineBelief) -> Float[np.ndarray, "W"]:
        """The Mahalanobis distance of the latent to the training data."""
        return np.asarray(self.mahalanobis(_belief(belief).features().mean(1)).numpy())

    @torch.no_grad()
    def novelty_ahead(self, belief: EngineBelief, future: Future, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """The same score for predicted latents, averaged over the model's samples."""
        found = self._mean_ahead(
            belief, future, lambda features, _: self.mahalanobis(features.mean(2, keepdim=True)), seed
        )
        return np.asarray(found.numpy())

    def _aim(self, belief: Belief, goal: Arrays) -> Aim:
        """The latent to aim at: the goal, or a landmark on the way to a distant complete observation."""
        wanted = self._goal(goal)
        if self.landmarks is None or self.distance_head is None or self._missing(goal):
            return Aim(latent=wanted, after=torch.zeros(len(wanted)))
        now = belief.features().mean(1)[:, self.model.present]
        return self.landmarks.aim(self.distance_head, now, wanted)

    def _mean_ahead(
        self, belief: EngineBelief, future: Future, measure: Callable[[Tensor, Part], Tensor], seed: int
    ) -> Float[Tensor, "W N T"]:
        """The mean of `measure`, a function of the parts of `_rollouts`, over the model's samples."""
        check_future(future, self.schema)
        held, inputs = _belief(belief), to_inputs(future.actions, future.exogenous, self.schema)
        found = torch.empty(inputs.actions.shape[:3])
        for part, features in self._rollouts(held, inputs, held.features().shape[1], seed):
            found[part] = measure(features, part).mean(2)
        return found

    def _rollouts(
        self, belief: Belief, inputs: Inputs, num_samples: int, seed: int
    ) -> Iterator[tuple[Part, Float[Tensor, "W N S T D"]]]:
        """The predicted latents in parts of some worlds and versions, so that memory is bounded."""
        num_worlds, num_versions, horizon, _ = inputs.actions.shape
        _, held_samples, size = belief.features().shape
        repeats = 1 if self.model.deterministic else -(-num_samples // held_samples)
        num_latent_values = repeats * held_samples * horizon * size  # per version
        num_belief_values = repeats * -(-_count(belief) // max(1, num_worlds))
        by_latents = MAX_LATENT_VALUES // max(1, num_latent_values)
        max_versions = max(1, min(by_latents, MAX_BELIEF_VALUES // max(1, num_belief_values)))
        max_worlds = max(1, max_versions // max(1, num_versions))
        generator = torch.Generator().manual_seed(seed)
        for world in range(0, num_worlds, max_worlds):
            start = generator.get_state()
            for version in range(0, num_versions, max_versions):
                generator.set_state(start)  # all versions of a world have the same draws
                part = slice(world, world + max_worlds), slice(version, version + max_versions)
                features = self._draw(belief, inputs, part, repeats, generator)
                yield part, features if self.model.deterministic else features[:, :, :num_samples]

    def _draw(
        self, belief: Belief, inputs: Inputs, part: Part, repeats: int, generator: torch.Generator
    ) -> Float[Tensor, "W N S T D"]:
        """The rollout of a part, with each world repeated `repeats` times to draw more samples."""
        index = torch.arange(len(inputs.actions))[part[0]].repeat_interleave(repeats)
        repeated = Inputs(
            actions=inputs.actions[part].repeat_interleave(repeats, 0),
            exogenous=None if inputs.exogenous is None else inputs.exogenous[index],
            step_s=inputs.step_s[index],
        )
        features = self.model.rollout(belief.select(index), repeated, generator=generator).features
        return torch.as_tensor(features.unflatten(0, (-1, repeats)).transpose(1, 2).flatten(2, 3))

    def _missing(self, goal: Arrays) -> tuple[str, ...]:
        """The model inputs that the goal lacks: none, or all except the images.

        Raises:
            UnsupportedError: the goal lacks other inputs.
        """
        missing = tuple(name for name in self.inputs if name not in goal)
        others = tuple(name for name in self.inputs if self.schema[name].kind is not Kind.IMAGE)
        by_pictures = self.distance_head is not None and self.distance_head.config.pictures
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
        none = torch.zeros(worlds, 1, 0, sum(signal.size for signal in self.schema.actions))
        size = sum(signal.size for signal in self.schema.exogenous)
        past = Inputs(
            actions=none,
            exogenous=torch.zeros(worlds, 0, size) if size else None,
            step_s=torch.zeros(worlds, 0),
        )
        return goal_latents(self.model, self._observations(steps, worlds, 1, past))

    def _window(self, steps: History, worlds: int, length: int) -> Window:
        past = to_inputs({k: v[:, None] for k, v in steps.actions.items()}, steps.exogenous, self.schema)
        return self._observations(steps, worlds, length, past)

    def _observations(self, steps: History, worlds: int, length: int, past: Inputs) -> Window:
        everything = np.ones((worlds, length), bool)
        return Window(
            observations={name: to_tensor(steps.observations[name]) for name in self.inputs},
            observed={name: torch.from_numpy(np.array(steps.observed.get(name, everything))) for name in self.inputs},
            past=past,
        )


def _belief(belief: EngineBelief) -> Belief:
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


def _fitted(head: Head | None, name: str, fix: str) -> Head:
    if head is None:
        raise UnsupportedError(f"this world has no {name} head. {fix}")
    return head
