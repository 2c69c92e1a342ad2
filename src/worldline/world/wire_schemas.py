"""The JSON schemas (2020-12) of the messages in JSON, from the type annotations and docstrings of the contract."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import getdoc
from typing import Any, Final

import msgspec
import numpy as np

from worldline.planning.base import Rule
from worldline.world.wire import RULES, EncodedArray, annotation_of, parameters_of

_REF: Final = "#/components/schemas/{name}"

_ARRAY: Final[Mapping[str, Any]] = {
    "description": (
        "A number, numbers in lists nested by axis, or an array in base64.\n\n"
        "null is NaN. In `low`, `high` and `bound`, it is no limit."
    ),
    "anyOf": [
        {"type": ["number", "boolean", "null"]},
        {"type": "array"},
        {"$ref": _REF.format(name=EncodedArray.__name__)},
    ],
}


def json_schemas(
    requests: Mapping[str, tuple[Any, Collection[str]]], answers: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of messages by name, and the components for `#/components/schemas` that they use.

    Args:
        requests: per name of a component a dataclass, and its fields that the message must not hold.
        answers: per name the type of an answer, of the contract. Components are named after their classes.
    """
    components = _SchemaParts()
    schemas = {name: components.of_class(kind, name, without) for name, (kind, without) in requests.items()}
    components.is_answer = True
    schemas |= {name: components.of_type(kind) for name, kind in answers.items()}
    return schemas, components.by_name


class _SchemaParts:
    """The schemas of classes, each written once.

    A class of a request has no further fields. A number of an answer may be null, which is NaN.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {"Array": dict(_ARRAY)}
        self.is_answer = False
        self.of_msgspec(EncodedArray)

    def of_type(self, hint: Any) -> dict[str, Any]:
        """The schema of a type of the contract."""
        options, kind, inner, nullable = annotation_of(hint)
        if len(options) > 1 or kind is np.ndarray:
            schema: dict[str, Any] = {"$ref": _REF.format(name="Array")}
        elif kind is Mapping:
            schema = {"type": "object", "additionalProperties": self.of_type(inner[1])}
        elif kind in (Sequence, tuple):
            schema = {"type": "array", "items": self.of_type(inner[0])}
        elif kind is Callable:
            schema = {"anyOf": [self.of_type(rule) for rule in RULES.values()]}
        elif isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Rule)):
            schema = self.of_class(kind, kind.__name__)
        elif kind is float and self.is_answer:
            schema = {"type": ["number", "null"]}
        else:
            schema = self.of_msgspec(options[0])
        return {"anyOf": [schema, {"type": "null"}]} if nullable else schema

    def of_msgspec(self, kind: Any) -> dict[str, Any]:
        """The schema of a type that msgspec knows."""
        (schema,), used = msgspec.json.schema_components([kind], ref_template=_REF)
        self.by_name |= used
        return schema

    def of_class(self, kind: Any, name: str, without: Collection[str] = ()) -> dict[str, Any]:
        """The reference to the schema of a class without some fields."""
        if name not in self.by_name:
            self.by_name[name] = {}  # a class may refer to itself
            parameters = {item: part for item, part in parameters_of(kind).items() if item not in without}
            summary, texts = _texts(kind)
            properties = {item: self.of_type(hint) | texts.get(item, {}) for item, (hint, _) in parameters.items()}
            required = [item for item, (_, is_required) in parameters.items() if is_required]
            if kind in RULES.values():
                properties, required = {"rule": {"const": kind.__name__}} | properties, ["rule", *required]
            self.by_name[name] = {
                "title": name,
                "description": summary,
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": self.is_answer,
            }
        return {"$ref": _REF.format(name=name)}


def _texts(kind: Any) -> tuple[str, dict[str, dict[str, str]]]:
    """The summary of a docstring, and per argument its description."""
    summary, _, rest = (getdoc(kind) or "").partition("\n\nArgs:\n")
    arguments = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", rest.partition("\n\n")[0], re.MULTILINE)
    return summary, {name: {"description": " ".join(text.split())} for name, text in arguments}
