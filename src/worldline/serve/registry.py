"""The worlds that an administrator adds while the service runs; processes with one database share them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Final, final

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from worldline.serve.callers import Caller
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.problems import ConflictError, NotFoundError
from worldline.serve.tables import worlds

RETRY_S: Final = 30.0
"""Seconds after which a world that could not be opened is tried again."""

_logger = logging.getLogger(__name__)


@final
class Registry:
    """Adds worlds of the catalog to the served ones, and removes them.

    Args:
        hosts: the served worlds. Those of the command line stay as they are.
        database: keeps the names and references.
    """

    def __init__(self, hosts: Hosts, database: Database) -> None:
        self._hosts, self._database = hosts, database
        self._added: dict[str, str] = {}
        self._failed: dict[str, float] = {}
        # Between reading the table and following it, nobody else may change the served worlds.
        self._lock = asyncio.Lock()

    async def add(self, caller: Caller, name: str, reference: str) -> tuple[HostedWorld, bool]:
        """Serves a world of the catalog, in all processes. Adding it again changes nothing.

        Args:
            caller: an administrator.
            name: in URLs.
            reference: `name@alias` or `name@number`.

        Returns:
            The world, and whether it was not added before.

        Raises:
            InputError: the name is not valid, or `reference` is not a reference.
            ConflictError: another world has the name.
            UnknownNameError: the catalog has no such world, alias or version.
        """
        async with self._lock:
            stored = await self._stored()
            if stored.get(name, reference) != reference:
                raise ConflictError(f"{name!r} was added as {stored[name]!r}. Choose another name, or remove it first.")
            if self._added.get(name) == reference:
                return self._hosts[name], False
            hosted = await asyncio.to_thread(self._hosts.open, reference, name)
            row = {"name": name, "reference": reference, "added": time.time(), "added_by": caller.name}
            insertion = insert(worlds).values(row)
            try:
                if name not in stored:
                    await self._database.write_async(lambda connection: connection.execute(insertion).close())
            except BaseException as error:
                self._hosts.remove(name)
                if isinstance(error, IntegrityError):
                    raise ConflictError(f"another process is adding {name!r}. Try again.") from error
                raise
            self._added[name] = reference
            return hosted, name not in stored

    async def remove(self, name: str) -> None:
        """Stops serving an added world, in all processes.

        Raises:
            NotFoundError: no world was added under this name.
        """

        def write(connection: Connection) -> bool:
            return connection.execute(delete(worlds).where(worlds.c.name == name)).rowcount == 1

        async with self._lock:
            if not await self._database.write_async(write):
                raise NotFoundError("added world", name)
            self._forget(name)

    async def sync(self) -> None:
        """Follows what other processes added and removed.

        A world that cannot be opened is logged, and tried again after `RETRY_S`.
        """
        async with self._lock:
            for name, reference in (await self._stored()).items():
                if name not in self._hosts and time.monotonic() >= self._failed.get(name, -math.inf):
                    await self._open(name, reference)

    async def _stored(self) -> dict[str, str]:
        """Name and reference of all added worlds. Those that other processes removed are forgotten."""
        query = select(worlds.c.name, worlds.c.reference)
        known = dict(await self._database.read_async(lambda connection: connection.execute(query).all()))
        for name in [name for name, reference in self._added.items() if known.get(name) != reference]:
            self._forget(name)
        return known

    async def _open(self, name: str, reference: str) -> None:
        try:
            await asyncio.to_thread(self._hosts.open, reference, name)
        except Exception as error:  # noqa: BLE001  # the other worlds are served
            _logger.warning("the added world %r cannot be opened: %s", name, type(error).__name__)
            self._failed[name] = time.monotonic() + RETRY_S
        else:
            self._added[name] = reference
            self._failed.pop(name, None)

    def _forget(self, name: str) -> None:
        # A world of the command line may have the name of one that another process added.
        if self._added.pop(name, None) is not None and name in self._hosts:
            self._hosts.remove(name)
