"""Handling of requests to a world as bytes, independent of the transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worldline.errors import UnsupportedError, WorldlineError
from worldline.planning.base import PlanRequest
from worldline.world.base import World
from worldline.world.wire import decode_call, encode_answer, encode_error

MAX_STEPS: Final = 10_000
"""Longest horizon of a plan. The size of a request does not bound it, unlike all other sizes."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply to a request.

    Args:
        body: a message of `worldline.world.wire`.
        error: the error that the message reports; None if the message is an answer.
    """

    body: bytes
    error: WorldlineError | None = None


def reply(world: World, verb: str, body: bytes) -> Reply:
    """The answer of `world` to a request, or the error that it raises.

    Args:
        world: that answers.
        verb: one of `wire.VERBS`.
        body: a message of `worldline.world.wire`.
    """
    try:
        call = decode_call(verb, body)
        request = call.arguments.get("request")
        if isinstance(request, PlanRequest) and request.horizon > MAX_STEPS:
            raise UnsupportedError(
                f"horizon is {request.horizon}. This server plans at most {MAX_STEPS} steps: reduce it."
            )
        return Reply(body=encode_answer(call.ask(world)))
    except WorldlineError as error:
        return refusal(error)
    except MemoryError:
        return refusal(
            UnsupportedError(
                f"{verb} needs more memory than the server has. Send fewer worlds, plans or steps at once."
            )
        )


def refusal(error: WorldlineError) -> Reply:
    """The reply that reports an error."""
    return Reply(body=encode_error(error), error=error)
