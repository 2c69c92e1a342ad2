from __future__ import annotations

from worldline.serve.database import Database


def test_open(database_url: str) -> None:
    Database(database_url).close()
