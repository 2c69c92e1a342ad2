from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.testing.exact_engine import Exact
from tests.testing.planted import altered, catches, engine_case, passes

from worldline.engines.base import Parts, Storable
from worldline.errors import DataError


class Stored(Exact, Storable):
    """Keeps a setting and an array: what is drawn to, and how strongly."""

    def __init__(self, drift: float = 0.25, target: np.ndarray | None = None) -> None:
        super().__init__()
        self.drift, self.target = drift, np.array([1.0, -1.0]) if target is None else target

    def result(self, path):
        return path + self.drift * (self.target - path)

    def to_parts(self) -> Parts:
        return Parts(config={"drift": self.drift}, arrays={"target": self.target})

    @classmethod
    def from_parts(cls, schema, parts):
        if set(parts.config) != {"drift"} or set(parts.arrays) != {"target"}:
            raise DataError("these are not the parts of the toy", fix="Store it again.")
        return cls(parts.config["drift"], parts.arrays["target"])


def storing(**changes: Any) -> type[Stored]:
    """The engine with other parts."""
    return altered(Stored, f"Storing{changes}", to_parts=lambda parts: replace(parts, **changes))


class AnotherCard(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        engine = super().from_parts(schema, parts)
        engine.abilities = ("abducts",)
        return engine


class TakesAnything(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        return cls(parts.config.get("drift", 0.25), parts.arrays.get("target"))


class CrashesOnMissingParts(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        return cls(parts.config["drift"], parts.arrays["target"])


test_a_correct_engine_passes = passes([Stored], ["parts_restore"], engine_case)

ENGINE_FAULTS = [
    (storing(config={"drift": (0.25,)}), "parts_restore", "config changes by a round trip through JSON"),
    (storing(config={"drift": np.ones(2)}), "parts_restore", "config is not plain JSON"),
    (storing(config={"drift": 0.25, "logs": ["/home/someone/logs"]}), "parts_restore", "config contains absolute"),
    (storing(config={"drift": 0.2}), "parts_restore", "the restored engine predicts something else"),
    (AnotherCard, "parts_restore", "the restored engine has another card"),
    (TakesAnything, "parts_restore", "parts without the array 'target': expected DataError"),
    (CrashesOnMissingParts, "parts_restore", "parts without the array 'target': expected DataError, got KeyError"),
]
test_a_planted_fault_is_caught = catches(ENGINE_FAULTS, engine_case)
