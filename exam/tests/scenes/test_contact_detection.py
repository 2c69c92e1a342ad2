from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline_exam.labs.containers import WALL_HALF_WIDTH, Containers
from worldline_exam.scenes.contact_detection import WINDOW, ContactScene, contacts, depth, gaps, miscounted, tally

TABLE = ContactScene(size=2.0, radius=0.25, wall=((0.9, 0.0), (0.9, 0.6)), half_width=0.03, num_discs=2)
LEFT, RIGHT, LOWER, UPPER, PEN = range(5)
PAIR = 10


def path(*discs: tuple[tuple[float, float], tuple[float, float]], num_steps: int = 12) -> np.ndarray:
    """Positions [1, T, 2, 2] of discs that go straight on, from a place with a motion a frame."""
    steps = np.arange(num_steps)[:, None]
    return np.stack([np.array(place) + steps * np.array(motion) for place, motion in discs], 1)[None]


def folded(places: np.ndarray, frame: float) -> np.ndarray:
    """The same along the first axis, turned back at a time."""
    steps, motion = np.arange(places.shape[1]), places[0, 1, 0, 0] - places[0, 0, 0, 0]
    turned = places.copy()
    turned[0, :, 0, 0] -= 2 * motion * np.maximum(steps - frame, 0)
    return turned


def test_gaps_are_as_wide_as_they_look() -> None:
    found = gaps(np.array([[[[0.4, 0.5], [1.4, 0.5]]]]), TABLE).gap[0, 0]
    np.testing.assert_allclose(found[:5], [0.15, 1.35, 0.25, 1.25, 0.22], atol=1e-9)
    np.testing.assert_allclose(found[5:10], [1.15, 0.35, 0.25, 1.25, 0.22], atol=1e-9)
    assert found[PAIR] == pytest.approx(0.5)
    assert len(TABLE.kinds) == len(TABLE.discs_of) == 11


@pytest.mark.parametrize("frame", [4.0, 5.5, 6.3])
def test_a_disc_that_turns_at_the_rim_has_a_contact_there(frame: float) -> None:
    places = folded(path(((0.25 + 0.08 * frame, 1.5), (-0.08, 0.02)), ((1.7, 1.0), (0, 0))), frame)
    found = contacts(places, TABLE)[0]
    assert found.sum() == 1
    assert abs(int(np.flatnonzero(found[:, LEFT])[0]) - frame) <= 1


def test_what_turns_far_from_the_rim_or_passes_close_by_is_no_contact() -> None:
    far = folded(path(((0.9, 1.5), (-0.08, 0.0)), ((1.7, 1.0), (0, 0))), 5.0)
    assert not contacts(far, TABLE).any()
    passing = path(((0.5, 1.5), (0.08, 0.0)), ((1.4, 0.98), (-0.04, 0.0)))
    assert gaps(passing, TABLE).gap[0, :, PAIR].min() < 0.05
    assert not contacts(passing, TABLE).any()


def test_positions_that_are_not_finite_touch_nothing_and_are_gone() -> None:
    places = folded(path(((0.65, 1.5), (-0.08, 0.0)), ((1.7, 1.0), (0, 0))), 5.0)
    places[0, 3:] = np.nan
    assert not contacts(places, TABLE).any()
    np.testing.assert_array_equal(miscounted(places, TABLE)[0], np.arange(12) >= 3)


def test_two_discs_in_one_place_and_one_that_left_are_miscounted() -> None:
    places = path(((0.6, 1.5), (0.0, 0.0)), ((1.2, 1.5), (-0.05, 0.0)))
    np.testing.assert_array_equal(miscounted(places, TABLE)[0], np.abs(places[0, :, 1, 0] - 0.6) < 0.25)
    assert depth(places, TABLE)[0, -1] == pytest.approx(0.5 - 0.05)
    leaving = path(((1.7, 1.5), (0.1, 0.0)), ((1.0, 1.0), (0, 0)))
    np.testing.assert_array_equal(miscounted(leaving, TABLE)[0], leaving[0, :, 0, 0] > 2.0)


def events(*found: tuple[int, int], num_frames: int = 40) -> np.ndarray:
    marks = np.zeros((1, num_frames, 11), bool)
    for frame, surface in found:
        marks[0, frame, surface] = True
    return marks


def counts(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    one = tally(truth, found, TABLE)
    return float(one.hits[0]), float(one.missed[0]), float(one.false[0])


def test_the_first_contact_of_each_disc_does_not_count() -> None:
    truth = events((5, LEFT), (9, 5 + UPPER), (15, PAIR), (22, RIGHT))
    assert (counts(truth, truth), counts(truth, events())) == ((2, 0, 0), (0, 2, 0))
    assert counts(truth, events((9, 5 + UPPER), (15, PAIR))) == (1, 1, 0)
    assert counts(events(), truth) == (0, 0, 2)


def test_contacts_meet_within_two_frames_and_of_the_same_kind() -> None:
    truth = events((5, LEFT), (20, RIGHT))
    for late in range(-4, 5):
        hit = abs(late) <= WINDOW
        assert counts(truth, events((5, LEFT), (20 + late, RIGHT))) == (hit, not hit, not hit)
    assert counts(truth, events((5, LEFT), (20, UPPER))) == (0, 1, 1)
    assert counts(truth, events((5, LEFT), (20, 5 + RIGHT))) == (0, 1, 0)  # the first of the other disc


@given(st.lists(st.tuples(st.integers(2, 37), st.integers(0, 10)), max_size=14))
def test_each_contact_is_met_once(found: list[tuple[int, int]]) -> None:
    truth = events((5, LEFT), (10, RIGHT), (12, RIGHT), (20, PAIR))
    hits, missed, _ = counts(truth, events(*found))
    assert hits + missed == 3
    assert hits <= len(set(found))


def test_contacts_of_the_simulator_are_found() -> None:
    """Against where springs are pressed: runs of frames in which there is an overlap."""
    lab, rng = Containers(), np.random.default_rng(0)
    starts = [lab.draw_start(rng) for _ in range(60)]
    place, speed = (np.stack(part) for part in zip(*starts, strict=True))
    start = lab.signals_of(place, speed)
    seen = lab.state_of(lab.simulate(start, {"tilt": np.zeros((60, 40, 2), np.float32)}))[0]
    table = ContactScene(size=lab.size, radius=lab.radius, wall=TABLE.wall, half_width=WALL_HALF_WIDTH, num_discs=2)
    pressed = gaps(seen, table).gap < -0.02
    begins = pressed & ~np.roll(pressed, 1, axis=1)
    begins[:, :3] = begins[:, -5:] = False
    found = contacts(seen, table)
    near = sum(np.roll(found, -late, axis=1) for late in range(5)).astype(bool)
    assert begins.sum() > 150
    assert (near & begins).sum() / begins.sum() > 0.9
