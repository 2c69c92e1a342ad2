"""Sessions that a service keeps, for clients with and without coroutines."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Generic, TypeVar, final

from worldline.episode import Arrays
from worldline.planning.calls import PlanCall, PredictCall
from worldline.world.remote_messages import RemoteClient, Steps, awaited
from worldline.world.session import FILLED_IN, Alarm, SessionVerbs, SessionView

Done = TypeVar("Done")
Fork = TypeVar("Fork")


class RemoteSessionClient(Generic[Done, Fork]):
    """What sessions with and without coroutines have in common.

    Args:
        client: of the world.
        view: of the session.
    """

    def __init__(self, client: RemoteClient[Any, Fork], view: SessionView) -> None:
        self._client, self._view = client, view

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
        path = self._client.session_path(f"/{self._view.id}:{call.verb}")
        return self._client.run(self._client.answered(path, call, FILLED_IN))

    def observe(
        self,
        observations: Arrays,
        *,
        actions: Arrays | None = None,
        exogenous: Arrays | None = None,
        observed: Mapping[str, bool] | None = None,
    ) -> Done:
        """Adds one step, as `Session.observe` does.

        After an `UnavailableError` the service may have the step. Call `observe` again with the same step; the service
        adds it once.

        Raises:
            InputError: also if another client added a step, or the session has expired.
        """
        step = {"step": self.step, "observations": observations, "observed": observed or {}}
        done: Done = self._client.run(self._observed(step | {"actions": actions or {}, "exogenous": exogenous or {}}))
        return done

    def fork(self) -> Fork:
        """A second session with the same history."""
        fork: Fork = self._client.run(self._client.opened(f"/{self._view.id}:fork", "fork", {}))
        return fork

    def close(self) -> Done:
        """Ends the session at the service."""
        done: Done = self._client.run(self._client.closed(self._view.id))
        return done

    def _observed(self, step: Mapping[str, Any]) -> Steps[None]:
        self._view = yield from self._client.changed(f"/{self._view.id}:observe", "observe", step)


@final
class RemoteSession(RemoteSessionClient[None, "RemoteSession"], SessionVerbs):
    """A session that the service keeps; made by `RemoteWorld.session`. The verbs are those of `Session`.

    Use it in one thread at a time. `with` ends it at the service, which otherwise keeps it until it expires.
    """

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@final
class AsyncRemoteSession(RemoteSessionClient[Coroutine[Any, Any, None], Coroutine[Any, Any, "AsyncRemoteSession"]]):
    """A session that the service keeps; made by `AsyncRemoteWorld.session`. The verbs are coroutines.

    Use it in one task at a time. `async with` ends it at the service, which otherwise keeps it until it expires.
    """

    predict = awaited(SessionVerbs.predict)
    plan = awaited(SessionVerbs.plan)

    async def __aenter__(self) -> AsyncRemoteSession:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
