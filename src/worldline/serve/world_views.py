"""What callers see of served worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from worldline.catalog.aliases import Reference
from worldline.catalog.versions import Catalog
from worldline.engines.base import Card
from worldline.errors import UnknownNameError
from worldline.serve.hosting import HostedWorld


@dataclass(frozen=True, kw_only=True)
class WorldSummary:
    """A served world in short.

    Args:
        name: in URLs.
        reference: the world in the catalog; None for a folder.
        version: that answers now; None for a folder.
        engine: registered name of its engine.
    """

    name: str
    reference: str | None
    version: int | None
    engine: str


@final
@dataclass(frozen=True, kw_only=True)
class WorldList:
    """The served worlds.

    Args:
        worlds: in the order in which they were added.
    """

    worlds: tuple[WorldSummary, ...]


@final
@dataclass(frozen=True, kw_only=True)
class WorldVersion:
    """A version of a world in the catalog.

    Args:
        number: from 1.
        created: when it was learned, ISO 8601 with time zone.
        engine: registered name of its model or engine.
    """

    number: int
    created: str
    engine: str


@final
@dataclass(frozen=True, kw_only=True)
class WorldView(WorldSummary):
    """A served world.

    Args:
        name: in URLs.
        reference: the world in the catalog; None for a folder.
        version: that answers now; None for a folder.
        engine: registered name of its engine.
        card: signals, abilities and limits of the version.
        versions: all versions in the catalog; empty for a folder.
        aliases: per alias the number of its version.
    """

    card: Card
    versions: tuple[WorldVersion, ...]
    aliases: Mapping[str, int]


def summary_of(hosted: HostedWorld) -> WorldSummary:
    """A served world in short. It may open a version, so call it in a worker."""
    version, world = hosted.current()
    return WorldSummary(name=hosted.name, reference=hosted.reference, version=version, engine=world.describe().engine)


def view_of(hosted: HostedWorld) -> WorldView:
    """A served world. It may open a version, so call it in a worker."""
    summary, (versions, aliases) = summary_of(hosted), _catalogued(hosted)
    return WorldView(**vars(summary), card=hosted.card, versions=versions, aliases=aliases)


def _catalogued(hosted: HostedWorld) -> tuple[tuple[WorldVersion, ...], dict[str, int]]:
    """Versions and aliases of a world of the catalog; nothing for a folder."""
    if hosted.reference is None:
        return (), {}
    name = Reference.parse(hosted.reference).name
    try:
        catalog = Catalog()
        records = catalog.versions(name)
        aliases = {alias: target.now.version for alias, target in catalog.shelf(name).aliases().items()}
    except UnknownNameError:  # removed from the catalog after it was opened
        return (), {}
    return tuple(WorldVersion(number=info.number, created=info.created, engine=info.model) for info in records), aliases
