from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from exam.tests.grading import split

from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError
from worldline.labs.playing import explore, stacked
from worldline_exam.labs.occluder import Occluder
from worldline_exam.references.initial_observation_regression import InitialObservationRegression, Terms, When

INPUTS = ("pit", "ball_position")
"""Which rail is the ball's is its height."""
ASKED = ("ball_seen", "ball_position")


@cache
def logs() -> list[Episode]:
    return [explore(Occluder(), seed, 20) for seed in range(120)]


def fitted(terms: Terms, when: When, late: int = 0) -> InitialObservationRegression:
    return InitialObservationRegression.fit(
        logs(), Occluder().schema, inputs=INPUTS, predicts=ASKED, terms=terms, when=when, late=late
    )  # fmt: skip


def told(engine: InitialObservationRegression, length: int, num_steps: int = 6, versions: int = 2) -> Arrays:
    shown = stacked(logs())
    history, _ = split(History(observations=shown.observations, actions=shown.actions), length)
    belief = engine.observe(None, history, seed=0)
    future = Future(actions={"push": np.zeros((len(logs()), versions, num_steps, 1), np.float32)})
    return engine.imagine(belief, future, num_samples=3, seed=0).signals


def test_one_answer_is_the_same_for_all_frames_and_whatever_was_seen_since() -> None:
    for terms in ("linear", "products", "kernel"):
        engine = fitted(terms, "any")
        short, long = told(engine, 1), told(engine, 9)
        for name in ASKED:
            np.testing.assert_array_equal(short[name], long[name])
            np.testing.assert_array_equal(short[name], np.repeat(short[name][:, :1, :, :1], 2, 1).repeat(6, 3))


def test_products_tell_what_a_line_cannot() -> None:
    """Whether the ball falls, by the rail and the pit."""
    shown, misses = stacked(logs()), dict[str, float]()
    seen, height = shown.observed["ball_position"][:, -1], shown.observations["ball_position"][..., 1]
    for terms in ("linear", "products", "kernel"):
        found = told(fitted(terms, "late", late=15), 1)["ball_position"][:, 0, 0, 0, 1]
        misses[terms] = float(((found - height[:, -1])[seen] ** 2).mean())
    assert misses["products"] < 0.7 * misses["linear"]
    assert misses["kernel"] < 0.7 * misses["linear"]


def test_an_answer_for_each_frame_counts_frames_from_the_first_on() -> None:
    engine = fitted("kernel", "each")
    x = {length: told(engine, length)["ball_position"][:, 0, 0, :, 0] for length in (1, 4)}
    np.testing.assert_allclose(x[1][:, 3:], x[4][:, :3], atol=1e-5)
    assert np.ptp(x[1], axis=1).mean() > 0.3
    late = told(engine, 19, 6)["ball_position"][:, 0, 0, :, 0]
    np.testing.assert_array_equal(late[:, 2:], late[:, 1:2].repeat(4, 1))  # the last answer is for all that follow


def test_a_belief_of_another_engine_is_refused() -> None:
    future = Future(actions={"push": np.zeros((1, 1, 2, 1), np.float32)})
    with pytest.raises(InputError, match="belief"):
        fitted("linear", "any").imagine("nothing", future, num_samples=1, seed=0)
