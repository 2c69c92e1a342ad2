from __future__ import annotations

import math
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.world.test_wire import ANSWERS, CALLS, TREES, Later, difference, made, message

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import Arrays, History
from worldline.errors import InputError
from worldline.planning.base import Chance, Goal, Rule
from worldline.planning.calls import CALLS as BY_VERB
from worldline.planning.calls import PlanCall, PredictCall, ScoreCall, SurpriseCall
from worldline.planning.costs import AtLeast, AtMost, KeepOut, Within
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.toys import Integrator
from worldline.world.base import Forecast, Plan, PlanStatus, Prediction, Scores, Surprise, WhatIf
from worldline.world.local import LocalWorld
from worldline.world.session import FILLED_IN, NO_HISTORY
from worldline.world.wire import (
    MAX_JSON_LISTS,
    MAX_JSON_NAMES,
    MessageError,
    decode,
    decode_json,
    encode_call,
    encode_json_answer,
)
from worldline.world.wire_schemas import json_schemas

HISTORY = {"observations": {"x": [[1.0]]}}


def body(**arguments: Any) -> bytes:
    return msgspec.json.encode(arguments)


def predict(value: Any) -> bytes:
    return body(history=HISTORY, actions={"push": value})


def pushed(value: Any) -> np.ndarray:
    return decode_json(PredictCall, predict(value)).actions["push"]


def rules(*rules: dict[str, Any]) -> bytes:
    return body(history=HISTORY, actions={}, goal={"costs": rules})


def rule(**sent: Any) -> Any:
    return decode_json(ScoreCall, rules(sent)).goal.costs[0]


def finite(value: Any, limits: bool = False) -> Any:
    """The content of a message without numbers that JSON cannot hold: NaN, and infinity except in limits."""
    if isinstance(value, dict):
        return {name: finite(inner, limits or name in ("low", "high", "bound")) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner, limits) for inner in value]
    return 0.5 if isinstance(value, float) and not limits and not math.isfinite(value) else value


def json_content(value: Any, arrays: list[bytes], lists: bool) -> Any:
    """The content of a message for JSON, with arrays as lists of numbers where these can hold them."""
    if isinstance(value, dict) and value.keys() == {"dtype", "shape", "data"}:
        data = arrays[value["data"]]
        array = np.frombuffer(data, np.dtype(value["dtype"]).newbyteorder("<")).reshape(value["shape"])
        if lists and array.size and array.ndim and not np.isinf(array).any():
            return array.tolist()
        return {"dtype": value["dtype"], "shape": value["shape"], "data": data}
    if isinstance(value, dict):
        return {name: json_content(inner, arrays, lists) for name, inner in value.items()}
    return [json_content(inner, arrays, lists) for inner in value] if isinstance(value, list) else value


