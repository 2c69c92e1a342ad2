"""The engine contract: a backend of a world. It computes with torch, on one device, for W worlds at once.

Action tensors hold all action signals, concatenated in the order of the schema, with discrete ones as one-hot. An
engine that computes with NumPy is a `NumpyEngine` (`worldline.engines.numpy_engine`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.device import CPU
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import ConfigError
from worldline.formatting import html_table, number, plural, round_percent, size
from worldline.planning.base import Rollout
from worldline.schema import Schema
from worldline.training.batches import to_inputs

EngineBelief = object
"""An engine's estimate of the present state. Immutable; only the engine that made it can read it."""

Noise = object
"""The random draws of one episode, to be replayed. Only the engine that inferred them can read them."""


@dataclass(frozen=True, kw_only=True)
class CallCost:
    """Latency and price of one prediction, measured during calibration.

    Args:
        latency_s: median duration in seconds, at least 0.
        price: what the provider charges, in `currency`; 0 if it is free.
        currency: ISO 4217 code, such as "USD"; empty if the price is 0.
    """

    latency_s: float
    price: float = 0.0
    currency: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s < math.inf and 0 <= self.price < math.inf):
            raise ConfigError(f"latency_s {self.latency_s} and price {self.price} must be finite and at least 0.")
        if self.price and not self.currency:
            raise ConfigError(f"price is {self.price} without a currency. Set currency, such as 'USD'.")


UNLIMITED: Final = 2**31

MAX_WORLDS: Final = 2**16
"""Largest batch, and largest number of candidates in a call, of an engine whose card states no other limit."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Describes an engine or a world, for people and programs.

    Args:
        name: of the engine or world.
        engine: registered name of the engine, such as "learned".
        schema: the signals.
        inputs: observation signals that `observe` reads; it ignores others.
        predicts: observation signals that `imagine` returns.
        context: observations that `observe` needs for full accuracy; fewer are accepted.
        deterministic: whether all samples of one future are equal.
        action_conditioned: whether predictions depend on the actions. If not, planning is not possible. False without
            a choice, see `Schema.has_choice`.
        abilities: names of the optional abilities, such as "abducts". "linear": predictions are affine in the actions.
        call: latency and price of a prediction; None if not measured.
        notes: short facts as text, such as the hash of the training data.
        band_horizon: of a world: longest prediction with bands, steps; 0 without a calibration.
        band_level: of a world: highest level of its bands, in [0, 1); 0 without a calibration.
        max_batch: W, worlds in one call, at most.
        max_candidates: candidate plans of all worlds in one call of `score`, or proposals of `plan`, at most.
        bytes_per_candidate: peak memory per candidate of `band_horizon` steps, within a factor of 4; 0 if unknown.
            Of learned worlds, an estimate from their sizes: all tensors from the rollout to the predicted signals,
            without gradients.
    """

    name: str
    engine: str
    schema: Schema
    inputs: tuple[str, ...]
    predicts: tuple[str, ...]
    context: int
    deterministic: bool
    action_conditioned: bool = True
    abilities: tuple[str, ...] = ()
    call: CallCost | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    band_horizon: int = 0
    band_level: float = 0.0
    max_batch: int = MAX_WORLDS
    max_candidates: int = MAX_WORLDS
    bytes_per_candidate: int = 0

    def __post_init__(self) -> None:
        if self.action_conditioned and not self.schema.has_choice:
            object.__setattr__(self, "action_conditioned", False)

    def facts(self) -> dict[str, str]:
        """The facts that apply, by name, for readers."""
        bands, memory, call = self.band_horizon, self.bytes_per_candidate, self.call
        facts = {
            "name": self.name,
            "engine": self.engine,
            "inputs": ", ".join(self.inputs),
            "actions": ", ".join(signal.name for signal in self.schema.actions),
            "exogenous": ", ".join(signal.name for signal in self.schema.exogenous),
            "predicts": ", ".join(self.predicts),
            "context": plural(self.context, "observation"),
            "abilities": ", ".join(self.abilities),
            "bands": f"up to {plural(bands, 'step')}, highest level {round_percent(self.band_level)}"
            if bands
            else "none",
            "one prediction": f"{number(1e3 * call.latency_s)} ms" if call else "not measured",
            "worlds in one call": f"at most {number(self.max_batch)}",
            "candidates in one call": f"at most {number(self.max_candidates)}",
            "memory per candidate": size(memory) if memory else "not measured",
        }
        return {name: text for name, text in facts.items() if text}

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Card of a world", (), self.facts().items())


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sampled predictions.

    Args:
        signals: per predicted signal [W, N, S, T, *shape], physical units. Entry t along T is the value after input t.
    """

    signals: Arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplayedHistory:
    """The belief after a history, and what was predicted one step ahead on the way.

    Args:
        belief: after the whole history.
        signals: per predicted signal [W, L, S, *shape], physical units: samples of observation t + 1, made after
            observation t, for the last L steps.
    """

    belief: EngineBelief
    signals: Arrays


class Engine(ABC):
    """A backend of a world: a learned model, a simulator, a remote service or a baseline.

    The state of a world is in the belief, not in the engine. The optional abilities are base classes in this module.
    """

    @abstractmethod
    def describe(self) -> Card:
        """The signals and abilities of this engine."""

    @abstractmethod
    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """The belief after the observations in `steps`.

        Args:
            belief: from an earlier call, which stays unchanged; None to start without one.
            steps: H observations of W worlds, with H-1 inputs if `belief` is None, else H.
            seed: determines every random draw.

        Raises:
            InputError: a signal is missing or has the wrong shape.
        """

    @abstractmethod
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
        """The predicted trajectories of N candidates, differentiable in the actions if the engine can.

        Args:
            belief: from `observe`.
            actions: T inputs of each of N candidates, physical units.
            exogenous: concatenated exogenous signals; None if the schema has none.
            num_samples: S, samples per candidate; a deterministic engine returns S = 1.
            noise: from `Abducts.abduct`, to replay the draws of an episode; None for new draws.
            seed: determines every random draw. All candidates share the draws.

        Raises:
            UnsupportedError: a gradient is requested, but the engine computes with NumPy.
        """

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return CPU

    def max_candidates(self, belief: EngineBelief, horizon: int, num_samples: int) -> int:
        """The largest N of one rollout that fits into memory, at least 1."""
        return UNLIMITED

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The signals of a rollout as arrays.

        Args:
            belief: as in `rollout`.
            future: T inputs for each of N candidates of W worlds.
            num_samples: as in `rollout`.
            noise: as in `rollout`.
            seed: as in `rollout`.

        Raises:
            InputError: a signal is missing or has the wrong shape.
        """
        inputs = to_inputs(future.actions, future.exogenous, self.describe().schema, self.device)
        with torch.no_grad():
            drawn: Any = {"num_samples": num_samples, "noise": noise, "seed": seed}
            rollout = self.rollout(belief, inputs.actions, inputs.exogenous, **drawn)
            return Samples(signals={name: value.cpu().numpy() for name, value in rollout.signals.items()})

    def replay(self, steps: History, num_steps: int, *, num_samples: int, seed: int) -> ReplayedHistory:
        """The belief after `steps`, and the one-step predictions of its last steps. Observes each step once.

        Args:
            steps: H observations of W worlds, with H-1 inputs.
            num_steps: L, number of predicted steps, 0 to H-1.
            num_samples: as in `imagine`.
            seed: determines every random draw.

        Raises:
            InputError: a signal is missing or has the wrong shape.
        """
        length = next(iter(steps.observations.values())).shape[1]
        belief = self.observe(None, steps.window(0, length - num_steps, axis=1), seed=seed)
        parts = list[Arrays]()
        for now in range(length - num_steps, length):
            step = steps.step(now)
            inputs = {name: value[:, None] for name, value in step.actions.items()}
            future = Future(actions=inputs, exogenous=step.exogenous)
            # A seed per step: equal draws at every step would be correlated.
            samples = self.imagine(belief, future, num_samples=num_samples, seed=seed + now).signals
            parts.append({name: value[:, 0, :, 0] for name, value in samples.items()})
            belief = self.observe(belief, step, seed=seed + now)
        names = self.describe().predicts if parts else ()
        signals = {name: np.stack([part[name] for part in parts], 1) for name in names}
        return ReplayedHistory(belief=belief, signals=signals)


