from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from worldline.engines.language.prompt import describe_signals, read_answer
from worldline.errors import UnavailableError
from worldline.schema import Kind, Role, Signal


def vector(**settings: Any) -> Signal:
    return Signal(
        **{"name": "x", "role": Role.OBSERVATION, "kind": Kind.VECTOR, "shape": (2,), "unit": "m", **settings}
    )


BOUNDED = vector(low=(0.0, -np.inf), high=(10.0, np.inf))
GEAR = Signal(
    name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3, components=("park", "low", "high")
)


def test_signals_are_described_without_what_is_not_known() -> None:
    told = describe_signals([BOUNDED, vector(unit="?", components=("x", "y"), entity="cart", period=360.0), GEAR])
    assert told == [
        {"name": "x", "role": "observation", "unit": "m", "size": 2, "low": [0.0, None], "high": [10.0, None]},
        {"name": "x", "role": "observation", "entity": "cart", "size": 2, "components": ["x", "y"], "period": 360.0},
        {"name": "gear", "role": "observation", "num_values": 3, "labels": ["park", "low", "high"]},
    ]
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("text", [
    '{"x": [1, 2.5], "gear": 2}',
    'Thinking {of it}: {"x": [0, 0], "gear": 0}. So:\n```json\n{"gear": 2, "x": [1, 2.5]}\n```\nDone.',
    '<think>{"x": [9</think>{"x": [1.0, 2.5], "gear": 2} with } and ]',
])  # fmt: skip
def test_words_around_an_answer_are_passed_over(text: str) -> None:
    found = read_answer(text, [vector(), GEAR])
    assert (found["x"].tolist(), found["x"].dtype) == ([1.0, 2.5], np.float32)
    assert (found["gear"].dtype, found["gear"]) == (np.int64, 2)


@pytest.mark.parametrize(("text", "word"), [
    ("", "no JSON object"),
    ("{" * 200_000, "no JSON object"),
    ('{"x": ' + "[" * 100_000, "no JSON object"),
    ('{"x": [1, 2]}', "keys"),
    ('{"x": [1], "gear": 1}', "length .* 2"),
    ('{"x": [1, true], "gear": 1}', "Expected `float`, got `bool`"),
    ('{"x": [1, NaN], "gear": 1}', "finite"),
    ('{"x": [1, 1' + "0" * 400 + '], "gear": 1}', "out of range|finite|too large"),
    ('{"x": [1, 2], "gear": 3}', "`int` < 3|`int` <= 2"),
    ('{"x": [1, 2], "gear": true}', "Expected `int`"),
    ('{"x": [10.1, 2], "gear": 1}', "bounds"),
])  # fmt: skip
def test_a_wrong_answer_is_refused(text: str, word: str) -> None:
    with pytest.raises(UnavailableError, match=word):
        read_answer(text, [BOUNDED, GEAR])


def test_rounding_beyond_a_bound_is_set_onto_it() -> None:
    assert read_answer('{"x": [10.0005, 1e6]}', [BOUNDED])["x"].tolist() == [10.0, 1e6]
    one_sided = vector(low=(100.0, 0.0))
    assert read_answer('{"x": [99.995, 0]}', [one_sided])["x"].tolist() == [100.0, 0.0]
    with pytest.raises(UnavailableError, match="bounds"):
        read_answer('{"x": [99.9, 0]}', [one_sided])


def test_what_repeats_is_brought_between_its_bounds() -> None:
    angle = vector(unit="deg", low=(-180.0, -180.0), high=(180.0, 180.0), period=360.0)
    assert read_answer('{"x": [190, -540]}', [angle])["x"].tolist() == [-170.0, -180.0]
