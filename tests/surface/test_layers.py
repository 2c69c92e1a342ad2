"""The import linter keeps the house in order, and notices when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(project: Path) -> subprocess.CompletedProcess[str]:
    """Runs the import linter on the project in this folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    # Wide, so that no line of the report is wrapped.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(project / part) for part in ("src", "exam/src")),
        "COLUMNS": "300",
    }
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources and of the linter's settings, to plant faults in."""
    for part in ("src/worldline", "exam/src/worldline_exam"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("_*cache*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def append(path: Path, line: str) -> None:
    """Adds one line to the end of a file."""
    path.write_text(f"{path.read_text()}\n{line}\n")


def test_the_tree_follows_the_order(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


def test_a_folder_that_is_not_listed_fails(copy: Path) -> None:
    (copy / "src" / "worldline" / "attic").mkdir()
    (copy / "src" / "worldline" / "attic" / "__init__.py").touch()
    done = lint(copy)
    assert done.returncode != 0
    assert "attic" in done.stdout


@pytest.mark.parametrize(
    ("importer", "imported", "form"),
    [
        ("errors.py", "worldline.config", "import {}"),  # upward
        ("schema.py", "worldline.bundle", "def late() -> None:\n    import {}"),  # upward, across rooms
        ("planning/planners/cem.py", "worldline.models.jepa", "import {}"),  # sibling
    ],
)
def test_an_import_against_the_order_fails(copy: Path, importer: str, imported: str, form: str) -> None:
    append(copy / "src" / "worldline" / importer, form.format(imported))
    done = lint(copy)
    assert done.returncode != 0
    assert f"worldline.{importer.removesuffix('.py').replace('/', '.')} -> {imported}" in done.stdout


@pytest.mark.parametrize("private", ["worldline.audit.scoring"])
def test_an_import_of_a_private_module_by_the_exam_fails(copy: Path, private: str) -> None:
    append(copy / "exam" / "src" / "worldline_exam" / "base.py", f"import {private}")
    done = lint(copy)
    assert done.returncode != 0
    assert f"worldline_exam.base -> {private}" in done.stdout
