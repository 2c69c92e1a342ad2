"""The fixtures of the browser tests find what a page does wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.studio.conftest import watched
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import ApiCall, assert_accessible, calls, expect_problem

VENDOR = Path(__file__).parents[2] / "src" / "worldline" / "studio" / "vendor"


def test_opens_the_service(sized_page: Page) -> None:
    sized_page.goto("/")
    expect(sized_page.get_by_role("heading").first).to_be_visible()


def test_lists_calls_with_their_bodies(page: Page) -> None:
    page.goto("/healthz")
    page.evaluate("fetch('/v1/worlds?a=1').then(() => fetch('/v1/worlds/toy:predict', {method: 'POST', body: '{}'}))")
    expect_problem(page, "status of 4")
    assert calls(page) == [ApiCall("GET", "/v1/worlds?a=1", None), ApiCall("POST", "/v1/worlds/toy:predict", {})]
    assert calls(page, verb=":predict") == calls(page)[1:]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("console.error('a broken view')", "console: a broken view"),
        ("setTimeout(() => { throw new Error('a broken script') })", "a broken script"),
        ("fetch('/no/such/path')", "status of 404"),
        ("fetch('http://127.0.0.2:9/').catch(() => 0)", "request to another place: http://127.0.0.2:9/"),
    ],
)
def test_a_problem_fails_the_test(browser: Browser, studio_service: StudioService, script: str, problem: str) -> None:
    def visit() -> None:
        with watched(browser, studio_service.url) as page:
            page.goto("/healthz")
            with page.expect_event("pageerror" if "throw" in script else "console"):
                page.evaluate(script)

    with pytest.raises(AssertionError, match=problem):
        visit()


def test_finds_inaccessible_parts(page: Page) -> None:
    page.set_content("<html lang=en><title>t</title><main><h1>Name</h1><input></main>")
    with pytest.raises(AssertionError, match="label"):
        assert_accessible(page)


def test_vendored_files_are_small_and_licensed() -> None:
    assert sum(file.stat().st_size for file in VENDOR.iterdir()) < 300_000
    names = {file.name for file in VENDOR.iterdir()}
    assert {"preact.LICENSE", "htm.LICENSE", "signals-core.LICENSE"} < names
    assert not any("sourceMappingURL" in file.read_text("utf-8") for file in VENDOR.glob("*js"))
