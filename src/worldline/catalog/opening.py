"""Opens a world from a folder, a URL or a name in the catalog."""

from __future__ import annotations

from pathlib import Path

from worldline.bundle import holds_bundle
from worldline.engines.learned import Adaptation
from worldline.errors import BundleError, InputError
from worldline.planning.planners.base import Planner
from worldline.world.base import World
from worldline.world.bundle_io import open_world


def open_target(
    target: Path | str,
    *,
    planner: Planner | str | None = None,
    adaptation: Adaptation | None = None,
    device: str = "auto",
    token: str | None = None,
) -> World:
    """Opens the world that `target` names.

    Args:
        target: one of three. A bundle folder, such as "worlds/greenhouse". The URL of a served world, such as
            "https://example.com/v1/worlds/greenhouse"; "http://127.0.0.1:8000" suffices if the service serves one
            world. A world in the catalog by alias or version, such as "greenhouse@prod" or "greenhouse@3". An existing
            folder of that name takes precedence.
        planner: a planner, or the registered name of one; None for the world's own.
        adaptation: how a learned world adapts to the histories that it gets; None for no adaptation. See
            `worldline.world.bundle_io.open_world`.
        device: of a learned world: "cpu", "cuda", "cuda:1" (a number), "mps", or "auto" for the first of cuda, mps and
            cpu that is available.
        token: of the service at a URL; None for the one that the user stored for it, as in
            `worldline.world.RemoteWorld`. Not used for other targets.

    Raises:
        BundleError: there is no such bundle, it is damaged, or its parts do not fit each other.
        InputError: `planner`, `adaptation` or `device` is set for a URL, because a served world has its own. Or the
            device is unknown or not available. Or the token would be sent unencrypted to another machine.
        UnknownNameError: the catalog has no such name or alias, or the world needs a part that is not installed.
        MissingExtraError: `target` is a URL, and the extra `client` is not installed.
    """
    if isinstance(target, str) and target.lower().startswith(("http://", "https://")):
        chosen = {"planner": planner, "adaptation": adaptation, "device": None if device == "auto" else device}
        if names := [name for name, value in chosen.items() if value is not None]:
            raise InputError(
                f"{' and '.join(names)} cannot be given for a URL, because its server opens the world. Remove it, or "
                "set it on the server."
            )
        from worldline.world.remote import RemoteWorld

        return RemoteWorld(target, token=token)
    folder = Path(target)
    if holds_bundle(folder):
        return open_world(folder, planner=planner, adaptation=adaptation, device=device)
    if isinstance(target, str) and is_reference(target):
        from worldline.catalog.versions import open_named

        return open_named(target, planner=planner, adaptation=adaptation, device=device)
    problem = "exists, but is not a bundle" if folder.exists() else "does not exist"
    raise BundleError(
        f"{str(target)!r} {problem}. Give the folder of a bundle (one with a manifest.json), the URL of a served "
        "world (http://host:port), or a name in the catalog (greenhouse@prod, greenhouse@3)."
    )


def is_reference(target: str) -> bool:
    """Whether `target` is a name in the catalog: it has the form `greenhouse@prod` and is not an existing path."""
    return "@" in target and "/" not in target and not Path(target).exists()
