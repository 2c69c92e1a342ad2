from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_engine import Exact

from worldline.engines.base import Parts, Storable
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.testing.clauses import breaches
from worldline.testing.engine_case import EngineCase
from worldline.testing.engine_parts import parts_restore
from worldline.testing.toys import Integrator


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


class KeepsATuple(Stored):
    def to_parts(self):
        return replace(super().to_parts(), config={"drift": (self.drift,)})


class KeepsAnArray(Stored):
    def to_parts(self):
        return replace(super().to_parts(), config={"drift": self.target})


class KeepsAPath(Stored):
    def to_parts(self):
        return replace(super().to_parts(), config={"drift": self.drift, "logs": ["/home/someone/logs"]})


class RoundsItsSettings(Stored):
    def to_parts(self):
        return replace(super().to_parts(), config={"drift": round(self.drift, 1)})


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


class CrashesOnWhatIsMissing(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        return cls(parts.config["drift"], parts.arrays["target"])


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return Integrator(noise=0.1).episodes(20, 12, seed=0)


@pytest.mark.parametrize("engine", [Stored, Exact])
def test_a_correct_engine_passes(engine: type[Exact], episodes: Sequence[Episode]) -> None:
    assert breaches("correct", EngineCase(engine=engine(), episodes=episodes), [parts_restore]) == []


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (KeepsATuple, "config changes by a round trip through JSON"),
        (KeepsAnArray, "config is not plain JSON"),
        (KeepsAPath, r"config contains absolute paths: \['/home/someone/logs'\]"),
        (RoundsItsSettings, "the restored engine predicts something else"),
        (AnotherCard, "the restored engine has another card"),
        (TakesAnything, "parts without the array 'target': expected DataError"),
        (CrashesOnWhatIsMissing, r"parts without the array 'target': expected DataError, got KeyError"),
    ],
)
def test_a_planted_fault_is_caught(fault: type[Stored], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[engine.parts\] {seen}"):
        parts_restore(EngineCase(engine=fault(), episodes=episodes))
