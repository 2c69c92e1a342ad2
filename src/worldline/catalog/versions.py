"""Named, versioned worlds, and aliases such as `greenhouse@prod` that are moved from one version to the next."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import final

from worldline.bundle import MANIFEST, read_bundle, read_manifest
from worldline.catalog.aliases import Alias, Reference, Turn, WorldDirectory, check_name
from worldline.catalog.comparison import ShadowComparison, ShadowVerdict, compare, read_records
from worldline.catalog.named import NamedWorld
from worldline.data.fsync import sync_folder
from worldline.engines.base import Card
from worldline.engines.learned import Adaptation
from worldline.errors import InputError, UnknownNameError, WorldlineError
from worldline.planning.planners.base import Planner
from worldline.world.base import World
from worldline.world.bundle_io import open_world
from worldline.world.compatibility import differences

HOME = "WORLDLINE_HOME"
"""The environment variable that names the folder of the catalogue."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a named world; it never changes.

    Args:
        name: of the world.
        number: from 1.
        path: of its bundle.
        created: when the bundle was written, ISO 8601 with time zone.
        model: registered name of what it holds.
        aliases: that stand for it.
        shadows: aliases in whose shadow it runs.
    """

    name: str
    number: int
    path: Path
    created: str
    model: str
    aliases: tuple[str, ...]
    shadows: tuple[str, ...]


def default_folder() -> Path:
    """Where the catalogue lies: `WORLDLINE_HOME`, else `worldline` in the user's data folder."""
    chosen = os.environ.get(HOME)
    if chosen:
        return Path(chosen)
    data = Path(os.environ.get("XDG_DATA_HOME", ""))  # to be ignored where it is not absolute, says its specification
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "worldline"


def open_named(
    reference: str,
    *,
    planner: Planner | str | None = None,
    adaptation: Adaptation | None = None,
) -> World:
    """The world that `name@alias` stands for, also when that changes (see `NamedWorld`); or that of `name@3`, for good.

    It is looked for in the catalogue in `default_folder()`.

    Args:
        reference: `name@alias` or `name@number`.
        planner: as in `open_world`.
        adaptation: likewise.

    Raises:
        InputError: it is no such reference.
        UnknownNameError: no such world, alias or version.
        BundleError: the version cannot be opened.
    """
    found = Reference.parse(reference)
    open_bundle = partial(open_world, planner=planner, adaptation=adaptation)
    shelf = Catalog().shelf(found.name)
    if found.alias is None:
        return open_bundle(shelf.resolve(found))
    world = NamedWorld(shelf, found.alias, open_bundle=open_bundle)
    world.describe()  # so that what cannot be opened says so here
    return world


