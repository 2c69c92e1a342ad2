"""Fixtures of a toy world."""

from tests.world.toy_worlds import calibration, engine, fresh, histories, history, open_toy_fixture, toy_bundle, world

__all__ = ["calibration", "engine", "fresh", "histories", "history", "open_toy_fixture", "toy_bundle", "world"]
