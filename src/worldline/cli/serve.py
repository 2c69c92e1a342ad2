"""`worldline serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from worldline.cli.options import Threads, use_threads


def serve(
    world: Annotated[str, typer.Argument(help="Anything that worldline.open takes.")],
    host: Annotated[str, typer.Option(help="Address to listen on; with 0.0.0.0 other machines can ask too.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    threads: Threads = None,
) -> None:
    """Let other processes ask a world, over HTTP."""
    from worldline.catalog.opening import open_target
    from worldline.serve import http

    use_threads(threads)
    opened = open_target(world)
    name, listener = opened.describe().name, http.listen(host, port)
    url = http.url_of(listener)
    print(f"{name} is served at {url}. Open it with worldline.open({url!r}); stop with Ctrl-C.", flush=True)
    http.serve(opened, listener)
