"""Tokens of callers. The database holds a hash of each, so nobody can read a token after it was created."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, final

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from worldline.catalog.aliases import check_name
from worldline.errors import InputError, UnknownNameError
from worldline.serve.callers import Caller, Scope, UnauthorizedError
from worldline.serve.database import Database
from worldline.serve.tables import tokens

KEEP_S: Final = 5.0
"""Seconds after which a token is read from the database again, and a revocation takes effect in all processes."""

USED_S: Final = 60.0
"""Precision of `TokenRecord.last_used`, in seconds."""

MAX_EXPIRES_S: Final = 100 * 365 * 86_400.0
MAX_QUOTA: Final = 2**63 - 1

_TOKEN: Final = re.compile(r"wl_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


@final
@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """What is known of a token. Times are seconds since 1970 (UTC).

    Args:
        id: public part of the token.
        name: unique, also among revoked tokens.
        scopes: what callers may do.
        rate: calls per second; None for no limit.
        quota: calls per day (UTC); None for no limit.
        created: time of creation.
        expires: None for never.
        revoked: None if it is not revoked.
        last_used: rounded to about a minute; None if it was never used.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    rate: float | None
    quota: int | None
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None

    def is_valid(self, now: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)


@final
class Tokens:
    """The tokens of a service. Many threads can use it at once.

    Args:
        database: of the service.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, tuple[TokenRecord, float]] = {}  # by hash, with the monotonic time when it was read
        self._any, self._any_read = False, -math.inf

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        expires_s: float | None = None,
        rate: float | None = None,
        quota: int | None = None,
    ) -> str:
        """The new token. This is the only time that it is known.

        Args:
            name: letters, digits, `_`, `-` and `.`; not in use, also not by a revoked token.
            scopes: at least one.
            expires_s: seconds until it expires, at most 100 years; None for never.
            rate: calls per second, above 0; None for no limit.
            quota: calls per day (UTC), at least 0; None for no limit.

        Raises:
            InputError: an argument is not as described.
        """
        allowed = sorted(set(scopes))
        is_valid = (
            (rate is None or 0 < rate < math.inf)
            and (quota is None or 0 <= quota <= MAX_QUOTA)
            and (expires_s is None or 0 < expires_s <= MAX_EXPIRES_S)
        )
        if not (allowed and is_valid):
            raise InputError(
                f"token {name!r}: scopes is {', '.join(allowed) or 'none'}, expires_s is {expires_s}, rate is {rate}, "
                f"quota is {quota}. Give one or more of {', '.join(Scope)}; seconds above 0, at most 100 years; a "
                f"finite number of calls per second above 0; a number of calls per day from 0 to {MAX_QUOTA}."
            )
        number, now = secrets.token_hex(8), time.time()
        token = f"wl_{number}_{secrets.token_urlsafe(32)}"
        row: dict[str, Any] = {"id": number, "name": check_name("token", name), "hash": _hash(token), "scopes": allowed}
        row |= {"rate": rate, "quota": quota, "created": now, "expires": None if expires_s is None else now + expires_s}
        try:
            self._database.write(lambda connection: connection.execute(tokens.insert().values(row)).close())
        except IntegrityError as error:
            raise InputError(
                f"a token is called {name!r}, perhaps a revoked one. Choose another name, such as {name}-2."
            ) from error
        self._any = True
        return token

    def list(self) -> tuple[TokenRecord, ...]:
        """All tokens in the order of their creation, also those that are no longer valid."""
        ordered = select(tokens).order_by(tokens.c.created, tokens.c.name)
        return self._database.read(lambda connection: tuple(_record(row) for row in connection.execute(ordered)))

    def revoke(self, name: str) -> None:
        """Makes a token invalid: here at once, in other processes after `KEEP_S` seconds at most.

        Raises:
            UnknownNameError: there is no such token.
        """
        known = [record.name for record in self.list()]
        if name not in known:
            raise UnknownNameError("token", name, known)
        revoked = update(tokens).where(tokens.c.name == name, tokens.c.revoked.is_(None)).values(revoked=time.time())
        self._database.write(lambda connection: connection.execute(revoked).close())
        self._kept = {digest: kept for digest, kept in self._kept.items() if kept[0].name != name}

    def any(self) -> bool:
        """Whether there is a token, valid or not: then the service requires one. At most `KEEP_S` seconds old."""
        now = time.monotonic()
        if not self._any and now - self._any_read >= KEEP_S:
            first = select(tokens.c.id).limit(1)
            self._any = self._database.read(lambda connection: connection.execute(first).first()) is not None
            self._any_read = now
        return self._any

    def is_kept(self, token: str) -> bool:
        """Whether `check` answers from memory, without a query."""
        return _TOKEN.fullmatch(token) is None or self._fresh(_hash(token)) is not None

    def check(self, token: str) -> Caller:
        """The caller who has the token. Reads each token every `KEEP_S` seconds.

        Raises:
            UnauthorizedError: the token is malformed, unknown, expired or revoked.
            UnavailableError: the database fails.
        """
        record = self._record(_hash(token)) if _TOKEN.fullmatch(token) else None
        now = time.time()
        if record is None or not record.is_valid(now):
            raise UnauthorizedError
        if record.last_used is None or now - record.last_used >= USED_S:
            self._note_use(_hash(token), now)
        return Caller(**{item.name: getattr(record, item.name) for item in fields(Caller)})

    def _fresh(self, digest: str) -> TokenRecord | None:
        """The token with this hash in memory, unless it must be read again."""
        record, read_s = self._kept.get(digest, (None, -math.inf))
        return record if time.monotonic() - read_s < KEEP_S else None

    def _record(self, digest: str) -> TokenRecord | None:
        """The token with this hash, from memory or the database; unknown ones are not kept."""
        if (kept := self._fresh(digest)) is not None:
            return kept
        now = time.monotonic()
        # The time of the query does not depend on the secret: nobody can choose a hash.
        wanted = select(tokens).where(tokens.c.hash == digest)
        row = self._database.read(lambda connection: connection.execute(wanted).one_or_none())
        if row is None:
            return None
        self._kept[digest] = _record(row), now
        return self._kept[digest][0]

    def _note_use(self, digest: str, now: float) -> None:
        """Writes `last_used` without waiting."""
        record, read_s = self._kept.get(digest, (None, 0.0))
        if record is None:  # another thread has revoked it
            return
        self._kept[digest] = replace(record, last_used=now), read_s
        used = update(tokens).where(tokens.c.hash == digest).values(last_used=now)
        self._database.write_later(lambda connection: connection.execute(used).close())


def _hash(token: str) -> str:
    # One round suffices: the secret is random and has 256 bits, so it cannot be guessed.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _record(row: Any) -> TokenRecord:
    values = {item.name: getattr(row, item.name) for item in fields(TokenRecord)}
    return TokenRecord(**{**values, "scopes": frozenset(map(Scope, row.scopes))})
