"""Engines: the backends of a world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.engines.base import (
        Abducts,
        CallCost,
        Card,
        Decodes,
        Engine,
        EngineBelief,
        GoalDistance,
        Noise,
        Novelty,
        Parts,
        Samples,
        Storable,
    )
    from worldline.engines.baselines import ActionBlind, ConstantVelocity, Linear, Persistence
    from worldline.engines.fixed_lag import typical_values
    from worldline.engines.language.chat import Chat
    from worldline.engines.language.endpoint import Endpoint, key_in
    from worldline.engines.language.engine import LanguageEngine
    from worldline.engines.language.prompt import PROMPT_HASH
    from worldline.engines.language.transcript import exchanges
    from worldline.engines.learned import LearnedEngine
    from worldline.engines.numpy_engine import NumpyEngine, NumpyGoalDistance, NumpyNovelty
    from worldline.engines.simulator import SimulatorEngine
    from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief

__all__ = [
    "PROMPT_HASH",
    "Abducts",
    "ActionBlind",
    "CallCost",
    "Card",
    "Chat",
    "ConstantVelocity",
    "Decodes",
    "Endpoint",
    "Engine",
    "EngineBelief",
    "GoalDistance",
    "LanguageEngine",
    "LearnedEngine",
    "Linear",
    "Noise",
    "Novelty",
    "NumpyEngine",
    "NumpyGoalDistance",
    "NumpyNovelty",
    "Parts",
    "Persistence",
    "Samples",
    "SimulatorEngine",
    "Storable",
    "check_future",
    "check_inputs",
    "check_observations",
    "exchanges",
    "key_in",
    "own_belief",
    "typical_values",
]

__getattr__ = lazy_names(__name__)
