from __future__ import annotations

import numpy as np
import pytest

from worldline.engines.baselines import Persistence
from worldline.engines.fixed_lag import typical_values
from worldline.episode import Future, History
from worldline.errors import InputError
from worldline.testing.toys import Integrator

TOY = Integrator(camera=False, wind=False)
EPISODES = TOY.episodes(5, 10, seed=0)


def test_typical_is_the_mean_of_what_was_observed() -> None:
    seen = np.arange(11) < 4
    episode = type(EPISODES[0])(
        observations={"position": np.where(seen[:, None], 2.0, np.nan).astype(np.float32)},
        actions=EPISODES[0].actions,
        observed={"position": seen},
    )
    np.testing.assert_array_equal(typical_values([episode], TOY.schema.observations)["position"], [2, 2])


def test_a_foreign_belief_is_refused() -> None:
    engine = Persistence.fit(EPISODES, TOY.schema)
    history = History(observations={"position": np.zeros((1, 1, 2), np.float32)}, actions={})
    future = Future(actions={"push": np.zeros((1, 1, 1, 2), np.float32)})
    with pytest.raises(InputError, match="belief is a str"):
        engine.observe("mine", history, seed=0)
    with pytest.raises(InputError, match="belief is a str"):
        engine.imagine("mine", future, num_samples=1, seed=0)