@final
@dataclass(frozen=True)
class Catalog:
    """Worlds by name and version, in a folder.

    Several processes may use it at once. Writing takes a lock, reading none.

    Args:
        folder: where it lies; made when the first world is published; left out, `default_folder()`.
        open_bundle: gives the world in a bundle.
    """

    folder: Path = field(default_factory=default_folder)
    open_bundle: Callable[[Path], World] = open_world

    def publish(self, bundle: Path | str, name: str, *, alias: str | None = None) -> Version:
        """The next version of `name`, a copy of the bundle.

        Args:
            bundle: its folder, which may go or change afterwards.
            name: of the world.
            alias: to point to it at once; None leaves all aliases as they are.

        Raises:
            BundleError: the bundle is damaged.
            InputError: a name is not allowed, or `alias` stands for a version that speaks otherwise; nothing was
                published.
        """
        shelf = self._shelf(name)
        if alias is not None:
            check_name("alias", alias)
        source = read_bundle(Path(bundle))
        shelf.folder.mkdir(parents=True, exist_ok=True)
        fresh = shelf.folder / f".{secrets.token_hex(4)}.partial"
        try:
            _copy(source.folder, fresh, (MANIFEST, *source.files))
            read_bundle(fresh)
            with shelf.locked():
                known = shelf.aliases()
                number = shelf.published() + 1
                if alias is not None:
                    self._check_agreement(shelf, alias, known.get(alias), fresh)
                    known = _pointed(known, alias, number, "published")
                fresh.rename(shelf.path(number))
                sync_folder(shelf.folder)
                shelf.write(known)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return self._version(shelf, number, known)

    def names(self) -> tuple[str, ...]:
        """The worlds that have a version, sorted."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return tuple(sorted(path.name for path in found if WorldDirectory(folder=path).numbers()))

    def versions(self, name: str) -> tuple[Version, ...]:
        """Those of a world, in order.

        Raises:
            UnknownNameError: there is no such world.
            BundleError: one has no manifest that can be read.
        """
        shelf = self.shelf(name)
        known = shelf.aliases()
        return tuple(self._version(shelf, number, known) for number in shelf.numbers())

    def resolve(self, reference: str) -> Path:
        """The bundle that `name@alias` or `name@3` stands for now.

        Raises:
            InputError: it is no such reference.
            UnknownNameError: there is no such world, alias or version.
        """
        found = Reference.parse(reference)
        return self.shelf(found.name).resolve(found)

    def alias(self, name: str, alias: str) -> Alias:
        """What the alias stands for, stood for before, and what runs in its shadow.

        Raises:
            UnknownNameError: there is no such world or alias.
        """
        return self.shelf(name).alias(alias)

    def point(self, name: str, alias: str, version: int, *, reason: str = "pointed") -> Version:
        """Makes the alias stand for this version; running applications follow.

        Args:
            name: of the world.
            alias: is made where it is new.
            version: to stand for.
            reason: kept beside it, in words.

        Raises:
            InputError: the version speaks otherwise than the one that the alias stands for; says how.
            UnknownNameError: there is no such world or version.
        """
        check_name("alias", alias)
        shelf = self.shelf(name)
        with shelf.locked():
            known = shelf.aliases()
            shelf.check_version(version)
            if alias not in known or known[alias].now.version != version:
                self._check_agreement(shelf, alias, known.get(alias), shelf.path(version))
                known = _pointed(known, alias, version, reason)
                shelf.write(known)
        return self._version(shelf, version, known)

    def shadow(self, name: str, alias: str, version: int | None) -> None:
        """Has a version asked all that the alias is asked, beside the one that answers.

        Args:
            name: of the world.
            alias: whose calls.
            version: None ends it.

        Raises:
            InputError: it answers already, or it speaks otherwise than the one that does; says how.
            UnknownNameError: there is no such world, alias or version.
        """
        shelf = self.shelf(name)
        with shelf.locked():
            now = shelf.alias(alias)
            if version is not None:
                shelf.check_version(version)
                if version == now.now.version:
                    raise InputError(
                        f"{name}@{alias} stands for version {version} already. Shadow it with another one."
                    )
                self._check_agreement(shelf, alias, now, shelf.path(version))
            shelf.write({**shelf.aliases(), alias: replace(now, shadow=version)})

    def comparison(self, name: str, alias: str) -> ShadowComparison:
        """How the version in shadow does beside the one that answers, over all calls so far.

        Raises:
            InputError: nothing runs in the shadow of this alias.
            UnknownNameError: there is no such world or alias.
            ConfigError: what was written down is damaged.
        """
        shelf = self.shelf(name)
        return _comparison(shelf, alias, shelf.alias(alias))

    def promote(self, name: str, alias: str, *, despite: bool = False) -> Version:
        """Makes the version in shadow the one that the alias stands for.

        Args:
            name: of the world.
            alias: to move.
            despite: whether also where it is worse, or was asked too little to tell.

        Raises:
            InputError: nothing is in shadow; it is worse or too few calls can tell; or it speaks otherwise.
            UnknownNameError: there is no such world or alias.
        """
        shelf = self.shelf(name)
        with shelf.locked():
            now = shelf.alias(alias)
            found = _comparison(shelf, alias, now)
            if not despite and found.verdict in (ShadowVerdict.WORSE, ShadowVerdict.TOO_FEW):
                raise InputError(
                    f"version {found.candidate} in the shadow of {name}@{alias} is not promoted over version "
                    f"{found.serving} ({found.verdict}): {found.reason}. Let it run longer or publish a better one; or "
                    "promote it despite this."
                )
            self._check_agreement(shelf, alias, now, shelf.path(shelf.check_version(found.candidate)))
            reason = f"promoted over {found.serving} ({found.verdict}): {found.reason}"
            known = _pointed(shelf.aliases(), alias, found.candidate, reason)
            shelf.write(known)
        return self._version(shelf, found.candidate, known)

    def roll_back(self, name: str, alias: str) -> Version:
        """Makes the alias stand for what it stood for before. Again and again, it goes further back.

        What speaks otherwise is no obstacle here: an application that began on the earlier version is to have it back.

        Raises:
            InputError: it stood for nothing before.
            UnknownNameError: there is no such world or alias, or the earlier version is gone.
            BundleError: the earlier version cannot be opened.
        """
        shelf = self.shelf(name)
        with shelf.locked():
            now = shelf.alias(alias)
            if not now.earlier:
                raise InputError(f"{name}@{alias} stood for no version before {now.now.version}. Point it to one.")
            version = shelf.check_version(now.earlier[-1].version)
            self.open_bundle(shelf.path(version))
            turn = Turn(version=version, since=_time(), reason=f"rolled back from {now.now.version}")
            shadow = None if now.shadow == version else now.shadow
            known = {**shelf.aliases(), alias: Alias(now=turn, earlier=now.earlier[:-1], shadow=shadow)}
            shelf.write(known)
        return self._version(shelf, version, known)

    def shelf(self, name: str) -> WorldDirectory:
        """The folder of a world that has a version.

        Raises:
            UnknownNameError: there is no such world.
        """
        shelf = self._shelf(name)
        if not shelf.numbers():
            raise UnknownNameError("world", name, self.names())
        return shelf

    def _shelf(self, name: str) -> WorldDirectory:
        return WorldDirectory(folder=Path(self.folder).absolute() / check_name("world", name))

    def _version(self, shelf: WorldDirectory, number: int, known: Mapping[str, Alias]) -> Version:
        manifest = read_manifest(shelf.path(number))
        return Version(
            name=shelf.name,
            number=number,
            path=shelf.path(number),
            created=manifest.created,
            model=manifest.model,
            aliases=tuple(sorted(name for name, alias in known.items() if alias.now.version == number)),
            shadows=tuple(sorted(name for name, alias in known.items() if alias.shadow == number)),
        )

    def _check_agreement(self, shelf: WorldDirectory, alias: str, now: Alias | None, bundle: Path) -> None:
        """Refuses a bundle that cannot be opened, or whose world an application of this alias would not know."""
        card = self.open_bundle(bundle).describe()
        known = None if now is None else self._card_in_use(shelf, now)
        found = () if known is None else differences(known, card)
        if found:
            raise InputError(
                f"{shelf.name}@{alias} stays as it is, because applications would notice the other version: "
                f"{'; '.join(found)}. Learn it from logs with the same schema.json, or use another alias."
            )

    def _card_in_use(self, shelf: WorldDirectory, now: Alias) -> Card | None:
        """What applications of this alias speak: they go on with the last version that could be opened."""
        for turn in (now.now, *reversed(now.earlier)):
            try:
                return self.open_bundle(shelf.path(turn.version)).describe()
            except WorldlineError:
                continue
        return None


def _pointed(known: Mapping[str, Alias], alias: str, version: int, reason: str) -> dict[str, Alias]:
    """The aliases, with this one standing for `version`."""
    turn = Turn(version=version, since=_time(), reason=reason)
    if alias not in known:
        return {**known, alias: Alias(now=turn)}
    now = known[alias]
    shadow = None if now.shadow == version else now.shadow
    return {**known, alias: Alias(now=turn, earlier=(*now.earlier, now.now), shadow=shadow)}


def _comparison(shelf: WorldDirectory, alias: str, now: Alias) -> ShadowComparison:
    if now.shadow is None:
        raise InputError(f"nothing runs in the shadow of {shelf.name}@{alias}. Name a version to run there.")
    records = read_records(shelf.records(alias, now.now.version, now.shadow))
    return compare(records, serving=now.now.version, candidate=now.shadow)


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copies these files; they are on disk when this returns."""
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    for folder in {(target / name).parent for name in names}:
        sync_folder(folder)


def _time() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
