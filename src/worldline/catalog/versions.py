"""The catalog: named, versioned worlds, and aliases such as `greenhouse@prod` that point to versions."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import final

from worldline.bundle import MANIFEST, read_bundle, read_manifest
from worldline.catalog.aliases import PUBLISHING, Alias, Reference, Turn, WorldDirectory, check_name
from worldline.catalog.comparison import ShadowComparison, ShadowVerdict, compare, read_records
from worldline.catalog.named import NamedWorld
from worldline.data.fsync import sync
from worldline.engines.base import Card
from worldline.engines.learned import Adaptation
from worldline.errors import InputError, UnknownNameError, WorldlineError
from worldline.planning.planners.base import Planner
from worldline.world.base import World
from worldline.world.bundle_io import WINDOWS, open_world
from worldline.world.compatibility import differences
from worldline.world.local import LocalWorld
from worldline.world.smoke_test import smoke_test

HOME = "WORLDLINE_HOME"
"""The environment variable that names the folder of the catalog."""
WORLDS = "worlds"
"""The folder of the worlds in that of the catalog, which also holds the files of the service."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a named world. It never changes.

    Args:
        name: name of the world.
        number: from 1.
        path: its bundle folder.
        created: when the bundle was written, ISO 8601 with time zone.
        model: registered name of its model or engine.
        aliases: aliases that point to it.
        shadows: aliases in whose shadow it runs.
        smoke_tested: whether it stores held-out windows, on which it was tested when it was published.
    """

    name: str
    number: int
    path: Path
    created: str
    model: str
    aliases: tuple[str, ...]
    shadows: tuple[str, ...]
    smoke_tested: bool


def default_folder() -> Path:
    """The folder of the catalog: `WORLDLINE_HOME`, else `worldline` in the user's data folder."""
    if chosen := os.environ.get(HOME):
        return Path(chosen)
    data = Path(os.environ.get("XDG_DATA_HOME", ""))  # the XDG specification ignores relative paths
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "worldline"


def open_named(
    reference: str, *, planner: Planner | str | None = None, adaptation: Adaptation | None = None, device: str = "auto"
) -> World:
    """Opens a world of the catalog in `default_folder()`.

    `name@alias` follows the alias when it changes (see `NamedWorld`). `name@3` stays at that version.

    Args:
        reference: `name@alias` or `name@number`.
        planner: as in `open_world`.
        adaptation: as in `open_world`.
        device: as in `open_world`.

    Raises:
        InputError: `reference` is not a reference.
        UnknownNameError: there is no such world, alias or version.
        BundleError: the version cannot be opened.
    """
    parsed = Reference.parse(reference)
    open_bundle = partial(open_world, planner=planner, adaptation=adaptation, device=device)
    directory = Catalog().shelf(parsed.name)
    if parsed.alias is None:
        return open_bundle(directory.resolve(parsed))
    world = NamedWorld(directory, parsed.alias, open_bundle=open_bundle)
    world.describe()  # raises here if it cannot be opened
    return world


