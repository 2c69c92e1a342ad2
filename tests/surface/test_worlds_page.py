"""The page of what each world can do is what they answer."""

from __future__ import annotations

import pytest
from tests.surface.worlds_shown import PAGE, SHOWN, page

from worldline.registry import names


def test_the_page_is_what_the_worlds_say() -> None:
    pytest.importorskip("transformers")  # the family 'features' needs an encoder
    assert PAGE.read_text() == page(), "run `python -m tests.surface.worlds_shown`"


def test_every_family_and_engine_is_on_the_page() -> None:
    shown = " ".join(SHOWN)
    for name in {*names("model"), *names("engine")} - {"learned"}:
        assert f"`{name}`" in shown
