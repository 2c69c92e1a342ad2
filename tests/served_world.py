"""A service of one world on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import worldline
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.world.base import World


@contextmanager
def serving_world(
    world: World,
    *,
    name: str = "toy",
    limits: Limits | None = None,
    tokens: Any = None,
    database: Database | None = None,
) -> Iterator[str]:
    """The URL of the world while it is served."""
    hosts = Hosts(worldline.open)
    hosts.add(HostedWorld(name, None, world))
    with serving(Service(hosts, limits, tokens=tokens), database) as url:
        yield f"{url}/v1/worlds/{name}"
