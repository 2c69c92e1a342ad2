from __future__ import annotations

import numpy as np
import pytest

from worldline.audit.baselines import as_world
from worldline.audit.queries import packed, unpacked
from worldline.episode import Arrays
from worldline.labs.playing import explore
from worldline_exam.base import Pool
from worldline_exam.labs.driven import DAMPINGS, HOLDS
from worldline_exam.references.false_laws import undamped, unpushed
from worldline_exam.references.lab_oracle import LabOracle
from worldline_exam.scenes.driven import (
    CONTEXT,
    NUM_STEPS,
    SYSTEMS,
    damped_by,
    datasets_of,
    lab_of,
    predictions,
    rollouts,
)


def scenes_of(system: str, pool: Pool = Pool.REPORT, *, pixels: bool = False, num: int = 30) -> dict[str, np.ndarray]:
    lab = lab_of(system, pool, pixels=pixels)
    return packed(system, rollouts(lab, num, 12, np.random.default_rng(0)))


def errors(scenes: Arrays, answers: Arrays, system: str) -> np.ndarray:
    """Largest error of each scene."""
    truth, found = unpacked(scenes, f"{system}.truth"), unpacked(answers, system)
    return np.max([np.abs(value - truth[name]).max((1, 2)) for name, value in found.items()], axis=0)


@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("system", SYSTEMS)
def test_who_knows_the_law_is_right_and_who_lacks_a_part_is_not(system: str, pool: Pool) -> None:
    lab, scenes = lab_of(system, pool), scenes_of(system, pool)
    asked = {
        name: errors(scenes, predictions(as_world(LabOracle(schema=lab.schema, law=law)), lab, scenes, system), system)
        for name, law in (("all", lab.simulate), ("damping", undamped(lab)), ("pushes", unpushed(lab)))
    }
    damped = ~damped_by(scenes, system, 0.0)
    assert asked["all"].max() < 1e-4
    assert asked["damping"][~damped].max() < 1e-4
    assert asked["damping"][damped].min() > 1e-3
    assert asked["pushes"].min() > 1e-2


@pytest.mark.parametrize("system", SYSTEMS)
def test_scenes_are_like_the_logs(system: str) -> None:
    lab, scenes = lab_of(system, Pool.REPORT), scenes_of(system, num=90)
    for damping in DAMPINGS:
        assert damped_by(scenes, system, damping).sum() == 30
    episodes = [explore(lab, seed, 3) for seed in range(60)]
    for signal in lab.moving:
        logged = np.array([episode.observations[signal.name][0] for episode in episodes])
        shown = scenes[f"{system}.history.observations.{signal.name}"]
        assert shown.shape == (90, CONTEXT, *signal.shape)
        np.testing.assert_allclose(shown[:, 0].std(0), logged.std(0), rtol=0.35)
    for push in lab.pushes:
        done = scenes[f"{system}.future.{push.name}"]
        assert abs((np.diff(done, axis=1) == 0).all(-1).mean() - HOLDS) < 0.05


@pytest.mark.parametrize("pool", list(Pool))
def test_pools_differ_in_their_labs_and_curricula_in_their_names(pool: Pool) -> None:
    datasets = datasets_of(pool, pixels=False)
    assert [one.name for one in datasets] == list(SYSTEMS)
    for one in datasets:
        assert one.num_steps == NUM_STEPS
        lab = one.make_lab()
        other = lab_of(one.name, next(pool_ for pool_ in Pool if pool_ is not pool))
        assert type(lab) is type(other)
        path, another = (explore(played, 0, 3).observations[lab.moving[0].name] for played in (lab, other))
        assert (path[-1] != another[-1]).any()
