"""Lazy import of the public names of a package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path


def lazy_names(package: str) -> Callable[[str], object]:
    """The `__getattr__` of a package that imports public names from its modules on first use, and has its `__all__`.

    Args:
        package: `__name__` of the package. The names are the imports under `if TYPE_CHECKING:` in its `__init__.py`.
    """

    @cache
    def homes() -> dict[str, tuple[str, str]]:
        return _type_checking_imports(package)

    def get(name: str) -> object:
        home_of = homes()
        if name == "__all__":
            return sorted(home_of, key=lambda public: (not public.isupper(), public))
        if name not in home_of:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}. Public names: {', '.join(sorted(home_of))}."
            )
        module, attribute = home_of[name]
        value = getattr(import_module(module), attribute)
        setattr(sys.modules[package], name, value)
        return value

    return get


def _type_checking_imports(package: str) -> dict[str, tuple[str, str]]:
    """Module and original name of each name that the package imports for type checkers."""
    tree = ast.parse(Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8"))
    blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
    imports = [node for body in blocks for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in imports for alias in node.names}
