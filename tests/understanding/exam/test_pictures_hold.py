"""In an exam of pictures, too, oracle and models that must fail are where they have to be; with few scenes."""

from dataclasses import fields, replace
from typing import Any

import pytest

from worldline.labs.playing import explore
from worldline.registry import load, names
from worldline.understanding.exam.contract import Pool
from worldline.understanding.exam.examining import examine

SIZES = {
    "num_scenes": 60,
    "num_pulses": 12,
    "num_quadruplets": 40,
    "num_pairs": 60,
    "num_each": 40,
    "num_own": 2000,
}
LARGER = {"T2": {"num_scenes": 20}, "U1": {"num_scenes": 200}, "C1": {"num_scenes": 20}, "P4": {"num_scenes": 30}}
EPISODES = {"C4": 1000, "U1": 1000, "U3": 1000}


@pytest.mark.slow
@pytest.mark.parametrize("code", names("test"))
def test_it_holds_in_pictures(code: str) -> None:
    test, bare = (load("test", code)(pool=Pool.DEVELOPMENT, pixels=pixels) for pixels in (True, False))
    due = {**SIZES, **LARGER.get(code, {})}
    known: dict[str, Any] = {one.name: due[one.name] for one in fields(test) if one.name in due}
    test = replace(test, **known)
    logs = {}
    for one, plain in zip(test.curricula(), bare.curricula(), strict=True):
        lab = plain.make_lab()  # references look at no picture of the logs, so none is drawn
        logs[one.name] = [explore(lab, 500 + n, one.num_steps) for n in range(EPISODES.get(code, 100))]
    assert examine(test, 3, logs).flaws == ()
