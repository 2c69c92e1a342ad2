"""A process that works on the queue of a database, without HTTP: `python jobs_process.py DATABASE FOLDER LOGS`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from worldline.serve.database import Database
from worldline.serve.hosting import Hosts
from worldline.serve.jobs import Jobs, JobSettings
from worldline.serve.service import Service
from worldline.world.bundle_io import open_world


async def main(url: str, folder: str, logs: str) -> None:
    settings = JobSettings(folder=Path(folder), logs=Path(logs), beat_s=0.2)
    with Database(url) as database:
        Jobs(Service(Hosts(lambda reference: open_world(reference))), database, settings).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
