"""From the bytes of a request to those of its answer, whatever carries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worldline.errors import InputError, WorldlineError
from worldline.world.base import World
from worldline.world.wire import PlanCall, decode_call, encode_answer, encode_error

MAX_STEPS: Final = 10_000
"""Of a plan: the one thing whose size a request names without carrying it."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What goes back.

    Args:
        body: a message of `worldline.world.wire`.
        error: that the message tells of; None where it is the answer.
    """

    body: bytes
    error: WorldlineError | None = None


def reply(world: World, verb: str, body: bytes) -> Reply:
    """What `world` says to a request, or the error that it raises.

    Args:
        world: is asked.
        verb: one of `wire.CALLS`.
        body: a message of `worldline.world.wire`.
    """
    try:
        call = decode_call(verb, body)
        if isinstance(call, PlanCall) and call.horizon > MAX_STEPS:
            raise InputError(f"horizon is {call.horizon}. This server plans at most {MAX_STEPS} steps; ask for fewer.")
        return Reply(body=encode_answer(call.ask(world)))
    except WorldlineError as error:
        return refusal(error)
    except MemoryError:
        return refusal(
            InputError(f"{verb} takes more memory than the server has. Send fewer worlds, plans or steps at once.")
        )


def refusal(error: WorldlineError) -> Reply:
    """The reply that tells of an error."""
    return Reply(body=encode_error(error), error=error)
