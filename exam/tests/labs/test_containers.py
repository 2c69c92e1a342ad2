from __future__ import annotations

import numpy as np
import pytest
from exam.tests.labs.integration import runge_kutta

from worldline.errors import InputError
from worldline.labs.playing import explore
from worldline_exam.labs import containers
from worldline_exam.labs.containers import DRAG, MAX_TILT, STEP_S, WALL_HALF_WIDTH, Containers


def tilts(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-MAX_TILT, MAX_TILT, (num_steps, 2)).astype(np.float32)


def integrated(lab: Containers, place: np.ndarray, speed: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """The equations by Runge and Kutta in a thousand small steps, written down a second time, disc by disc."""
    root = np.sqrt(lab.stiffness)
    share = -np.log(lab.restitution) / np.sqrt(np.pi**2 + np.log(lab.restitution) ** 2)

    def spring(normal: np.ndarray, overlap: float, velocity: np.ndarray) -> np.ndarray:
        if overlap <= 0:
            return np.zeros(2)
        return normal * max(0.0, lab.stiffness * overlap - 2 * share * root * float(velocity @ normal))

    def slope(state: np.ndarray) -> np.ndarray:
        places, speeds = state
        push = np.tile(tilt, (lab.num_discs, 1)) - DRAG * speeds
        for i in range(lab.num_discs):
            x, y = places[i]
            edges = [((1, 0), x), ((-1, 0), lab.size - x), ((0, 1), y), ((0, -1), lab.size - y)]
            for normal, distance in edges:
                push[i] += spring(np.array(normal, float), lab.radius - distance, speeds[i])
            away = np.array([x - lab.pen[0], max(y - lab.pen[1], 0.0)])
            far = float(np.hypot(*away))
            push[i] += spring(away / far, lab.radius + WALL_HALF_WIDTH - far, speeds[i])
            for j in range(lab.num_discs):
                if i != j:
                    apart = places[i] - places[j]
                    far = float(np.hypot(*apart))
                    push[i] += spring(apart / far, 2 * lab.radius - far, speeds[i] - speeds[j]) / 2
        return np.stack([speeds, push])

    return runge_kutta(slope, np.stack([place, speed]), STEP_S, 1000)


@pytest.mark.parametrize(("places", "speeds"), [
    ([[0.24, 1.0], [1.2, 1.6]], [[-0.9, 0.3], [0.2, -0.5]]),  # at the rim
    ([[0.63, 0.3], [1.6, 1.76]], [[0.8, 0.1], [0.5, 0.9]]),  # at the flat of the pen's wall, and in a corner
    ([[0.85, 0.84], [1.5, 1.0]], [[0.1, -0.7], [0.0, 0.0]]),  # at its round end
    ([[1.0, 1.4], [1.4, 1.67]], [[0.7, 0.2], [-0.4, -0.3]]),  # at each other
    ([[0.4, 1.3], [1.5, 1.5]], [[0.7, 0.2], [-0.4, -0.3]]),  # free
])  # fmt: skip
@pytest.mark.parametrize(("substeps", "within"), [(containers.SUBSTEPS, 6e-3), (300, 2e-4)])
def test_a_step_solves_the_equations(
    places: list[list[float]], speeds: list[list[float]], substeps: int, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "SUBSTEPS", substeps)
    lab, tilt = Containers(), np.array([0.4, -0.3])
    place, speed = np.array(places), np.array(speeds)
    found = lab.move(place[None], speed[None], tilt[None])
    np.testing.assert_allclose(np.stack(found)[:, 0], integrated(lab, place, speed, tilt), atol=within)


def test_discs_start_apart_and_clear_of_everything() -> None:
    lab, rng = Containers(), np.random.default_rng(0)
    for _ in range(200):
        place, speed = lab.draw_start(rng)
        assert np.hypot(*(place[0] - place[1])) > 2 * lab.radius
        assert (lab.radius <= place).all()
        assert (place <= lab.size - lab.radius).all()
        beside = np.abs(place[:, 0] - lab.pen[0]) > lab.radius + WALL_HALF_WIDTH
        assert (beside | (place[:, 1] > lab.pen[1])).all()
        assert ((np.hypot(*speed.T) >= 0.4) & (np.hypot(*speed.T) <= 1.0)).all()


def test_alone_each_disc_moves_as_if_there_were_no_other() -> None:
    lab, single = Containers(), Containers(num_discs=1)
    places, speeds = np.array([[[0.5, 1.4], [1.1, 1.4]]]), np.array([[[0.7, 0.0], [0.0, 0.1]]])
    actions = {"tilt": tilts(1, 20)[None]}
    alone = lab.simulate(lab.signals_of(places, speeds), actions, alone=True)
    for disc in range(2):
        due = single.simulate(single.signals_of(places[:, [disc]], speeds[:, [disc]]), actions)
        np.testing.assert_array_equal(alone[f"disc_{disc}_position"], due["disc_0_position"])
    together = lab.simulate(lab.signals_of(places, speeds), actions)
    assert np.abs(together["disc_0_position"] - alone["disc_0_position"]).max() > 0.1


def test_the_logs_hold_contacts_of_every_kind() -> None:
    lab = Containers()
    episodes = [explore(lab, seed, 60) for seed in range(12)]
    place = np.stack([lab.state_of(one.observations)[0] for one in episodes])
    assert ((place < lab.radius).any((1, 2)) | (place > lab.size - lab.radius).any((1, 2))).all()
    near = np.hypot(*np.moveaxis(place[:, :, 0] - place[:, :, 1], -1, 0)) < 2 * lab.radius
    assert near.any(1).sum() >= 6
    wall = (np.abs(place[..., 0] - lab.pen[0]) < lab.radius + WALL_HALF_WIDTH) & (place[..., 1] < lab.pen[1])
    assert wall.any((1, 2)).sum() >= 2


def test_a_start_for_which_there_is_no_room_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_TRIES", 3)  # of four discs
    with pytest.raises(InputError, match=r"of 4 discs of radius 0\.4 fit on a table of 2\.0"):
        Containers(num_discs=4, radius=0.4, pen=(1.0, 0.05)).reset(seed=0)
