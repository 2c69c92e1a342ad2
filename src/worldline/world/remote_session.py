"""Sessions that a service keeps, for clients with and without coroutines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from worldline.episode import Arrays
from worldline.world.remote_messages import Answer, RemoteCalls, Steps, awaited, sent, steps_of
from worldline.world.session import Alarm, Session, SessionView


@final
class SessionCalls:
    """The calls of one session. Sends nothing itself."""

    def __init__(self, calls: RemoteCalls, view: SessionView) -> None:
        self.calls, self.view = calls, view

    predict = steps_of(Session.predict)
    plan = steps_of(Session.plan)

    def ask(self, kind: type[Answer], verb: str, arguments: Mapping[str, Any], changes: bool = False) -> Steps[Answer]:
        """The answer to a verb, of type `kind`; see `RemoteCalls.call_session`."""
        return self.calls.call_session(kind, self.view.id, verb, arguments, changes=changes)

    def observe(
        self,
        observations: Arrays,
        *,
        actions: Arrays | None = None,
        exogenous: Arrays | None = None,
        observed: Mapping[str, bool] | None = None,
    ) -> Steps[None]:
        """Adds one step, as `Session.observe` does.

        After an `UnavailableError` the service may have the step. Call `observe` again with the same step; the service
        adds it once.

        Raises:
            InputError: also if another client added a step, or the session has expired.
        """
        arguments = {"step": self.view.step, "observations": observations, "observed": observed or {}}
        arguments |= {"actions": actions or {}, "exogenous": exogenous or {}}
        self.view = yield from self.ask(SessionView, "observe", arguments, changes=True)

    def fork(self) -> Steps[SessionCalls]:
        """A second session with the same history."""
        view = yield from self.ask(SessionView, "fork", {}, changes=True)
        return SessionCalls(self.calls, view)

    def close(self) -> Steps[None]:
        """Ends the session at the service."""
        return self.calls.close_session(self.view.id)


class _RemoteView:
    """What is known of a session without a request; `run` sends the requests of a call."""

    def __init__(self, calls: SessionCalls, run: Callable[[Steps[Any]], Any]) -> None:
        self._calls, self._run = calls, run

    @property
    def step(self) -> int:
        """Number of observations so far."""
        return self._calls.view.step

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """See `Session.alarms`."""
        return self._calls.view.alarms

    @property
    def widening(self) -> Mapping[str, float]:
        """See `Session.widening`."""
        return self._calls.view.widening

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._calls.view.world!r}, step {self.step})"


@final
class RemoteSession(_RemoteView):
    """A session that the service keeps; made by `RemoteWorld.session`. The verbs are those of `Session`.

    Use it in one thread at a time. `with` ends it at the service, which otherwise keeps it until it expires.
    """

    observe = sent(SessionCalls.observe)
    predict = sent(SessionCalls.predict)
    plan = sent(SessionCalls.plan)
    close = sent(SessionCalls.close)

    def fork(self) -> RemoteSession:
        """A second session with the same history."""
        return RemoteSession(self._run(self._calls.fork()), self._run)

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@final
class AsyncRemoteSession(_RemoteView):
    """A session that the service keeps; made by `AsyncRemoteWorld.session`. The verbs are coroutines.

    Use it in one task at a time. `async with` ends it at the service, which otherwise keeps it until it expires.
    """

    observe = awaited(SessionCalls.observe)
    predict = awaited(SessionCalls.predict)
    plan = awaited(SessionCalls.plan)
    close = awaited(SessionCalls.close)

    async def fork(self) -> AsyncRemoteSession:
        """A second session with the same history."""
        return AsyncRemoteSession(await self._run(self._calls.fork()), self._run)

    async def __aenter__(self) -> AsyncRemoteSession:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
