"""`worldline login`."""

from __future__ import annotations

import getpass
import sys

from worldline.cli.output import print_next
from worldline.errors import InputError


def login(url: str, remove: bool = False) -> None:
    """Store the token of a service. It is sent to this service only.

    The token is asked for, or read from standard input.

    Args:
        url: of the service or of one of its worlds, such as https://worlds.example.com.
        remove: remove the stored token instead.
    """
    from worldline.engines.language.endpoint import origin_of
    from worldline.world.logins import login_file, store_token
    from worldline.world.remote import RemoteWorld

    origin = origin_of(url, "the URL")
    if remove:
        store_token(origin, "")
        print(f"{origin}: no token is stored")
        return
    token = (getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not token:
        raise InputError("no token was given. Paste the one that `worldline token create` printed.")
    with RemoteWorld(url, token=token) as remote:
        remote.check_token()
    store_token(origin, token)
    print(f"{origin}: the token is stored in {login_file()}")
    print_next("audit", url, "LOGS")
