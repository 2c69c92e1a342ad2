"""Baselines of a world that sees pictures of a cart are fitted on these pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.audit.carts import DECAY, GAIN, SCHEMA, Cart, carts

from worldline.audit.input_baselines import InputReadouts, needs_images, reduced
from worldline.audit.queries import window_forecasts
from worldline.audit.run import comparisons
from worldline.data.windows import evenly_spaced_windows
from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(16, 16, 1))
SEEN = Schema(signals=(CAMERA, *SCHEMA.signals), step_s=1.0)


def pictured(episode: Episode) -> Episode:
    """With a picture whose brightness on the right grows with the place, and falls on the left."""
    place = np.clip(episode.observations["place"][:, 0], -10, 10)
    camera = np.zeros((len(place), 16, 16, 1), np.uint8)
    camera[:, :, 8:] = np.round(127 + 12 * place)[:, None, None, None]
    camera[:, :, :8] = np.round(127 - 12 * place)[:, None, None, None]
    return replace(episode, observations={"camera": camera, **episode.observations})


def card() -> Card:
    return replace(Cart().describe(), schema=SEEN, inputs=("camera",), predicts=("place",))


def test_baselines_see_the_pictures_and_not_the_place() -> None:
    episodes = [pictured(one) for one in carts(0, 30)]
    worlds = comparisons(episodes, card())
    assert needs_images(card())
    assert list(worlds) == ["persistence", "action_blind", "linear"]
    assert {one.describe().inputs for one in worlds.values()} == {("camera",)}
    windows = evenly_spaced_windows([pictured(one) for one in carts(50, 10)], length=3, horizon=4, per_episode=2)
    hidden = windows.history.select(["camera", "push"])
    hidden = replace(hidden, observations={**hidden.observations, "place": np.full((20, 3, 1), 1e6, np.float32)})
    found = {
        name: window_forecasts(one, replace(windows, history=hidden))["place"].mean for name, one in worlds.items()
    }
    place = windows.history.observations["camera"][:, -1, 0, -1].astype(float)
    place = (place - 127) / 12
    np.testing.assert_allclose(found["persistence"][..., 0], np.repeat(place, 4, 1), atol=0.1)
    due = DECAY * place[:, 0] + GAIN * windows.actions["push"][:, 0, 0]
    np.testing.assert_allclose(found["linear"][:, 0, 0], due, atol=0.15)
    assert np.abs(found["action_blind"][:, 0, 0] - due).mean() > 0.5


def test_an_angle_is_read_across_its_seam() -> None:
    angle = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
    turn = Signal(name="turn", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,))
    schema = Schema(signals=(turn, angle, SCHEMA["push"]), step_s=1.0)
    degrees = np.arange(0, 360, 10, dtype=np.float32)[:, None]
    turns = np.concatenate([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)
    episode = Episode(observations={"turn": turns, "angle": degrees}, actions={"push": np.zeros((35, 1), np.float32)})
    asked = replace(card(), schema=schema, inputs=("turn",), predicts=("angle",))
    read = InputReadouts.fit([episode] * 3, asked)(episode.observations)["angle"]
    np.testing.assert_allclose(angle.difference(read.astype(float), degrees), 0, atol=0.5)


def test_images_are_reduced_to_means_of_blocks() -> None:
    image = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1)
    np.testing.assert_allclose(reduced(image, 2)[0] * 255, [7.0, 10.0, 25.0, 28.0], atol=1e-4)
    assert reduced(image, 8).shape == (1, 36)


def test_logs_without_the_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="no episode has all inputs of the world"):
        InputReadouts.fit(carts(0, 3), card())
