"""JSON over HTTP: the only module of the language engine that imports httpx."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from worldline.errors import MissingExtraError, UnavailableError


@dataclass(frozen=True, kw_only=True)
class Response:
    """The response of a server.

    Args:
        status: the HTTP status.
        text: the body.
        retry_after_s: seconds to wait that the server requests; None if it requests none.
    """

    status: int
    text: str
    retry_after_s: float | None


@final
class Poster:
    """Posts to one URL. Thread-safe; keeps its connections open and does not follow redirects.

    Args:
        url: of the endpoint.
        timeout_s: seconds without data after which a request fails.
        num_connections: largest number at a time.
        direct: whether to ignore proxies from the environment.

    Raises:
        MissingExtraError: httpx is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float, num_connections: int, direct: bool) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("httpx", "client") from error
        self.url = url
        limits = httpx.Limits(max_connections=num_connections, max_keepalive_connections=num_connections)
        self._client = httpx.Client(timeout=timeout_s, limits=limits, trust_env=not direct)
        weakref.finalize(self, self._client.close)

    def post(self, body: Mapping[str, Any], *, key: str | None) -> Response:
        """The server's response to `body`.

        Args:
            body: plain JSON values.
            key: sent as a bearer token; None for none.

        Raises:
            UnavailableError: no response in time, or one that cannot be decoded.
        """
        import httpx  # installed: the constructor imported it

        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            response = self._client.post(self.url, json=body, headers=headers)
        except httpx.RequestError as error:
            raise UnavailableError(f"{type(error).__name__}: {str(error) or 'no answer in time'}") from error
        return Response(
            status=response.status_code,
            text=response.text,
            retry_after_s=_seconds(response.headers.get("Retry-After", "")),
        )


def _seconds(text: str) -> float | None:
    """The number in `text`, at least 0; None for other text, such as a date."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
