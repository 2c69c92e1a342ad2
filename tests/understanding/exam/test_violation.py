from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest

from worldline.contracts.engine import Card, Engine, EngineBelief, Future, Noise, Samples
from worldline.contracts.episode import Episode, History
from worldline.contracts.evaluation import Verdict
from worldline.contracts.schema import Schema
from worldline.engines.trivial import Persistence
from worldline.errors import UnreadableError
from worldline.labs.occluder import Occluder
from worldline.labs.playing import explore
from worldline.understanding.exam.bank import as_world
from worldline.understanding.exam.contract import Pool, References
from worldline.understanding.exam.examining import Examined, examine
from worldline.understanding.exam.lawful import Lawful, Untrained
from worldline.understanding.exam.verdicts import verdict_of
from worldline.understanding.exam.violation import HORIZON, PARTS, SIGNALS, ViolationOfExpectation

NOTHING = References(oracle={}, must_fail={})


@cache
def logs_of(pool: Pool) -> Mapping[str, Sequence[Episode]]:
    (only,) = ViolationOfExpectation(pool=pool).curricula()
    lab = only.make_lab()
    return {only.name: [explore(lab, seed, only.num_steps) for seed in range(60)]}


@cache
def examined(pool: Pool, seed: int) -> Examined:
    return examine(ViolationOfExpectation(pool=pool), seed, logs_of(pool))


@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracle_holds_and_whoever_must_fail_fails(pool: Pool, seed: int) -> None:
    found = examined(pool, seed)
    assert found.flaws == ()
    assert verdict_of(found.oracle) is Verdict.PASS
    assert all(cell.score is not None and cell.score.low == 1 for cell in found.oracle.cells)
    for name, grade in found.must_fail.items():
        assert verdict_of(grade) is Verdict.FAIL, name
        scores = [cell.score.value for cell in grade.cells if cell.score is not None]
        most = 0.3 if name == "untrained networks" else 0.2 if name == "association" else 0.01
        assert max(scores) <= most, (name, scores)


def test_a_quadruplet_has_one_past_and_two_outcomes() -> None:
    scenes = ViolationOfExpectation().generate(3)
    cues = {"permanence": "wall", "solidity": "door", "support": "pit", "immutability": "ball_brightness"}
    for part in PARTS:
        for name, value in scenes.items():
            if name.startswith(f"{part.name}.history.") and not name.endswith(cues[part.name]):
                np.testing.assert_array_equal(value[:, 0], value[:, 1], err_msg=name)
        cue = scenes[f"{part.name}.history.observations.{cues[part.name]}"]
        assert (np.abs(cue[:, 0, 0] - cue[:, 1, 0]) > 0.1).all()
        outcome, known = (scenes[f"{part.name}.truth.{name}"] for name in ("outcome", "known"))
        assert outcome.shape == (100, 2, HORIZON)
        assert ((np.abs(outcome[:, 0] - outcome[:, 1]) > 0.05) & known.all(1)).sum(1).min() >= 2
    assert not scenes["permanence.history.observed.ball_position"][:, :, -1].any()
    assert not scenes["permanence.history.observed.wall"][:, :, -1].any()
    assert scenes["permanence.history.observed.wall"][:, :, 0].all()
    assert not scenes["immutability.history.observed.ball_brightness"][:, :, -1].any()


def test_the_brighter_outcome_is_the_nearer_one_to_what_was_last_seen() -> None:
    for pool in Pool:
        scenes = ViolationOfExpectation(pool=pool).generate(0)
        seen = scenes["immutability.history.observations.ball_brightness"][:, :, 0, 0].astype(float)
        late = scenes["immutability.truth.outcome"][:, :, -1].astype(float)
        assert (np.abs(seen - late[:, :1]) < np.abs(seen - late[:, 1:])).all()


def test_a_seed_holds_all_scenes() -> None:
    test = ViolationOfExpectation(num_quadruplets=12)
    one, two, other = test.generate(0), test.generate(0), test.generate(1)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert not np.array_equal(one["support.truth.outcome"], other["support.truth.outcome"])


def test_wrong_answers_are_noticed() -> None:
    """Contexts exchanged, outcomes exchanged, quadruplets shuffled, a step too early: each loses."""
    found, test = examined(Pool.REPORT, 0), ViolationOfExpectation()
    good = found.references.oracle
    exchanged = {name: value[:, ::-1] for name, value in good.items()}
    for cell in test.grade(found.scenes, exchanged, NOTHING).cells:
        assert cell.score is not None
        assert cell.score.value == pytest.approx(-1 if cell.name.endswith("pairs") else -1 / 3, abs=1e-6)
    blind = {name: np.repeat(value[:, :1], 2, 1) for name, value in good.items()}
    for cell in test.grade(found.scenes, blind, NOTHING).cells:
        assert cell.score is not None
        assert cell.score.value == pytest.approx(0 if cell.name.endswith("pairs") else -1 / 3, abs=1e-6)
    level = {name: np.zeros_like(value) for name, value in good.items()}
    for cell in test.grade(found.scenes, level, NOTHING).cells:
        assert cell.score is not None
        assert cell.score.value == 0  # all ties
    lost = {name: np.full_like(value, np.nan) for name, value in good.items()}
    assert verdict_of(test.grade(found.scenes, lost, NOTHING)) is Verdict.FAIL


