"""The public packages: their page lists them, their names exist, and the exam imports nothing else."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest
from tests.surface.api_page import PAGE, PUBLIC, page

EXAM = sorted((Path(__file__).parents[2] / "exam" / "src").rglob("*.py"))


def imports(path: Path) -> set[tuple[str, str]]:
    """Module and name of each import from worldline in a file, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "worldline":
            found |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(a.name, "") for a in node.names if a.name.partition(".")[0] == "worldline"}
    return found


def test_the_page_lists_the_public_packages() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_exist(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        assert value is not None, name
        assert getattr(module, name) is value
        assert name in dir(module)


@pytest.mark.parametrize(("package", "known"), [("worldline", "World"), ("worldline.engines", "Engine")])
def test_an_unknown_name_is_refused_with_the_known_ones(package: str, known: str) -> None:
    module, name = import_module(package), "Nothing"
    with pytest.raises(AttributeError, match=rf"no attribute 'Nothing'.*Public names: .*{known}"):
        getattr(module, name)


def test_the_exam_imports_public_names_only() -> None:
    found = {one for path in EXAM for one in imports(path)}
    assert len(found) > 100
    private = {
        (module, name)
        for module, name in found
        if module not in PUBLIC or (name and name not in import_module(module).__all__)
    }
    assert private == set()
