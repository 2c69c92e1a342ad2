"""What a backing writes. NumPy, named signals in physical units, W worlds at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import ConfigError
from worldline.schema import Schema

EngineBelief = object
"""Opaque to everyone but the engine that made it. Immutable."""

Noise = object
"""Opaque: the hidden draws of one episode, to be replayed."""


@dataclass(frozen=True, kw_only=True)
class CallCost:
    """What a prediction costs, measured when the world was calibrated.

    Args:
        latency_s: seconds that one takes, the median.
        price: what the provider charges for it, in `currency`; 0 where nobody does.
        currency: ISO 4217, such as "USD"; empty where the price is 0.
    """

    latency_s: float
    price: float = 0.0
    currency: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s < math.inf and 0 <= self.price < math.inf):
            raise ConfigError(f"latency_s {self.latency_s} and price {self.price} must be finite and at least 0.")
        if self.price and not self.currency:
            raise ConfigError(f"price is {self.price}, of no currency. Name one, such as 'USD'.")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What stands behind a world, for people and programs.

    Args:
        name: of the engine or world.
        engine: its registered kind, such as "learned".
        schema: the signals that it speaks.
        inputs: observation signals that `observe` takes; others are ignored.
        predicts: observation signals that `imagine` returns.
        context: observations that `observe` wants at least; fewer are accepted and cost accuracy.
        deterministic: whether samples of one future are all equal.
        action_conditioned: whether what is predicted depends on the actions; where not, every plan is as good as another.
        abilities: names of the optional abilities, such as "abducts".
        call: what a prediction costs; None where it was not measured.
        notes: short facts in words, such as the training data's hash.
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


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Imagined signals.

    Args:
        signals: per predicted signal [W, N, S, T, *shape]; [..., k, ...] is the value after input k.
    """

    signals: Arrays


class Engine(ABC):
    """A backing: learned, simulated, remote or trivial."""

    @abstractmethod
    def describe(self) -> Card:
        """What this engine is and can do."""

    @abstractmethod
    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """The belief after `steps`.

        Args:
            belief: None to start afresh, else one that this engine returned.
            steps: W worlds, H observations; H-1 inputs where `belief` is None, else H.
            seed: of every draw.

        Raises:
            InputError: a signal is missing or has the wrong shape.
        """

    @abstractmethod
    def imagine(
        self,
        belief: EngineBelief,
        future: Future,
        *,
        num_samples: int,
        noise: Noise | None = None,
        seed: int,
    ) -> Samples:
        """What `future` would lead to. Equal seeds give equal draws, the same for all N versions.

        Args:
            belief: from `observe`.
            future: W worlds, N versions, T steps.
            num_samples: S, draws a version; a deterministic engine returns S = 1.
            noise: from `Abducts.abduct`, to replay the hidden draws of an episode.
            seed: of every draw.
        """


class Abducts(ABC):
    """Optional: can infer the hidden causes and draws of an episode that already happened."""

    @abstractmethod
    def abduct(self, episode: Episode, at: int) -> tuple[EngineBelief, Noise]:
        """The belief at observation `at` given the *whole* episode, and the draws that followed."""


class Differentiable(ABC):
    """Optional: tells how what is imagined changes with the actions."""

    @abstractmethod
    def pull_back(
        self, belief: EngineBelief, future: Future, slopes: Arrays, *, num_samples: int, seed: int
    ) -> dict[str, NDArray[np.generic]]:
        """Per vector action the slope [W, N, T, *shape] of a number whose slopes in the imagined signals are `slopes`.

        Args:
            belief: from `observe`, W worlds.
            future: N versions of T steps.
            slopes: per predicted vector signal [W, N, S, T, *shape], in the samples that `imagine` gives for the same
                arguments; a signal that is left out does not matter.
            num_samples: as in `imagine`.
            seed: likewise.
        """


class GoalDistance(ABC):
    """Optional: knows how far a goal observation is, in steps, and suggests how to get there."""

    @abstractmethod
    def distance(self, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """Steps from each imagined state to `goal`, at least 0. Equal seeds give equal distances.

        Args:
            belief: from `observe`, W worlds.
            future: N versions of T steps.
            goal: observation signals [W, *shape].
            seed: of every draw.

        Raises:
            UnsupportedError: the head that is needed was not fitted; names it.
        """

    @abstractmethod
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
        """Per action signal [W, P, T, *shape]: sequences to start a search from; P may be smaller than asked, also 0.

        Args:
            belief: from `observe`, W worlds.
            goal: as in `distance`.
            horizon: T, steps of each sequence.
            num_proposals: P.
            pending: per action signal [W, D, *shape], taken before the sequences begin; None for nothing.
            budget_s: seconds in which to answer: a sequence that would come later is left out; None for no limit.
            seed: of every draw.
        """


class Novelty(ABC):
    """Optional: measures how unlike the training data a belief is."""

    @abstractmethod
    def novelty(self, belief: EngineBelief) -> Float[np.ndarray, "W"]:
        """A score that grows with strangeness; only its order has meaning, `World` calibrates it."""

    @abstractmethod
    def novelty_ahead(self, belief: EngineBelief, future: Future, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """The score of each state that `future` leads to, on the scale of `novelty`. Equal seeds give equal scores."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An engine on disk.

    Args:
        config: plain JSON values: what it was built with. No secret and no path of one machine.
        arrays: what was fitted, by name.
    """

    config: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)


class Storable(ABC):
    """Optional: can be written into a bundle, and built again from it by its registered name."""

    @abstractmethod
    def to_parts(self) -> Parts:
        """All that `from_parts` needs beside the schema."""

    @classmethod
    @abstractmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> Storable:
        """The engine that `to_parts` wrote; parts are read as if from a stranger.

        Raises:
            DataError: they are not those of this engine, or contradict each other.
        """
