"""Engines: the backends of a world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.engines.base import Abducts as Abducts
    from worldline.engines.base import CallCost as CallCost
    from worldline.engines.base import Card as Card
    from worldline.engines.base import Decodes as Decodes
    from worldline.engines.base import Engine as Engine
    from worldline.engines.base import EngineBelief as EngineBelief
    from worldline.engines.base import GoalDistance as GoalDistance
    from worldline.engines.base import Noise as Noise
    from worldline.engines.base import Novelty as Novelty
    from worldline.engines.base import Parts as Parts
    from worldline.engines.base import Samples as Samples
    from worldline.engines.base import Storable as Storable
    from worldline.engines.baselines import ActionBlind as ActionBlind
    from worldline.engines.baselines import ConstantVelocity as ConstantVelocity
    from worldline.engines.baselines import Linear as Linear
    from worldline.engines.baselines import Persistence as Persistence
    from worldline.engines.fixed_lag import typical_values as typical_values
    from worldline.engines.forecast.engine import ForecastEngine as ForecastEngine
    from worldline.engines.forecast.forecasters import Chronos as Chronos
    from worldline.engines.forecast.forecasters import Forecaster as Forecaster
    from worldline.engines.forecast.forecasters import Fracast as Fracast
    from worldline.engines.language.chat import Chat as Chat
    from worldline.engines.language.endpoint import Endpoint as Endpoint
    from worldline.engines.language.endpoint import key_in as key_in
    from worldline.engines.language.engine import LanguageEngine as LanguageEngine
    from worldline.engines.language.prompt import PROMPT_HASH as PROMPT_HASH
    from worldline.engines.language.transcript import exchanges as exchanges
    from worldline.engines.learned import LearnedEngine as LearnedEngine
    from worldline.engines.numpy_engine import NumpyEngine as NumpyEngine
    from worldline.engines.numpy_engine import NumpyGoalDistance as NumpyGoalDistance
    from worldline.engines.numpy_engine import NumpyNovelty as NumpyNovelty
    from worldline.engines.simulator import SimulatorEngine as SimulatorEngine
    from worldline.engines.validation import check_future as check_future
    from worldline.engines.validation import check_inputs as check_inputs
    from worldline.engines.validation import check_observations as check_observations
    from worldline.engines.validation import own_belief as own_belief


__getattr__ = lazy_names(__name__)
