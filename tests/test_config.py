from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.config import BoundedConfig, Bounds, from_json, replace_at, to_json, to_strict_json, to_toml
from worldline.errors import ConfigError, UnknownNameError
from worldline.schema import Kind, Role, Schema, Signal


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested config."""

    rate: float
    layers: tuple[int, ...] = (64, 64)


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A config that checks itself."""

    name: str
    parts: tuple[Inner, ...]
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}.")


GIVEN: dict[str, Any] = {"name": "a", "parts": [{"rate": 0.1, "layers": [1]}], "steps": 3}

inners = st.builds(Inner, rate=st.floats(allow_nan=False, allow_infinity=False), layers=st.tuples(st.integers()))
outers = st.builds(Outer, name=st.text(), parts=st.tuples(inners, inners), steps=st.none() | st.integers(1))


@given(outers)
def test_what_is_written_is_read(config: Outer) -> None:
    assert from_json(Outer, to_json(config), where="x.json") == config


def test_a_schema_survives() -> None:
    schema = Schema(
        signals=(
            Signal(name="t", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="degC", low=(-40.0, 0.0)),
            Signal(name="é", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), low=(0.0,), high=(float("inf"),)),
            Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3, entity="heater"),
            Signal(name="sky", role=Role.EXOGENOUS, kind=Kind.IMAGE, shape=(8, 8, 3)),
        ),
        step_s=300.0,
    )
    assert from_json(Schema, to_json(schema), where="schema.json") == schema


NAN, INFINITE = float("nan"), float("inf")


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_what_is_not_finite_is_written_as_any_reader_reads_it_and_is_read_again() -> None:
    one = Outer(name="NaN", parts=(Inner(rate=-INFINITE), Inner(rate=NAN), Inner(rate=INFINITE)))
    text = to_strict_json(one)
    assert [part["rate"] for part in json.loads(text, parse_constant=refuse_constant)["parts"]] == [
        "-Infinity", "NaN", "Infinity"
    ]  # fmt: skip
    again = from_json(Outer, text, where="x.json")
    assert again.name == "NaN"
    assert to_json(again) == to_json(one)
    assert to_json(from_json(Outer, to_json(one), where="x.json")) == to_json(one), "as it was written before"


def test_text_that_is_no_number_is_refused_beside_what_is_spelled_out() -> None:
    parts = [{"rate": "NaN"}, {"rate": "fast"}]
    assert "parts.1.rate" in refused({**GIVEN, "parts": parts})
    assert "'stepz'" in refused({**GIVEN, "parts": parts[:1], "stepz": 3})


def refused(given: object) -> str:
    """The message that reading `given` ends in."""
    text = given if isinstance(given, str) else json.dumps(given)
    with pytest.raises(ConfigError) as caught:
        from_json(Outer, text, where="runs/x.json")
    assert str(caught.value).startswith("runs/x.json: ")
    return str(caught.value)


def test_an_unknown_key_suggests_the_nearest() -> None:
    assert "'stepz'. Did you mean 'steps'?" in refused({**GIVEN, "stepz": 3})


def test_an_unknown_key_deep_inside_is_found_and_placed() -> None:
    message = refused({**GIVEN, "parts": [GIVEN["parts"][0], {"rate": 0.1, "layer": [1]}]})
    assert message.startswith("runs/x.json: parts[1]: ")
    assert "'layer'. Did you mean 'layers'?" in message


@pytest.mark.parametrize(
    ("change", "place", "value"),
    [
        ({"steps": "3"}, "steps", "'3'"),
        ({"steps": True}, "steps", "True"),
        ({"name": 3}, "name", "3"),
        ({"parts": [{"rate": "fast"}]}, "parts.0.rate", "'fast'"),
        ({"parts": [{"rate": 0.1, "layers": [1, 2.5]}]}, "parts.0.layers.1", "2.5"),
    ],
)
def test_a_wrong_type_names_the_place_and_the_value(change: dict[str, object], place: str, value: str) -> None:
    message = refused({**GIVEN, **change})
    assert f"runs/x.json: {place}" in message
    assert f"(got {value})" in message


