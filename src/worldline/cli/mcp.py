"""`worldline mcp`."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Device, Threads, use_threads
from worldline.cli.output import print_next
from worldline.cli.serve import LOOPBACK, Port, open_hosts, opened_service
from worldline.cli.token import Where

if TYPE_CHECKING:
    from worldline.serve.hosting import Hosts


def mcp(
    worlds: Annotated[list[str], typer.Argument(metavar="WORLD...")],
    http: bool = False,
    host: str = "127.0.0.1",
    port: Port = 8001,
    allow_host: list[str] | None = None,
    database: Where = None,
    insecure: bool = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve worlds as tools of a language model (MCP).

    Args:
        worlds: worlds: folders, URLs or NAME@ALIAS. NAME=WORLD chooses the name.
        http: serve streamable HTTP instead of stdio.
        host: address to listen on; 0.0.0.0 allows access from other machines.
        port: port; 0 for any free port.
        allow_host: name of this host in URLs of clients, such as worlds.example.com.
        insecure: allow calls from other machines without a token.
    """
    use_threads(threads)
    hosts = open_hosts(worlds, device)
    if http:
        _serve_http(hosts, host, port, allow_host or [], database, insecure=insecure)
    else:
        _serve_stdio(hosts)


def _serve_stdio(hosts: Hosts) -> None:
    import anyio

    from worldline.serve.mcp_server import create_server
    from worldline.serve.service import Service

    service = Service(hosts)
    print(f"{', '.join(hosts)}: MCP over stdio. Stop with Ctrl-C.", file=sys.stderr)  # stdout carries the protocol
    with suppress(KeyboardInterrupt):
        anyio.run(create_server(service).run_stdio_async)
    service.close()


def _serve_http(hosts: Hosts, host: str, port: int, names: list[str], database: str | None, *, insecure: bool) -> None:
    from worldline.serve import server
    from worldline.serve.connections import BoundedServer
    from worldline.serve.mcp_server import http_app

    with opened_service(hosts, host, database, insecure=insecure) as (service, _):
        listener = server.listen(host, port)
        url = server.url_of(listener)
        needed = "need a token" if service.needs_token else "need no token, because none was created"
        print(f"{', '.join(hosts)}: MCP at {url}/mcp. Callers {needed}. Stop with Ctrl-C.")
        print_next("token", "list")
        app = http_app(service, url=url, names=[*LOOPBACK, "[::1]", host, *names])
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean shutdown
            BoundedServer(app, service.limits).run(sockets=[listener])
