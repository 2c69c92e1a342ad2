"""What callers see of served worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from worldline.catalog.aliases import Reference
from worldline.catalog.versions import Catalog
from worldline.engines.base import Card
from worldline.errors import UnknownNameError
from worldline.serve.hosting import HostedWorld
from worldline.serve.problems import NotFoundError


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


@final
@dataclass(frozen=True, kw_only=True)
class WorldPage:
    """A page about a world.

    Args:
        name: in URLs.
        title: for people.
    """

    name: str
    title: str


@final
@dataclass(frozen=True, kw_only=True)
class WorldPages:
    """The pages about a world that lie in its bundle.

    Args:
        pages: report of the training, audit and exam, as far as there are any.
    """

    pages: tuple[WorldPage, ...]


PAGES: Final = {"report": "Report of the training", "audit": "Audit", "exam": "Exam"}
"""Titles of the pages of a world by name; each is the file NAME.html in its bundle."""
MAX_PAGE_BYTES: Final = 2**26


def summary_of(hosted: HostedWorld) -> WorldSummary:
    """A served world in short. It may open a version, so call it in a worker."""
    version, world = hosted.current()
    return WorldSummary(name=hosted.name, reference=hosted.reference, version=version, engine=world.describe().engine)


def view_of(hosted: HostedWorld) -> WorldView:
    """A served world. It may open a version, so call it in a worker."""
    summary, (versions, aliases) = summary_of(hosted), _catalogued(hosted)
    return WorldView(**vars(summary), card=hosted.card, versions=versions, aliases=aliases)


def page_files(hosted: HostedWorld) -> dict[str, Path]:
    """The pages of the current version of a world, no links. It may open a version, so call it in a worker."""
    version, _ = hosted.current()
    folder = hosted.folder
    if hosted.reference is not None:
        folder = Catalog().resolve(f"{Reference.parse(hosted.reference).name}@{version}")
    files = {} if folder is None else {name: folder / f"{name}.html" for name in PAGES}
    kept = {name: file for name, file in files.items() if file.is_file() and not file.is_symlink()}
    return {name: file for name, file in kept.items() if file.stat().st_size <= MAX_PAGE_BYTES}


def list_pages(hosted: HostedWorld) -> WorldPages:
    """The pages of a world; call it in a worker."""
    return WorldPages(pages=tuple(WorldPage(name=name, title=PAGES[name]) for name in page_files(hosted)))


def read_page(hosted: HostedWorld, name: str) -> bytes:
    """The HTML of a page of a world; call it in a worker.

    Raises:
        NotFoundError: the world has no such page.
    """
    if name not in (files := page_files(hosted)):
        raise NotFoundError("page", name, files)
    return files[name].read_bytes()


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
