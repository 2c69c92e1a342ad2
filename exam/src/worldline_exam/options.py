"""What an exam asks of whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from worldline.errors import ConfigError
from worldline.registry import load, names
from worldline_exam.base import ExamTest, Pool


@dataclass(frozen=True, kw_only=True)
class ExamOptions:
    """What is asked of whom.

    Args:
        codes: of the tests, each counted once; empty for all.
        pool: of the generators.
        pixels: whether worlds see pictures instead of vectors.
        seed: of logs and scenes; a fresh one for every report.
        num_seeds: trainings, from 0 on.
        num_processes: that learn and ask side by side, each with one thread.
        sizes: fields of the tests to set, such as num_scenes, for a quick look; tests without the field stay.
        paid: whether tests begin with the sizes that they have for who pays for each question.
    """

    codes: tuple[str, ...] = ()
    pool: Pool = Pool.REPORT
    pixels: bool = False
    seed: int = 0
    num_seeds: int = 1
    num_processes: int = 1
    sizes: Mapping[str, int] | None = None
    paid: bool = False

    def __post_init__(self) -> None:
        for name in ("num_seeds", "num_processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}. It must be at least 0.")
        for code in self.codes:
            load("test", code)

    def tests(self) -> list[ExamTest]:
        """The tests, in the order of their codes."""
        every: list[ExamTest] = [load("test", code)(pool=self.pool, pixels=self.pixels) for code in self._codes]
        return [_sized(test, {**(test.paid if self.paid else {}), **(self.sizes or {})}) for test in every]

    @property
    def _codes(self) -> list[str]:
        order = {letter: place for place, letter in enumerate("CPTU")}
        return sorted(dict.fromkeys(self.codes or names("test")), key=lambda code: (order.get(code[:1], 9), code))


def _sized(test: ExamTest, sizes: Mapping[str, int]) -> ExamTest:
    known = {one.name for one in fields(test)}
    changed: dict[str, Any] = {name: value for name, value in sizes.items() if name in known}
    return replace(test, **changed)
