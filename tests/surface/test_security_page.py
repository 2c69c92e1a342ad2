"""`docs/security.md`: every promise names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_has_a_test() -> None:
    rows = re.findall(r"^\| (?!promise|---)(.+) \| (.+) \|$", (ROOT / "docs" / "security.md").read_text(), re.M)
    assert len(rows) > 10
    for promise, named in rows:
        file, *names = re.findall(r"`([^`]+)`", named)
        assert names, promise
        code = (ROOT / file).read_text(encoding="utf-8")
        for name in names:
            if name.endswith(".py"):
                code = (ROOT / name).read_text(encoding="utf-8")
            else:
                assert f"def {name}(" in code, f"{promise}: {name}"
