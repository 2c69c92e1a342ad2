"""`worldline publish`, `worlds`, `alias`, `shadow`, `promote` and `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import worldline.catalog
from worldline.cli.options import Json
from worldline.cli.output import print_next, print_table, write_json
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.catalog.comparison import ShadowComparison
    from worldline.catalog.versions import Catalog, Version

Named = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="World and alias, such as greenhouse@prod.")]


def publish(world: Path, name: str, alias: str | None = None, json: Json = None) -> None:
    """Publish a trained world as the next version of a name.

    Args:
        world: folder of the trained world; it is copied.
        name: name of the world, such as greenhouse.
        alias: alias for this version, such as prod. Default: none.
    """
    version = worldline.catalog.Catalog().publish(world, name, alias=alias)
    print(f"{name}@{version.number}: {version.path}")
    none = "not run, because the bundle stores no windows; worlds of `worldline learn` do"
    print(f"smoke test: {'passed' if version.smoke_tested else none}")
    _finish(version, json, "serve", f"{name}@{alias or version.number}")


def worlds(json: Json = None) -> None:
    """List published worlds with versions and aliases."""
    catalog = worldline.catalog.Catalog()
    versions = [version for name in catalog.names() for version in catalog.versions(name)]
    rows = []
    for version in versions:
        aliases = ", ".join((*version.aliases, *(f"{name} (shadow)" for name in version.shadows)))
        rows.append((version.name, version.number, aliases, version.created, version.model))
    print_table(f"Worlds in {catalog.folder}", ("name", "version", "aliases", "created", "engine"), rows)
    write_json(json, {"folder": catalog.folder, "versions": versions})
    if versions:
        print_next("serve", f"{versions[-1].name}@{versions[-1].number}")
    else:
        print_next("publish", "WORLD", "NAME")


def alias(
    name: Named, version: Annotated[int, typer.Argument(min=1)], reason: str = "pointed", json: Json = None
) -> None:
    """Point an alias to a version. Running applications switch to it.

    Args:
        version: the version.
        reason: reason, stored with the change.
    """
    catalog, world, which = _begin(name)
    _finish(catalog.point(world, which, version, reason=reason), json, "serve", name)


def shadow(name: Named, version: Annotated[str | None, typer.Argument()] = None, json: Json = None) -> None:
    """Run a version in shadow of an alias on the same calls, or show the comparison.

    Args:
        version: version to run in shadow, or none to end it. Default: show the comparison.
    """
    catalog, world, which = _begin(name)
    if version is None:
        comparison = catalog.comparison(world, which)
        _print(name, comparison)
        write_json(json, comparison)
        print_next("promote", name)
        return
    if version != "none" and not version.isdecimal():
        raise InputError(f"{version!r} is not a version. Give the number of a version, or none to end the shadow.")
    ends = version == "none"
    catalog.shadow(world, which, None if ends else int(version))
    print(f"{name}: {'no version' if ends else f'version {version}'} runs in its shadow")
    write_json(json, catalog.alias(world, which))
    print_next(*(("worlds",) if ends else ("shadow", name)))


def promote(
    name: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="World and alias; or a name for a controller.")],
    controller: str | None = None,
    judgement: Path | None = None,
    runs: Path | None = None,
    despite: bool = False,
    json: Json = None,
) -> None:
    """Point an alias to the version in its shadow; or promote a judged controller, and compare its real runs.

    Args:
        controller: TOML file of a judged controller, or module:name. It is stored under the name.
        judgement: JSON file of worldline judge, for a controller.
        runs: store with real episodes of the controller, which are compared with its judgement.
        despite: even if it is worse, or has too few calls; or if a controller is not judged to be better.
    """
    if runs is not None:
        _compare_runs(name, runs, json)
        return
    if controller is not None:
        from worldline.workflows.promotion import promote_controller

        if judgement is None:
            raise InputError("a controller needs a judgement. Write it with worldline judge --json, then --judgement.")
        print(f"{name}: {promote_controller(name, controller, judgement, despite=despite)}")
        print_next("promote", name, "--runs", "episodes/")
        return
    catalog, world, which = _begin(name)
    _finish(catalog.promote(world, which, despite=despite), json, "rollback", name)


def _compare_runs(name: str, runs: Path, json: Path | None) -> None:
    from worldline.formatting import plural
    from worldline.workflows.promotion import compare_runs

    compared = compare_runs(name, runs)
    rows = [
        (
            each.name,
            f"{each.judged.low:.3g} to {each.judged.high:.3g}",
            f"{each.measured:.3g}",
            "yes" if each.inside else "no",
        )
        for each in compared.figures
    ]
    head = ("figure", "judged, 90 %", "real", "inside")
    print_table(f"{plural(compared.num_episodes, 'real run')} of {name}", head, rows)
    print(f"{compared.inside} of {compared.compared} figures of all promoted controllers were inside their intervals.")
    write_json(json, compared)


def rollback(name: Named, json: Json = None) -> None:
    """Point an alias to its previous version. Running applications switch to it."""
    catalog, world, which = _begin(name)
    _finish(catalog.roll_back(world, which), json, "worlds")


def _begin(name: str) -> tuple[Catalog, str, str]:
    from worldline.catalog.aliases import Reference

    reference = Reference.parse(name)
    if reference.alias is None:
        raise InputError(f"{name} is a version, which never changes. Give an alias, such as {reference.name}@prod.")
    return worldline.catalog.Catalog(), reference.name, reference.alias


def _finish(version: Version, json: Path | None, *next_command: str) -> None:
    for name in version.aliases:
        print(f"{version.name}@{name} points to version {version.number}")
    write_json(json, version)
    print_next(*next_command)


def _print(name: str, compared: ShadowComparison) -> None:
    rows = []
    for title, measure, factor, unit in (
        ("error relative to the variation of the signals", "error", 1, ""),
        ("coverage of the 90 % band", "coverage", 100, " %"),
        ("median time per call", "s", 1000, " ms"),
    ):
        values = [getattr(compared, f"{side}_{measure}") for side in ("serving", "candidate")]
        rows.append((title, *("?" if value is None else f"{factor * value:.4g}{unit}" for value in values)))
    head = ("", f"version {compared.serving}", f"version {compared.candidate} (shadow)")
    print_table(f"Shadow of {name}", head, rows)
    scored = f"{compared.num_calls} calls: {compared.num_scored} scored, {compared.num_failed} failed in the shadow, "
    print(f"{scored}{compared.num_dropped} skipped because it was busy")
    print(f"{compared.verdict}: {compared.reason}")
