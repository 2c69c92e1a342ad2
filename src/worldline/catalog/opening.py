"""A world by what an application calls it: the one place that knows which kind of world a name stands for."""

from __future__ import annotations

from pathlib import Path

from worldline.bundle import holds_bundle
from worldline.engines.learned import Adaptation
from worldline.errors import BundleError, InputError
from worldline.planning.planners.base import Planner
from worldline.world.base import World
from worldline.world.bundle_io import open_world


def open_target(
    target: Path | str, *, planner: Planner | str | None = None, adaptation: Adaptation | None = None
) -> World:
    """The world that `target` names, whatever stands behind it.

    Args:
        target: the folder of a bundle, such as "worlds/greenhouse"; or the URL of a served world, such as
            "http://127.0.0.1:8000"; or a world of the catalogue by alias or version, "greenhouse@prod" or
            "greenhouse@3". Where there is a folder of that name, it is the folder.
        planner: to plan with: one of your own, or the registered name of one; None for the world's own.
        adaptation: how a learned world corrects itself by the histories that it is shown; None for not at all. See
            `worldline.world.bundle_io.open_world`.

    Raises:
        BundleError: there is no such bundle, or it is damaged, or its parts do not fit each other.
        InputError: `planner` or `adaptation` is given for a URL: a served world has its own.
        UnknownNameError: no such name or alias is in the catalogue, or the world needs a part that is not installed.
        UnavailableError: nobody answers at the URL.
        MissingExtraError: it is a URL, and the extra `client` is not installed.
    """
    if isinstance(target, str) and target.lower().startswith(("http://", "https://")):
        given = [name for name, value in (("planner", planner), ("adaptation", adaptation)) if value is not None]
        if given:
            raise InputError(
                f"{' and '.join(given)} cannot be given to {target!r}: a served world is opened by its server. Leave "
                "it out, or set it where the world is served."
            )
        from worldline.world.remote import RemoteWorld

        return RemoteWorld(target)
    folder = Path(target)
    if holds_bundle(folder):
        return open_world(folder, planner=planner, adaptation=adaptation)
    if isinstance(target, str) and is_reference(target):
        from worldline.catalog.versions import open_named

        return open_named(target, planner=planner, adaptation=adaptation)
    problem = "exists, but is no bundle" if folder.exists() else "does not exist"
    raise BundleError(
        f"{str(target)!r} {problem}. Give the folder of a bundle (one with a manifest.json), the URL of a served "
        "world (http://host:port), or a name in the catalogue (greenhouse@prod, greenhouse@3)."
    )


def is_reference(target: str) -> bool:
    """Whether a world of this name is looked for in the catalogue, as `greenhouse@prod` is where no folder has it."""
    return "@" in target and "/" not in target and not Path(target).exists()
