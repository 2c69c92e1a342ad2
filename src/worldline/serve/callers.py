"""Who calls the service, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, final

from worldline.errors import WorldlineError


class Scope(StrEnum):
    """A permission of a token."""

    READ = "read"
    """List worlds and read their cards."""
    INFER = "infer"
    """Call the verbs of worlds."""
    SESSION = "session"
    """Open sessions, and run environments."""
    JOB = "job"
    """Run jobs: learn, audit."""
    ADMIN = "admin"
    """Serve further worlds, move aliases, read usage. Includes no other scope."""


@final
@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request.

    Args:
        id: of the token; empty for a caller of a service without tokens.
        name: of the token, for people.
        scopes: what the caller may do.
        rate: calls per second, above 0; None for no limit.
        quota: calls per day (UTC), at least 0; None for no limit.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    rate: float | None = None
    quota: int | None = None


ANYONE: Final = Caller(id="", name="anyone", scopes=frozenset(Scope))
"""The caller of a service without tokens, which only the loopback interface may reach."""


_NO_TOKEN: Final = "no valid token was sent. Send `Authorization: Bearer TOKEN`, or ask for a new token."


class UnauthorizedError(WorldlineError):
    """The caller has no valid token. The message is the same for unknown, malformed, expired and revoked tokens."""

    def __init__(self, message: str = _NO_TOKEN) -> None:
        super().__init__(message)


class ForbiddenError(WorldlineError):
    """The token of the caller does not have the scope of the request; the message names the scope."""
