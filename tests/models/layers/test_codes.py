from __future__ import annotations

import math

import torch

from worldline.models.layers.codes import code_size, from_code, join_codes, to_code
from worldline.schema import Kind, Role, Signal

PLACE = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
ANGLE = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
SIGNED = Signal(
    name="turn", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="rad", period=2 * math.pi,
    low=(-math.pi,) * 2,
)  # fmt: skip
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)


def test_codes_can_be_undone() -> None:
    for signal, values in (
        (PLACE, torch.tensor([[1.5, -2.0]])),
        (ANGLE, torch.tensor([[0.0], [359.0], [181.0]])),
        (SIGNED, torch.tensor([[-3.1, 3.1], [0.0, -1.0]])),
        (LAMP, torch.tensor([0, 2, 1])),
    ):
        code = to_code(signal, values)
        assert code.shape[-1] == code_size(signal)
        torch.testing.assert_close(from_code(signal, code), values, rtol=1e-4, atol=1e-4)


def test_an_angle_comes_round() -> None:
    near = to_code(ANGLE, torch.tensor([[359.5], [0.5]]))
    assert float((near[0] - near[1]).norm()) < 0.02
    torch.testing.assert_close(from_code(ANGLE, to_code(ANGLE, torch.tensor([[725.0]]))), torch.tensor([[5.0]]))


def test_codes_lie_side_by_side() -> None:
    joined = join_codes((LAMP, PLACE), {"lamp": torch.tensor([1]), "place": torch.tensor([[4.0, 5.0]])})
    assert joined.tolist() == [[0, 1, 0, 4, 5]]
