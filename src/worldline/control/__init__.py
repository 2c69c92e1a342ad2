"""Control of plants: controllers, planning with a world, a real-time loop, and goal-reaching evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.control.controller import Actor as Actor
    from worldline.control.controller import ReplanningController as ReplanningController
    from worldline.control.controller import Situation as Situation
    from worldline.control.controller import WorldActor as WorldActor
    from worldline.control.controllers import Controller as Controller
    from worldline.control.controllers import ControllerActor as ControllerActor
    from worldline.control.controllers import ControllerCard as ControllerCard
    from worldline.control.controllers import ControlRule as ControlRule
    from worldline.control.controllers import FunctionController as FunctionController
    from worldline.control.controllers import PidController as PidController
    from worldline.control.controllers import PidLoop as PidLoop
    from worldline.control.controllers import RuleController as RuleController
    from worldline.control.controllers import ScheduleController as ScheduleController
    from worldline.control.controllers import ScheduledStep as ScheduledStep
    from worldline.control.controllers import ValueRange as ValueRange
    from worldline.control.controllers import load_controller as load_controller
    from worldline.control.imagination import imagine as imagine
    from worldline.control.judgement import ControllerDifference as ControllerDifference
    from worldline.control.judgement import Experiment as Experiment
    from worldline.control.judgement import Fan as Fan
    from worldline.control.judgement import JudgedController as JudgedController
    from worldline.control.judgement import JudgedFigure as JudgedFigure
    from worldline.control.judgement import Judgement as Judgement
    from worldline.control.judgement import RiskyStep as RiskyStep
    from worldline.control.judgement import RunVerdict as RunVerdict
    from worldline.control.logged_controller import LoggedController as LoggedController
    from worldline.control.plan_controller import PlanController as PlanController
    from worldline.control.realtime import Period as Period
    from worldline.control.realtime import PlantReading as PlantReading
    from worldline.control.realtime import RealTimeLoop as RealTimeLoop
    from worldline.control.run_goal import RunGoal as RunGoal
    from worldline.control.run_goal import load_goal as load_goal


__getattr__ = lazy_names(__name__)
