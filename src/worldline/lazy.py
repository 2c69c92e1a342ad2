"""Lazy import of the public names of a package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package that imports public names from its modules on first use.

    Args:
        package: `__name__` of the package.
        homes: per module the public names that it defines; "name as other" for a name that is public as `other`.
    """
    found = [(module, *name.split(" as ")) for module, names in homes.items() for name in names]
    home_of = {name[-1]: (module, name[0]) for module, *name in found}

    def get(name: str) -> object:
        if name not in home_of:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}. Public names: {', '.join(sorted(home_of))}."
            )
        module, attribute = home_of[name]
        value = getattr(import_module(module), attribute)
        setattr(sys.modules[package], name, value)
        return value

    return get
