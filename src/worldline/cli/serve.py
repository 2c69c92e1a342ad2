"""`worldline serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from worldline.cli.options import Device, RequireSignature, Threads, use_threads
from worldline.cli.output import print_next


def serve(
    world: Annotated[str, typer.Argument(help="A world: folder, URL or name, as for worldline.open.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 allows access from other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free port.")] = 8000,
    device: Device = "auto",
    require_signature: RequireSignature = None,
    threads: Threads = None,
) -> None:
    """Serve a world over HTTP."""
    from worldline.catalog.opening import open_target
    from worldline.serve import http

    use_threads(threads)
    opened = open_target(world, device=device, require_signature=require_signature)
    name, listener = opened.describe().name, http.listen(host, port)
    url = http.url_of(listener)
    print(f"{name} is served at {url}. Open it with worldline.open({url!r}). Stop with Ctrl-C.")
    print_next("audit", url, "LOGS")
    http.serve(opened, listener)
