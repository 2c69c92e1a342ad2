"""Options of an exam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from worldline.errors import ConfigError
from worldline.registry import load, names
from worldline.workers import is_alone
from worldline_exam.base import ExamTest, Pool


@dataclass(frozen=True, kw_only=True)
class ExamOptions:
    """Tests, sizes and seeds of an exam.

    Args:
        tests: codes of the tests, without duplicates; empty for all.
        pool: pool of scene generators.
        pixels: whether worlds observe images instead of vectors.
        seed: seed of logs and scenes, at least 0; use a fresh one for every report.
        num_seeds: number of trainings, at least 1; their seeds start at 0.
        num_processes: number of processes with one thread each, at least 1; or "ray" or "ray://HOST:PORT", as in
            `worldline.workers.Workers`.
        sizes: overrides for size fields of the tests, such as num_scenes; ignored by tests without the field.
        paid: whether tests use their reduced sizes for subjects that pay per query.

    Raises:
        ConfigError: a value is out of range.
        UnknownNameError: a code is not registered.
    """

    tests: tuple[str, ...] = ()
    pool: Pool = Pool.REPORT
    pixels: bool = False
    seed: int = 0
    num_seeds: int = 1
    num_processes: int | str = 1  # the name in stored exams
    sizes: Mapping[str, int] | None = None
    paid: bool = False

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ConfigError(f"num_seeds is {self.num_seeds}. It must be at least 1.")
        is_alone(self.num_processes)  # checks it
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}. It must be at least 0.")
        for code in self.tests:
            load("test", code)

    def make_tests(self) -> list[ExamTest]:
        """The tests, ordered by code."""
        every: list[ExamTest] = [load("test", code)(pool=self.pool, pixels=self.pixels) for code in self._codes]
        return [_sized(test, {**(test.paid if self.paid else {}), **(self.sizes or {})}) for test in every]

    @property
    def _codes(self) -> list[str]:
        order = {letter: place for place, letter in enumerate("CPTU")}
        return sorted(dict.fromkeys(self.tests or names("test")), key=lambda code: (order.get(code[:1], 9), code))


def _sized(test: ExamTest, sizes: Mapping[str, int]) -> ExamTest:
    known = {field.name for field in fields(test)}
    changed: dict[str, Any] = {name: value for name, value in sizes.items() if name in known}
    return replace(test, **changed)
