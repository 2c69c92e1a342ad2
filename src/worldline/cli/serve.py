"""`worldline serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Device, Threads, use_threads
from worldline.cli.output import print_next
from worldline.cli.token import Where
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.serve.hosting import Hosts
    from worldline.serve.service import Service
    from worldline.serve.tokens import Tokens

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
    from worldline.serve.database import Database, default_url
    from worldline.serve.hosting import name_of
    from worldline.serve.jobs import JobSettings
    from worldline.serve.limits import Limits
    from worldline.serve.service import Service
    from worldline.serve.tokens import Tokens
    from worldline.serve.usage import Usage

    use_threads(threads)
    hosts = open_hosts(worlds or [], device)
    with Database(database or default_url()) as opened:
        tokens = Tokens(opened)
        check_reachable(host, tokens, insecure=insecure)
        service = Service(hosts, Limits(batch=batch), tokens=tokens, usage=Usage(opened), workers=workers)
        folders = {name: Path(world) for name, world in map(name_of, worlds or []) if not is_reference(world)}
        job_settings = JobSettings(folder=default_folder(), logs=data, worlds=folders, device=device)
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


def check_reachable(host: str, tokens: Tokens, *, insecure: bool) -> None:
    """Refuses a service that other machines could call without a token.

    Raises:
        InputError: there is no token, and the host is not this machine.
    """
    if host not in LOOPBACK and not insecure and not tokens.any():
        raise InputError(
            f"other machines could call a service on {host} without a token. Create one with: worldline token "
            "create NAME --scope infer. Or allow it with --insecure."
        )


def _announce(hosts: Hosts, service: Service, url: str) -> None:
    """Prints what is served where, and who may call it."""
    for name, hosted in hosts.items():
        version = "" if hosted.version is None else f", version {hosted.version}"
        print(f"{name} ({hosted.card.name}{version}): {url}/v1/worlds/{name}")
    print(f"Documentation: {url}/docs. Stop with Ctrl-C.")
    if service.needs_token:
        print("Callers need a token.")
    else:
        print("Callers need no token, because none was created.")
    if len(hosts):
        print_next("audit", f"{url}/v1/worlds/{next(iter(hosts))}", "LOGS")