class Abducts(ABC):
    """Optional: infers the hidden causes and random draws of a recorded episode."""

    @abstractmethod
    def abduct(self, episode: Episode, at: int) -> tuple[EngineBelief, Noise]:
        """The belief at observation `at`, given the whole episode, and the random draws after it."""


class GoalDistance(ABC):
    """Optional: distance to a goal observation in steps (`Rollout.goal_distance`), and actions that lead to it."""

    @abstractmethod
    def encode_goal(self, belief: EngineBelief, goal: Arrays) -> object:
        """A goal observation, encoded once for `Rollout.goal_distance` and `proposals`.

        Args:
            belief: as in `Engine.rollout`.
            goal: observation signals [W, *shape], physical units.

        Raises:
            UnsupportedError: the engine has no distance to this goal. The message names the missing head.
        """

    @abstractmethod
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
    ) -> Float[Tensor, "W P T A"] | None:
        """Action sequences from which a search can start; None for no proposals.

        Args:
            belief: as in `Engine.rollout`.
            goal: from `encode_goal`.
            horizon: T, steps of each sequence.
            num_proposals: the largest P. Fewer may be returned.
            pending: executed before the sequences begin; None for none.
            budget_s: time limit in seconds: sequences that would take longer are left out; None for no limit.
            seed: determines every random draw.
        """


class Novelty(ABC):
    """Optional: scores how far a belief, or a predicted state (`Rollout.ood_score`), is from the training data."""

    @abstractmethod
    def novelty(self, belief: EngineBelief) -> Float[np.ndarray, "W"]:
        """An out-of-distribution score; larger is less familiar. Only its order matters: `World` calibrates it."""


class Decodes(ABC):
    """Optional: draws predicted states as images, for people (`Rollout.images`). Planning does not use them."""

    @property
    @abstractmethod
    def drawn(self) -> tuple[str, ...]:
        """The image signals of `Rollout.images`; empty if no decoder was fitted."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The stored form of an engine.

    Args:
        config: settings as plain JSON values. They must hold no secret and no path of one machine.
        arrays: fitted values by name.
    """

    config: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)


class Storable(ABC):
    """Optional: can be stored in a bundle and rebuilt by its registered name."""

    @abstractmethod
    def to_parts(self) -> Parts:
        """Everything that `from_parts` needs in addition to the schema."""

    @classmethod
    @abstractmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> Storable:
        """The engine that `to_parts` described. Implementations must treat the parts as untrusted input.

        Raises:
            DataError: the parts belong to another engine or contradict each other.
        """
