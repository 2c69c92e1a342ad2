from __future__ import annotations

import numpy as np
import pytest

from worldline.episode import Future, History
from worldline.errors import InputError
from worldline.labs.playing import replay
from worldline_exam.labs.collision import Collision
from worldline_exam.references.lab_oracle import LabOracle


def test_each_version_of_each_world_follows_the_law() -> None:
    lab, rng = Collision(), np.random.default_rng(0)
    push = rng.uniform(-0.3, 0.3, (3, 2, 12, 1)).astype(np.float32)
    played = [[replay(lab, seed, {"push": push[seed, version]}) for version in range(2)] for seed in range(3)]
    engine = LabOracle(schema=lab.schema, law=lab.simulate)
    first = {name: np.stack([row[0].observations[name][:1] for row in played]) for name in played[0][0].observations}
    belief = engine.observe(None, History(observations=first, actions={"push": push[:, 0, :0]}), seed=0)
    found = engine.imagine(belief, Future(actions={"push": push}), num_samples=5, seed=0).signals
    for world in range(3):
        for version in range(2):
            for name, value in found.items():
                assert value.shape[2] == 1
                np.testing.assert_array_equal(value[world, version, 0], played[world][version].observations[name][1:])
    with pytest.raises(InputError, match="belief"):
        engine.imagine("nothing", Future(actions={"push": push}), num_samples=1, seed=0)
