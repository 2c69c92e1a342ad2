"""Another process that uses a database: `increment` adds 1 many times, `insert` prints the number of each row."""

from __future__ import annotations

import sys
from functools import partial
from itertools import count

from sqlalchemy import Connection, insert, select, update

from worldline.serve.database import Database
from worldline.serve.tables import worlds

INCREMENTS = 50


def add_world(name: str, connection: Connection) -> str:
    connection.execute(insert(worlds).values(name=name, reference="0", added=0.0, added_by=""))
    return name


def increment(connection: Connection) -> None:
    """Reads and writes in two statements; an isolated transaction loses no increment."""
    row = connection.execute(select(worlds).where(worlds.c.name == "counter")).one_or_none()
    if row is None:
        add_world("counter", connection)
    counter = int(row.reference) if row else 0
    connection.execute(update(worlds).where(worlds.c.name == "counter").values(reference=str(counter + 1)))


def main(url: str, task: str) -> None:
    with Database(url) as database:
        for number in range(INCREMENTS) if task == "increment" else count():
            print(database.write(increment if task == "increment" else partial(add_world, str(number))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
