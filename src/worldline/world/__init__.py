"""Worlds: the public contract, implemented once over any engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.world.base import Abduction as Abduction
    from worldline.world.base import Forecast as Forecast
    from worldline.world.base import Moment as Moment
    from worldline.world.base import Plan as Plan
    from worldline.world.base import PlanStatus as PlanStatus
    from worldline.world.base import Prediction as Prediction
    from worldline.world.base import Scores as Scores
    from worldline.world.base import Surprise as Surprise
    from worldline.world.base import WhatIf as WhatIf
    from worldline.world.base import World as World
    from worldline.world.bundle_io import open_world as open_world
    from worldline.world.bundle_io import save_world as save_world
    from worldline.world.calibration import Calibration as Calibration
    from worldline.world.fit_calibration import calibrate as calibrate
    from worldline.world.local import LocalWorld as LocalWorld
    from worldline.world.remote import RemoteSession as RemoteSession
    from worldline.world.remote import RemoteWorld as RemoteWorld
    from worldline.world.session import Session as Session


__getattr__ = lazy_names(__name__)
