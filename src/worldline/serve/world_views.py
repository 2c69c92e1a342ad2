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


PAGES: Final = (
    WorldPage(name="report", title="Report of the training"),
    WorldPage(name="audit", title="Audit"),
    WorldPage(name="exam", title="Exam"),
)
"""The pages of a world; each is the file NAME.html in its bundle."""
_MAX_PAGE_BYTES: Final = 2**26


def summary_of(hosted: HostedWorld) -> WorldSummary:
    """A served world in short. It may open a version, so call it in a worker."""
    version, world = hosted.current()
    return WorldSummary(name=hosted.name, reference=hosted.reference, version=version, engine=world.describe().engine)


def view_of(hosted: HostedWorld) -> WorldView:
    """A served world. It may open a version, so call it in a worker."""
    summary, (versions, aliases) = summary_of(hosted), _catalogued(hosted)
    return WorldView(**vars(summary), card=hosted.card, versions=versions, aliases=aliases)


def pages_of(hosted: HostedWorld) -> dict[WorldPage, Path]:
    """The pages of the current version of a world and their files. It may open a version, so call it in a worker."""
    version, _ = hosted.current()
    folder = hosted.folder
    if hosted.reference is not None:
        folder = Catalog().resolve(f"{Reference.parse(hosted.reference).name}@{version}")
    files = {} if folder is None else {page: folder / f"{page.name}.html" for page in PAGES}
    return {page: file for page, file in files.items() if _is_page(file)}


def read_page(hosted: HostedWorld, name: str) -> bytes:
    """The HTML of a page of a world.

    Raises:
        NotFoundError: the world has no such page.
    """
    files = {page.name: file for page, file in pages_of(hosted).items()}
    if name not in files:
        raise NotFoundError("page", name, files)
    return files[name].read_bytes()


def _is_page(file: Path) -> bool:
    """Whether a file is a page of acceptable size, and no link to another file."""
    return file.is_file() and not file.is_symlink() and file.stat().st_size <= _MAX_PAGE_BYTES


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
