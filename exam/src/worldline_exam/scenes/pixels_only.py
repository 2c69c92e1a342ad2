"""Pixel versions of scenes: worlds observe camera images, and no vector values.

Scenes hold vectors for all exams. In a pixel exam each world is queried through a `PixelsOnlyWorld`. It replaces the
vectors of every history or episode by images that the lab draws. The vectors are set to zero and marked as unobserved.
Tests do not handle this themselves, so none can forget it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.engines import Card
from worldline.episode import Episode, History
from worldline.errors import ConfigError, InputError
from worldline.labs import CAMERA, DrawsImages, Lab
from worldline.planning import Call, SurpriseCall, WhatIfCall
from worldline.schema import Kind, Schema
from worldline.world import World

PIXELS: Final = CAMERA.shape


def pictured(history: History, lab: Lab) -> History:
    """The history with observed images of the lab's camera and unobserved vectors.

    Args:
        history: [..., H, *shape], one or a batch; an existing `camera` signal is kept unchanged.
        lab: lab that draws the images.

    Raises:
        ConfigError: the lab cannot draw images from observations.
        InputError: the history holds no vector signal to draw.
    """
    if not isinstance(lab, DrawsImages):
        raise ConfigError(f"{type(lab).__name__} cannot draw images. Implement `worldline.labs.DrawsImages`.")
    vectors = [s for s in lab.schema.observations if s.name != CAMERA.name and s.name in history.observations]
    if not vectors:
        raise InputError(
            f"the history has no vector signal to draw, only {', '.join(history.observations) or 'nothing'}."
        )
    lead = history.observations[vectors[0].name].shape[: -len(vectors[0].shape)]
    if CAMERA.name in history.observations:
        pictures = history.observations[CAMERA.name]
        known = np.asarray(history.observed.get(CAMERA.name, np.ones(lead, bool)), dtype=bool)
    else:
        pictures, known = _images(history, lab, [signal.name for signal in vectors], lead)
    shown = replace(
        history,
        observations={CAMERA.name: pictures, **history.observations},
        observed={**history.observed, CAMERA.name: known},
    )
    return without_vectors(shown, lab.schema)


def without_vectors(history: History, schema: Schema) -> History:
    """The history with only images observed; all other signals are zero and unobserved.

    Args:
        history: [..., H, *shape].
        schema: schema of its signals.
    """
    kept = {name: value for name, value in history.observations.items() if schema[name].kind is Kind.IMAGE}
    hidden = {name: value for name, value in history.observations.items() if name not in kept}
    unseen = {
        name: np.zeros(value.shape[: value.ndim - len(schema[name].shape)], bool) for name, value in hidden.items()
    }
    return replace(
        history,
        observations={**kept, **{name: np.zeros_like(value) for name, value in hidden.items()}},
        observed={**{name: flags for name, flags in history.observed.items() if name in kept}, **unseen},
    )


def pictured_episode(episode: Episode, lab: Lab) -> Episode:
    """The episode with observed images and unobserved vectors; see `pictured`."""
    seen = pictured(episode.history(), lab)
    return replace(episode, observations=seen.observations, observed=seen.observed)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PixelsOnlyWorld(World):
    """A world that observes images only.

    Args:
        world: world that is queried.
        lab: lab whose camera draws the images.
    """

    world: World
    lab: Lab

    def describe(self) -> Card:
        """The world's own card."""
        return self.world.describe()

    def answer(self, call: Call) -> Any:
        """See `World`. `surprise` has no observed vectors to judge, so compare predictions with the truth instead."""
        if isinstance(call, WhatIfCall | SurpriseCall):
            return self.world.answer(replace(call, episode=pictured_episode(call.episode, self.lab)))
        return self.world.answer(replace(call, history=pictured(call.history, self.lab)))


def _images(
    history: History, lab: DrawsImages, names: Sequence[str], lead: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images [*lead, 64, 64, 3] and whether each exists [*lead]; missing ones are black."""
    pictures, known = np.zeros((*lead, *PIXELS), np.uint8), np.zeros(lead, bool)
    observed = {name: np.asarray(v, bool) for name, v in history.observed.items() if name in names}
    before = {name: lead[-1] - value.shape[len(lead) - 1] for name, value in history.actions.items()}
    for place in np.ndindex(lead):
        shown = {n: history.observations[n][place] for n in names if n not in observed or observed[n][place]}
        for name, lag in before.items():
            if place[-1] >= lag:
                shown[name] = history.actions[name][(*place[:-1], place[-1] - lag)]
        picture = lab.drawn(shown)
        if picture is not None:
            pictures[place], known[place] = picture, True
    return pictures, known
