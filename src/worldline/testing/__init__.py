"""The public conformance kit: checks a model, planner, engine or world against its contract."""

from __future__ import annotations

from importlib import import_module

from worldline.testing.checks import check_engine, check_model, check_planner, check_world

__all__ = ["check_engine", "check_model", "check_planner", "check_world"]

# Each of these files adds its clauses to the table `clauses.CLAUSES`.
for _name in ("predictions", "rollouts", "engines", "worlds", "bands", "goals", "plans", "surprises", "refusals"):
    import_module(f"worldline.testing.{_name}")
