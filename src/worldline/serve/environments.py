"""Runs of environments: a caller takes the steps, with signals named as `worldline record` stores them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError, UnsupportedError
from worldline.serve.callers import Caller
from worldline.serve.problems import ConflictError, GoneError, NotFoundError
from worldline.serve.shares import Shares
from worldline.world.validation import check_group

MAX_RUNS: Final = 8
"""Runs of all callers; the share of one is half of them."""
IDLE_S: Final = 600.0
"""Seconds after which an unused run ends."""


@final
@dataclass(frozen=True, kw_only=True)
class RunView:
    """The present of a run.

    Args:
        id: of the run.
        step: number of steps so far.
        observations: per signal [*shape], after the last step; without signals that are hidden at this step.
        reward: of the last step; 0 before the first one.
        done: whether the episode has ended.
        picture: [height, width, 3] uint8, the rendered frame; null if the environment renders none.
    """

    id: str
    step: int
    observations: Arrays
    reward: float
    done: bool
    picture: NDArray[np.uint8] | None


@final
class _EnvironmentRun:
    """One episode of an environment. Its thread makes, renders and closes the environment, which may require that.

    Args:
        name: of a lab, or a Gymnasium id.
        key: id of the run.
        owner: id of its caller.
    """

    def __init__(self, name: str, key: str, owner: str) -> None:
        self.name, self.key, self.owner = name, key, owner
        self.thread = ThreadPoolExecutor(1, "worldline-environment")
        self.expiry: asyncio.TimerHandle | None = None
        self.place = ExitStack()
        self._num_steps, self._done = 0, False
        self._env: Any = None

    def make(self) -> None:
        """Makes the environment."""
        from worldline.labs.base import Lab  # gymnasium takes time to import, and few services run environments
        from worldline.labs.playing import seen_in
        from worldline.labs.spaces import SpaceLayout
        from worldline.schema import Role
        from worldline.workflows.record import make
        from worldline.workflows.recorder import recorded_schema

        self._env, self._seen_in = make(self.name), seen_in
        if not isinstance(self._env.unwrapped, Lab) and "rgb_array" in self._env.metadata.get("render_modes", ()):
            self._env.close()
            self._env = make(self.name, {"render_mode": "rgb_array"})
        self._schema = recorded_schema(self._env)
        self._shows = SpaceLayout(self._env.observation_space, Role.OBSERVATION)
        self._takes = SpaceLayout(self._env.action_space, Role.ACTION)

    def begin(self, seed: int) -> RunView:
        """Makes and resets the environment."""
        self.make()
        return self._view(self._env.reset(seed=seed)[0], 0.0)

    def step(self, actions: Arrays) -> RunView:
        """Takes a step.

        Args:
            actions: per signal [*shape], inside the bounds.

        Raises:
            InputError: an action is missing, unknown, outside its bounds, or has the wrong shape or dtype.
            ConflictError: the episode has ended.
        """
        if self._done:
            raise ConflictError("the episode of this run has ended. Start another run.")
        taken = check_group(self._schema.actions, actions, (), "action")
        for signal in self._schema.actions:
            if (signal.bounded(taken[signal.name]) != taken[signal.name]).any():
                raise InputError(
                    f"action {signal.name!r} is {taken[signal.name].tolist()} {signal.unit}, outside its bounds "
                    f"{signal.low} to {signal.high}. Clip it."
                )
        raw, reward, terminated, truncated, _ = self._env.step(self._takes.write(taken))
        self._num_steps, self._done = self._num_steps + 1, bool(terminated or truncated)
        return self._view(raw, float(reward))

    def close(self) -> None:
        """Closes the environment, if it was made."""
        if self._env is not None:
            self._env.close()

    def _view(self, raw: Any, reward: float) -> RunView:
        row = self._shows.read(raw)
        seen = self._seen_in(self._env.unwrapped, [row])
        names = [signal.name for signal in self._schema.observations if seen.get(signal.name, (True,))[0]]
        return RunView(
            id=self.key,
            step=self._num_steps,
            observations={name: row[name] for name in names},
            reward=reward,
            done=self._done,
            picture=self._picture(),
        )

    def _picture(self) -> NDArray[np.uint8] | None:
        from gymnasium.error import Error

        if self._env.render_mode != "rgb_array":
            return None
        try:
            frame: Any = self._env.render()
        except (Error, UnsupportedError):  # a package for drawing is missing, or a lab draws nothing
            return None
        return frame if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 else None


@final
class Environments:
    """The environments that callers may run, and their runs. Use it in one event loop.

    Args:
        names: of labs, or Gymnasium ids. Each is made once, so that an error shows at the start.
        idle_s: seconds after which an unused run ends.

    Raises:
        UnknownNameError: there is no such environment.
        UnsupportedError: a space of the environment cannot be converted to signals.
    """

    def __init__(self, names: Sequence[str], *, idle_s: float = IDLE_S) -> None:
        for name in names:
            with closing(_EnvironmentRun(name, "", "")) as run:
                run.make()
        self.names, self._idle_s, self._runs = tuple(names), idle_s, dict[str, _EnvironmentRun]()
        self._places = Shares(MAX_RUNS, "runs of environments")

    async def start(self, caller: Caller, name: str, seed: int) -> RunView:
        """Starts a run.

        Args:
            caller: who alone may use it.
            name: of the environment.
            seed: of the reset, at least 0.

        Raises:
            NotFoundError: the operator named no such environment.
            InputError: the seed is negative.
            OverloadedError: the caller has its share of the runs that may be open.
        """
        if name not in self.names:
            raise NotFoundError("environment", name, self.names)
        if seed < 0:
            raise InputError(f"seed is {seed}, expected at least 0.")
        run = _EnvironmentRun(name, secrets.token_hex(8), caller.id)
        run.place.enter_context(self._places.open(caller.id, 1))
        self._runs[run.key] = run
        try:
            return await self._use(run, lambda: run.begin(seed))
        except BaseException:  # also if the caller leaves
            self._end(run.key)
            raise

    async def step(self, caller: Caller, name: str, key: str, actions: Arrays) -> RunView:
        """Takes a step in a run; raises as `_EnvironmentRun.step` and `end` do."""
        run = self._find(caller, name, key)
        return await self._use(run, lambda: run.step(actions))

    def end(self, caller: Caller, name: str, key: str) -> None:
        """Ends a run after its current step.

        Raises:
            GoneError: the caller has no such run.
        """
        self._find(caller, name, key)
        self._end(key)

    def close(self) -> None:
        """Ends all runs."""
        for key in [*self._runs]:
            self._end(key)

    def _find(self, caller: Caller, name: str, key: str) -> _EnvironmentRun:
        run = self._runs.get(key)
        if run is None or (run.owner, run.name) != (caller.id, name):
            raise GoneError(
                f"there is no run {key[:40]!r} of {name[:100]!r}. It ended, or was not used for {self._idle_s:g} s. "
                "Start another one."
            )
        return run

    async def _use(self, run: _EnvironmentRun, work: Callable[[], RunView]) -> RunView:
        """The result of work in the thread of a run, one after the other. It delays the expiry."""
        if run.expiry is not None:
            run.expiry.cancel()
        loop = asyncio.get_running_loop()
        run.expiry = loop.call_later(self._idle_s, self._end, run.key)
        return await loop.run_in_executor(run.thread, work)

    def _end(self, key: str) -> None:
        run = self._runs.pop(key, None)
        if run is not None:
            if run.expiry is not None:
                run.expiry.cancel()
            run.place.close()
            run.thread.submit(run.close)
            run.thread.shutdown(wait=False)
