"""In an exam of pictures, too, oracle and models that must fail are where they have to be; with few scenes."""

from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest

from worldline.contracts.episode import Episode
from worldline.labs.playing import explore
from worldline.registry import load, names
from worldline.understanding.exam.contract import ExamTest, Pool
from worldline.understanding.exam.examining import examine

SIZES = {
    "num_scenes": 60,
    "num_pulses": 12,
    "num_quadruplets": 40,
    "num_pairs": 60,
    "num_each": 40,
    "num_own": 2000,
}
LARGER = {
    "U2": {"num_scenes": 400},
    "T4": {"num_pairs": 200},
    "T2": {"num_scenes": 20},
    "U1": {"num_scenes": 200},
    "C1": {"num_scenes": 20},
    "P4": {"num_scenes": 30},
}
EPISODES = {"C4": 1000, "P2": 24}


SAME_LOGS = {"C5": "C1", "U2": "C2", "T1": "P2", "U1": "C4", "U3": "C4"}


@cache
def logs_of(code: str) -> dict[str, list[Episode]]:
    """By the names of the exam in pictures. References look at no picture of the logs, so none is drawn."""
    told, bare = (load("test", code)(pool=Pool.DEVELOPMENT, pixels=pixels).curricula() for pixels in (True, False))
    found = {}
    for one, plain in zip(told, bare, strict=True):
        lab = plain.make_lab()
        found[one.name] = [explore(lab, 500 + n, one.num_steps) for n in range(EPISODES.get(code, 60))]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("code", names("test"))
def test_it_holds_in_pictures(code: str) -> None:
    test: ExamTest = load("test", code)(pool=Pool.DEVELOPMENT, pixels=True)
    due = {**SIZES, **LARGER.get(code, {})}
    known: dict[str, Any] = {one.name: due[one.name] for one in fields(test) if one.name in due}
    assert examine(replace(test, **known), 3, logs_of(SAME_LOGS.get(code, code))).flaws == ()
