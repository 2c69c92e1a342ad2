"""Control of plants: controllers, planning with a world, a real-time loop, and goal-reaching evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.control.controller import Actor, ReplanningController, Situation, WorldActor
    from worldline.control.controllers import (
        Controller,
        ControllerActor,
        ControllerCard,
        ControlRule,
        FunctionController,
        PidController,
        PidLoop,
        RuleController,
        ScheduleController,
        ScheduledStep,
        ValueRange,
        load_controller,
    )
    from worldline.control.imagination import imagine
    from worldline.control.judgement import (
        ControllerDifference,
        Experiment,
        Fan,
        JudgedController,
        JudgedFigure,
        Judgement,
        RiskyStep,
        RunVerdict,
    )
    from worldline.control.logged_controller import LoggedController
    from worldline.control.plan_controller import PlanController
    from worldline.control.realtime import Period, PlantReading, RealTimeLoop
    from worldline.control.run_goal import RunGoal, load_goal

__all__ = [
    "Actor",
    "ControlRule",
    "Controller",
    "ControllerActor",
    "ControllerCard",
    "ControllerDifference",
    "Experiment",
    "Fan",
    "FunctionController",
    "JudgedController",
    "JudgedFigure",
    "Judgement",
    "LoggedController",
    "Period",
    "PidController",
    "PidLoop",
    "PlanController",
    "PlantReading",
    "RealTimeLoop",
    "ReplanningController",
    "RiskyStep",
    "RuleController",
    "RunGoal",
    "RunVerdict",
    "ScheduleController",
    "ScheduledStep",
    "Situation",
    "ValueRange",
    "WorldActor",
    "imagine",
    "load_controller",
    "load_goal",
]

__getattr__ = lazy_names(__name__)
