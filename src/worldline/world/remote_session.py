"""Sessions that a service keeps, for clients with and without coroutines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, final

from worldline.episode import Arrays
from worldline.planning.calls import PlanCall, PredictCall
from worldline.world.remote_messages import RemoteCalls, Steps, awaited
from worldline.world.session import Alarm, SessionVerbs, SessionView


class RemoteSessionClient:
    """What sessions with and without coroutines have in common.

    Args:
        calls: of the world.
        view: of the session.
        run: sends the requests of a call, and returns the answer or a coroutine.
    """

    def __init__(self, calls: RemoteCalls, view: SessionView, run: Callable[[Steps[Any]], Any]) -> None:
        self._calls, self._view, self._run = calls, view, run

    @property
    def step(self) -> int:
        """Number of observations so far."""
        return self._view.step

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """See `Session.alarms`."""
        return self._view.alarms

    @property
    def widening(self) -> Mapping[str, float]:
        """See `Session.widening`."""
        return self._view.widening

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._view.world!r}, step {self.step})"

    def answer(self, call: PredictCall | PlanCall) -> Any:
        """See `SessionVerbs`."""
        return self._run(self._calls.answer_session(self._view.id, call))

    def observe(
        self,
        observations: Arrays,
        *,
        actions: Arrays | None = None,
        exogenous: Arrays | None = None,
        observed: Mapping[str, bool] | None = None,
    ) -> Any:
        """Adds one step, as `Session.observe` does. Returns None, or a coroutine.

        After an `UnavailableError` the service may have the step. Call `observe` again with the same step; the service
        adds it once.

        Raises:
            InputError: also if another client added a step, or the session has expired.
        """
        content = {"step": self.step, "observations": observations, "observed": observed or {}}
        return self._run(self._observe(content | {"actions": actions or {}, "exogenous": exogenous or {}}))

    def close(self) -> Any:
        """Ends the session at the service. Returns None, or a coroutine."""
        return self._run(self._calls.close_session(self._view.id))

    def _observe(self, content: Mapping[str, Any]) -> Steps[None]:
        self._view = yield from self._calls.change_session(self._view.id, "observe", content)

    def _fork(self) -> Steps[Self]:
        view = yield from self._calls.change_session(self._view.id, "fork", {})
        return type(self)(self._calls, view, self._run)


@final
class RemoteSession(RemoteSessionClient, SessionVerbs):
    """A session that the service keeps; made by `RemoteWorld.session`. The verbs are those of `Session`.

    Use it in one thread at a time. `with` ends it at the service, which otherwise keeps it until it expires.
    """

    def fork(self) -> RemoteSession:
        """A second session with the same history."""
        forked: RemoteSession = self._run(self._fork())
        return forked

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@final
class AsyncRemoteSession(RemoteSessionClient):
    """A session that the service keeps; made by `AsyncRemoteWorld.session`. The verbs are coroutines.

    Use it in one task at a time. `async with` ends it at the service, which otherwise keeps it until it expires.
    """

    predict = awaited(SessionVerbs.predict)
    plan = awaited(SessionVerbs.plan)

    async def fork(self) -> AsyncRemoteSession:
        """A second session with the same history."""
        forked: AsyncRemoteSession = await self._run(self._fork())
        return forked

    async def __aenter__(self) -> AsyncRemoteSession:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
