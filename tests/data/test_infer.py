from __future__ import annotations

import numpy as np
import pytest

from worldline.data.infer import SchemaDraft, Summary, infer_schema
from worldline.errors import DataError
from worldline.schema import Kind, Role


def summary(shape: tuple[int, ...], dtype: str, low: float = 0, high: float = 1) -> Summary:
    size = int(np.prod(shape[1:], dtype=int))
    return Summary(shape=shape, dtype=np.dtype(dtype), low=(float(low),) * size, high=(float(high),) * size)


def test_roles_follow_from_lengths_and_names():
    arrays = {
        "move": summary((9, 2), "float32", -3, 4),
        "camera": summary((10, 8, 6, 3), "uint8"),
        "reward": summary((9,), "float64"),
        "outdoor_temperature": summary((9,), "float32"),
        "gear": summary((10,), "int32", 0, 4),
        "count": summary((10,), "int64", 0, 5000),
    }
    schema, unclear = infer_schema({"a": arrays}, 0.5, SchemaDraft(), {})
    assert [s.name for s in schema.signals] == ["camera", "gear", "count", "move", "outdoor_temperature", "reward"]
    assert schema.step_s == 0.5
    assert [s.name for s in schema.observations] == ["camera", "gear", "count"]
    assert (schema["camera"].kind, schema["camera"].shape) == (Kind.IMAGE, (8, 6, 3))
    assert (schema["gear"].kind, schema["gear"].num_values) == (Kind.DISCRETE, 5)
    assert (schema["count"].kind, schema["count"].shape, schema["count"].low) == (Kind.VECTOR, (1,), None)
    assert (schema["move"].role, schema["move"].low, schema["move"].high) == (Role.ACTION, (-3, -3), (4, 4))
    assert schema["outdoor_temperature"].role is Role.EXOGENOUS
    assert (schema["reward"].role, schema["reward"].precision) == (Role.REWARD, "float64")
    assert schema["outdoor_temperature"].precision == "float32"
    said = "\n".join(unclear)
    for words in ("every unit is '?'", "move: its bounds", "outdoor_temperature: assumed to be exogenous",
                  "gear: assumed to be", "count: its integers"):  # fmt: skip
        assert words in said


def test_the_largest_range_and_the_most_common_layout_win():
    files = {
        str(i): {"x": summary((5, 3), "float32"), "act": summary((4,), "int64", 0, i)} for i in range(3)
    } | {"odd": {"x": summary((5, 4), "float32"), "act": summary((4,), "int64")}}  # fmt: skip
    schema = infer_schema(files, None, SchemaDraft(), {})[0]
    assert (schema["x"].shape, schema["act"].num_values) == ((3,), 3)


def test_what_is_ambiguous_is_said():
    arrays = {
        "x": summary((5, 2, 2), "float32"), "grey": summary((5, 8, 8), "uint8"),
        "first": summary((5, 3, 8, 8), "uint8"), "thrust": summary((4, 1), "float32"),
    }  # fmt: skip
    schema, unclear = infer_schema({"a": arrays}, None, SchemaDraft(), {})
    said = "\n".join(unclear)
    assert (schema["x"].shape, schema["grey"].shape) == ((4,), (8, 8, 1))
    for words in ("time between two steps is not", "x: its shape (2, 2)", "grey: assumed to be a grey image",
                  "first: assumed to be an image with 8 channels", "thrust: assumed to be an action; if"):  # fmt: skip
        assert words in said


@pytest.mark.parametrize(("arrays", "words"), [
    ({"x": summary((5, 2), "float32"), "action": summary((5, 1), "float32")}, "x has 5, action has 5.*T\\+1"),
    ({"x": summary((5, 2), "float32"), "action": summary((3, 1), "float32")}, "do not have T\\+1 and T rows"),
    ({"x": summary((5,), "f4"), "action": summary((4,), "f4"), "goal": summary((2,), "f4")}, "goal has 2.*constants"),
    ({}, "no array"),
])  # fmt: skip
def test_lengths_that_say_nothing_are_no_guess(arrays, words):
    with pytest.raises(DataError, match=words) as caught:
        infer_schema({"run.npz": arrays}, None, SchemaDraft(), {})
    assert caught.value.file == "run.npz"
