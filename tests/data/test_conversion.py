from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldline.data.conversion import convert, steps_s
from worldline.schema import Kind, Role, Signal

VECTOR = Signal(name="x", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,))
CHOICE = Signal(name="x", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=4)
GREY = Signal(name="x", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(4, 4, 1))


@pytest.mark.parametrize(
    ("values", "signal", "dtype", "shape"),
    [
        (np.zeros((3, 2)), VECTOR, "float32", (3, 2)),
        (np.zeros((3, 2)), dataclasses.replace(VECTOR, precision="float64"), "float64", (3, 2)),
        (np.zeros((3, 2, 1), np.float16), VECTOR, "float32", (3, 2)),
        (np.zeros(3, np.uint8), dataclasses.replace(VECTOR, shape=(1,)), "float32", (3, 1)),
        (np.zeros(3, np.int8), CHOICE, "int64", (3,)),
        (np.zeros((3, 4, 4), np.uint8), GREY, "uint8", (3, 4, 4, 1)),
        (np.zeros((), np.float32), dataclasses.replace(VECTOR, shape=(1,)), "float32", ()),
        (np.zeros((5, 2, 4, 1), np.uint8), GREY, "uint8", (5, 2, 4, 1)),  # never transposed by reshaping
        (np.zeros((3, 9, 9), np.uint8), GREY, "uint8", (3, 9, 9, 1)),  # of another size, to be scaled or refused
    ],
)
def test_values_take_the_form_of_their_signal(values, signal, dtype, shape):
    converted = convert(values, signal)
    assert (converted.dtype, converted.shape) == (np.dtype(dtype), shape)


@pytest.mark.parametrize(
    ("values", "signal"),
    [
        (np.array([[2**24 + 1, 0]]), VECTOR),
        (np.array([[2**53 + 1, 0]]), dataclasses.replace(VECTOR, precision="float64")),
        (np.zeros((3, 2), np.complex64), VECTOR),
        (np.zeros(3), CHOICE),
    ],
)
def test_what_would_lose_something_is_left_for_the_checks(values, signal):
    assert convert(values, signal) is values
    assert np.isinf(convert(np.array([[1e300, 0]]), VECTOR)[0, 0])


def test_steps_of_the_usual_length_have_no_times_of_their_own():
    assert steps_s(np.array([0, 0.5, 1.004]), 0.5) is None
    np.testing.assert_array_equal(steps_s(np.array([0, 0.5, 1.1]), 0.5), np.float32([0.5, 0.6]))
    np.testing.assert_array_equal(steps_s(np.array([0, 0.5]), None), np.float32([0.5]))
