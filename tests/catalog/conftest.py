"""Fixtures of a toy world."""

from tests.world.toy_worlds import *  # noqa: F403  # the fixtures among it