def plain(value: Any, dtypes: bool) -> Any:
    """For comparison: sequences and arrays over time are lists, empty arrays in maps are left out."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype) * dtypes, value.shape, value.tolist()]
    if isinstance(value, tuple | list):
        return [plain(inner, dtypes) for inner in value]
    if isinstance(value, Rule):
        return [type(value), plain(msgspec.structs.asdict(value), dtypes)]
    if isinstance(value, Mapping):
        kept = {name: inner for name, inner in value.items() if np.size(inner)}
        return {name: plain(inner, dtypes) for name, inner in kept.items()}
    if is_dataclass(value):
        return [type(value), {item.name: plain(getattr(value, item.name), dtypes) for item in fields(value)}]
    return value


@given(CALLS, st.booleans())
def test_a_json_call_equals_its_msgpack_call(asked: Later, lists: bool) -> None:
    call = made(asked)
    sent = msgspec.msgpack.decode(encode_call(call))
    content = finite(sent["content"])
    expected = decode(type(call), call.verb, message(call.verb, content, *sent["arrays"]))
    found = decode_json(type(call), msgspec.json.encode(json_content(content, sent["arrays"], lists)))
    assert repr(plain(found, not lists)) == repr(plain(expected, not lists))


@pytest.mark.parametrize(("value", "expected"), [
    ([1, 2], np.array([1, 2])),
    ([1, 2.5], np.array([1.0, 2.5])),
    ([1, None], np.array([1.0, math.nan])),
    ([[True], [False]], np.array([[True], [False]])),
    (None, np.array(math.nan)),
    ([[], []], np.zeros((2, 0))),
    ([2**70], np.array([2.0**70])),
    ({"dtype": "float32", "shape": [0, 2], "data": ""}, np.zeros((0, 2), np.float32)),
    ({"dtype": "uint8", "shape": [3], "data": "AQID"}, np.array([1, 2, 3], np.uint8)),
])  # fmt: skip
def test_lists_and_base64_are_arrays(value: Any, expected: np.ndarray) -> None:
    found = pushed(value)
    assert difference(found, expected) is None
    assert found.flags.writeable


def test_null_is_no_limit_where_a_limit_stands_and_else_nan() -> None:
    assert rule(rule="AtMost", signal="x", bound=[None, 2]) == AtMost(signal="x", bound=(math.inf, 2.0))
    assert rule(rule="AtLeast", signal="x", bound=None) == AtLeast(signal="x", bound=-math.inf)
    box = rule(rule="KeepOut", low={"x": None, "y": [None, 1]}, high={"x": 1, "y": None})
    assert box == KeepOut(low={"x": -math.inf, "y": (-math.inf, 1.0)}, high={"x": 1.0, "y": math.inf})
    within = rule(rule="Within", signal="x", low=[[None], [1]], high=None, tolerance=1)
    assert isinstance(within, Within)
    np.testing.assert_array_equal(within.low, [[-math.inf], [1.0]])
    assert within.high == math.inf
    inner = {"rule": "AtMost", "signal": "x", "bound": None}
    assert rule(rule="Chance", level=0.9, constraint=inner) == Chance(
        constraint=AtMost(signal="x", bound=math.inf), level=0.9
    )
    with pytest.raises(MessageError, match="tolerance"):
        rule(rule="Change", signal="x", tolerance=None)
    with pytest.raises(MessageError, match="finite"):
        rule(rule="Price", signal="x", price=[1, None])


@pytest.mark.parametrize("batch", [False, True])
def test_a_history_of_one_observation_takes_empty_lists(batch: bool) -> None:
    toy = Integrator(camera=False)
    world = LocalWorld(Linear.fit(toy.episodes(9, 20, seed=0), toy.schema), None, CrossEntropy())
    sent: Any = ([[]], [[[1, 2]]], [[[0.1, 0.2]]]) if batch else ([], [[1, 2]], [[0.1, 0.2]])
    empty, position, push = sent
    past = {"observations": {"position": position}, "actions": {"push": empty}, "exogenous": {"wind": empty}}
    call = decode_json(PredictCall, body(history=past, actions={"push": push}, exogenous={"wind": push}))
    history = History(observations={"position": np.array(position)})
    expected = world.predict(history, {"push": np.array(push)}, exogenous={"wind": np.array(push)})
    assert difference(world.answer(call), expected) is None


@dataclass(frozen=True, kw_only=True)
class SessionStep:
    step: int
    observations: Arrays
    actions: Arrays | None = None
    observed: Mapping[str, bool] | None = None


def test_other_classes_and_calls_without_a_history_are_decoded() -> None:
    sent = body(step=2, observations={"x": [1, None]}, observed={"x": False}, actions=None)
    found = decode_json(SessionStep, sent)
    assert difference(found.observations, {"x": np.array([1.0, math.nan])}) is None
    assert (found.step, found.observed, found.actions) == (2, {"x": False}, None)
    call = decode_json(PlanCall, body(goal={"targets": {"x": [1]}}, horizon=3, budget_s=1), FILLED_IN)
    assert (
        difference(call, PlanCall(history=NO_HISTORY, goal=Goal(targets={"x": np.array([1])}), horizon=3, budget_s=1.0))
        is None
    )
    twice = b'{"step": 2, "observations": {}, "actions": {"a": 1}, "actions": {}}'
    assert decode_json(SessionStep, twice) == SessionStep(step=2, observations={}, actions={})


def test_a_number_beyond_float32_is_infinite() -> None:
    sent = body(episode={"observations": {"x": [1, 2]}, "actions": {}, "step_s": [3.5e38]})
    assert np.isinf(decode_json(SurpriseCall, sent).episode.step_s).all()


def planned(**request: Any) -> bytes:
    return body(history=HISTORY, **{"goal": {}, "horizon": 1, **request})


AT_MOST = {"rule": "AtMost", "signal": "x", "bound": 1}
WRONG = [
    ("predict", b"", "truncated", ""),
    ("predict", b'{"history": {"observations": {"\xff": 1}}, "actions": {}}', "UTF-8", ""),
    ("predict", body(history={"observations": {}, "obs": 1}, actions={}), "unknown field `obs`", "/history"),
    ("predict", predict("text"), "body.actions.push: Expected .*, got `str`", "/actions/push"),
    ("predict", predict([[1, 2], [3, "4"]]), r"body.actions.push\[1\]\[1\]: .*got `str`", "/actions/push/1/1"),
    ("predict", predict([[[[[[[1]]]]]]]), "got `array`", "/actions/push/0/0/0/0/0/0"),
    ("predict", predict([2**63]), "9223372036854775808 does not fit into 64 bits", "/actions/push"),
    ("predict", predict({"dtype": "uint8", "shape": [2], "data": "AQID"}), "expected 2 bytes", "/actions/push"),
    ("predict", predict({"dtype": "uint8", "shape": [1], "data": "?"}), "base64", "/actions/push/data"),
    ("predict", body(history=HISTORY, actions={"a/b~.c": "x"}), "got `str`", "/actions/a~1b~0.c"),
    ("predict", body(history=HISTORY, actions={}, num_samples=10**4000), "64 bits", "/num_samples"),
    ("plan", planned(goal={"tolerance": {"x": None}}), "null", "/goal/tolerance/x"),
    ("score", rules({"rule": "os"}), "Invalid value 'os'", "/goal/costs/0/rule"),
    ("score", rules(AT_MOST | {"bound": [[1]]}),
     r"a list of numbers, got shape \(1, 1\)", "/goal/costs/0/bound"),
    ("score", rules(AT_MOST, AT_MOST | {"quantile": 7}),
     "quantile is 7", "/goal/costs/1"),
    ("predict", b'{"history": {"observations": {"x":' + b"[" * 100_000, "recursion", ""),
    ("predict", predict([[]] * MAX_JSON_LISTS), f"lists, more than {MAX_JSON_LISTS}", ""),
    ("predict", predict({str(name): 0 for name in range(MAX_JSON_NAMES)}), f"names, more than {MAX_JSON_NAMES}", ""),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "sent", "text", "pointer"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_wrong_or_hostile_message_is_refused_with_a_pointer(verb: str, sent: bytes, text: str, pointer: str) -> None:
    with pytest.raises(MessageError, match=text) as found:
        decode_json(BY_VERB[verb], sent)
    assert found.value.pointer == pointer
    assert len(str(found.value)) < 1500


def test_memory_stays_below_a_multiple_of_the_largest_message() -> None:
    size = 2**18
    start, end = b'{"episode":{"observations":{"x":', b'},"actions":{}}}'
    numbers = b",".join([b"0.1"] * (size // 4))
    tolerance = b'{"rule":"Change","signal":"","tolerance":[' + numbers + b"]}"
    names = b",".join(b'"%x":0' % name for name in range(MAX_JSON_NAMES - 9))
    hostile = [
        ("surprise", start + b"[" + numbers + b"]" + end),
        ("surprise", start + b"[" + numbers + b",[1]]" + end),
        ("surprise", start + b"{" + names + b"}" + end),
        ("score", b'{"history":{"observations":{}},"actions":{},"goal":{"costs":[' + tolerance + b"]}}"),
    ]
    tracemalloc.start()
    try:
        for verb, sent in hostile:
            try:
                decode_json(BY_VERB[verb], sent)
            except MessageError:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * size


RULED = st.fixed_dictionaries(
    {"rule": st.sampled_from(("AtMost", "KeepOut", "Within", "Track", "Price", "Chance")), "signal": st.just("x")},
    optional=dict.fromkeys(("bound", "low", "high", "tolerance", "reference", "price", "constraint", "level"), TREES),
)


def read_or_refused(verb: str, sent: bytes) -> bool:
    """Whether a message is a call of the verb, or is refused with a text. Another exception fails the test."""
    try:
        return isinstance(decode_json(BY_VERB[verb], sent), BY_VERB[verb])
    except InputError as error:
        return bool(str(error))


@given(TREES, TREES, st.lists(RULED, max_size=2))
def test_any_tree_is_refused_or_read(tree: Any, other: Any, rules: list[Any]) -> None:
    history = {"observations": {"x": tree}, "actions": {"x": other}}
    goal = {"targets": {"x": other}, "costs": rules}
    for verb, sent in (
        ("predict", tree),
        ("predict", {"history": history, "actions": tree, "exogenous": other, "level": tree}),
        ("score", {"history": history, "actions": {"x": tree}, "goal": goal, "constraints": rules}),
        ("plan", {"history": history, "goal": goal, "horizon": other, "seed": tree}),
        ("surprise", {"episode": {**history, "step_s": tree, "seed": other, "observed": {"x": tree}}}),
    ):
        assert read_or_refused(verb, msgspec.json.encode(sent))


def test_answers_are_lists_with_null_for_no_band_and_base64_for_images() -> None:
    low = np.array([[0.5], [-math.inf]], np.float32)
    forecast = Forecast(mean=np.array([[1.0], [2.0]]), low=low, high=-low, horizon=1)
    image = np.arange(3, dtype=np.uint8).reshape(1, 1, 1, 3)
    answer = Prediction(signals={"x": forecast}, level=0.9, trust=math.nan, calibrated=True, images={"view": image})
    bands = {"low": [[0.5], [None]], "high": [[-0.5], [None]]}
    assert msgspec.json.decode(encode_json_answer(answer)) == {
        "signals": {"x": {"mean": [[1.0], [2.0]], "horizon": 1, "samples": None, **bands}},
        "level": 0.9,
        "trust": None,
        "calibrated": True,
        "images": {"view": {"dtype": "uint8", "shape": [1, 1, 1, 3], "data": "AAEC"}},
        "schema": None,
    }
    refused = Plan(
        actions={"push": np.zeros((0, 2))}, status=PlanStatus.REFUSED, cost=math.nan, violation=np.zeros(0),
        trust=0.01, reason="trust", elapsed_s=0.5,
    )  # fmt: skip
    found = msgspec.json.decode(encode_json_answer(refused))
    assert (found["actions"], found["status"], found["cost"]) == ({"push": []}, "refused", None)
    with pytest.raises(InputError, match="answer cannot be sent"):
        encode_json_answer({"name": "\ud800"})


ANSWER_KINDS = {kind.__name__: kind for kind in (Card, Prediction, Scores, Plan, WhatIf, Surprise)}


@cache
def validator(name: str) -> Any:
    """Validates messages by their JSON schema."""
    schemas, components = json_schemas({verb: (kind, ()) for verb, kind in BY_VERB.items()}, ANSWER_KINDS)
    schema = {**schemas[name], "components": {"schemas": components}}
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@given(CALLS, ANSWERS, st.booleans())
def test_schemas_fit_the_messages(asked: Later, answered: Later, lists: bool) -> None:
    call, answer = made(asked), made(answered)
    sent = msgspec.msgpack.decode(encode_call(call))
    content = json_content(finite(sent["content"]), sent["arrays"], lists)
    assert not [*validator(call.verb).iter_errors(msgspec.json.decode(msgspec.json.encode(content)))]
    assert not [*validator(type(answer).__name__).iter_errors(msgspec.json.decode(encode_json_answer(answer)))]


def test_schemas_refuse_what_the_decoder_refuses() -> None:
    for verb, sent in (
        ("predict", {"history": HISTORY}),
        ("predict", {"history": HISTORY, "actions": {"push": "text"}}),
        ("predict", {"history": HISTORY, "actions": {}, "more": 1}),
        ("score", {"history": HISTORY, "actions": {}, "goal": {"costs": [{"rule": "os"}]}}),
    ):
        assert not validator(verb).is_valid(sent)


def test_schemas_have_readable_names_and_texts() -> None:
    schemas, components = json_schemas(
        {"PlanCall": (PlanCall, ()), "SessionPlanCall": (PlanCall, FILLED_IN)},
        {"Plan": Plan, "cards": Mapping[str, Card]},
    )
    assert schemas["PlanCall"] == {"$ref": "#/components/schemas/PlanCall"}
    assert schemas["cards"]["additionalProperties"] == {"$ref": "#/components/schemas/Card"}
    readable = {"Array", "EncodedArray", "History", "Goal", "PlanCall", "AtMost", "Chance", "Plan", "Card"}
    assert readable <= components.keys()
    assert all(name.isidentifier() for name in components)
    assert components["History"]["description"].startswith("The past up to the present")
    whole, part = (components[name]["properties"] for name in ("PlanCall", "SessionPlanCall"))
    assert whole.keys() - part.keys() == {"history"}
    assert part["pending"]["description"].startswith("per action signal [D, *shape], actions that are already sent")
    assert components["AtMost"]["required"] == ["rule", "signal", "bound"]
    assert part["horizon"]["type"] == "integer"


@pytest.mark.parametrize("number", ["1.5", "1e300", "null"])
def test_integers_are_whole_numbers(number: str) -> None:
    forecast = f'{{"mean": [[1.0]], "low": null, "high": null, "horizon": [{number}]}}'
    with pytest.raises(InputError, match=r"does not fit\. Send whole numbers of int64"):
        decode_json(Forecast, forecast.encode())
