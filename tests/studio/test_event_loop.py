"""A file of its own, because here no fixture may have started the browser."""

from __future__ import annotations

import asyncio

from tests.studio.conftest import chromium


def test_event_loops_run_after_the_browser() -> None:
    with chromium() as browser:
        browser.new_page().close()
    assert asyncio.run(asyncio.sleep(0, "done")) == "done"
