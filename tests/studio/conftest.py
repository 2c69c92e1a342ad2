"""Chromium and a service of toy worlds for the tests of the studio."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.studio.toy_studio import StudioService, toy_studio
from tests.studio.watched_page import WATCHES, Watch

TIMEOUT_MS = 60_000
"""Of waiting for the page; wide, because a busy machine can be several times slower."""
SIZES = {360: 740, 900: 1_000, 1_280: 800, 1_600: 1_000}
"""Heights of windows by width, pixels."""


@pytest.fixture(scope="session")
def studio_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioService]:
    """A service of the worlds and logs `toy` and `camera`."""
    with toy_studio(tmp_path_factory.mktemp("studio")) as service:
        yield service


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window. Meanwhile this thread runs the event loop of playwright, so asyncio.run fails."""
    if (path := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("Chromium is missing. Run scripts/ci-deps.")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        # Containers often lack user namespaces, and have a small /dev/shm.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        yield playwright.chromium.launch(executable_path=path, args=flags)


@pytest.fixture(scope="module")  # not for the session, because later tests of the process may use asyncio.run
def browser() -> Iterator[Browser]:
    """Chromium for the tests of a file."""
    with chromium() as launched:
        yield launched


@pytest.fixture
def open_page(browser: Browser, studio_service: StudioService) -> Iterator[Callable[..., Page]]:
    """Opens an empty page: `open_page(width=1280, scheme="light")`. `page.goto("/")` opens the studio.

    The test fails at its end if the page logged an error, or called another address than the service.
    """
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(watched(browser, studio_service.url, **options))


@contextmanager
def watched(browser: Browser, origin: str, *, width: int = 1_280, scheme: str = "light") -> Iterator[Page]:
    """A page whose problems fail the test when the block ends."""
    watch = Watch(origin=origin, calls=[], problems=[], expected=[])
    size = {"width": width, "height": SIZES[width]}
    context = browser.new_context(base_url=origin, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    WATCHES[context] = watch
    context.set_default_timeout(TIMEOUT_MS)
    watch.add_to(context)
    try:
        yield context.new_page()
    finally:
        context.close()
    assert not watch.unexpected()


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """An empty page of 1,280 by 800 pixels in light colours."""
    return open_page()


@pytest.fixture(
    params=[
        (1_280, "light"),
        *(
            pytest.param((width, scheme), marks=pytest.mark.slow)
            for width in (360, 900, 1_600)
            for scheme in ("light", "dark")
        ),
    ],
    ids=lambda size: f"{size[0]}-{size[1]}",
)
def sized_page(request: pytest.FixtureRequest, open_page: Callable[..., Page]) -> Page:
    """As `page`; `make soak` repeats the test with other widths and with dark colours."""
    width, scheme = request.param
    return open_page(width=width, scheme=scheme)
