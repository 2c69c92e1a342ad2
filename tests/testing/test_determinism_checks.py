from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.testing.exact_world import Drawing, Exact, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.testing.clauses import breaches
from worldline.testing.determinism_checks import (
    NUM_THREADS,
    any_layout,
    same_from_eight_threads,
    same_in_any_order,
)


class SharedBuffer(Exact):
    """Keeps the history that it works on where every thread can write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(NUM_THREADS, timeout=20)
        self.mine = threading.local()

    def path(self, history, push, wind):
        self.history = history
        self.meet()
        return super().path(self.history, push, wind)

    def meet(self) -> None:
        """In each thread but the first, waits once until all have written: then all read what the last one wrote."""
        met = getattr(self.mine, "met", False)
        self.mine.met = True
        if not met and threading.current_thread() is not threading.main_thread():
            self.meeting.wait()


class SharedDraws(Drawing):
    """Draws from one generator: what a thread gets depends on who drew before."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def samples(self, path):
        return path[:, :, None] + 0.1 * self.rng.standard_normal((16, path.shape[2], 2))


class RemembersTheLast(Exact):
    """Blends in where it was asked about before."""

    last = np.zeros(2)

    def path(self, history, push, wind):
        before, self.last = self.last, history.observations["position"][0, -1].astype(float)
        return super().path(history, push, wind) + 1e-9 * before


class WarmStart(Exact):
    """Starts its search from the plan before, whoever asked for it."""

    before = None

    def search(self, history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds):
        if self.before is not None and self.before.shape == started[0].shape:
            started = np.concatenate([started, self.before[None]])
        best = super().search(history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds)
        self.before = best
        return best


class CountsItsCalls(Exact):
    """Trusts the present less, the more often it was asked."""

    asked = 0

    def trust(self, history):
        self.asked += 1
        return super().trust(history) * 0.999**self.asked


class RecalibratesOnWhatItIsAsked(Exact):
    seen_so_far = 1.0

    def surprise(self, episode):
        found = super().surprise(episode)
        self.seen_so_far *= 0.99
        return replace(found, p_values={"position": found.steps * self.seen_so_far})


class TorchTakesAll(Exact):
    """Which torch does not."""

    def inputs(self, push):
        return super().inputs(torch.from_numpy(push).numpy())


class TakesForwardViewsOnly(Exact):
    """And sees nothing in others."""

    def path(self, history, push, wind):
        return super().path(history, push if min(push.strides) >= 0 else 0 * push, wind)


class WritesBesideTheValues(Exact):
    """Puts them back, but may not write at all."""

    def seen(self, history):
        history.observations["position"][:] = history.observations["position"]
        return super().seen(history)


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


@pytest.mark.parametrize("world", [Exact, Drawing])
def test_a_correct_world_passes(world: type[Exact], episodes: Sequence[Episode]) -> None:
    clauses = [same_from_eight_threads, same_in_any_order, any_layout]
    assert breaches("correct", toy_case(world(), episodes), clauses) == []


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (TorchTakesAll, r"score of views and read-only arrays raised ValueError \(At least one stride"),
        (TakesForwardViewsOnly, "predict of views and read-only arrays differs from copies in"),
        (WritesBesideTheValues, "predict of views and read-only arrays raised ValueError"),
    ],
)
def test_what_takes_only_some_arrays_is_caught(fault: type[Exact], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.layout\] {seen}"):
        any_layout(toy_case(fault(), episodes))


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (
            SharedBuffer,
            "predict returned another result while 7 threads were calling: signals.position.mean differs",
        ),
        (SharedDraws, "score returned another result while 7 threads were calling"),
    ],
)
def test_what_threads_share_is_caught(fault: type[Exact], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.threads\] {seen}"):
        same_from_eight_threads(toy_case(fault(), episodes))


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (RemembersTheLast, "(plan|predict|score) returned another result for equal arguments after other calls:"),
        (WarmStart, "plan returned another result for equal arguments after other calls: actions.push differs"),
        (CountsItsCalls, "predict returned another|score returned another|plan returned another"),
        (
            RecalibratesOnWhatItIsAsked,
            "surprise returned another result for equal arguments after other calls: p_values.position",
        ),
    ],
)
def test_what_is_left_between_calls_is_caught(fault: type[Exact], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.repeatable\] ({seen})"):
        same_in_any_order(toy_case(fault(), episodes))