@final
@dataclass(frozen=True)
class Catalog:
    """Worlds by name and version, in the folder `worlds` of a folder.

    Several processes can use it at once. Writing takes a lock, reading takes none.

    Args:
        folder: its folder, created when the first world is published; default `default_folder()`.
        open_bundle: opens the world in a bundle folder.
    """

    folder: Path = field(default_factory=default_folder)
    open_bundle: Callable[[Path], World] = open_world

    def publish(self, bundle: Path | str, name: str, *, alias: str | None = None) -> Version:
        """Publishes a copy of the bundle as the next version of `name`.

        Args:
            bundle: bundle folder, which may be changed or deleted afterwards.
            name: name of the world.
            alias: alias to point to the new version; None changes no alias.

        Raises:
            BundleError: the bundle is damaged, or the world fails its smoke test: a few predictions of held-out windows
                in the bundle. Nothing is published.
            UnknownNameError: the bundle needs a model, engine or planner that is not installed.
            InputError: a name is not allowed, or the version behind `alias` is incompatible. Nothing is published.
        """
        directory = self.check_name(name)
        if alias is not None:
            check_name("alias", alias)
        source = read_bundle(Path(bundle))
        directory.folder.mkdir(parents=True, exist_ok=True)
        with directory.locked(PUBLISHING):
            directory.remove_drafts()
            fresh = directory.folder / f".{secrets.token_hex(4)}.partial"
            try:
                _copy(source.folder, fresh, (MANIFEST, *source.files))
                opened = self.open_bundle(fresh)  # checks all parts, also whether weights are finite
                if isinstance(opened, LocalWorld):
                    smoke_test(opened, source.folder)
                with directory.locked():
                    known = directory.aliases()
                    number = directory.published() + 1
                    if alias is not None:
                        self._check_compatible(directory, alias, known.get(alias), fresh)
                        known = _pointed(known, alias, number, "published")
                    fresh.rename(directory.path(number))
                    sync(directory.folder)
                    directory.write(known)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        return self._version(directory, number, known)

    def names(self) -> tuple[str, ...]:
        """The worlds that have a version, sorted."""
        self._move_old_worlds()
        worlds = self.folder / WORLDS
        paths = worlds.iterdir() if worlds.is_dir() else ()
        return tuple(sorted(path.name for path in paths if WorldDirectory(folder=path).numbers()))

    def check_name(self, name: str) -> WorldDirectory:
        """The folder for the next version of `name`, which may be a new world.

        Raises:
            InputError: the name is not allowed.
        """
        self._move_old_worlds()
        return WorldDirectory(folder=Path(self.folder).absolute() / WORLDS / check_name("world", name))

    def versions(self, name: str) -> tuple[Version, ...]:
        """The versions of a world, in order.

        Raises:
            UnknownNameError: there is no such world.
            BundleError: a version has no readable manifest.
        """
        directory = self.shelf(name)
        known = directory.aliases()
        return tuple(self._version(directory, number, known) for number in directory.numbers())

    def resolve(self, reference: str) -> Path:
        """The bundle folder that `name@alias` or `name@3` points to now.

        Raises:
            InputError: `reference` is not a reference.
            UnknownNameError: there is no such world, alias or version.
        """
        parsed = Reference.parse(reference)
        return self.shelf(parsed.name).resolve(parsed)

    def alias(self, name: str, alias: str) -> Alias:
        """The current, earlier and shadow versions of an alias.

        Raises:
            UnknownNameError: there is no such world or alias.
        """
        return self.shelf(name).alias(alias)

    def point(self, name: str, alias: str, version: int, *, reason: str = "pointed") -> Version:
        """Points the alias to this version; running applications follow.

        Args:
            name: name of the world.
            alias: created if it does not exist.
            version: the version to serve.
            reason: reason in words, stored with the change.

        Raises:
            InputError: the version is incompatible with the current one. The message names the differences.
            UnknownNameError: there is no such world or version.
        """
        check_name("alias", alias)
        directory = self.shelf(name)
        with directory.locked():
            known = directory.aliases()
            directory.check_version(version)
            if alias not in known or known[alias].now.version != version:
                self._check_compatible(directory, alias, known.get(alias), directory.path(version))
                known = _pointed(known, alias, version, reason)
                directory.write(known)
        return self._version(directory, version, known)

    def shadow(self, name: str, alias: str, version: int | None) -> None:
        """Runs a candidate in the shadow of an alias: it gets all calls, but never answers.

        Args:
            name: name of the world.
            alias: alias whose calls are shadowed.
            version: the candidate; None ends the shadow.

        Raises:
            InputError: the candidate is already serving, or it is incompatible. The message names the differences.
            UnknownNameError: there is no such world, alias or version.
        """
        directory = self.shelf(name)
        with directory.locked():
            now = directory.alias(alias)
            if version is not None:
                directory.check_version(version)
                if version == now.now.version:
                    raise InputError(
                        f"{name}@{alias} already points to version {version}. Shadow it with another version."
                    )
                self._check_compatible(directory, alias, now, directory.path(version))
            directory.write({**directory.aliases(), alias: replace(now, shadow=version)})

    def comparison(self, name: str, alias: str) -> ShadowComparison:
        """Compares the candidate in shadow with the serving version, over all calls so far.

        Raises:
            InputError: no candidate runs in the shadow of this alias.
            UnknownNameError: there is no such world or alias.
            ConfigError: the records are damaged.
        """
        directory = self.shelf(name)
        return _comparison(directory, alias, directory.alias(alias))

    def promote(self, name: str, alias: str, *, despite: bool = False) -> Version:
        """Points the alias to the candidate in its shadow.

        Args:
            name: name of the world.
            alias: the alias to move.
            despite: whether to promote even if the candidate is worse, or has too few calls.

        Raises:
            InputError: there is no candidate, it is worse or has too few calls, or it is incompatible.
            UnknownNameError: there is no such world or alias.
        """
        directory = self.shelf(name)
        with directory.locked():
            now = directory.alias(alias)
            comparison = _comparison(directory, alias, now)
            candidate, verdict, figures = comparison.candidate, comparison.verdict, comparison.reason
            if not despite and verdict in (ShadowVerdict.WORSE, ShadowVerdict.TOO_FEW):
                raise InputError(
                    f"version {candidate} in the shadow of {name}@{alias} is not promoted over version "
                    f"{comparison.serving} ({verdict}): {figures}. Let it run longer, publish a better one, or "
                    "promote it anyway with despite=True."
                )
            self._check_compatible(directory, alias, now, directory.path(directory.check_version(candidate)))
            reason = f"promoted over {comparison.serving} ({verdict}): {figures}"
            known = _pointed(directory.aliases(), alias, candidate, reason)
            directory.write(known)
        return self._version(directory, candidate, known)

    def roll_back(self, name: str, alias: str) -> Version:
        """Points the alias to its previous version. Repeated calls go further back.

        Compatibility is not checked, so that applications get back the version that they started with.

        Raises:
            InputError: there is no previous version.
            UnknownNameError: there is no such world or alias, or the previous version was deleted.
            BundleError: the previous version cannot be opened.
        """
        directory = self.shelf(name)
        with directory.locked():
            now = directory.alias(alias)
            if not now.earlier:
                raise InputError(
                    f"{name}@{alias} has no version before {now.now.version}. Point it to another version."
                )
            version = directory.check_version(now.earlier[-1].version)
            self.open_bundle(directory.path(version))
            known = _pointed(directory.aliases(), alias, version, f"rolled back from {now.now.version}")
            known[alias] = replace(known[alias], earlier=now.earlier[:-1])
            directory.write(known)
        return self._version(directory, version, known)

    def shelf(self, name: str) -> WorldDirectory:
        """The folder of an existing world.

        Raises:
            UnknownNameError: there is no such world.
        """
        # Some systems ignore upper and lower case in paths, so the name must be in the list, too.
        if name not in self.names():
            check_name("world", name)
            raise UnknownNameError("world", name, self.names())
        return self.check_name(name)

    def _move_old_worlds(self) -> None:
        """Moves worlds of earlier releases from the folder of the catalog into that of the worlds: a rename for each.

        Raises:
            InputError: a world of the same name is there already.
        """
        worlds = Path(self.folder).absolute() / WORLDS
        for old in worlds.parent.iterdir() if worlds.parent.is_dir() else ():
            numbers = WorldDirectory(folder=old).numbers() if old != worlds else ()
            if not any((old / str(number) / MANIFEST).is_file() for number in numbers):
                continue
            worlds.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another process was faster
                if (worlds / old.name).exists() and old.exists():
                    raise InputError(
                        f"an earlier release published {old.name!r} in {old}, and there is another world of this name "
                        f"now. Rename the earlier one: mv {old} {worlds / old.name}-before"
                    )
                old.rename(worlds / old.name)
                sync(worlds)
                sync(worlds.parent)

    def _version(self, directory: WorldDirectory, number: int, known: Mapping[str, Alias]) -> Version:
        manifest = read_manifest(directory.path(number))
        return Version(
            name=directory.name,
            number=number,
            path=directory.path(number),
            created=manifest.created,
            model=manifest.model,
            aliases=tuple(sorted(name for name, alias in known.items() if alias.now.version == number)),
            shadows=tuple(sorted(name for name, alias in known.items() if alias.shadow == number)),
            smoke_tested=WINDOWS in manifest.files,
        )

    def _check_compatible(self, directory: WorldDirectory, alias: str, now: Alias | None, bundle: Path) -> None:
        """Raises if the bundle cannot be opened, or is incompatible with applications of this alias."""
        card = self.open_bundle(bundle).describe()
        known = None if now is None else self._card_in_use(directory, now)
        if known is not None and (clashes := differences(known, card)):
            raise InputError(
                f"{directory.name}@{alias} is not changed, because the other version is incompatible: "
                f"{'; '.join(clashes)}. Learn it from logs with the same schema.json, or use another alias."
            )

    def _card_in_use(self, directory: WorldDirectory, now: Alias) -> Card | None:
        """The card that applications of this alias use: of the last version that can be opened."""
        for turn in (now.now, *reversed(now.earlier)):
            try:
                return self.open_bundle(directory.path(turn.version)).describe()
            except WorldlineError:
                continue
        return None


def _pointed(known: Mapping[str, Alias], alias: str, version: int, reason: str) -> dict[str, Alias]:
    """The aliases, with this one pointing to `version`."""
    turn = Turn(version=version, since=datetime.now(UTC).isoformat(timespec="seconds"), reason=reason)
    if (now := known.get(alias)) is None:
        return {**known, alias: Alias(now=turn)}
    shadow = None if now.shadow == version else now.shadow
    return {**known, alias: Alias(now=turn, earlier=(*now.earlier, now.now), shadow=shadow)}


def _comparison(directory: WorldDirectory, alias: str, now: Alias) -> ShadowComparison:
    if now.shadow is None:
        raise InputError(f"no candidate runs in the shadow of {directory.name}@{alias}. Start one with Catalog.shadow.")
    records = read_records(directory.records(alias, now.now.version, now.shadow))
    return compare(records, serving=now.now.version, candidate=now.shadow)


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copies these files and flushes them to disk."""
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path)
        sync(path)
    for folder in {(target / name).parent for name in names}:
        sync(folder)
