"""`worldline serve` and `mcp`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Device, Threads, use_threads
from worldline.cli.output import print_next
from worldline.cli.token import Where, opened_tokens
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.serve.database import Database
    from worldline.serve.hosting import Hosts
    from worldline.serve.service import Service

Port = Annotated[int, typer.Option(min=0, max=65535)]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def serve(
    worlds: Annotated[list[str] | None, typer.Argument(metavar="WORLD...")] = None,
    host: str = "127.0.0.1",
    port: Port = 8000,
    database: Where = None,
    data: Path | None = None,
    insecure: bool = False,
    workers: Annotated[int, typer.Option(min=1, max=64)] = 1,
    batch: Annotated[int, typer.Option(min=1, max=4096)] = 32,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve worlds over HTTP.

    Args:
        worlds: worlds: folders or NAME@ALIAS, as for worldline.open. NAME=WORLD chooses the name in the URL. Default:
            those that an administrator added.
        host: address to listen on; 0.0.0.0 allows access from other machines.
        port: port; 0 for any free port.
        data: folder with the logs that callers may name in jobs. Default: no logs.
        insecure: allow calls from other machines without a token.
        workers: threads for short calls, for long ones, and for control loops of each token.
        batch: predictions that are computed as one, at most.
    """
    from worldline.catalog.opening import is_reference
    from worldline.catalog.versions import default_folder
    from worldline.serve import server
    from worldline.serve.hosting import name_of
    from worldline.serve.jobs import JobSettings
    from worldline.serve.limits import Limits
    from worldline.serve.logs import ServedLogs

    use_threads(threads)
    hosts = open_hosts(worlds or [], device)
    settings = {"limits": Limits(batch=batch), "workers": workers, "logs": ServedLogs(data)}
    with opened_service(hosts, host, database, insecure=insecure, **settings) as (service, opened):
        folders = {name: Path(world) for name, world in map(name_of, worlds or []) if not is_reference(world)}
        job_settings = JobSettings(folder=default_folder(), worlds=folders, device=device)
        listener = server.listen(host, port)
        _announce(hosts, service, server.url_of(listener))
        server.serve(service, listener, opened, job_settings=job_settings, any_host=insecure)


def open_hosts(worlds: Sequence[str], device: str) -> Hosts:
    """Opens the worlds of arguments, each `WORLD` or `NAME=WORLD`."""
    from functools import partial

    from worldline.catalog.opening import is_reference, open_target
    from worldline.serve.hosting import HostedWorld, Hosts, name_of

    open_world = partial(open_target, device=device)
    hosts = Hosts(open_world)
    for target in worlds:
        name, world = name_of(target)
        hosts.add(HostedWorld(name, world if is_reference(world) else None, open_world(world)))
    return hosts


@contextmanager
def opened_service(
    hosts: Hosts, host: str, database: str | None, *, insecure: bool, **settings: Any
) -> Iterator[tuple[Service, Database]]:
    """The service with the tokens and the usage of a database, and this database.

    Raises:
        InputError: other machines could call the service without a token.
    """
    from worldline.serve.service import Service
    from worldline.serve.usage import Usage

    with opened_tokens(database) as (tokens, opened):
        if host not in LOOPBACK and not insecure and not tokens.any():
            raise InputError(
                f"other machines could call a service on {host} without a token. Create one with: worldline token "
                "create NAME --scope infer. Or allow it with --insecure."
            )
        yield Service(hosts, tokens=tokens, usage=Usage(opened), **settings), opened


def _announce(hosts: Hosts, service: Service, url: str) -> None:
    """Prints what is served where, and who may call it."""
    for name, hosted in hosts.items():
        version = "" if hosted.version is None else f", version {hosted.version}"
        print(f"{name} ({hosted.card.name}{version}): {url}/v1/worlds/{name}")
    print(f"Documentation: {url}/docs. Stop with Ctrl-C.")
    print("Callers need a token." if service.needs_token else "Callers need no token, because none was created.")
    if len(hosts):
        print_next("audit", f"{url}/v1/worlds/{next(iter(hosts))}", "LOGS")


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
