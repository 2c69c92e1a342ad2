"""`worldline version`."""

from __future__ import annotations


def version() -> None:
    """Print the version of worldline and of what it computes with."""
    from worldline.workflows.manifest import versions

    for name, value in versions().items():
        print(f"{name} {value}")
