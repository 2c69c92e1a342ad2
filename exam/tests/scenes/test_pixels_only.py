"""In an exam of pictures no vector reaches a world, whatever the test; and the pictures are those of the logs."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest

from worldline.audit.baselines import MarginalMean, as_world
from worldline.audit.queries import history_of
from worldline.engines.base import Card
from worldline.episode import Episode, History
from worldline.errors import ConfigError, InputError, UnreadableError
from worldline.labs.drawing import CAMERA
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.base import Goal
from worldline.planning.calls import Call, PlanCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.registry import load, names
from worldline.schema import Kind, Schema
from worldline.world.base import Abduction, Forecast, Prediction, Scores, Surprise, WhatIf, World
from worldline_exam.base import ExamTest, Pool
from worldline_exam.exam_tests.occlusion import OcclusionTest
from worldline_exam.labs.hidden_mover import HiddenMover
from worldline_exam.scenes.pixels_only import PixelsOnlyWorld, pictured, pictured_episode

CODES = names("test")
SMALL = {
    "num_scenes": 2, "num_branches": 2, "num_pulses": 1, "num_quadruplets": 2, "num_pairs": 2, "num_each": 1,
    "num_motors": 2,
}  # fmt: skip


@dataclass(eq=False)
class Spy(World):
    """Says that everything is 0, within 1, and keeps what it was shown."""

    schema: Schema
    shown: list[History | Episode] = field(default_factory=list)

    def describe(self) -> Card:
        predicts = tuple(one.name for one in self.schema.observations if one.kind is Kind.VECTOR)
        return Card(
            name="spy", engine="spy", schema=self.schema, inputs=(), predicts=predicts, context=1, deterministic=True
        )

    def answer(self, call: Call) -> Any:
        self.shown.append(call.episode if isinstance(call, WhatIfCall | SurpriseCall) else call.history)
        if isinstance(call, ScoreCall):
            return Scores(cost=np.zeros(1), violation=np.zeros((1, 0)), trust=0.5)
        if isinstance(call, SurpriseCall):
            ones = np.ones(call.episode.num_steps)
            return Surprise(p_values=dict.fromkeys(self.describe().predicts, ones), entities={}, steps=ones, moments=())
        if isinstance(call, PlanCall):
            raise InputError("a spy has no plans.")
        lead = next(iter(call.actions.values())).shape[: 1 if isinstance(call, WhatIfCall) else 2]
        said = {name: np.zeros((*lead, *self.schema[name].shape)) for name in self.describe().predicts}
        if isinstance(call, WhatIfCall):
            return WhatIf(signals=said, factual=said, abduction=Abduction.NONE)
        horizon = np.full(lead[0], lead[1])
        made = {name: Forecast(mean=zero, low=zero - 1, high=zero + 1, horizon=horizon) for name, zero in said.items()}
        return Prediction(signals=made, level=call.level or 0.9, trust=np.full(lead[0], 0.5), calibrated=True)


def small(code: str, *, pixels: bool) -> ExamTest:
    test: ExamTest = load("test", code)(pool=Pool.DEVELOPMENT, pixels=pixels)
    known: dict[str, Any] = {one.name: SMALL[one.name] for one in fields(test) if one.name in SMALL}
    if code == "T2":
        known["num_scenes"] = 1  # of each length
    if code == "C5":
        known["num_scenes"] = 4  # of each of four kinds one
    return replace(test, **known)


LONG = ("T2", "T3", "U2")
"""Tests of many long histories: drawing them takes tens of seconds."""


@pytest.mark.parametrize("code", [pytest.param(c, marks=pytest.mark.slow) if c in LONG else c for c in CODES])
def test_no_vector_reaches_a_world_of_pictures_and_the_camera_does(code: str) -> None:
    test = small(code, pixels=True)
    spies = {one.name: Spy(one.make_lab().schema) for one in test.datasets()}
    test.ask(spies, test.generate(0))
    for spy in spies.values():
        assert spy.shown
        for shown in spy.shown:
            vectors = {name: value for name, value in shown.observations.items() if name != CAMERA.name}
            assert vectors
            for name, value in vectors.items():
                assert not value.any(), name
                assert not shown.observed[name].any(), name
            camera, seen = shown.observations[CAMERA.name], np.asarray(shown.observed[CAMERA.name])
            assert (camera.dtype, camera.shape) == (np.uint8, (*seen.shape, *CAMERA.shape))
            assert seen[..., 1:].all()  # the first may show what was done before it
            assert np.ptp(camera[seen].astype(int), axis=(0, 1, 2)).max() > 50


@pytest.mark.parametrize("code", CODES)
def test_scenes_are_those_of_their_seed_and_the_same_in_both_exams(code: str) -> None:
    vectors, pictures = (small(code, pixels=pixels).generate(1) for pixels in (False, True))
    assert vectors.keys() == pictures.keys()
    for name, value in vectors.items():
        np.testing.assert_array_equal(value, pictures[name])
    other = small(code, pixels=False).generate(2)
    assert any(not np.array_equal(value, other[name]) for name, value in vectors.items())
    assert small(code, pixels=False).code == code


@pytest.mark.parametrize("code", CODES)
def test_pictures_are_drawn_as_the_logs_show_them(code: str) -> None:
    for one in small(code, pixels=True).datasets():
        lab = one.make_lab()
        logged = explore(lab, 3, 25)
        bare = {name: value for name, value in logged.observations.items() if name != CAMERA.name}
        shown = pictured_episode(replace(logged, observations=bare), lab)
        seen = shown.observed[CAMERA.name]
        assert seen[1:].all()
        apart = np.abs(shown.observations[CAMERA.name].astype(int) - logged.observations[CAMERA.name])[seen]
        assert apart.max() <= 1  # a lab may draw what is not rounded to 32 bits yet
        assert set(one.asked) <= set(bare)


@pytest.mark.parametrize("code", CODES)
def test_a_world_that_predicts_nothing_is_unreadable(code: str) -> None:
    test = small(code, pixels=False)
    datasets = test.datasets()
    worlds = {one.name: as_world(MarginalMean(schema=one.make_lab().schema, typical={}, context=1)) for one in datasets}
    with pytest.raises(UnreadableError, match=datasets[0].asked[0]):
        test.ask(worlds, test.generate(0))


def test_pictures_that_are_there_stay() -> None:
    lab = HiddenMover(pictures=True)
    logged = explore(lab, 0, 5)
    marked = np.full_like(logged.observations[CAMERA.name], 7)
    shown = pictured_episode(replace(logged, observations={**logged.observations, CAMERA.name: marked}), lab)
    np.testing.assert_array_equal(shown.observations[CAMERA.name], marked)
    assert shown.observed[CAMERA.name].all()
    assert not shown.observed["puck_position"].any()


def test_a_single_history_is_shown_as_a_batch_of_one_is() -> None:
    lab = HiddenMover(pictures=True)
    batch = history_of(OcclusionTest(pool=Pool.DEVELOPMENT, num_scenes=1).generate(0))
    one = History(
        observations={name: value[2] for name, value in batch.observations.items()},
        actions={name: value[2] for name, value in batch.actions.items()},
        observed={name: value[2] for name, value in batch.observed.items()},
    )
    alone, together = pictured(one, lab), pictured(batch, lab)
    for name, value in alone.observations.items():
        np.testing.assert_array_equal(value, together.observations[name][2])
        np.testing.assert_array_equal(alone.observed[name], together.observed[name][2])


def test_every_verb_is_asked_from_behind_the_camera() -> None:
    lab = HiddenMover(pictures=True)
    episode = explore(lab, 0, 4)
    spy = Spy(lab.schema)
    camera, goal = PixelsOnlyWorld(world=spy, lab=lab), Goal(targets={"puck_position": np.zeros(2)})
    ahead = {"push": np.zeros((1, 2), np.float32)}
    camera.predict(replace(episode.history(4, 5), observed={}), {"push": np.zeros((1, 1, 2))})
    camera.score(episode.history(4, 5), {"push": np.zeros((1, 1, 2))}, goal)
    with pytest.raises(InputError, match="no plans"):
        camera.plan(episode.history(4, 5), goal, horizon=1)
    camera.what_if(episode, 3, ahead)
    camera.surprise(episode)
    assert len(spy.shown) == 5
    assert not any(shown.observed["puck_position"].any() for shown in spy.shown)
    assert camera.describe().name == "spy"


def test_what_cannot_be_drawn_is_refused() -> None:
    nothing = History(observations={}, actions={})
    with pytest.raises(ConfigError, match="TwoRooms cannot draw"):
        pictured(nothing, TwoRooms())
    with pytest.raises(InputError, match="no vector signal to draw"):
        pictured(nothing, HiddenMover(pictures=True))
    with pytest.raises(InputError, match="fleet is no dataset of T2"):
        OcclusionTest(pixels=True).ask({"fleet": Spy(HiddenMover().schema)}, {})
