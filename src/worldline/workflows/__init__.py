"""Workflows: what a command or a job runs from end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.workflows.doctor import MachineReport as MachineReport
    from worldline.workflows.doctor import examine_machine as examine_machine
    from worldline.workflows.learn_result import versions as versions
    from worldline.workflows.training import Learned as Learned
    from worldline.workflows.training import build_model as build_model
    from worldline.workflows.training import learn_world as learn_world


__getattr__ = lazy_names(__name__)
