from __future__ import annotations

import math

import pytest

from worldline.report.store_figures import KeyFigures, bounds, origin, size
from worldline.schema import Kind, Role, Signal


def vector(name: str, role: Role, size_: int = 1, **bounds_: tuple[float, ...]) -> Signal:
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size_,), **bounds_)


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (2e6, "2 MB"), (3.25e9, "3.25 GB"), (1e13, "10 TB")],
)
def test_sizes(num_bytes: float, said: str) -> None:
    assert size(num_bytes).replace("\u00a0", " ") == said


def test_bounds() -> None:
    role = Role.ACTION
    assert bounds(vector("x", role)) == ""
    assert bounds(vector("x", role, low=(-1.0,), high=(1.0,))) == "−1 to 1"
    assert bounds(vector("x", role, 2, low=(-1.0, -1.0), high=(1.0, 1.0))) == "−1 to 1"
    assert bounds(vector("x", role, 2, low=(0.0, 1.0), high=(2.0, 3.0))) == "0 to 2 and 1 to 3"
    assert bounds(vector("x", role, low=(0.5,))) == "from 0.500"
    assert bounds(vector("x", role, high=(0.0,))) == "to 0"
    assert bounds(vector("x", role, low=(0.0,), high=(math.inf,))) == "0 to ∞"
    assert bounds(vector("x", role, 5, low=(0.0, 1.0, 2.0, 3.0, 4.0))) == "5 different"
    assert bounds(Signal(name="g", role=role, kind=Kind.DISCRETE, shape=(), num_values=4)) == "0 to 3"


def test_origin_lists_few_values_and_counts_many() -> None:
    assert origin(KeyFigures(name="file", num_episodes=9, num_values=2, examples=("a", "b"))) == "a, b"
    many = KeyFigures(name="file", num_episodes=9, num_values=9, examples=("a", "b", "c"))
    assert origin(many).replace("\u00a0", " ") == "9 values: a, b, c, …"
