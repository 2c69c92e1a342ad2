"""Windows of a model from episodes of the toy world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from worldline.episode import Episode
from worldline.models.base import Inputs, Window
from worldline.schema import Schema


def window_of(episodes: Sequence[Episode], schema: Schema) -> Window:
    """A batch of whole episodes of `Integrator`."""

    def batch(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays))

    observations = {s.name: batch([one.observations[s.name] for one in episodes]) for s in schema.observations}
    shape = next(iter(observations.values())).shape[:2]
    return Window(
        observations=observations,
        observed={name: torch.ones(shape, dtype=torch.bool) for name in observations},
        past=Inputs(
            actions=batch([episode.actions["push"] for episode in episodes])[:, None],
            exogenous=batch([episode.exogenous["wind"] for episode in episodes]) if schema.exogenous else None,
            step_s=torch.full((shape[0], shape[1] - 1), 0.1),
        ),
    )
