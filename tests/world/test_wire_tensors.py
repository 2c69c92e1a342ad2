from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.world.test_wire import difference

from worldline.errors import InputError
from worldline.world.base import Forecast, Prediction
from worldline.world.wire import Call, MessageError, decode_call, encode_answer
from worldline.world.wire_messages import MAX_BODY_BYTES
from worldline.world.wire_tensors import pack_tensors, unpack_tensors

X = np.array([[1.0], [2.0]], np.float32)


def message(content: Any, tensors: dict[str, Any] | None = None, name: str = "surprise", **more: Any) -> bytes:
    """A file with this content and these tensors."""
    rest = {"worldline": 1, "name": name, "content": content, **more}
    return save(tensors or {}, {"worldline": json.dumps(rest)})


def headed(header: Any, data: bytes = b"") -> bytes:
    """A file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def surprise(pointer: str, value: Any = X, content: Any = None) -> bytes:
    return message({"episode": {"observations": {}, "actions": {}}} if content is None else content, {pointer: value})


def decoded(body: bytes, verb: str = "surprise") -> Call:
    return decode_call(verb, body, unpack_tensors)


def test_a_file_written_by_hand_is_a_call() -> None:
    tensors = {"/history/observations/a~1b~0": X, "/actions/push": X}
    found = decoded(message({"num_samples": 2}, {**tensors, "/history/actions/push": X[:1]}, "predict"), "predict")
    history = found.arguments["history"]
    assert found.arguments["num_samples"] == 2
    assert difference(history.observations, {"a/b~": X}) is None
    assert difference(history.actions, {"push": X[:1]}) is None
    assert difference(found.arguments["actions"], {"push": X}) is None
    assert found.arguments["actions"]["push"].flags.writeable


def test_an_answer_names_its_tensors_and_holds_the_rest_as_json() -> None:
    forecast = Forecast(mean=X, low=None, high=None, horizon=3)
    answer = Prediction(signals={"x": forecast}, level=math.inf, trust=math.nan, calibrated=False)
    body = encode_answer(answer, pack_tensors)
    [(name, tensor)] = load(body).items()
    assert (name, tensor.dtype, tensor.shape) == ("/signals/x/mean", np.float32, (2, 1))
    assert tensor.tobytes() == X.tobytes()
    rest = json.loads(json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]["worldline"])
    assert rest["floats"] == {"/level": "Infinity", "/trust": "NaN"}
    assert rest["content"]["signals"]["x"] == {"mean": None, "low": None, "high": None, "horizon": 3, "samples": None}
    assert (rest["worldline"], rest["name"]) == (1, "answer")


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
META = {"__metadata__": {"worldline": json.dumps({"worldline": 1, "name": "surprise", "content": {}})}}
WRONG = [
    (b"", "damaged"),
    (headed(b"[]"), "damaged"),
    (headed({}), "missing required field `__metadata__`"),
    (headed({"__metadata__": {"format": "pt"}}), "missing required field `worldline`"),
    (headed({"__metadata__": {"worldline": 1}}), "Expected `str`, got `int`"),
    (headed({"__metadata__": {"worldline": "["}}), "damaged"),
    (headed({"__metadata__": {"worldline": '{"content":' + "[" * 100_000}}), "recursion"),
    (headed(b'{"a":' * 100_000), "damaged"),
    ((2**63).to_bytes(8, "little") + b"{}", f"without its arrays, more than {MAX_BODY_BYTES}"),
    (headed({**META, "more": "x" * MAX_BODY_BYTES}), f"without its arrays, more than {MAX_BODY_BYTES}"),
    (message({"x": [1.5] * 200_000}), f"without its arrays, more than {MAX_BODY_BYTES}"),
    (message({"x": 2**64}), "can't serialize ints"),
    (headed({"__metadata__": {"worldline": '{"worldline": 2, "more": 1}'}}), "expected message version 1, got 2"),
    (message({}, more=1), "unknown field `more`"),
    (message([]), "Expected `object`, got `array`"),
    (message({}, name="predict"), "expected a message for 'surprise', got 'predict'"),
    (headed({**META, "/a": ENTRY}, bytes(3)), "damaged"),
    (headed({**META, "/a": ENTRY, "/b": ENTRY}, bytes(4)), "damaged"),
    (headed({**META, "/a": {**ENTRY, "shape": [2**63, 2]}}, bytes(4)), "damaged"),
    (headed({**META, "/a": {**ENTRY, "dtype": "BF16", "shape": [2]}}, bytes(4)), "got BF16"),
    (surprise("/episode/observations/x", X.astype(np.float16)), r"observations\.x: expected .* got F16"),
    (surprise("/episode/observations/x", X.astype(np.int32)), "got I32"),
    (surprise("/episode/observations/x", np.zeros((0, 2**62), np.uint8)), "expected 0 bytes"),
    (surprise("/episode/observations/x", np.zeros((1,) * 17, np.uint8)), "length <= 16"),
    (surprise("/episode/step_s", X.astype(float)), "Invalid enum value 'float64'"),
    (surprise("/episode/epsode"), "unknown field `epsode`"),
    (surprise("/episode/seed"), "Expected `int | null`"),
    (surprise(""), "no JSON pointer"),
    (surprise("/a" * 9), "no JSON pointer with up to 8 names"),
    (surprise("/episode"), "already has a value"),
    (surprise("/episode/observations/x", content={"episode": {"observations": {"x": 1.0}}}), "already has a value"),
    (surprise("/episode/observations/x", content={"episode": None}), r"observations: .* no such place"),
    (surprise("/episode/1", content={"episode": [None]}), "no such place"),
    (message({}, floats={"/episode": "nan"}), "Invalid enum value 'nan'"),
    (message({}, floats={"/episode": "NaN"}), "Expected `object`, got `float`"),
    (message({}, {"/episode": X}, floats={"/episode": "NaN"}), "already has a value"),
]


@pytest.mark.parametrize(("body", "told"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_damaged_or_hostile_file_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(MessageError, match=told):
        decoded(body)


def test_an_error_points_to_the_tensor() -> None:
    with pytest.raises(MessageError) as caught:
        decoded(surprise("/episode/observations/a~1b", X.astype(np.float16)))
    assert caught.value.pointer == "/episode/observations/a~1b"


def test_little_is_allocated_for_a_file_that_lies() -> None:
    entries = {f"/{number:x}" + "/a" * 7: {**ENTRY, "shape": [0], "data_offsets": [0, 0]} for number in range(12_000)}
    files = [headed({**META, **entries}), message({"x": [[]] * 250_000}), message({"x": [{}] * 250_000})]
    assert all(MAX_BODY_BYTES / 2 < len(body) < MAX_BODY_BYTES for body in files)
    tracemalloc.start()
    try:
        for body in (*files, (2**40).to_bytes(8, "little") + b"{}"):
            with pytest.raises(InputError):
                decoded(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
