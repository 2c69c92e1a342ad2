from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch
from tests.testing.exact_world import Drawing, Exact
from tests.testing.planted import catches, instead, world_case

from worldline.testing.worlds import NUM_THREADS


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


class RecalibratesOnWhatItIsAsked(Exact):
    seen_so_far = 1.0

    def surprise(self, episode):
        found = super().surprise(episode)
        self.seen_so_far *= 0.99
        return replace(found, p_values={"position": found.steps * self.seen_so_far})


# Which torch does not.
TorchTakesAll = instead(Exact, inputs=lambda self, push: Exact.inputs(self, torch.from_numpy(push).numpy()))


class TakesForwardViewsOnly(Exact):
    """And sees nothing in others."""

    def path(self, history, push, wind):
        return super().path(history, push if min(push.strides) >= 0 else 0 * push, wind)


class WritesBesideTheValues(Exact):
    """Puts them back, but may not write at all."""

    def seen(self, history):
        history.observations["position"][:] = history.observations["position"]
        return super().seen(history)


WORLD_FAULTS = [
    (TorchTakesAll, "any_layout", r"score of views and read-only arrays raised ValueError \(At least one stride"),
    (TakesForwardViewsOnly, "any_layout", "predict of views and read-only arrays differs from copies"),
    (WritesBesideTheValues, "any_layout", "predict of views and read-only arrays raised ValueError"),
    (SharedBuffer, "same_from_eight_threads", "predict returned another result while 7 threads were calling:"),
    (SharedDraws, "same_from_eight_threads", "score returned another result while 7 threads were calling"),
    (RemembersTheLast, "same_in_any_order", "(plan|predict|score) returned another result for equal arguments after"),
    (WarmStart, "same_in_any_order", "plan returned another result for equal arguments after other calls:"),
    (RecalibratesOnWhatItIsAsked, "same_in_any_order", "surprise returned another result for equal arguments after"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
