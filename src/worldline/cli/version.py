"""`worldline version`."""

from __future__ import annotations

from worldline.cli.output import print_next


def version() -> None:
    """Print the versions of worldline and its main dependencies."""
    from worldline.workflows.learn_result import versions

    for name, value in versions().items():
        print(f"{name} {value}")
    print_next("demo")
