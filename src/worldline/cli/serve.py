"""`worldline serve`, `studio` and `mcp`."""

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
    from worldline.schema import Schema
    from worldline.serve.database import Database
    from worldline.serve.hosting import Hosts
    from worldline.serve.logs import ServedLogs
    from worldline.serve.service import Service

Port = Annotated[int, typer.Option(min=0, max=65535)]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def serve(
    worlds: Annotated[list[str] | None, typer.Argument(metavar="WORLD...")] = None,
    host: str = "127.0.0.1",
    port: Port = 8000,
    database: Where = None,
    data: Path | None = None,
    environment: list[str] | None = None,
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
        environment: lab or Gymnasium id that callers may run; repeat for more. Default: no environments.
        insecure: allow calls from other machines without a token.
        workers: threads for short calls, and as many for long ones.
        batch: predictions that are computed as one, at most.
    """
    from worldline.serve import server
    from worldline.serve.limits import Limits
    from worldline.serve.logs import ServedLogs

    use_threads(threads)
    hosts, options = open_hosts(worlds or [], device), _web_options(environment, device)
    settings = {"limits": Limits(batch=batch), "workers": workers, "logs": ServedLogs(data)}
    with opened_service(hosts, host, database, insecure=insecure, **settings) as (service, opened):
        listener = server.listen(host, port)
        _announce(hosts, service, server.url_of(listener))
        server.serve(service, listener, opened, **options, any_host=insecure)


def studio(
    world: Annotated[str, typer.Argument(metavar="WORLD")],
    logs: Annotated[Path | None, typer.Argument(metavar="LOGS")] = None,
    other: list[str] | None = None,
    environment: list[str] | None = None,
    port: Port = 0,
    no_browser: bool = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Open a world and logs in the browser: see, drag and plan what it imagines.

    Args:
        world: a world: folder, URL or NAME@ALIAS.
        logs: a store, a folder of stores, or logs in any format that `worldline learn` reads. Default: no logs.
        other: further world, to compare with; repeat for more.
        environment: lab or Gymnasium id to drive; repeat for more. Default: no environments.
        port: port; 0 for any free port.
        no_browser: print the address only.
    """
    import threading
    import webbrowser

    from worldline.serve import server

    use_threads(threads)
    hosts, options = open_hosts([world, *(other or [])], device), _web_options(environment, device)
    signals = next(iter(hosts.values())).card.schema
    with _opened_logs(logs, signals) as data, opened_service(hosts, "localhost", None, logs=data) as (service, opened):
        listener = server.listen("127.0.0.1", port)
        url = server.url_of(listener)
        print(f"Studio: {url}. Stop with Ctrl-C.{' It asks for a token.' if service.needs_token else ''}")
        print_next("serve", world)
        if not no_browser:  # in a thread, because a browser in the terminal returns when it is closed
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.serve(service, listener, opened, **options)


def _web_options(environment: list[str] | None, device: str) -> dict[str, Any]:
    """What callers may run: these environments, and jobs."""
    from worldline.catalog.versions import default_folder
    from worldline.serve.environments import Environments
    from worldline.serve.jobs import JobSettings

    environments = Environments(environment) if environment else None
    return {"job_settings": JobSettings(folder=default_folder(), device=device), "environments": environments}


@contextmanager
def _opened_logs(logs: Path | None, signals: Schema) -> Iterator[ServedLogs]:
    """The stores at a path. Logs in other formats are imported into a temporary store, with the roles of `signals`."""
    import re
    from tempfile import TemporaryDirectory

    from worldline.cli.output import progress_bars
    from worldline.data.importing import import_logs
    from worldline.data.open_logs import open_logs
    from worldline.data.store import is_store
    from worldline.serve.logs import ServedLogs

    if logs is None or (logs.is_dir() and not is_store(logs) and any(map(is_store, logs.iterdir()))):
        yield ServedLogs(logs)
        return
    name = re.sub(r"[^A-Za-z0-9_.-]|^[.-]", "_", logs.resolve().name)[:100]
    if is_store(logs):
        yield ServedLogs(named={name: logs})
        return
    with TemporaryDirectory() as folder:
        with progress_bars() as progress:
            roles = {signal.name: signal.role for signal in open_logs(logs).schema.signals}
            known = [signal for signal in signals.signals if roles.get(signal.name, signal.role) != signal.role]
            edits = {signal.name: {"role": signal.role.value} for signal in known}
            report = import_logs(logs, Path(folder) / name, edits=edits, keep_going=True, progress=progress)
        for finding in report.findings:
            print(finding)
        yield ServedLogs(named={name: Path(folder) / name})


def open_hosts(worlds: Sequence[str], device: str) -> Hosts:
    """Opens the worlds of arguments, each `WORLD` or `NAME=WORLD`."""
    from functools import partial

    from worldline.catalog.opening import is_reference, open_target
    from worldline.serve.hosting import HostedWorld, Hosts, name_of

    open_world = partial(open_target, device=device)
    hosts = Hosts(open_world)
    for target in worlds:
        name, world = name_of(target)
        reference, folder = (world, None) if is_reference(world) else (None, Path(world))
        hosts.add(HostedWorld(name, reference, open_world(world), folder))
    return hosts


@contextmanager
def opened_service(
    hosts: Hosts, host: str, database: str | None, *, insecure: bool = False, **settings: Any
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
    print(f"Studio: {url}. Documentation: {url}/docs. Stop with Ctrl-C.")
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
            BoundedServer(app, service).run(sockets=[listener])
