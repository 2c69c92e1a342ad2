"""The studio: its page and its files."""

from __future__ import annotations

import hashlib
from typing import Final

from fastapi import APIRouter, Request, Response

from worldline.report.page import page_policy
from worldline.serve.problems import NotFoundError
from worldline.studio.pages import files, hash_of, import_map, index, saved_page

_POLICY: Final = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = "index.html"
_FILE: Final = "file.html"
"""A page without content, which the browser completes to save a view."""
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
"""Per ending of a name the content type; others are plain text."""


def studio_router() -> APIRouter:
    """The routes of the studio. They need no token, because they are the same for all services."""
    router = APIRouter(include_in_schema=False)
    table = {**files(), _PAGE: index().encode(), _FILE: saved_page("worldline", None).encode()}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in table.items()}
    # The script of reports may run too, because a frame with a report inherits this policy.
    policy = _POLICY.format(scripts=f"{hash_of(import_map())} {page_policy().rpartition(' ')[2]}")

    @router.get("/")
    async def get_studio(request: Request) -> Response:
        """The page of the studio."""
        return await get_file(_PAGE, request)

    @router.get("/studio/{file:path}")
    async def get_file(file: str, request: Request) -> Response:
        """A file of the studio. Names are looked up in a table, so no path leads out of it."""
        if file not in table:
            raise NotFoundError("file", file)
        # The browser asks each time whether a file has changed, so that an upgrade never mixes versions.
        headers = {"etag": tags[file], "cache-control": "no-cache", "content-security-policy": policy}
        if tags[file] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(table[file], headers=headers, media_type=_TYPES.get(file.rpartition(".")[2], "text/plain"))

    return router
