"""`.dockerignore`: the image is built from what the package needs, and from nothing else of the folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_build_reads_the_package_only() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = stated["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = ["pyproject.toml", stated["project"]["readme"], *stated["project"]["license-files"], *packages]
    assert rules[0] == "*"
    assert kept == {Path(file).parts[0] for file in files}
    assert rules[-1] == "**/__pycache__"  # the last rule that fits decides
