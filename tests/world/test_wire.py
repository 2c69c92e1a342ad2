from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from worldline import errors
from worldline.engines.base import CallCost, Card
from worldline.episode import Episode, History
from worldline.errors import InputError, UnknownNameError, UnsupportedError, WorldlineError
from worldline.planning import costs
from worldline.planning.base import Chance, Goal, Rule
from worldline.planning.calls import CALLS as BY_VERB
from worldline.planning.calls import PlanCall, PredictCall, ScoreCall, SurpriseCall
from worldline.planning.costs import AtMost
from worldline.schema import Kind, Role, Signal
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf
from worldline.world.wire import (
    DTYPES,
    MAX_ARRAYS,
    MAX_BODY_BYTES,
    VERSION,
    annotation_of,
    decode,
    decode_answer,
    encode_answer,
    encode_call,
    encode_error,
    parameters_of,
)


def difference(one: object, other: object, where: str = "") -> str | None:
    """Where two values differ in type, dtype, shape or bits; None if nowhere. Tuples equal lists; all NaN are alike."""
    if isinstance(one, Rule) and isinstance(other, Rule):
        one, other = ({"rule": type(rule).__name__, **msgspec.structs.asdict(rule)} for rule in (one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        alike = (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        return None if alike else where
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(f"{where}[{n}]", *pair) for n, pair in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        pairs = [(f"{where}.{name}", one[name], other[name]) for name in one]
    elif is_dataclass(one) and type(one) is type(other):
        pairs = [(f"{where}.{item.name}", vars(one)[item.name], vars(other)[item.name]) for item in fields(one)]
    else:
        alike = type(one) is type(other) and (one == other or (one != one and other != other))
        signed = isinstance(one, float) and not math.isnan(one)
        return None if alike and not (signed and math.copysign(1, one) != sign(other)) else where
    return next((found for place, *pair in pairs if (found := difference(*pair, place)) is not None), None)


def sign(value: object) -> float:
    assert isinstance(value, float)
    return math.copysign(1, value)


@dataclass(frozen=True)
class Later:
    """A call that is made once the values are drawn: type checks draw random numbers, which strategies must not."""

    kind: Callable[..., object]
    parts: Mapping[str, object]


def made(value: Any) -> Any:
    """The value, with all calls made that are inside of it."""
    if isinstance(value, Later):
        return value.kind(**{name: made(part) for name, part in value.parts.items()})
    if isinstance(value, tuple):
        return tuple(made(part) for part in value)
    return {name: made(part) for name, part in value.items()} if isinstance(value, dict) else value


def arrays(scalar: type[np.generic]) -> st.SearchStrategy[Any]:
    shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    dtypes = [name for name in DTYPES if np.issubdtype(name, scalar)]
    return st.sampled_from(dtypes).flatmap(lambda name: npst.arrays(name, shapes))


SHARES = st.floats(0.1, 0.9)
PER_COMPONENT = st.floats(0.1, 9) | st.lists(st.floats(0.1, 9), min_size=1, max_size=3).map(tuple)
TABLES = npst.arrays("float64", st.tuples(st.integers(1, 3), st.integers(1, 3)), elements=st.floats(-9, 9))
SIGNALS = st.sampled_from(
    (
        Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", low=(-math.inf, 0.0)),
        Signal(name="angle", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), period=360.0, precision="float64"),
        Signal(name="view", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(4, 4, 3), entity="arm"),
        Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2, components=("low", "high")),
    )
)
VALID: dict[str, st.SearchStrategy[Any]] = {
    "PredictCall.level": st.none() | SHARES,
    "PredictCall.num_samples": st.integers(0, 2**63 - 1),
    "PlanCall.horizon": st.integers(1, 10_000),
    "PlanCall.budget_s": st.none() | st.floats(0, exclude_min=True),
    "PlanCall.min_trust": st.floats(0, 1),
    "PlanCall.planner": st.none() | st.just("icem"),
    "Goal.costs": st.lists(
        st.deferred(lambda: st.one_of(*map(of, (costs.Track, costs.Within, costs.Price, costs.Change)))), max_size=3
    ).map(tuple),
    "Track.reference": TABLES,
    "Track.tolerance": PER_COMPONENT,
    "Within.low": st.just(-math.inf),
    "Within.high": PER_COMPONENT | TABLES,
    "Within.tolerance": PER_COMPONENT,
    "Price.price": PER_COMPONENT | TABLES,
    "Change.tolerance": PER_COMPONENT,
    "AtMost.bound": PER_COMPONENT | st.just(math.inf),
    "AtMost.quantile": SHARES,
    "KeepOut.low": st.just({"x": -math.inf, "y": (1.0, 2.0)}),
    "KeepOut.high": st.just({"x": 3.0, "y": 4.0}),
    "KeepOut.quantile": SHARES,
    "KeepClear.start": st.just((0.0, 1.0)),
    "KeepClear.end": st.just((2.0, 3.0)),
    "KeepClear.distance": SHARES,
    "KeepClear.quantile": SHARES,
    "Chance.constraint": st.deferred(lambda: of(costs.AtMost)),
    "Chance.level": SHARES,
    "Schema.signals": st.lists(SIGNALS, max_size=4, unique_by=lambda signal: signal.name).map(tuple),
    "Schema.step_s": st.none() | SHARES,
    "Card.call": st.none() | st.just(CallCost(latency_s=0.5, price=2.0, currency="EUR")),
}
"""Valid values of fields that are checked when an object is made, by class and field."""


@cache
def of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotated type of the contract."""
    options, kind, inner, nullable = annotation_of(hint)
    if nullable or len(options) > 1:
        return st.one_of(*([st.none()] if nullable else []), *map(of, options))
    if kind is np.ndarray:
        return arrays(get_args(inner[1])[0])
    if kind is Mapping:
        return st.dictionaries(st.text(max_size=8), of(inner[1]), max_size=3)
    if kind is Callable:
        return st.one_of(*map(of, (costs.AtMost, costs.KeepOut, costs.KeepClear, Chance)))
    if kind in (Sequence, tuple):
        return st.lists(of(inner[0]), max_size=3).map(tuple)
    if is_dataclass(kind) or issubclass(kind, Rule):
        parts = {name: (VALID.get(f"{kind.__name__}.{name}"), part) for name, (part, _) in parameters_of(kind).items()}
        drawn = {name: of(part) if valid is None else valid for name, (valid, part) in parts.items()}
        return st.fixed_dictionaries(drawn).map(partial(Later, kind))
    plain = {int: st.integers(0, 2**63 - 1), str: st.text(max_size=8)}
    return plain[kind] if kind in plain else st.from_type(kind)


CALLS = st.one_of(*map(of, BY_VERB.values()))
ANSWERS = st.one_of(*map(of, (Card, Prediction, Scores, Plan, WhatIf, Surprise)))
HISTORY = History(observations={"x": np.zeros((2, 1))}, actions={})


def pushing(value: Any) -> PredictCall:
    return PredictCall(history=HISTORY, actions={"push": value})


def again(call: Any) -> Any:
    """The call after it was sent."""
    return decode(type(call), call.verb, encode_call(call))


@given(CALLS)
def test_a_call_survives_the_way_there(asked: Later) -> None:
    call = made(asked)
    assert difference(call, again(call)) is None


@given(ANSWERS)
def test_an_answer_survives_the_way_back(asked: Later) -> None:
    answer = made(asked)
    assert difference(answer, decode_answer(type(answer), encode_answer(answer))) is None


def test_arrays_can_be_written_to_and_lie_as_torch_wants_them() -> None:
    value = np.arange(12, dtype=">f8").reshape(3, 4).T[::-1]
    push = again(pushing(value)).actions["push"]
    np.testing.assert_array_equal(push, value)
    assert push.dtype == np.float64
    assert push.flags.writeable
    assert push.flags.aligned
    assert push.flags.c_contiguous


@pytest.mark.parametrize(("narrow", "wide"), [("uint16", "int64"), ("float16", "float64")])
def test_narrow_numbers_go_as_wider_ones(narrow: str, wide: str) -> None:
    value = np.array([0, 1, 100], narrow)
    push = again(pushing(value)).actions["push"]
    assert push.dtype == wide
    np.testing.assert_array_equal(push, value)


@pytest.mark.parametrize("value", [np.zeros(1, "uint64"), np.zeros(1, complex), np.array(["a"]), np.array([None])])
def test_other_arrays_are_refused_before_they_are_sent(value: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"array of shape \(1,\) has dtype .* cannot be sent\. Convert it to float32"):
        encode_call(pushing(value))


def test_what_no_message_can_hold_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InputError, match="surprise cannot be sent"):
        encode_call(SurpriseCall(episode=Episode(observations={}, actions={}, seed=2**70)))
    with pytest.raises(InputError, match="cannot be sent"):
        encode_answer({"name": "\ud800"})


@pytest.mark.parametrize("code", [partial(torch.zeros, 1), Chance(constraint=torch.zeros, level=0.9)])
def test_code_is_not_sent(code: Any) -> None:
    plain = PlanCall(history=HISTORY, goal=Goal(), horizon=1, constraints=(AtMost(signal="x", bound=1.0), code))
    costly = PlanCall(history=HISTORY, goal=Goal(costs=(code,)), horizon=1)
    for call in (plain, costly):
        with pytest.raises(UnsupportedError, match=r"zeros.* is code and cannot be sent.*AtLeast, AtMost, .*, Chance"):
            encode_call(call)


ERRORS = (
    WorldlineError("no"),
    InputError("position is NaN. Fill it."),
    errors.UnavailableError("no"),
    UnknownNameError("signal", "psition", ["position", "push"]),
    errors.MissingExtraError("av", "video"),
    errors.DataError("it is torn", fix="Mend it.", file="a.npz", episode=3, signal="x", step=4),
    errors.DataError("it is torn", fix="Mend it."),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_it_was(error: WorldlineError) -> None:
    again = decode_answer(Card, encode_error(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_an_error_of_another_package_comes_back_as_its_base() -> None:
    class OddError(InputError):
        pass

    again = decode_answer(Card, encode_error(OddError("no")))
    assert type(again) is InputError
    assert str(again) == "no"


def message(name: str, content: Any, *arrays: bytes, **more: Any) -> bytes:
    return msgspec.msgpack.encode({"worldline": VERSION, "name": name, "content": content, "arrays": arrays, **more})


def array(**changed: Any) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [2, 1], "data": 0, **changed}


def surprise(array: Any, data: bytes = bytes(8), **more: Any) -> bytes:
    """A message with this array in the place of an observation."""
    return message("surprise", {"episode": {"observations": {"x": array}, "actions": {}, **more}}, data)


def score(**rule: Any) -> bytes:
    history = {"observations": {}, "actions": {}}
    return message("score", {"history": history, "actions": {}, "goal": {}, "constraints": [rule]})


EMPTY = encode_call(SurpriseCall(episode=Episode(observations={}, actions={})))
MANY = {str(number): 0 for number in range(200_000)}
WRONG = [
    (b"", "truncated"),
    (EMPTY + b"\xc0", "trailing"),
    (message("surprise", msgspec.Raw(b"\x91" * 100_000 + b"\xc0")), "recursion"),
    (message("surprise", MANY), f"without its arrays, more than {MAX_BODY_BYTES}"),
    (message("surprise", {}, *[b""] * (MAX_ARRAYS + 1)), f"length <= {MAX_ARRAYS}"),
    (msgspec.msgpack.encode({"name": "surprise", "content": {}, "arrays": []}), "field `worldline`"),
    (msgspec.msgpack.encode({"worldline": 2, "surprise": {}}), "expected message version 1, got 2"),
    (message("predict", {}), "expected a message for 'surprise', got 'predict'"),
    (message("surprise", {}), "surprise: Object missing required field `episode`"),
    (surprise(array(), epsode=1), "surprise.episode: Object contains unknown field `epsode`"),
    (surprise(array(), seed="x"), r"surprise\.episode\.seed: Expected `int \| null`, got `str`"),
    (surprise(2**63), r"surprise\.episode\.observations\.x: 9223372036854775808 does not fit into 64 bits"),
    (surprise(array(shape=[2, 2])), r"expected 16 bytes for float32\[2, 2\], got 8"),
    (surprise(array(shape=[2**62, 2**62])), "expected .* bytes .*, got 8"),
    (surprise(array(shape=[0, 2**62]), b""), "expected 0 bytes .*, got 0"),
    (surprise(array(shape=[1] * 99)), "length <= 16"),
    (surprise(array(data=1)), "no further array at place 1"),
    (surprise(array(), rewards={"x": array()}), r"rewards\.x: the message has no further array at place 0"),
    (surprise(array(dtype="bool", shape=[1]), b"\x02"), "bool values as bytes 0 and 1"),
    (surprise(1.0, step_s=array(dtype="bool")), r"episode\.step_s\.dtype: an array of bool is not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "told"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_damaged_or_hostile_message_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        decode(SurpriseCall, "surprise", body)


@pytest.mark.parametrize(("rule", "told"), [
    ({}, r"constraints\[0\]\.rule: Expected `str`, got `null`"),
    ({"rule": "Popen", "args": "rm"}, r"score\.constraints\[0\]\.rule: Invalid value 'Popen'"),
    ({"rule": "AtMost", "signal": "x", "bound": "1"}, r"bound: Expected .*, got `str`"),
    ({"rule": "AtMost", "signal": "x", "bound": 1.0, "quantile": 7.0}, r"constraints\[0\]: quantile is 7\.0"),
    ({"rule": "Track", "signal": "x", "tolerance": 1.0, "reference": [[1.0], [1.0, 2.0]]}, "inhomogeneous"),
    ({"rule": "Chance", "level": 0.5, "constraint": None}, r"constraint: Expected `object`, got `null`"),
])  # fmt: skip
def test_a_hostile_constraint_is_refused(rule: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        decode(ScoreCall, "score", score(**rule))


def test_only_answers_and_known_errors_are_taken() -> None:
    with pytest.raises(InputError, match="expected an answer"):
        decode_answer(Card, EMPTY)
    for odd in (
        {"kind": "SystemExit", "text": "x", "details": {}},
        {"kind": "InputError"},
        {"kind": "InputError", "text": "a", "details": {"a": {}}},
        [],
    ):
        with pytest.raises(InputError, match="error"):
            decode_answer(Card, message("error", odd))


def test_a_field_that_the_receiver_fills_in_is_not_sent() -> None:
    call = PredictCall(history=HISTORY, actions={"push": np.zeros((1, 1))})
    filled = {"history": HISTORY, "level": 0.5}
    found = decode(PredictCall, "predict", encode_call(call, filled), filled)
    assert (found.history, found.level) == (HISTORY, 0.5)
    with pytest.raises(InputError, match="unknown field `history`"):
        decode(PredictCall, "predict", encode_call(call, ("level",)), filled)


def test_little_is_allocated_for_a_message_that_lies() -> None:
    lies = [
        b"\xdd\x7f\xff\xff\xff" + b"\xc0" * 100,
        message("surprise", {}, arrays=msgspec.Raw(b"\xdd\x00\x00\x4e\x20" + b"\xc4")),
        score(rule="AtMost", signal="x", bound=msgspec.Raw(b"\xdd\x7f\xff\xff\xff" + b"\x01" * 100)),
        surprise(array(shape=[2**40])),
        surprise(array(shape=[0, 2**39]), b""),
    ]
    tracemalloc.start()
    try:
        for body in lies:
            try:
                kind = ScoreCall if b"score" in body else SurpriseCall
                decode(kind, kind.verb, body)
            except InputError:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(sorted(BY_VERB)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("x", "rule", "low", "dtype", "shape", "data")), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(TREES)
def test_any_other_tree_is_refused(tree: Any) -> None:
    for content in (tree, {"history": tree, "goal": tree, "horizon": 1}, {"history": {"observations": tree}}):
        with pytest.raises(InputError):
            decode(PlanCall, "plan", message("plan", content))
    with pytest.raises(InputError):
        decode_answer(Card, message("error", tree))
