"""What a page of the browser did: its errors, the requests of the view, and its accessibility."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

GRAVE: Final = ("serious", "critical")


class ApiCall(NamedTuple):
    """A request of the view to `/v1`.

    Args:
        method: such as "POST".
        path: with the query, such as "/v1/worlds/toy:predict".
        body: decoded JSON; None without a body.
    """

    method: str
    path: str
    body: Any


@final
@dataclass(eq=False)  # playwright sets attributes of the object whose methods it calls
class Watch:
    """Records what the pages of a browser context do.

    Args:
        origin: URL of the service, the only one that pages may call.
        calls: requests to the API, in order.
        problems: errors of the console and of scripts, failed requests, and requests to other places.
        expected: patterns of problems that the test causes.
    """

    origin: str
    calls: list[ApiCall]
    problems: list[str]
    expected: list[str]

    def add_to(self, context: BrowserContext) -> None:
        """Begins."""
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.problems.append(f"script: {error.error}"))
        context.on("request", self._on_request)
        context.on("requestfailed", self._on_failed)

    def unexpected(self) -> list[str]:
        """The problems that no pattern explains."""
        return [problem for problem in self.problems if not any(re.search(text, problem) for text in self.expected)]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location['url']})")

    def _on_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if request.url.startswith(f"{self.origin}/"):
            if url.path.startswith("/v1/"):
                path = f"{url.path}?{url.query}" if url.query else url.path
                body = request.post_data_json if request.post_data else None
                self.calls.append(ApiCall(request.method, path, body))
        # A saved page may be opened, and pages may use what they contain.
        elif url.scheme not in ("data", "blob") and not (url.scheme == "file" and request.is_navigation_request()):
            self.problems.append(f"request to another place: {request.url}")

    def _on_failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by the view, or by leaving the page
            self.problems.append(f"failed request: {request.url}: {request.failure}")


WATCHES: Final = WeakKeyDictionary[BrowserContext, Watch]()


def calls(page: Page, *, verb: str = "") -> list[ApiCall]:
    """The requests to the API so far, in order.

    Args:
        page: from a fixture of `tests/studio/conftest.py`.
        verb: only those whose path, without the query, ends with it, such as ":predict".
    """
    return [call for call in WATCHES[page.context].calls if call.path.partition("?")[0].endswith(verb)]


def expect_problem(page: Page, pattern: str) -> None:
    """Allows problems that the test causes, such as the console's message about a refused request.

    Args:
        page: from a fixture of `tests/studio/conftest.py`.
        pattern: regular expression for the text of the problem.
    """
    WATCHES[page.context].expected.append(pattern)


def assert_accessible(page: Page) -> None:
    """Fails if axe-core finds a serious or critical violation in the page as it is now."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [
        f"{violation['id']} ({violation['impact']}): {violation['help']}: {node['html'][:200]}"
        for violation in found
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]
    assert not grave, "\n".join(grave)