def test_who_forgets_what_was_seen_before_the_screen_fails_there() -> None:
    """An oracle that is shown the last observations only."""
    test = ViolationOfExpectation(num_quadruplets=40)
    scenes, lab = test.generate(0), test.curricula()[0].make_lab()
    assert isinstance(lab, Occluder)
    short = {
        name: value[:, :, -1:] if ".history.observ" in name else value[:, :, :0] if ".actions." in name else value
        for name, value in scenes.items()
    }
    world = as_world(Lawful(schema=lab.schema, law=lab.simulate))
    grade = test.grade(scenes, test.ask({"it": world}, short), NOTHING)
    values = {cell.name: cell.score.value for cell in grade.cells if cell.score is not None}
    assert values["permanence, pairs"] <= 0
    assert values["immutability, pairs"] <= 0
    assert values["solidity, both right"] == values["support, both right"] == 1


def test_stored_answers_get_the_same_grade() -> None:
    found, test = examined(Pool.REPORT, 0), ViolationOfExpectation()
    again = {name: value.copy() for name, value in found.references.oracle.items()}
    assert test.grade(found.scenes, again, NOTHING) == found.oracle


def test_a_world_without_the_signal_is_unreadable() -> None:
    (only,) = ViolationOfExpectation().curricula()
    schema = only.make_lab().schema
    blind = Schema(signals=tuple(s for s in schema.signals if s.name != "ball_seen"), step_s=schema.step_s)
    world = as_world(Persistence.fit([], blind))
    with pytest.raises(UnreadableError, match="ball_seen"):
        ViolationOfExpectation(num_quadruplets=10).ask({"it": world}, {})


def test_untrained_networks_are_told_apart_by_their_seed() -> None:
    (episodes,) = logs_of(Pool.REPORT).values()
    schema = ViolationOfExpectation().curricula()[0].make_lab().schema
    test = ViolationOfExpectation(num_quadruplets=10)
    scenes = test.generate(0)
    asked = [test.ask({"it": as_world(Untrained.fit(episodes, schema, seed))}, scenes) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(asked[0]["support.predicted"], asked[1]["support.predicted"])
    assert not np.array_equal(asked[0]["support.predicted"], asked[2]["support.predicted"])


class Looks(Engine):
    """Keeps what it is shown, and predicts 0."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.shown = schema, list[History]()

    def describe(self) -> Card:
        return Card(
            name="looks", engine="looks", schema=self.schema, inputs=("camera",), predicts=SIGNALS, context=1,
            deterministic=True,
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        self.shown.append(steps)
        return None

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        lead = next(iter(future.actions.values())).shape[:3]
        shapes = {name: (*lead[:2], 1, lead[2], *self.schema[name].shape) for name in SIGNALS}
        return Samples(signals={name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_who_sees_pictures_gets_them_and_no_vectors() -> None:
    test = ViolationOfExpectation(num_quadruplets=10, pixels=True)
    engine = Looks(test.curricula()[0].make_lab().schema)
    answers = test.ask({test.curricula()[0].name: as_world(engine)}, test.generate(0))
    assert answers["support.surprise"].shape == (10, 2, 2, HORIZON)
    permanence = engine.shown[0].observations["camera"].astype(int).reshape(10, 2, 9, 64, 64, 3)
    assert (np.abs(permanence[:, 0, 0] - permanence[:, 1, 0]).sum((1, 2, 3)) > 1000).all()  # the wall is seen
    np.testing.assert_array_equal(permanence[:, 0, -1], permanence[:, 1, -1])  # and then it is not


def test_the_exhibit_shows_surprise_where_the_impossible_happens() -> None:
    found, test = examined(Pool.REPORT, 0), ViolationOfExpectation()
    exhibit = test.exhibit(found.scenes, found.references.oracle, found.references)
    assert 1 <= len(exhibit.panels) <= 6
    for panel in exhibit.panels[:4]:
        lines = {line.name: sum(line.y) for line in panel.lines}
        assert lines["this world"] == pytest.approx(1, abs=0.01)
        assert lines["this world, possible"] == pytest.approx(0, abs=0.01)