def test_a_missing_key_is_named() -> None:
    assert "runs/x.json: parts: Field required" in refused({"name": "a"})


def test_a_value_that_the_class_refuses_gives_its_reason() -> None:
    assert "steps must be at least 1, not 0" in refused({**GIVEN, "steps": 0})


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"name": NaN', "\x00"])
def test_malformed_json_is_refused(text: str) -> None:
    assert "runs/x.json: the document: " in refused(text)


@dataclass(frozen=True, kw_only=True)
class Heads:
    width: int = 12
    count: int = 3

    def __post_init__(self) -> None:
        if self.width % self.count:
            raise ConfigError("width must be a multiple of count")


@dataclass(frozen=True, kw_only=True)
class Flat:
    kind: Literal["flat"] = "flat"
    width: int = 3


@dataclass(frozen=True, kw_only=True)
class Deep:
    kind: Literal["deep"] = "deep"
    depth: int = 5


@dataclass(frozen=True, kw_only=True)
class Network:
    depth: int = 1
    heads: Heads = field(default_factory=Heads)
    part: Flat | Deep = field(default_factory=Flat)


def test_values_that_are_replaced_are_checked_together() -> None:
    changed = replace_at(Network(), {"heads.width": 16, "depth": 2, "heads.count": 4})
    assert changed == Network(depth=2, heads=Heads(width=16, count=4))
    with pytest.raises(ConfigError, match="multiple"):
        replace_at(Network(), {"heads.width": 16})


def test_a_value_may_be_nested_or_a_dataclass() -> None:
    changed = replace_at(Network(), {"heads": {"count": 4}, "part": Deep(depth=7)})
    assert changed == Network(heads=Heads(count=4), part=Deep(depth=7))


def test_another_kind_starts_from_its_own_defaults() -> None:
    assert replace_at(Network(), {"part.kind": "deep"}).part == Deep()
    assert replace_at(Network(), {"part.depth": 2, "part.kind": "deep"}).part == Deep(depth=2)
    with pytest.raises(ConfigError, match="'width'"):
        replace_at(Network(), {"part.kind": "deep", "part.width": 2})


def test_an_unknown_path_lists_the_near_ones_and_the_fields_there() -> None:
    with pytest.raises(UnknownNameError) as caught:
        replace_at(Network(), {"width": 3}, where="model")
    assert str(caught.value).startswith("no setting is called 'model.width'. Did you mean ")
    assert "Known: model.depth, model.heads, model.heads.width, model.part, model.part.width." in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"'settings.heads.cuont'\. Did you mean 'settings.heads.count'"):
        replace_at(Network(), {"heads.cuont": 3})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"depth": "deep"}, r"^model: depth: .*integer \(got 'deep'\)\.$"),
        ({"heads": 3}, r"^model: heads: .*\(got 3\)\.$"),
        ({"heads.width": 16}, "^model: heads: width must be a multiple of count$"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_path(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace_at(Network(), values, where="model")


trees = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), trees, max_size=4))
def test_what_is_written_as_toml_is_read(tree: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tree)) == tree


def test_toml_leaves_none_out() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}


@dataclass(frozen=True, kw_only=True)
class Limited(BoundedConfig):
    """A config with limits."""

    width: Annotated[int, Bounds(at_least=1, at_most=9)] = 1
    rate: Annotated[float, Bounds(above=0, below=1)] = 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width is 0. It must be at least 1 and at most 9."),
        ({"width": 10}, "width is 10. It must be at least 1 and at most 9."),
        ({"rate": 0.0}, "rate is 0.0. It must be above 0 and below 1."),
        ({"rate": 1.0}, "rate is 1.0. It must be above 0 and below 1."),
        ({"rate": float("nan")}, "rate is nan. It must be above 0 and below 1."),
    ],
)
def test_numbers_have_limits_in_code_and_in_files(values: dict[str, Any], message: str) -> None:
    assert from_json(Limited, "{}", where="x.json") == Limited(width=1)
    with pytest.raises(ConfigError, match=message):
        Limited(**values)
    with pytest.raises(ConfigError, match=f"x.json: {message}"):
        from_json(Limited, json.dumps(values), where="x.json")
