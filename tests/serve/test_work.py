"""Batches give the answers of single calls, and a call that is too large is refused before it begins."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.serve.scripted import ScriptedWorld, linear_world, service_of
from tests.world.tiny import Tiny, tiny

from worldline.engines.base import CallCost, Card
from worldline.engines.baselines import Linear, Persistence
from worldline.episode import Episode, History
from worldline.planning.base import Goal
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.planning.costs import AtMost
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.callers import ANYONE
from worldline.serve.costs import costs_of, lane_for, with_budget
from worldline.serve.limits import Limits
from worldline.serve.problems import TooLargeError
from worldline.serve.scheduler import Lane
from worldline.serve.work import answer_calls, group_of
from worldline.testing.toys import Integrator
from worldline.world.batches import stack_calls
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

pytestmark = pytest.mark.anyio

CALM = Integrator(noise=0.1)
LIMITS = Limits()


@cache
def named(name: str) -> Tiny:
    """A small world; "windy" and "pictures" have exogenous signals and masks, "pictures" also predicts images."""
    if name not in ("windy", "pictures"):
        return tiny(name)
    episodes, kind = CALM.episodes(24, 12, seed=0), Linear if name == "windy" else Persistence
    engine = kind.fit(CALM.episodes(60, 20, seed=1), CALM.schema)
    calibration = calibrate(engine, episodes[4:], horizon=3, num_windows=1, seed=0)
    masked = [replace(one, observed={"position": np.arange(13) != 2}) for one in episodes[:4]]
    world = LocalWorld(engine, calibration, CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2))
    return Tiny(world=world, episodes=tuple(masked), goal=lambda one: Goal(targets={"position": np.zeros(2)}))


NAMES = ("linear", "jepa on vectors", "windy", "pictures", "simulator")


def compare(found: object, expected: object, where: str = "") -> None:
    """Equal but for the rounding of float32."""
    if isinstance(expected, np.ndarray | float):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=where)
        assert np.asarray(found).dtype == np.asarray(expected).dtype, where
    elif isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            compare(found[name], value, f"{where}.{name}")
    elif is_dataclass(expected):
        assert type(found) is type(expected)
        for item in fields(expected):
            compare(getattr(found, item.name), getattr(expected, item.name), f"{where}.{item.name}")
    else:
        assert found == expected, where


def prediction(episode: Episode, *, observed: int = 3, steps: int = 3, **options: Any) -> PredictCall:
    """A prediction from an episode."""
    ahead = slice(observed - 1, observed - 1 + steps)
    inputs = {name: value[ahead] for name, value in episode.actions.items()}
    outside = {name: value[ahead] for name, value in episode.exogenous.items()}
    past = episode.history(observed - 1, observed)
    return PredictCall(history=past, actions=inputs, exogenous=outside or None, **options)


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_a_batch_equal_single_answers(name: str) -> None:
    case = named(name)
    options = {"level": 0.5, "images": name == "pictures"}
    calls = [prediction(one, **options) for one in case.episodes]
    groups = {group_of(call, case.world.describe()) for call in calls}
    assert len(groups) == 1
    assert None not in groups
    found = answer_calls(case.world, [(call, None) for call in calls])
    for one, call in zip(found, calls, strict=True):
        compare(one, case.world.answer(call))


def test_calls_that_differ_in_more_than_values_are_not_grouped() -> None:
    case = named("pictures")
    card, episode = case.world.describe(), case.episodes[0]
    first = prediction(episode)
    others = [
        prediction(episode, observed=4),
        prediction(episode, steps=2),
        prediction(episode, level=0.5),
        prediction(episode, images=True),
        prediction(replace(episode, observed={})),
        prediction(episode.__class__(**{**vars(episode), "actions": {"push": episode.actions["push"].astype(float)}})),
    ]
    keys = [group_of(call, card) for call in (first, *others)]
    assert len({*keys}) == len(keys)
    assert None not in keys
    assert group_of(prediction(case.episodes[1]), card) == keys[0]
    for alone in (prediction(episode, num_samples=2), stack_calls([first, first]), SurpriseCall(episode=episode)):
        assert group_of(alone, card) is None
    for changed in (replace(card, deterministic=False), replace(card, max_batch=1)):
        assert group_of(first, changed) is None


def fake(*shape: int, dtype: str = "float32") -> Any:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def past(observed: int = 3, *worlds: int, **images: Any) -> History:
    return History(
        observations={"position": fake(*worlds, observed, 2), **images},
        actions={"push": fake(*worlds, max(0, observed - 1), 2)},
    )


def plan(**request: Any) -> PlanCall:
    goal = Goal(targets={"position": np.zeros(2)})
    return PlanCall(**{"history": past(), "goal": goal, "horizon": 5, **request})


def score(candidates: int, steps: int = 5, bounds: int = 0, history: History | None = None) -> Call:
    goal = Goal(targets={"position": np.zeros(2)})
    constraints = (AtMost(signal="position", bound=1.0),) * bounds
    actions = {"push": fake(candidates, steps, 2)}
    return ScoreCall(history=history or past(), actions=actions, goal=goal, constraints=constraints)


def predict(steps: int = 5, history: History | None = None, *worlds: int, **options: Any) -> Call:
    return PredictCall(history=history or past(3, *worlds), actions={"push": fake(*worlds, steps, 2)}, **options)


def episode(steps: int) -> Episode:
    return Episode(observations={"position": fake(steps + 1, 2)}, actions={"push": fake(steps, 2)})


CARD = linear_world().describe()
ONE = replace(CARD, predicts=())
"""Predicts so little that memory is no limit."""
LEARNED = replace(CARD, bytes_per_candidate=100_000, band_horizon=10)

ATTACKS: dict[str, tuple[Callable[[], Call], Card]] = {
    "long prediction": (lambda: predict(10_001), CARD),
    "long history": (lambda: predict(5, past(10_001)), CARD),
    "worlds times steps": (lambda: predict(10_000, None, 10_000), CARD),
    "samples times steps": (lambda: predict(10_000, num_samples=10_000), CARD),
    "images": (lambda: predict(5, past(3, camera=fake(10**6, 8, 8, 3, dtype="uint8"))), CARD),
    "candidates times steps": (lambda: score(65_000, 1000), CARD),
    "candidates of a large model": (lambda: score(65_000, 10), LEARNED),
    "candidates times worlds": (lambda: score(10_000, history=past(3, 10)), CARD),
    "constraints": (lambda: score(65_000, 1, 10_000), CARD),
    "history of a large model": (lambda: predict(5, past(10_000, 30)), LEARNED),
    "plan of a large model": (lambda: plan(horizon=1000), LEARNED),
    "proposals": (lambda: plan(proposals={"push": fake(70_000, 5, 2)}), CARD),
    "what_if": (lambda: WhatIfCall(episode=episode(10_001), at=1, actions={"push": fake(5, 2)}), CARD),
    "surprise": (lambda: SurpriseCall(episode=episode(10_001)), CARD),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_calls_for_more_than_the_service_has_are_refused_before_they_begin(name: str) -> None:
    make, card = ATTACKS[name]
    call = make()
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match=r"This service accepts \d+"):
            costs_of(call, card, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_common_calls_are_accepted_and_invalid_ones_left_to_the_world() -> None:
    for call in (predict(), predict(1000, num_samples=100), score(10_000, 20, 3), plan(horizon=50), predict(-1 + 1)):
        assert 0 < costs_of(call, CARD, LIMITS).num_bytes < LIMITS.call_bytes
    assert costs_of(predict(20, None, 32), CARD, LIMITS).num_bytes < LIMITS.call_bytes / 4
    assert costs_of(plan(horizon=10_000), ONE, LIMITS).steps == 10_000
    assert costs_of(score(20_000, 1000), ONE, LIMITS).steps == LIMITS.steps
    assert costs_of(predict(200, None, 100, num_samples=1000), ONE, LIMITS).steps == 20_000
    history = History(observations={"unknown": np.float64(0)})
    for arguments in (
        {"history": history, "actions": {}},
        {"history": history, "actions": {"x": np.zeros(())}},
        {"history": History(observations={}), "actions": {"push": np.zeros(2)}},
    ):
        assert costs_of(PredictCall(**arguments), CARD, LIMITS).num_bytes > 0


def test_a_plan_gets_the_time_limit_of_the_service() -> None:
    def budget_s(call: PlanCall, *rest: float) -> float | None:
        return with_budget(call, Limits(plan_s=3.0, deadline_s=30.0), *rest).budget_s

    assert budget_s(plan()) == 3
    assert budget_s(plan(budget_s=5.0)) == 5
    assert budget_s(plan(budget_s=1e9)) == pytest.approx(24)
    assert budget_s(plan(), 2.0) == pytest.approx(1.6)
    assert budget_s(plan(budget_s=1.5), 2.0) == 1.5
    for asked_s in (1.7, 2.0, 5.0):
        assert budget_s(plan(budget_s=asked_s), 2.0) == pytest.approx(1.6)


def test_the_estimated_time_chooses_the_workers() -> None:
    measured = replace(CARD, context=4, band_horizon=6, call=CallCost(latency_s=0.02))
    assert [lane_for(measured, length) for length in (25, 26)] == [Lane.QUICK, Lane.SLOW]
    assert [lane_for(CARD, length) for length in (50, 51)] == [Lane.QUICK, Lane.SLOW]
    assert [lane_for(CARD, 1, budget_s) for budget_s in (0.04, 0.1, None)] == [Lane.QUICK, Lane.SLOW, Lane.SLOW]


async def test_a_long_prediction_does_not_delay_a_short_call() -> None:
    entered, go = threading.Event(), threading.Event()

    def script(call: Any) -> None:
        if call.history.observations["position"].shape[-2] > 1000:
            entered.set()
            assert go.wait(30)

    service = service_of(ScriptedWorld(script))
    long = asyncio.create_task(service.ask(ANYONE, "toy", predict(2, past(9_000))))
    try:
        assert await asyncio.to_thread(entered.wait, 30)
        async with asyncio.timeout(20):
            await service.ask(ANYONE, "toy", predict(2, past(1)))
        assert not long.done()
    finally:
        go.set()
        await long
        service.close()


CHILD = textwrap.dedent(
    """
    import json
    from pathlib import Path
    import numpy as np
    from tests.serve.test_work import CARD, LIMITS, named, plan, predict, score
    from worldline.serve.problems import TooLargeError
    from worldline.serve.costs import costs_of
    from worldline.world.wire import encode_json_answer

    def peak(name):
        status = Path("/proc/self/status").read_text()
        return int(status.partition(name + ":")[2].split()[0]) * 1024

    world, found = named("linear").world, {}
    card = world.describe()
    for name, call in {
        "samples": predict(3, None, 10, num_samples=5000),
        "worlds": predict(20, None, 2000),
        "candidates": score(30_000, 20),
    }.items():
        size = costs_of(call, card, LIMITS).num_bytes
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = peak("VmRSS")
        encode_json_answer(world.answer(call))
        found[name] = size, peak("VmHWM") - before
    print(json.dumps(found))
    """
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_calls_stay_below_their_estimate() -> None:
    found = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True).stdout
    for name, (estimate, peak) in json.loads(found).items():
        assert peak < estimate + 16 * 2**20, (name, estimate, peak)
        assert estimate <= LIMITS.call_bytes
