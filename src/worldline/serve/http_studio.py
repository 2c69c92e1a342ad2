"""The studio: its page and its files."""

from __future__ import annotations

import hashlib
from typing import Final

from fastapi import APIRouter, Request, Response

from worldline.serve.problems import NotFoundError
from worldline.studio.pages import files, hash_of, import_map, index, report_hash, saved_page

_POLICY: Final = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SCRIPT: Final = "text/javascript; charset=utf-8"
_TYPES: Final = {"html": "text/html; charset=utf-8", "js": _SCRIPT, "mjs": _SCRIPT, "css": "text/css; charset=utf-8"}
"""Per ending of a name the content type; others are plain text."""


def studio_router() -> APIRouter:
    """The routes of the studio. They need no token, because they are the same for all services."""
    router = APIRouter(include_in_schema=False)
    # The file is a page without content, which the browser completes to save a view.
    table = {**files(), "index.html": index().encode(), "file.html": saved_page("worldline", None).encode()}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in table.items()}
    policy = _POLICY.format(scripts=f"{hash_of(import_map())} {report_hash()}")

    @router.get("/")
    async def get_studio(request: Request) -> Response:
        """The page of the studio."""
        return await get_file("index.html", request)

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
